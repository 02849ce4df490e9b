//! `X-Forwarded-*`: who the client is, if someone stands between.
//!
//! Owns the list of proxies that are believed. What anyone else says of itself is thrown away, so that an actor can
//! trust what it reads.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Networks whose word on `X-Forwarded-*` is taken.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Trusts the given networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into())
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        // An IPv4 client of a dual-stack socket is that IPv4 address.
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

/// What the headers of one connection's requests are given; made once a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    trusted: bool,
    address: HeaderValue,
    address_text: String,
    scheme: HeaderValue,
}

impl Peer {
    /// A client at `address`, speaking `scheme` (`http` or `https`).
    pub fn new(address: IpAddr, scheme: &'static str, proxies: &TrustedProxies) -> Self {
        let address_text = address.to_canonical().to_string();
        // An address has only characters that a header may have.
        let value = HeaderValue::from_str(&address_text).unwrap_or(HeaderValue::from_static("unknown"));
        Self {
            trusted: proxies.trusts(address),
            address: value,
            address_text,
            scheme: HeaderValue::from_static(scheme),
        }
    }

    /// Sets `X-Forwarded-For` and `-Proto`, keeping what a trusted proxy said before.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if !self.trusted {
            for name in [
                X_FORWARDED_HOST,
                X_FORWARDED_PORT,
                X_FORWARDED_PREFIX,
                X_REAL_IP,
                FORWARDED,
            ] {
                headers.remove(name);
            }
            headers.insert(X_FORWARDED_FOR, self.address.clone());
            headers.insert(X_FORWARDED_PROTO, self.scheme.clone());
            return;
        }
        headers.insert(X_FORWARDED_FOR, self.behind(headers));
        headers
            .entry(X_FORWARDED_PROTO)
            .or_insert_with(|| self.scheme.clone());
    }

    /// The list of all who forwarded, this peer last. A list that is no text is replaced.
    fn behind(&self, headers: &HeaderMap) -> HeaderValue {
        let mut list = String::new();
        for value in headers.get_all(X_FORWARDED_FOR) {
            let Ok(value) = value.to_str() else {
                return self.address.clone();
            };
            list.push_str(value);
            list.push_str(", ");
        }
        list.push_str(&self.address_text);
        HeaderValue::from_str(&list).unwrap_or_else(|_| self.address.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(peer: &str, sent: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Peer::new(peer.parse().unwrap(), "http", &proxies).apply(&mut headers);
        headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_stranger_cannot_say_who_it_is() {
        let sent = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.example"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
        ];
        let seen = forwarded("192.0.2.7", &sent);
        assert_eq!(
            seen,
            [
                pair("x-forwarded-for", "192.0.2.7"),
                pair("x-forwarded-proto", "http")
            ]
        );
    }

    #[test]
    fn a_named_proxy_is_believed_and_added_to_the_list() {
        let sent = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
        ];
        let seen = forwarded("::ffff:10.1.2.3", &sent);
        assert!(
            seen.contains(&pair("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.1.2.3")),
            "{seen:?}"
        );
        assert!(seen.contains(&pair("x-forwarded-proto", "https")), "{seen:?}");
    }
}
