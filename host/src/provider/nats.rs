//! What a record says of a provider on NATS.

use std::path::PathBuf;
use std::time::Duration;

use weft_compose::record::ProviderRecord;
use weft_nats::{Auth, BucketOptions, NatsOptions, ObjectOptions, Storage, StreamOptions};

use super::{number, object_bytes, text, ttl, url};

/// Where it is, and as whom to connect.
pub(super) fn options(record: &ProviderRecord) -> Result<NatsOptions, String> {
    let mut options = NatsOptions::new("");
    options.urls = url(record)?.split_whitespace().map(str::to_owned).collect();
    options.auth = match ["creds", "nkey", "token"].map(|key| text(record, key)) {
        [None, None, None] => Auth::Address,
        [Some(path), None, None] => Auth::Credentials(PathBuf::from(path)),
        [None, Some(seed), None] => Auth::Nkey(seed.to_owned()),
        [None, None, Some(token)] => Auth::Token(token.to_owned()),
        _ => return Err("creds, nkey and token are each a way to log in: set one of them".to_owned()),
    };
    options.ca_file = text(record, "caFile").map(PathBuf::from);
    if let Some(ms) = number(record, "timeoutMs")? {
        options.timeout = Duration::from_millis(ms);
    }
    Ok(options)
}

/// The bucket of key-value.
pub(super) fn bucket(record: &ProviderRecord) -> Result<BucketOptions, String> {
    let mut bucket = BucketOptions::default();
    if let Some(name) = text(record, "bucket") {
        bucket.name = name.to_owned();
    }
    if let Some(replicas) = number(record, "replicas")? {
        bucket.replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    }
    bucket.storage = storage(record)?;
    bucket.ttl = ttl(record)?;
    Ok(bucket)
}

/// The buckets of a blob store.
pub(super) fn objects(record: &ProviderRecord) -> Result<ObjectOptions, String> {
    let mut objects = ObjectOptions {
        storage: storage(record)?,
        ..ObjectOptions::default()
    };
    if let Some(prefix) = text(record, "prefix") {
        objects.prefix = prefix.to_owned();
    }
    if let Some(replicas) = number(record, "replicas")? {
        objects.replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    }
    if let Some(bytes) = object_bytes(record)? {
        objects.object_size_max = bytes;
    }
    Ok(objects)
}

/// The stream of messaging.
pub(super) fn stream(record: &ProviderRecord) -> Result<StreamOptions, String> {
    let mut stream = StreamOptions {
        storage: storage(record)?,
        ..StreamOptions::default()
    };
    if let Some(name) = text(record, "stream") {
        stream.name = name.to_owned();
    }
    if let Some(subjects) = text(record, "subjects") {
        stream.subjects = subjects.split_whitespace().map(str::to_owned).collect();
    }
    if let Some(replicas) = number(record, "replicas")? {
        stream.replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    }
    if let Some(mib) = number(record, "maxMiB")? {
        stream.bytes_max = mib.saturating_mul(1 << 20);
    }
    if let Some(hours) = number(record, "maxAgeHours")? {
        stream.age_max = Duration::from_secs(hours.saturating_mul(3_600));
    }
    if let Some(deliveries) = number(record, "maxDeliver")? {
        stream.deliveries_max = u32::try_from(deliveries).unwrap_or(u32::MAX);
    }
    if let Some(ms) = number(record, "ackWaitMs")? {
        stream.ack_wait = Duration::from_millis(ms);
    }
    Ok(stream)
}

fn storage(record: &ProviderRecord) -> Result<Storage, String> {
    match text(record, "storage") {
        None | Some("file") => Ok(Storage::File),
        Some("memory") => Ok(Storage::Memory),
        Some(other) => Err(format!("storage is `{other}`, expected file or memory")),
    }
}
