//! All keys of a manifest: one table, from which the reader knows what to expect and what was meant, and the schema
//! what to tell an editor.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::limits as range;

/// A map with keys that are known.
pub(crate) struct Object {
    /// As it stands in a text: "an actor".
    pub(crate) place: &'static str,
    pub(crate) keys: &'static [Key],
}

impl Object {
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.keys.iter().map(|key| key.name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }
}

pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) about: &'static str,
    pub(crate) shape: Shape,
}

/// What a value looks like.
pub(crate) enum Shape {
    ApiVersion,
    Label,
    Text {
        len_max: usize,
    },
    Component,
    Count(RangeInclusive<u64>),
    Duration(RangeInclusive<Duration>),
    Size(RangeInclusive<u64>),
    Function,
    Bool,
    /// The name of a provider or an actor, short or full.
    Name,
    Allow,
    Capability,
    Backend,
    BackendConfig,
    Host,
    Path,
    Method,
    Subject,
    Group,
    /// The name of a bucket to watch.
    Bucket,
    /// What keys begin with.
    Prefix,
    Config,
    Headers,
    List(&'static Shape),
    /// Named things.
    Named(&'static Object),
    /// Interfaces and where they are linked to.
    Links,
    /// Names, and sources of secrets.
    Secrets,
    /// An app, or all of a namespace.
    Apps,
    Object(&'static Object),
}

const fn required(name: &'static str, about: &'static str, shape: Shape) -> Key {
    Key {
        name,
        required: true,
        about,
        shape,
    }
}

const fn optional(name: &'static str, about: &'static str, shape: Shape) -> Key {
    Key {
        name,
        required: false,
        about,
        shape,
    }
}

/// Bytes of an app's version: it stands in labels of metrics.
pub(crate) const VERSION_LEN_MAX: usize = 63;
/// Bytes of a description: a paragraph.
pub(crate) const DESCRIPTION_LEN_MAX: usize = 1_024;
/// Bytes of a path: what Linux takes.
pub(crate) const COMPONENT_LEN_MAX: usize = 4_095;
/// Bytes of the name of a bucket.
pub(crate) const BUCKET_LEN_MAX: usize = 255;
/// Bytes of a key of an actor's configuration.
pub(crate) const CONFIG_KEY_LEN_MAX: usize = 255;
/// Arguments of a provider's process, and bytes of each.
pub(crate) const ARGUMENTS_MAX: usize = 64;
pub(crate) const ARGUMENT_LEN_MAX: usize = 4 << 10;
/// Labels of hosts, and bytes of a label's key and value: what `weft host` takes.
pub(crate) const HOST_LABELS_MAX: usize = 32;
pub(crate) const HOST_LABEL_LEN_MAX: usize = 63;
/// Bytes of a value of an actor's configuration: a record is kept in the log of the control store.
pub(crate) const CONFIG_VALUE_LEN_MAX: usize = 64 << 10;

pub(crate) static MANIFEST: Object = Object {
    place: "the manifest",
    keys: &[
        required(
            "apiVersion",
            "The version of the manifest's form.",
            Shape::ApiVersion,
        ),
        optional(
            "namespace",
            "The scope of the app's name; `default` if there is none.",
            Shape::Label,
        ),
        required("name", "The name of the app.", Shape::Label),
        optional(
            "version",
            "The app's version, free text.",
            Shape::Text {
                len_max: VERSION_LEN_MAX,
            },
        ),
        optional(
            "description",
            "What the app is, for people.",
            Shape::Text {
                len_max: DESCRIPTION_LEN_MAX,
            },
        ),
        optional(
            "reserve",
            "Places of each host's pool that are kept for requests to the app; a fair part if it is not said.",
            Shape::Count(range::RESERVE),
        ),
        optional("actors", "The app's actors by name.", Shape::Named(&ACTOR)),
        optional(
            "providers",
            "The app's providers by name.",
            Shape::Named(&PROVIDER),
        ),
        optional(
            "routes",
            "Which HTTP requests go to which actor.",
            Shape::List(&Shape::Object(&ROUTE)),
        ),
        optional(
            "subscriptions",
            "Which messages go to which actor.",
            Shape::List(&Shape::Object(&SUBSCRIPTION)),
        ),
        optional(
            "watches",
            "Which actor is told of changes of which keys.",
            Shape::List(&Shape::Object(&WATCH)),
        ),
    ],
};

pub(crate) static ACTOR: Object = Object {
    place: "an actor",
    keys: &[
        required(
            "component",
            "A .wasm file, relative to the manifest, or its digest.",
            Shape::Component,
        ),
        optional(
            "config",
            "What the actor reads as its configuration.",
            Shape::Config,
        ),
        optional("limits", "What the actor may use.", Shape::Object(&LIMITS)),
        optional(
            "idempotent",
            "Functions that may be called again after a failure, as INTERFACE.FUNCTION.",
            Shape::List(&Shape::Function),
        ),
        optional(
            "links",
            "What the actor's imports resolve to, as INTERFACE, or INTERFACE#NAME for one that it chooses by name.",
            Shape::Links,
        ),
        optional(
            "secrets",
            "What the actor reads as its secrets: its own names, and where each comes from.",
            Shape::Secrets,
        ),
        ALLOW_FROM,
    ],
};

const ALLOW_FROM: Key = optional(
    "allowFrom",
    "Other apps that may link to it: NAMESPACE/APP, NAMESPACE/* or an app of the same namespace; none without.",
    Shape::List(&Shape::Apps),
);

pub(crate) static LIMITS: Object = Object {
    place: "limits",
    keys: &[
        optional(
            "concurrency",
            "Invocations that run at once on one host.",
            Shape::Count(range::CONCURRENCY),
        ),
        optional(
            "queue",
            "Invocations that wait on one host.",
            Shape::Count(range::QUEUE_LEN),
        ),
        optional(
            "queueWait",
            "How long an invocation may wait for its turn.",
            Shape::Duration(range::QUEUE_WAIT),
        ),
        optional(
            "timeout",
            "From a call's arrival to its answer.",
            Shape::Duration(range::TIMEOUT),
        ),
        optional(
            "streamTimeout",
            "How long a streamed response may go on.",
            Shape::Duration(range::STREAM_TIMEOUT),
        ),
        optional(
            "cpuTime",
            "Processor time of one invocation.",
            Shape::Duration(range::CPU_TIME),
        ),
        optional(
            "memory",
            "Memory of one invocation.",
            Shape::Size(range::MEMORY_BYTES),
        ),
        optional(
            "requestBody",
            "Size of one request's body.",
            Shape::Size(range::REQUEST_BODY_BYTES),
        ),
        optional(
            "log",
            "Size of the log lines of one invocation.",
            Shape::Size(range::LOG_BYTES),
        ),
        optional(
            "reuse",
            "Invocations that one instance may serve, one after the other; what it keeps in memory, the next sees.",
            Shape::Count(range::REUSE),
        ),
        optional(
            "reuseIdle",
            "How long an instance without work is kept for the next invocation.",
            Shape::Duration(range::REUSE_IDLE),
        ),
    ],
};

/// A link before its kind is known.
pub(crate) static LINK: Object = Object {
    place: "a link",
    keys: &[TO_PROVIDER, BUCKET, SHARED, TO_ACTOR, TO_HTTP],
};
pub(crate) static PROVIDER_LINK: Object = Object {
    place: "a link to a provider",
    keys: &[TO_PROVIDER, BUCKET, SHARED],
};
pub(crate) static ACTOR_LINK: Object = Object {
    place: "a link to an actor",
    keys: &[TO_ACTOR],
};
pub(crate) static HTTP_LINK: Object = Object {
    place: "a link to HTTP",
    keys: &[TO_HTTP],
};

const TO_PROVIDER: Key = required(
    "provider",
    "A provider of this app, or NAMESPACE/APP/NAME.",
    Shape::Name,
);
const BUCKET: Key = optional(
    "bucket",
    "The bucket that the actor gets whatever it asks for.",
    Shape::Text {
        len_max: BUCKET_LEN_MAX,
    },
);
const SHARED: Key = optional(
    "shared",
    "Whether keys are shared with other apps on the same provider.",
    Shape::Bool,
);
const TO_ACTOR: Key = required(
    "actor",
    "An actor of this app, or NAMESPACE/APP/NAME.",
    Shape::Name,
);
const TO_HTTP: Key = required("allow", "Where requests may go.", Shape::List(&Shape::Allow));

pub(crate) static PROVIDER: Object = Object {
    place: "a provider",
    keys: &[
        required("capability", "What it serves.", Shape::Capability),
        required("backend", "What serves it.", Shape::Backend),
        optional("config", "What is set on the backend.", Shape::BackendConfig),
        ALLOW_FROM,
        optional(
            "command",
            "Of an outside provider that a host starts: the program, by its name in the host's folder of programs, and its arguments.",
            Shape::List(&Shape::Text {
                len_max: ARGUMENT_LEN_MAX,
            }),
        ),
        optional(
            "env",
            "The environment of its process; values may refer to secrets.",
            Shape::Config,
        ),
        optional("host", "The host that starts its process.", Shape::Label),
        optional(
            "hostLabels",
            "Instead of `host`: each host that has all of these labels starts a process.",
            Shape::Config,
        ),
    ],
};

pub(crate) static ROUTE: Object = Object {
    place: "a route",
    keys: &[
        required("actor", "The actor of this app that serves it.", Shape::Label),
        optional(
            "host",
            "A host name, or one below a star; any if there is none.",
            Shape::Host,
        ),
        optional(
            "path",
            "Takes itself and what is below it; `/` if there is none.",
            Shape::Path,
        ),
        optional(
            "methods",
            "HTTP methods; any that no other route takes if there are none.",
            Shape::List(&Shape::Method),
        ),
        optional("headers", "Headers that a request must have.", Shape::Headers),
        optional(
            "stripPrefix",
            "Whether the actor sees the path without the route's own, which it is told as X-Forwarded-Prefix.",
            Shape::Bool,
        ),
    ],
};

pub(crate) static SUBSCRIPTION: Object = Object {
    place: "a subscription",
    keys: &[
        required(
            "provider",
            "A provider of messaging of this app, or NAMESPACE/APP/NAME.",
            Shape::Name,
        ),
        required(
            "subject",
            "What it listens to: tokens with dots between them; `*` is any one, a last `>` all that follow.",
            Shape::Subject,
        ),
        required(
            "actor",
            "The actor of this app that handles the messages.",
            Shape::Label,
        ),
        optional(
            "group",
            "Of all that subscribe as one group, one gets each message; the actor's name if it is not said.",
            Shape::Group,
        ),
        optional(
            "shared",
            "Whether subjects are those of all apps on the same provider, and not the app's own.",
            Shape::Bool,
        ),
    ],
};

pub(crate) static WATCH: Object = Object {
    place: "a watch",
    keys: &[
        required(
            "provider",
            "A provider of key-value of this app, or NAMESPACE/APP/NAME.",
            Shape::Name,
        ),
        required(
            "bucket",
            "The bucket whose keys are watched, as an actor opens it.",
            Shape::Bucket,
        ),
        optional(
            "keys",
            "What the keys begin with; all of the bucket if it is not said.",
            Shape::Prefix,
        ),
        required(
            "actor",
            "The actor of this app that is told of changes.",
            Shape::Label,
        ),
        optional(
            "shared",
            "Whether the bucket is one of all apps on the same provider, and not the app's own.",
            Shape::Bool,
        ),
    ],
};
