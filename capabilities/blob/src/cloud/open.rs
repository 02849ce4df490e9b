//! How a store in a cloud is reached.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, RetryConfig};
use weft_capabilities::blob_store::OBJECT_SIZE_MAX;

use super::Cloud;
use super::client::Connector;

/// How often a request is tried again, where it may be.
const RETRIES_MAX: usize = 3;
/// How long it is tried, at most: a caller's deadline is mostly shorter.
const RETRY_FOR: Duration = Duration::from_secs(20);
/// The pauses between tries.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Which cloud, and who asks. Without a key the machine's own role is used, where the cloud gives machines one.
#[derive(Clone)]
pub enum Service {
    /// S3 and what speaks its protocol.
    S3 {
        /// The region.
        region: String,
        /// The key's id and the key.
        access: Option<(String, String)>,
    },
    /// Google Cloud Storage.
    Google {
        /// A file with a service account's key.
        key_file: Option<PathBuf>,
    },
    /// Azure Blob Storage.
    Azure {
        /// The storage account.
        account: String,
        /// Its key.
        access_key: Option<String>,
    },
}

/// How a store is reached.
#[derive(Clone)]
pub struct CloudOptions {
    /// Which cloud.
    pub service: Service,
    /// The bucket; for Azure the container. It has to be there.
    pub bucket: String,
    /// `https://HOST:PORT`, if it is not the cloud's own. Over `http://` nothing is secret.
    pub endpoint: Option<String>,
    /// What every key begins with.
    pub prefix: String,
    /// Certificates to trust beside the system's, as a file of PEM.
    pub ca_file: Option<PathBuf>,
    /// The largest object, in bytes; no more than [`OBJECT_SIZE_MAX`] anyway.
    pub object_size_max: u64,
}

impl CloudOptions {
    /// The defaults, for a bucket of a cloud.
    pub fn new(service: Service, bucket: impl Into<String>) -> Self {
        Self {
            service,
            bucket: bucket.into(),
            endpoint: None,
            prefix: String::new(),
            ca_file: None,
            object_size_max: OBJECT_SIZE_MAX,
        }
    }
}

impl fmt::Debug for CloudOptions {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudOptions")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .field("prefix", &self.prefix)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// Why a store can't be used as it is configured. No text has a key.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The certificates can't be read.
    #[error("failed to read the certificates in {path}: name a file of PEM certificates")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The folder for large objects can't be used.
    #[error("failed to open {folder}: make it a folder that this user may write to")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The client refuses it.
    #[error("the bucket {bucket} can't be used as it is configured")]
    Client {
        /// The bucket.
        bucket: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
}

pub(super) fn cloud(options: &CloudOptions, connector: Connector) -> Result<Box<dyn Cloud>, OpenError> {
    let refused = |source| OpenError::Client {
        bucket: options.bucket.clone(),
        source,
    };
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: RETRY_AFTER.0,
            max_backoff: RETRY_AFTER.1,
            base: 2.,
        },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_FOR,
    };
    let is_plain = options
        .endpoint
        .as_deref()
        .is_some_and(|url| url.starts_with("http://"));
    Ok(match &options.service {
        Service::S3 { region, access } => {
            let mut builder = AmazonS3Builder::new()
                .with_bucket_name(&options.bucket)
                .with_region(region)
                .with_allow_http(is_plain)
                .with_retry(retry)
                .with_http_connector(connector);
            if let Some((id, key)) = access {
                builder = builder.with_access_key_id(id).with_secret_access_key(key);
            }
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Box::new(builder.build().map_err(refused)?)
        }
        Service::Google { key_file } => {
            let mut builder = GoogleCloudStorageBuilder::new()
                .with_bucket_name(&options.bucket)
                .with_retry(retry)
                .with_http_connector(connector);
            if let Some(path) = key_file {
                builder = builder.with_service_account_path(path.to_string_lossy());
            }
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            Box::new(builder.build().map_err(refused)?)
        }
        Service::Azure { account, access_key } => {
            let mut builder = MicrosoftAzureBuilder::new()
                .with_container_name(&options.bucket)
                .with_account(account)
                .with_allow_http(is_plain)
                .with_retry(retry)
                .with_http_connector(connector);
            if let Some(key) = access_key {
                builder = builder.with_access_key(key);
            }
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            Box::new(builder.build().map_err(refused)?)
        }
    })
}
