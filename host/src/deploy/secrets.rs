//! Writing secrets, which come sealed and stay so.

use weft_compose::deploy::{self, Change, Stored};
use weft_compose::key::{self, Key};
use weft_compose::record::{SecretRecord, decode};
use weft_compose::{FaultKind, SecretName};
use weft_lattice::control::{CommitError, Entry};

use super::{DeployError, Deployed, Deployer, TRIES_MAX, read_all};
use crate::secret::Vault;

impl Deployer {
    /// Writes the next version of a secret.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn put_secret(&self, record: &SecretRecord) -> Result<Deployed, DeployError> {
        let plan = |current: Option<&Stored<SecretRecord>>| Ok(deploy::put_secret(current, record)?);
        self.write_secret(&record.name, &record.by, plan).await
    }

    /// Takes a secret away.
    ///
    /// # Errors
    /// [`DeployError`]; nothing was changed.
    pub async fn delete_secret(&self, name: &SecretName, by: &str) -> Result<Deployed, DeployError> {
        let plan = |current: Option<&Stored<SecretRecord>>| Ok(deploy::delete_secret(name, current)?);
        self.write_secret(name, by, plan).await
    }

    /// Seals to the newest root key what is sealed to another. Each secret is written by itself: what was done stays if
    /// one of them can't be opened.
    ///
    /// # Errors
    /// [`DeployError`] of the first that fails.
    pub async fn reseal_secrets(&self, vault: &Vault, by: &str) -> Result<Deployed, DeployError> {
        let (entries, mut index) = read_all(&*self.control, &[key::SECRETS]).await?;
        let mut all = Change::default();
        let plan = |current: Option<&Stored<SecretRecord>>| {
            // One that was deleted meanwhile needs nothing.
            let Some(current) = current else {
                return Ok(Change::default());
            };
            Ok(match vault.reseal(&current.record)? {
                Some(sealed) => deploy::reseal_secret(current, &sealed.key, sealed.text),
                None => Change::default(),
            })
        };
        for Entry { key, .. } in &entries {
            let Some(Key::Secret(name)) = key::parse(key) else {
                continue;
            };
            let (change, written) = self.write_planned(&name, by, plan).await?;
            index = written;
            all.puts.extend(change.puts);
            all.summary.0.extend(change.summary.0);
        }
        Ok(self.applied(index, &all).await)
    }

    async fn write_secret(
        &self,
        name: &SecretName,
        by: &str,
        plan: impl Fn(Option<&Stored<SecretRecord>>) -> Result<Change, DeployError>,
    ) -> Result<Deployed, DeployError> {
        let (change, index) = self.write_planned(name, by, plan).await?;
        Ok(self.applied(index, &change).await)
    }

    /// Plans a change of one secret by what the store holds and writes it, anew if another change came between.
    async fn write_planned(
        &self,
        name: &SecretName,
        by: &str,
        plan: impl Fn(Option<&Stored<SecretRecord>>) -> Result<Change, DeployError>,
    ) -> Result<(Change, weft_lattice::control::Index), DeployError> {
        let own = key::secret(name);
        let mut tries = 1;
        loop {
            // The prefix is that of longer names, too.
            let (entries, index) = read_all(&*self.control, &[&own]).await?;
            let entry = entries.iter().find(|entry| entry.key == own);
            let current = entry.map(|entry| {
                Ok::<_, DeployError>(Stored {
                    revision: entry.modified.0,
                    record: decode(&own, &entry.value)?,
                })
            });
            let change = plan(current.transpose()?.as_ref())?;
            if change.is_empty() {
                return Ok((change, index));
            }
            match self.commit(&change, by).await {
                Ok(index) => {
                    tracing::info!(secret = %name, by, %index, summary = %change.summary, "changed a secret");
                    return Ok((change, index));
                }
                Err(CommitError::Conflict { .. }) if tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl From<FaultKind> for DeployError {
    fn from(kind: FaultKind) -> Self {
        Self::Refused(kind)
    }
}
