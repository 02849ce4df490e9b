//! The move of a provider's data to another backend, while it is used.
//!
//! Owns the record of a move and the rules by which it goes on ([`next`]). It must not know how anything is copied or held:
//! who drives a move tells what it sees, and does what it is told.
//!
//! **Copying**: all data is copied while it is written to; each host notes the keys that are written through it, from
//! before the copy began. **Holding**: each host holds writes and waits for those that run. **Draining**: as nobody writes
//! now, each host copies the keys that it noted, or who drives the move compares all again where nobody can note. **Switched**: the provider's record names the new backend; writes go on
//! when every host has taken that, or can't write to the old one any more.
//!
//! Why no acknowledged write is lost: a write is copied with all others if it came before the copy, and is noted if it came
//! later, by the run of the host that acknowledged it. Notes live in memory, so a pass counts only if the runs that it began
//! with are those that end it; else there is another pass. A host that took part and can't be seen may acknowledge writes
//! that nobody hears of: without `force`, nothing is held or switched until it is back, or has left.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::capability::TUNING;
use crate::name::{HostName, ProviderName};
use crate::record::{ProviderRecord, known_version};

/// A backend and what is set on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What serves it.
    pub backend: String,
    /// What is set on the backend.
    pub config: BTreeMap<String, String>,
}

impl Place {
    /// Where a provider is.
    pub fn of(record: &ProviderRecord) -> Self {
        Self {
            backend: record.backend.clone(),
            config: record.config.clone(),
        }
    }

    /// Whether the data is the same: settings that only say how a backend works don't count.
    pub fn holds_the_data_of(&self, other: &Self) -> bool {
        let names = |place: &Self| -> BTreeMap<String, String> {
            let mut config = place.config.clone();
            config.retain(|key, _| !TUNING.contains(&key.as_str()));
            config
        };
        self.backend == other.backend && names(self) == names(other)
    }
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Step {
    /// Whether the new backend is there and empty is looked at.
    Checking,
    /// Data is copied, and written to meanwhile.
    Copying,
    /// Writes wait.
    Holding,
    /// What was written meanwhile is copied.
    Draining,
    /// The provider is the new one; writes wait until everyone knows.
    Switched,
    /// It was given up; the provider is as it was.
    Failed,
}

/// A move of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// [`crate::record::VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// Which provider.
    pub provider: ProviderName,
    /// Where its data is.
    pub from: Place,
    /// Where it goes.
    pub to: Place,
    /// How far it is.
    pub step: Step,
    /// How often copying began.
    pub pass: u64,
    /// Hosts that write to the old backend by themselves, and have not left.
    #[serde(default)]
    pub hosts: BTreeSet<HostName>,
    /// Whether what the new backend holds already is overwritten.
    #[serde(default)]
    pub replace: bool,
    /// Whether hosts that can't be seen are not waited for.
    #[serde(default)]
    pub force: bool,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who began it.
    pub by: String,
    /// When, as in RFC 3339.
    pub at: String,
}

impl MoveRecord {
    /// Whether something is still to be done.
    pub fn is_on(&self) -> bool {
        self.step != Step::Failed
    }

    fn at(&self, step: Step) -> Self {
        Self { step, ..self.clone() }
    }

    fn failed(&self, reason: &str) -> Self {
        Self {
            reason: Some(reason.to_owned()),
            ..self.at(Step::Failed)
        }
    }

    /// Another pass over all data.
    fn again(&self) -> Self {
        Self {
            pass: self.pass + 1,
            ..self.at(Step::Copying)
        }
    }
}

/// What who drives a move sees of it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Where the provider's record says that its data is; `None` if it is not deployed.
    pub provider: Option<Place>,
    /// Whether the hosts' runs are exactly those that this pass began with.
    pub same_runs: bool,
    /// Hosts of the record that are not there.
    pub missing: Vec<HostName>,
    /// Whether every host that is there has applied the record as it is.
    pub applied: bool,
    /// In [`Step::Checking`]: whether the new backend may be filled, once that is known.
    pub checked: Option<Result<(), String>>,
    /// Whether all data was copied in this pass.
    pub copied: bool,
    /// Whether there is nothing left to copy for who drives the move, once the hosts have copied what they noted.
    pub drained: bool,
    /// Why the data can't be in the new backend, if copying has shown that.
    pub refused: Option<String>,
    /// Whether writes have been held for as long as they may.
    pub held_too_long: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until more is seen; why, for people.
    Wait(String),
    /// Look whether the new backend may be filled.
    Check,
    /// Copy all data.
    Copy,
    /// Copy what differs, while writes are held.
    Drain,
    /// Write the record so.
    Put(MoveRecord),
    /// Write the record so, and the provider's with its new backend, in one transaction.
    Switch(MoveRecord),
    /// Delete the record: the move is over.
    End,
}

/// How a move goes on.
pub fn next(record: &MoveRecord, seen: &Seen) -> Next {
    let is_moved = seen.provider.as_ref() == Some(&record.to);
    match record.step {
        Step::Failed => return Next::Wait("it was given up".to_owned()),
        Step::Switched => {
            // Who does not know holds its writes to the old one until it does: only its reads are late.
            return match !is_moved || seen.applied || seen.held_too_long {
                true => Next::End,
                false => Next::Wait("hosts take over the new backend".to_owned()),
            };
        }
        // It was changed or deleted by someone else, who has the last word.
        _ if seen.provider.as_ref() != Some(&record.from) => return Next::End,
        Step::Checking => {
            return match &seen.checked {
                None => Next::Check,
                Some(Ok(())) => Next::Put(record.again()),
                Some(Err(reason)) => Next::Put(record.failed(reason)),
            };
        }
        Step::Copying | Step::Holding | Step::Draining => {}
    }
    if let Some(reason) = &seen.refused {
        return Next::Put(record.failed(reason));
    }
    let is_missing = !seen.missing.is_empty() && !record.force;
    if !seen.same_runs || is_missing && record.step != Step::Copying {
        return Next::Put(record.again());
    }
    match record.step {
        Step::Copying if is_missing => Next::Wait(missing(&seen.missing)),
        Step::Copying if !seen.applied => Next::Wait("hosts begin to note what is written".to_owned()),
        Step::Copying if !seen.copied => Next::Copy,
        Step::Copying => Next::Put(record.at(Step::Holding)),
        _ if seen.applied && record.step == Step::Holding => Next::Put(record.at(Step::Draining)),
        _ if seen.applied && seen.drained => Next::Switch(record.at(Step::Switched)),
        _ if seen.held_too_long => Next::Put(record.again()),
        _ if seen.applied => Next::Drain,
        _ => Next::Wait("writes that run come to their ends".to_owned()),
    }
}

fn missing(hosts: &[HostName]) -> String {
    let names: Vec<_> = hosts.iter().map(HostName::as_str).collect();
    format!(
        "{} took part and can't be seen: writes that it acknowledges to the old backend would be lost; start it or \
         stop it in peace, or move with --force, which loses them",
        names.join(", ")
    )
}
