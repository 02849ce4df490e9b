//! Which targets fit which imports.

use crate::capability::{Capability, Need, SERVED, need};
use crate::fault::{FaultKind, Near};
use crate::interface::InterfacePattern;
use crate::record::LinkTarget;

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

/// Checks that a target is of the kind that the interface needs. `serves` is the provider's capability, if the target
/// is one and it is known.
pub(crate) fn check_target(
    interface: &InterfacePattern,
    target: &LinkTarget,
    serves: Option<Capability>,
) -> Result<(), FaultKind> {
    check_interface(interface)?;
    let need = need(interface);
    let needs = || match need {
        Need::Provider(capability) => format!("a provider of {capability}"),
        Need::Http => "`allow`, the places that may be reached".to_owned(),
        _ => "an actor that exports it".to_owned(),
    };
    let found = match (need, target) {
        (Need::Provider(wanted), LinkTarget::Provider { name, .. }) => {
            return match serves {
                Some(serves) if serves != wanted => Err(FaultKind::TargetCapability {
                    interface: interface.to_string(),
                    needs: wanted.to_string(),
                    provider: name.name().to_owned(),
                    serves: serves.to_string(),
                }),
                _ => Ok(()),
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
