-- The access log of a SaaS in 12 months, and its users and orders, which are not partitioned; psql needs -v rows=N. Nothing depends on the time of the run.
CREATE SCHEMA saas;
CREATE TABLE saas.access_log (
  id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, tenant_id integer NOT NULL, user_id integer NOT NULL, method text NOT NULL, path text NOT NULL, status smallint NOT NULL,
  bytes integer NOT NULL, duration_ms integer NOT NULL, country char(2) NOT NULL, client_ip inet NOT NULL, trace_id text NOT NULL, api_key text, error text, meta jsonb NOT NULL, PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
DO $$ BEGIN
  FOR m IN 0..11 LOOP
    EXECUTE format('CREATE TABLE saas.access_log_%s PARTITION OF saas.access_log FOR VALUES FROM (%L) TO (%L)', to_char('2025-01-01'::date + make_interval(months => m), 'YYYY_MM'),
      ('2025-01-01'::date + make_interval(months => m))::text || '+00', ('2025-01-01'::date + make_interval(months => m + 1))::text || '+00');
  END LOOP;
END $$;
SELECT setseed(0.17);
INSERT INTO saas.access_log (at, tenant_id, user_id, method, path, status, bytes, duration_ms, country, client_ip, trace_id, api_key, error, meta)
SELECT '2025-01-01 00:00:00+00'::timestamptz + n * (interval '364 days' / :rows), tenant, usr, (ARRAY['GET','GET','GET','GET','GET','GET','POST','POST','PUT','DELETE'])[1 + floor(random() * 10)::int],
  '/api/v' || 1 + n % 3 || (ARRAY['/invoices/','/users/','/export/','/reports/','/files/'])[1 + floor(random() * 5)::int] || floor(random() * 20000)::int,
  CASE WHEN r < 0.9 THEN 200 WHEN r < 0.96 THEN 404 WHEN r < 0.985 THEN 403 WHEN r < 0.995 THEN 500 ELSE 503 END, floor(random() * 1000000)::int, floor(3 + 30000 * power(random(), 9))::int,
  (ARRAY['US','DE','FR','GB','IN','JP','BR','NZ'])[1 + floor(8 * power(random(), 2))::int], ('10.' || floor(random() * 4)::int || '.' || floor(random() * 250)::int || '.' || floor(random() * 250)::int)::inet,
  'tr-' || md5((n / 4)::text), CASE WHEN random() < 0.08 THEN 'key-' || floor(random() * 400)::int END, CASE WHEN r >= 0.985 THEN 'upstream ' || floor(random() * 50)::int END,
  jsonb_build_object('request', 'rq-' || n, 'feature', 'f-' || floor(random() * 3000)::int, 'bytes_in', floor(random() * 1000000)::int, 'agent', 'cli/' || floor(random() * 30)::int)
FROM (SELECT n, random() AS r, 1 + floor(200 * power(random(), 2))::int AS tenant, 1 + floor(15000 * power(random(), 1.6))::int AS usr FROM generate_series(1, :rows - 1) n) g;

CREATE SCHEMA app;
CREATE TABLE app.plans (name text PRIMARY KEY, price integer NOT NULL);
INSERT INTO app.plans VALUES ('free', 0), ('pro', 20), ('team', 50), ('enterprise', 900);
CREATE TABLE app.users (id integer PRIMARY KEY, email text NOT NULL, tenant_id integer NOT NULL, role text NOT NULL, created timestamptz NOT NULL, last_seen timestamptz NOT NULL, deleted_at timestamptz, plan text NOT NULL REFERENCES app.plans, profile jsonb NOT NULL);
INSERT INTO app.users SELECT n, (ARRAY['Ann','Bob','Cat','Dan','Eve'])[1 + n % 5] || '.' || n || '@firm' || n % 200 || '.example', 1 + floor(200 * power(random(), 1.5))::int, (ARRAY['member','member','member','admin','owner'])[1 + floor(random() * 5)::int],
  '2022-01-01 00:00+00'::timestamptz + n * interval '1 hour', '2025-01-01 00:00+00'::timestamptz + random() * interval '360 days', CASE WHEN random() < 0.15 THEN '2025-02-02 00:00+00'::timestamptz END, (ARRAY['free','free','pro','team'])[1 + floor(random() * 4)::int],
  jsonb_build_object('sso_id', 's-' || n * 7 % 30000, 'lang', (ARRAY['en','de','fr'])[1 + floor(random() * 3)::int]) FROM generate_series(1, 30000) n;
CREATE TABLE app.orders (id integer PRIMARY KEY, user_id integer NOT NULL REFERENCES app.users, tenant_id integer NOT NULL, state text NOT NULL, placed_at timestamptz NOT NULL, amount numeric(12,2) NOT NULL, currency char(3) NOT NULL, ref text NOT NULL, shipped_at timestamptz, tags text[] NOT NULL, extra jsonb NOT NULL);
INSERT INTO app.orders SELECT n, 1 + floor(30000 * power(random(), 1.4))::int, 1 + floor(200 * power(random(), 1.5))::int, CASE WHEN r < 0.9 THEN 'done' WHEN r < 0.96 THEN 'cancelled' WHEN r < 0.99 THEN 'open' ELSE 'held' END,
  '2024-01-01 00:00+00'::timestamptz + n * interval '6 minutes', (5 + 5000 * power(random(), 4))::numeric(12,2), (ARRAY['EUR','USD','USD'])[1 + floor(random() * 3)::int], 'R-' || lpad((n * 7919 % 160001)::text, 7, '0'),
  CASE WHEN random() < 0.985 THEN '2025-12-01 00:00+00'::timestamptz END, ARRAY['t-' || floor(random() * 40)::int, 'gift-' || floor(random() * 900)::int], jsonb_build_object('coupon', 'C' || floor(random() * 2000)::int, 'note', md5(n::text))
FROM (SELECT n, random() AS r FROM generate_series(1, 160000) n) g;
CREATE TABLE app.order_events (id integer PRIMARY KEY, order_id integer NOT NULL REFERENCES app.orders, kind text NOT NULL, at timestamptz NOT NULL, payload jsonb NOT NULL);
INSERT INTO app.order_events SELECT n, 1 + n * 31 % 160000, (ARRAY['created','paid','packed','sent','refund'])[1 + floor(5 * power(random(), 1.5))::int], '2024-01-01 00:00+00'::timestamptz + n * interval '2 minutes', jsonb_build_object('n', n) FROM generate_series(1, 400000) n;
