//! The functions are what `wit/deps/weft-provider.wit` says, as bytes what `docs/wire.md` shows, and strangers can't do
//! harm with others.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio::time::Instant;
use weft_capabilities::{Bucket, KeyValue, MemoryKeyValue, Sql, SqlValue, Watch};
use weft_lattice::codec::{self, Fields, Limits, Names, Type};
use weft_lattice::envelope::{Failure, FailureKind, InvocationId};
use weft_lattice::rpc::{Door, Invocation, Server, Service, Stamps};
use weft_lattice::subject::{Address, Subjects};
use weft_lattice::transport::memory::Hub;
use weft_remote::{Backend, KEY_VALUE, Provided, RemoteKeyValue, RemoteSql};
use weft_sqlite::{SqliteOptions, SqliteSql};
use wit_parser::{FunctionKind, Resolve, TypeDefKind, UnresolvedPackageGroup};

use crate::hosts::User;

pub(crate) fn root(below: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(below)
}

/// The package, as WIT has it.
pub(crate) struct Wit(Resolve);

impl Wit {
    pub(crate) fn read() -> Self {
        let path = root("wit/deps/weft-provider.wit");
        let text = fs::read_to_string(&path).unwrap();
        let mut resolve = Resolve::default();
        let group = UnresolvedPackageGroup::parse(&path, &text).unwrap();
        resolve.push_group(group).unwrap();
        Self(resolve)
    }

    /// The types of the arguments and of the results.
    pub(crate) fn function(&self, interface: &str, function: &str) -> (Vec<Type>, Vec<Type>) {
        let name = interface.split(['/', '@']).nth(1).unwrap();
        let found = self
            .0
            .interfaces
            .iter()
            .find(|(_, found)| found.name.as_deref() == Some(name));
        let function = &found.unwrap().1.functions[function];
        assert!(matches!(function.kind, FunctionKind::Freestanding));
        let args = function.params.iter().map(|param| self.of(&param.ty)).collect();
        (args, function.result.iter().map(|ty| self.of(ty)).collect())
    }

    fn of(&self, ty: &wit_parser::Type) -> Type {
        let boxed = |ty: &Option<wit_parser::Type>| ty.as_ref().map(|ty| Box::new(self.of(ty)));
        match ty {
            wit_parser::Type::Bool => Type::Bool,
            wit_parser::Type::U8 => Type::U8,
            wit_parser::Type::U64 => Type::U64,
            wit_parser::Type::S64 => Type::S64,
            wit_parser::Type::F64 => Type::F64,
            wit_parser::Type::String => Type::String,
            wit_parser::Type::Id(id) => match &self.0.types[*id].kind {
                TypeDefKind::Type(ty) => self.of(ty),
                TypeDefKind::Record(record) => {
                    let fields = record
                        .fields
                        .iter()
                        .map(|field| (field.name.clone(), self.of(&field.ty)));
                    Type::Record(Fields::new(fields).unwrap())
                }
                TypeDefKind::Variant(variant) => {
                    let case = |case: &wit_parser::Case| (case.name.clone(), case.ty.map(|ty| self.of(&ty)));
                    Type::Variant(Fields::new(variant.cases.iter().map(case)).unwrap())
                }
                TypeDefKind::Enum(cases) => {
                    Type::Enum(Names::new(cases.cases.iter().map(|case| case.name.clone())).unwrap())
                }
                TypeDefKind::Tuple(tuple) => Type::Tuple(tuple.types.iter().map(|ty| self.of(ty)).collect()),
                TypeDefKind::Option(some) => Type::Option(Box::new(self.of(some))),
                TypeDefKind::List(element) => Type::list(self.of(element)),
                TypeDefKind::Result(result) => Type::Result {
                    ok: boxed(&result.ok),
                    err: boxed(&result.err),
                },
                other => panic!("{other:?} is not for the wire"),
            },
            other => panic!("{other:?} is not in use"),
        }
    }
}

/// What was said: interface, function, arguments, results.
pub(crate) type Said = Arc<Mutex<Vec<(String, String, Bytes, Bytes)>>>;

/// A provider, of which all that is said is written down.
struct Overheard(Provided, Said);

impl Service for Overheard {
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let said = self.1.clone();
        let (interface, function) = (invocation.interface.clone(), invocation.function.clone());
        let args = invocation.body.clone();
        let answer = self.0.call(invocation);
        async move {
            let answer = answer.await?;
            said.lock()
                .unwrap()
                .push((interface, function, args, answer.clone()));
            Ok(answer)
        }
        .boxed()
    }

    fn load(&self) -> u32 {
        0
    }
}

pub(crate) async fn overheard<T>(
    backend: Backend,
    talk: impl AsyncFnOnce(weft_remote::Remote) -> T,
) -> (T, Said) {
    let (hub, said) = (Hub::new(), Said::default());
    let (subjects, address) = (Subjects::new("one").unwrap(), Address::new("h", 1).unwrap());
    // Messages are small, so that some things go in parts.
    let provided = Provided::new(backend, "run-1", 16 << 10);
    let service = Arc::new(Overheard(provided, said.clone()));
    let server = Server::new(address.clone(), Stamps::starting_at(1), service, None);
    let transport = hub.join();
    let _served = server.serve(&transport, &subjects, "default").await.unwrap();
    let remote = User::start(hub.join()).remote("p");
    remote.set_host(&address).unwrap();
    (talk(remote).await, said)
}

pub(crate) fn agree_with_the_wit(said: &Said, wit: &Wit) -> Vec<String> {
    let said = said.lock().unwrap();
    for (interface, function, args, results) in said.iter() {
        let types = wit.function(interface, function);
        for (ty, bytes) in [(types.0, args), (types.1, results)] {
            let values = codec::decode_all("value", &ty, bytes, &Limits::default());
            let values = values.unwrap_or_else(|error| panic!("{interface} {function}: {error}"));
            let again = codec::encode_all("value", &ty, &values).unwrap();
            assert_eq!(again, bytes[..], "{function} is not in deterministic form");
        }
    }
    let mut names: Vec<_> = said.iter().map(|(_, function, ..)| function.clone()).collect();
    names.sort();
    names.dedup();
    names
}

fn bucket() -> Bucket {
    Bucket::scoped("default", "shop", "items")
}

async fn all_of_key_value(store: &dyn KeyValue) {
    let bucket = bucket();
    store.set(&bucket, "k", "v".into()).await.unwrap();
    store.get(&bucket, "k").await.unwrap();
    store.get(&bucket, "none").await.unwrap();
    store.exists(&bucket, "k").await.unwrap();
    store.increment(&bucket, "k", 1).await.unwrap_err();
    store.increment(&bucket, "n", -7).await.unwrap();
    store
        .set(&bucket, "n", i64::MIN.to_string().into())
        .await
        .unwrap();
    store.increment(&bucket, "n", -1).await.unwrap_err();
    store
        .compare_and_swap(&bucket, "c", None, "1".into())
        .await
        .unwrap();
    store
        .compare_and_swap(&bucket, "c", None, "2".into())
        .await
        .unwrap();
    store.list_keys(&bucket, None, 2).await.unwrap();
    store.list_keys(&bucket, Some("k"), 100).await.unwrap();
    store
        .set_many(&bucket, vec![("a".to_owned(), "1".into())])
        .await
        .unwrap();
    store
        .get_many(&bucket, &["a".to_owned(), "b".to_owned()])
        .await
        .unwrap();
    store.delete_many(&bucket, &["a".to_owned()]).await.unwrap();
    store.delete(&bucket, "k").await.unwrap();
    let large = Bytes::from(vec![7; 3 << 20]);
    store.set(&bucket, "large", large.clone()).await.unwrap();
    assert_eq!(store.get(&bucket, "large").await.unwrap(), Some(large));
}

async fn all_of_sql(database: &dyn Sql) {
    let execute = async |statement: &str| database.execute(statement, Vec::new(), None).await;
    execute("CREATE TABLE t (i INTEGER PRIMARY KEY, v TEXT NOT NULL)")
        .await
        .unwrap();
    let params = vec![
        SqlValue::Null,
        SqlValue::Boolean(true),
        SqlValue::Integer(-5),
        SqlValue::Real(0.1),
        SqlValue::Text("x".to_owned()),
        SqlValue::Blob(vec![1, 2].into()),
    ];
    let soon = std::time::Instant::now() + Duration::from_secs(60);
    database
        .query("SELECT $1, $2, $3, $4, $5, $6", params, Some(soon))
        .await
        .unwrap();
    execute("INSERT INTO t VALUES (1, 'a'), (1, 'b')")
        .await
        .unwrap_err();
    execute("INSERT INTO t VALUES (1, NULL)").await.unwrap_err();
    execute("SELEC").await.unwrap_err();
    execute("PRAGMA synchronous = OFF").await.unwrap_err();
    let mut transaction = database.begin(Some(soon)).await.unwrap();
    transaction
        .execute("INSERT INTO t VALUES (2, 'x')", Vec::new())
        .await
        .unwrap();
    transaction.query("SELECT * FROM t", Vec::new()).await.unwrap();
    transaction.commit().await.unwrap();
    database.begin(None).await.unwrap().rollback().await.unwrap();
    let runaway = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    database.query(runaway, Vec::new(), None).await.unwrap_err();
}

#[tokio::test]
async fn what_is_said_is_what_the_wit_says() {
    let wit = Wit::read();
    let backend = Backend::KeyValue(Arc::new(MemoryKeyValue::default()));
    let ((), said) = overheard(backend, async |remote| {
        all_of_key_value(&RemoteKeyValue::new(remote)).await
    })
    .await;
    let names = agree_with_the_wit(&said, &wit);
    assert_eq!(
        names,
        [
            "compare-and-swap",
            "delete",
            "delete-many",
            "exists",
            "get",
            "get-many",
            "increment",
            "list-keys",
            "open",
            "read",
            "run",
            "set",
            "set-many",
            "write"
        ]
    );
    let folder = tempfile::tempdir().unwrap();
    let database = SqliteSql::open(&folder.path().join("a"), SqliteOptions::default()).unwrap();
    let ((), said) = overheard(Backend::Sql(Arc::new(database)), async |remote| {
        all_of_sql(&RemoteSql::new(remote)).await;
    })
    .await;
    let names = agree_with_the_wit(&said, &wit);
    assert_eq!(
        names,
        [
            "begin",
            "commit",
            "execute",
            "execute-in",
            "query",
            "query-in",
            "rollback"
        ]
    );
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{}{byte:02x}", if text.is_empty() { "" } else { " " }).unwrap();
        text
    })
}

/// Each function once, as `docs/wire.md` has it.
#[tokio::test]
async fn the_document_shows_each_function_as_it_goes() {
    let backend = Backend::KeyValue(Arc::new(MemoryKeyValue::default()));
    let ((), said) = overheard(backend, async |remote| {
        let (store, bucket) = (RemoteKeyValue::new(remote), Bucket::scoped("default", "shop", ""));
        store.set(&bucket, "k", "v".into()).await.unwrap();
        store.get(&bucket, "k").await.unwrap();
        store.exists(&bucket, "k").await.unwrap();
        store.list_keys(&bucket, None, 10).await.unwrap();
        store
            .compare_and_swap(&bucket, "k", Some("v".into()), "w".into())
            .await
            .unwrap();
        store.increment(&bucket, "n", 5).await.unwrap();
        store
            .set_many(&bucket, vec![("a".to_owned(), "1".into())])
            .await
            .unwrap();
        store
            .get_many(&bucket, &["a".to_owned(), "b".to_owned()])
            .await
            .unwrap();
        store.delete_many(&bucket, &["a".to_owned()]).await.unwrap();
        store.delete(&bucket, "k").await.unwrap();
        store.set(&bucket, "k", "v".into()).await.unwrap();
        store.increment(&bucket, "k", 1).await.unwrap_err();
    })
    .await;
    let mut rows: Vec<String> = Vec::new();
    let row = |(_, function, args, results): &(String, String, Bytes, Bytes)| {
        format!("| {function} | `{}` | `{}` |", hex(args), hex(results))
    };
    rows.extend(said.lock().unwrap().iter().map(row));
    let folder = tempfile::tempdir().unwrap();
    let database = SqliteSql::open(&folder.path().join("a"), SqliteOptions::default()).unwrap();
    let provided = Provided::new(Backend::Sql(Arc::new(database)), "run-1", 1 << 20);
    let said = |function: &'static str, args: Vec<u8>| {
        let provided = provided.clone();
        async move {
            let args = Bytes::from(args);
            let results = provided
                .call(invocation(weft_remote::SQL, function, args.clone()))
                .await
                .unwrap();
            format!("| {function} | `{}` | `{}` |", hex(&args), hex(&results))
        }
    };
    let wit = Wit::read();
    let value = |function: &str, values: &[codec::Value]| {
        codec::encode_all("args", &wit.function(weft_remote::SQL, function).0, values).unwrap()
    };
    let text = |text: &str| codec::Value::String(text.to_owned());
    let none = || codec::Value::List(Vec::new());
    let id = || codec::Value::Bytes(vec![7; 16]);
    let within = || codec::Value::Option(Some(Box::new(codec::Value::U64(5_000))));
    let five = codec::Value::Variant("integer".to_owned(), Some(Box::new(codec::Value::S64(5))));
    for (function, values) in [
        (
            "execute",
            vec![
                text("CREATE TABLE t (i INTEGER)"),
                none(),
                codec::Value::Option(None),
            ],
        ),
        (
            "query",
            vec![text("SELECT $1 AS n"), codec::Value::List(vec![five]), within()],
        ),
        ("begin", vec![id(), within()]),
        ("execute-in", vec![id(), text("INSERT INTO t VALUES (1)"), none()]),
        ("query-in", vec![id(), text("SELECT i FROM t"), none()]),
        ("commit", vec![id()]),
        ("rollback", vec![id()]),
    ] {
        rows.push(said(function, value(function, &values)).await);
    }
    let doc = fs::read_to_string(root("docs/wire.md")).unwrap();
    let all = rows.join("\n");
    assert!(doc.contains(&all), "docs/wire.md should have the rows\n{all}\n");
}

/// Each message of a watch, as `docs/wire.md` has it; with the id of which all bytes are 7.
#[tokio::test]
async fn the_document_shows_each_message_of_a_watch_as_it_goes() {
    let store = Arc::new(MemoryKeyValue::default());
    let provided = Provided::new(Backend::KeyValue(store.clone()), "run-1", 1 << 20);
    let bucket = || Bucket::scoped("default", "shop", "items");
    let asked = |function: &'static str, args: Vec<u8>| {
        let provided = provided.clone();
        async move {
            let asked = invocation(weft_remote::WATCH, function, args.into());
            provided.call(asked).await.unwrap()
        }
    };
    let text = |text: &str| [vec![0x60 + u8::try_from(text.len()).unwrap()], text.into()].concat();
    // The bucket as all functions of key-value have it, what keys begin with, and the group.
    let args = ["default\0shop\0items\0", "user/", "default/shop/reader"];
    let begin = [vec![0x83], args.map(text).concat()].concat();
    let began = asked("begin", begin.clone()).await;
    let at = began
        .windows(3)
        .position(|bytes| bytes == [b'i', b'd', 0x50])
        .unwrap()
        + 3;
    let id: [u8; 16] = began[at..at + 16].try_into().unwrap();
    store.set(&bucket(), "user/ada", "v".into()).await.unwrap();
    store.delete(&bucket(), "user/ada").await.unwrap();
    store.set(&bucket(), "other", "v".into()).await.unwrap();
    let handle = [vec![0x50], id.to_vec()].concat();
    let next = [vec![0x82], handle.clone(), vec![0x00]].concat();
    let changes = asked("next", next.clone()).await;
    let end = [vec![0x81], handle].concat();
    let ended = asked("end", end.clone()).await;
    let gone = asked("next", next.clone()).await;
    let (random, shown) = (hex(&id), hex(&[7; 16]));
    let rows = [
        ("begin", begin.clone(), began),
        ("next", next.clone(), changes),
        ("end", end, ended),
        ("next", next.clone(), gone),
    ];
    let rows = rows.map(|(function, args, results)| {
        let results = match hex(&results) {
            results if results.is_empty() => String::new(),
            results => format!("`{results}` "),
        };
        let row = format!("| {function} | `{}` | {results}|", hex(&args));
        row.replace(&random, &shown)
    });
    let doc = fs::read_to_string(root("docs/wire.md")).unwrap();
    let all = rows.join("\n");
    assert!(doc.contains(&all), "docs/wire.md should have the rows\n{all}\n");

    // A host asks just so.
    let store = Backend::KeyValue(Arc::new(MemoryKeyValue::default()));
    let ((), said) = overheard(store, async |remote| {
        let store = RemoteKeyValue::new(remote);
        let watch = Watch::new("user/", "default/shop/reader");
        let mut changes = store.watch(&bucket(), watch).await.unwrap();
        store.set(&bucket(), "user/ada", "v".into()).await.unwrap();
        let change = changes.next().await.unwrap();
        assert_eq!(
            (&*change.key, change.value.as_deref()),
            ("user/ada", Some(&b"v"[..]))
        );
    })
    .await;
    let said = said.lock().unwrap();
    let asked = |function: &str| said.iter().find(|(_, said, ..)| said == function).unwrap();
    let (.., args, began) = asked("begin");
    assert_eq!(hex(args), hex(&begin));
    let id = &began[at..at + 16];
    let (.., args, _) = asked("next");
    assert_eq!(
        hex(args).replace(&hex(id), &shown),
        hex(&next).replace(&random, &shown)
    );
}

pub(crate) fn invocation(interface: &str, function: &str, body: Bytes) -> Invocation {
    Invocation {
        id: InvocationId::random(),
        target: "default/test/p".to_owned(),
        interface: interface.to_owned(),
        function: function.to_owned(),
        revision: None,
        body,
        deadline: Instant::now() + Duration::from_secs(30),
        hops: 0,
        trace: None,
        caller: "default/test/user".to_owned(),
        from: None,
        stream: None,
        door: Door::Host,
    }
}

#[tokio::test]
async fn what_is_not_of_the_interface_is_refused_and_did_not_start() {
    let provided = Provided::new(
        Backend::KeyValue(Arc::new(MemoryKeyValue::default())),
        "run-1",
        1 << 20,
    );
    for (interface, function, body, kind) in [
        (weft_remote::SQL, "query", &[0x80][..], FailureKind::NotFound),
        (KEY_VALUE, "drop-all", &[0x80], FailureKind::NotFound),
        (KEY_VALUE, "get", &[0x80], FailureKind::RefusedByGuest),
        (
            KEY_VALUE,
            "get",
            &[0x82, 0x60, 0x61, b'k'],
            FailureKind::RefusedByGuest,
        ),
        (
            KEY_VALUE,
            "get-many",
            &[0x82, 0x63, 0, 0, 0, 0x9b, 255, 255, 255, 255, 255, 255, 255, 255],
            FailureKind::RefusedByGuest,
        ),
    ] {
        let failure = provided
            .call(invocation(interface, function, Bytes::copy_from_slice(body)))
            .await
            .unwrap_err();
        assert_eq!(
            (failure.kind, failure.may_have_started),
            (kind, false),
            "{failure}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Arguments from a stranger, and answers from one.
    #[test]
    fn garbage_is_an_error_and_no_harm(args in proptest::collection::vec(any::<u8>(), 0..200), at in 0..24_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let names = [
                "get", "set", "delete", "exists", "list-keys", "increment", "compare-and-swap", "get-many", "set-many",
                "delete-many", "open", "write", "run", "read",
            ];
            let function = names[at % names.len()];
            let interface = if at % names.len() < 10 { KEY_VALUE } else { weft_remote::PARTS };
            let provided = Provided::new(Backend::KeyValue(Arc::new(MemoryKeyValue::default())), "r", 1 << 20);
            let _ = provided.call(invocation(interface, function, args.clone().into())).await;

            let hub = Hub::new();
            let (subjects, address) = (Subjects::new("one").unwrap(), Address::new("h", 1).unwrap());
            let service = Arc::new(Always(args.into()));
            let server = Server::new(address.clone(), Stamps::starting_at(1), service, None);
            let transport = hub.join();
            let _served = server.serve(&transport, &subjects, "default").await.unwrap();
            let remote = User::start(hub.join()).remote("p");
            remote.set_host(&address).unwrap();
            let store = RemoteKeyValue::new(remote);
            let _ = store.get(&bucket(), "k").await;
            let _ = store.get_many(&bucket(), &["k".to_owned()]).await;
        });
    }
}

/// Answers everything with the same bytes.
pub(crate) struct Always(pub(crate) Bytes);

impl Service for Always {
    fn call(&self, _: Invocation) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let answer = self.0.clone();
        async move { Ok(answer) }.boxed()
    }

    fn load(&self) -> u32 {
        0
    }
}
