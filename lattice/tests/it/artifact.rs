//! Artifacts go from host to host, from those that are honest and those that are not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use proptest::prelude::*;
use weft_lattice::artifact::{ArtifactDigest, Artifacts, CHUNK_LEN_MAX, FetchError, SourceError, WINDOW};
use weft_lattice::subject::{Address, Subject, Subjects};
use weft_lattice::testing::artifacts::{LEN_MAX, MemoryStore, digest_of};
use weft_lattice::transport::memory::{Hub, MemoryTransport};
use weft_lattice::transport::{Handler, Served, Serving, Subscription, Transport, TransportError};

pub(crate) struct Holder<T> {
    transport: T,
    pub(crate) address: Address,
    pub(crate) store: MemoryStore,
    pub(crate) artifacts: Artifacts,
    _served: Served,
}

pub(crate) async fn holder<T: Transport + Clone>(transport: T, name: &str) -> Holder<T> {
    let (store, subjects) = (MemoryStore::default(), Subjects::new("one").unwrap());
    let address = Address::new(name, 1).unwrap();
    let over: Arc<dyn Transport> = Arc::new(transport.clone());
    let artifacts = Artifacts::new(over, subjects, address.clone(), Arc::new(store.clone()));
    Holder {
        _served: artifacts.serve().await.unwrap(),
        transport,
        address,
        store,
        artifacts,
    }
}

/// So many bytes that no two chunks are the same.
pub(crate) fn bytes(len: usize) -> Bytes {
    let words =
        (0..len as u64 / 8 + 1).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(len).collect()
}

async fn hosts<const N: usize>(hub: &Hub) -> [Holder<MemoryTransport>; N] {
    let mut hosts = Vec::new();
    for at in 0..N {
        hosts.push(holder(hub.join(), &format!("h{at}")).await);
    }
    hosts
        .try_into()
        .unwrap_or_else(|_| unreachable!("as many as were joined"))
}

fn addresses<T>(hosts: &[&Holder<T>]) -> Vec<Address> {
    hosts.iter().map(|host| host.address.clone()).collect()
}

/// What each of the sources was refused for.
fn faults(error: FetchError) -> Vec<SourceError> {
    match error {
        FetchError::Sources { sources, .. } => sources.iter().map(|(_, error)| error.clone()).collect(),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn what_is_fetched_is_what_was_put_whatever_its_length() {
    let hub = Hub::new();
    let [a, b] = hosts(&hub).await;
    for len in [
        0,
        1,
        CHUNK_LEN_MAX - 1,
        CHUNK_LEN_MAX,
        CHUNK_LEN_MAX + 1,
        20_000_000,
    ] {
        let digest = a.store.put(bytes(len));
        b.artifacts.fetch(digest, &addresses(&[&a])).await.unwrap();
        assert_eq!(b.store.get(digest).unwrap().len(), len);
        assert_eq!(digest_of(&b.store.get(digest).unwrap()), digest);
    }
    let stats = b.artifacts.stats();
    assert_eq!((stats.fetched, stats.failed, stats.running), (6, 0, 0));
    assert_eq!(stats.fetched_bytes, a.artifacts.stats().served_bytes);
    // What is here is not asked for again.
    let served = a.artifacts.stats();
    b.artifacts
        .fetch(digest_of(&bytes(1)), &addresses(&[&a]))
        .await
        .unwrap();
    assert_eq!(a.artifacts.stats(), served);
}

#[tokio::test]
async fn what_nobody_has_is_not_found_and_without_a_source_that_is_said() {
    let hub = Hub::new();
    let [a, b] = hosts(&hub).await;
    let digest = digest_of(b"nothing");
    let failed = faults(b.artifacts.fetch(digest, &addresses(&[&a])).await.unwrap_err());
    assert!(matches!(&failed[..], [SourceError::Refused(_)]), "{failed:?}");
    let gone = [Address::new("gone", 7).unwrap()];
    let failed = faults(b.artifacts.fetch(digest, &gone).await.unwrap_err());
    assert!(
        matches!(
            &failed[..],
            [SourceError::Transport(TransportError::NoResponders(_))]
        ),
        "{failed:?}"
    );
    for sources in [&[][..], &addresses(&[&b])] {
        let error = b.artifacts.fetch(digest, sources).await.unwrap_err();
        assert!(matches!(error, FetchError::NoSource(_)), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_copy_is_refused_told_to_its_holder_and_fetched_elsewhere() {
    let hub = Hub::new();
    let [bad, good, host] = hosts(&hub).await;
    let whole = bytes(3_000_000);
    let digest = good.store.put(whole.clone());
    let mut damaged = whole.to_vec();
    damaged[2_345_678] ^= 4;
    bad.store.put_as(digest, damaged);
    host.artifacts
        .fetch(digest, &addresses(&[&bad, &good]))
        .await
        .unwrap();
    assert_eq!(host.store.get(digest).unwrap(), whole);
    assert_eq!(host.artifacts.stats().refused_copies, 1);
    // It has looked at its copy, and can fetch a whole one itself.
    while bad.store.get(digest).is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bad.artifacts.fetch(digest, &addresses(&[&host])).await.unwrap();
    assert_eq!(bad.store.get(digest).unwrap(), whole);
}

#[tokio::test]
async fn a_damaged_copy_alone_is_an_error_and_nothing_is_kept() {
    let hub = Hub::new();
    let [bad, host] = hosts(&hub).await;
    let digest = digest_of(&bytes(600_000));
    bad.store.put_as(digest, bytes(600_001));
    let failed = faults(
        host.artifacts
            .fetch(digest, &addresses(&[&bad]))
            .await
            .unwrap_err(),
    );
    assert!(matches!(&failed[..], [SourceError::Damaged]), "{failed:?}");
    assert_eq!((host.store.get(digest), host.store.parts()), (None, 0));
}

#[tokio::test]
async fn when_a_source_dies_in_the_middle_the_next_one_goes_on() {
    let hub = Hub::new();
    let [dies, lives, host] = hosts(&hub).await;
    let whole = bytes(20_000_000);
    let digest = dies.store.put(whole.clone());
    lives.store.put(whole.clone());
    let transport = dies.transport.clone();
    dies.store.on_read(move |number| {
        if number == 40 {
            transport.leave();
        }
    });
    host.artifacts
        .fetch(digest, &addresses(&[&dies, &lives]))
        .await
        .unwrap();
    assert_eq!(host.store.get(digest).unwrap(), whole);
    // What came from the first is not fetched again. Its last answer was given in the moment in which it left.
    let again = lives.store.reads() + 40;
    let all = whole.len().div_ceil(CHUNK_LEN_MAX) as u64;
    assert!(
        (all..=all + WINDOW as u64 + 2).contains(&again),
        "{again} of {all}"
    );
}

#[tokio::test]
async fn bytes_of_a_dead_liar_don_t_spoil_those_of_who_goes_on() {
    let hub = Hub::new();
    let [liar, honest, host] = hosts(&hub).await;
    let whole = bytes(5_000_000);
    let digest = honest.store.put(whole.clone());
    liar.store.put_as(digest, vec![7; whole.len()]);
    let transport = liar.transport.clone();
    liar.store.on_read(move |number| {
        if number == 10 {
            transport.leave();
        }
    });
    host.artifacts
        .fetch(digest, &addresses(&[&liar, &honest]))
        .await
        .unwrap();
    assert_eq!(host.store.get(digest).unwrap(), whole);
    assert_eq!(
        host.artifacts.stats().refused_copies,
        0,
        "an honest host was blamed"
    );
}

#[tokio::test]
async fn who_lies_about_the_length_is_passed_over() {
    for longer in [-1_500_000, -1, 1, 40_000_000, i64::MAX] {
        for since in [0, 2, 5] {
            let hub = Hub::new();
            let [liar, honest, host] = hosts(&hub).await;
            let whole = bytes(2_000_000);
            let digest = liar.store.put(whole.clone());
            honest.store.put(whole.clone());
            liar.store.lie(longer, since);
            let failed = faults(
                host.artifacts
                    .fetch(digest, &addresses(&[&liar]))
                    .await
                    .unwrap_err(),
            );
            assert_eq!((failed.len(), host.store.parts()), (1, 0));
            host.artifacts
                .fetch(digest, &addresses(&[&liar, &honest]))
                .await
                .unwrap();
            assert_eq!(host.store.get(digest).unwrap(), whole);
        }
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused_before_it_is_fetched() {
    let hub = Hub::new();
    let [a, host] = hosts(&hub).await;
    let digest = a.store.put(bytes(LEN_MAX as usize + 1));
    let failed = faults(host.artifacts.fetch(digest, &addresses(&[&a])).await.unwrap_err());
    assert!(
        matches!(&failed[..], [SourceError::TooLarge { .. }]),
        "{failed:?}"
    );
    assert_eq!(a.store.reads(), 1);
}

#[tokio::test]
async fn many_who_ask_at_once_wait_for_one_fetch() {
    let hub = Hub::new();
    let [a, host] = hosts(&hub).await;
    let digest = a.store.put(bytes(4_000_000));
    let sources = addresses(&[&a]);
    let asked = future::join_all((0..20).map(|_| host.artifacts.fetch(digest, &sources))).await;
    assert!(asked.iter().all(Result::is_ok));
    assert_eq!(a.store.reads(), 16);
    assert_eq!(host.artifacts.stats().fetched, 1);
}

#[tokio::test]
async fn a_fetch_goes_on_when_who_asked_has_gone() {
    let hub = Hub::new();
    let [a, host] = hosts(&hub).await;
    let digest = a.store.put(bytes(4_000_000));
    let sources = addresses(&[&a]);
    assert!(host.artifacts.fetch(digest, &sources).now_or_never().is_none());
    while host.store.get(digest).is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_host_is_made_to_take_an_artifact() {
    let hub = Hub::new();
    let [a, b] = hosts(&hub).await;
    let digest = a.store.put(bytes(9_000_000));
    a.artifacts.replicate(digest, &b.address).await.unwrap();
    assert_eq!(digest_of(&b.store.get(digest).unwrap()), digest);
    a.artifacts.replicate(digest, &b.address).await.unwrap();
    let gone = Address::new("gone", 7).unwrap();
    assert!(a.artifacts.replicate(digest, &gone).await.is_err());
    // One that this host does not have itself.
    let error = a
        .artifacts
        .replicate(digest_of(b"nothing"), &b.address)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("it is not here"), "{error}");
}

/// A network that counts the chunks that are asked for and not answered yet.
#[derive(Clone)]
struct Counting {
    over: MemoryTransport,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Transport for Counting {
    fn request(
        &self,
        subject: &Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (now, most) = (self.now.clone(), self.most.clone());
        let asked = self.over.request(subject, payload, timeout);
        async move {
            let running = now.fetch_add(1, Ordering::Relaxed) + 1;
            most.fetch_max(running, Ordering::Relaxed);
            // Answers take a while, so that the window fills.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let answer = asked.await;
            now.fetch_sub(1, Ordering::Relaxed);
            answer
        }
        .boxed()
    }

    fn serve(
        &self,
        subject: Subject,
        serving: Serving,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Served, TransportError>> {
        self.over.serve(subject, serving, handler)
    }

    fn publish(&self, subject: &Subject, payload: Bytes) -> BoxFuture<'static, Result<(), TransportError>> {
        self.over.publish(subject, payload)
    }

    fn subscribe(
        &self,
        subject: Subject,
        queue_len: usize,
    ) -> BoxFuture<'static, Result<Subscription, TransportError>> {
        self.over.subscribe(subject, queue_len)
    }

    fn payload_len_max(&self) -> usize {
        100_000
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_fit_the_connection_and_a_window_of_them_is_asked_for_at_once() {
    let hub = Hub::new();
    let counting = || Counting {
        over: hub.join(),
        now: Arc::default(),
        most: Arc::default(),
    };
    let (a, b) = (holder(counting(), "a").await, holder(counting(), "b").await);
    let digests: Vec<_> = (0..10)
        .map(|number| a.store.put(bytes(3_000_000 + number)))
        .collect();
    let sources = addresses(&[&a]);
    b.artifacts.fetch(digests[0], &sources).await.unwrap();
    assert_eq!(a.store.reads(), 3_000_000_u64.div_ceil(100_000 - 256));
    assert_eq!(b.transport.most.load(Ordering::Relaxed), WINDOW);
    // Four at once, however many are wanted.
    future::join_all(digests.iter().map(|digest| b.artifacts.fetch(*digest, &sources))).await;
    assert!((WINDOW + 1..=4 * WINDOW).contains(&b.transport.most.load(Ordering::Relaxed)));
    assert_eq!(b.artifacts.stats().fetched, 10);
}

#[tokio::test]
async fn a_stranger_s_message_is_answered_and_does_nothing() {
    let hub = Hub::new();
    let [a, _] = hosts(&hub).await;
    let subject = Subjects::new("one")
        .unwrap()
        .artifact(a.address.as_str())
        .unwrap();
    for garbage in [&b""[..], b"\xff\xff", b"\xa1av\x09", b"\xa2av\x01cshaA\x00"] {
        let asked = hub
            .join()
            .request(&subject, Bytes::from_static(garbage), Duration::from_secs(5));
        assert!(asked.await.unwrap().len() > 8);
    }
    assert_eq!((a.store.reads(), a.artifacts.stats().running), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_holders_have_what_is_kept_has_the_digest(
        len in 0_usize..1_200_000,
        copies in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), -3_i64..4, any::<bool>()), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let hub = Hub::new();
            let (whole, host) = (bytes(len), holder(hub.join(), "host").await);
            let digest: ArtifactDigest = digest_of(&whole);
            let (mut holders, mut honest) = (Vec::new(), false);
            for (number, (at, with, longer, dies)) in copies.into_iter().enumerate() {
                let holder = holder(hub.join(), &format!("h{number}")).await;
                let mut copy = whole.to_vec();
                if !copy.is_empty() {
                    let at = at.index(copy.len());
                    copy[at] ^= with;
                }
                honest |= copy == whole && longer == 0 && !dies;
                holder.store.put_as(digest, copy);
                holder.store.lie(longer, 0);
                if dies {
                    let transport = holder.transport.clone();
                    holder.store.on_read(move |number| if number > 2 { transport.leave() });
                }
                holders.push(holder);
            }
            let fetched = host.artifacts.fetch(digest, &addresses(&holders.iter().collect::<Vec<_>>())).await;
            assert_eq!(fetched.is_ok(), host.store.get(digest).is_some());
            assert!(fetched.is_ok() || !honest);
            assert!(host.store.get(digest).is_none_or(|kept| kept == whole));
            assert_eq!(host.store.parts(), 0);
        });
    }
}
