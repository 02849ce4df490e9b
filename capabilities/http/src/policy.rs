//! Whom a request may go to.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::is_public;

/// What an allow-list says of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not at all.
    Denied,
    /// At its public addresses.
    Public,
    /// At any address: the list says so for this very host or address.
    Private,
}

/// Decides for one caller. Asked again for every request and every connection, so it may change.
pub trait Policy: Send + Sync {
    /// Whether a request may go to `host` (a lower-case name, or an address without brackets) at all.
    fn allows(&self, scheme: &str, host: &str, port: u16) -> Verdict;

    /// Whether it may go to this address of that host. `named` is whether the verdict was [`Verdict::Private`].
    fn allows_address(&self, address: IpAddr, _port: u16, named: bool) -> bool {
        named || is_public(address)
    }
}

/// Which hosts an entry is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This name, in lower case.
    Name(String),
    /// Every name below this one, in lower case, and not the name itself.
    Below(String),
    /// These addresses: private ones, too, as they are named. Also decides for what names resolve to.
    Addresses(IpNet),
}

/// An entry of an [`AllowList`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// `http` or `https`; `None` for both.
    pub scheme: Option<String>,
    /// Which hosts.
    pub host: HostPattern,
    /// The port; `None` for every one.
    pub port: Option<u16>,
    /// Whether a named host may be at an address that is not public.
    pub private: bool,
}

/// A list of what is allowed; an empty one allows nothing.
#[derive(Debug, Clone, Default)]
pub struct AllowList(pub Vec<Allowed>);

impl Allowed {
    fn verdict(&self, scheme: &str, host: &str, port: u16) -> Verdict {
        let scheme_fits = self.scheme.as_deref().is_none_or(|allowed| allowed == scheme);
        if !scheme_fits || self.port.is_some_and(|allowed| allowed != port) {
            return Verdict::Denied;
        }
        let private = self.private || matches!(self.host, HostPattern::Addresses(_));
        let fits = match &self.host {
            HostPattern::Any => true,
            HostPattern::Name(name) => host == name,
            HostPattern::Below(name) => host
                .strip_suffix(name.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            HostPattern::Addresses(net) => host.parse().is_ok_and(|address: IpAddr| net.contains(&address)),
        };
        match (fits, private) {
            (false, _) => Verdict::Denied,
            (true, false) => Verdict::Public,
            (true, true) => Verdict::Private,
        }
    }
}

impl Policy for AllowList {
    fn allows(&self, scheme: &str, host: &str, port: u16) -> Verdict {
        let mut best = Verdict::Denied;
        for entry in &self.0 {
            match (entry.verdict(scheme, host, port), best) {
                (Verdict::Private, _) => return Verdict::Private,
                (Verdict::Public, _) => best = Verdict::Public,
                (Verdict::Denied, _) => {}
            }
        }
        best
    }

    fn allows_address(&self, address: IpAddr, port: u16, named: bool) -> bool {
        named
            || is_public(address)
            || self.0.iter().any(|entry| {
                let port_fits = entry.port.is_none_or(|allowed| allowed == port);
                port_fits && matches!(&entry.host, HostPattern::Addresses(net) if net.contains(&address))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: HostPattern) -> Allowed {
        Allowed {
            scheme: Some("https".to_owned()),
            host,
            port: Some(443),
            private: false,
        }
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        assert_eq!(
            AllowList::default().allows("https", "example.com", 443),
            Verdict::Denied
        );
    }

    #[test]
    fn an_entry_is_for_its_scheme_host_and_port_only() {
        let list = AllowList(vec![entry(HostPattern::Name("example.com".to_owned()))]);
        assert_eq!(list.allows("https", "example.com", 443), Verdict::Public);
        for (scheme, host, port) in [
            ("http", "example.com", 443),
            ("https", "www.example.com", 443),
            ("https", "example.com.evil.org", 443),
            ("https", "example.com", 8443),
        ] {
            assert_eq!(
                list.allows(scheme, host, port),
                Verdict::Denied,
                "{scheme} {host} {port}"
            );
        }
    }

    #[test]
    fn below_a_name_is_neither_the_name_nor_one_that_ends_alike() {
        let list = AllowList(vec![entry(HostPattern::Below("example.com".to_owned()))]);
        assert_eq!(list.allows("https", "a.b.example.com", 443), Verdict::Public);
        for host in ["example.com", "badexample.com", ".example.com"] {
            assert_eq!(list.allows("https", host, 443), Verdict::Denied, "{host}");
        }
    }

    #[test]
    fn a_private_address_must_be_named() {
        let named = entry(HostPattern::Addresses("10.1.0.0/16".parse().unwrap()));
        let list = AllowList(vec![entry(HostPattern::Any), named]);
        assert_eq!(list.allows("https", "10.1.2.3", 443), Verdict::Private);
        assert_eq!(list.allows("https", "10.2.0.1", 443), Verdict::Public);
        assert!(!list.allows_address("10.2.0.1".parse().unwrap(), 443, false));
        assert!(list.allows_address("10.1.2.3".parse().unwrap(), 443, false));
        assert!(!list.allows_address("10.1.2.3".parse().unwrap(), 80, false));
    }
}
