//! Which other apps may link to an actor or a provider: `allowFrom` of a manifest.
//!
//! Owns the grammar and what a pattern matches. Its own app needs none: an app is one thing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fault::repeated;
use crate::name::{AppName, NameError, check_labels};

/// An app, or all of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppPattern {
    namespace: String,
    /// None for any.
    app: Option<String>,
}

/// A text names no apps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no app: expected NAMESPACE/APP, NAMESPACE/* for all apps of a namespace, or the name of an app of the same namespace"
)]
pub struct AppPatternError(String);

impl AppPattern {
    /// Reads a pattern in a manifest of `namespace`, where a name alone is that of an app of the same.
    ///
    /// # Errors
    /// The text is none.
    pub fn read(text: &str, namespace: &str) -> Result<Self, AppPatternError> {
        let (namespace, app) = text.split_once('/').unwrap_or((namespace, text));
        let checked: Result<(), NameError> = match app {
            "*" if text.contains('/') => check_labels(&[namespace]),
            app => check_labels(&[namespace, app]),
        };
        checked.map_err(|_| AppPatternError(repeated(text)))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            app: (app != "*").then(|| app.to_owned()),
        })
    }

    /// Whether it takes an app.
    pub fn matches(&self, app: &AppName) -> bool {
        self.namespace == app.namespace() && self.app.as_ref().is_none_or(|own| own == app.app())
    }
}

/// Whether something of the app `own_namespace/own_app`, which lets `allowed` link to it, lets `app`.
pub(crate) fn allows((own_namespace, own_app): (&str, &str), allowed: &[AppPattern], app: &AppName) -> bool {
    (own_namespace, own_app) == (app.namespace(), app.app())
        || allowed.iter().any(|pattern| pattern.matches(app))
}

impl FromStr for AppPattern {
    type Err = AppPatternError;

    fn from_str(text: &str) -> Result<Self, AppPatternError> {
        match text.contains('/') {
            true => Self::read(text, ""),
            false => Err(AppPatternError(repeated(text))),
        }
    }
}

impl TryFrom<String> for AppPattern {
    type Error = AppPatternError;

    fn try_from(text: String) -> Result<Self, AppPatternError> {
        text.parse()
    }
}

impl From<AppPattern> for String {
    fn from(pattern: AppPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for AppPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.app.as_deref().unwrap_or("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_the_apps_that_it_names_and_no_other() {
        for (text, takes, leaves) in [
            ("blog", "shop-ns/blog", "default/blog"),
            ("default/blog", "default/blog", "default/shop"),
            ("default/*", "default/anything", "shop-ns/blog"),
        ] {
            let pattern = AppPattern::read(text, "shop-ns").unwrap();
            assert!(pattern.matches(&takes.parse().unwrap()), "{text}: {takes}");
            assert!(!pattern.matches(&leaves.parse().unwrap()), "{text}: {leaves}");
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
        for text in ["", "*", "*/blog", "a/b/c", "Blog", "a/", "/b", "a/**"] {
            assert!(AppPattern::read(text, "default").is_err(), "{text} was taken");
        }
        assert!(
            "blog".parse::<AppPattern>().is_err(),
            "a record names apps in full"
        );
    }
}
