//! Where an actor's outgoing requests may go: `https://api.example.com`, `https://*.example.com:8443`,
//! `http://10.0.0.0/8:8080`.
//!
//! Owns the grammar and what a pattern matches. It must not know how names resolve: whoever connects asks
//! [`AllowPattern::names_address`] again for the address that came out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::fault::repeated;

/// The longest host name, in bytes (RFC 1035).
const HOST_LEN_MAX: usize = 253;

/// A scheme, a host or range of addresses, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowPattern {
    scheme: Scheme,
    host: Host,
    /// None for the scheme's own.
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Scheme {
    Http,
    Https,
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    /// `*`: any name or address, of which private ones still have to be named.
    Any,
    Name(String),
    /// `*.example.com`, kept with its dot: any name below it, and not itself.
    Below(String),
    /// One address or a range of them.
    Net(IpNet),
}

/// A text does not say where requests may go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` does not say where requests may go: {expected}, for example https://api.example.com, https://*.example.com:8443 or http://10.0.0.0/8:8080"
)]
pub struct AllowError {
    /// The text as it was given; the start of a long one.
    pub text: String,
    expected: &'static str,
}

impl AllowPattern {
    /// Whether a request with this scheme, host (a name or an address, brackets or not) and port may be made.
    pub fn matches(&self, scheme: &str, host: &str, port: u16) -> bool {
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .trim_end_matches('.');
        self.takes(scheme, port)
            && match (&self.host, host.parse::<IpAddr>()) {
                (Host::Any, _) => true,
                (Host::Net(net), Ok(address)) => contains(net, address),
                (Host::Net(_), Err(_)) | (_, Ok(_)) => false,
                (Host::Name(name), _) => name.eq_ignore_ascii_case(host),
                (Host::Below(suffix), _) => {
                    let at = host.len().saturating_sub(suffix.len());
                    at > 0 && host.is_char_boundary(at) && host[at..].eq_ignore_ascii_case(suffix)
                }
            }
    }

    /// Whether the pattern names `address` itself or a range with it, so that a private one may be reached.
    pub fn names_address(&self, scheme: &str, address: IpAddr, port: u16) -> bool {
        self.takes(scheme, port) && matches!(&self.host, Host::Net(net) if contains(net, address))
    }

    /// Whether the pattern names an address or range with addresses that are denied unless they are named:
    /// private, loopback, link-local and the like.
    pub fn names_private(&self) -> bool {
        self.net().is_some_and(|net| {
            let overlap = |range: IpNet| range.contains(&net) || net.contains(&range);
            PRIVATE_V4.iter().any(|r| overlap((*r).into())) || PRIVATE_V6.iter().any(|r| overlap((*r).into()))
        })
    }

    /// The address or range that the pattern names, if it names one.
    pub fn net(&self) -> Option<IpNet> {
        match self.host {
            Host::Net(net) => Some(net),
            _ => None,
        }
    }

    fn takes(&self, scheme: &str, port: u16) -> bool {
        let (own, usual) = match scheme {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            _ => return false,
        };
        (self.scheme == Scheme::Any || self.scheme == own) && self.port.unwrap_or(usual) == port
    }
}

/// A range of IPv4 takes an address that is written as an IPv6 one, too.
fn contains(net: &IpNet, address: IpAddr) -> bool {
    net.contains(&address) || net.contains(&address.to_canonical())
}

/// Ranges that are not the public internet (RFC 6890).
const PRIVATE_V4: &[Ipv4Net] = &[
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];
const PRIVATE_V6: &[Ipv6Net] = &[
    // The unspecified address, loopback and IPv4 in its old clothes.
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 64),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 32),
    // Tunnels, whose addresses carry an address of IPv4.
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 9),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Whether a text is a host name: DNS labels (with underscores, as names in containers have them) with dots between.
pub(crate) fn is_host_name(text: &str) -> bool {
    let label = |l: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&l.len()) && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-')
    };
    text.len() <= HOST_LEN_MAX && text.split('.').all(label)
}

impl FromStr for AllowPattern {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        let error = |expected| AllowError {
            text: repeated(text),
            expected,
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| error("expected SCHEME://HOST[:PORT]"))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "*" => Scheme::Any,
            _ => return Err(error("expected the scheme http, https or *")),
        };
        // An address of IPv6 stands in brackets, and has colons of its own.
        let port_at = rest.rfind(':').filter(|at| !rest[*at..].contains(']'));
        let (host, port) = match port_at {
            Some(at) => match rest[at + 1..].parse::<u16>() {
                Ok(port) if port > 0 => (&rest[..at], Some(port)),
                _ => return Err(error("expected a port from 1 to 65535")),
            },
            None => (rest, None),
        };
        let host = host_of(host).map_err(error)?;
        let usual = match scheme {
            Scheme::Http => Some(80),
            Scheme::Https => Some(443),
            Scheme::Any => None,
        };
        Ok(Self {
            scheme,
            host,
            port: port.filter(|_| port != usual),
        })
    }
}

fn host_of(text: &str) -> Result<Host, &'static str> {
    const RANGE: &str =
        "expected a range such as 10.0.0.0/8 whose address has no bits after the prefix, and no path";
    const PATH: &str = "expected nothing after the host but a port";
    if text == "*" {
        return Ok(Host::Any);
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| PATH)?)),
        None => (text, None),
    };
    let address = match address.strip_prefix('[') {
        Some(v6) => {
            let v6 = v6.strip_suffix(']').and_then(|a| a.parse::<Ipv6Addr>().ok());
            Some(IpAddr::V6(v6.ok_or("expected an address of IPv6 in brackets")?))
        }
        None => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    match (address, prefix) {
        (Some(address), None) => Ok(Host::Net(address.into())),
        (Some(address), Some(prefix)) => match IpNet::new(address, prefix) {
            Ok(net) if net.trunc() == net => Ok(Host::Net(net)),
            _ => Err(RANGE),
        },
        (None, Some(_)) => Err(PATH),
        (None, None) => {
            let name = text.strip_prefix("*.").unwrap_or(text);
            // `1.2.3` and `0x7f.1` are addresses to some resolvers.
            let number = name
                .rsplit('.')
                .next()
                .is_some_and(|l| l.starts_with(|c: char| c.is_ascii_digit()));
            match is_host_name(name) && !number {
                false => {
                    Err("expected a host name (an international one in its xn-- form), *.NAME or an address")
                }
                true if name.len() < text.len() => Ok(Host::Below(format!(".{}", name.to_ascii_lowercase()))),
                true => Ok(Host::Name(name.to_ascii_lowercase())),
            }
        }
    }
}

impl TryFrom<String> for AllowPattern {
    type Error = AllowError;

    fn try_from(text: String) -> Result<Self, AllowError> {
        text.parse()
    }
}

impl From<AllowPattern> for String {
    fn from(pattern: AllowPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for AllowPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scheme {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
            Scheme::Any => "*://",
        })?;
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Name(name) => f.write_str(name)?,
            Host::Below(suffix) => write!(f, "*{suffix}")?,
            Host::Net(net) => {
                match net.addr() {
                    IpAddr::V4(v4) => write!(f, "{v4}")?,
                    IpAddr::V6(v6) => write!(f, "[{v6}]")?,
                }
                if net.prefix_len() < net.max_prefix_len() {
                    write!(f, "/{}", net.prefix_len())?;
                }
            }
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> AllowPattern {
        text.parse().unwrap()
    }

    #[test]
    fn takes_the_host_it_names_on_the_port_of_its_scheme() {
        let api = pattern("https://api.example.com");
        assert!(
            api.matches("https", "API.example.com", 443) && api.matches("https", "api.example.com.", 443)
        );
        assert!(
            !api.matches("http", "api.example.com", 80) && !api.matches("https", "api.example.com", 8443)
        );
        assert!(
            !api.matches("https", "evil-api.example.com", 443) && !api.matches("https", "example.com", 443)
        );
        let any = pattern("*://api.example.com");
        assert!(any.matches("http", "api.example.com", 80) && any.matches("https", "api.example.com", 443));
        assert!(!any.matches("http", "api.example.com", 443) && !any.matches("ftp", "api.example.com", 80));
    }

    #[test]
    fn a_star_takes_names_below_a_domain_and_not_the_domain() {
        let below = pattern("https://*.example.com:8443");
        assert!(below.matches("https", "a.b.example.com", 8443));
        assert!(
            !below.matches("https", "example.com", 8443) && !below.matches("https", ".example.com", 8443)
        );
        assert!(!below.matches("https", "badexample.com", 8443));
        assert!(!pattern("https://*.example.com").matches("https", "日本example.com", 443));
    }

    #[test]
    fn a_range_takes_the_addresses_in_it_and_names_them() {
        let range = pattern("http://10.0.0.0/8:8080");
        assert!(range.matches("http", "10.1.2.3", 8080) && !range.matches("http", "11.0.0.1", 8080));
        assert!(range.matches("http", "[::ffff:10.1.2.3]", 8080));
        assert!(range.names_address("http", "10.1.2.3".parse().unwrap(), 8080));
        assert!(!range.names_address("http", "10.1.2.3".parse().unwrap(), 80));
        assert!(!pattern("http://*").names_address("http", "10.1.2.3".parse().unwrap(), 80));
        assert!(pattern("http://[fd00::]/8").matches("http", "[fd00::1]", 80));
        assert!(pattern("http://[::1]:9000").matches("http", "::1", 9000));
        assert!(!pattern("http://localhost").matches("http", "127.0.0.1", 80));
    }

    #[test]
    fn tells_the_ranges_that_have_to_be_named() {
        for text in [
            "http://127.0.0.1:9000",
            "http://10.0.0.0/8",
            "http://0.0.0.0/0",
            "http://[::1]",
            "http://169.254.169.254",
            "http://[::ffff:10.0.0.1]",
        ] {
            assert!(pattern(text).names_private(), "{text}");
        }
        for text in [
            "http://8.8.8.8",
            "http://[2606:4700::1111]",
            "http://localhost",
            "https://*",
        ] {
            assert!(!pattern(text).names_private(), "{text}");
        }
    }

    #[test]
    fn says_one_thing_in_one_way() {
        for (text, canonical) in [
            ("https://API.example.com:443", "https://api.example.com"),
            ("http://10.0.0.1/32", "http://10.0.0.1"),
            ("http://[fd00:0::]/8:80", "http://[fd00::]/8"),
            ("*://*", "*://*"),
            ("*://a.example:443", "*://a.example:443"),
        ] {
            assert_eq!(pattern(text).to_string(), canonical);
            assert_eq!(pattern(canonical), pattern(text));
        }
    }

    #[test]
    fn refuses_what_might_mean_something_else() {
        for text in [
            "",
            "api.example.com",
            "ftp://a",
            "https://",
            "https://a:0",
            "https://a:70000",
            "https://a:",
            "https://a/b",
            "https://a/",
            "https://user@a",
            "https://*a.example",
            "https://a.*.example",
            "https://::1",
            "https://[::1",
            "https://[::1]x",
            "http://10.0.0.1/8",
            "http://10.0.0.0/33",
            "https://exämple.com",
            "http://127.1",
            "http://0x7f.1",
            "HTTPS://a",
        ] {
            assert!(text.parse::<AllowPattern>().is_err(), "{text} was taken");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_taken_reads_back(text in "(https?|\\*)://\\PC{0,12}|\\PC{0,20}", host in any::<String>()) {
            if let Ok(pattern) = text.parse::<AllowPattern>() {
                pattern.matches("https", &host, 443);
                prop_assert_eq!(pattern.to_string().parse::<AllowPattern>().unwrap(), pattern);
            }
        }
    }
}
