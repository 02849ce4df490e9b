//! Links into other apps: which lead somewhere.

use std::borrow::Cow;

use weft_compose::ActorName;
use weft_compose::record::{LinkRecord, LinkTarget};

use crate::desired::Desired;

/// The links of an actor, and those of them that go to an app that does not let its own: they lead nowhere, and none that
/// says less takes their place.
pub(super) fn allowed_links<'d>(
    desired: &'d Desired,
    actor: &ActorName,
) -> (Cow<'d, [LinkRecord]>, Vec<&'d LinkRecord>) {
    let (links, app) = (desired.links_of(actor), actor.app_name());
    let is_denied = |link: &&LinkRecord| !desired.allows(&app, &link.target);
    let denied: Vec<_> = links.iter().filter(is_denied).collect();
    if denied.is_empty() {
        return (links.into(), denied);
    }
    let open = links.iter().map(|link| LinkRecord {
        target: match is_denied(&link) {
            true => LinkTarget::Removed,
            false => link.target.clone(),
        },
        ..link.clone()
    });
    (open.collect::<Vec<_>>().into(), denied)
}

/// What conditions call a link.
pub fn link_subject(link: &LinkRecord) -> String {
    format!("link {} {}", link.actor, link.interface)
}
