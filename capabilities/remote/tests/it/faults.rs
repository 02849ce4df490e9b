//! What a network adds: hosts that go, answers that are lost, callers that leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_capabilities::sql::SqlError;
use weft_capabilities::{Bucket, KeyValue, KeyValueError, MemoryKeyValue, Sql, SqlValue, Watch};
use weft_lattice::subject::Address;
use weft_lattice::transport::memory::Hub;
use weft_remote::{Backend, IDLE_MAX, Provided, Remote, RemoteKeyValue, RemoteSql};
use weft_sqlite::{SqliteOptions, SqliteSql};

use crate::hosts::{Owner, Pair, User};

fn bucket() -> Bucket {
    Bucket::scoped("default", "shop", "items")
}

fn memory() -> Backend {
    Backend::KeyValue(Arc::new(MemoryKeyValue::default()))
}

/// A database with a table `t`, its remote end, and what serves it.
struct Table {
    pair: Pair,
    local: Arc<SqliteSql>,
    remote: Arc<RemoteSql>,
    way: Remote,
    provided: Provided,
    _folder: tempfile::TempDir,
}

impl Table {
    async fn new(pair: Pair) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let local = Arc::new(SqliteSql::open(&folder.path().join("a"), SqliteOptions::default()).unwrap());
        let create = "CREATE TABLE t (i INTEGER)";
        Sql::execute(&*local, create, Vec::new(), None).await.unwrap();
        let (way, provided) = pair.provide(Backend::Sql(local.clone()));
        Self {
            pair,
            remote: Arc::new(RemoteSql::new(way.clone())),
            local,
            way,
            provided,
            _folder: folder,
        }
    }

    /// What is in the table, as its own host sees it once no transaction is open.
    async fn count(&self) -> i64 {
        let insert = "INSERT INTO t VALUES (0)";
        Sql::execute(&*self.local, insert, Vec::new(), None)
            .await
            .unwrap();
        let rows = Sql::query(
            &*self.local,
            "SELECT count(*) FROM t WHERE i > 0",
            Vec::new(),
            None,
        )
        .await;
        match rows.unwrap().rows[0][0] {
            SqlValue::Integer(count) => count,
            ref other => panic!("{other:?}"),
        }
    }
}

const INSERT: &str = "INSERT INTO t VALUES (1)";

#[tokio::test]
async fn while_no_host_has_it_calls_fail_at_once_and_say_why() {
    let user = User::start(Hub::new().join());
    let remote = user.remote("carts");
    let store = RemoteKeyValue::new(remote.clone());
    for condition in [None, Some("its host `eu-1` has gone")] {
        condition.inspect(|condition| remote.set_nowhere(*condition));
        let error = store.get(&bucket(), "k").await.unwrap_err();
        let expected = condition.unwrap_or("no host is known to have it yet");
        assert!(
            matches!(&error, KeyValueError::Unavailable(why) if why.contains(expected)),
            "{error}"
        );
        assert!(error.to_string().contains("default/test/carts"), "{error}");
    }
    let error = RemoteSql::new(remote)
        .query("SELECT 1", Vec::new(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, SqlError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn it_is_followed_to_the_next_run_of_its_host() {
    let hub = Hub::new();
    let (first, second) = (Owner::start(hub.join()).await, Owner::start(hub.join()).await);
    let (store, user) = (Arc::new(MemoryKeyValue::default()), User::start(hub.join()));
    let remote = user.remote("p");
    let reached = RemoteKeyValue::new(remote.clone());
    for owner in [first, second] {
        owner.provide("p", Backend::KeyValue(store.clone()));
        remote.set_host(&owner.address).unwrap();
        reached.increment(&bucket(), "n", 1).await.unwrap();
        owner.kill();
        let error = reached.increment(&bucket(), "n", 1).await.unwrap_err();
        assert!(
            matches!(&error, KeyValueError::Unavailable(why) if !why.contains("may have been")),
            "{error}"
        );
    }
    assert_eq!(store.get(&bucket(), "n").await.unwrap().unwrap(), "2");
}

#[tokio::test]
async fn an_answer_that_is_lost_says_what_may_have_happened() {
    let mut table = Table::new(Pair::on_nats("").await).await;
    let mut transaction = table.remote.begin(None).await.unwrap();
    transaction.execute(INSERT, Vec::new()).await.unwrap();
    let mut held = Sql::begin(&*table.local, None);
    // The one writer is taken: what is written now waits, until the server goes with all answers.
    let waits = async {
        assert!(futures::poll!(&mut held).is_pending());
        let update = table.remote.execute(INSERT, Vec::new(), None).await;
        assert!(matches!(update, Err(SqlError::MayHaveCommitted)), "{update:?}");
    };
    let mut nats = table.pair.nats.take().unwrap();
    let provided = table.provided.clone();
    let killed = async {
        while provided.stats().calls < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        nats.kill();
    };
    futures::future::join(waits, killed).await;
    let error = transaction.commit().await.unwrap_err();
    // It was not sent at all.
    assert!(matches!(error, SqlError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_transaction_goes_with_the_host_that_began_it() {
    let table = Table::new(Pair::in_memory().await).await;
    let mut transaction = table.remote.begin(None).await.unwrap();
    transaction.execute(INSERT, Vec::new()).await.unwrap();
    assert_eq!(table.provided.stats().transactions, 1);
    table.provided.peer_gone(&Address::new("another", 1).unwrap());
    assert_eq!(table.provided.stats().transactions, 1);
    table.provided.peer_gone(&table.pair.user.address);
    let error = transaction.execute(INSERT, Vec::new()).await.unwrap_err();
    assert!(matches!(error, SqlError::RolledBack { .. }), "{error:?}");
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error, SqlError::RolledBack { .. }), "{error:?}");
    assert_eq!(table.count().await, 0);
}

#[tokio::test]
async fn a_transaction_stays_with_the_run_that_began_it() {
    let table = Table::new(Pair::in_memory().await).await;
    let mut transaction = table.remote.begin(None).await.unwrap();
    transaction.execute(INSERT, Vec::new()).await.unwrap();
    // From now on others are called; not for what was begun.
    table.way.set_nowhere("it moved");
    transaction.execute(INSERT, Vec::new()).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(table.count().await, 2);
}

#[tokio::test]
async fn a_transaction_of_which_nothing_is_heard_is_rolled_back() {
    let table = Table::new(Pair::in_memory().await).await;
    let mut transaction = table.remote.begin(None).await.unwrap();
    transaction.execute(INSERT, Vec::new()).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(IDLE_MAX).await;
    while table.provided.stats().expired == 0 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error, SqlError::RolledBack { .. }), "{error:?}");
    assert_eq!(table.count().await, 0);
}

#[tokio::test]
async fn a_watch_goes_with_the_host_that_began_it_and_with_who_wants_no_more() {
    let pair = Pair::in_memory().await;
    let store = Arc::new(MemoryKeyValue::default());
    let (way, provided) = pair.provide(Backend::KeyValue(store.clone()));
    let remote = RemoteKeyValue::new(way);
    let watch = async || remote.watch(&bucket(), Watch::new("", "g")).await.unwrap();
    let ended = async || {
        let released = tokio::time::timeout(Duration::from_secs(30), provided.released());
        released.await.expect("a watch is kept for nobody");
    };
    drop(watch().await);
    ended().await;

    let mut changes = watch().await;
    provided.peer_gone(&pair.user.address);
    // A question may be on its way, which this answers; the next finds nothing.
    store.set(&bucket(), "k", "v".into()).await.unwrap();
    let over = async { while changes.next().await.is_some() {} };
    let over = tokio::time::timeout(Duration::from_secs(30), over).await;
    over.expect("a watch outlives the host that has it");
    ended().await;
}

#[tokio::test]
async fn a_statement_that_is_dropped_ends_its_transaction() {
    let table = Table::new(Pair::in_memory().await).await;
    let mut transaction = table.remote.begin(None).await.unwrap();
    transaction.execute(INSERT, Vec::new()).await.unwrap();
    let runaway =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i < 0";
    let statement = transaction.query(runaway, Vec::new());
    assert!(
        tokio::time::timeout(Duration::from_millis(20), statement)
            .await
            .is_err()
    );
    let error = transaction.execute(INSERT, Vec::new()).await.unwrap_err();
    assert!(matches!(error, SqlError::RolledBack { .. }), "{error:?}");
    drop(transaction);
    assert_eq!(table.count().await, 0);
    assert_eq!(table.provided.stats().transactions, 0);
}

#[tokio::test]
async fn a_beginning_that_is_dropped_leaves_no_transaction() {
    let table = Table::new(Pair::in_memory().await).await;
    for _ in 0..20 {
        let begin = table.remote.begin(None);
        let some_time = Duration::from_micros(200);
        drop(tokio::time::timeout(some_time, begin).await);
    }
    assert_eq!(table.count().await, 0);
    while table.provided.stats().transactions > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_largest_batch_goes_and_leaves_nothing_behind() {
    let pair = Pair::on_nats("").await;
    let (remote, provided) = pair.provide(memory());
    let store = RemoteKeyValue::new(remote.clone());
    let value = Bytes::from(vec![7; 8 << 20]);
    let entries = vec![
        ("a".to_owned(), value.slice(1..)),
        ("b".to_owned(), value.slice(1..)),
    ];
    store.set_many(&bucket(), entries).await.unwrap();
    let keys = ["a".to_owned(), "b".to_owned()];
    let values = store.get_many(&bucket(), &keys).await.unwrap();
    assert_eq!(values, [Some(value.slice(1..)), Some(value.slice(1..))]);
    assert_eq!((provided.stats().in_parts, provided.stats().reserved), (2, 0));
    assert_eq!(remote.stats().in_parts, 2);
}

#[tokio::test]
async fn parts_have_bounds_and_others_find_room_again() {
    let pair = Pair::in_memory().await;
    let (remote, provided) = pair.provide(memory());
    let store = Arc::new(RemoteKeyValue::new(remote));
    let value = Bytes::from(vec![7; 8 << 20]);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let (store, value) = (store.clone(), value.clone());
        tasks.spawn(async move { store.set(&bucket(), &(n % 4).to_string(), value).await });
    }
    for done in tasks.join_all().await {
        assert!(
            matches!(done, Ok(()) | Err(KeyValueError::Overloaded)),
            "{done:?}"
        );
    }
    assert_eq!(provided.stats().reserved, 0);
    store.set(&bucket(), "k", value).await.unwrap();
}

#[tokio::test]
async fn no_statement_waits_longer_than_its_deadline_for_a_host_that_says_nothing() {
    let table = Table::new(Pair::in_memory().await).await;
    let _held = Sql::begin(&*table.local, None).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = table
        .remote
        .execute(INSERT, Vec::new(), Some(deadline))
        .await
        .unwrap_err();
    // The backend said so itself: it is certain.
    assert!(
        matches!(error, SqlError::DeadlineExceeded | SqlError::Busy),
        "{error:?}"
    );
}
