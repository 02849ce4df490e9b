//! The secrets that what is deployed here uses, open.
//!
//! Owns which values those are and when they are opened or read again: a sealed one when its record changes, a file when
//! it has other content. It must not know how a value is used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weft_compose::record::{ActorRecord, CommandRecord, ProviderRecord};
use weft_compose::secret::Template;
use weft_compose::{AppName, SecretName, SecretRecord, SecretSource};
use weft_secrets::Secret;
use zeroize::Zeroize as _;

use super::Vault;
use crate::cli::chain;
use crate::desired::Desired;

/// How often files of secrets are looked at: an agent that renews one leaves the old value valid for longer.
pub const FILES_EACH: Duration = Duration::from_secs(5);

/// Values, by where they come from. Two that are equal need no new connection.
pub type Used = BTreeMap<SecretSource, Secret>;

/// A value, or why there is none.
type Value = Result<Secret, String>;

/// Open secrets.
pub struct Opened {
    vault: Arc<Vault>,
    /// Those that are used, with the record that they were opened from.
    sealed: BTreeMap<SecretName, (Arc<SecretRecord>, Value)>,
    /// Those of the environment and of files.
    read: BTreeMap<SecretSource, Value>,
}

impl Opened {
    /// None is open yet.
    pub fn new(vault: Arc<Vault>) -> Self {
        Self {
            vault,
            sealed: BTreeMap::new(),
            read: BTreeMap::new(),
        }
    }

    /// Opens and reads what is wanted now, and lets go of what is not.
    pub async fn follow(&mut self, desired: &Desired) {
        let (mut names, mut sources) = (BTreeSet::new(), BTreeSet::new());
        let of_providers = desired
            .providers
            .iter()
            .flat_map(|(name, record)| sources_of(record).map(move |source| (name.app_name(), source)));
        let of_actors = desired.actors.iter().flat_map(|(name, record)| {
            let sources = record.secrets.values().filter_map(|text| text.parse().ok());
            sources.map(move |source| (name.app_name(), source))
        });
        for (app, source) in of_providers.chain(of_actors) {
            match name_of(&app, &source) {
                Some(name) => names.insert(name),
                None => sources.insert(source),
            };
        }
        let is_open = |name: &SecretName, record: &Arc<SecretRecord>| {
            self.sealed
                .get(name)
                .is_some_and(|(open, value)| value.is_ok() && (Arc::ptr_eq(open, record) || open == record))
        };
        let records = names
            .iter()
            .filter_map(|name| desired.secrets.get_key_value(name));
        let to_open: Vec<_> = records
            .filter(|(name, record)| !is_open(name, record))
            .map(|(name, record)| (name.clone(), record.clone()))
            .collect();
        self.sealed
            .retain(|name, _| names.contains(name) && desired.secrets.contains_key(name));
        if to_open.is_empty() && sources.is_empty() {
            self.read.clear();
            return;
        }
        let vault = self.vault.clone();
        // An opening takes some 100 us of computing, and files may be on a disk that is slow.
        let opened = tokio::task::spawn_blocking(move || {
            let opened = to_open.into_iter().map(|(name, record)| {
                let value = vault.open_record(&name, &record).map_err(|error| chain(&error));
                (name, (record, value))
            });
            (opened.collect::<Vec<_>>(), read_all(&vault, sources))
        });
        match opened.await {
            Ok((opened, read)) => {
                for (name, (record, value)) in opened {
                    if value.is_ok() {
                        tracing::info!(secret = %name, version = record.version, "opened a secret");
                    }
                    self.sealed.insert(name, (record, value));
                }
                self.read = read;
            }
            Err(error) => tracing::error!(error = chain(&error), "failed to open secrets"),
        }
    }

    /// Ends when a file has other content than it had; never without files.
    pub async fn moved(&self) {
        let is_file = |source: &&SecretSource| matches!(source, SecretSource::File(_));
        let files: BTreeSet<_> = self.read.keys().filter(is_file).cloned().collect();
        if files.is_empty() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(FILES_EACH).await;
            let (vault, files) = (self.vault.clone(), files.clone());
            let Ok(now) = tokio::task::spawn_blocking(move || read_all(&vault, files)).await else {
                continue;
            };
            if now
                .iter()
                .any(|(source, value)| self.read.get(source) != Some(value))
            {
                return;
            }
        }
    }

    /// The values that a provider's configuration refers to.
    ///
    /// # Errors
    /// One is not to be had; the text says which, and why.
    pub fn of_provider(&self, record: &ProviderRecord) -> Result<Used, String> {
        let app = record.name.app_name();
        let mut used = Used::new();
        for source in sources_of(record) {
            let secret = self.get(&app, &source)?;
            if secret.reveal_text().is_none() {
                return Err(format!(
                    "{source} is not text, and can't be a part of a configuration"
                ));
            }
            used.insert(source, secret);
        }
        Ok(used)
    }

    /// The values that an actor may read, by its own names for them.
    pub fn of_actor(&self, record: &ActorRecord) -> BTreeMap<String, Value> {
        let app = record.name.app_name();
        let values = record.secrets.iter().map(|(key, text)| {
            let source = text.parse::<SecretSource>().map_err(|error| error.to_string());
            (key.clone(), source.and_then(|source| self.get(&app, &source)))
        });
        values.collect()
    }

    fn get(&self, app: &AppName, source: &SecretSource) -> Value {
        let value = match name_of(app, source) {
            Some(name) => match self.sealed.get(&name) {
                Some((_, value)) => value.clone().map_err(|reason| format!("{name}: {reason}")),
                None => Err(format!(
                    "the secret {name} is not there: put it by `weft secret put {name}`"
                )),
            },
            None => match self.read.get(source) {
                Some(value) => value.clone(),
                None => Err("it was not read".to_owned()),
            },
        };
        value.map_err(|reason| format!("failed to have {source}: {reason}"))
    }
}

fn read_all(vault: &Vault, sources: BTreeSet<SecretSource>) -> BTreeMap<SecretSource, Value> {
    let read = sources.into_iter().map(|source| {
        let value = vault.read(&source).map_err(|error| chain(&error));
        (source, value)
    });
    read.collect()
}

/// The sealed secret that a source of an app names, if it is one.
pub fn name_of(app: &AppName, source: &SecretSource) -> Option<SecretName> {
    match source {
        SecretSource::Sealed(name) => SecretName::new(app.namespace(), app.app(), name).ok(),
        _ => None,
    }
}

/// What a provider's configuration refers to.
pub fn sources_of(record: &ProviderRecord) -> impl Iterator<Item = SecretSource> + '_ {
    sources_in(record.config.values())
}

/// What the environment of a provider's process refers to.
pub fn sources_of_command(command: &CommandRecord) -> impl Iterator<Item = SecretSource> + '_ {
    sources_in(command.env.values())
}

fn sources_in<'a>(texts: impl Iterator<Item = &'a String>) -> impl Iterator<Item = SecretSource> {
    let texts = texts.filter(|text| text.contains("${"));
    let templates = texts.filter_map(|text| text.parse::<Template>().ok());
    templates.flat_map(|template| template.sources().cloned().collect::<Vec<_>>())
}

/// A text with `used` in the places of what it refers to. The caller keeps it as secret as they are.
///
/// # Errors
/// It refers to what is not among `used`.
pub fn expanded(text: &str, used: &Used) -> Result<String, String> {
    if !text.contains("${") {
        return Ok(text.to_owned());
    }
    let template: Template = text
        .parse()
        .map_err(|error: weft_compose::secret::SourceError| error.to_string())?;
    template.expand(|source| {
        let value = used.get(source).and_then(Secret::reveal_text);
        value.ok_or_else(|| format!("{source} has no value"))
    })
}

/// A provider's record with the values in its configuration. They are cleared when it is let go.
pub struct Expanded(ProviderRecord);

impl Expanded {
    /// The record with `used` in it, which [`Opened::of_provider`] gave.
    ///
    /// # Errors
    /// The configuration refers to what is not among `used`.
    pub fn new(record: &ProviderRecord, used: &Used) -> Result<Self, String> {
        let mut expanded = Self(record.clone());
        for text in expanded.0.config.values_mut().filter(|text| text.contains("${")) {
            *text = self::expanded(text, used)?;
        }
        Ok(expanded)
    }

    /// The record.
    pub fn record(&self) -> &ProviderRecord {
        &self.0
    }
}

impl Drop for Expanded {
    fn drop(&mut self) {
        self.0.config.values_mut().for_each(|text| text.zeroize());
    }
}

/// `text` without any of the values in it.
pub fn redacted(text: String, used: &Used) -> String {
    // The longest first: one may be a part of another.
    let mut values: Vec<_> = used.values().collect();
    values.sort_by_key(|secret| std::cmp::Reverse(secret.reveal().len()));
    values.into_iter().fold(text, |text, secret| secret.redact(&text))
}
