-- 48 queries with their calls: what a SaaS asks of its access log, its users and its orders. Some are traps that no index should be made for.

-- calls: 8000
SELECT id, at, path, status FROM saas.access_log WHERE tenant_id = 17 AND at >= '2025-10-01' ORDER BY at DESC LIMIT 50;
-- calls: 6000
SELECT id, at, path FROM saas.access_log WHERE tenant_id = 23 AND (at, id) < ('2025-09-14 10:00:00+00', 200000) ORDER BY at DESC, id DESC LIMIT 25;
-- calls: 4000
SELECT * FROM saas.access_log WHERE trace_id = 'tr-202cb962ac59075b964b07152d234b70';
-- calls: 3000
SELECT at, method, path, status FROM saas.access_log WHERE user_id = 511 AND status >= 500 ORDER BY at DESC LIMIT 20;
-- calls: 2500
SELECT count(*) FROM saas.access_log WHERE tenant_id = 5 AND at BETWEEN '2025-06-01' AND '2025-06-15';
-- calls: 2000
SELECT status, count(*) FROM saas.access_log WHERE tenant_id = 8 AND at BETWEEN '2025-07-01' AND '2025-07-20' GROUP BY status;
-- calls: 1500
SELECT id, at FROM saas.access_log WHERE client_ip = '10.3.7.9' AND at >= '2025-11-01';
-- calls: 1200
SELECT id, at, path FROM saas.access_log WHERE status IN (500, 502, 503) AND at >= '2025-12-10' ORDER BY at DESC LIMIT 100;
-- calls: 1000
SELECT id, at FROM saas.access_log WHERE path LIKE '/api/v2/invoices/77%' AND at >= '2025-09-01';
-- calls: 400
SELECT id, at, path FROM saas.access_log WHERE path LIKE '%export/4711%';
-- calls: 900
SELECT id, at FROM saas.access_log WHERE meta @> '{"feature": "f-1234"}';
-- calls: 700
SELECT id, at, status FROM saas.access_log WHERE meta ->> 'request' = 'rq-123456';
-- calls: 600
SELECT id, at, error FROM saas.access_log WHERE error IS NOT NULL AND tenant_id = 40 ORDER BY at DESC LIMIT 20;
-- calls: 500
SELECT user_id, max(at) FROM saas.access_log WHERE tenant_id = 61 AND at >= '2025-12-01' GROUP BY user_id;
-- calls: 300
SELECT id, at, path, duration_ms FROM saas.access_log WHERE duration_ms > 29000 ORDER BY duration_ms DESC LIMIT 50;
-- calls: 300
SELECT id, at, path FROM saas.access_log WHERE tenant_id = 9 ORDER BY duration_ms DESC, at LIMIT 20;
-- calls: 250
SELECT id, at, path FROM saas.access_log WHERE user_id = 14003 OR api_key = 'key-77';
-- calls: 200
SELECT id, at FROM saas.access_log WHERE (meta ->> 'bytes_in')::integer BETWEEN 999000 AND 1000000;
-- calls: 150
SELECT DISTINCT user_id FROM saas.access_log WHERE tenant_id = 99 AND method = 'DELETE';
-- calls: 60
SELECT date_trunc('day', at AT TIME ZONE 'UTC'), count(*) FROM saas.access_log WHERE at >= '2025-12-01' AND at < '2025-12-08' GROUP BY 1;
-- calls: 40
SELECT count(*) FROM saas.access_log WHERE status = 200;
-- calls: 40
SELECT * FROM saas.access_log WHERE id = 12345;
-- calls: 30
SELECT min(at) FROM saas.access_log WHERE api_key = 'key-12';
-- calls: 30
SELECT id, at FROM saas.access_log WHERE country = 'NZ' AND method = 'PUT' ORDER BY at LIMIT 50;
-- calls: 20
UPDATE saas.access_log SET error = NULL WHERE trace_id = 'tr-1679091c5a880faf6fb5e6087eb1b2dc' AND error IS NOT NULL;

-- calls: 7000
SELECT id, email, role FROM app.users WHERE lower(email) = 'ann.15000@firm0.example';
-- calls: 3000
SELECT id, email, last_seen FROM app.users WHERE tenant_id = 12 AND deleted_at IS NULL ORDER BY last_seen DESC LIMIT 20;
-- calls: 900
SELECT id, email FROM app.users WHERE email LIKE 'Ann.1200%';
-- calls: 300
SELECT id, email FROM app.users WHERE email ILIKE '%.777@firm%';
-- calls: 800
SELECT id, email FROM app.users WHERE profile ->> 'sso_id' = 's-7777';
-- calls: 5000
SELECT id, state, placed_at, amount FROM app.orders WHERE user_id = 99 ORDER BY placed_at DESC LIMIT 10;
-- calls: 2500
SELECT o.id, o.state, u.email FROM app.orders o JOIN app.users u ON u.id = o.user_id WHERE o.ref = 'R-0012345';
-- calls: 1800
SELECT id, user_id, placed_at FROM app.orders WHERE tenant_id = 4 AND state IN ('open', 'held') ORDER BY placed_at LIMIT 50;
-- calls: 1200
SELECT id, placed_at FROM app.orders WHERE shipped_at IS NULL AND placed_at < '2025-03-01' ORDER BY placed_at LIMIT 100;
-- calls: 900
SELECT u.id, u.email, count(*) FROM app.users u JOIN app.orders o ON o.user_id = u.id WHERE u.tenant_id = 130 AND o.placed_at >= '2025-10-01' GROUP BY u.id;
-- calls: 700
SELECT id, ref FROM app.orders WHERE tags @> ARRAY['gift-12'];
-- calls: 600
SELECT id, ref FROM app.orders WHERE extra @> '{"coupon": "C123"}';
-- calls: 500
SELECT state, sum(amount) FROM app.orders WHERE tenant_id = 7 AND placed_at BETWEEN '2025-02-01' AND '2025-03-01' GROUP BY state;
-- calls: 400
SELECT kind, at FROM app.order_events WHERE order_id = 5001 ORDER BY at;
-- calls: 400
SELECT o.id, e.at FROM app.orders o JOIN app.order_events e ON e.order_id = o.id WHERE o.user_id = 345 AND e.kind = 'refund';
-- calls: 300
SELECT id, amount, placed_at FROM app.orders ORDER BY amount DESC, placed_at LIMIT 25;
-- calls: 250
SELECT u.id FROM app.users u WHERE u.tenant_id = 14 AND EXISTS (SELECT FROM app.orders o WHERE o.user_id = u.id AND o.state = 'held');
-- calls: 200
SELECT id, placed_at, amount FROM app.orders WHERE tenant_id = 6 AND (placed_at, id) > ('2025-01-15', 90000) ORDER BY placed_at, id LIMIT 50;
-- calls: 100
SELECT count(*) FROM app.orders WHERE currency = 'EUR';
-- calls: 100
SELECT * FROM app.users WHERE id = 7;
-- calls: 60
SELECT * FROM app.plans WHERE price = 20;
-- calls: 50
SELECT id, placed_at FROM app.orders WHERE user_id IN (11, 22, 33, 44) AND state = 'open';
-- calls: 40
SELECT sum(amount) FROM app.orders WHERE placed_at >= '2025-05-05' AND placed_at < '2025-05-06';
