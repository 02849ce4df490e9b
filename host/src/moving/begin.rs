//! How a move begins, and how it is given up: by an operator's word, as a record.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use weft_compose::capability::{OUTSIDE, PINNED};
use weft_compose::moving::{MoveRecord, Place, Step};
use weft_compose::record::{ProviderRecord, RecordError, VERSION, decode, encode};
use weft_compose::{Capability, Manifest, ProviderName, key};
use weft_lattice::control::{CommitError, Entry, Expected, ReadError, Transaction};

use super::Mover;

/// How long it may take until this host has read what was written.
const KNOWN_WAIT: Duration = Duration::from_secs(10);

/// Why a move did not begin, or was not given up. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// There is no data of this kind.
    #[error("{0} is {1}, which keeps nothing that could be copied: deploy without --copy")]
    Capability(ProviderName, Capability),
    /// Nobody can list what an outside provider has.
    #[error("{0} is served by a process outside, which can't tell what it has: copy its data there")]
    Outside(ProviderName),
    /// Each would take the other's data for stale.
    #[error(
        "{0} and {1} would both be in one place: what one writes there, the move of the other deletes; give each a database \
         of its own"
    )]
    Together(ProviderName, ProviderName),
    /// It moves elsewhere.
    #[error("{0} is being moved to {1} already: wait for its end, or give it up by `weft provider cancel`")]
    Moving(ProviderName, String),
    /// There is nothing to give up.
    #[error("{0} is not being moved, or has moved already")]
    NotMoving(ProviderName),
    /// The control store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record in it can't.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It took nothing.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Whether a backend is in each provider's own file, whatever is set on it.
fn is_pinned(backend: &str) -> bool {
    PINNED.contains(&backend)
}

/// A move that is on.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Begun {
    /// Whose data.
    pub provider: ProviderName,
    /// The backend that it goes to.
    pub to: String,
    /// The revision of the provider's record, which rises when it has moved.
    pub revision: u64,
}

impl Mover {
    /// Begins to move the data of each provider that is deployed elsewhere than `manifest` says; which those are. One that
    /// moves there already goes on, and `replace` and `force` hold for it from now on.
    ///
    /// # Errors
    /// [`BeginError`]; none was begun.
    pub async fn begin(
        &self,
        manifest: &Manifest,
        replace: bool,
        force: bool,
        by: &str,
    ) -> Result<Vec<Begun>, BeginError> {
        let (mut write, mut begun) = (Transaction::by(by), Vec::new());
        for wanted in manifest.providers.values() {
            let name = &wanted.name.value;
            let provider_key = key::provider(name);
            let Some(stored) = self.control.get(&provider_key).await? else {
                continue;
            };
            let record: ProviderRecord = decode(&provider_key, &stored.value)?;
            let (from, to) = (
                Place::of(&record),
                Place {
                    backend: wanted.backend.value.clone(),
                    config: wanted.config.clone(),
                },
            );
            // One of another kind is another provider under the same name.
            if record.capability != wanted.capability || from.holds_the_data_of(&to) {
                continue;
            }
            if record.capability == Capability::Messaging {
                return Err(BeginError::Capability(name.clone(), record.capability));
            }
            if from.backend == OUTSIDE {
                return Err(BeginError::Outside(name.clone()));
            }
            let others = manifest.providers.values().filter(|other| {
                other.name.value != *name && other.capability == wanted.capability && !is_pinned(&to.backend)
            });
            for other in others {
                let place = Place {
                    backend: other.backend.value.clone(),
                    config: other.config.clone(),
                };
                if place.holds_the_data_of(&to) {
                    return Err(BeginError::Together(name.clone(), other.name.value.clone()));
                }
            }
            let (entry, before) = self.found(name).await?;
            let moving = match before.filter(MoveRecord::is_on) {
                Some(before) if before.to == to => MoveRecord {
                    replace: before.replace || replace,
                    force: before.force || force,
                    ..before
                },
                Some(before) => return Err(BeginError::Moving(name.clone(), before.to.backend)),
                None => MoveRecord {
                    v: VERSION,
                    provider: name.clone(),
                    from,
                    to,
                    step: Step::Checking,
                    pass: 0,
                    hosts: BTreeSet::new(),
                    replace,
                    force,
                    reason: None,
                    by: by.to_owned(),
                    at: Timestamp::now().to_string(),
                },
            };
            let move_key = key::moved(name);
            let expected = entry.map_or(Expected::Absent, |entry| Expected::Modified(entry.modified));
            write = write.expect(&move_key, expected).put(&move_key, encode(&moving));
            begun.push(Begun {
                provider: name.clone(),
                to: moving.to.backend,
                revision: record.revision,
            });
        }
        if !begun.is_empty() {
            let index = self.control.commit(write).await?;
            // Who asks next is to be told of it.
            let mut progress = self.progress.clone();
            let known = progress.wait_for(|progress| progress.desired.index >= index);
            let _ = tokio::time::timeout(KNOWN_WAIT, known).await;
        }
        Ok(begun)
    }

    /// Gives a move up: the provider stays where it is. What was copied stays in the new backend.
    ///
    /// # Errors
    /// [`BeginError`]; it goes on.
    pub async fn cancel(&self, name: &ProviderName, by: &str) -> Result<(), BeginError> {
        let (entry, record) = self.found(name).await?;
        let (Some(entry), Some(record)) = (entry, record.filter(|record| record.step < Step::Switched))
        else {
            return Err(BeginError::NotMoving(name.clone()));
        };
        let failed = MoveRecord {
            step: Step::Failed,
            reason: Some(format!("{by} gave it up")),
            ..record
        };
        let move_key = key::moved(name);
        let write = Transaction::by(by)
            .expect(&move_key, Expected::Modified(entry.modified))
            .put(&move_key, encode(&failed));
        self.control.commit(write).await?;
        Ok(())
    }

    async fn found(&self, name: &ProviderName) -> Result<(Option<Entry>, Option<MoveRecord>), BeginError> {
        let move_key = key::moved(name);
        let entry = self.control.get(&move_key).await?;
        let record = match &entry {
            Some(entry) => Some(decode(&move_key, &entry.value)?),
            None => None,
        };
        Ok((entry, record))
    }
}
