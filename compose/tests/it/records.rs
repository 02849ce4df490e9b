//! Records as they are stored: golden files of this version, and readers that meet another one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_compose::record::{VERSION, decode, encode};
use weft_compose::{
    ActorRecord, AppRecord, Capability, CommandRecord, Limits, LinkRecord, LinkTarget, ProviderRecord,
    QuotaRecord, RouteRecord, SecretRecord, SubscriptionRecord, WatchRecord,
};

fn golden_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"))
}

fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, record: &T) {
    let path = golden_file(name);
    let written = String::from_utf8(encode(record)).unwrap();
    // A file that is missing is written: it comes with a new record, never with a changed one.
    let stored = std::fs::read_to_string(&path).unwrap_or_else(|_| {
        std::fs::write(&path, format!("{written}\n")).unwrap();
        panic!("{} was missing and is written: check it in", path.display())
    });
    assert_eq!(
        written,
        stored.trim_end(),
        "{name}.json is what other hosts hold: make a new version"
    );
    assert_eq!(decode::<T>(name, stored.as_bytes()).unwrap(), *record);

    let mut newer: Value = serde_json::from_str(&stored).unwrap();
    newer["of_a_later_version"] = json!({ "deep": [1] });
    assert_eq!(
        decode::<T>(name, newer.to_string().as_bytes()).unwrap(),
        *record,
        "an unknown field is not ignored"
    );
    newer["v"] = json!(VERSION + 1);
    let refused = decode::<T>(name, newer.to_string().as_bytes()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("`{name}` in the control store can't be read")
    );
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(
        source.starts_with("version 2 is not known here, only 1: upgrade this host"),
        "{source}"
    );
}

fn app() -> AppRecord {
    AppRecord {
        v: VERSION,
        namespace: "default".into(),
        name: "shop".into(),
        revision: 3,
        version: Some("1.2.0".into()),
        description: None,
        reserve: None,
        manifest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
        by: "someone".into(),
        at: "2026-01-01T00:00:00Z".into(),
        before: None,
    }
}

fn link(target: LinkTarget, declared: Option<LinkTarget>) -> LinkRecord {
    LinkRecord {
        v: VERSION,
        actor: "default/shop/catalog".parse().unwrap(),
        interface: "wasi:keyvalue".parse().unwrap(),
        revision: 7,
        target,
        declared,
        by: "someone".into(),
    }
}

fn to_goods() -> LinkTarget {
    LinkTarget::Provider {
        name: "default/shop/goods".parse().unwrap(),
        bucket: Some("items".into()),
        shared: false,
    }
}

#[test]
fn an_app_is_stored_as_ever() {
    golden("app", &app());
}

#[test]
fn an_actor_is_stored_as_ever() {
    golden(
        "actor",
        &ActorRecord {
            v: VERSION,
            name: "default/shop/catalog".parse().unwrap(),
            revision: 2,
            component: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
            config: [("currency".into(), "EUR".into())].into(),
            limits: Limits::default(),
            idempotent: vec!["shop:catalog/catalog.get".into()],
            secrets: BTreeMap::new(),
            allow_from: Vec::new(),
        },
    );
}

#[test]
fn a_provider_is_stored_as_ever() {
    golden(
        "provider",
        &ProviderRecord {
            v: VERSION,
            name: "default/shop/goods".parse().unwrap(),
            revision: 1,
            capability: Capability::KeyValue,
            backend: "redb".into(),
            config: [("cacheMiB".into(), "64".into())].into(),
            allow_from: Vec::new(),
            command: None,
        },
    );
}

#[test]
fn a_provider_that_other_apps_may_use_is_stored_as_ever() {
    golden(
        "provider-shared",
        &ProviderRecord {
            v: VERSION,
            name: "default/shop/goods".parse().unwrap(),
            revision: 1,
            capability: Capability::KeyValue,
            backend: "redb".into(),
            config: BTreeMap::new(),
            allow_from: vec!["default/blog".parse().unwrap(), "press/*".parse().unwrap()],
            command: None,
        },
    );
}

#[test]
fn a_provider_that_a_host_starts_is_stored_as_ever() {
    golden(
        "provider-started",
        &ProviderRecord {
            v: VERSION,
            name: "default/shop/goods".parse().unwrap(),
            revision: 1,
            capability: Capability::KeyValue,
            backend: "outside".into(),
            config: BTreeMap::new(),
            allow_from: Vec::new(),
            command: Some(CommandRecord {
                args: vec!["goods".into(), "--verbose".into()],
                env: [("GOODS_FILE".into(), "/var/goods".into())].into(),
                host: Some("eu-1".parse().unwrap()),
                host_labels: BTreeMap::new(),
            }),
        },
    );
}

#[test]
fn a_provider_that_hosts_with_labels_start_is_stored_as_ever() {
    golden(
        "provider-started-by-labels",
        &ProviderRecord {
            v: VERSION,
            name: "default/shop/goods".parse().unwrap(),
            revision: 1,
            capability: Capability::KeyValue,
            backend: "outside".into(),
            config: BTreeMap::new(),
            allow_from: Vec::new(),
            command: Some(CommandRecord {
                args: vec!["goods".into()],
                env: [("GOODS_TOKEN".into(), "${secret:token}".into())].into(),
                host: None,
                host_labels: [("disk".into(), "ssd".into()), ("zone".into(), "a".into())].into(),
            }),
        },
    );
}

#[test]
fn a_process_is_for_the_host_that_is_named_or_for_each_that_has_all_of_the_labels() {
    let command = |host: Option<&str>, labels: &[(&str, &str)]| CommandRecord {
        args: vec!["goods".into()],
        env: BTreeMap::new(),
        host: host.map(|host| host.parse().unwrap()),
        host_labels: map(labels),
    };
    let is_for = |command: &CommandRecord, labels: &[(&str, &str)]| {
        command.is_for(&"eu-1".parse().unwrap(), &map(labels))
    };
    assert!(is_for(&command(Some("eu-1"), &[]), &[]));
    assert!(!is_for(&command(Some("eu-2"), &[]), &[("disk", "ssd")]));
    let labels = command(None, &[("disk", "ssd"), ("zone", "a")]);
    assert!(is_for(&labels, &[("disk", "ssd"), ("zone", "a"), ("rack", "7")]));
    assert!(!is_for(&labels, &[("disk", "ssd"), ("zone", "b")]));
    assert!(!is_for(&labels, &[("disk", "ssd")]));
    // Which no manifest asks for.
    assert!(!is_for(&command(None, &[]), &[("disk", "ssd")]));
}

fn map(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into()));
    labels.collect()
}

#[test]
fn a_quota_is_stored_as_ever() {
    golden(
        "quota",
        &QuotaRecord {
            v: VERSION,
            namespace: "press".into(),
            messages_per_s: Some(100),
            object_bytes_per_s: Some(1 << 20),
            connections: None,
            by: "uid:0".into(),
        },
    );
}

#[test]
fn a_secret_is_stored_as_ever() {
    golden(
        "secret",
        &SecretRecord {
            v: VERSION,
            name: "default/shop/db-password".parse().unwrap(),
            version: 3,
            key: "0123456789abcdef".into(),
            sealed: "c2VhbGVk".into(),
            by: "uid:0".into(),
            at: "2026-01-01T00:00:00Z".into(),
        },
    );
}

#[test]
fn links_are_stored_as_ever() {
    golden("link-to-provider", &link(to_goods(), Some(to_goods())));
    let pricing = LinkTarget::Actor {
        name: "default/shop/pricing".parse().unwrap(),
    };
    golden("link-to-actor", &link(pricing, None));
    let allow = vec![
        "https://api.example.com".parse().unwrap(),
        "http://10.0.0.0/8:8080".parse().unwrap(),
    ];
    golden("link-to-http", &link(LinkTarget::Http { allow }, None));
    let named = LinkRecord {
        interface: "wasi:keyvalue#cache".parse().unwrap(),
        ..link(to_goods(), None)
    };
    golden("link-by-name", &named);
    golden("link-removed", &link(LinkTarget::Removed, Some(to_goods())));
}

#[test]
fn a_route_is_stored_as_ever() {
    golden(
        "route",
        &RouteRecord {
            v: VERSION,
            app: "default/shop".parse().unwrap(),
            actor: "default/shop/storefront".parse().unwrap(),
            host: Some("shop.example".into()),
            path: "/".into(),
            methods: vec!["GET".into(), "POST".into()],
            headers: BTreeMap::from([("x-tenant".into(), "blue".into())]),
            strip_prefix: false,
        },
    );
}

#[test]
fn a_subscription_is_stored_as_ever() {
    golden(
        "subscription",
        &SubscriptionRecord {
            v: VERSION,
            actor: "default/shop/mailer".parse().unwrap(),
            provider: "default/shop/events".parse().unwrap(),
            subject: "orders.*".into(),
            group: "mailer".into(),
            shared: false,
        },
    );
}

#[test]
fn a_watch_is_stored_as_ever() {
    golden(
        "watch",
        &WatchRecord {
            v: VERSION,
            actor: "default/shop/reader".parse().unwrap(),
            provider: "default/shop/store".parse().unwrap(),
            bucket: "carts".into(),
            keys: "user/".into(),
            shared: false,
        },
    );
}

#[test]
fn a_reader_of_the_first_version_reads_what_this_one_writes() {
    /// The fields without which the first version could not do.
    #[derive(serde::Deserialize)]
    struct OldActor {
        v: u32,
        name: String,
        revision: u64,
        component: String,
    }
    let stored = std::fs::read(golden_file("actor")).unwrap();
    let old: OldActor = serde_json::from_slice(&stored).unwrap();
    assert_eq!(
        (old.v, old.name.as_str(), old.revision, old.component.len()),
        (1, "default/shop/catalog", 2, 71)
    );
}

#[test]
fn what_the_first_version_left_out_has_its_default() {
    let stored =
        br#"{"v":1,"actor":"default/shop/catalog","interface":"wasi:keyvalue","revision":7,"by":"someone",
        "target":{"kind":"provider","name":"default/shop/goods"}}"#;
    let read: LinkRecord = decode("link", stored).unwrap();
    let target = LinkTarget::Provider {
        name: "default/shop/goods".parse().unwrap(),
        bucket: None,
        shared: false,
    };
    assert_eq!(read, link(target, None));
}

#[test]
fn what_is_no_record_is_refused_by_its_key() {
    for stored in ["", "{}", "[]", r#"{"v":1}"#, r#"{"v":"1"}"#] {
        assert!(decode::<AppRecord>("app/default/shop", stored.as_bytes()).is_err());
    }
    let unknown =
        br#"{"v":1,"actor":"a/b/c","interface":"a:b","revision":1,"by":"x","target":{"kind":"tunnel"}}"#;
    assert!(decode::<LinkRecord>("link", unknown).is_err());
}
