//! What is deployed: the records of the control store, read.
//!
//! Owns the step from entries to records. A record that can't be read is told, and the rest is served.

use std::collections::BTreeMap;

use weft_compose::key::{self, Key};
use weft_compose::record::{ActorRecord, AppRecord, LinkRecord, ProviderRecord, RouteRecord, decode};
use weft_compose::{ActorName, AppName, ProviderName};
use weft_lattice::control::{ControlStore, Entry, Index, RANGE_LEN_MAX, ReadError};

/// How often a read of several pages begins anew because a change came between; each takes milliseconds.
const READ_TRIES_MAX: usize = 16;

/// All records of one moment.
#[derive(Debug, Default)]
pub struct Desired {
    /// The moment.
    pub index: Index,
    /// Apps.
    pub apps: BTreeMap<AppName, AppRecord>,
    /// Actors.
    pub actors: BTreeMap<ActorName, ActorRecord>,
    /// Providers.
    pub providers: BTreeMap<ProviderName, ProviderRecord>,
    /// Links of each actor.
    pub links: BTreeMap<ActorName, Vec<LinkRecord>>,
    /// Routes, once for each claim.
    pub routes: Vec<RouteRecord>,
    /// Keys whose record can't be read, and why.
    pub unreadable: Vec<(String, String)>,
}

impl Desired {
    /// Reads all records.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn read(control: &dyn ControlStore) -> Result<Self, ReadError> {
        let (entries, index) = read_all(control).await?;
        let mut desired = Self {
            index,
            ..Self::default()
        };
        for entry in &entries {
            if let Err(error) = desired.add(entry) {
                desired
                    .unreadable
                    .push((entry.key.clone(), crate::cli::chain(&error)));
            }
        }
        Ok(desired)
    }

    fn add(&mut self, Entry { key, value, .. }: &Entry) -> Result<(), weft_compose::record::RecordError> {
        match key::parse(key) {
            Some(Key::App(name)) => {
                self.apps.insert(name, decode(key, value)?);
            }
            Some(Key::Actor(name)) => {
                self.actors.insert(name, decode(key, value)?);
            }
            Some(Key::Provider(name)) => {
                self.providers.insert(name, decode(key, value)?);
            }
            Some(Key::Link(actor, _)) => self.links.entry(actor).or_default().push(decode(key, value)?),
            Some(Key::Route(_)) => self.routes.push(decode(key, value)?),
            // Of a newer Weft, which this one has no part in.
            None => {}
        }
        Ok(())
    }

    /// The links of an actor.
    pub fn links_of(&self, actor: &ActorName) -> &[LinkRecord] {
        self.links.get(actor).map_or(&[], Vec::as_slice)
    }
}

/// All entries of the store, of one moment.
///
/// # Errors
/// If the store can't be read.
pub async fn read_all(control: &dyn ControlStore) -> Result<(Vec<Entry>, Index), ReadError> {
    'anew: for _ in 0..READ_TRIES_MAX {
        let (mut entries, index) = control.range("", None, RANGE_LEN_MAX).await?;
        let mut full = entries.len() == RANGE_LEN_MAX;
        while full {
            let after = entries.last().map(|entry| entry.key.clone());
            let (more, then) = control.range("", after.as_deref(), RANGE_LEN_MAX).await?;
            if then != index {
                continue 'anew;
            }
            full = more.len() == RANGE_LEN_MAX;
            entries.extend(more);
        }
        return Ok((entries, index));
    }
    Err(ReadError::Unavailable(format!(
        "it changed {READ_TRIES_MAX} times while it was read"
    )))
}
