//! Names: an app is `namespace/app`, its actors and providers are `namespace/app/name`.
//!
//! Owns the grammar. It must not know what a name points at.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fault::repeated;

/// The namespace that a name without one belongs to.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The longest part of a name, in bytes: that of a DNS label (RFC 1123), so that a part can stand in a host name.
pub const PART_LEN_MAX: usize = 63;

/// Three DNS labels with slashes between them, of which each kind of thing has a type of its own.
macro_rules! full_name {
    ($(#[$doc:meta])* $Name:ident) => {
        $(#[$doc])*
        ///
        /// Each part is a DNS label: lower-case letters, digits and inner hyphens, at most [`PART_LEN_MAX`] bytes. So
        /// a part can stand in a NATS subject, a file name, a metric attribute and a host name without being escaped.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $Name {
            text: String,
            app_at: usize,
            name_at: usize,
        }

        impl $Name {
            /// Joins three parts into a name.
            ///
            /// # Errors
            /// [`NameError::Part`] for the first part that is not a DNS label.
            pub fn new(namespace: &str, app: &str, name: &str) -> Result<Self, NameError> {
                check_labels(&[namespace, app, name])?;
                let app_at = namespace.len() + 1;
                let name_at = app_at + app.len() + 1;
                Ok(Self {
                    text: format!("{namespace}/{app}/{name}"),
                    app_at,
                    name_at,
                })
            }

            /// The scope of names, quotas and rights.
            pub fn namespace(&self) -> &str {
                &self.text[..self.app_at - 1]
            }

            /// The app that it belongs to.
            pub fn app(&self) -> &str {
                &self.text[self.app_at..self.name_at - 1]
            }

            /// `namespace/app/`, with which the names of all in its app begin.
            pub fn app_prefix(&self) -> &str {
                &self.text[..self.name_at]
            }

            /// The full name of the app that it belongs to.
            pub fn app_name(&self) -> AppName {
                AppName(self.text[..self.name_at - 1].to_owned(), self.app_at)
            }

            /// Its own name within its app.
            pub fn name(&self) -> &str {
                &self.text[self.name_at..]
            }

            /// The whole name, `namespace/app/name`.
            pub fn as_str(&self) -> &str {
                &self.text
            }
        }

        // As its text, which says where its parts begin: a map of names is asked by texts.
        impl Hash for $Name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.text.hash(state);
            }
        }

        impl Borrow<str> for $Name {
            fn borrow(&self) -> &str {
                &self.text
            }
        }

        impl FromStr for $Name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let mut parts = text.split('/');
                match (parts.next(), parts.next(), parts.next(), parts.next()) {
                    (Some(namespace), Some(app), Some(name), None) => Self::new(namespace, app, name),
                    _ => Err(NameError::Parts(repeated(text))),
                }
            }
        }

        impl TryFrom<String> for $Name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$Name> for String {
            fn from(name: $Name) -> Self {
                name.text
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl fmt::Debug for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }
    };
}

full_name! {
    /// The full name of an actor, `namespace/app/name`.
    ActorName
}

full_name! {
    /// The full name of a provider, `namespace/app/name`.
    ProviderName
}

full_name! {
    /// The full name of a secret, `namespace/app/name`.
    SecretName
}

/// The full name of an app, `namespace/app`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(String, usize);

impl AppName {
    /// Joins two parts into a name.
    ///
    /// # Errors
    /// [`NameError::Part`] for the first part that is not a DNS label.
    pub fn new(namespace: &str, app: &str) -> Result<Self, NameError> {
        check_labels(&[namespace, app])?;
        Ok(Self(format!("{namespace}/{app}"), namespace.len() + 1))
    }

    /// The scope of names, quotas and rights.
    pub fn namespace(&self) -> &str {
        &self.0[..self.1 - 1]
    }

    /// The app's own name.
    pub fn app(&self) -> &str {
        &self.0[self.1..]
    }

    /// The whole name, `namespace/app`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AppName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((namespace, app)) if !app.contains('/') => Self::new(namespace, app),
            _ => Err(NameError::App(repeated(text))),
        }
    }
}

impl TryFrom<String> for AppName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<AppName> for String {
    fn from(name: AppName) -> Self {
        name.0
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest name of a host, in bytes: with 16 digits for one run of it, it is a token of a subject.
pub const HOST_LEN_MAX: usize = 47;

/// The name of a host, a DNS label of at most [`HOST_LEN_MAX`] bytes. It stays over restarts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match check_labels(&[text]) {
            Ok(()) if text.len() <= HOST_LEN_MAX => Ok(Self(text.to_owned())),
            _ => Err(NameError::Host(repeated(text))),
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There are not exactly three parts.
    #[error("`{0}` is not a full name: expected namespace/app/name, for example default/shop/catalog")]
    Parts(String),
    /// It is not the name of a host.
    #[error(
        "`{0}` is not the name of a host: expected lower-case letters, digits and inner hyphens, at most {HOST_LEN_MAX} characters"
    )]
    Host(String),
    /// There are not exactly two parts.
    #[error("`{0}` is not the name of an app: expected namespace/app, for example default/shop")]
    App(String),
    /// A part is not a DNS label.
    #[error(
        "`{part}` can't be part of a name: expected 1 to {PART_LEN_MAX} lower-case letters, digits or inner hyphens"
    )]
    Part {
        /// The part as it was given; the start of a long one.
        part: String,
    },
}

/// The DNS label nearest to any text, for a name made from a file's: `My_App v2` becomes `my-app-v2`.
///
/// A text without one usable character becomes `actor`.
pub fn label_from(text: &str) -> String {
    let mut label = String::new();
    for c in text.chars() {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => label.push(c),
            _ if label.is_empty() || label.ends_with('-') => {}
            _ => label.push('-'),
        }
    }
    label.truncate(PART_LEN_MAX);
    label.truncate(label.trim_end_matches('-').len());
    if label.is_empty() {
        "actor".to_owned()
    } else {
        label
    }
}

/// Whether `part` can be a part of a name: a DNS label.
pub fn is_label(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=PART_LEN_MAX).contains(&part.len())
        && part.bytes().all(inner)
        && !part.starts_with('-')
        && !part.ends_with('-')
}

pub(crate) fn check_labels(parts: &[&str]) -> Result<(), NameError> {
    match parts.iter().find(|part| !is_label(part)) {
        Some(part) => Err(NameError::Part { part: repeated(part) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gives_back_its_three_parts() {
        let name: ActorName = "default/shop/catalog".parse().unwrap();
        assert_eq!(
            (name.namespace(), name.app(), name.name()),
            ("default", "shop", "catalog")
        );
        assert_eq!(name.app_prefix(), "default/shop/");
        assert_eq!(name.to_string(), "default/shop/catalog");
    }

    #[test]
    fn is_found_in_a_map_by_its_text() {
        let name: ActorName = "default/shop/catalog".parse().unwrap();
        let map = std::collections::HashMap::from([(name, 7)]);
        assert_eq!(map.get("default/shop/catalog"), Some(&7));
        assert_eq!(map.get("default/shop/orders"), None);
    }

    #[test]
    fn refuses_what_could_not_stand_in_a_subject_or_a_host_name() {
        for text in [
            "", "a", "a/b", "a/b/c/d", "A/b/c", "a/b.c/d", "a/-b/c", "a/b-/c", "a//c", "a/b/*", "a/b/>",
        ] {
            assert!(text.parse::<ActorName>().is_err(), "{text} was taken");
        }
        assert!(ActorName::new("a", "b", &"c".repeat(PART_LEN_MAX + 1)).is_err());
    }

    #[test]
    fn an_app_is_named_by_two_parts_that_its_actors_share() {
        let actor: ActorName = "default/shop/catalog".parse().unwrap();
        let app: AppName = "default/shop".parse().unwrap();
        assert_eq!(actor.app_name(), app);
        assert_eq!((app.namespace(), app.app()), ("default", "shop"));
        for text in ["", "shop", "default/shop/catalog", "default/", "Default/shop"] {
            assert!(text.parse::<AppName>().is_err(), "{text} was taken");
        }
    }

    proptest! {
        #[test]
        fn any_file_name_becomes_a_label(text in any::<String>()) {
            prop_assert!(is_label(&label_from(&text)));
        }

        #[test]
        fn a_label_stays_as_it_is(text in "[a-z0-9]([a-z0-9]|-[a-z0-9]){0,20}") {
            prop_assert_eq!(label_from(&text), text);
        }
    }
}
