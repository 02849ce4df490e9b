//! What is done on the server as one: a key and its place in the bucket's index change together or not at all.
//!
//! Redis runs nothing else while a script runs. All keys of a script are of one bucket, and so in one slot of a cluster.

use std::sync::LazyLock;

use redis::Cmd;

/// Text that the server runs, and that it knows by its hash once it has seen it.
pub(crate) struct Script {
    text: &'static str,
    hash: LazyLock<String, fn() -> String>,
}

macro_rules! script {
    ($text:expr) => {
        Script {
            text: $text,
            hash: LazyLock::new(|| redis::Script::new($text).get_hash().to_owned()),
        }
    };
}

impl Script {
    /// Runs it on a server that has seen it.
    pub(crate) fn by_hash(&self, keys: &[Vec<u8>], args: &[&[u8]]) -> Cmd {
        call("EVALSHA", self.hash.as_bytes(), keys, args)
    }

    /// Runs it on a server that has not, and that then has.
    pub(crate) fn by_text(&self, keys: &[Vec<u8>], args: &[&[u8]]) -> Cmd {
        call("EVAL", self.text.as_bytes(), keys, args)
    }
}

fn call(command: &str, script: &[u8], keys: &[Vec<u8>], args: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(command);
    command.arg(script).arg(keys.len());
    for key in keys {
        command.arg(key);
    }
    for arg in args {
        command.arg(*arg);
    }
    command
}

/// Keys: the index, then the keys to set. Arguments: for how many milliseconds (0: for ever), then for each of those keys
/// what the index calls it, and its value.
pub(crate) static SET: Script = script!(
    "for i = 2, #KEYS do
  redis.call('SET', KEYS[i], ARGV[2 * i - 1])
  if ARGV[1] ~= '0' then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
  redis.call('ZADD', KEYS[1], 0, ARGV[2 * i - 2])
end"
);

/// Keys: the index, then keys. Arguments: what the index calls them. Gives what the index calls those that are there, and
/// takes the others out of it.
pub(crate) static THERE: Script = script!(
    "local there = {}
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    table.insert(there, ARGV[i - 1])
  else
    redis.call('ZREM', KEYS[1], ARGV[i - 1])
  end
end
return there"
);

/// Keys: the index, then the keys to delete. Arguments: what the index calls them.
pub(crate) static DELETE: Script = script!(
    "for i = 2, #KEYS do
  redis.call('DEL', KEYS[i])
  redis.call('ZREM', KEYS[1], ARGV[i - 1])
end"
);

/// Keys: the keys to read. Argument: how many bytes all values may have. Gives them, or how many they have.
pub(crate) static GET: Script = script!(
    "local sum = 0
for i = 1, #KEYS do
  sum = sum + redis.call('STRLEN', KEYS[i])
end
if sum > tonumber(ARGV[1]) then
  return sum
end
return redis.call('MGET', unpack(KEYS))"
);

/// Keys: the index, the number. Arguments: for how many milliseconds (0: for ever), what the index calls it, what to add.
/// Gives the sum as text, as Lua has no whole numbers of 64 bits; or `nan`, or `range`.
///
/// Redis itself takes no sign `+` and no zeros in front, which other backends do.
pub(crate) static INCREMENT: Script = script!(
    "local before = redis.call('GET', KEYS[2])
local left = redis.call('PTTL', KEYS[2])
if before then
  local sign, digits = before:match('^([+-]?)0*(%d+)$')
  if not digits then
    return 'nan'
  end
  local plain = digits
  if sign == '-' and digits ~= '0' then
    plain = '-' .. digits
  end
  if plain ~= before then
    redis.call('SET', KEYS[2], plain)
  end
end
local sum = redis.pcall('INCRBY', KEYS[2], ARGV[3])
if type(sum) == 'table' and sum.err then
  if before then
    redis.call('SET', KEYS[2], before)
    if left > 0 then
      redis.call('PEXPIRE', KEYS[2], left)
    end
  end
  if string.find(sum.err, 'overflow') then
    return 'range'
  end
  return 'nan'
end
if ARGV[1] ~= '0' then
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
if not before then
  redis.call('ZADD', KEYS[1], 0, ARGV[2])
end
return redis.call('GET', KEYS[2])"
);

/// Keys: the index, the key. Arguments: for how many milliseconds (0: for ever), what the index calls it, the new value,
/// and the expected one if there is to be one. Gives 1, or a list of the value that there is, which is empty if there is none.
pub(crate) static SWAP: Script = script!(
    "local now = redis.call('GET', KEYS[2])
if now ~= (ARGV[4] or false) then
  if now then
    return {now}
  end
  return {}
end
redis.call('SET', KEYS[2], ARGV[3])
if ARGV[1] ~= '0' then
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
if not now then
  redis.call('ZADD', KEYS[1], 0, ARGV[2])
end
return 1"
);
