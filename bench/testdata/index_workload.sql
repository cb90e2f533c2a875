-- 50 queries with their calls: what an audit log and a shop are asked. Some of them are traps that no index should be made for.

-- The audit log: lookups, screens that show the newest, reports.
-- calls: 9000
SELECT id, ts, action, status FROM audit.audit_log WHERE org_id = 47 ORDER BY ts DESC LIMIT 50;
-- calls: 6000
SELECT * FROM audit.audit_log WHERE actor_id = 1234 ORDER BY ts DESC, id DESC LIMIT 20;
-- calls: 4000
SELECT id, ts, action FROM audit.audit_log WHERE org_id = 120 AND actor_id = 777 AND ts >= '2024-06-01' AND ts < '2024-09-01' ORDER BY ts;
-- calls: 3500
SELECT * FROM audit.audit_log WHERE correlation_id = 'corr-202cb962ac59075b964b07152d234b70';
-- calls: 3000
SELECT * FROM audit.audit_log WHERE resource_type = 'bucket' AND resource_id = 'res-41234' ORDER BY ts DESC LIMIT 100;
-- calls: 2500
SELECT id, ts, org_id, action FROM audit.audit_log WHERE session_id = '6512bd43-d9ca-a6e0-2c99-0b0a82652dca' ORDER BY ts;
-- calls: 2000
SELECT ts, id, org_id, action FROM audit.audit_log WHERE org_id = 250 AND (ts, id) < ('2024-07-15 12:00:00+00', 900000) ORDER BY ts DESC, id DESC LIMIT 100;
-- calls: 1500
SELECT count(*) FROM audit.audit_log WHERE status = 'denied' AND ts >= '2024-11-01' AND ts < '2024-12-01';
-- calls: 1200
SELECT id, ts, actor_email, action FROM audit.audit_log WHERE lower(actor_email) = 'user15000@example3.com';
-- calls: 1000
SELECT id, ts FROM audit.audit_log WHERE details @> '{"request_id": "c4ca4238a0b923820dcc509a6f75849b"}';
-- calls: 900
SELECT id, ts, details FROM audit.audit_log WHERE details ->> 'file' = 'report-17.pdf' ORDER BY ts DESC LIMIT 10;
-- calls: 700
SELECT id, ts, org_id FROM audit.audit_log WHERE details -> 'tags' ? 'pii' AND ts >= '2024-10-01' ORDER BY ts;
-- calls: 600
SELECT id, ts, details FROM audit.audit_log WHERE (details ->> 'amount')::integer > 99950 AND ts >= '2024-01-01';
-- calls: 500
SELECT id, ts FROM audit.audit_log WHERE archived_at IS NULL AND ts < '2024-06-01' ORDER BY ts LIMIT 1000;
-- calls: 450
SELECT id, ts, org_id FROM audit.audit_log WHERE NOT reviewed AND severity = 4 ORDER BY ts DESC LIMIT 25;
-- calls: 400
SELECT org_id, count(*) FROM audit.audit_log WHERE action = 'export' AND ts >= '2024-12-01' GROUP BY org_id ORDER BY count(*) DESC LIMIT 10;
-- calls: 350
SELECT id, ts, resource_id FROM audit.audit_log WHERE resource_id LIKE 'res-4999%' AND ts >= '2024-09-01';
-- calls: 300
SELECT id, ts, actor_email FROM audit.audit_log WHERE actor_email ILIKE '%r19998@%';
-- calls: 250
SELECT id, ts, latency_ms FROM audit.audit_log WHERE org_id = 12 ORDER BY latency_ms DESC, ts LIMIT 20;
-- calls: 200
SELECT status, count(*) FROM audit.audit_log WHERE org_id = 33 AND ts >= '2024-03-01' AND ts < '2024-04-01' GROUP BY status;
-- calls: 180
SELECT id, ts FROM audit.audit_log WHERE latency_ms > 1990;
-- calls: 150
SELECT id, ts, ip FROM audit.audit_log WHERE actor_id = 4242 OR correlation_id = 'corr-c20ad4d76fe97759aa27a0c99bff6710';
-- calls: 120
SELECT DISTINCT actor_id FROM audit.audit_log WHERE org_id = 299 AND action IN ('grant', 'revoke');
-- calls: 100
SELECT max(ts) FROM audit.audit_log WHERE actor_id = 19;
-- calls: 60
SELECT date_trunc('day', ts AT TIME ZONE 'UTC'), count(*) FROM audit.audit_log WHERE ts >= '2024-12-10' AND ts < '2024-12-17' GROUP BY 1;
-- calls: 20
UPDATE audit.audit_log SET archived_at = '2025-02-01' WHERE correlation_id = 'corr-1679091c5a880faf6fb5e6087eb1b2dc' AND archived_at IS NULL;

-- The shop: lookups, joins, date ranges, patterns.
-- calls: 5000
SELECT o.order_id, o.ordered, o.total FROM shop.orders o WHERE o.customer_id = 4711 ORDER BY o.ordered DESC LIMIT 10;
-- calls: 3000
SELECT customer_id, name FROM shop.customer WHERE lower(email) = 'person.1234@mail34.org';
-- calls: 2000
SELECT l.order_id, l.quantity, l.price FROM shop.lineitem l WHERE l.part_id = 1717 AND l.supplier_id = 55;
-- calls: 1000
SELECT c.name, o.order_id, o.total FROM shop.customer c JOIN shop.orders o ON o.customer_id = c.customer_id WHERE c.phone = '15-105-5' ORDER BY o.total DESC;
-- calls: 800
SELECT o.order_id, sum(l.price * (1 - l.discount)) FROM shop.orders o JOIN shop.lineitem l USING (order_id) WHERE o.customer_id = 99 AND o.ordered >= '2023-01-01' GROUP BY o.order_id;
-- calls: 600
SELECT order_id, total FROM shop.orders WHERE status = 'P' AND ordered < '2018-06-01' ORDER BY ordered;
-- calls: 500
SELECT sum(price * discount) FROM shop.lineitem WHERE shipped >= '2022-01-01' AND shipped < '2022-02-01' AND discount BETWEEN 0.05 AND 0.07 AND quantity < 24;
-- calls: 400
SELECT part_id, name FROM shop.part WHERE name LIKE 'azure 1a%';
-- calls: 300
SELECT customer_id, name FROM shop.customer WHERE name LIKE '%e3b0c4%';
-- calls: 250
SELECT p.part_id, p.name, sum(l.quantity) FROM shop.part p JOIN shop.lineitem l ON l.part_id = p.part_id WHERE p.brand = 'Brand#23' AND p.container = 'BOX 7' GROUP BY p.part_id, p.name;
-- calls: 200
SELECT s.name, count(*) FROM shop.supplier s JOIN shop.lineitem l ON l.supplier_id = s.supplier_id WHERE s.nation_id = 7 AND l.received IS NULL AND l.shipped >= '2023-06-01' GROUP BY s.name;
-- calls: 180
SELECT order_id, clerk, total FROM shop.orders WHERE clerk = 'Clerk#000' OR customer_id = 17 ORDER BY total DESC LIMIT 5;
-- calls: 150
SELECT o.priority, count(*) FROM shop.orders o WHERE o.ordered >= '2021-07-01' AND o.ordered < '2021-08-01' AND EXISTS (SELECT 1 FROM shop.lineitem l WHERE l.order_id = o.order_id AND l.received > l.shipped + 60) GROUP BY o.priority;
-- calls: 120
SELECT c.customer_id, c.name FROM shop.customer c WHERE c.vip AND c.segment = 'BUILDING' ORDER BY c.balance DESC LIMIT 20;
-- calls: 100
SELECT c.segment, sum(o.total) FROM shop.customer c JOIN shop.orders o ON o.customer_id = c.customer_id JOIN shop.nation n ON n.nation_id = c.nation_id WHERE n.region = 'ASIA' AND o.ordered >= '2024-06-01' AND o.ordered < '2024-06-08' GROUP BY c.segment;
-- calls: 80
SELECT order_id, line, shipped FROM shop.lineitem WHERE supplier_id = 321 ORDER BY shipped DESC, order_id ASC LIMIT 50;
-- calls: 60
SELECT max(total) FROM shop.orders WHERE priority = '1-URGENT';
-- calls: 50
SELECT a.ts, a.action, c.name FROM shop.customer c JOIN audit.audit_log a ON a.actor_id = c.customer_id WHERE c.email = 'Person.7777@Mail17.org' AND a.ts >= '2024-10-01' ORDER BY a.ts DESC LIMIT 20;

-- Traps.
-- calls: 9000
SELECT name FROM shop.nation WHERE region = 'EUROPE';
-- calls: 8000
SELECT * FROM shop.customer WHERE customer_id = 815;
-- calls: 2000
SELECT * FROM shop.lineitem WHERE order_id = 1024 AND line = 2;
-- calls: 30
SELECT count(*), avg(latency_ms) FROM audit.audit_log WHERE status <> 'failed';
-- calls: 10
SELECT segment, avg(balance) FROM shop.customer GROUP BY segment;
-- calls: 5
SELECT returned, mode, sum(quantity), sum(price) FROM shop.lineitem WHERE shipped <= '2024-09-01' GROUP BY returned, mode;
