//! Secrets: each put is the next version, and none is ever told.

use super::{Change, Stored};
use crate::diff::Sign;
use crate::fault::FaultKind;
use crate::key;
use crate::name::SecretName;
use crate::record::SecretRecord;

/// Writes a secret, whose version has to be the next one.
///
/// # Errors
/// It is not: another one was put since the value was sealed.
pub fn put_secret(
    current: Option<&Stored<SecretRecord>>,
    record: &SecretRecord,
) -> Result<Change, FaultKind> {
    let expected = current.map_or(0, |current| current.record.version) + 1;
    if record.version != expected {
        return Err(FaultKind::SecretVersion {
            name: record.name.to_string(),
            version: record.version,
            expected,
        });
    }
    let sign = if current.is_some() {
        Sign::Changed
    } else {
        Sign::Added
    };
    Ok(write(current, record, sign, format!("version {expected}")))
}

/// Writes the same value, sealed to another root key: neither the version nor who put it changes.
pub fn reseal_secret(current: &Stored<SecretRecord>, key: &str, sealed: String) -> Change {
    let record = SecretRecord {
        key: key.to_owned(),
        sealed,
        ..current.record.clone()
    };
    write(Some(current), &record, Sign::Changed, format!("key {key}"))
}

/// Takes a secret away.
///
/// # Errors
/// It is not there.
pub fn delete_secret(name: &SecretName, current: Option<&Stored<SecretRecord>>) -> Result<Change, FaultKind> {
    let current = current.ok_or_else(|| FaultKind::UnknownSecret(name.to_string()))?;
    let mut change = Change::default();
    change.delete(&key::secret(name), current.revision);
    change
        .summary
        .push(Sign::Removed, format!("secret {name}"), Vec::new());
    Ok(change)
}

fn write(
    current: Option<&Stored<SecretRecord>>,
    record: &SecretRecord,
    sign: Sign,
    detail: String,
) -> Change {
    let mut change = Change::default();
    let revision = current.map(|current| current.revision);
    change.put(&key::secret(&record.name), revision, record);
    change
        .summary
        .push(sign, format!("secret {}", record.name), vec![detail]);
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::VERSION;

    fn record(version: u64) -> SecretRecord {
        SecretRecord {
            v: VERSION,
            name: "default/shop/key".parse().unwrap(),
            version,
            key: "k1".into(),
            sealed: "AAAA".into(),
            by: "someone".into(),
            at: "2026-01-01T00:00:00Z".into(),
        }
    }

    fn stored(version: u64) -> Stored<SecretRecord> {
        Stored {
            revision: 7,
            record: record(version),
        }
    }

    #[test]
    fn of_two_puts_that_were_sealed_as_the_same_version_one_goes_through() {
        assert_eq!(put_secret(None, &record(1)).unwrap().expects[0].1, None);
        assert_eq!(
            put_secret(Some(&stored(1)), &record(2)).unwrap().expects[0].1,
            Some(7)
        );
        for version in [0, 1, 3] {
            let error = put_secret(Some(&stored(1)), &record(version)).unwrap_err();
            assert_eq!(error.code(), "secret-version", "{version}");
        }
    }

    #[test]
    fn another_key_is_no_other_version() {
        let change = reseal_secret(&stored(4), "k2", "BBBB".into());
        let written: SecretRecord = serde_json::from_slice(&change.puts[0].1).unwrap();
        assert_eq!((written.version, written.key.as_str()), (4, "k2"));
        assert_eq!((written.by, written.at), (record(4).by, record(4).at));
    }

    #[test]
    fn what_is_not_there_is_not_deleted() {
        let name = record(1).name;
        assert_eq!(delete_secret(&name, None).unwrap_err().code(), "unknown-secret");
        assert_eq!(
            delete_secret(&name, Some(&stored(1))).unwrap().deletes,
            ["secret/default/shop/key"]
        );
    }
}
