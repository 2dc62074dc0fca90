/**
 * What transaction.ts says, in Lua: the server runs each call as a whole, by its own clock. One script, so that all of it is loaded with one digest.
 *
 * KEYS: meta (hash: revision, traces, format) · values (hash) · revisions (sorted set of live keys) · traces (sorted set of deleted keys) · keys (sorted
 * set, all 0, for prefixes) · leases (sorted set by end) · tokens (hash) · the client's last group (string `SEQUENCE OUTCOME…`).
 * Revisions and times stay below 2^53, but Lua's own conversion to text keeps 14 digits only.
 */
export const REDIS_SCRIPT = `
local meta, values, revisions, traces, keys, leases, tokens, client = unpack(KEYS)
local call = redis.call
local function text(n) return string.format('%.0f', n) end
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local before = tonumber(call('HGET', meta, 'revision') or '0')
local revision = before
local channel = ARGV[2]

local function drop(key)
  call('HDEL', values, key)
  call('HDEL', tokens, key)
  call('ZREM', leases, key)
  call('ZREM', keys, key)
  call('ZREM', revisions, key)
  call('ZADD', traces, text(revision), key)
end

local function finish()
  if revision == before then return end
  call('HSET', meta, 'revision', text(revision))
  call('PUBLISH', channel, text(revision))
end

local due = call('ZRANGEBYSCORE', leases, '-inf', text(now))
if #due > 0 then revision = revision + 1 end
for _, key in ipairs(due) do drop(key) end

if ARGV[1] == 'commit' then
  local sequence, kept, every, at = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), 6
  local function take()
    at = at + 1
    return ARGV[at - 1]
  end
  local done = call('GET', client)
  if done then
    local last = string.match(done, '^%d+')
    if last == sequence then
      finish()
      call('PEXPIRE', client, 86400000)
      return done
    end
    if tonumber(last) > tonumber(sequence) then
      finish()
      return redis.error_reply('STALE a later group of this client was done')
    end
  end
  local outcomes = { sequence }
  for _ = 1, tonumber(take()) do
    local holds = true
    for _ = 1, tonumber(take()) do
      local kind, key, wanted = take(), take(), take()
      if kind == 'revision' then
        holds = holds and tonumber(wanted) == tonumber(call('ZSCORE', revisions, key) or '0')
      else
        holds = holds and wanted == call('HGET', tokens, key)
      end
    end
    local operations = {}
    local changes = false
    for i = 1, tonumber(take()) do
      local kind, key, value, token, ttl = take(), take(), take(), take(), take()
      operations[i] = { kind, key, value, token, tonumber(ttl) }
      changes = changes or kind == 'put' or (kind == 'delete' and call('HEXISTS', values, key) == 1)
    end
    if not holds then
      outcomes[#outcomes + 1] = '-'
    else
      if changes then revision = revision + 1 end
      for _, operation in ipairs(operations) do
        local kind, key, value, token, ttl = unpack(operation)
        if kind == 'put' then
          call('HSET', values, key, value)
          call('ZADD', revisions, text(revision), key)
          call('ZADD', keys, 0, key)
          call('ZREM', traces, key)
          if token == '' then
            call('HDEL', tokens, key)
            call('ZREM', leases, key)
          else
            call('HSET', tokens, key, token)
            call('ZADD', leases, text(now + ttl), key)
          end
        elseif kind == 'delete' then
          if call('HEXISTS', values, key) == 1 then drop(key) end
        elseif call('HEXISTS', tokens, key) == 1 then
          call('ZADD', leases, text(now + ttl), key)
        end
      end
      outcomes[#outcomes + 1] = text(revision)
    end
  end
  if revision > kept and math.floor(before / every) ~= math.floor(revision / every) then
    call('ZREMRANGEBYSCORE', traces, '-inf', text(revision - kept))
    call('HSET', meta, 'traces', text(revision - kept))
  end
  finish()
  done = table.concat(outcomes, ' ')
  call('SET', client, done, 'PX', 86400000)
  return done
end

finish()
local answer = { text(revision) }
local function add(key, at)
  answer[#answer + 1] = key
  answer[#answer + 1] = at
  answer[#answer + 1] = call('HGET', values, key)
end

if ARGV[1] == 'get' then
  local at = call('ZSCORE', revisions, ARGV[3])
  if at then add(ARGV[3], at) end
elseif ARGV[1] == 'scan' then
  local prefix = ARGV[3]
  local found = prefix == '' and call('ZRANGE', keys, 0, -1) or call('ZRANGEBYLEX', keys, '[' .. prefix, '(' .. prefix .. '\\255')
  for _, key in ipairs(found) do add(key, call('ZSCORE', revisions, key)) end
else
  local prefix, since = ARGV[3], ARGV[4]
  local first = call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  answer[2] = first[2] and text(math.max(0, tonumber(first[2]) - now)) or ''
  answer[3] = call('HGET', meta, 'traces') or '0'
  for _, set in ipairs({ revisions, traces }) do
    local found = call('ZRANGEBYSCORE', set, '(' .. since, '+inf', 'WITHSCORES')
    for i = 1, #found, 2 do
      if string.sub(found[i], 1, #prefix) == prefix then add(found[i], found[i + 1]) end
    end
  end
end
return answer
`
