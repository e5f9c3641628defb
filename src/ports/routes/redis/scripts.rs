//! What must happen in Redis as one step. Redis runs a script alone; a new or emptied server is sent it again.

use std::sync::LazyLock;

use ::redis::Script;

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $($code:expr),+) => {
        $(#[$doc])*
        pub static $name: LazyLock<Script> = LazyLock::new(|| Script::new(concat!($($code),+)));
    };
}

/// The row as a table, if it is one of ours; what is not is as if it were not there.
macro_rules! row {
    () => {
        r"
        local function read(key)
            local text = redis.call('GET', key)
            if not text then return nil end
            local ok, row = pcall(cjson.decode, text)
            if ok and type(row) == 'table' and type(row.epoch) == 'number' and type(row.partition) == 'number'
                and type(row.target_instance) == 'string' and (row.status == 'ACTIVE' or row.status == 'MIGRATING')
            then
                return row, text
            end
            return nil
        end
        local function write(key, symbol, text)
            redis.call('SET', key, text)
            redis.call('PUBLISH', 'routes', symbol .. ' ' .. text)
        end
        "
    };
}

script!(
    /// route:SYMBOL; symbol, row, its epoch -> the row that stands.
    LEARN,
    row!(),
    r"
    local row, text = read(KEYS[1])
    if row and row.epoch >= tonumber(ARGV[3]) then return text end
    write(KEYS[1], ARGV[1], ARGV[2])
    return ARGV[2]
    "
);

script!(
    /// route:SYMBOL; symbol, row, expected epoch ('' = no row), expected status -> written?, the row that is there.
    SWAP,
    row!(),
    r"
    local row, text = read(KEYS[1])
    local as_expected
    if ARGV[3] == '' then
        as_expected = row == nil
    else
        as_expected = row ~= nil and row.epoch == tonumber(ARGV[3]) and row.status == ARGV[4]
    end
    if not as_expected then return {0, text or false} end
    write(KEYS[1], ARGV[1], ARGV[2])
    return {1, false}
    "
);

script!(
    /// node:ID, nodes; id, heartbeat, its incarnation, milliseconds.
    BEAT,
    r"
    local text = redis.call('GET', KEYS[1])
    if text then
        local ok, have = pcall(cjson.decode, text)
        if ok and type(have) == 'table' and type(have.incarnation) == 'number'
            and have.incarnation > tonumber(ARGV[3])
        then
            return
        end
    end
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
    redis.call('SADD', KEYS[2], ARGV[1])
    "
);

script!(
    /// nodes -> the heartbeats that have not run out.
    BEATS,
    r"
    local beats = {}
    for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
        local beat = redis.call('GET', 'node:' .. id)
        if beat then
            beats[#beats + 1] = beat
        else
            redis.call('SREM', KEYS[1], id)
        end
    end
    return beats
    "
);

/// A lease is a hash {holder, token} that runs out; its last token outlives it under a key of its own.
macro_rules! lease {
    () => {
        r"
        local function standing(key)
            local have = redis.call('HMGET', key, 'holder', 'token')
            local left = redis.call('PTTL', key)
            if not have[1] or left <= 0 then return nil end
            return {have[1], have[2], left}
        end
        local function prolong(key, milliseconds)
            redis.call('PEXPIRE', key, milliseconds)
            return standing(key)
        end
        "
    };
}

script!(
    /// lease:NAME; holder, milliseconds -> the lease as it stands.
    ACQUIRE,
    lease!(),
    r"
    local have = standing(KEYS[1])
    if have and have[1] ~= ARGV[1] then return have end
    if not have then
        local now = redis.call('TIME')
        local token = now[1] * 1000000 + now[2]
        local last = tonumber(redis.call('GET', KEYS[1] .. ':token') or '0')
        if token <= last then token = last + 1 end
        token = string.format('%.0f', token)
        redis.call('SET', KEYS[1] .. ':token', token)
        redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', token)
    end
    return prolong(KEYS[1], ARGV[2])
    "
);

script!(
    /// lease:NAME; holder, token, milliseconds -> the lease, or nothing if it is lost.
    RENEW,
    lease!(),
    r"
    local have = standing(KEYS[1])
    if not have or have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then return nil end
    return prolong(KEYS[1], ARGV[3])
    "
);

script!(
    /// lease:NAME; holder, token.
    RELEASE,
    lease!(),
    r"
    local have = standing(KEYS[1])
    if have and have[1] == ARGV[1] and have[2] == ARGV[2] then redis.call('DEL', KEYS[1]) end
    return nil
    "
);

script!(
    /// lease:NAME -> the lease as it stands.
    LEASE,
    lease!(),
    r"
    return standing(KEYS[1])
    "
);

script!(
    /// table; a new name -> the name that this table got when it was empty.
    TABLE_NAME,
    r"
    redis.call('SET', KEYS[1], ARGV[1], 'NX')
    return redis.call('GET', KEYS[1])
    "
);

script!(
    /// orderbook:SYMBOL of each book; seq and depth of each -> how many were written. A depth ends with its seq, so that the whole
    /// of it need not be read to know how new it is. What is not ours is as if it were not there.
    PUT_DEPTHS,
    r#"
    local written = 0
    for i, key in ipairs(KEYS) do
        local ending = redis.pcall('GETRANGE', key, -32, -1)
        local have = type(ending) == 'string' and tonumber(string.match(ending, '"seq":(%d+)}$'))
        if not have or have < tonumber(ARGV[2 * i - 1]) then
            redis.call('SET', key, ARGV[2 * i])
            written = written + 1
        end
    end
    return written
    "#
);

script!(
    /// session:USER of each user; node, milliseconds. A user's nodes are a sorted set, scored by when each runs out, in
    /// milliseconds; the key runs out with the last of them.
    SESSIONS_HELD,
    r"
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    for _, key in ipairs(KEYS) do
        if redis.call('TYPE', key).ok ~= 'zset' then redis.call('DEL', key) end
        redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
        redis.call('ZADD', key, now + ARGV[2], ARGV[1])
        local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
        redis.call('PEXPIREAT', key, last[2])
    end
    "
);

script!(
    /// session:USER of each user; node.
    SESSIONS_ENDED,
    r"
    for _, key in ipairs(KEYS) do
        if redis.call('TYPE', key).ok == 'zset' then redis.call('ZREM', key, ARGV[1]) end
    end
    "
);
