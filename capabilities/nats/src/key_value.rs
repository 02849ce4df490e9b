//! Key-value in a bucket of JetStream.
//!
//! A key's value is the last message of a subject, as NATS's own key-value clients have it ([`name`]). A key that is
//! deleted is purged from the stream, which leaves nothing behind of its subject; so the subjects that the stream has are the keys,
//! and a listing is what it tells of them at one moment ([`Listing`]). What is changed step by step (increments, swaps) is
//! read, and written if the subject still has that last message.

mod name;
mod stream;
mod watch;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream as streams};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_capabilities::key_value::{BatchBytes, PAGE_LEN_MAX, check_value};
use weft_capabilities::{Bucket, Changes, KeyValue, KeyValueError, Page, Swap, Watch};

use self::name::Names;
use self::stream::{Last, Stream};
use crate::connect::{NatsOptions, Source};
use crate::error::OpenError;
use crate::jetstream::{self, Storage};
use crate::link::{Connection, Link};
use crate::listing::Listing;

/// How long watches have to end, when the store is closed.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What it is if not told otherwise.
const BUCKET_DEFAULT: &str = "weft";

/// KiB of requests on their way, at most, of which each counts for some. What is over waits for its turn.
const IN_FLIGHT_KIB_MAX: u32 = 64 << 10;
/// What a request counts at least: a thousand are on their way, at most.
const REQUEST_KIB_MIN: u32 = 64;
/// Requests of one batch that are on their way at once: enough that the way to the server and back costs little, and few
/// enough that others get their turns. As many of the largest values are read before a batch is found to be too large.
const BATCH_AT_ONCE: usize = 16;
/// Locks for what is changed step by step.
const STRIPES: usize = 64;
/// Tries to change a key that other hosts change too. Each time that one fails, another succeeded.
const TRIES_MAX: u32 = 64;
/// The longest pause before another try.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// The bucket of JetStream, and how it is made if it is missing. One that is there stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketOptions {
    /// Its name.
    pub name: String,
    /// Servers that have a copy.
    pub replicas: usize,
    /// Where they have it.
    pub storage: Storage,
    /// How long a value is kept after it was last written, if not for ever; at least 100 ms. One that is there has to have
    /// the same.
    pub ttl: Option<Duration>,
}

impl Default for BucketOptions {
    fn default() -> Self {
        Self {
            name: BUCKET_DEFAULT.to_owned(),
            replicas: 1,
            storage: Storage::default(),
            ttl: None,
        }
    }
}

/// Key-value on NATS.
pub struct NatsKeyValue {
    link: Arc<Link<Arc<Stream>>>,
    seats: Semaphore,
    /// What the subjects of all keys begin with.
    prefix: String,
    /// One change of a key at a time, so that those of this host don't undo each other's tries.
    stripes: [Mutex<()>; STRIPES],
    hasher: RandomState,
    /// Where the tasks of watches live.
    runtime: Handle,
    watches: TaskTracker,
    /// Cancelled when the store is closed.
    watching: CancellationToken,
}

impl NatsKeyValue {
    /// Starts to connect. A server that is away is no error here, but one of each operation, until it comes.
    ///
    /// The connection lives on the runtime that this is called on, whoever uses it.
    ///
    /// # Errors
    /// [`OpenError`]: an address, the certificates, or the bucket's name can't be used.
    pub fn open(options: &NatsOptions, bucket: BucketOptions) -> Result<Self, OpenError> {
        jetstream::check_name(&bucket.name)?;
        let source = Source::new(options)?;
        let prefix = stream::prefix(&bucket.name);
        let set_up = move |connection: Connection| {
            let bucket = bucket.clone();
            async move { Stream::find_or_make(&connection, &bucket).await.map(Arc::new) }.boxed()
        };
        Ok(Self {
            link: Arc::new(Link::start(source, Box::new(set_up), Vec::new(), options.timeout)),
            seats: Semaphore::new(IN_FLIGHT_KIB_MAX as usize),
            prefix,
            stripes: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            runtime: Handle::current(),
            watches: TaskTracker::new(),
            watching: CancellationToken::new(),
        })
    }

    /// Waits for half of the time that there is: the other half is for the answer.
    async fn seat(&self, until: Instant, bytes: usize) -> Result<SemaphorePermit<'_>, KeyValueError> {
        let until = Instant::now() + until.saturating_duration_since(Instant::now()) / 2;
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        let kib = kib.clamp(REQUEST_KIB_MIN, IN_FLIGHT_KIB_MAX);
        match timeout_at(until, self.seats.acquire_many(kib)).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) => Err(KeyValueError::Closed),
            Err(_) => Err(KeyValueError::Overloaded),
        }
    }

    /// The turn of one who changes a key step by step.
    async fn turn(&self, until: Instant, subject: &str) -> Result<MutexGuard<'_, ()>, KeyValueError> {
        let stripe = self.hasher.hash_one(subject) as usize % STRIPES;
        timeout_at(until, self.stripes[stripe].lock())
            .await
            .map_err(|_| KeyValueError::Overloaded)
    }

    /// The last message of a subject.
    async fn last(&self, until: Instant, subject: &str) -> Result<Last, KeyValueError> {
        let _seat = self.seat(until, subject.len()).await?;
        let asked = async {
            let (connection, stream) = self.link.connection().await?;
            stream.last(&connection, subject).await
        };
        Ok(self.link.within(until, asked).await?)
    }

    /// Makes `value` the last message of a subject, if its last one is `expected`; whether it was.
    async fn write(
        &self,
        until: Instant,
        subject: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<bool, KeyValueError> {
        let _seat = self.seat(until, subject.len() + value.len()).await?;
        let asked = async {
            let (connection, stream) = self.link.connection().await?;
            stream.write(&connection, subject, expected, value).await
        };
        Ok(self.link.within(until, asked).await?)
    }

    /// Leaves no message of a subject.
    async fn purge(&self, until: Instant, subject: &str) -> Result<(), KeyValueError> {
        let _seat = self.seat(until, subject.len()).await?;
        let asked = async {
            let (connection, stream) = self.link.connection().await?;
            stream.purge(&connection, subject).await
        };
        Ok(self.link.within(until, asked).await?)
    }

    async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Bytes>, KeyValueError> {
        let subject = Names::of(&self.prefix, bucket)?.subject(bucket, key)?;
        Ok(self.last(self.link.deadline(), &subject).await?.value)
    }

    async fn set(&self, bucket: &Bucket, key: &str, value: Bytes) -> Result<(), KeyValueError> {
        check_value(&value)?;
        let subject = Names::of(&self.prefix, bucket)?.subject(bucket, key)?;
        self.write(self.link.deadline(), &subject, None, value)
            .await
            .map(drop)
    }

    async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), KeyValueError> {
        let subject = Names::of(&self.prefix, bucket)?.subject(bucket, key)?;
        self.purge(self.link.deadline(), &subject).await
    }

    async fn list_keys(
        &self,
        bucket: &Bucket,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, KeyValueError> {
        let (names, until) = (Names::of(&self.prefix, bucket)?, self.link.deadline());
        let mut listing = Listing::new(cursor, limit.clamp(1, PAGE_LEN_MAX));
        loop {
            let filter = names.filter();
            let _seat = self.seat(until, filter.len()).await?;
            let asked = async {
                let (connection, stream) = self.link.connection().await?;
                stream.subjects(&connection, &filter, listing.offset()).await
            };
            let (total, subjects) = self.link.within(until, asked).await?;
            if listing.take(total, subjects.into_keys(), |subject| names.key(subject)) {
                break;
            }
        }
        let (keys, more) = listing.finish();
        let cursor = keys.last().filter(|_| more).cloned();
        Ok(Page { keys, cursor })
    }

    /// Changes a key to what `change` makes of its value, which may be asked several times; `Err` is what it gives
    /// instead.
    async fn change<T>(
        &self,
        subject: &str,
        change: impl Fn(Option<Bytes>) -> Result<(Bytes, T), Result<T, KeyValueError>>,
    ) -> Result<T, KeyValueError> {
        let until = self.link.deadline();
        let _turn = self.turn(until, subject).await?;
        for tries in 0..TRIES_MAX {
            let last = self.last(until, subject).await?;
            let (value, changed) = match change(last.value) {
                Ok(new) => new,
                Err(instead) => return instead,
            };
            if self.write(until, subject, Some(last.sequence), value).await? {
                return Ok(changed);
            }
            let pause = PAUSE_MAX.min(Duration::from_micros(100 << tries.min(10)));
            sleep(pause.mul_f64(rand::random_range(0.0..1.0))).await;
        }
        Err(KeyValueError::Overloaded)
    }

    async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let subject = Names::of(&self.prefix, bucket)?.subject(bucket, key)?;
        let add = |value: Option<Bytes>| {
            let sum = add(value.as_deref(), delta, key).map_err(Err)?;
            Ok((sum.to_string().into(), sum))
        };
        self.change(&subject, add).await
    }

    async fn compare_and_swap(
        &self,
        bucket: &Bucket,
        key: &str,
        expected: Option<Bytes>,
        new: Bytes,
    ) -> Result<Swap, KeyValueError> {
        check_value(&new)?;
        let subject = Names::of(&self.prefix, bucket)?.subject(bucket, key)?;
        let swap = |value: Option<Bytes>| match value == expected {
            true => Ok((new.clone(), Swap::Done)),
            false => Err(Ok(Swap::Changed(value))),
        };
        self.change(&subject, swap).await
    }

    async fn get_many(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Bytes>>, KeyValueError> {
        let mut bytes = BatchBytes::of_keys(keys.len())?;
        let names = Names::of(&self.prefix, bucket)?;
        let mut subjects = Vec::with_capacity(keys.len());
        for key in keys {
            bytes.add(key.len())?;
            subjects.push(names.subject(bucket, key)?);
        }
        let until = self.link.deadline();
        let mut found = streams::iter(subjects)
            .map(|subject| async move { self.last(until, &subject).await })
            .buffered(BATCH_AT_ONCE);
        let mut values = Vec::with_capacity(keys.len());
        while let Some(last) = found.try_next().await? {
            bytes.add(last.value.as_ref().map_or(0, Bytes::len))?;
            values.push(last.value);
        }
        Ok(values)
    }

    async fn set_many(&self, bucket: &Bucket, entries: Vec<(String, Bytes)>) -> Result<(), KeyValueError> {
        let mut bytes = BatchBytes::of_keys(entries.len())?;
        let names = Names::of(&self.prefix, bucket)?;
        // The last of equal keys counts, and they are not written in their order.
        let mut latest = HashMap::with_capacity(entries.len());
        for (key, value) in entries {
            check_value(&value)?;
            bytes.add(key.len() + value.len())?;
            latest.insert(names.subject(bucket, &key)?, value);
        }
        let until = self.link.deadline();
        streams::iter(latest)
            .map(|(subject, value)| async move { self.write(until, &subject, None, value).await })
            .buffer_unordered(BATCH_AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    async fn delete_many(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError> {
        BatchBytes::of_keys(keys.len())?;
        let names = Names::of(&self.prefix, bucket)?;
        let subjects: Vec<_> = keys
            .iter()
            .map(|key| names.subject(bucket, key))
            .collect::<Result<_, _>>()?;
        let until = self.link.deadline();
        streams::iter(subjects)
            .map(|subject| async move { self.purge(until, &subject).await })
            .buffer_unordered(BATCH_AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }
}

/// The sum, of what other backends take for a number too.
fn add(value: Option<&[u8]>, delta: i64, key: &str) -> Result<i64, KeyValueError> {
    let number = match value {
        None => 0,
        Some(value) => std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| KeyValueError::NotANumber { key: key.to_owned() })?,
    };
    i64::checked_add(number, delta).ok_or_else(|| KeyValueError::OutOfRange { key: key.to_owned() })
}

impl KeyValue for NatsKeyValue {
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
        self.delete(bucket, key).boxed()
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, KeyValueError>> {
        async move { Ok(self.get(bucket, key).await?.is_some()) }.boxed()
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
        self.delete_many(bucket, keys).boxed()
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
            // A watch that nobody takes from is not waited for.
            drop(timeout(CLOSE_WAIT, self.watches.wait()).await);
            self.link.refuse();
            // What is on its way has a bound.
            drop(self.seats.acquire_many(IN_FLIGHT_KIB_MAX).await);
            self.link.end().await;
        }
        .boxed()
    }
}
