//! What a namespace may use of this host: messages and bytes of objects a second, and connections of providers.
//!
//! Owns the counting. Quotas are records that an operator puts; the reconciler brings them here, and links take theirs
//! along. What is over one is refused at once: a quota queues nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_capabilities::blob_store::{
    BlobError, BlobRead, BlobStore, BlobWriter, Container, ContainerInfo, Listing, Object, ObjectInfo,
    ObjectPage,
};
use weft_compose::QuotaRecord;
use weft_observability::metrics::QuotaReport;

/// How much of a rate can be used at once: what a second gives.
const BURST: Duration = Duration::from_secs(1);
/// How long a refusal is told as a condition: an operator who looks a minute later still sees why.
const TOLD: Duration = Duration::from_secs(60);
const NANOS_PER_S: u128 = 1_000_000_000;

/// The quotas of this host's namespaces. A namespace without one is not in it.
pub type Quotas = BTreeMap<String, Arc<Quota>>;

/// The quota of one namespace, and what of it is used.
#[derive(Debug)]
pub struct Quota {
    record: QuotaRecord,
    messages: Rate,
    object_bytes: Rate,
}

/// Something that is given at a rate. Who takes more than is there owes it: what comes next waits for that, and not the
/// one that was let in.
#[derive(Debug)]
struct Rate {
    per_s: Option<u64>,
    begin: Instant,
    /// When all that was taken is paid for, in nanoseconds since `begin`.
    paid: AtomicU64,
    refused: AtomicU64,
    /// When something was refused last, and since when, in seconds since 1970.
    last_refused: AtomicU64,
    refused_since: AtomicU64,
}

impl Rate {
    fn new(per_s: Option<u64>) -> Self {
        Self {
            per_s,
            begin: Instant::now(),
            paid: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_refused: AtomicU64::new(0),
            refused_since: AtomicU64::new(0),
        }
    }

    /// Whether something may begin, by what was taken before.
    fn is_open(&self, now: Instant) -> bool {
        if self.per_s.is_none() {
            return true;
        }
        let now = nanos(now.saturating_duration_since(self.begin));
        self.paid.load(Ordering::Relaxed) < now + nanos(BURST)
    }

    /// Takes so much, whether it is there or not.
    fn take(&self, amount: u64, now: Instant) {
        let Some(per_s) = self.per_s else { return };
        let now = nanos(now.saturating_duration_since(self.begin));
        let cost = u128::from(amount) * NANOS_PER_S / u128::from(per_s.max(1));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let after = |paid: u64| Some(paid.max(now).saturating_add(cost));
        // It always gives a value, so it does not fail.
        let _ = self
            .paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
    }

    /// Takes so much, or counts a refusal.
    fn try_take(&self, amount: u64) -> bool {
        let now = Instant::now();
        if self.is_open(now) {
            self.take(amount, now);
            return true;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let (now, before) = (seconds(), self.last_refused.load(Ordering::Relaxed));
        if before + TOLD.as_secs() < now {
            self.refused_since.store(now, Ordering::Relaxed);
        }
        self.last_refused.store(now, Ordering::Relaxed);
        false
    }

    /// Since when it is refused, if it was of late.
    fn refused_since(&self) -> Option<u64> {
        let is_late = self.last_refused.load(Ordering::Relaxed) + TOLD.as_secs() >= seconds();
        is_late.then(|| self.refused_since.load(Ordering::Relaxed))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Quota {
    /// The quota of `record`, of which nothing is used.
    pub fn new(record: QuotaRecord) -> Arc<Self> {
        Arc::new(Self {
            messages: Rate::new(record.messages_per_s),
            object_bytes: Rate::new(record.object_bytes_per_s),
            record,
        })
    }

    /// The quotas of `records`, those of `before` that are the same among them.
    pub fn follow(before: &Quotas, records: &BTreeMap<String, Arc<QuotaRecord>>) -> Quotas {
        let each = records.iter().map(|(namespace, record)| {
            let known = before.get(namespace).filter(|known| known.record == **record);
            let quota = known.cloned().unwrap_or_else(|| Self::new((**record).clone()));
            (namespace.clone(), quota)
        });
        each.collect()
    }

    /// What the operator put.
    pub fn record(&self) -> &QuotaRecord {
        &self.record
    }

    /// Takes one message.
    ///
    /// # Errors
    /// There are too many, in a sentence.
    pub fn try_message(&self) -> Result<(), String> {
        if self.messages.try_take(1) {
            return Ok(());
        }
        Err(format!(
            "overloaded: the actors of the namespace {} have said as many messages as its quota lets them: try again later",
            self.record.namespace
        ))
    }

    /// `store`, of which so much can be written as the quota says.
    pub fn limit(self: &Arc<Self>, store: Arc<dyn BlobStore>) -> Arc<dyn BlobStore> {
        match self.record.object_bytes_per_s {
            Some(_) => Arc::new(Limited {
                store,
                quota: self.clone(),
            }),
            None => store,
        }
    }

    /// What was refused of late, each with since when, in seconds since 1970.
    pub fn refusals(&self) -> Vec<(String, u64)> {
        let rates = [
            (&self.messages, "say", "messages"),
            (&self.object_bytes, "write", "bytes of objects"),
        ];
        let told = rates.into_iter().filter_map(|(rate, act, what)| {
            let (since, per_s) = (rate.refused_since()?, rate.per_s?);
            let reason = format!(
                "its actors may {act} {per_s} {what} a second on each host, and more were refused within the last minute; \
                 `weft quota put` gives more"
            );
            Some((reason, since))
        });
        told.collect()
    }

    /// What metrics tell of it.
    pub fn report(&self) -> QuotaReport {
        QuotaReport {
            namespace: self.record.namespace.as_str().into(),
            refused: [
                ("messages", self.messages.refused.load(Ordering::Relaxed)),
                ("object-bytes", self.object_bytes.refused.load(Ordering::Relaxed)),
            ],
        }
    }
}

/// A blob store as the actors of a namespace with a quota have it.
struct Limited {
    store: Arc<dyn BlobStore>,
    quota: Arc<Quota>,
}

impl Limited {
    /// Lets a write begin, of which `len` bytes are known already.
    fn begin(&self, len: u64) -> Result<(), BlobError> {
        match self.quota.object_bytes.try_take(len) {
            true => Ok(()),
            false => Err(BlobError::Overloaded),
        }
    }
}

/// A write that counts. It is not cut short: what it takes beyond the quota, the next ones wait for.
struct Counted {
    writer: Box<dyn BlobWriter>,
    quota: Arc<Quota>,
}

impl BlobWriter for Counted {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        self.quota.object_bytes.take(chunk.len() as u64, Instant::now());
        self.writer.write(chunk)
    }

    fn commit<'a>(self: Box<Self>, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        self.writer.commit(to)
    }
}

impl BlobStore for Limited {
    fn create_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.store.create_container(container)
    }

    fn delete_container<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.store.delete_container(container)
    }

    fn container_info<'a>(
        &'a self,
        container: &'a Container,
    ) -> BoxFuture<'a, Result<ContainerInfo, BlobError>> {
        self.store.container_info(container)
    }

    fn list_objects<'a>(
        &'a self,
        container: &'a Container,
        listing: Listing<'a>,
    ) -> BoxFuture<'a, Result<ObjectPage, BlobError>> {
        self.store.list_objects(container, listing)
    }

    fn clear<'a>(&'a self, container: &'a Container) -> BoxFuture<'a, Result<(), BlobError>> {
        self.store.clear(container)
    }

    fn object_info<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<ObjectInfo, BlobError>> {
        self.store.object_info(object)
    }

    fn read<'a>(
        &'a self,
        object: &'a Object,
        range: std::ops::Range<u64>,
    ) -> BoxFuture<'a, Result<BlobRead, BlobError>> {
        self.store.read(object, range)
    }

    fn write<'a>(&'a self, to: Option<&'a Object>) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        async move {
            self.begin(0)?;
            let writer: Box<dyn BlobWriter> = Box::new(Counted {
                writer: self.store.write(to).await?,
                quota: self.quota.clone(),
            });
            Ok(writer)
        }
        .boxed()
    }

    fn delete_objects<'a>(&'a self, objects: &'a [Object]) -> BoxFuture<'a, Result<(), BlobError>> {
        self.store.delete_objects(objects)
    }

    fn copy_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        async move {
            // A copy is as many bytes as were written.
            let size = self.store.object_info(from).await?.size;
            self.begin(size)?;
            self.store.copy_object(from, to).await
        }
        .boxed()
    }

    fn move_object<'a>(&'a self, from: &'a Object, to: &'a Object) -> BoxFuture<'a, Result<(), BlobError>> {
        self.store.move_object(from, to)
    }

    fn containers<'a>(
        &'a self,
        scope: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<Container>, BlobError>> {
        self.store.containers(scope)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
}

#[cfg(test)]
mod tests {
    use weft_capabilities::MemoryBlobStore;
    use weft_compose::record::VERSION;

    use super::*;

    fn quota(messages_per_s: Option<u64>, object_bytes_per_s: Option<u64>) -> Arc<Quota> {
        Quota::new(QuotaRecord {
            v: VERSION,
            namespace: "press".to_owned(),
            messages_per_s,
            object_bytes_per_s,
            connections: None,
            by: "someone".to_owned(),
        })
    }

    #[test]
    fn a_rate_gives_what_a_second_gives_at_once_and_then_as_time_goes_by() {
        let rate = Rate::new(Some(10));
        let at = |ms: u64| rate.begin + Duration::from_millis(ms);
        let taken = |now: Instant| {
            let mut taken = 0;
            while rate.is_open(now) {
                rate.take(1, now);
                taken += 1;
            }
            taken
        };
        assert_eq!(taken(at(0)), 10);
        assert_eq!(taken(at(50)), 1, "a tenth of a second is begun");
        assert_eq!(taken(at(100)), 0);
        assert_eq!(taken(at(500)), 4);
        // What was not used for long is not saved up.
        assert_eq!(taken(at(60_000)), 10);
        rate.take(1_000, at(60_000));
        assert!(
            !rate.is_open(at(150_000)) && rate.is_open(at(162_000)),
            "a debt is paid"
        );
    }

    #[test]
    fn without_a_limit_nothing_is_refused_and_what_is_refused_is_told() {
        let free = quota(None, None);
        assert!((0..100_000).all(|_| free.try_message().is_ok()));
        let tight = quota(Some(2), None);
        let refused = (0..100).filter(|_| tight.try_message().is_err()).count();
        assert!(refused > 90, "{refused}");
        assert_eq!(tight.report().refused[0], ("messages", refused as u64));
        let told = tight.refusals();
        assert!(
            told.len() == 1 && told[0].0.contains("2 messages a second"),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn an_object_that_was_begun_is_written_and_the_next_is_refused_until_it_is_paid_for() {
        let quota = quota(None, Some(1_000));
        let store = quota.limit(Arc::new(MemoryBlobStore::default()));
        let container = Container::scoped("press", "news", "c").unwrap();
        store.create_container(&container).await.unwrap();
        let object = container.object("o").unwrap();
        let mut writer = store.write(None).await.unwrap();
        for _ in 0..5 {
            writer.write(Bytes::from(vec![0; 1_000])).await.unwrap();
        }
        writer.commit(&object).await.unwrap();
        assert!(matches!(store.write(None).await, Err(BlobError::Overloaded)));
        let copied = store.copy_object(&object, &container.object("p").unwrap()).await;
        assert!(matches!(copied, Err(BlobError::Overloaded)));
        assert_eq!(quota.report().refused[1], ("object-bytes", 2));
        assert_eq!(store.object_info(&object).await.unwrap().size, 5_000);
    }

    #[test]
    fn a_quota_that_stays_the_same_keeps_what_was_used_of_it() {
        let record = |messages| {
            Arc::new(QuotaRecord {
                messages_per_s: Some(messages),
                ..quota(None, None).record.clone()
            })
        };
        let records = |messages| BTreeMap::from([("press".to_owned(), record(messages))]);
        let first = Quota::follow(&Quotas::new(), &records(1));
        let same = Quota::follow(&first, &records(1));
        assert!(Arc::ptr_eq(&first["press"], &same["press"]));
        let other = Quota::follow(&first, &records(2));
        assert!(!Arc::ptr_eq(&first["press"], &other["press"]));
    }
}
