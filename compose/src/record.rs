//! What the control store holds of an app, as JSON.
//!
//! Owns the records and their versions. Each has a field `v`: a reader refuses a version it does not know, and
//! ignores fields it does not know, so that a field can be added without a new version if old hosts may miss it.
//! Keys are [`crate::key`]'s, and who writes which record when is [`crate::deploy`]'s.
//!
//! A record's `revision` is for people and answers: it rises whenever the record changes. What is deleted and made again
//! may have one that it had before, so who must know whether a record changed compares the store's own revision of it.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::allow::AllowPattern;
use crate::capability::Capability;
use crate::limits::Limits;
use crate::link::LinkKey;
use crate::name::{ActorName, AppName, HostName, ProviderName, SecretName};
use crate::route::{self, Claim};
use crate::scope::{AppPattern, allows};

/// The version of all records, so far.
pub const VERSION: u32 = 1;

/// A value of the store is not a record.
#[derive(Debug, thiserror::Error)]
#[error("`{key}` in the control store can't be read")]
pub struct RecordError {
    /// Its key.
    pub key: String,
    source: serde_json::Error,
}

/// Reads the record at `key`.
///
/// # Errors
/// It is not a record of this kind, or one of a version that this build does not know.
pub fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(value).map_err(|source| RecordError {
        key: key.to_owned(),
        source,
    })
}

/// The bytes of a record: the same for equal records.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record's maps have texts as keys, and nothing else can fail")
}

/// An app that is deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// The namespace.
    pub namespace: String,
    /// The app's own name.
    pub name: String,
    /// Rises with each deploy that changes something.
    pub revision: u64,
    /// The version that the manifest gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the manifest says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Root calls that each host keeps places for; None leaves it a fair part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<u32>,
    /// The sha256 of the manifest's canonical text, in hexadecimal digits.
    pub manifest: String,
    /// Who deployed it.
    pub by: String,
    /// When, as in RFC 3339.
    pub at: String,
    /// The last revision that ran other components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// A revision of an app that another took the place of. Its components are kept, so that it can be deployed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Which.
    pub revision: u64,
    /// The component of each of its actors, by the actor's own name.
    pub components: BTreeMap<String, String>,
}

/// An actor of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// The full name.
    pub name: ActorName,
    /// Rises when the component, configuration, limits or idempotent functions change.
    pub revision: u64,
    /// `sha256:` and the digest in hexadecimal digits.
    pub component: String,
    /// What the actor reads as its configuration.
    pub config: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// Functions that may be called again, as `INTERFACE.FUNCTION`.
    #[serde(default)]
    pub idempotent: Vec<String>,
    /// What it reads as its secrets: its own names, and where each comes from, as a [`crate::SecretSource`] is written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Which other apps may link to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<AppPattern>,
}

impl ActorRecord {
    /// Whether an actor of `app` may be linked to this one.
    pub fn allows(&self, app: &AppName) -> bool {
        allows((self.name.namespace(), self.name.app()), &self.allow_from, app)
    }
}

/// A provider of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// The full name.
    pub name: ProviderName,
    /// Rises when anything of it changes.
    pub revision: u64,
    /// What it serves.
    pub capability: Capability,
    /// What serves it.
    pub backend: String,
    /// What is set on the backend.
    pub config: BTreeMap<String, String>,
    /// Which other apps may link to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<AppPattern>,
    /// Of an outside one: its process, if a host is to start that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandRecord>,
}

/// The process of an outside provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// The program, a file of the host's folder of programs, and its arguments.
    pub args: Vec<String>,
    /// Its environment, beside what the host tells it. Values may refer to secrets, as in the configuration of backends.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Which host starts it. A build that knows no labels can't read a record without, and so starts none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Without a name: each host that has all of these labels starts one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_labels: BTreeMap<String, String>,
}

impl CommandRecord {
    /// Whether the host of this name and these labels starts it.
    pub fn is_for(&self, host: &HostName, labels: &BTreeMap<String, String>) -> bool {
        match &self.host {
            Some(name) => name == host,
            None => {
                let has = |(key, value)| labels.get(key) == Some(value);
                !self.host_labels.is_empty() && self.host_labels.iter().all(has)
            }
        }
    }
}

impl ProviderRecord {
    /// Whether an actor of `app` may be linked to it.
    pub fn allows(&self, app: &AppName) -> bool {
        allows((self.name.namespace(), self.name.app()), &self.allow_from, app)
    }
}

/// What an import of an actor resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// Whose import.
    pub actor: ActorName,
    /// Which imports, and the link's name. Both are one text, which a build that knows no names can't read: it would take the
    /// link for the default one.
    pub interface: LinkKey,
    /// Rises when the target changes.
    pub revision: u64,
    /// Where it goes.
    pub target: LinkTarget,
    /// Where the manifest says it goes: another place is drift. None for a link that was made at run time only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<LinkTarget>,
    /// Who made it, or changed it last.
    pub by: String,
}

impl LinkRecord {
    /// Whether the link was made or changed at run time.
    pub fn is_drift(&self) -> bool {
        self.declared.as_ref() != Some(&self.target)
    }
}

/// Where a link goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LinkTarget {
    /// To a provider.
    Provider {
        /// Which.
        name: ProviderName,
        /// The bucket that the actor gets whatever it asks for; None leaves it the choice.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<String>,
        /// Whether the provider's keys are shared with other apps, instead of being the app's own.
        #[serde(default)]
        shared: bool,
    },
    /// To another actor, or the same.
    Actor {
        /// Which.
        name: ActorName,
    },
    /// To the world, as far as one of the patterns allows.
    Http {
        /// Where requests may go.
        allow: Vec<AllowPattern>,
    },
    /// Nowhere: the manifest declares the link, and it was deleted at run time.
    Removed,
}

impl LinkTarget {
    /// Whose it is, if it is an app's: the full name.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Provider { name, .. } => Some(name.as_str()),
            Self::Actor { name } => Some(name.as_str()),
            Self::Http { .. } | Self::Removed => None,
        }
    }
}

/// That an actor is to run on a host, as an operator said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// Which actor.
    pub actor: ActorName,
    /// Where.
    pub host: HostName,
    /// Who said so.
    pub by: String,
}

/// A secret of an app. Its value is sealed, with the name and the version, to a root key of the lattice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// The full name.
    pub name: SecretName,
    /// Which value of this name it is, from 1.
    pub version: u64,
    /// The id of the root key that opens it.
    pub key: String,
    /// The sealed value, in base64.
    pub sealed: String,
    /// Who put it.
    pub by: String,
    /// When, as in RFC 3339.
    pub at: String,
}

/// What a namespace may use of each host; what is not said is not bounded. Whoever owns the hosts says it, and no app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// Whose.
    pub namespace: String,
    /// Messages that its actors say a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_s: Option<u64>,
    /// Bytes of objects that its actors write to blob stores a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_bytes_per_s: Option<u64>,
    /// Connections to servers that its providers may open together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Who put it.
    pub by: String,
}

/// A route of an app, stored once for each of its claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// Whose route.
    pub app: AppName,
    /// Who serves it.
    pub actor: ActorName,
    /// A host name or `*.suffix`; None for any host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A path that takes itself and what is below it.
    pub path: String,
    /// Upper-case methods; none for any.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Headers with lower-case names, that a request must have.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Whether the actor sees the path without the route's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strip_prefix: bool,
}

/// That messages go to an actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// Who handles them.
    pub actor: ActorName,
    /// Where they come from.
    pub provider: ProviderName,
    /// What is listened to, which may have wildcards.
    pub subject: String,
    /// Of all that subscribe as one group, one gets each message.
    pub group: String,
    /// Whether subjects are those of all apps on the provider, and not the app's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// That an actor is told of changes of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRecord {
    /// [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// Who is told.
    pub actor: ActorName,
    /// Which store.
    pub provider: ProviderName,
    /// Which bucket of it.
    pub bucket: String,
    /// What the keys begin with; empty for all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keys: String,
    /// Whether the bucket is one of all apps on the provider, and not the app's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

impl WatchRecord {
    /// The bucket and what its keys begin with, for people: `carts` or `carts/user*`.
    pub fn watched(&self) -> String {
        match self.keys.as_str() {
            "" => self.bucket.clone(),
            keys => format!("{}/{keys}*", self.bucket),
        }
    }
}

impl RouteRecord {
    /// The route's claims, one for each method.
    pub fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        route::claims(self.host.as_deref(), &self.path, &self.methods, &self.headers)
    }
}

/// Refuses records of a version that this build does not know.
pub(crate) fn known_version<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        VERSION => Ok(VERSION),
        v => Err(D::Error::custom(format!(
            "version {v} is not known here, only {VERSION}: upgrade this host"
        ))),
    }
}
