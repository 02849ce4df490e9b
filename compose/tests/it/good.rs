//! Manifests that are right.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::btree_map;
use proptest::option;
use proptest::prelude::*;
use weft_compose::manifest::{Actor, ComponentRef, Link, Manifest, Provider, Route, Subscription, Watch};
use weft_compose::{Capability, Limits, LinkTarget, parse};

pub(crate) const SHOP: &str = include_str!("../shop.yaml");

#[test]
fn reads_what_the_manual_shows() {
    let shop = parse("app.yaml", SHOP).unwrap();
    assert_eq!(shop.app.value.as_str(), "default/shop");
    assert_eq!(shop.description.as_deref(), Some("A small shop."));
    let catalog = &shop.actors["catalog"];
    assert_eq!(catalog.name.value.as_str(), "default/shop/catalog");
    assert_eq!(
        catalog.component.value,
        ComponentRef::Path("../target/catalog.wasm".into())
    );
    assert_eq!(catalog.config["pageSize"], "20");
    assert_eq!(catalog.config["preview"], "true");
    assert_eq!(catalog.limits.cpu_time, Duration::from_millis(500));
    assert_eq!(catalog.limits.memory_bytes, 64 << 20);
    assert_eq!(catalog.limits.timeout, Limits::default().timeout);
    let (pattern, link) = catalog.link("wasi:keyvalue/store@0.2.0-draft").unwrap();
    assert_eq!(pattern.to_string(), "wasi:keyvalue");
    assert!(
        matches!(&link.target.value, LinkTarget::Provider { name, bucket: Some(bucket), shared: false }
        if name.as_str() == "default/shop/goods" && bucket == "items")
    );
    assert_eq!(shop.providers["goods"].config["cacheMiB"], "64");
    assert_eq!(shop.routes[0].host.as_deref(), Some("shop.example"));
    assert_eq!(shop.routes[0].methods, ["GET", "POST"]);
    assert_eq!(shop.routes[0].headers["x-tenant"], "blue");
}

#[test]
fn knows_where_things_were_written() {
    let shop = parse("app.yaml", SHOP).unwrap();
    let link = &shop.actors["catalog"].links[&"shop:pricing/pricing".parse().unwrap()];
    let fault = shop.fault(
        link.target.span,
        weft_compose::FaultKind::Found("actor `pricing` does not export shop:pricing/pricing".into()),
    );
    insta::assert_snapshot!(fault.render(SHOP), @r"
    app.yaml:27:38: actor `pricing` does not export shop:pricing/pricing
     27 |       shop:pricing/pricing: { actor: pricing }
        |                                      ^^^^^^^
    ");
    assert_eq!(shop.actors["catalog"].name.span.line, 15);
}

#[test]
fn writes_the_canonical_text() {
    let shop = parse("app.yaml", SHOP).unwrap();
    insta::assert_snapshot!(shop.to_yaml());
    assert_eq!(parse("app.yaml", &shop.to_yaml()), Ok(shop));
}

#[test]
fn the_example_apps_are_right() {
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps");
    for app in std::fs::read_dir(apps).unwrap() {
        let file = app.unwrap().path().join("app.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        if let Err(faults) = parse(&file.to_string_lossy(), &text) {
            panic!("{}", faults.render(&text));
        }
    }
}

#[test]
fn an_alias_is_what_it_stands_for() {
    let text =
        "apiVersion: weft/v1\nname: a\nactors:\n  x: &x { component: x.wasm, config: { a: b } }\n  y: *x\n";
    let manifest = parse("app.yaml", text).unwrap();
    assert_eq!(manifest.actors["y"].config["a"], "b");
    assert_eq!(manifest.actors["y"].name.value.name(), "y");
}

#[test]
fn what_is_empty_is_as_if_it_were_not_there() {
    let text = "\u{feff}apiVersion: weft/v1\r\nname: a\r\nactors:\r\n  x:\r\n    component: x.wasm\r\n    links:\r\n    config: {}\r\nroutes: []\r\n";
    let manifest = parse("app.yaml", text).unwrap();
    assert!(manifest.actors["x"].links.is_empty() && manifest.routes.is_empty());
}

#[test]
fn a_manifest_of_100_000_lines_is_read() {
    let mut text = String::from("apiVersion: weft/v1\nname: large\nactors:\n");
    for n in 0..20_000 {
        text.push_str(&format!("  actor-{n}:\n    component: a.wasm\n    links:\n      a:b/c: {{ actor: actor-0 }}\n      wasi:keyvalue: {{ provider: kv }}\n"));
    }
    text.push_str("providers:\n  kv: { capability: key-value, backend: memory }\n");
    assert!(text.lines().count() > 100_000);
    let start = Instant::now();
    let manifest = parse("app.yaml", &text).unwrap();
    println!("read in {:?}", start.elapsed());
    assert_eq!(manifest.actors.len(), 20_000);
    let start = Instant::now();
    let faults = parse(
        "app.yaml",
        &text.replace("{ actor: actor-0 }", "{ actor: actr-0 }"),
    )
    .unwrap_err();
    println!("20,000 faults told in {:?}", start.elapsed());
    assert_eq!((faults.listed.len(), faults.more), (100, 19_900));
}

const LABEL: &str = "[a-z]([a-z0-9-]{0,8}[a-z0-9])?|[0-9]{1,3}";

fn limits() -> impl Strategy<Value = Limits> {
    (
        1..1_000_000_u32,
        0..1_000_000_u32,
        1..600_000_u64,
        1..600_000_u64,
        65_536..(1_u64 << 34),
        0..(1_u64 << 26),
        1..1_000_000_u32,
    )
        .prop_map(
            |(concurrency, queue_len, wait, time, memory_bytes, log_bytes, reuse)| Limits {
                concurrency,
                queue_len,
                queue_wait: Duration::from_millis(wait),
                cpu_time: Duration::from_millis(time),
                memory_bytes,
                log_bytes,
                reuse,
                ..Limits::default()
            },
        )
}

fn component() -> impl Strategy<Value = ComponentRef> {
    prop_oneof![
        "[^\\pC:]{1,20}".prop_map(ComponentRef::Path),
        "[0-9a-f]{64}".prop_map(|hex| ComponentRef::Digest(format!("sha256:{hex}"))),
    ]
}

/// Any app: one actor that links to itself, to a provider and to HTTP, and a route.
fn manifests() -> impl Strategy<Value = Manifest> {
    let text = "[^\\pC]([^\\pC]|\\n){0,20}[^\\pC]"
        .prop_map(|t| t.trim().to_owned())
        .prop_filter("some text", |t| !t.is_empty());
    let config = btree_map(any::<String>(), any::<String>(), 0..4);
    let actor = (
        LABEL,
        component(),
        config,
        limits(),
        any::<bool>(),
        option::of("[a-z0-9 :#'\"-]{0,9}[a-z]"),
    );
    let route = (
        option::of("(\\*\\.)?[a-z]{1,5}\\.example"),
        "(/[!\"$-.0-9:;<=>@A-~]{1,3}){0,2}",
        btree_map("[a-z-]{1,5}", "[!-~]{0,5}", 0..2),
    );
    (LABEL, LABEL, option::of(text), actor, route, any::<u8>()).prop_map(
        |(namespace, app, text, actor, route, bits)| {
            let mut manifest = Manifest::new("app.yaml", Some(&namespace), &app).unwrap();
            let name = weft_compose::ActorName::new(&namespace, &app, &actor.0).unwrap();
            let provider = weft_compose::ProviderName::new(&namespace, &app, "store").unwrap();
            let mut out = Actor::new(name.clone(), actor.1);
            (out.config, out.limits) = (actor.2, actor.3);
            if actor.4 {
                out.idempotent = vec!["a:b/c.d".to_owned().into()];
            }
            let to_provider = LinkTarget::Provider {
                name: provider.clone(),
                bucket: actor.5.map(|b| b.trim().to_owned()),
                shared: bits & 1 == 0,
            };
            out.links
                .insert("wasi:keyvalue".parse().unwrap(), Link::new(to_provider));
            let spare = LinkTarget::Provider {
                name: provider.clone(),
                bucket: None,
                shared: false,
            };
            out.links
                .insert("wasi:keyvalue#spare".parse().unwrap(), Link::new(spare));
            out.links.insert(
                "a:b/c@0.1.0".parse().unwrap(),
                Link::new(LinkTarget::Actor { name: name.clone() }),
            );
            let allow = if bits & 2 == 0 {
                vec![]
            } else {
                vec!["https://*".parse().unwrap()]
            };
            out.links.insert(
                "wasi:http/outgoing-handler".parse().unwrap(),
                Link::new(LinkTarget::Http { allow }),
            );
            if bits & 1 == 1 {
                out.secrets
                    .insert(actor.0.clone(), "secret:api-key".parse().unwrap());
                out.allow_from = vec!["1/*".parse().unwrap(), "a/b".parse().unwrap()];
            }
            let (to_actor, actor_name) = (name.clone(), actor.0.clone());
            manifest.actors.insert(actor.0, out);
            let config = if bits & 4 == 0 {
                [("cacheMiB".to_owned(), "7".to_owned())].into()
            } else {
                [].into()
            };
            let store = Provider {
                name: provider.into(),
                capability: Capability::KeyValue,
                backend: "redb".to_owned().into(),
                config,
                allow_from: Vec::from_iter((bits & 2 == 2).then(|| "a/*".parse().unwrap())),
                command: None,
            };
            if bits & 16 == 16 {
                let started = Provider {
                    name: weft_compose::ProviderName::new(&namespace, &app, "started")
                        .unwrap()
                        .into(),
                    backend: "outside".to_owned().into(),
                    config: [].into(),
                    command: Some(weft_compose::CommandRecord {
                        args: vec!["a".into(), "- b".into(), "".into()],
                        env: [("A_1".to_owned(), "${secret:yes}".to_owned())].into(),
                        host: (bits & 4 == 4).then(|| "h1".parse().unwrap()),
                        host_labels: std::collections::BTreeMap::from_iter(
                            (bits & 4 == 0).then(|| ("disk".to_owned(), "true".to_owned())),
                        ),
                    }),
                    ..store.clone()
                };
                manifest.providers.insert("started".into(), started);
            }
            manifest.providers.insert("store".into(), store);
            let mut to = Route::new(name);
            to.host = route.0;
            if !route.1.is_empty() && !route.1.contains("/.") {
                to.path = route.1;
            }
            to.headers = route.2;
            to.strip_prefix = bits & 16 == 0;
            if bits & 8 == 0 {
                to.methods = vec!["GET".into(), "PUT".into()];
            }
            manifest.routes.push(to);
            if bits & 32 == 0 {
                let events = weft_compose::ProviderName::new("other", &app, "events").unwrap();
                manifest.watches.push(Watch {
                    provider: events.clone().into(),
                    bucket: "a:b".to_owned(),
                    keys: if bits & 64 == 0 {
                        "user/".to_owned()
                    } else {
                        String::new()
                    },
                    actor: to_actor.clone().into(),
                    shared: bits & 128 == 0,
                });
                manifest.subscriptions.push(Subscription {
                    provider: events.into(),
                    subject: "a.*.b.>".to_owned(),
                    actor: to_actor.into(),
                    group: if bits & 64 == 0 {
                        "g".to_owned()
                    } else {
                        actor_name
                    },
                    shared: bits & 128 == 0,
                });
            }
            manifest.description = text;
            manifest
        },
    )
}

proptest! {
    #[test]
    fn the_canonical_text_reads_back_as_the_same_app(manifest in manifests()) {
        let text = manifest.to_yaml();
        let read = parse("app.yaml", &text);
        prop_assert_eq!(read.as_ref(), Ok(&manifest), "{}", text);
        prop_assert_eq!(read.unwrap().to_yaml(), text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\\n| |:|-|\\[|\\{|&a|\\*a){0,80}") {
        if let Err(faults) = parse("app.yaml", &text) {
            faults.render(&text);
        }
    }

    #[test]
    fn no_broken_manifest_makes_it_panic(at in 0..SHOP.len(), len in 0..40_usize, with in "[\\PC\\n]{0,8}") {
        let mut text = SHOP.to_owned();
        text.replace_range(at..(at + len).min(SHOP.len()), &with);
        if let Err(faults) = parse("app.yaml", &text) {
            faults.render(&text);
        }
    }
}
