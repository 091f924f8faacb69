-- Renew one node's lease on one person, or end it; forget the leases of nodes that died.
--   KEYS[1]  hash of one person: "node:<node>" -> "<ends_ms> <connections> <visible>", "seen" -> ms of the last renewal
--   ARGV[1]  node:<node>    ARGV[2]  connections, 0 ends the lease    ARGV[3]  1 when one of them is visible, else 0
--   ARGV[4]  lease in ms    ARGV[5]  how long the last renewal is remembered, in ms    ARGV[6]  now in ms, "": the server's clock
-- Returns nothing.
-- One step: a lease that is looked at as ended and renewed by its node in between must not be deleted.
local now = tonumber(ARGV[6])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
    local ends = string.match(fields[i + 1], '^(%d+) ')
    if ends and tonumber(ends) <= now then
        redis.call('HDEL', KEYS[1], fields[i])
    end
end

if ARGV[2] == '0' then
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    local ends = string.format('%.0f', now + ARGV[4])
    redis.call('HSET', KEYS[1], ARGV[1], ends .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
end
redis.call('HSET', KEYS[1], 'seen', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[4]), tonumber(ARGV[5])))
