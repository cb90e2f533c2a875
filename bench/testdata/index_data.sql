-- A partitioned audit log of 24 months and a shop beside it; psql needs -v rows=N. Nothing depends on the time of the run.
CREATE SCHEMA audit;
CREATE TABLE audit.audit_log (
  id bigint GENERATED ALWAYS AS IDENTITY, ts timestamptz NOT NULL, org_id integer NOT NULL, actor_id integer NOT NULL, actor_email text NOT NULL,
  action varchar(40) NOT NULL, status text NOT NULL, resource_type text NOT NULL, resource_id text NOT NULL, ip inet, session_id uuid NOT NULL,
  correlation_id text, latency_ms integer NOT NULL, severity smallint NOT NULL, archived_at timestamptz, reviewed boolean NOT NULL, details jsonb NOT NULL,
  PRIMARY KEY (ts, id)
) PARTITION BY RANGE (ts);
DO $$ BEGIN
  FOR m IN 0..23 LOOP
    EXECUTE format('CREATE TABLE audit.audit_log_%s PARTITION OF audit.audit_log FOR VALUES FROM (%L) TO (%L)', to_char('2023-01-01'::date + make_interval(months => m), 'YYYY_MM'),
      ('2023-01-01'::date + make_interval(months => m))::text || '+00', ('2023-01-01'::date + make_interval(months => m + 1))::text || '+00');
  END LOOP;
END $$;
SELECT setseed(0.42);
INSERT INTO audit.audit_log (ts, org_id, actor_id, actor_email, action, status, resource_type, resource_id, ip, session_id, correlation_id, latency_ms, severity, archived_at, reviewed, details)
SELECT '2023-01-01 00:00:00+00'::timestamptz + n * (interval '730 days' / :rows), org, actor, 'User' || actor || '@Example' || org || '.com',
  (ARRAY['login','logout','read','list','create','update','delete','export','grant','revoke','rotate','download'])[1 + floor(12 * power(random(), 2.5))::int],
  CASE WHEN r < 0.93 THEN 'success' WHEN r < 0.98 THEN 'failed' WHEN r < 0.995 THEN 'denied' ELSE 'error' END,
  (ARRAY['document','user','bucket','key','policy','session','invoice','report'])[1 + floor(8 * power(random(), 1.5))::int], 'res-' || floor(50000 * power(random(), 2))::int,
  ('10.' || n % 256 || '.' || (n / 256) % 256 || '.' || floor(random() * 254)::int)::inet, md5((n / 9)::text)::uuid, CASE WHEN random() < 0.6 THEN 'corr-' || md5((n / 3)::text) END,
  floor(5 + 2000 * power(random(), 6))::int, floor(5 * power(random(), 4))::int, CASE WHEN n < :rows * 0.02 THEN NULL WHEN random() < 0.03 THEN NULL ELSE '2025-01-01'::timestamptz END, random() < 0.985,
  jsonb_build_object('request_id', md5(n::text), 'region', (ARRAY['eu-west-1','us-east-1','ap-south-1','sa-east-1'])[1 + floor(4 * power(random(), 2))::int], 'user_agent', 'agent/' || floor(random() * 60)::int,
    'amount', floor(random() * 100000)::int, 'tags', CASE WHEN random() < 0.01 THEN '{"pii": true}'::jsonb ELSE '{"batch": 1}'::jsonb END, 'file', 'report-' || floor(random() * 30000)::int || '.pdf')
FROM (SELECT n, random() AS r, 1 + floor(300 * power(random(), 3))::int AS org, 1 + floor(20000 * power(random(), 2))::int AS actor FROM generate_series(1, :rows - 1) n) g;

CREATE SCHEMA shop;
CREATE TABLE shop.nation (nation_id integer PRIMARY KEY, name text NOT NULL, region text NOT NULL);
INSERT INTO shop.nation SELECT n, 'NATION ' || n, (ARRAY['EUROPE','ASIA','AFRICA','AMERICA','OCEANIA'])[1 + n % 5] FROM generate_series(1, 25) n;
CREATE TABLE shop.customer (customer_id integer PRIMARY KEY, name text NOT NULL, email text NOT NULL, phone text NOT NULL, nation_id integer NOT NULL REFERENCES shop.nation, segment text NOT NULL, balance numeric(12,2) NOT NULL, vip boolean NOT NULL, comment text NOT NULL);
INSERT INTO shop.customer SELECT n, 'Customer ' || md5(n::text), 'Person.' || n || '@Mail' || n % 40 || '.org', 10 + n % 25 || '-' || 100 + n % 900 || '-' || n, 1 + floor(random() * 25)::int, (ARRAY['BUILDING','AUTOMOBILE','MACHINERY','HOUSEHOLD','FURNITURE'])[1 + floor(random() * 5)::int],
  (random() * 11000 - 1000)::numeric(12,2), random() < 0.01, repeat(md5(n::text), 3) FROM generate_series(1, 30000) n;
CREATE TABLE shop.supplier (supplier_id integer PRIMARY KEY, name text NOT NULL, nation_id integer NOT NULL, balance numeric(12,2) NOT NULL);
INSERT INTO shop.supplier SELECT n, 'Supplier ' || n, 1 + floor(random() * 25)::int, (random() * 11000 - 1000)::numeric(12,2) FROM generate_series(1, 2000) n;
CREATE TABLE shop.part (part_id integer PRIMARY KEY, name text NOT NULL, brand text NOT NULL, type text NOT NULL, size integer NOT NULL, container text NOT NULL, price numeric(12,2) NOT NULL);
INSERT INTO shop.part SELECT n, (ARRAY['almond','antique','azure','beige','bisque','black','blush','brown','coral','cream'])[1 + n % 10] || ' ' || md5(n::text), 'Brand#' || 11 + n % 45, 'TYPE ' || floor(random() * 150)::int, 1 + floor(random() * 50)::int,
  'BOX ' || floor(random() * 40)::int, (900 + random() * 1100)::numeric(12,2) FROM generate_series(1, 40000) n;
CREATE TABLE shop.orders (order_id integer PRIMARY KEY, customer_id integer NOT NULL, status char(1) NOT NULL, total numeric(12,2) NOT NULL, ordered date NOT NULL, priority text NOT NULL, clerk text NOT NULL, comment text NOT NULL);
INSERT INTO shop.orders SELECT n, 1 + floor(30000 * power(random(), 1.3))::int, CASE WHEN r < 0.49 THEN 'F' WHEN r < 0.98 THEN 'O' ELSE 'P' END, (1000 + random() * 400000)::numeric(12,2), '2018-01-01'::date + floor(random() * 2400)::int, (ARRAY['1-URGENT','2-HIGH','3-MEDIUM','4-NOT','5-LOW'])[1 + floor(random() * 5)::int],
  'Clerk#' || floor(random() * 1000)::int, repeat(md5(n::text), 2) FROM (SELECT n, random() AS r FROM generate_series(1, 200000) n) g;
CREATE TABLE shop.lineitem (order_id integer NOT NULL, line integer NOT NULL, part_id integer NOT NULL, supplier_id integer NOT NULL, quantity numeric(12,2) NOT NULL, price numeric(12,2) NOT NULL, discount numeric(4,2) NOT NULL, shipped date NOT NULL, received date, mode text NOT NULL, returned char(1) NOT NULL, comment text NOT NULL, PRIMARY KEY (order_id, line));
INSERT INTO shop.lineitem SELECT o.order_id, l, 1 + floor(random() * 40000)::int, 1 + floor(random() * 2000)::int, 1 + floor(random() * 50)::int, (900 + random() * 90000)::numeric(12,2), (floor(random() * 11) / 100)::numeric(4,2), o.ordered + floor(random() * 120)::int,
  CASE WHEN random() < 0.97 THEN o.ordered + 30 + floor(random() * 120)::int END, (ARRAY['AIR','MAIL','RAIL','SHIP','TRUCK','FOB','REG AIR'])[1 + floor(random() * 7)::int], (ARRAY['N','N','A','R'])[1 + floor(random() * 4)::int], md5((o.order_id * 7 + l)::text) FROM shop.orders o, generate_series(1, 4) l;
