//! Moves of providers' data to other backends: what drives them.
//!
//! Owns a task for each move, on the host that has the control store. It looks at how far every host is, asks the rules
//! (weft_compose::moving) what is next, and does it: copies, or writes the record. What a host does by the record is
//! [`crate::reconcile`]'s. Nothing of a move is only in memory but what a new pass makes again, so that the host may be
//! killed at any moment: the next run of it goes on.

mod begin;
pub mod copy;
mod hosts;
pub mod objects;
pub mod tables;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use weft_capabilities::{BlobStore, KeyValue, Sql, SqlTables, TablesError};
use weft_compose::capability::PINNED;
use weft_compose::moving::{MoveRecord, Next, Place, Seen, Step, next};
use weft_compose::record::{AppRecord, LinkTarget, ProviderRecord, decode, encode};
use weft_compose::{HostName, ProviderName, key};
use weft_lattice::control::{CommitError, ControlStore, Expected, ReadError, Transaction};
use weft_lattice::envelope::Standing;

pub use self::begin::BeginError;
use self::copy::{Copied, Scope, copy_all, copy_keys, first_in_use};
use crate::cli::chain;
use crate::mesh::Mesh;
use crate::provider::{Gate, blob_store, key_value};
use crate::reconcile::Progress;

/// How often the other hosts are looked at while a move waits for them.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long writes are held in one try: less than a write waits in a hold, so that none has to fail.
pub(crate) const HOLD_TRY: Duration = Duration::from_secs(8);
/// The pause after something failed, which doubles with each, up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// How long a new backend may take to answer before it is not moved to.
const CHECK_WAIT: Duration = Duration::from_secs(15);
/// Keys that are few enough to copy while writes are held: some milliseconds.
const FEW_KEYS: usize = 200;
/// Holds in which tables could not be compared to the end, until the move is given up: each keeps statements waiting.
const LONG_HOLDS_MAX: u32 = 3;
/// What is told then.
const TOO_LARGE: &str = "all rows have to be compared while statements wait, and they are too many for the time that a hold may \
                         take: copy them by the databases' own tools while nobody writes, then deploy without --copy";
/// Rounds of copying what was written meanwhile, before writes are held whatever is left.
pub(crate) const ROUNDS_MAX: usize = 20;

/// What is known of the moves that this host drives, for who looks at them.
#[derive(Debug, Default)]
pub struct Moves(Mutex<BTreeMap<ProviderName, Report>>);

/// How one move goes.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What it waits for, if it does.
    pub waiting: Option<String>,
    /// How much was copied.
    pub copied: Arc<Copied>,
}

impl Moves {
    /// How a provider's move goes, if this host drives it.
    pub fn report(&self, provider: &ProviderName) -> Option<Report> {
        self.all(|all| all.get(provider).cloned())
    }

    /// Keys that were copied, of all moves that are on.
    pub fn keys(&self) -> u64 {
        self.all(|all| all.values().map(|report| report.copied.keys.load(Relaxed)).sum())
    }

    fn all<T>(&self, look: impl FnOnce(&mut BTreeMap<ProviderName, Report>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn waits(&self, provider: &ProviderName, reason: Option<String>) {
        self.all(|all| {
            let report = all.entry(provider.clone()).or_default();
            if report.waiting != reason {
                if let Some(reason) = &reason {
                    tracing::info!(provider = provider.as_str(), reason, "the move waits");
                }
                report.waiting = reason;
            }
        });
    }
}

/// What drives moves.
#[derive(Clone)]
pub struct Mover {
    /// Where moves are written.
    pub control: Arc<dyn ControlStore>,
    /// How far this host is.
    pub progress: watch::Receiver<Progress>,
    /// The other hosts, if there may be any.
    pub mesh: Option<Arc<Mesh>>,
    /// For who looks.
    pub moves: Arc<Moves>,
}

/// Why a move did not go on; it is tried again.
#[derive(Debug, thiserror::Error)]
enum DriveError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Record(#[from] weft_compose::record::RecordError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("failed to copy")]
    Copy(#[from] weft_capabilities::KeyValueError),
    #[error("failed to copy")]
    Tables(#[from] TablesError),
    #[error(transparent)]
    Objects(#[from] objects::CopyError),
    #[error("{0}")]
    NotYet(&'static str),
}

/// What a run of a move remembers of its pass.
#[derive(Default)]
struct Pass {
    /// When its move was begun, which tells moves apart.
    at: String,
    /// Which, and the runs of hosts that it began with.
    began: Option<(u64, Runs)>,
    copied: bool,
    /// While nothing is written.
    drained: bool,
    /// The hold ends without a switch.
    is_let_go: bool,
    /// Holds that were too short to compare all, of this pass and those before it.
    long_holds: u32,
    /// Why it can't be moved after all.
    refused: Option<String>,
    checked: Option<Result<(), String>>,
    held_since: Option<Instant>,
    /// Hosts that left in peace: what they acknowledged was noted by a pass that was ended for it.
    left: BTreeSet<HostName>,
}

impl Pass {
    /// Whether this host alone writes to the old backend.
    fn is_alone(&self) -> bool {
        self.began.as_ref().is_some_and(|(_, runs)| runs.is_empty())
    }
}

/// Hosts that write to the old backend by themselves, as names and addresses.
type Runs = BTreeSet<(String, String)>;

impl Mover {
    /// Drives all moves until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut driven = JoinSet::new();
        let mut active: HashSet<ProviderName> = HashSet::new();
        loop {
            let desired = self.progress.borrow_and_update().desired.clone();
            for (name, record) in &desired.moves {
                if record.is_on() && active.insert(name.clone()) {
                    let (mover, name) = (self.clone(), name.clone());
                    driven.spawn(async move {
                        mover.drive(&name).await;
                        // What is known here may say for a while that it is still on.
                        sleep(BACKOFF_MIN).await;
                        name
                    });
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.progress.changed() => if changed.is_err() { return },
                Some(ended) = driven.join_next() => if let Ok(name) = ended {
                    self.moves.all(|all| all.remove(&name));
                    active.remove(&name);
                },
            }
        }
    }

    /// Drives one move to its end.
    async fn drive(mut self, name: &ProviderName) {
        let (mut pass, mut pause) = (Pass::default(), BACKOFF_MIN);
        loop {
            match self.drive_once(name, &mut pass).await {
                Ok(false) => return,
                Ok(true) => pause = BACKOFF_MIN,
                // Another change came between.
                Err(DriveError::Commit(CommitError::Conflict { .. })) => {}
                Err(error) => {
                    self.moves.waits(name, Some(chain(&error)));
                    sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// One step. `false` if the move is over.
    async fn drive_once(&mut self, name: &ProviderName, pass: &mut Pass) -> Result<bool, DriveError> {
        let move_key = key::moved(name);
        let Some(entry) = self.control.get(&move_key).await? else {
            return Ok(false);
        };
        let record: MoveRecord = decode(&move_key, &entry.value)?;
        if !record.is_on() {
            return Ok(false);
        }
        if pass.at != record.at {
            // Another move of the same provider, begun since: nothing that was seen is of it.
            *pass = Pass {
                at: record.at.clone(),
                ..Pass::default()
            };
        }
        let provider_key = key::provider(name);
        let stored = self.control.get(&provider_key).await?;
        let provider: Option<ProviderRecord> = match &stored {
            Some(stored) => Some(decode(&provider_key, &stored.value)?),
            None => None,
        };
        let runs = self.runs(&record, &mut pass.left);
        let held = matches!(record.step, Step::Holding | Step::Draining | Step::Switched);
        let held_since = *pass.held_since.get_or_insert_with(Instant::now);
        if !held {
            pass.held_since = None;
        }
        let is_missing = |host: &&HostName| {
            !runs.iter().any(|(name, _)| name == host.as_str()) && !pass.left.contains(*host)
        };
        let seen = Seen {
            provider: provider.as_ref().map(Place::of),
            same_runs: pass.began.as_ref() == Some(&(record.pass, runs.clone())),
            missing: record.hosts.iter().filter(is_missing).cloned().collect(),
            applied: self.is_applied(entry.modified).await,
            checked: pass.checked.clone(),
            copied: pass.copied,
            drained: pass.drained || self.is_noted(name),
            refused: pass.refused.clone(),
            held_too_long: held && (pass.is_let_go || held_since.elapsed() > HOLD_TRY),
        };
        let mut write =
            Transaction::by(record.by.clone()).expect(&move_key, Expected::Modified(entry.modified));
        let put = match next(&record, &seen) {
            Next::Wait(reason) => {
                // What takes no time is not worth a word.
                let reason = (!held).then_some(reason);
                self.moves.waits(name, reason);
                let _ = timeout(LOOK_EVERY, self.progress.changed()).await;
                return Ok(true);
            }
            Next::Check => {
                pass.checked = Some(self.check(&record).await);
                return Ok(true);
            }
            Next::Copy => {
                self.moves.waits(name, None);
                let copied = self.copy(&record, pass).await;
                pass.copied = took(copied, &mut pass.refused)?;
                return Ok(true);
            }
            Next::Drain => {
                let left = HOLD_TRY.saturating_sub(held_since.elapsed());
                match timeout(left, self.drain(name)).await {
                    Ok(drained) => match took(drained, &mut pass.refused) {
                        Ok(drained) => pass.drained = drained,
                        Err(error) => {
                            self.moves.waits(name, Some(chain(&error)));
                            pass.is_let_go = true;
                        }
                    },
                    Err(_) => {
                        pass.is_let_go = true;
                        pass.long_holds += 1;
                        pass.refused = (pass.long_holds >= LONG_HOLDS_MAX).then(|| TOO_LARGE.to_owned());
                    }
                }
                return Ok(true);
            }
            Next::End => {
                self.control.commit(write.delete(&move_key)).await?;
                let moved = seen.provider.as_ref() == Some(&record.to);
                tracing::info!(provider = name.as_str(), moved, "the move is over");
                return Ok(false);
            }
            Next::Put(mut put) => {
                if put.pass != record.pass {
                    let names = runs.iter().filter_map(|(name, _)| name.parse().ok());
                    put.hosts.extend(names);
                    put.hosts.retain(|host| !pass.left.contains(host));
                }
                put
            }
            Next::Switch(put) => {
                let (Some(stored), Some(provider)) = (&stored, provider) else {
                    return Ok(true);
                };
                let moved = ProviderRecord {
                    revision: provider.revision + 1,
                    backend: put.to.backend.clone(),
                    config: put.to.config.clone(),
                    ..provider
                };
                // As each change of an app does: of two at the same moment one goes through.
                let app_key = key::app(&name.app_name());
                let app = self
                    .control
                    .get(&app_key)
                    .await?
                    .ok_or(DriveError::NotYet("its app is gone"))?;
                decode::<AppRecord>(&app_key, &app.value)?;
                write = write
                    .expect(&app_key, Expected::Modified(app.modified))
                    .put(&app_key, app.value)
                    .expect(&provider_key, Expected::Modified(stored.modified))
                    .put(&provider_key, encode(&moved));
                put
            }
        };
        let begins = put.pass != record.pass;
        if begins && record.step != Step::Checking {
            // Not at once again where the reason may last.
            sleep(BACKOFF_MIN).await;
        }
        self.control.commit(write.put(&move_key, encode(&put))).await?;
        tracing::info!(provider = name.as_str(), step = %put.step, pass = put.pass, reason = put.reason, "the move goes on");
        if begins {
            *pass = Pass {
                at: record.at.clone(),
                began: Some((put.pass, runs)),
                left: std::mem::take(&mut pass.left),
                long_holds: pass.long_holds,
                ..Pass::default()
            };
        }
        if put.step == Step::Switched {
            pass.held_since = None;
        }
        Ok(true)
    }

    /// The hosts that write to the old backend by themselves, but for this one, which drives the move and so lives as long
    /// as the pass. `left` gains those that say that they leave.
    fn runs(&self, record: &MoveRecord, left: &mut BTreeSet<HostName>) -> Runs {
        let Some(mesh) = self
            .mesh
            .as_ref()
            .filter(|_| !PINNED.contains(&record.from.backend.as_str()))
        else {
            return Runs::new();
        };
        let own = mesh.address();
        let members = mesh.members();
        let others = members.iter().filter(|member| {
            Some(member.host.address.as_str()) != own.as_deref() && member.standing != Standing::Gone
        });
        for member in others.clone() {
            if let Ok(name) = member.host.name.parse::<HostName>() {
                match member.standing {
                    Standing::Leaving => left.insert(name),
                    _ => left.remove(&name),
                };
            }
        }
        others
            .map(|member| (member.host.name.clone(), member.host.address.to_string()))
            .collect()
    }

    /// The old store and the new one, as this host has them open.
    fn stores(&self, name: &ProviderName) -> Option<Stores> {
        let progress = self.progress.borrow();
        let from = progress.guards.get(name)?.gate.as_ref()?;
        let to = progress.targets.get(name)?.gate.as_ref()?;
        Some(match (from, to) {
            (Gate::KeyValue(from), Gate::KeyValue(to)) => Stores::Keys(from.clone(), to.store()),
            (Gate::Sql(from), Gate::Sql(to)) => Stores::Tables(from.store(), to.store()),
            (Gate::BlobStore(from), Gate::BlobStore(to)) => Stores::Objects(from.clone(), to.store()),
            _ => return None,
        })
    }

    /// Whether hosts note what is written, so that nothing has to be compared while nothing is.
    fn is_noted(&self, name: &ProviderName) -> bool {
        let progress = self.progress.borrow();
        let guard = progress.guards.get(name);
        guard.is_some_and(|guard| matches!(guard.gate, Some(Gate::KeyValue(_) | Gate::BlobStore(_))))
    }

    /// Whose keys or containers the provider has: those of its own app, and of those that are linked to it.
    fn scopes(&self, name: &ProviderName) -> Vec<Scope> {
        let desired = self.progress.borrow().desired.clone();
        let links = desired.links.values().flat_map(|links| links.iter());
        let linked = links.filter_map(|link| match &link.target {
            LinkTarget::Provider {
                name: target, shared, ..
            } if target == name => {
                let (namespace, app) = (link.actor.namespace().to_owned(), link.actor.app().to_owned());
                Some((!shared).then_some((namespace, app)))
            }
            _ => None,
        });
        let own = Some((name.namespace().to_owned(), name.app().to_owned()));
        let scopes: BTreeSet<Scope> = linked.chain([own]).collect();
        scopes.into_iter().collect()
    }

    /// Whether the new backend is there, and empty as far as it matters.
    async fn check(&self, record: &MoveRecord) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.look(record).await {
                Ok(Some(what)) if !record.replace => {
                    return Err(format!(
                        "the new backend has {what} already: delete them, or move with --replace"
                    ));
                }
                Ok(_) => return Ok(()),
                Err((true, reason)) => return Err(reason),
                Err((false, reason)) if begun.elapsed() > CHECK_WAIT => return Err(reason),
                Err((false, reason)) => {
                    self.moves.waits(&record.provider, Some(reason));
                    sleep(BACKOFF_MIN).await;
                }
            }
        }
    }

    /// What the new backend has already, if anything. Of a reason why it can't be looked into, whether it is the last word.
    async fn look(&self, record: &MoveRecord) -> Result<Option<String>, (bool, String)> {
        let stores = self.stores(&record.provider).ok_or_else(|| {
            let why = "the new backend could not be opened: `weft get conditions` says why";
            (false, why.to_owned())
        })?;
        let failed = |error: &dyn std::error::Error| format!("it can't be looked into: {}", chain(error));
        match stores {
            Stores::Keys(from, to) => {
                let used = first_in_use(&*from.store(), &*to, &self.scopes(&record.provider)).await;
                let used = used.map_err(|error| (false, failed(&error)))?;
                Ok(used.map(|bucket| format!("keys in the bucket {bucket}")))
            }
            Stores::Objects(from, to) => {
                let used = objects::first_in_use(&*from.store(), &*to, &self.scopes(&record.provider)).await;
                let used = used.map_err(|error| (false, failed(&error)))?;
                Ok(used.map(|container| format!("objects in the container {container}")))
            }
            Stores::Tables(from, to) => {
                let (from, to) = (tables_of(&from), tables_of(&to));
                let (from, to) = (from.map_err(|why| (true, why))?, to.map_err(|why| (true, why))?);
                match tables::first_in_use(from, to).await {
                    Ok(used) => Ok(used.map(|table| format!("rows in the table {table}"))),
                    Err(TablesError::Refused(why)) => Err((true, why)),
                    Err(error) => Err((false, failed(&error))),
                }
            }
        }
    }

    /// Copies all, and of keys and objects then what was written meanwhile for as long as that gets less: where this host alone writes,
    /// what is left for the hold is little.
    async fn copy(&self, record: &MoveRecord, pass: &Pass) -> Result<(), DriveError> {
        let name = &record.provider;
        let stores = self.stores(name);
        let stores = stores.ok_or(DriveError::NotYet("a backend is not open"))?;
        let report = self.moves.report(name).unwrap_or_default();
        let (from, to) = match stores {
            Stores::Keys(from, to) => (from, to),
            Stores::Objects(from, to) => {
                let (scopes, is_alone) = (self.scopes(name), pass.is_alone());
                let copied = &report.copied;
                return Ok(objects::copy_while_used(&from, &*to, &scopes, is_alone, copied).await?);
            }
            Stores::Tables(from, to) => {
                let (from, to) = (tables_of(&from), tables_of(&to));
                let (from, to) = (
                    from.map_err(TablesError::Refused)?,
                    to.map_err(TablesError::Refused)?,
                );
                return Ok(tables::copy_while_used(from, to, &report.copied).await?);
            }
        };
        let old = from.store();
        copy_all(&*old, &*to, &self.scopes(name), &report.copied).await?;
        let is_alone = pass.is_alone();
        for _ in 0..ROUNDS_MAX {
            if !is_alone {
                break;
            }
            let notes = from.take_notes();
            let is_little = notes.keys.len() <= FEW_KEYS;
            let copied = match notes.overflow {
                true => copy_all(&*old, &*to, &self.scopes(name), &report.copied).await,
                false => copy_keys(&*old, &*to, &notes).await.map(drop),
            };
            if let Err(error) = copied {
                from.give_back(notes);
                return Err(error.into());
            }
            if is_little && !notes.overflow {
                break;
            }
        }
        Ok(())
    }

    /// Compares all while nothing is written, and copies what differs.
    async fn drain(&self, name: &ProviderName) -> Result<(), DriveError> {
        let Some(Stores::Tables(from, to)) = self.stores(name) else {
            return Err(DriveError::NotYet("a backend is not open"));
        };
        let report = self.moves.report(name).unwrap_or_default();
        let (from, to) = (tables_of(&from), tables_of(&to));
        let (from, to) = (
            from.map_err(TablesError::Refused)?,
            to.map_err(TablesError::Refused)?,
        );
        Ok(tables::copy_while_still(from, to, &report.copied).await?)
    }
}

/// The old store and the new one.
enum Stores {
    Keys(Arc<key_value::Gate>, Arc<dyn KeyValue>),
    Objects(Arc<blob_store::Gate>, Arc<dyn BlobStore>),
    Tables(Arc<dyn Sql>, Arc<dyn Sql>),
}

fn tables_of(database: &Arc<dyn Sql>) -> Result<&dyn SqlTables, String> {
    let tables = database.tables();
    tables.ok_or_else(|| "a database that can't tell its tables can't be moved to or from".to_owned())
}

/// Whether a copy is made. One that can't be made at all is `refused`.
fn took(copied: Result<(), DriveError>, refused: &mut Option<String>) -> Result<bool, DriveError> {
    match copied {
        Ok(()) => Ok(true),
        Err(DriveError::Tables(TablesError::Refused(why))) => {
            *refused = Some(why);
            Ok(false)
        }
        Err(DriveError::Objects(error @ objects::CopyError::Refused { .. })) => {
            *refused = Some(error.to_string());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
