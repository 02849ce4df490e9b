//! Names of the control store's keys.
//!
//! Owns them all. `app/NS/APP`, `actor/NS/APP/NAME`, `provider/NS/APP/NAME`, `link/NS/APP/NAME/INTERFACE#LINK`,
//! `placement/NS/APP/NAME/HOST`, `move/NS/APP/NAME`, `secret/NS/APP/NAME`, `quota/NS`,
//! `subscription/NS/APP/ACTOR/NS/APP/PROVIDER/SUBJECT`, `watch/NS/APP/ACTOR/NS/APP/PROVIDER/BUCKET/KEYS` and
//! `route/HOST|PATH|METHOD|HEADERS`. As a claim is a key, two apps can't claim the same: the second finds it there.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::link::LinkKey;
use crate::name::{ActorName, AppName, HostName, ProviderName, SecretName, is_label};
use crate::route::Claim;

/// What all keys of apps start with.
pub const APPS: &str = "app/";
/// What all keys of actors start with.
pub const ACTORS: &str = "actor/";
/// What all keys of providers start with.
pub const PROVIDERS: &str = "provider/";
/// What all keys of links start with.
pub const LINKS: &str = "link/";
/// What all keys of placements start with.
pub const PLACEMENTS: &str = "placement/";
/// What all keys of secrets start with.
pub const SECRETS: &str = "secret/";
/// What all keys of moves start with.
pub const MOVES: &str = "move/";
/// What all keys of subscriptions start with.
pub const SUBSCRIPTIONS: &str = "subscription/";
/// What all keys of watches start with.
pub const WATCHES: &str = "watch/";
/// What all keys of quotas start with.
pub const QUOTAS: &str = "quota/";
/// What all keys of routes start with. Those of one app are told by their records.
pub const ROUTES: &str = "route/";

/// A key, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Of an [`crate::AppRecord`].
    App(AppName),
    /// Of an [`crate::ActorRecord`].
    Actor(ActorName),
    /// Of a [`crate::ProviderRecord`].
    Provider(ProviderName),
    /// Of a [`crate::LinkRecord`].
    Link(ActorName, LinkKey),
    /// Of a [`crate::PlacementRecord`].
    Placement(ActorName, HostName),
    /// Of a [`crate::SecretRecord`].
    Secret(SecretName),
    /// Of a [`crate::MoveRecord`].
    Move(ProviderName),
    /// Of a [`crate::SubscriptionRecord`]: who listens, where and to what.
    Subscription(ActorName, ProviderName, String),
    /// Of a [`crate::WatchRecord`]: who is told, of which store, its bucket, and what the keys begin with.
    Watch(ActorName, ProviderName, String, String),
    /// Of a [`crate::QuotaRecord`]: its namespace.
    Quota(String),
    /// Of a [`crate::RouteRecord`].
    Route(Claim),
}

/// The key of an app's record.
pub fn app(name: &AppName) -> String {
    format!("{APPS}{name}")
}

/// The key of an actor's record.
pub fn actor(name: &ActorName) -> String {
    format!("{ACTORS}{name}")
}

/// The key of a provider's record.
pub fn provider(name: &ProviderName) -> String {
    format!("{PROVIDERS}{name}")
}

/// The key of a link's record.
pub fn link(actor: &ActorName, link: &LinkKey) -> String {
    format!("{LINKS}{actor}/{link}")
}

/// The key of a placement.
pub fn placement(actor: &ActorName, host: &HostName) -> String {
    format!("{PLACEMENTS}{actor}/{host}")
}

/// The key of a secret.
pub fn secret(name: &SecretName) -> String {
    format!("{SECRETS}{name}")
}

/// The key of the move of a provider.
pub fn moved(provider: &ProviderName) -> String {
    format!("{MOVES}{provider}")
}

/// The key of a subscription.
pub fn subscription(actor: &ActorName, provider: &ProviderName, subject: &str) -> String {
    format!("{SUBSCRIPTIONS}{actor}/{provider}/{subject}")
}

/// The key of a watch.
pub fn watch(actor: &ActorName, provider: &ProviderName, bucket: &str, keys: &str) -> String {
    format!("{WATCHES}{actor}/{provider}/{bucket}/{keys}")
}

/// The key of the quota of a namespace.
pub fn quota(namespace: &str) -> String {
    format!("{QUOTAS}{namespace}")
}

/// The key of a claim.
pub fn route(claim: &Claim) -> String {
    let mut key = ROUTES.to_owned();
    escape(claim.host.as_deref().unwrap_or("*"), &mut key);
    key.push('|');
    escape(&claim.path, &mut key);
    key.push('|');
    escape(claim.method.as_deref().unwrap_or("*"), &mut key);
    key.push('|');
    for (at, (name, value)) in claim.headers.iter().enumerate() {
        key.push_str(if at == 0 { "" } else { "&" });
        escape(name, &mut key);
        key.push('=');
        escape(value, &mut key);
    }
    key
}

/// What the keys of an app's actors, providers and links start with: `of(ACTORS, app)`.
pub fn of(kind: &str, app: &AppName) -> String {
    format!("{kind}{app}/")
}

/// What the keys of an actor's links start with.
pub fn links_of(actor: &ActorName) -> String {
    format!("{LINKS}{actor}/")
}

/// Reads a key. None if it is of a kind that this build does not know, or malformed.
pub fn parse(key: &str) -> Option<Key> {
    let (kind, rest) = key.split_at(key.find('/')? + 1);
    Some(match kind {
        APPS => Key::App(rest.parse().ok()?),
        ACTORS => Key::Actor(rest.parse().ok()?),
        PROVIDERS => Key::Provider(rest.parse().ok()?),
        LINKS => {
            let (at, _) = rest.match_indices('/').nth(2)?;
            Key::Link(rest[..at].parse().ok()?, rest[at + 1..].parse().ok()?)
        }
        PLACEMENTS => {
            let (actor, host) = rest.rsplit_once('/')?;
            Key::Placement(actor.parse().ok()?, host.parse().ok()?)
        }
        SECRETS => Key::Secret(rest.parse().ok()?),
        MOVES => Key::Move(rest.parse().ok()?),
        SUBSCRIPTIONS => {
            let (actor, provider, subject) = listening(rest)?;
            Key::Subscription(actor, provider, subject.to_owned())
        }
        WATCHES => {
            let (actor, provider, watched) = listening(rest)?;
            let (bucket, keys) = watched.split_once('/')?;
            Key::Watch(actor, provider, bucket.to_owned(), keys.to_owned())
        }
        QUOTAS => Key::Quota(is_label(rest).then(|| rest.to_owned())?),
        ROUTES => Key::Route(claim(rest)?),
        _ => return None,
    })
}

/// Who listens to which provider, and to what of it.
fn listening(text: &str) -> Option<(ActorName, ProviderName, &str)> {
    let (at, _) = text.match_indices('/').nth(2)?;
    let (actor, rest) = (&text[..at], &text[at + 1..]);
    let (at, _) = rest.match_indices('/').nth(2)?;
    Some((actor.parse().ok()?, rest[..at].parse().ok()?, &rest[at + 1..]))
}

fn claim(text: &str) -> Option<Claim> {
    let parts: Vec<&str> = text.split('|').collect();
    let [host, path, method, headers] = parts[..] else {
        return None;
    };
    let some = |text: &str| Some(unescape(text)?).map(|t| (t != "*").then_some(t));
    let header = |text: &str| {
        let (name, value) = text.split_once('=')?;
        Some((unescape(name)?, unescape(value)?))
    };
    let headers = headers.split('&').filter(|h| !h.is_empty()).map(header);
    Some(Claim {
        host: some(host)?,
        path: unescape(path)?,
        method: some(method)?,
        headers: headers.collect::<Option<BTreeMap<_, _>>>()?,
    })
}

/// Percent-encodes what is not a letter, a digit or one of `-._~/*`.
fn escape(text: &str, key: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/*".contains(&byte) {
            key.push(char::from(byte));
        } else {
            let _ = write!(key, "%{byte:02X}");
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        if *byte == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_reads_back_as_what_it_names() {
        let name: ActorName = "default/shop/catalog".parse().unwrap();
        let app_name = name.app_name();
        let interface: LinkKey = "shop:pricing/pricing@1.0.0".parse().unwrap();
        assert_eq!(
            link(&name, &interface),
            "link/default/shop/catalog/shop:pricing/pricing@1.0.0"
        );
        assert!(link(&name, &interface).starts_with(&links_of(&name)));
        assert!(links_of(&name).starts_with(&of(LINKS, &app_name)));
        assert_eq!(
            parse(&link(&name, &interface)),
            Some(Key::Link(name.clone(), interface))
        );
        let host: HostName = "eu-1".parse().unwrap();
        assert_eq!(placement(&name, &host), "placement/default/shop/catalog/eu-1");
        let placed = Key::Placement(name.clone(), host.clone());
        assert_eq!(parse(&placement(&name, &host)), Some(placed));
        assert_eq!(parse(&actor(&name)), Some(Key::Actor(name)));
        assert_eq!(parse(&app(&app_name)), Some(Key::App(app_name)));
        let goods: ProviderName = "default/shop/goods".parse().unwrap();
        assert_eq!(parse(&quota("press")), Some(Key::Quota("press".to_owned())));
        assert_eq!(parse("quota/a/b"), None);
        assert_eq!(moved(&goods), "move/default/shop/goods");
        assert_eq!(parse(&moved(&goods)), Some(Key::Move(goods.clone())));
        let listens = subscription(&goods_reader(), &goods, "a/b.>");
        assert_eq!(
            listens,
            "subscription/default/shop/reader/default/shop/goods/a/b.>"
        );
        let listened = Key::Subscription(goods_reader(), goods.clone(), "a/b.>".to_owned());
        assert_eq!(parse(&listens), Some(listened));
        let watches = watch(&goods_reader(), &goods, "b", "user/1");
        assert_eq!(watches, "watch/default/shop/reader/default/shop/goods/b/user/1");
        let watched = Key::Watch(goods_reader(), goods.clone(), "b".to_owned(), "user/1".to_owned());
        assert_eq!(parse(&watches), Some(watched));
        assert_eq!(parse(&provider(&goods)), Some(Key::Provider(goods)));
        let password: SecretName = "default/shop/db-password".parse().unwrap();
        assert_eq!(parse(&secret(&password)), Some(Key::Secret(password)));
    }

    fn goods_reader() -> ActorName {
        "default/shop/reader".parse().unwrap()
    }

    #[test]
    fn the_longest_subscription_and_the_longest_watch_fit_into_a_key() {
        let part = "a".repeat(crate::name::PART_LEN_MAX);
        let actor = ActorName::new(&part, &part, &part).unwrap();
        let provider = ProviderName::new(&part, &part, &part).unwrap();
        let subject = "s".repeat(crate::subscription::SUBJECT_LEN_MAX);
        assert!(subscription(&actor, &provider, &subject).len() <= crate::route::CLAIM_LEN_MAX);
        let keys = "k".repeat(crate::watch::WATCHED_LEN_MAX - 1);
        assert!(watch(&actor, &provider, "b", &keys).len() <= crate::route::CLAIM_LEN_MAX);
    }

    #[test]
    fn a_claim_is_one_key() {
        let claim = Claim {
            host: Some("*.shop.example".into()),
            path: "/a|b".into(),
            method: Some("GET".into()),
            headers: [("x-tenant".into(), "blue & green".into())].into(),
        };
        assert_eq!(
            route(&claim),
            "route/*.shop.example|/a%7Cb|GET|x-tenant=blue%20%26%20green"
        );
        assert_eq!(parse(&route(&claim)), Some(Key::Route(claim)));
    }

    #[test]
    fn a_key_of_another_kind_is_none() {
        for key in [
            "",
            "app",
            "app/",
            "app/a",
            "actor/a/b",
            "link/a/b/c",
            "link/a/b/c/",
            "subscription/a/b/c/d/e/f",
            "watch/a/b/c/d/e/f/bucket",
            "route/",
            "route/a|b|c",
            "x/y/z",
            "route/*|/%|*|",
        ] {
            assert_eq!(parse(key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn different_claims_have_different_keys(
            host in proptest::option::of("[a-z.|%*]{2,8}"), path in "\\PC{0,8}", method in proptest::option::of("[A-Z]{3}"),
            headers in proptest::collection::btree_map("[a-z=&|-]{1,4}", "\\PC{0,6}", 0..3),
        ) {
            let claim = Claim { host, path, method, headers };
            prop_assert_eq!(parse(&route(&claim)), Some(Key::Route(claim)));
        }

        #[test]
        fn no_text_makes_it_panic(key in "(app|actor|link|placement|route)?/?\\PC{0,20}") {
            parse(&key);
        }
    }
}
