//! What the platform serves: capabilities, their backends, and the interfaces that need them.
//!
//! Owns three tables, so that a later backend or interface is one line. It must not know how a backend works.

use serde::{Deserialize, Serialize};
use strum::VariantNames;

use crate::interface::InterfacePattern;

/// A kind of provider.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumString,
    strum::VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Capability {
    /// Buckets of keys and values.
    KeyValue,
    /// A relational database.
    Sql,
    /// Containers of objects.
    BlobStore,
    /// Messages on subjects.
    Messaging,
}

impl Capability {
    /// The names of all capabilities, as a manifest writes them.
    pub const NAMES: &'static [&'static str] = Capability::VARIANTS;
}

/// An implementation of a capability, and what can be set on it.
#[derive(Debug)]
pub struct Backend {
    /// What it implements.
    pub capability: Capability,
    /// Its name in a manifest.
    pub name: &'static str,
    /// What can be set in `config`.
    pub options: &'static [BackendOption],
}

/// What can be set on a backend.
#[derive(Debug)]
pub struct BackendOption {
    /// Its name in a manifest.
    pub name: &'static str,
    /// What it means, for people.
    pub about: &'static str,
    /// What it may be.
    pub value: OptionValue,
}

/// What an option may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionValue {
    /// A whole number.
    Number {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A text, which the backend reads when it is opened.
    Text,
}

const CACHE: BackendOption = BackendOption {
    name: "cacheMiB",
    about: "Memory that the store may hold pages in, in MiB.",
    value: OptionValue::Number { min: 1, max: 65_536 },
};

const OBJECT: BackendOption = BackendOption {
    name: "objectMiB",
    about: "The largest object, in MiB.",
    value: OptionValue::Number { min: 1, max: 5_120 },
};

const CA_FILE: BackendOption = BackendOption {
    name: "caFile",
    about: "A file of PEM on each host with the certificates to trust; by default the system's trust.",
    value: OptionValue::Text,
};

const TIMEOUT_MS: BackendOption = BackendOption {
    name: "timeoutMs",
    about: "The longest that an operation takes, in milliseconds.",
    value: OptionValue::Number { min: 1, max: 60_000 },
};

const TTL_SECONDS: BackendOption = BackendOption {
    name: "ttlSeconds",
    about: "How long a value is kept after it was last written; for ever by default.",
    // At most as long as all clocks and servers can count: ten years.
    value: OptionValue::Number {
        min: 1,
        max: 315_360_000,
    },
};

const CONNECTIONS: BackendOption = BackendOption {
    name: "connections",
    about: "Connections that each host opens, at most.",
    value: OptionValue::Number { min: 1, max: 1_000 },
};

const REDIS: &[BackendOption] = &[
    BackendOption {
        name: "url",
        about: "redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss:// for TLS; several are parted by spaces.",
        value: OptionValue::Text,
    },
    BackendOption {
        name: "deployment",
        about: "`server` (the default), `sentinel` (the addresses are sentinels) or `cluster`.",
        value: OptionValue::Text,
    },
    BackendOption {
        name: "service",
        about: "What the sentinels call the service.",
        value: OptionValue::Text,
    },
    CONNECTIONS,
    TTL_SECONDS,
    CA_FILE,
    TIMEOUT_MS,
];

const NATS_URL: BackendOption = BackendOption {
    name: "url",
    about: "nats://USER:PASSWORD@HOST:PORT, or tls:// for TLS; several are parted by spaces.",
    value: OptionValue::Text,
};

const CREDS: BackendOption = BackendOption {
    name: "creds",
    about: "A NATS credentials file on each host.",
    value: OptionValue::Text,
};

const NKEY: BackendOption = BackendOption {
    name: "nkey",
    about: "The seed of a NATS nkey.",
    value: OptionValue::Text,
};

const TOKEN: BackendOption = BackendOption {
    name: "token",
    about: "A token.",
    value: OptionValue::Text,
};

const REPLICAS: BackendOption = BackendOption {
    name: "replicas",
    about: "Servers of JetStream that have a copy of what is made.",
    value: OptionValue::Number { min: 1, max: 5 },
};

const STORAGE: BackendOption = BackendOption {
    name: "storage",
    about: "Where what is made in JetStream has its data: `file` (the default) or `memory`.",
    value: OptionValue::Text,
};

const NATS: &[BackendOption] = &[
    NATS_URL,
    CREDS,
    NKEY,
    TOKEN,
    CA_FILE,
    BackendOption {
        name: "bucket",
        about: "The bucket of JetStream; `weft` by default. It is made if it is missing.",
        value: OptionValue::Text,
    },
    REPLICAS,
    STORAGE,
    TTL_SECONDS,
    TIMEOUT_MS,
];

const NATS_OBJECTS: &[BackendOption] = &[
    NATS_URL,
    CREDS,
    NKEY,
    TOKEN,
    CA_FILE,
    BackendOption {
        name: "prefix",
        about: "What the names of JetStream's object buckets begin with; `weft` by default.",
        value: OptionValue::Text,
    },
    REPLICAS,
    STORAGE,
    TIMEOUT_MS,
    OBJECT,
];

const NATS_MESSAGING: &[BackendOption] = &[NATS_URL, CREDS, NKEY, TOKEN, CA_FILE, TIMEOUT_MS];

const JETSTREAM: &[BackendOption] = &[
    NATS_URL,
    CREDS,
    NKEY,
    TOKEN,
    CA_FILE,
    BackendOption {
        name: "stream",
        about: "The stream of JetStream; `weft` by default. It is made if it is missing, and so are its dead letters.",
        value: OptionValue::Text,
    },
    BackendOption {
        name: "subjects",
        about: "Subjects of links that say `shared`, parted by spaces, which the stream has too.",
        value: OptionValue::Text,
    },
    REPLICAS,
    STORAGE,
    BackendOption {
        name: "maxMiB",
        about: "What a stream that is made holds, in MiB.",
        value: OptionValue::Number { min: 1, max: 1 << 30 },
    },
    BackendOption {
        name: "maxAgeHours",
        about: "How long a message is kept for a group that does not take it, and a group that nobody is in.",
        value: OptionValue::Number { min: 1, max: 87_600 },
    },
    BackendOption {
        name: "maxDeliver",
        about: "How often a message is delivered before it is a dead letter.",
        value: OptionValue::Number { min: 1, max: 1_000 },
    },
    BackendOption {
        name: "ackWaitMs",
        about: "How long the server waits for a host that says nothing more of a message, in milliseconds.",
        value: OptionValue::Number {
            min: 1_000,
            max: 3_600_000,
        },
    },
    TIMEOUT_MS,
];

const POSTGRES: &[BackendOption] = &[
    BackendOption {
        name: "url",
        about: "postgres://USER:PASSWORD@HOST:PORT/DATABASE, with ?sslmode=require for TLS.",
        value: OptionValue::Text,
    },
    CONNECTIONS,
    CA_FILE,
    BackendOption {
        name: "isolation",
        about: "How much transactions see of each other: `serializable` (the default), `repeatable-read` or \
                `read-committed`.",
        value: OptionValue::Text,
    },
];

const BUCKET: BackendOption = BackendOption {
    name: "bucket",
    about: "The bucket, which has to be there; for Azure the container.",
    value: OptionValue::Text,
};

const ENDPOINT: BackendOption = BackendOption {
    name: "endpoint",
    about: "https://HOST:PORT, if it is not the cloud's own.",
    value: OptionValue::Text,
};

const PREFIX: BackendOption = BackendOption {
    name: "prefix",
    about: "What every key begins with.",
    value: OptionValue::Text,
};

const S3: &[BackendOption] = &[
    BUCKET,
    ENDPOINT,
    BackendOption {
        name: "region",
        about: "The region; us-east-1 by default.",
        value: OptionValue::Text,
    },
    BackendOption {
        name: "accessKeyId",
        about: "The key's id. Without it, the role of the machine.",
        value: OptionValue::Text,
    },
    BackendOption {
        name: "secretAccessKey",
        about: "The key.",
        value: OptionValue::Text,
    },
    PREFIX,
    CA_FILE,
    OBJECT,
];

const GCS: &[BackendOption] = &[
    BUCKET,
    ENDPOINT,
    BackendOption {
        name: "keyFile",
        about: "A file on each host with a service account's key. Without it, the role of the machine.",
        value: OptionValue::Text,
    },
    PREFIX,
    CA_FILE,
    OBJECT,
];

const AZURE: &[BackendOption] = &[
    BUCKET,
    ENDPOINT,
    BackendOption {
        name: "account",
        about: "The storage account.",
        value: OptionValue::Text,
    },
    BackendOption {
        name: "accessKey",
        about: "Its key. Without it, the identity of the machine.",
        value: OptionValue::Text,
    },
    PREFIX,
    CA_FILE,
    OBJECT,
];

/// What is no backend of a host: a process of its own that serves the provider's subject (docs/providers.md).
pub const OUTSIDE: &str = "outside";

/// Messaging between the hosts of the lattice, on the connections that they have; on a host alone, within it.
pub const LATTICE: &str = "lattice";

/// Backends whose data is on one host. The others open a connection on each.
pub const PINNED: &[&str] = &["fs", "memory", "redb", "sqlite"];

/// Options that say how a backend works or who uses it, and not where its data is.
pub const TUNING: &[&str] = &[
    "cacheMiB",
    "caFile",
    "connections",
    "creds",
    "isolation",
    "nkey",
    "objectMiB",
    "replicas",
    "storage",
    "timeoutMs",
    "token",
    "ttlSeconds",
];

/// All backends.
pub const BACKENDS: &[Backend] = &[
    Backend {
        capability: Capability::KeyValue,
        name: "memory",
        options: &[TTL_SECONDS],
    },
    Backend {
        capability: Capability::KeyValue,
        name: OUTSIDE,
        options: &[],
    },
    Backend {
        capability: Capability::Sql,
        name: OUTSIDE,
        options: &[],
    },
    Backend {
        capability: Capability::BlobStore,
        name: OUTSIDE,
        options: &[],
    },
    Backend {
        capability: Capability::KeyValue,
        name: "redb",
        options: &[CACHE],
    },
    Backend {
        capability: Capability::KeyValue,
        name: "redis",
        options: REDIS,
    },
    Backend {
        capability: Capability::KeyValue,
        name: "nats",
        options: NATS,
    },
    Backend {
        capability: Capability::Sql,
        name: "sqlite",
        options: &[CACHE],
    },
    Backend {
        capability: Capability::Sql,
        name: "postgres",
        options: POSTGRES,
    },
    Backend {
        capability: Capability::BlobStore,
        name: "memory",
        options: &[],
    },
    Backend {
        capability: Capability::BlobStore,
        name: "fs",
        options: &[OBJECT],
    },
    Backend {
        capability: Capability::BlobStore,
        name: "s3",
        options: S3,
    },
    Backend {
        capability: Capability::BlobStore,
        name: "gcs",
        options: GCS,
    },
    Backend {
        capability: Capability::BlobStore,
        name: "azure",
        options: AZURE,
    },
    Backend {
        capability: Capability::BlobStore,
        name: "nats",
        options: NATS_OBJECTS,
    },
    Backend {
        capability: Capability::Messaging,
        name: LATTICE,
        options: &[],
    },
    Backend {
        capability: Capability::Messaging,
        name: "nats",
        options: NATS_MESSAGING,
    },
    Backend {
        capability: Capability::Messaging,
        name: "jetstream",
        options: JETSTREAM,
    },
];

/// The backend of a capability with a name.
pub fn backend(capability: Capability, name: &str) -> Option<&'static Backend> {
    BACKENDS
        .iter()
        .find(|b| b.capability == capability && b.name == name)
}

/// What an import needs to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A link to a provider of this capability.
    Provider(Capability),
    /// A link with the addresses that may be reached.
    Http,
    /// Nothing: every actor has it.
    Nothing,
    /// A link to an actor.
    Actor,
    /// It is in a namespace of the platform's, and not served.
    Unknown,
}

/// Namespaces of packages that actors can't serve to each other.
const PLATFORM: &[&str] = &["wasi", "weft"];

/// The platform's packages, or single interfaces of them; of two that fit, the first.
pub(crate) const SERVED: &[(&str, Need)] = &[
    ("wasi:keyvalue", Need::Provider(Capability::KeyValue)),
    ("weft:sql", Need::Provider(Capability::Sql)),
    ("wasmcloud:postgres", Need::Provider(Capability::Sql)),
    ("wasi:blobstore", Need::Provider(Capability::BlobStore)),
    (
        "wasmcloud:messaging/consumer",
        Need::Provider(Capability::Messaging),
    ),
    ("wasmcloud:messaging", Need::Nothing),
    ("wasi:http/outgoing-handler", Need::Http),
    ("wasi:http", Need::Nothing),
    ("wasi:cli", Need::Nothing),
    ("wasi:clocks", Need::Nothing),
    ("wasi:config", Need::Nothing),
    ("wasi:filesystem", Need::Nothing),
    ("wasi:io", Need::Nothing),
    ("wasi:logging", Need::Nothing),
    ("wasi:random", Need::Nothing),
    ("wasi:sockets", Need::Nothing),
    ("wasmcloud:bus", Need::Nothing),
    ("wasmcloud:secrets", Need::Nothing),
];

/// The only backend whose providers can serve an interface, if it is one's own.
pub fn only_backend(interface: &InterfacePattern) -> Option<&'static str> {
    (interface.package() == "wasmcloud:postgres").then_some("postgres")
}

/// What an interface needs; for all interfaces of a package, what that one of them needs that needs a link.
pub fn need(interface: &InterfacePattern) -> Need {
    let package = interface.package();
    let full = interface.interface().map(|name| format!("{package}/{name}"));
    let fits = |served: &str| match &full {
        Some(full) => served == package || served == full,
        None => served
            .strip_prefix(&package)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    match SERVED.iter().find(|(served, _)| fits(served)) {
        Some((_, need)) => *need,
        None if PLATFORM.contains(&interface.namespace()) => Need::Unknown,
        None => Need::Actor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_an_import_needs() {
        for (interface, expected) in [
            (
                "wasi:keyvalue/store@0.2.0-draft",
                Need::Provider(Capability::KeyValue),
            ),
            ("wasi:keyvalue", Need::Provider(Capability::KeyValue)),
            ("weft:sql/client", Need::Provider(Capability::Sql)),
            ("wasmcloud:messaging", Need::Provider(Capability::Messaging)),
            (
                "wasmcloud:messaging/consumer@0.2.0",
                Need::Provider(Capability::Messaging),
            ),
            ("wasmcloud:messaging/types@0.2.0", Need::Nothing),
            ("wasi:http/outgoing-handler@0.2.6", Need::Http),
            ("wasi:http/types@0.2.6", Need::Nothing),
            ("wasi:http@0.2.6", Need::Http),
            ("wasi:blobstore", Need::Provider(Capability::BlobStore)),
            (
                "wasmcloud:postgres/query@0.1.1-draft",
                Need::Provider(Capability::Sql),
            ),
            ("wasmcloud:bus/lattice@2.0.1", Need::Nothing),
            ("wasi:messaging", Need::Unknown),
            ("shop:pricing/pricing", Need::Actor),
        ] {
            assert_eq!(need(&interface.parse().unwrap()), expected, "{interface}");
        }
    }

    #[test]
    fn capabilities_are_stored_as_they_are_written() {
        assert_eq!(
            serde_json::to_string(&Capability::KeyValue).unwrap(),
            "\"key-value\""
        );
        assert_eq!("key-value".parse(), Ok(Capability::KeyValue));
        assert_eq!(Capability::NAMES, ["key-value", "sql", "blob-store", "messaging"]);
    }
}
