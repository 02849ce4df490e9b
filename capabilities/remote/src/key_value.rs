//! Key-value that is elsewhere.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_capabilities::key_value::watch::changes;
use weft_capabilities::key_value::{BatchBytes, PAGE_LEN_MAX, check_value};
use weft_capabilities::{Bucket, Changes, KeyValue, KeyValueError, Page, Swap, Watch};
use weft_lattice::envelope::FailureKind;

use crate::cbor::{Read, Write, encode};
use crate::remote::{Function, NoAnswer, Remote, Run};
use crate::shape::Handle;
use crate::watch::Watching;
use crate::{KEY_VALUE, WATCH};

/// How long an operation may take. Whoever waits less drops it.
const CALL_MAX: Duration = Duration::from_secs(30);

/// A key-value provider that is elsewhere.
///
/// An operation without an answer is [`KeyValueError::Unavailable`] (or `Overloaded`, or `AccessDenied` if it certainly
/// did not start), whose text says whether something may have been written. Closing it closes this end alone.
pub struct RemoteKeyValue {
    remote: Remote,
    is_closed: AtomicBool,
    /// Tasks that ask for changes.
    watches: Mutex<JoinSet<()>>,
    /// Cancelled when this end is closed.
    watching: CancellationToken,
}

impl RemoteKeyValue {
    /// The provider that `remote` leads to.
    pub fn new(remote: Remote) -> Self {
        Self {
            remote,
            is_closed: AtomicBool::new(false),
            watches: Mutex::default(),
            watching: CancellationToken::new(),
        }
    }

    async fn read<T: Read>(&self, name: &'static str, args: impl Write) -> Result<T, KeyValueError> {
        self.call(name, true, encode(&args).into()).await
    }

    async fn write<T: Read>(&self, name: &'static str, args: impl Write) -> Result<T, KeyValueError> {
        self.call(name, false, encode(&args).into()).await
    }

    async fn call<T: Read>(&self, name: &'static str, reads: bool, args: Bytes) -> Result<T, KeyValueError> {
        let function = Function {
            interface: KEY_VALUE,
            name,
            deadline: Instant::now() + CALL_MAX,
            reads,
            args,
        };
        let run = self.run()?;
        self.call_at(&run, function).await
    }

    /// Who has it now.
    fn run(&self) -> Result<Run, KeyValueError> {
        if self.is_closed.load(Relaxed) {
            return Err(KeyValueError::Closed);
        }
        // Nothing was sent.
        self.remote
            .now()
            .map_err(|failure| no_answer(failure.into(), true))
    }

    async fn call_at<T: Read>(&self, run: &Run, function: Function) -> Result<T, KeyValueError> {
        let reads = function.reads;
        let called = self.remote.call(run, function).await;
        let (done,): (Result<T, KeyValueError>,) = called.map_err(|why| no_answer(why, reads))?;
        done
    }

    async fn begin_to_watch(&self, bucket: &Bucket, watch: Watch) -> Result<Changes, KeyValueError> {
        bucket.prefix()?;
        let run = self.run()?;
        if run.is_outside() {
            let cannot = "a provider that is a process outside of hosts can't tell of changes".to_owned();
            return Err(KeyValueError::Unavailable(cannot));
        }
        let function = Function {
            interface: WATCH,
            name: "begin",
            deadline: Instant::now() + CALL_MAX,
            // One that was begun twice ends by itself.
            reads: true,
            args: encode(&(bucket, watch.prefix, watch.group)).into(),
        };
        let Handle { id, .. } = self.call_at(&run, function).await?;
        let watching = Watching {
            remote: self.remote.clone(),
            run,
            id,
        };
        let (watcher, changes) = changes();
        let stop = self.watching.child_token();
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        while watches.try_join_next().is_some() {}
        watches.spawn(watching.hand_on(watcher, stop.clone()));
        Ok(changes.until(stop.drop_guard()))
    }
}

fn no_answer(why: NoAnswer, reads: bool) -> KeyValueError {
    let failure = match why {
        NoAnswer::Failed(failure) => failure,
        NoAnswer::TooLong { len, len_max } => {
            let what = "request";
            return KeyValueError::TooLarge { what, len, len_max };
        }
    };
    match failure.kind {
        FailureKind::Overloaded if !failure.may_have_started => KeyValueError::Overloaded,
        FailureKind::Denied if !failure.may_have_started => KeyValueError::AccessDenied,
        _ if failure.may_have_started && !reads => {
            KeyValueError::Unavailable(format!("{failure}; it may have been written"))
        }
        _ => KeyValueError::Unavailable(failure.to_string()),
    }
}

/// Whether a key may be sent: what is sure to be refused is not.
fn check(bucket: &Bucket, key: &str) -> Result<(), KeyValueError> {
    bucket.key(key).map(drop)
}

impl KeyValue for RemoteKeyValue {
    fn get<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, KeyValueError>> {
        async move {
            check(bucket, key)?;
            self.read("get", (bucket, key)).await
        }
        .boxed()
    }

    fn set<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        value: Bytes,
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move {
            check(bucket, key)?;
            check_value(&value)?;
            self.write("set", (bucket, key, value)).await
        }
        .boxed()
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move {
            check(bucket, key)?;
            self.write("delete", (bucket, key)).await
        }
        .boxed()
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, KeyValueError>> {
        async move {
            check(bucket, key)?;
            self.read("exists", (bucket, key)).await
        }
        .boxed()
    }

    fn list_keys<'a>(
        &'a self,
        bucket: &'a Bucket,
        cursor: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, KeyValueError>> {
        async move {
            bucket.prefix()?;
            let limit = limit.min(PAGE_LEN_MAX) as u64;
            self.read("list-keys", (bucket, cursor, limit)).await
        }
        .boxed()
    }

    fn increment<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        delta: i64,
    ) -> BoxFuture<'a, Result<i64, KeyValueError>> {
        async move {
            check(bucket, key)?;
            let sum = self.write("increment", (bucket, key, delta)).await;
            // The key did not travel back.
            sum.map_err(|error| match error {
                KeyValueError::NotANumber { .. } => KeyValueError::NotANumber { key: key.to_owned() },
                KeyValueError::OutOfRange { .. } => KeyValueError::OutOfRange { key: key.to_owned() },
                error => error,
            })
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        expected: Option<Bytes>,
        new: Bytes,
    ) -> BoxFuture<'a, Result<Swap, KeyValueError>> {
        async move {
            check(bucket, key)?;
            check_value(&new)?;
            // No value is as large, so that it can't be the expected one; it is not sent for that.
            let expected = expected.map(|expected| match check_value(&expected) {
                Ok(()) => expected,
                Err(_) => expected.slice(..weft_capabilities::key_value::VALUE_LEN_MAX + 1),
            });
            self.write("compare-and-swap", (bucket, key, expected, new)).await
        }
        .boxed()
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, KeyValueError>> {
        async move {
            BatchBytes::of_keys(keys.len())?;
            keys.iter().try_for_each(|key| check(bucket, key))?;
            let values: Vec<_> = self.read("get-many", (bucket, keys)).await?;
            if values.len() == keys.len() {
                return Ok(values);
            }
            let wrong = format!("it gave {} values for {} keys", values.len(), keys.len());
            Err(KeyValueError::Unavailable(wrong))
        }
        .boxed()
    }

    fn set_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        entries: Vec<(String, Bytes)>,
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move {
            let mut bytes = BatchBytes::of_keys(entries.len())?;
            for (key, value) in &entries {
                check(bucket, key)?;
                check_value(value)?;
                bytes.add(key.len() + value.len())?;
            }
            self.write("set-many", (bucket, entries)).await
        }
        .boxed()
    }

    fn delete_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<(), KeyValueError>> {
        async move {
            BatchBytes::of_keys(keys.len())?;
            keys.iter().try_for_each(|key| check(bucket, key))?;
            self.write("delete-many", (bucket, keys)).await
        }
        .boxed()
    }

    /// At most once: what is told while no answer comes is lost.
    fn watch<'a>(
        &'a self,
        bucket: &'a Bucket,
        watch: Watch,
    ) -> BoxFuture<'a, Result<Changes, KeyValueError>> {
        self.begin_to_watch(bucket, watch).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.is_closed.store(true, Relaxed);
        self.watching.cancel();
        future::ready(()).boxed()
    }
}
