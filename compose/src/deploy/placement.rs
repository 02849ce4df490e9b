//! Where an actor runs, as an operator says: without a word, on every host.

use super::{Change, CurrentApp, Record};
use crate::diff::Sign;
use crate::fault::FaultKind;
use crate::key;
use crate::name::{ActorName, HostName};
use crate::record::{PlacementRecord, VERSION};

/// Places an actor on a host. From its first placement on it runs on those hosts only that it is placed on.
///
/// # Errors
/// The app or the actor is not deployed.
pub fn place(
    current: &CurrentApp,
    actor: &ActorName,
    host: &HostName,
    by: &str,
) -> Result<Change, FaultKind> {
    let app = current.deployed()?;
    current.actor(actor)?;
    let place_key = key::placement(actor, host);
    let mut change = Change::default();
    if current.placements.contains_key(&place_key) {
        return Ok(change);
    }
    let record = PlacementRecord {
        v: VERSION,
        actor: actor.clone(),
        host: host.clone(),
        by: by.to_owned(),
    };
    change.put(&place_key, None, &record);
    change.put(&key::app(&current.name), Some(app.revision), &app.record);
    change
        .summary
        .push(Sign::Added, record.label(&place_key), Vec::new());
    Ok(change)
}

/// Takes an actor off a host that it was placed on. Without its last placement it runs on every host.
///
/// # Errors
/// The app or the actor is not deployed, or it is not placed there.
pub fn unplace(current: &CurrentApp, actor: &ActorName, host: &HostName) -> Result<Change, FaultKind> {
    let app = current.deployed()?;
    current.actor(actor)?;
    let place_key = key::placement(actor, host);
    let placed = current.placements.get(&place_key);
    let placed = placed.ok_or_else(|| FaultKind::NotPlaced {
        actor: actor.to_string(),
        host: host.to_string(),
    })?;
    let mut change = Change::default();
    change.delete(&place_key, placed.revision);
    change.put(&key::app(&current.name), Some(app.revision), &app.record);
    let label = placed.record.label(&place_key);
    change.summary.push(Sign::Removed, label, Vec::new());
    Ok(change)
}

impl Record for PlacementRecord {
    fn settle(&mut self, _: &Self) {}

    fn raise(&mut self, _: u64, _: Option<&Self>) {}

    fn label(&self, _: &str) -> String {
        format!("placement of {} on {}", self.actor.name(), self.host)
    }

    fn changes(&self, _: &Self) -> Vec<String> {
        Vec::new()
    }
}
