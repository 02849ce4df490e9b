//! A key-value backend as actors and other hosts get it: supervised, and able to move.
//!
//! Owns what is noted of a write: its keys. What waits, and for what, is [`super::gate`]'s.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use weft_capabilities::{Bucket, Changes, KeyValue, KeyValueError, Page, Swap, Watch};

use super::gate::{self, HELD};

/// What stands before a key-value store.
pub type Gate = gate::Gate<dyn KeyValue, (Bucket, String)>;
/// Keys that were written.
pub type Notes = gate::Notes<(Bucket, String)>;

impl Gate {
    /// The backend for a read.
    fn reading(&self) -> Result<Arc<dyn KeyValue>, KeyValueError> {
        match self.health.refusal() {
            None => Ok(self.store()),
            Some(reason) => Err(KeyValueError::Unavailable(reason)),
        }
    }

    /// The backend for a write of `keys`, which runs for as long as what comes with it is there.
    async fn writing<'k>(
        &self,
        bucket: &Bucket,
        keys: impl Iterator<Item = &'k str>,
    ) -> Result<(Running<'_>, Arc<dyn KeyValue>), KeyValueError> {
        self.reading()?;
        let running = self.write(|| keys.map(|key| (bucket.clone(), key.to_owned())).collect());
        let running = running
            .await
            .map_err(|_| KeyValueError::Unavailable(HELD.to_owned()))?;
        // Not the one from before a hold.
        Ok((running, self.store()))
    }
}

type Running<'g> = gate::Running<'g, dyn KeyValue, (Bucket, String)>;

/// The backend behind a [`Gate`].
pub struct Guarded(pub Arc<Gate>);

type Answer<'a, T> = BoxFuture<'a, Result<T, KeyValueError>>;

impl KeyValue for Guarded {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> Answer<'a, Option<Bytes>> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.get(bucket, key).await)
        }
        .boxed()
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Bytes) -> Answer<'a, ()> {
        async move {
            let (_running, store) = self.0.writing(bucket, [key].into_iter()).await?;
            self.0.told(store.set(bucket, key, value).await)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> Answer<'a, ()> {
        async move {
            let (_running, store) = self.0.writing(bucket, [key].into_iter()).await?;
            self.0.told(store.delete(bucket, key).await)
        }
        .boxed()
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> Answer<'a, bool> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.exists(bucket, key).await)
        }
        .boxed()
    }

    fn list_keys<'a>(
        &'a self,
        bucket: &'a Bucket,
        cursor: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Page> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.list_keys(bucket, cursor, limit).await)
        }
        .boxed()
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> Answer<'a, i64> {
        async move {
            let (_running, store) = self.0.writing(bucket, [key].into_iter()).await?;
            self.0.told(store.increment(bucket, key, delta).await)
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        expected: Option<Bytes>,
        new: Bytes,
    ) -> Answer<'a, Swap> {
        async move {
            let (_running, store) = self.0.writing(bucket, [key].into_iter()).await?;
            self.0
                .told(store.compare_and_swap(bucket, key, expected, new).await)
        }
        .boxed()
    }

    fn get_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> Answer<'a, Vec<Option<Bytes>>> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.get_many(bucket, keys).await)
        }
        .boxed()
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, entries: Vec<(String, Bytes)>) -> Answer<'a, ()> {
        async move {
            let keys = entries.iter().map(|(key, _)| key.as_str());
            let (_running, store) = self.0.writing(bucket, keys).await?;
            self.0.told(store.set_many(bucket, entries).await)
        }
        .boxed()
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> Answer<'a, ()> {
        async move {
            let noted = keys.iter().map(String::as_str);
            let (_running, store) = self.0.writing(bucket, noted).await?;
            self.0.told(store.delete_many(bucket, keys).await)
        }
        .boxed()
    }

    fn buckets<'a>(&'a self, scope: Option<(&'a str, &'a str)>) -> Answer<'a, Vec<Bucket>> {
        async move {
            let store = self.0.reading()?;
            self.0.told(store.buckets(scope).await)
        }
        .boxed()
    }

    /// Of the backend that is there now: if another takes its place, who watches begins anew there. A backend that can't tell
    /// of changes may do all else, so it is not judged by that.
    fn watch<'a>(&'a self, bucket: &'a Bucket, watch: Watch) -> Answer<'a, Changes> {
        async move {
            let store = self.0.reading()?;
            store.watch(bucket, watch).await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move { self.0.store().close().await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use weft_capabilities::{MemoryKeyValue, conformance};

    use super::super::health::Health;
    use super::*;

    fn gate(store: Arc<dyn KeyValue>) -> Arc<Gate> {
        Gate::new(store, Health::new("default/shop/carts".parse().unwrap()))
    }

    fn memory() -> Arc<dyn KeyValue> {
        Arc::new(MemoryKeyValue::default())
    }

    #[tokio::test]
    async fn a_write_that_runs_while_notes_are_taken_is_noted_again_when_it_has_ended() {
        let gate = gate(memory());
        let bucket = Bucket::scoped("default", "shop", "carts");
        let has_it = || gate.take_notes().keys.contains(&(bucket.clone(), "k".to_owned()));
        assert!(gate.note().await);
        let (running, _) = gate.writing(&bucket, ["k"].into_iter()).await.unwrap();
        assert!(has_it() && !has_it());
        drop(running);
        assert!(has_it());
        // And not when nobody notes any more.
        let (running, _) = gate.writing(&bucket, ["k"].into_iter()).await.unwrap();
        gate.end();
        drop(running);
        assert!(!has_it());
    }

    #[tokio::test]
    async fn behind_its_gate_a_backend_keeps_the_contract() {
        conformance::key_value(|| Arc::new(Guarded(gate(memory())))).await;
        conformance::tells_its_buckets(&Guarded(gate(memory()))).await;
        conformance::tells_changes(|| Arc::new(Guarded(gate(memory())))).await;
    }

    #[tokio::test]
    async fn while_keys_are_noted_and_written_also_a_batch_none_is_missed() {
        let gate = gate(memory());
        let (store, bucket) = (Guarded(gate.clone()), Bucket::shared("b"));
        store.set(&bucket, "before", "1".into()).await.unwrap();
        assert!(gate.note().await);
        store.set(&bucket, "a", "1".into()).await.unwrap();
        store.delete(&bucket, "b").await.unwrap();
        store.increment(&bucket, "c", 1).await.unwrap();
        store
            .compare_and_swap(&bucket, "d", None, "1".into())
            .await
            .unwrap();
        store
            .set_many(&bucket, vec![("e".to_owned(), "1".into())])
            .await
            .unwrap();
        store.delete_many(&bucket, &["f".to_owned()]).await.unwrap();
        store.get(&bucket, "read").await.unwrap();
        let mut noted: Vec<_> = gate.take_notes().keys.into_iter().map(|(_, key)| key).collect();
        noted.sort();
        assert_eq!(noted, ["a", "b", "c", "d", "e", "f"]);
        gate.end();
        store.set(&bucket, "after", "1".into()).await.unwrap();
        assert!(gate.take_notes().keys.is_empty());
    }

    #[tokio::test]
    async fn a_write_that_waits_in_a_hold_goes_to_the_backend_that_is_there_at_its_end() {
        let (old, new) = (memory(), memory());
        let gate = gate(old.clone());
        let (store, bucket) = (Guarded(gate.clone()), Bucket::shared("b"));
        assert!(gate.hold().await);
        assert!(gate.hold().await, "it may be told twice");
        let write = store.set(&bucket, "k", "v".into());
        tokio::pin!(write);
        assert!(futures::poll!(&mut write).is_pending());
        assert_eq!(store.get(&bucket, "k").await.unwrap(), None, "reads don't wait");
        gate.replace(new.clone());
        assert!(futures::poll!(&mut write).is_pending());
        gate.release();
        write.await.unwrap();
        assert!(!old.exists(&bucket, "k").await.unwrap());
        assert!(new.exists(&bucket, "k").await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_does_not_end_fails_writes_in_time_and_loses_none() {
        let gate = gate(memory());
        let (store, bucket) = (Guarded(gate.clone()), Bucket::shared("b"));
        assert!(gate.hold().await);
        let refused = store.set(&bucket, "k", "v".into()).await.unwrap_err();
        assert!(
            matches!(&refused, KeyValueError::Unavailable(why) if why.contains("moved")),
            "{refused}"
        );
        gate.end();
        assert_eq!(store.get(&bucket, "k").await.unwrap(), None);
        store.set(&bucket, "k", "v".into()).await.unwrap();
    }
}
