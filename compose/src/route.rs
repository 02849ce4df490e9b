//! What a route takes: host, path, method and headers.
//!
//! Owns their grammar, and the claims that make two routes clash. Which route a request takes is the host's to find:
//! the more specific host, then the longer path, then the method, then more headers.

use std::collections::BTreeMap;
use std::fmt;

use crate::allow::is_host_name;

/// Methods a route can name. CONNECT opens tunnels, and TRACE shows headers to scripts: actors serve neither.
pub const METHODS: &[&str] = &["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// The longest path of a route, in bytes: a claim is a key of the store.
pub const PATH_LEN_MAX: usize = 512;

/// The longest value of a header, in bytes, for the same reason.
pub const HEADER_LEN_MAX: usize = 256;

/// The longest key of a claim, in bytes: that of the control store's keys.
pub const CLAIM_LEN_MAX: usize = 512;

/// One method of a route. No two routes of a lattice have the same.
///
/// A route without methods claims those that no other route claims: so `any` and `GET` of one path don't clash, and
/// the second takes what is GET.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// A host name or `*.suffix`; None for any host.
    pub host: Option<String>,
    /// A path that takes itself and what is below it, in whole segments.
    pub path: String,
    /// None for any method.
    pub method: Option<String>,
    /// Headers with lower-case names, that a request must have.
    pub headers: BTreeMap<String, String>,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            path,
            method,
            headers,
        } = self;
        write!(
            f,
            "{} {}{path}",
            method.as_deref().unwrap_or("any method"),
            host.as_deref().unwrap_or("")
        )?;
        for (at, (name, value)) in headers.iter().enumerate() {
            write!(f, "{}{name}: {value}", if at == 0 { " with " } else { ", " })?;
        }
        Ok(())
    }
}

/// The claims of a route.
pub fn claims<'a>(
    host: Option<&'a str>,
    path: &'a str,
    methods: &'a [String],
    headers: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Claim> + 'a {
    let any = methods.is_empty().then_some(None);
    methods.iter().map(Some).chain(any).map(move |method| Claim {
        host: host.map(str::to_owned),
        path: path.to_owned(),
        method: method.cloned(),
        headers: headers.clone(),
    })
}

/// The canonical form of a route's host, lower-case, or None if it is not one.
pub(crate) fn host(text: &str) -> Option<String> {
    is_host_name(text.strip_prefix("*.").unwrap_or(text)).then(|| text.to_ascii_lowercase())
}

/// The canonical form of a route's path, without a slash at its end, or None if it is not one.
pub(crate) fn path(text: &str) -> Option<String> {
    let trimmed = match text.strip_suffix('/') {
        Some("") => return Some("/".to_owned()),
        Some(rest) => rest,
        None => text,
    };
    let segments = trimmed.strip_prefix('/')?;
    let fits = |s: &str| {
        !matches!(s, "" | "." | "..") && s.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b))
    };
    (trimmed.len() <= PATH_LEN_MAX && segments.split('/').all(fits)).then(|| trimmed.to_owned())
}

/// The canonical form of a header's name, lower-case, or None if it is not one.
pub(crate) fn header_name(text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    ((1..=63).contains(&text.len()) && text.bytes().all(fits)).then(|| text.to_ascii_lowercase())
}

/// Whether a text can be the value of a header: visible ASCII characters, with spaces only inside.
pub(crate) fn is_header_value(text: &str) -> bool {
    text.len() <= HEADER_LEN_MAX
        && text.trim() == text
        && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_whole_segments_and_a_slash_at_its_end_says_nothing() {
        assert_eq!(path("/").as_deref(), Some("/"));
        assert_eq!(path("/shop/").as_deref(), Some("/shop"));
        for text in ["", "shop", "//", "/a//b", "/a/../b", "/a?b", "/a#b", "/ä", "/a b"] {
            assert_eq!(path(text), None, "{text} was taken");
        }
    }

    #[test]
    fn a_route_without_methods_claims_what_others_leave() {
        let headers = BTreeMap::new();
        let any: Vec<_> = claims(None, "/", &[], &headers).map(|c| c.method).collect();
        assert_eq!(any, [None]);
        let methods = ["GET".to_owned(), "PUT".to_owned()];
        assert_eq!(claims(None, "/", &methods, &headers).count(), 2);
    }

    #[test]
    fn a_host_has_no_scheme_and_no_port() {
        assert_eq!(host("*.Shop.example").as_deref(), Some("*.shop.example"));
        for text in ["", "*", "http://a", "a:80", "a.*", "a..b", "*.*.a"] {
            assert_eq!(host(text), None, "{text} was taken");
        }
    }
}
