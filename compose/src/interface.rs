//! Interfaces as a link names them: `wasi:keyvalue`, `shop:pricing/pricing`, `wasi:http/outgoing-handler@0.2.0`.
//!
//! Owns the grammar and what a pattern matches. It must not know which interfaces exist: [`crate::capability`] does.

use std::fmt;
use std::str::FromStr;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::fault::repeated;

/// An interface of a package, or all interfaces of one, of any version or of the compatible ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfacePattern {
    namespace: String,
    package: String,
    interface: Option<String>,
    version: Option<Version>,
}

/// A text is not an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an interface: {expected}")]
pub struct InterfaceError {
    /// The text as it was given; the start of a long one.
    pub text: String,
    expected: &'static str,
}

impl InterfaceError {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: repeated(text),
            expected,
        }
    }
}

const WHOLE: &str = "expected namespace:package or namespace:package/interface, for example wasi:keyvalue or shop:pricing/pricing";
const WITH_VERSION: &str =
    "expected a version of three numbers after the `@`, for example wasi:keyvalue@0.2.0-draft";

impl InterfacePattern {
    /// Whether the pattern takes an import, for example `wasi:keyvalue/store@0.2.0-draft`.
    ///
    /// A version takes the compatible ones (0.2.1 and 0.2.6; 1.0 and 1.4), a pre-release only itself.
    pub fn matches(&self, import: &str) -> bool {
        let Ok(import) = import.parse::<Self>() else {
            return false;
        };
        self.covers(&import)
            && match (&self.version, &import.version) {
                (None, _) => true,
                (Some(own), Some(other)) => compatible(own, other),
                (Some(_), None) => false,
            }
    }

    /// Whether the pattern takes an interface that is named without a version, in any of its versions.
    pub fn covers(&self, interface: &Self) -> bool {
        self.namespace == interface.namespace
            && self.package == interface.package
            && (self.interface.is_none() || self.interface == interface.interface)
    }

    /// How much the pattern says. Of several that match an import, the one that says most wins.
    pub fn specificity(&self) -> u8 {
        u8::from(self.interface.is_some()) * 2 + u8::from(self.version.is_some())
    }

    /// The package without interface and version, for example `wasi:keyvalue`.
    pub fn package(&self) -> String {
        format!("{}:{}", self.namespace, self.package)
    }

    /// The namespace of the package, for example `wasi`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The interface, if the pattern is not for the whole package.
    pub fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    /// The version, if the pattern has one.
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }
}

/// What Cargo calls compatible, in both directions: a host may be older than what a guest was built against.
fn compatible(a: &Version, b: &Version) -> bool {
    if !a.pre.is_empty() || !b.pre.is_empty() {
        return a == b;
    }
    let series = |v: &Version| match (v.major, v.minor) {
        (0, 0) => (0, 0, v.patch),
        (0, minor) => (0, minor, 0),
        (major, _) => (major, 0, 0),
    };
    series(a) == series(b)
}

/// An identifier of WIT: words with hyphens between them, each of lower-case or of upper-case letters and digits.
pub(crate) fn is_kebab(text: &str) -> bool {
    let word = |word: &str| {
        word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            || word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.split('-').all(|w| !w.is_empty() && word(w))
}

/// Whether a text is `INTERFACE.FUNCTION`, for example `shop:catalog/catalog.get`.
pub(crate) fn is_function(text: &str) -> bool {
    text.rsplit_once('.').is_some_and(|(interface, function)| {
        is_kebab(function)
            && interface
                .parse::<InterfacePattern>()
                .is_ok_and(|i| i.interface.is_some())
    })
}

impl FromStr for InterfacePattern {
    type Err = InterfaceError;

    fn from_str(text: &str) -> Result<Self, InterfaceError> {
        let error = |expected| InterfaceError::new(text, expected);
        let (path, version) = match text.split_once('@') {
            Some((path, version)) => {
                let version = version.parse().map_err(|_| error(WITH_VERSION))?;
                (path, Some(version))
            }
            None => (text, None),
        };
        let (namespace, rest) = path.split_once(':').ok_or_else(|| error(WHOLE))?;
        let (package, interface) = match rest.split_once('/') {
            Some((package, interface)) => (package, Some(interface)),
            None => (rest, None),
        };
        if ![namespace, package].into_iter().chain(interface).all(is_kebab) {
            return Err(error(WHOLE));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            package: package.to_owned(),
            interface: interface.map(str::to_owned),
            version,
        })
    }
}

impl TryFrom<String> for InterfacePattern {
    type Error = InterfaceError;

    fn try_from(text: String) -> Result<Self, InterfaceError> {
        text.parse()
    }
}

impl From<InterfacePattern> for String {
    fn from(pattern: InterfacePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.package)?;
        if let Some(interface) = &self.interface {
            write!(f, "/{interface}")?;
        }
        if let Some(version) = &self.version {
            write!(f, "@{version}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, import: &str) -> bool {
        pattern.parse::<InterfacePattern>().unwrap().matches(import)
    }

    #[test]
    fn a_package_takes_all_its_interfaces_of_any_version() {
        assert!(matches("wasi:keyvalue", "wasi:keyvalue/store@0.2.0-draft"));
        assert!(matches("wasi:keyvalue", "wasi:keyvalue/batch"));
        assert!(!matches("wasi:keyvalue", "wasi:keyvaluestore/store"));
        assert!(!matches("wasi:keyvalue/store", "wasi:keyvalue/batch"));
    }

    #[test]
    fn a_version_takes_the_compatible_ones_and_a_pre_release_only_itself() {
        assert!(matches("wasi:http@0.2.0", "wasi:http/types@0.2.6"));
        assert!(matches("wasi:http@0.2.6", "wasi:http/types@0.2.0"));
        assert!(!matches("wasi:http@0.2.0", "wasi:http/types@0.3.0"));
        assert!(matches("shop:a@1.0.0", "shop:a/b@1.7.2"));
        assert!(!matches("shop:a@1.0.0", "shop:a/b@2.0.0"));
        assert!(!matches("shop:a@0.0.1", "shop:a/b@0.0.2"));
        assert!(!matches("shop:a@1.0.0", "shop:a/b"));
        assert!(matches(
            "wasi:keyvalue@0.2.0-draft",
            "wasi:keyvalue/store@0.2.0-draft"
        ));
        assert!(!matches(
            "wasi:keyvalue@0.2.0-draft",
            "wasi:keyvalue/store@0.2.0-draft2"
        ));
        assert!(!matches("wasi:keyvalue@0.2.0-draft", "wasi:keyvalue/store@0.2.0"));
    }

    #[test]
    fn the_pattern_that_says_more_wins() {
        let order = ["a:b", "a:b@1.0.0", "a:b/c", "a:b/c@1.0.0"];
        let said: Vec<u8> = order
            .iter()
            .map(|p| p.parse::<InterfacePattern>().unwrap().specificity())
            .collect();
        assert_eq!(said, [0, 1, 2, 3]);
    }

    #[test]
    fn refuses_what_wit_would_not_take() {
        for text in [
            "",
            "a",
            "a:",
            ":b",
            "a:b/",
            "a:b/c/d",
            "a:b@1",
            "a:b@",
            "a:b/c@1.0",
            "a b:c",
            "1a:b",
            "a:b--c",
            "a:bC",
        ] {
            assert!(text.parse::<InterfacePattern>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn a_function_is_named_with_its_interface() {
        assert!(is_function("shop:catalog/catalog.get"));
        assert!(is_function("shop:catalog/catalog@1.0.0.get-all"));
        for text in [
            "get",
            "shop:catalog.get",
            "shop:catalog/catalog",
            "shop:catalog/catalog.",
            "shop:catalog/catalog@1.0.0",
        ] {
            assert!(!is_function(text), "{text} was taken");
        }
    }

    proptest! {
        #[test]
        fn a_written_pattern_reads_back(text in "[a-z]{1,4}:[a-z]{1,4}(-[a-z0-9]{1,3})?(/[a-z]{1,5})?(@[0-9]\\.[1-9][0-9]?\\.[0-9](-[a-z][0-9]?)?)?") {
            let pattern: InterfacePattern = text.parse().unwrap();
            prop_assert_eq!(pattern.to_string(), text);
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = text.parse::<InterfacePattern>();
            is_function(&text);
        }
    }
}
