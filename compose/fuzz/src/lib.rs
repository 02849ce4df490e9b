//! What holds of any text that this crate reads.
//!
//! Owns the properties and no inputs: the fuzz targets bring those of the fuzzer, `tests/it/fuzz.rs`, which has this
//! file as a module, those of proptest.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_compose::deploy::{Claims, CurrentApp, plan};
use weft_compose::fault::FAULTS_MAX;
use weft_compose::key::{self, Key};
use weft_compose::record::{decode, encode};
use weft_compose::units::{duration_text, parse_duration, parse_size, size_text};
use weft_compose::{
    ActorName, ActorRecord, AllowPattern, AppName, AppRecord, InterfacePattern, LinkKey, LinkRecord,
    Manifest, ProviderName, ProviderRecord, RouteRecord, parse,
};

/// The longest report of faults, in bytes: it is sent to whoever deploys, and logged.
const REPORT_LEN_MAX: usize = 256 << 10;

/// The longest text of one error, in bytes.
const ERROR_LEN_MAX: usize = 1 << 10;

/// A text is refused with a report of bounded length, or read, and then written as a text that reads as the same.
/// What is read has keys that read back, and deploys onto nothing.
pub fn manifest(text: &str) {
    let manifest = match parse("app.yaml", text) {
        Ok(manifest) => manifest,
        Err(faults) => {
            assert!((1..=FAULTS_MAX).contains(&faults.listed.len()));
            let report = faults.render(text);
            assert!(report.len() <= REPORT_LEN_MAX, "{} bytes", report.len());
            return;
        }
    };
    let written = manifest.to_yaml();
    let again = parse("app.yaml", &written).unwrap_or_else(|faults| panic!("{}", faults.render(&written)));
    assert_eq!(again, manifest, "written as\n{written}");
    assert_eq!(again.to_yaml(), written);
    for claim in manifest.routes.iter().flat_map(|route| route.claims()) {
        assert_eq!(key::parse(&key::route(&claim)), Some(Key::Route(claim)));
    }
    deploys(&manifest);
}

/// A manifest becomes records, and the same manifest over them changes nothing.
fn deploys(manifest: &Manifest) {
    let digests = manifest
        .actors
        .keys()
        .map(|actor| (actor.clone(), "sha256:0".to_owned()));
    let digests = digests.collect();
    let change_of = |current: &CurrentApp| {
        plan(
            manifest,
            &digests,
            current,
            &Claims::new(),
            "someone",
            "2026-01-01T00:00:00Z",
        )
        .expect("all components are there, and no route is taken")
    };
    let name = &manifest.app.value;
    let change = change_of(&CurrentApp::new(name.clone()));
    let entries = change
        .puts
        .iter()
        .map(|(key, value)| (key.as_str(), 1, value.as_slice()));
    let (current, claims) = CurrentApp::read(name.clone(), entries).expect("what was written is read");
    assert!(claims.is_empty(), "{claims:?}");
    let again = change_of(&current);
    assert!(again.is_empty(), "{:?}", again.summary);
}

/// Names, patterns, units, keys and records: refused, or read, and then written as something that reads as the same.
pub fn texts(text: &str) {
    reads_back::<ActorName>(text);
    reads_back::<ProviderName>(text);
    reads_back::<AppName>(text);
    reads_back::<InterfacePattern>(text);
    reads_back::<LinkKey>(text);
    reads_back::<weft_compose::SecretName>(text);
    reads_back::<weft_compose::SecretSource>(text);
    reads_back::<AllowPattern>(text);
    if let Ok(pattern) = text.parse::<AllowPattern>() {
        pattern.names_private();
        for host in ["a.example", "[::1]", "10.0.0.1", "]", ""] {
            pattern.matches("https", host, 443);
        }
    }
    if let Some(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
    }
    if let Some(size) = parse_size(text) {
        assert_eq!(parse_size(&size_text(size)), Some(size));
    }
    match key::parse(text) {
        Some(Key::App(name)) => assert_eq!(key::app(&name), text),
        Some(Key::Actor(name)) => assert_eq!(key::actor(&name), text),
        Some(Key::Provider(name)) => assert_eq!(key::provider(&name), text),
        Some(Key::Link(actor, interface)) => assert_eq!(key::link(&actor, &interface), text),
        Some(Key::Placement(actor, host)) => assert_eq!(key::placement(&actor, &host), text),
        Some(Key::Move(provider)) => assert_eq!(key::moved(&provider), text),
        Some(Key::Quota(namespace)) => assert_eq!(key::quota(&namespace), text),
        Some(Key::Secret(name)) => assert_eq!(key::secret(&name), text),
        Some(Key::Subscription(actor, provider, subject)) => {
            assert_eq!(key::subscription(&actor, &provider, &subject), text);
        }
        Some(Key::Watch(actor, provider, bucket, keys)) => {
            assert_eq!(key::watch(&actor, &provider, &bucket, &keys), text);
        }
        Some(Key::Route(claim)) => assert_eq!(key::parse(&key::route(&claim)), Some(Key::Route(claim))),
        None => {}
    }
    is_a_record::<AppRecord>(text);
    is_a_record::<ActorRecord>(text);
    is_a_record::<ProviderRecord>(text);
    is_a_record::<LinkRecord>(text);
    is_a_record::<RouteRecord>(text);
    is_a_record::<weft_compose::SubscriptionRecord>(text);
    is_a_record::<weft_compose::WatchRecord>(text);
    is_a_record::<weft_compose::record::PlacementRecord>(text);
    is_a_record::<weft_compose::MoveRecord>(text);
    is_a_record::<weft_compose::QuotaRecord>(text);
    is_a_record::<weft_compose::SecretRecord>(text);
}

fn reads_back<T: FromStr<Err: Display> + Display + Debug + PartialEq>(text: &str) {
    match text.parse::<T>() {
        Ok(read) => {
            let written = read.to_string();
            let again = written.parse::<T>();
            assert!(
                again.as_ref().is_ok_and(|again| *again == read),
                "{read:?} is written as {written}"
            );
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() <= ERROR_LEN_MAX, "{} bytes", error.len());
        }
    }
}

fn is_a_record<T: Serialize + DeserializeOwned + Debug + PartialEq>(text: &str) {
    if let Ok(record) = decode::<T>("key", text.as_bytes()) {
        let again = decode::<T>("key", &encode(&record)).expect("what was written is read");
        assert_eq!(again, record);
    }
}
