//! A host's part when a provider's data moves to another backend.
//!
//! Owns the taking over of a move's record (weft_compose::moving) by what stands before the provider here: noting, holding,
//! copying what was noted, switching. What it reports as applied is what who drives the move goes by, so nothing is reported
//! before it is so. Who writes over the lattice to a store of another host leaves all but the switch to that host.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use weft_compose::ProviderName;
use weft_compose::capability::PINNED;
use weft_compose::moving::{MoveRecord, Place, Step};
use weft_compose::record::ProviderRecord;

use super::{Found, MEMORY, Reconciler};
use crate::cli::chain;
use crate::desired::Desired;
use crate::moving::HOLD_TRY;
use crate::moving::copy::{Copied, copy_keys};
use crate::moving::objects::{CopyError, copy_noted};
use crate::provider::{Gate, Provider, blob_store, key_value};
use crate::secret::opened::redacted;

/// What is told of a move that can't be.
const CAN_NOT: &str = "only key-value, SQL and blob stores can be moved, each to its own kind";

const OVERFLOW: &str = "more was written than could be noted";
const TOO_MUCH: &str = "what was written meanwhile was too much to copy while writes wait";

/// Whether a provider's new record is one that its move switched to, which goes another way than a plain change. `target`
/// is where data was moving to, if it is open here.
pub(super) fn takes_over(
    desired: &Desired,
    open: &ProviderRecord,
    record: &ProviderRecord,
    provider: &Provider,
    target: Option<&ProviderRecord>,
) -> bool {
    let is_it = |moving: &Arc<MoveRecord>| {
        moving.step == Step::Switched && moving.from == Place::of(open) && moving.to == Place::of(record)
    };
    let Some(gate) = provider.guard.gate.as_ref().filter(|_| !provider.is_elsewhere()) else {
        return false;
    };
    // The move may be over before this host looked: what waits in its hold goes to where the data is all the same.
    let is_late = || {
        let is_there = target.is_some_and(|target| Place::of(target) == Place::of(record));
        !keeps(desired, &record.name) && gate.is_held() && is_there
    };
    desired.moves.get(&record.name).is_some_and(is_it) || is_late()
}

/// Whether a provider stays as it is open, as what stands before it has notes of a move.
pub(super) fn keeps(desired: &Desired, name: &ProviderName) -> bool {
    desired.moves.get(name).is_some_and(|moving| moving.is_on())
}

/// Copies the keys that were noted, while nothing is written. What could not be copied stays noted.
async fn drain_keys(gate: &key_value::Gate, target: &key_value::Gate) -> Result<(), String> {
    let notes = gate.take_notes();
    let (old, new) = (gate.store(), target.store());
    let copied = match notes.overflow {
        true => Err(OVERFLOW.to_owned()),
        false => match timeout(HOLD_TRY, copy_keys(&*old, &*new, &notes)).await {
            Ok(copied) => copied.map(drop).map_err(|error| chain(&error)),
            Err(_) => Err(TOO_MUCH.to_owned()),
        },
    };
    copied.inspect_err(|_| gate.give_back(notes))
}

/// The same of objects and containers.
async fn drain_objects(gate: &blob_store::Gate, target: &blob_store::Gate) -> Result<(), String> {
    let notes = gate.take_notes();
    let (old, new) = (gate.store(), target.store());
    let until = Some(Instant::now() + HOLD_TRY);
    let copied = match notes.overflow {
        true => Err(OVERFLOW.to_owned()),
        false => match copy_noted(&*old, &*new, &notes, until, &Copied::default()).await {
            Err(CopyError::TooLong) => Err(TOO_MUCH.to_owned()),
            copied => copied.map_err(|error| chain(&error)),
        },
    };
    copied.inspect_err(|_| gate.give_back(notes))
}

impl Reconciler {
    /// Takes over how far each move is. `false` if one is not so here yet.
    pub(super) async fn follow_moves(&mut self, desired: &Desired, found: &mut Vec<Found>) -> bool {
        let mut all = true;
        for (name, record) in desired.moves.iter().filter(|(_, record)| record.is_on()) {
            if let Err(reason) = self.follow_move(desired, name, record).await {
                found.push(Found::of(name.app_name(), format!("move of {name}"), reason));
                all = false;
            }
        }
        let is_on = |name: &ProviderName| keeps(desired, name);
        let targets: Vec<_> = self.targets.iter().filter(|(name, _)| !is_on(name)).collect();
        let late = targets.into_iter().filter_map(|(name, (target, place))| {
            let (open, provider) = self.providers.get(name)?;
            let wanted = desired.providers.get(name)?;
            let takes_over = open != &**wanted && takes_over(desired, open, wanted, provider, Some(target));
            takes_over.then(|| (open.clone(), wanted.clone(), place.clone()))
        });
        for (open, wanted, target) in late.collect::<Vec<_>>() {
            if let Err(reason) = self.switch(&open, &wanted, &target) {
                found.push(Found::of(
                    open.name.app_name(),
                    format!("move of {}", open.name),
                    reason,
                ));
            }
        }
        for (name, (_, provider)) in self.providers.iter().filter(|(name, _)| !is_on(name)) {
            if let Some(gate) = provider.guard.gate.as_ref().filter(|gate| gate.is_moving()) {
                gate.end();
            }
            self.passes.remove(name);
        }
        let over: Vec<_> = self.targets.keys().filter(|name| !is_on(name)).cloned().collect();
        for name in &over {
            if let Some(target) = self.targets.remove(name) {
                self.retire(target);
            }
        }
        all
    }

    async fn follow_move(
        &mut self,
        desired: &Desired,
        name: &ProviderName,
        record: &MoveRecord,
    ) -> Result<(), String> {
        let Some((open, provider)) = self.providers.get(name) else {
            // Nobody writes to it here.
            return Ok(());
        };
        let (open, provider) = (open.clone(), provider.clone());
        let Some(gate) = &provider.guard.gate else {
            return Err(CAN_NOT.to_owned());
        };
        let running = || "writes that run have not ended yet".to_owned();
        let writes_here = !provider.is_elsewhere();
        match record.step {
            Step::Failed => {}
            Step::Checking => self.open_target(&open, record).await.map(drop)?,
            Step::Copying => {
                self.open_target(&open, record).await?;
                if writes_here && self.passes.get(name) != Some(&record.pass) {
                    if !gate.note().await {
                        return Err(running());
                    }
                    self.passes.insert(name.clone(), record.pass);
                }
                gate.release();
            }
            Step::Holding | Step::Draining if !writes_here => {}
            Step::Holding => {
                if !gate.hold().await {
                    return Err(running());
                }
            }
            Step::Draining => {
                let target = self.open_target(&open, record).await?;
                if !gate.hold().await {
                    return Err(running());
                }
                match (gate, &target.guard.gate) {
                    (Gate::KeyValue(gate), Some(Gate::KeyValue(target))) => drain_keys(gate, target).await?,
                    (Gate::BlobStore(gate), Some(Gate::BlobStore(target))) => {
                        drain_objects(gate, target).await?;
                    }
                    // Nothing is noted of tables: who drives the move compares them.
                    (Gate::Sql(_), Some(Gate::Sql(_))) => {}
                    _ => return Err(CAN_NOT.to_owned()),
                }
            }
            Step::Switched => {
                if !gate.hold().await {
                    return Err(running());
                }
                if let Some(wanted) = desired.providers.get(name)
                    && takes_over(desired, &open, wanted, &provider, None)
                {
                    let target = self.open_target(&open, record).await?;
                    self.switch(&open, wanted, &target)?;
                }
            }
        }
        Ok(())
    }

    /// The backend that data goes to, open.
    async fn open_target(
        &mut self,
        open: &ProviderRecord,
        moving: &MoveRecord,
    ) -> Result<Arc<Provider>, String> {
        let name = &open.name;
        let wanted = ProviderRecord {
            backend: moving.to.backend.clone(),
            config: moving.to.config.clone(),
            ..open.clone()
        };
        match self.targets.get(name) {
            Some((record, target)) if Place::of(record) == moving.to => return Ok(target.clone()),
            Some(_) => {
                if let Some(before) = self.targets.remove(name) {
                    self.retire(before);
                }
            }
            None => {}
        }
        let is_file = PINNED.contains(&moving.to.backend.as_str()) && moving.to.backend != MEMORY;
        let is_it = |(record, _): &(ProviderRecord, _)| {
            is_file && record.name == *name && record.backend == moving.to.backend
        };
        let retiring = self.retiring.iter().position(is_it);
        let target = match retiring {
            // From an earlier move: a file can't be opened twice.
            Some(at) => self.retiring.swap_remove(at).1.again(&wanted),
            None => {
                let used = self.secrets.of_provider(&wanted)?;
                let opened = self.open_provider(&wanted, &used).await;
                let opened = opened.map_err(|error| redacted(chain(&error), &used))?;
                let mut opened = opened.map_err(|error| redacted(chain(&error), &used))?;
                opened.secrets = used;
                opened
            }
        };
        let target = Arc::new(target);
        self.targets.insert(name.clone(), (wanted, target.clone()));
        Ok(target)
    }

    /// Puts the new backend in the place of the old one, for all who have the provider: also for calls that began before.
    fn switch(
        &mut self,
        open: &ProviderRecord,
        wanted: &ProviderRecord,
        target: &Arc<Provider>,
    ) -> Result<(), String> {
        let Some((record, provider)) = self.providers.get_mut(&open.name) else {
            return Ok(());
        };
        let Some((mut moved, old)) = provider.moved(wanted.revision, target) else {
            return Err(CAN_NOT.to_owned());
        };
        if let Some(mesh) = self
            .mesh
            .as_ref()
            .filter(|_| moved.provided.is_none() && target.provided.is_some())
        {
            moved = moved.served_to(mesh);
        }
        let old_record = std::mem::replace(record, wanted.clone());
        *provider = Arc::new(moved);
        self.retiring.push((old_record, Arc::new(old)));
        self.targets.remove(&open.name);
        tracing::info!(
            provider = open.name.as_str(),
            backend = wanted.backend,
            "the provider has moved here"
        );
        Ok(())
    }
}
