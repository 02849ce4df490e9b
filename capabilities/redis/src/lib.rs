//! Key-value on Redis: one server, one that sentinels watch, or a cluster.
//!
//! Owns the connections, the names of keys in Redis, and what is done there as one. It must not know who asks.
//!
//! A key's value is a string of Redis; the bucket's keys are also in a sorted set, its index, which gives them in order.
//! Both change together, in a script, whenever a key comes or goes. So a value that is changed is one plain `SET`, a
//! new one is a script, and a listing is exact. A bucket is in one slot of a cluster. [`watch`] is who is told of changes.

mod error;
mod key;
mod lanes;
mod link;
mod script;
mod watch;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_capabilities::key_value::{BATCH_BYTES_MAX, BatchBytes, PAGE_LEN_MAX, check_buckets, check_value};
use weft_capabilities::{Bucket, Changes, KeyValue, KeyValueError, Page, Swap, Watch};

pub use crate::error::OpenError;
use crate::error::unexpected;
use crate::key::Names;
use crate::lanes::Lanes;
use crate::script::Script;

/// The longest that an operation takes, if not told otherwise: a thousand times what it does.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// KiB of operations on their way, at most, of which each counts for some. What is over waits for its turn.
const IN_FLIGHT_KIB_MAX: u32 = 64 << 10;
/// Connections, if not told otherwise: as many as most machines have threads that serve, and of a server's ten thousand
/// enough for a thousand hosts.
const CONNECTIONS_DEFAULT: usize = 8;
/// What an operation counts at least: a thousand are on their way, at most.
const OPERATION_KIB_MIN: u32 = 64;
/// The largest value for which it is worth to ask first whether its key is there: what is larger is not sent twice.
const VALUE_LEN_ASKED: usize = 16 << 10;

/// Keys that the server looks at for one part of a listing of buckets: a millisecond of its time.
const SCAN_LEN: usize = 1_000;

/// How servers work together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Deployment {
    /// One server, the first address.
    #[default]
    Server,
    /// The addresses are sentinels. They know who is the first server of this service.
    Sentinel {
        /// What the sentinels call it.
        service: String,
    },
    /// The addresses are some servers of a cluster, and the others are found by them.
    Cluster,
}

/// How a store is reached.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://USER:PASSWORD@HOST:PORT/DATABASE` each, or `rediss://` for TLS. User, password and database are those of
    /// the first. (Sentinels are asked without a password.)
    pub urls: Vec<String>,
    /// How the servers work together.
    pub deployment: Deployment,
    /// What certificates are trusted, as a file of PEM. `None` is the system's trust.
    pub ca_file: Option<PathBuf>,
    /// The longest that an operation takes, its waiting included.
    pub timeout: Duration,
    /// Connections to each server, at most; at least one. Each runtime that uses the store has one of its own, as far as
    /// they go, and the others share the first.
    pub connections: usize,
    /// How long a value is kept after it was last written, if not for ever; at least a millisecond.
    pub ttl: Option<Duration>,
}

impl RedisOptions {
    /// The defaults, for one server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            deployment: Deployment::default(),
            ca_file: None,
            timeout: TIMEOUT_DEFAULT,
            connections: CONNECTIONS_DEFAULT,
            ttl: None,
        }
    }
}

impl fmt::Debug for RedisOptions {
    /// Without the addresses, which have the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("deployment", &self.deployment)
            .field("ca_file", &self.ca_file)
            .field("timeout", &self.timeout)
            .field("connections", &self.connections)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// Key-value in Redis.
pub struct RedisKeyValue {
    lanes: Arc<Lanes>,
    seats: Arc<Semaphore>,
    timeout: Duration,
    is_cluster: bool,
    /// Milliseconds for which a value is kept, as text; 0 is for ever.
    ttl_ms: String,
    watches: TaskTracker,
    /// Cancelled when the store is closed.
    watching: CancellationToken,
}

impl RedisKeyValue {
    /// Starts to connect. A server that is away is no error here, but one of each operation, until it comes.
    ///
    /// The first connection lives on the runtime that this is called on, others on those that use the store.
    ///
    /// # Errors
    /// [`OpenError`]: an address or the certificates can't be read.
    pub fn open(options: &RedisOptions) -> Result<Self, OpenError> {
        Ok(Self {
            lanes: Arc::new(Lanes::start(options)?),
            seats: Arc::new(Semaphore::new(IN_FLIGHT_KIB_MAX as usize)),
            timeout: options.timeout,
            is_cluster: options.deployment == Deployment::Cluster,
            ttl_ms: options.ttl.map_or(0, |ttl| ttl.as_millis().max(1)).to_string(),
            watches: TaskTracker::new(),
            watching: CancellationToken::new(),
        })
    }

    /// Waits for half of the time that there is: the other half is for the answer.
    async fn seat(&self, bytes: usize) -> Result<SemaphorePermit<'_>, KeyValueError> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        let kib = kib.clamp(OPERATION_KIB_MIN, IN_FLIGHT_KIB_MAX);
        if let Ok(seat) = self.seats.try_acquire_many(kib) {
            return Ok(seat);
        }
        let until = Instant::now() + self.timeout / 2;
        match timeout_at(until, self.seats.acquire_many(kib)).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) => Err(KeyValueError::Closed),
            Err(_) => Err(KeyValueError::Overloaded),
        }
    }

    /// Sends one command of `bytes` bytes.
    async fn send(&self, command: &Cmd, bytes: usize) -> Result<Value, KeyValueError> {
        let until = Instant::now() + self.timeout;
        let _seat = self.seat(bytes).await?;
        self.send_until(command, until).await.map_err(error::of_sent)
    }

    async fn run(&self, script: &Script, keys: &[Vec<u8>], args: &[&[u8]]) -> Result<Value, KeyValueError> {
        let until = Instant::now() + self.timeout;
        let bytes =
            keys.iter().map(Vec::len).sum::<usize>() + args.iter().map(|arg| arg.len()).sum::<usize>();
        let _seat = self.seat(bytes).await?;
        match self.send_until(&script.by_hash(keys, args), until).await {
            Err(Sent::Failed(error)) if error::is_unknown_script(&error) => {
                self.send_until(&script.by_text(keys, args), until).await
            }
            sent => sent,
        }
        .map_err(error::of_sent)
    }

    async fn send_until(&self, command: &Cmd, until: Instant) -> Result<Value, Sent> {
        let way = match self.lanes.known() {
            Some(way) => way,
            None => timeout_at(until, self.lanes.first())
                .await
                .map_err(|_| Sent::Unanswered(self.timeout))?,
        };
        let mut way = way.map_err(Sent::Not)?;
        let (verdict, sent) = match timeout_at(until, way.connection.send(command)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => (error::judge(&error), Sent::Failed(error)),
            Err(_) => (error::Verdict::Suspect, Sent::Unanswered(self.timeout)),
        };
        way.link.doubt(verdict);
        Err(sent)
    }
}

/// Why there is no answer.
enum Sent {
    Not(KeyValueError),
    Failed(redis::RedisError),
    Unanswered(Duration),
}

fn bytes_of(answer: Value, command: &'static str) -> Result<Option<Bytes>, KeyValueError> {
    match answer {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        Value::SimpleString(text) => Ok(Some(text.into())),
        _ => Err(unexpected(command)),
    }
}

impl RedisKeyValue {
    async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Bytes>, KeyValueError> {
        let key = Names::of(bucket)?.value(bucket, key)?;
        let mut get = redis::cmd("GET");
        get.arg(&key);
        bytes_of(self.send(&get, key.len()).await?, "GET")
    }

    async fn set(&self, bucket: &Bucket, key: &str, value: Bytes) -> Result<(), KeyValueError> {
        check_value(&value)?;
        let names = Names::of(bucket)?;
        let stored = names.value(bucket, key)?;
        if value.len() <= VALUE_LEN_ASKED {
            // A key that is there is in the index.
            let mut set = redis::cmd("SET");
            set.arg(&stored).arg(&*value).arg("XX");
            if self.forgets() {
                set.arg("PX").arg(&self.ttl_ms);
            }
            if self.send(&set, stored.len() + value.len()).await? != Value::Nil {
                return Ok(());
            }
        }
        let args: [&[u8]; 3] = [self.ttl_ms.as_bytes(), key.as_bytes(), &value];
        self.run(&script::SET, &[names.index(), stored], &args).await?;
        Ok(())
    }

    async fn delete_all(&self, bucket: &Bucket, keys: &[impl AsRef<str>]) -> Result<(), KeyValueError> {
        let names = Names::of(bucket)?;
        let mut stored = vec![names.index()];
        for key in keys {
            stored.push(names.value(bucket, key.as_ref())?);
        }
        let args: Vec<_> = keys.iter().map(|key| key.as_ref().as_bytes()).collect();
        self.run(&script::DELETE, &stored, &args).await?;
        Ok(())
    }

    async fn exists(&self, bucket: &Bucket, key: &str) -> Result<bool, KeyValueError> {
        let key = Names::of(bucket)?.value(bucket, key)?;
        let mut exists = redis::cmd("EXISTS");
        exists.arg(&key);
        match self.send(&exists, key.len()).await? {
            Value::Int(count) => Ok(count > 0),
            _ => Err(unexpected("EXISTS")),
        }
    }

    async fn list_keys(
        &self,
        bucket: &Bucket,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, KeyValueError> {
        let index = Names::of(bucket)?.index();
        let limit = limit.clamp(1, PAGE_LEN_MAX);
        let after = cursor.map_or_else(|| "-".to_owned(), |cursor| format!("({cursor}"));
        let mut range = redis::cmd("ZRANGEBYLEX");
        range.arg(&index).arg(after).arg("+");
        // One more than is asked for tells whether there are more.
        range.arg("LIMIT").arg(0).arg(limit + 1);
        let Value::Array(found) = self.send(&range, index.len()).await? else {
            return Err(unexpected("ZRANGEBYLEX"));
        };
        let mut page = Page::default();
        for key in found {
            if page.keys.len() == limit {
                page.cursor = page.keys.last().cloned();
                break;
            }
            let Value::BulkString(key) = key else {
                return Err(unexpected("ZRANGEBYLEX"));
            };
            page.keys
                .push(String::from_utf8(key).map_err(|error| KeyValueError::Backend(Box::new(error)))?);
        }
        if self.forgets() && !page.keys.is_empty() {
            page.keys = self.there(bucket, &page.keys).await?;
        }
        Ok(page)
    }

    /// Those of `keys`, which are in the index, that were not forgotten.
    async fn there(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<String>, KeyValueError> {
        let names = Names::of(bucket)?;
        let mut stored = vec![names.index()];
        for key in keys {
            stored.push(names.value(bucket, key)?);
        }
        let args: Vec<_> = keys.iter().map(String::as_bytes).collect();
        let Value::Array(there) = self.run(&script::THERE, &stored, &args).await? else {
            return Err(unexpected("a look at keys"));
        };
        let key = |key| match key {
            Value::BulkString(key) => {
                String::from_utf8(key).map_err(|error| KeyValueError::Backend(Box::new(error)))
            }
            _ => Err(unexpected("a look at keys")),
        };
        there.into_iter().map(key).collect()
    }

    fn forgets(&self) -> bool {
        self.ttl_ms != "0"
    }

    /// Walks over all keys of the server.
    async fn buckets(&self, scope: Option<(&str, &str)>) -> Result<Vec<Bucket>, KeyValueError> {
        if self.is_cluster {
            let cannot = "a cluster can't tell its buckets, as each server knows its own keys only";
            return Err(KeyValueError::Unavailable(cannot.to_owned()));
        }
        let pattern = key::pattern(scope)?;
        let mut buckets = HashSet::new();
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern);
            scan.arg("COUNT").arg(SCAN_LEN).arg("TYPE").arg("zset");
            let Value::Array(answer) = self.send(&scan, pattern.len()).await? else {
                return Err(unexpected("SCAN"));
            };
            let [Value::BulkString(next), Value::Array(found)] = &answer[..] else {
                return Err(unexpected("SCAN"));
            };
            for name in found {
                let Value::BulkString(name) = name else {
                    return Err(unexpected("SCAN"));
                };
                buckets.extend(key::bucket_of(name, scope));
            }
            check_buckets(buckets.len())?;
            if next == b"0" {
                return Ok(buckets.into_iter().collect());
            }
            cursor.clone_from(next);
        }
    }

    async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let names = Names::of(bucket)?;
        let keys = [names.index(), names.value(bucket, key)?];
        let delta = delta.to_string();
        let answer = self
            .run(
                &script::INCREMENT,
                &keys,
                &[self.ttl_ms.as_bytes(), key.as_bytes(), delta.as_bytes()],
            )
            .await?;
        let answer = bytes_of(answer, "an increment")?.unwrap_or_default();
        let key = key.to_owned();
        match &*answer {
            b"nan" => Err(KeyValueError::NotANumber { key }),
            b"range" => Err(KeyValueError::OutOfRange { key }),
            sum => std::str::from_utf8(sum)
                .ok()
                .and_then(|sum| sum.parse().ok())
                .ok_or_else(|| unexpected("an increment")),
        }
    }

    async fn compare_and_swap(
        &self,
        bucket: &Bucket,
        key: &str,
        expected: Option<Bytes>,
        new: Bytes,
    ) -> Result<Swap, KeyValueError> {
        check_value(&new)?;
        let names = Names::of(bucket)?;
        let keys = [names.index(), names.value(bucket, key)?];
        let mut args: Vec<&[u8]> = vec![self.ttl_ms.as_bytes(), key.as_bytes(), &new];
        args.extend(expected.as_deref());
        match self.run(&script::SWAP, &keys, &args).await? {
            Value::Int(1) => Ok(Swap::Done),
            Value::Array(now) => {
                let now = now.into_iter().next().map(|now| bytes_of(now, "a swap"));
                Ok(Swap::Changed(now.transpose()?.flatten()))
            }
            _ => Err(unexpected("a swap")),
        }
    }

    async fn get_many(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Bytes>>, KeyValueError> {
        let mut bytes = BatchBytes::of_keys(keys.len())?;
        let names = Names::of(bucket)?;
        let mut stored = Vec::with_capacity(keys.len());
        let mut of_keys = 0;
        for key in keys {
            stored.push(names.value(bucket, key)?);
            of_keys += key.len();
        }
        bytes.add(of_keys)?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let left = (BATCH_BYTES_MAX - of_keys).to_string();
        match self.run(&script::GET, &stored, &[left.as_bytes()]).await? {
            Value::Array(values) => values.into_iter().map(|value| bytes_of(value, "MGET")).collect(),
            Value::Int(len) => {
                bytes.add(usize::try_from(len).unwrap_or(usize::MAX))?;
                Err(unexpected("MGET"))
            }
            _ => Err(unexpected("MGET")),
        }
    }

    async fn set_many(&self, bucket: &Bucket, entries: Vec<(String, Bytes)>) -> Result<(), KeyValueError> {
        let mut bytes = BatchBytes::of_keys(entries.len())?;
        let names = Names::of(bucket)?;
        let mut stored = vec![names.index()];
        let mut args: Vec<&[u8]> = Vec::with_capacity(entries.len() * 2 + 1);
        args.push(self.ttl_ms.as_bytes());
        for (key, value) in &entries {
            check_value(value)?;
            bytes.add(key.len() + value.len())?;
            stored.push(names.value(bucket, key)?);
            args.push(key.as_bytes());
            args.push(value);
        }
        self.run(&script::SET, &stored, &args).await?;
        Ok(())
    }
}

impl KeyValue for RedisKeyValue {
    fn get<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, KeyValueError>> {
        self.get(bucket, key).boxed()
    }

    fn set<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        value: Bytes,
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        self.set(bucket, key, value).boxed()
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move { self.delete_all(bucket, &[key]).await }.boxed()
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, KeyValueError>> {
        self.exists(bucket, key).boxed()
    }

    fn list_keys<'a>(
        &'a self,
        bucket: &'a Bucket,
        cursor: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, KeyValueError>> {
        self.list_keys(bucket, cursor, limit).boxed()
    }

    fn increment<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        delta: i64,
    ) -> BoxFuture<'a, Result<i64, KeyValueError>> {
        self.increment(bucket, key, delta).boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        expected: Option<Bytes>,
        new: Bytes,
    ) -> BoxFuture<'a, Result<Swap, KeyValueError>> {
        self.compare_and_swap(bucket, key, expected, new).boxed()
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, KeyValueError>> {
        self.get_many(bucket, keys).boxed()
    }

    fn set_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        entries: Vec<(String, Bytes)>,
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        self.set_many(bucket, entries).boxed()
    }

    fn delete_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move {
            BatchBytes::of_keys(keys.len())?;
            self.delete_all(bucket, keys).await
        }
        .boxed()
    }

    fn buckets<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Bucket>, KeyValueError>> {
        self.buckets(scope).boxed()
    }

    fn watch<'a>(
        &'a self,
        bucket: &'a Bucket,
        watch: Watch,
    ) -> BoxFuture<'a, Result<Changes, KeyValueError>> {
        self.watch(bucket, watch).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.watching.cancel();
            self.watches.close();
            self.watches.wait().await;
            self.lanes.refuse();
            // What is on its way has a bound.
            drop(self.seats.acquire_many(IN_FLIGHT_KIB_MAX).await);
            self.lanes.end().await;
        }
        .boxed()
    }
}
