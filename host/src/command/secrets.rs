//! The secrets in the environment of a process: which versions are to be had now, and their values for one start.
//!
//! Values are opened when a process starts and let go of when it ends. It must not know when that is.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_compose::record::CommandRecord;
use weft_compose::{AppName, SecretName, SecretRecord, SecretSource};
use zeroize::Zeroizing;

use crate::cli::chain;
use crate::desired::Desired;
use crate::secret::Vault;
use crate::secret::opened::{Used, expanded, name_of, sources_of_command};

/// The sealed secrets that the environment of a process refers to, as far as they are there.
pub(super) type Records = BTreeMap<SecretName, Arc<SecretRecord>>;

/// The records of now.
pub(super) fn records(desired: &Desired, app: &AppName, command: &CommandRecord) -> Records {
    let names = sources_of_command(command).filter_map(|source| name_of(app, &source));
    let there = names.filter_map(|name| {
        let record = desired.secrets.get(&name)?.clone();
        Some((name, record))
    });
    there.collect()
}

/// Whether one has another value in `now` than it had. That it is sealed to another key is none, and one that is gone is
/// asked for at the next start.
pub(super) fn is_renewed(before: &Records, now: &Records) -> bool {
    now.iter().any(|(name, record)| {
        let known = before.get(name).map(|known| known.version);
        known != Some(record.version)
    })
}

/// Whether some of it may change without anybody saying so.
pub(super) fn has_files(used: &Used) -> bool {
    used.keys().any(|source| matches!(source, SecretSource::File(_)))
}

/// Opens and reads what the environment refers to. Blocks.
///
/// # Errors
/// One is not to be had; the text says which, and why.
pub(super) fn open(
    vault: &Vault,
    app: &AppName,
    command: &CommandRecord,
    records: &Records,
) -> Result<Used, String> {
    let mut used = Used::new();
    for source in sources_of_command(command) {
        let value = match name_of(app, &source) {
            Some(name) => match records.get(&name) {
                Some(record) => vault.open_record(&name, record).map_err(|error| chain(&error)),
                None => Err(format!(
                    "the secret {name} is not there: put it by `weft secret put {name}`"
                )),
            },
            None => vault.read(&source).map_err(|error| chain(&error)),
        };
        let value = value.and_then(|value| match value.reveal_text() {
            Some(text) if !text.contains('\0') => Ok(value),
            _ => Err("it is not text, and can't be a part of an environment".to_owned()),
        });
        let value = value.map_err(|reason| format!("failed to have {source}: {reason}"))?;
        used.insert(source, value);
    }
    Ok(used)
}

/// The environment with the values in it.
///
/// # Errors
/// It refers to what is not among `used`.
pub(super) fn environment(
    command: &CommandRecord,
    used: &Used,
) -> Result<BTreeMap<String, Zeroizing<String>>, String> {
    let each = command
        .env
        .iter()
        .map(|(key, text)| Ok((key.clone(), Zeroizing::new(expanded(text, used)?))));
    each.collect()
}
