-- name: reserve
-- Take from what tenants may still send today, as much as there is. In the order of their names: no circle.
--   $1 tenant ids text[], $2 wanted int[], $3 a day's budget int
-- Returns tenant_id, day, granted.
INSERT INTO paid_messages AS p (tenant_id, day, used, granted)
SELECT w.tenant_id, (now() AT TIME ZONE 'UTC')::date, least(w.wanted, $3), least(w.wanted, $3)
FROM unnest($1::text[], $2::int[]) AS w (tenant_id, wanted)
ORDER BY w.tenant_id
ON CONFLICT (tenant_id, day) DO UPDATE
SET granted = greatest(least(p.used + excluded.used, $3) - p.used, 0),
    used = greatest(least(p.used + excluded.used, $3), p.used)
RETURNING tenant_id, day, granted;

-- name: give_back
-- What was reserved and not sent.
--   $1 tenant ids text[], $2 days date[], $3 counts int[]
UPDATE paid_messages p SET used = greatest(p.used - b.count, 0)
FROM unnest($1::text[], $2::date[], $3::int[]) AS b (tenant_id, day, count)
WHERE p.tenant_id = b.tenant_id AND p.day = b.day;
