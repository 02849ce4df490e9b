//! What tells the links of an actor apart, and which targets fit which imports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::capability::{Capability, Need, SERVED, need, only_backend};
use crate::fault::{FaultKind, Near};
use crate::interface::{InterfaceError, InterfacePattern};
use crate::record::LinkTarget;

/// The name of a link that was given none: an invocation begins with these.
pub const DEFAULT_LINK: &str = "default";
/// The longest name of a link, in bytes: it is a part of a key of the store.
pub(crate) const LINK_NAME_LEN_MAX: usize = 63;
const NAME: &str = "expected a link's name of 1 to 63 letters, digits, `-` and `_` after the `#`, for example wasi:keyvalue#cache";

/// What tells a link of an actor from its others: which imports it is for, and its name, by which the actor chooses it.
/// Written as `wasi:keyvalue`, or `wasi:keyvalue#cache`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkKey {
    /// Which imports.
    pub interface: InterfacePattern,
    /// None for [`DEFAULT_LINK`].
    name: Option<String>,
}

impl LinkKey {
    /// The key of a link of this name.
    ///
    /// # Errors
    /// It is none that a link may have.
    pub fn named(interface: InterfacePattern, name: &str) -> Result<Self, InterfaceError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(1..=LINK_NAME_LEN_MAX).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(InterfaceError::new(&format!("{interface}#{name}"), NAME));
        }
        let name = (name != DEFAULT_LINK).then(|| name.to_owned());
        Ok(Self { interface, name })
    }

    /// The link's name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT_LINK)
    }

    /// Whether an invocation begins with it.
    pub fn is_default(&self) -> bool {
        self.name.is_none()
    }
}

impl From<InterfacePattern> for LinkKey {
    fn from(interface: InterfacePattern) -> Self {
        Self {
            interface,
            name: None,
        }
    }
}

impl FromStr for LinkKey {
    type Err = InterfaceError;

    fn from_str(text: &str) -> Result<Self, InterfaceError> {
        match text.split_once('#') {
            Some((interface, name)) => Self::named(interface.parse()?, name),
            None => Ok(text.parse::<InterfacePattern>()?.into()),
        }
    }
}

impl TryFrom<String> for LinkKey {
    type Error = InterfaceError;

    fn try_from(text: String) -> Result<Self, InterfaceError> {
        text.parse()
    }
}

impl From<LinkKey> for String {
    fn from(key: LinkKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.interface)?;
        match &self.name {
            Some(name) => write!(f, "#{name}"),
            None => Ok(()),
        }
    }
}

/// Checks that an interface can be linked at all, whatever the target.
pub(crate) fn check_interface(interface: &InterfacePattern) -> Result<(), FaultKind> {
    match need(interface) {
        Need::Nothing => Err(FaultKind::NeedsNoLink {
            interface: interface.to_string(),
        }),
        Need::Unknown => {
            let full = interface
                .interface()
                .map(|name| format!("{}/{name}", interface.package()));
            let linked = SERVED
                .iter()
                .filter(|(_, need)| *need != Need::Nothing)
                .map(|(name, _)| *name);
            Err(FaultKind::UnknownInterface {
                interface: interface.to_string(),
                near: Near::of(&full.unwrap_or_else(|| interface.package()), linked),
            })
        }
        Need::Provider(_) | Need::Http | Need::Actor => Ok(()),
    }
}

/// Checks that a target is of the kind that the interface needs. `serves` is the provider's capability and backend, if the
/// target is one and it is known.
pub(crate) fn check_target(
    interface: &InterfacePattern,
    target: &LinkTarget,
    serves: Option<(Capability, &str)>,
) -> Result<(), FaultKind> {
    check_interface(interface)?;
    let need = need(interface);
    let needs = || match need {
        Need::Provider(capability) => format!("a provider of {capability}"),
        Need::Http => "`allow`, the places that may be reached".to_owned(),
        _ => "an actor that exports it".to_owned(),
    };
    let found = match (need, target) {
        (Need::Provider(_), LinkTarget::Provider { name, .. }) => {
            return match serves {
                Some((capability, backend)) => check_provider(interface, name.name(), capability, backend),
                None => Ok(()),
            };
        }
        (Need::Http, LinkTarget::Http { .. })
        | (Need::Actor, LinkTarget::Actor { .. })
        | (_, LinkTarget::Removed) => {
            return Ok(());
        }
        (_, LinkTarget::Provider { .. }) => "a provider",
        (_, LinkTarget::Actor { .. }) => "an actor",
        (_, LinkTarget::Http { .. }) => "addresses of HTTP",
    };
    Err(FaultKind::TargetKind {
        interface: interface.to_string(),
        found,
        needs: needs(),
    })
}

/// Checks that a link can be beside another one of the same actor.
///
/// # Errors
/// They have one name and are for one capability, and go to different places: by the links of one name an actor has one
/// provider of each capability, whichever of its interfaces it calls.
pub fn check_beside(
    (key, target): (&LinkKey, &LinkTarget),
    (other, others): (&LinkKey, &LinkTarget),
) -> Result<(), FaultKind> {
    let is_provider = |target: &LinkTarget| matches!(target, LinkTarget::Provider { .. });
    match need(&key.interface) {
        Need::Provider(capability)
            if key.name() == other.name()
                && need(&other.interface) == Need::Provider(capability)
                && is_provider(target)
                && is_provider(others)
                && target != others =>
        {
            Err(FaultKind::LinksDiffer {
                interface: key.to_string(),
                other: other.to_string(),
                capability: capability.to_string(),
            })
        }
        _ => Ok(()),
    }
}

/// Checks that a provider can serve an interface.
///
/// # Errors
/// It is of another capability, or on another backend than the only one that can.
pub fn check_provider(
    interface: &InterfacePattern,
    provider: &str,
    capability: Capability,
    backend: &str,
) -> Result<(), FaultKind> {
    let Need::Provider(wanted) = need(interface) else {
        return Ok(());
    };
    let only = only_backend(interface);
    let (needs, serves) = match only {
        Some(only) => (
            format!("{wanted} on {only}"),
            format!("{capability} on {backend}"),
        ),
        None => (wanted.to_string(), capability.to_string()),
    };
    if capability == wanted && only.is_none_or(|only| only == backend) {
        return Ok(());
    }
    Err(FaultKind::TargetCapability {
        interface: interface.to_string(),
        needs,
        provider: provider.to_owned(),
        serves,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_the_name_behind_the_hash_or_is_the_default_one() {
        let key: LinkKey = "wasi:keyvalue/store@0.2.0-draft#cache".parse().unwrap();
        assert_eq!((key.name(), key.is_default()), ("cache", false));
        assert_eq!(key.to_string(), "wasi:keyvalue/store@0.2.0-draft#cache");
        let default: LinkKey = "wasi:keyvalue".parse().unwrap();
        assert_eq!((default.name(), default.is_default()), (DEFAULT_LINK, true));
        assert_eq!("wasi:keyvalue#default".parse(), Ok(default));
    }

    #[test]
    fn refuses_names_that_a_link_can_not_have() {
        let long = format!("wasi:keyvalue#{}", "a".repeat(LINK_NAME_LEN_MAX + 1));
        for text in [
            "wasi:keyvalue#",
            "wasi:keyvalue#a b",
            "wasi:keyvalue#a#b",
            "#a",
            "",
            &long,
        ] {
            assert!(text.parse::<LinkKey>().is_err(), "{text} was taken");
        }
    }
}
