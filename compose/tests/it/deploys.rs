//! Deploys, links at run time and deletions, against a store that keeps what it is told.

use std::collections::BTreeMap;

use weft_compose::deploy::{Claims, delete_app, delete_link, place, plan, put_link, unplace};
use weft_compose::{ActorName, Change, CurrentApp, LinkKey, LinkTarget, Manifest, parse};

use crate::good::SHOP;

const AT: &str = "2026-01-01T00:00:00Z";

fn digests(manifest: &Manifest, digest: &str) -> BTreeMap<String, String> {
    manifest
        .actors
        .keys()
        .map(|name| (name.clone(), digest.to_owned()))
        .collect()
}

fn change(current: &CurrentApp, text: &str, digest: &str) -> Change {
    let manifest = parse("app.yaml", text).unwrap();
    plan(
        &manifest,
        &digests(&manifest, digest),
        current,
        &Claims::new(),
        "someone",
        AT,
    )
    .unwrap()
}

/// Deploys a manifest, all of whose actors have the same component.
pub(crate) fn deploy(current: &mut CurrentApp, text: &str, digest: &str) -> Change {
    let change = change(current, text, digest);
    apply(current, &change);
    change
}

/// Does what a store does with a change.
fn apply(current: &mut CurrentApp, change: &Change) {
    let mut store: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
    let app = current.app.iter().map(|s| {
        (
            format!("app/{}", current.name),
            s.revision,
            serde_json::to_vec(&s.record),
        )
    });
    let actors = current
        .actors
        .iter()
        .map(|(k, s)| (k.clone(), s.revision, serde_json::to_vec(&s.record)));
    let providers = current
        .providers
        .iter()
        .map(|(k, s)| (k.clone(), s.revision, serde_json::to_vec(&s.record)));
    let links = current
        .links
        .iter()
        .map(|(k, s)| (k.clone(), s.revision, serde_json::to_vec(&s.record)));
    let routes = current
        .routes
        .iter()
        .map(|(k, s)| (k.clone(), s.revision, serde_json::to_vec(&s.record)));
    let placements = current
        .placements
        .iter()
        .map(|(k, s)| (k.clone(), s.revision, serde_json::to_vec(&s.record)));
    let subscriptions = current
        .subscriptions
        .iter()
        .map(|(k, s)| (k.clone(), s.revision, serde_json::to_vec(&s.record)));
    let watches = current
        .watches
        .iter()
        .map(|(k, s)| (k.clone(), s.revision, serde_json::to_vec(&s.record)));
    let records = app.chain(actors).chain(providers).chain(links).chain(routes);
    let records = records.chain(placements).chain(subscriptions).chain(watches);
    for (key, revision, value) in records {
        store.insert(key, (revision, value.unwrap()));
    }
    let next = store
        .values()
        .map(|(revision, _)| revision + 1)
        .max()
        .unwrap_or(1);
    for (key, expected) in &change.expects {
        assert_eq!(store.get(key).map(|(revision, _)| *revision), *expected, "{key}");
    }
    for key in &change.deletes {
        assert!(store.remove(key).is_some(), "{key} was not there");
    }
    for (key, value) in &change.puts {
        store.insert(key.clone(), (next, value.clone()));
    }
    let entries = store
        .iter()
        .map(|(key, (revision, value))| (key.as_str(), *revision, value.as_slice()));
    *current = CurrentApp::read(current.name.clone(), entries).unwrap().0;
}

fn shop() -> CurrentApp {
    let mut current = CurrentApp::new("default/shop".parse().unwrap());
    deploy(&mut current, SHOP, "sha256:1");
    current
}

fn catalog() -> ActorName {
    "default/shop/catalog".parse().unwrap()
}

fn keyvalue() -> LinkKey {
    "wasi:keyvalue".parse().unwrap()
}

fn to_scratch() -> LinkTarget {
    LinkTarget::Provider {
        name: "default/shop/scratch".parse().unwrap(),
        bucket: None,
        shared: false,
    }
}

#[test]
fn a_first_deploy_writes_everything_and_tells_it() {
    let mut current = CurrentApp::new("default/shop".parse().unwrap());
    let change = deploy(&mut current, SHOP, "sha256:1");
    insta::assert_snapshot!(change.summary);
    assert!(change.expects.iter().all(|(_, revision)| revision.is_none()));
    let catalog = &current.actors["actor/default/shop/catalog"].record;
    assert_eq!((catalog.revision, catalog.component.as_str()), (1, "sha256:1"));
    assert_eq!(current.routes.len(), 3);
}

#[test]
fn the_last_revision_that_ran_other_components_is_remembered() {
    let mut current = shop();
    let before = |current: &CurrentApp| {
        let before = current.app.as_ref().unwrap().record.before.clone();
        before.map(|before| (before.revision, before.components["catalog"].clone()))
    };
    assert_eq!(before(&current), None);
    deploy(&mut current, SHOP, "sha256:2");
    assert_eq!(before(&current), Some((1, "sha256:1".to_owned())));
    // What runs the same is nothing to go back from.
    deploy(
        &mut current,
        &SHOP.replacen("A small shop.", "Another one.", 1),
        "sha256:2",
    );
    assert_eq!(before(&current), Some((1, "sha256:1".to_owned())));
    deploy(&mut current, SHOP, "sha256:1");
    assert_eq!(before(&current), Some((3, "sha256:2".to_owned())));
}

#[test]
fn the_same_manifest_again_is_no_change() {
    let current = shop();
    let change = change(&current, SHOP, "sha256:1");
    assert!(
        change.is_empty() && change.expects.is_empty(),
        "{}",
        change.summary
    );
    let reordered = parse("elsewhere.yaml", SHOP).unwrap().to_yaml();
    assert!(self::change(&current, &reordered, "sha256:1").is_empty());
}

#[test]
fn revisions_rise_only_for_what_changed() {
    let mut current = shop();
    let text = SHOP
        .replace("currency: EUR", "currency: USD")
        .replace("cacheMiB: 64", "cacheMiB: 65");
    let change = deploy(&mut current, &text, "sha256:1");
    insta::assert_snapshot!(change.summary, @r"
    ~ actor catalog (config)
    ~ provider goods (config)
    ~ app default/shop (revision 2)
    ");
    let revisions: Vec<_> = current
        .actors
        .values()
        .map(|actor| actor.record.revision)
        .collect();
    assert_eq!(revisions, [2, 1, 1, 1]);
    assert_eq!(
        current.providers["provider/default/shop/goods"].record.revision,
        2
    );
    assert_eq!(
        current.links.values().map(|link| link.record.revision).max(),
        Some(1)
    );
}

#[test]
fn another_component_is_a_change_of_its_actor() {
    let mut current = shop();
    let manifest = parse("app.yaml", SHOP).unwrap();
    let mut digests = digests(&manifest, "sha256:1");
    digests.insert("pricing".into(), "sha256:2".into());
    let change = plan(&manifest, &digests, &current, &Claims::new(), "someone", AT).unwrap();
    apply(&mut current, &change);
    assert_eq!(
        change.summary.to_string(),
        "~ actor pricing (component)\n~ app default/shop (revision 2)"
    );
}

#[test]
fn what_the_manifest_no_longer_has_is_deleted() {
    let mut current = shop();
    let text = SHOP
        .replace("  scratch: { capability: key-value, backend: memory }\n", "")
        .replace("methods: [POST, GET]", "methods: [GET]");
    let change = deploy(&mut current, &text, "sha256:1");
    insta::assert_snapshot!(change.summary, @r"
    - provider scratch
    - route POST shop.example/ with x-tenant: blue
    ~ route GET shop.example/ with x-tenant: blue (methods)
    ~ app default/shop (revision 2)
    ");
}

#[test]
fn a_link_changed_at_run_time_stays_until_the_next_changed_deploy() {
    let mut current = shop();
    let change = put_link(&current, &catalog(), &keyvalue(), to_scratch(), "operator").unwrap();
    apply(&mut current, &change);
    assert_eq!(
        change.summary.to_string(),
        "~ link catalog wasi:keyvalue (provider goods bucket items -> provider scratch bucket items)"
    );
    let link = |current: &CurrentApp| {
        current.links["link/default/shop/catalog/wasi:keyvalue"]
            .record
            .clone()
    };
    assert!(link(&current).is_drift());
    assert_eq!(
        (link(&current).revision, link(&current).by.as_str()),
        (2, "operator")
    );

    assert!(deploy(&mut current, SHOP, "sha256:1").is_empty());
    assert!(link(&current).is_drift());

    deploy(&mut current, &SHOP.replace("1.2.0", "1.2.1"), "sha256:1");
    assert!(!link(&current).is_drift());
    assert_eq!(link(&current).revision, 3);
}

#[test]
fn a_link_that_moves_to_another_store_and_back_keeps_its_bucket() {
    let mut current = shop();
    let before = current.links["link/default/shop/catalog/wasi:keyvalue"]
        .record
        .target
        .clone();
    for provider in ["default/shop/scratch", "default/shop/goods"] {
        let target = LinkTarget::Provider {
            name: provider.parse().unwrap(),
            bucket: None,
            shared: false,
        };
        let change = put_link(&current, &catalog(), &keyvalue(), target, "operator").unwrap();
        apply(&mut current, &change);
    }
    let link = &current.links["link/default/shop/catalog/wasi:keyvalue"].record;
    assert_eq!(link.target, before);
    assert!(!link.is_drift());
}

#[test]
fn a_declared_link_that_is_deleted_at_run_time_goes_nowhere_until_the_next_changed_deploy() {
    let mut current = shop();
    let change = delete_link(&current, &catalog(), &keyvalue(), "operator").unwrap();
    apply(&mut current, &change);
    let link = |current: &CurrentApp| {
        current.links["link/default/shop/catalog/wasi:keyvalue"]
            .record
            .clone()
    };
    assert_eq!(link(&current).target, LinkTarget::Removed);
    assert!(delete_link(&current, &catalog(), &keyvalue(), "operator").is_err());
    assert!(deploy(&mut current, SHOP, "sha256:1").is_empty());
    deploy(&mut current, SHOP, "sha256:2");
    assert!(!link(&current).is_drift());
}

#[test]
fn a_link_made_at_run_time_goes_when_it_is_deleted_or_with_the_next_changed_deploy() {
    let mut current = shop();
    let store: LinkKey = "wasi:keyvalue/batch".parse().unwrap();
    let count = current.links.len();
    let made = put_link(&current, &catalog(), &store, to_scratch(), "operator").unwrap();
    apply(&mut current, &made);
    assert_eq!(current.links.len(), count + 1);
    assert!(
        put_link(&current, &catalog(), &store, to_scratch(), "operator")
            .unwrap()
            .is_empty()
    );
    let deleted = delete_link(&current, &catalog(), &store, "operator").unwrap();
    apply(&mut current, &deleted);
    assert_eq!(current.links.len(), count);

    let made = put_link(&current, &catalog(), &store, to_scratch(), "operator").unwrap();
    apply(&mut current, &made);
    assert!(deploy(&mut current, SHOP, "sha256:1").is_empty());
    deploy(&mut current, SHOP, "sha256:2");
    assert_eq!(current.links.len(), count);
}

#[test]
fn a_link_to_what_is_not_there_or_does_not_fit_is_refused() {
    let current = shop();
    let told = |interface: &str, target: LinkTarget| {
        put_link(
            &current,
            &catalog(),
            &interface.parse().unwrap(),
            target,
            "operator",
        )
        .unwrap_err()
        .to_string()
    };
    let provider = |name: &str| LinkTarget::Provider {
        name: name.parse().unwrap(),
        bucket: None,
        shared: false,
    };
    assert_eq!(
        told("wasi:keyvalue", provider("default/shop/good")),
        "default/shop has no provider `good`; did you mean `goods`?"
    );
    assert_eq!(
        told("wasi:keyvalue", provider("default/shop/ledger")),
        "`wasi:keyvalue` needs key-value, and the provider `ledger` serves sql"
    );
    assert_eq!(
        told("wasi:keyvalue", LinkTarget::Actor { name: catalog() }),
        "`wasi:keyvalue` can't be linked to an actor: it needs a provider of key-value"
    );
    assert_eq!(
        told(
            "shop:a/a",
            LinkTarget::Actor {
                name: "default/shop/x".parse().unwrap()
            }
        ),
        "default/shop has no actor `x`"
    );
}

#[test]
fn of_two_changes_made_from_the_same_state_only_one_goes_through() {
    let current = shop();
    let first = put_link(&current, &catalog(), &keyvalue(), to_scratch(), "a").unwrap();
    let second = change(&current, &SHOP.replace("1.2.0", "2.0.0"), "sha256:1");
    let written = |change: &Change| change.puts.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let expected = |change: &Change| {
        change
            .expects
            .iter()
            .map(|(key, _)| key.clone())
            .collect::<Vec<_>>()
    };
    assert!(written(&first).iter().any(|key| expected(&second).contains(key)));
    assert!(written(&second).iter().any(|key| expected(&first).contains(key)));
}

#[test]
fn two_apps_can_not_claim_the_same_route() {
    let shop = shop();
    let text = SHOP
        .replace("name: shop\n", "name: shop2\n")
        .replace("default/shop/orders", "orders");
    let manifest = parse("app.yaml", &text).unwrap();
    let entries: Vec<_> = shop
        .routes
        .iter()
        .map(|(k, s)| (k.clone(), s.revision, serde_json::to_vec(&s.record).unwrap()))
        .collect();
    let entries = entries
        .iter()
        .map(|(key, revision, value)| (key.as_str(), *revision, value.as_slice()));
    let (current, foreign) = CurrentApp::read(manifest.app.value.clone(), entries).unwrap();
    assert_eq!((current.routes.len(), foreign.len()), (0, 3));
    let faults = plan(
        &manifest,
        &digests(&manifest, "sha256:1"),
        &current,
        &foreign,
        "someone",
        AT,
    )
    .unwrap_err();
    insta::assert_snapshot!(faults, @r"
    app.yaml:43:14: GET shop.example/ with x-tenant: blue is taken by the app default/shop: choose another host, path, method or header
    app.yaml:44:12: any method *.shop.example/ is taken by the app default/shop: choose another host, path, method or header
    ");
}

#[test]
fn deleting_an_app_deletes_its_own_records_and_only_those() {
    let mut current = shop();
    let change = delete_app(&current);
    assert!(change.puts.is_empty());
    assert!(
        change
            .deletes
            .iter()
            .all(|key| key.contains("/default/shop") || key.starts_with("route/"))
    );
    apply(&mut current, &change);
    assert_eq!(current, CurrentApp::new("default/shop".parse().unwrap()));
    assert!(delete_app(&current).is_empty());
}

#[test]
fn a_placement_outlives_deploys_and_goes_with_its_actor_or_by_hand() {
    let mut current = CurrentApp::new("default/shop".parse().unwrap());
    let catalog: ActorName = "default/shop/catalog".parse().unwrap();
    let (eu, us) = ("eu-1".parse().unwrap(), "us-1".parse().unwrap());
    assert_eq!(
        place(&current, &catalog, &eu, "ops").unwrap_err().code(),
        "not-deployed"
    );
    deploy(&mut current, SHOP, "sha256:1");
    for host in [&eu, &us] {
        let placed = place(&current, &catalog, host, "ops").unwrap();
        apply(&mut current, &placed);
        assert!(place(&current, &catalog, host, "ops").unwrap().is_empty());
    }
    deploy(&mut current, SHOP, "sha256:2");
    assert_eq!(current.placements.len(), 2);
    let taken = unplace(&current, &catalog, &us).unwrap();
    assert_eq!(taken.summary.to_string(), "- placement of catalog on us-1");
    apply(&mut current, &taken);
    assert_eq!(unplace(&current, &catalog, &us).unwrap_err().code(), "not-placed");
    let deleted = delete_app(&current);
    apply(&mut current, &deleted);
    assert!(current.placements.is_empty());
}

#[test]
fn a_subscription_is_made_changed_and_taken_away_by_deploys() {
    const MAIL: &str = "apiVersion: weft/v1
name: mail
actors:
  mailer: { component: mailer.wasm }
providers:
  events: { capability: messaging, backend: lattice }
subscriptions:
  - { provider: events, subject: orders.*, actor: mailer }
";
    let mut current = CurrentApp::new("default/mail".parse().unwrap());
    deploy(&mut current, MAIL, "sha256:1");
    let key = "subscription/default/mail/mailer/default/mail/events/orders.*";
    assert_eq!(current.subscriptions[key].record.group, "mailer");
    let other = MAIL.replace("actor: mailer }", "actor: mailer, group: all, shared: true }");
    let changed = deploy(&mut current, &other, "sha256:1").summary.to_string();
    assert!(
        changed.starts_with("~ subscription of mailer to orders.* of events (group, shared)\n"),
        "{changed}"
    );
    let none = MAIL.split("subscriptions:").next().unwrap();
    let removed = deploy(&mut current, none, "sha256:1").summary.to_string();
    assert!(
        removed.starts_with("- subscription of mailer to orders.* of events\n"),
        "{removed}"
    );
    assert!(current.subscriptions.is_empty());
    deploy(&mut current, MAIL, "sha256:1");
    let deleted = delete_app(&current);
    apply(&mut current, &deleted);
    assert!(current.subscriptions.is_empty());
}

#[test]
fn a_watch_is_made_changed_and_taken_away_by_deploys() {
    const CARTS: &str = "apiVersion: weft/v1
name: shop
actors:
  reader: { component: reader.wasm }
providers:
  store: { capability: key-value, backend: redb }
watches:
  - { provider: store, bucket: carts, actor: reader }
  - { provider: store, bucket: carts, keys: user/, actor: reader }
";
    let mut current = CurrentApp::new("default/shop".parse().unwrap());
    deploy(&mut current, CARTS, "sha256:1");
    let keys: Vec<_> = current.watches.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "watch/default/shop/reader/default/shop/store/carts/",
            "watch/default/shop/reader/default/shop/store/carts/user/"
        ]
    );
    let other = CARTS.replace(
        "keys: user/, actor: reader }",
        "keys: user/, actor: reader, shared: true }",
    );
    let changed = deploy(&mut current, &other, "sha256:1").summary.to_string();
    assert!(
        changed.starts_with("~ watch of reader on carts/user/* of store (shared)\n"),
        "{changed}"
    );
    let none = CARTS.split("watches:").next().unwrap();
    let removed = deploy(&mut current, none, "sha256:1").summary.to_string();
    assert!(
        removed.starts_with("- watch of reader on carts of store\n"),
        "{removed}"
    );
    assert!(current.watches.is_empty());
    deploy(&mut current, CARTS, "sha256:1");
    let deleted = delete_app(&current);
    apply(&mut current, &deleted);
    assert!(current.watches.is_empty());
}
