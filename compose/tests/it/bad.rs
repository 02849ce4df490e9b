//! Manifests that are wrong: one for each kind of fault, in `tests/bad/KIND.yaml`, with a snapshot of its report.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use strum::VariantNames;
use weft_compose::deploy::{Claims, CurrentApp, delete_link, plan};
use weft_compose::{FaultKind, Faults, key, parse};

/// Faults that no text of a few lines has.
const MADE_HERE: &[&str] = &[
    "text-too-long",
    "not-allowed",
    "not-deployed",
    "not-placed",
    "secret-version",
    "unknown-link",
    "unknown-secret",
];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad"))
}

/// What a user is told of a manifest: by the reader or, if that finds nothing, by a deploy.
fn faults_of(kind: &str, text: &str) -> Faults {
    let manifest = match parse("app.yaml", text) {
        Ok(manifest) => manifest,
        Err(faults) => return faults,
    };
    let mut digests: BTreeMap<String, String> = manifest
        .actors
        .keys()
        .map(|a| (a.clone(), "sha256:0".into()))
        .collect();
    let mut foreign = Claims::new();
    match kind {
        "no-component" => digests.clear(),
        "route-taken" => {
            let claim = manifest.routes[0].claims().next().unwrap();
            foreign.insert(key::route(&claim), "default/blog".parse().unwrap());
        }
        "found" => {
            let (_, link) = manifest.actors["a"].links.first_key_value().unwrap();
            let text = "actor `b` does not export `get` of shop:b/b".to_owned();
            return manifest.fault(link.target.span, FaultKind::Found(text)).into();
        }
        _ => {}
    }
    let current = CurrentApp::new(manifest.app.value.clone());
    plan(
        &manifest,
        &digests,
        &current,
        &foreign,
        "someone",
        "2026-01-01T00:00:00Z",
    )
    .expect_err("nothing is wrong")
}

#[test]
fn each_kind_of_fault_has_a_manifest_and_a_report() {
    let mut missing = Vec::new();
    for kind in FaultKind::VARIANTS
        .iter()
        .filter(|kind| !MADE_HERE.contains(kind))
    {
        let Ok(text) = std::fs::read_to_string(folder().join(format!("{kind}.yaml"))) else {
            missing.push(*kind);
            continue;
        };
        let faults = faults_of(kind, &text);
        let told = faults.listed.iter().any(|fault| fault.kind.code() == *kind);
        assert!(told, "{kind}.yaml has other faults:\n{faults}");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("bad__{kind}"), faults.render(&text));
        });
    }
    assert!(missing.is_empty(), "no manifest for {missing:?}");
    for file in std::fs::read_dir(folder()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let kind = name.strip_suffix(".yaml").unwrap();
        assert!(FaultKind::VARIANTS.contains(&kind), "{name} is of no kind");
    }
}

#[test]
fn a_text_that_is_too_long_is_not_looked_at() {
    let text = "#".repeat((4 << 20) + 1);
    let faults = parse("app.yaml", &text).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "app.yaml:1:1: the manifest has 4194305 bytes, and at most 4194304 are read: split the app"
    );
}

#[test]
fn a_link_that_is_not_there_can_not_be_deleted() {
    let mut current = CurrentApp::new("default/shop".parse().unwrap());
    let (actor, interface) = (
        "default/shop/catalog".parse().unwrap(),
        "wasi:keyvalue".parse().unwrap(),
    );
    let error = delete_link(&current, &actor, &interface, "someone").unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        ("not-deployed", "default/shop is not deployed")
    );
    crate::deploys::deploy(&mut current, crate::good::SHOP, "sha256:1");
    let error = delete_link(&current, &actor, &"wasi:http".parse().unwrap(), "someone").unwrap_err();
    assert_eq!(
        error.to_string(),
        "default/shop/catalog has no link for `wasi:http`"
    );
}

#[test]
fn a_bomb_is_refused_before_it_goes_off() {
    // Each line stands for nine of the one before: 9^20 values.
    let mut text = String::from("apiVersion: weft/v1\nname: bomb\na0: &a0 [x]\n");
    for n in 1..20 {
        let before = format!("*a{}", n - 1);
        text.push_str(&format!("a{n}: &a{n} [{}]\n", [before.as_str(); 9].join(", ")));
    }
    let start = Instant::now();
    let faults = parse("app.yaml", &text).unwrap_err();
    // It takes microseconds, and without a bound longer than anyone waits.
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(
        faults
            .listed
            .iter()
            .any(|fault| matches!(fault.kind, FaultKind::TooManyNodes { .. })),
        "{faults}"
    );
}

#[test]
fn deep_nesting_is_refused_in_all_its_forms() {
    let chain: String = (1..200).map(|n| format!("a{n}: &a{n} [*a{}]\n", n - 1)).collect();
    for text in [
        "[".repeat(200),
        "- ".repeat(1_000_000),
        "a: {".repeat(100),
        "? ".repeat(100_000),
        format!("a0: &a0 [x]\n{chain}"),
    ] {
        let faults = parse("app.yaml", &text).unwrap_err();
        let deep = |kind: &FaultKind| {
            matches!(
                kind,
                FaultKind::TooDeep { .. } | FaultKind::KeyNotText | FaultKind::Syntax(_)
            )
        };
        assert!(faults.listed.iter().any(|fault| deep(&fault.kind)), "{faults}");
    }
}
