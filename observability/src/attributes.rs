//! The name of every metric and of every attribute on metrics and spans, in one place.
//!
//! OpenTelemetry's semantic conventions first; what they have no word for is under `weft.`. Owns names only:
//! what is recorded under them is in [`crate::metrics`], and README.md tells operators what they mean.

// Attributes with a convention.

/// Known methods in upper case, all others as [`HTTP_METHOD_OTHER`].
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// The method as it came, on spans, when [`HTTP_REQUEST_METHOD`] is [`HTTP_METHOD_OTHER`].
pub const HTTP_REQUEST_METHOD_ORIGINAL: &str = "http.request.method_original";
/// An integer.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// The pattern of the route that matched, never the path.
pub const HTTP_ROUTE: &str = "http.route";
/// The path without the query, on spans.
pub const URL_PATH: &str = "url.path";
/// `http` or `https`.
pub const URL_SCHEME: &str = "url.scheme";
/// The host name that the client asked for, on spans.
pub const SERVER_ADDRESS: &str = "server.address";
/// The port that the client asked for, on spans.
pub const SERVER_PORT: &str = "server.port";
/// The client's address, on spans.
pub const CLIENT_ADDRESS: &str = "client.address";
/// `1.1` or `2`, on spans.
pub const NETWORK_PROTOCOL_VERSION: &str = "network.protocol.version";
/// What went wrong, only when something did.
pub const ERROR_TYPE: &str = "error.type";
/// Resource: the lattice.
pub const SERVICE_NAMESPACE: &str = "service.namespace";
/// Resource: the host's id.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";
/// Resource: Weft's version.
pub const SERVICE_VERSION: &str = "service.version";
/// Marks the series that takes what exceeds a bound on the number of series.
pub const OTEL_METRIC_OVERFLOW: &str = "otel.metric.overflow";

/// The value of [`HTTP_REQUEST_METHOD`] for methods that nobody registered.
pub const HTTP_METHOD_OTHER: &str = "_OTHER";

// Attributes of our own.

/// `namespace/app/name`.
pub const WEFT_ACTOR: &str = "weft.actor";
/// How something ended; the values depend on the metric.
pub const WEFT_OUTCOME: &str = "weft.outcome";
/// Why something was refused.
pub const WEFT_REASON: &str = "weft.reason";
/// What the artifact cache had: `hit`, `miss`, `corrupt` or `stale`.
pub const WEFT_CACHE_RESULT: &str = "weft.cache.result";
/// Which way a call went: `local`, `zone`, `region` or `far`.
pub const WEFT_CALL_PATH: &str = "weft.call.path";
/// What kind of capability: `key-value`, `sql`, `blob-store`, `messaging` or `http-client`.
pub const WEFT_CAPABILITY: &str = "weft.capability";
/// What was asked of a capability.
pub const WEFT_OPERATION: &str = "weft.operation";
/// `desired` or `applied`.
pub const WEFT_STATE: &str = "weft.state";
/// `limit` or `live`.
pub const WEFT_POOL_STATE: &str = "weft.pool.state";
/// The app, `namespace/app`.
pub const WEFT_APP: &str = "weft.app";
/// `root` for calls from outside, `nested` for those that actors make.
pub const WEFT_CALL_KIND: &str = "weft.call.kind";
/// `reserved` or `used`.
pub const WEFT_PLACE_STATE: &str = "weft.place.state";
/// What a connection to NATS is for: `control`, `calls` or `bulk`.
pub const WEFT_LATTICE_CONNECTION: &str = "weft.lattice.connection";
/// The provider, `namespace/app/name`.
pub const WEFT_PROVIDER: &str = "weft.provider";
/// The namespace, the first part of an actor's name.
pub const WEFT_NAMESPACE: &str = "weft.namespace";
/// What is bounded: `messages` or `object-bytes`.
pub const WEFT_QUOTA: &str = "weft.quota";
/// How a host stands: `alive`, `suspect` or `leaving`.
pub const WEFT_HOST_STANDING: &str = "weft.host.standing";
/// The name that a certificate is served for.
pub const WEFT_TLS_SERVER_NAME: &str = "weft.tls.server_name";
/// Whether a guest's log lines were dropped by the rate limit.
pub const WEFT_LOG_DROPPED: &str = "weft.log.dropped";
/// The id of an invocation, on spans.
pub const WEFT_INVOCATION_ID: &str = "weft.invocation.id";
/// The component's digest, on spans.
pub const WEFT_COMPONENT_DIGEST: &str = "weft.component.digest";

// Metrics.

/// Requests and how long until the last byte of the response was handed over.
pub const HTTP_SERVER_REQUEST_DURATION: &str = "http.server.request.duration";
/// Requests that are being served.
pub const HTTP_SERVER_ACTIVE_REQUESTS: &str = "http.server.active_requests";
/// Time between arrival and admission.
pub const WEFT_INVOCATION_QUEUE_DURATION: &str = "weft.invocation.queue.duration";
/// Time between arrival and end.
pub const WEFT_INVOCATION_DURATION: &str = "weft.invocation.duration";
/// Invocations that ended.
pub const WEFT_INVOCATION_COUNT: &str = "weft.invocation.count";
/// CPU time of the guest.
pub const WEFT_INVOCATION_CPU_TIME: &str = "weft.invocation.cpu.time";
/// Invocations that admission refused.
pub const WEFT_INVOCATION_SHED: &str = "weft.invocation.shed";
/// Calls from actor to actor.
pub const WEFT_CALL_COUNT: &str = "weft.call.count";
/// Messages that an actor subscribed to.
pub const WEFT_MESSAGE_COUNT: &str = "weft.message.count";
/// Changes of keys that an actor watches.
pub const WEFT_CHANGE_COUNT: &str = "weft.change.count";
/// Time that an operation of a capability took.
pub const WEFT_CAPABILITY_OPERATION_DURATION: &str = "weft.capability.operation.duration";
/// Time to get an instance ready to be called.
pub const WEFT_INSTANCE_START_DURATION: &str = "weft.instance.start.duration";
/// The most linear memory that an instance had.
pub const WEFT_INSTANCE_MEMORY_PEAK: &str = "weft.instance.memory.peak";
/// Time to compile a component.
pub const WEFT_COMPONENT_COMPILE_DURATION: &str = "weft.component.compile.duration";
/// Time from bytes to a component that can be instantiated, compiling apart.
pub const WEFT_COMPONENT_LOAD_DURATION: &str = "weft.component.load.duration";
/// Components whose machine code is mapped.
pub const WEFT_COMPONENT_LOADED: &str = "weft.component.loaded";
/// Loads of components.
pub const WEFT_COMPONENT_LOADS: &str = "weft.component.loads";
/// Components that were let go.
pub const WEFT_COMPONENT_EVICTIONS: &str = "weft.component.evictions";
/// Look-ups of compiled components.
pub const WEFT_ARTIFACT_CACHE: &str = "weft.artifact.cache";
/// Components on disk.
pub const WEFT_ARTIFACT_KEPT: &str = "weft.artifact.kept";
/// Their bytes.
pub const WEFT_ARTIFACT_SIZE: &str = "weft.artifact.size";
/// Components that were dropped from disk.
pub const WEFT_ARTIFACT_DROPPED: &str = "weft.artifact.dropped";
/// Slots of the instance pool.
pub const WEFT_POOL_SLOTS: &str = "weft.pool.slots";
/// Invocations that an instance served which had served others before.
pub const WEFT_INSTANCE_REUSED: &str = "weft.instance.reused";
/// Bytes that guests read from objects and write to them.
pub const WEFT_CAPABILITY_IO: &str = "weft.capability.io";
/// Memories of the pool that are kept resident for the next instance.
pub const WEFT_POOL_MEMORIES_WARM: &str = "weft.pool.memories.warm";
/// Bytes that those memories hold.
pub const WEFT_POOL_MEMORIES_WARM_SIZE: &str = "weft.pool.memories.warm.size";
/// Places of the pool that an app has.
pub const WEFT_APP_PLACES: &str = "weft.app.places";
/// Tasks that are alive.
pub const WEFT_TASK_COUNT: &str = "weft.task.count";
/// Open connections of the front door.
pub const WEFT_HTTP_CONNECTIONS: &str = "weft.http.connections";
/// Connections that were closed at once because there are too many.
pub const WEFT_HTTP_CONNECTIONS_REFUSED: &str = "weft.http.connections.refused";
/// Panics of the host's threads and tasks.
pub const WEFT_PANICS: &str = "weft.panics";
/// Requests that were answered without asking a guest.
pub const WEFT_HTTP_REQUESTS_REJECTED: &str = "weft.http.requests.rejected";
/// When the certificate of a name expires.
pub const WEFT_TLS_CERTIFICATE_EXPIRY: &str = "weft.tls.certificate.expiry";
/// Reloads of certificates.
pub const WEFT_TLS_RELOAD: &str = "weft.tls.reload";
/// Lines that guests logged.
pub const WEFT_GUEST_LOG_LINES: &str = "weft.guest.log.lines";
/// Time to converge on the desired state.
pub const WEFT_RECONCILE_DURATION: &str = "weft.reconcile.duration";
/// Time to commit a transaction of the control store.
pub const WEFT_CONTROL_COMMIT_DURATION: &str = "weft.control.commit.duration";
/// How far the control store is, and how far this host.
pub const WEFT_CONTROL_INDEX: &str = "weft.control.index";
/// Actors that this host serves.
pub const WEFT_ACTOR_COUNT: &str = "weft.actor.count";
/// Providers that this host runs.
pub const WEFT_PROVIDER_COUNT: &str = "weft.provider.count";
/// Whether a provider answers.
pub const WEFT_PROVIDER_UP: &str = "weft.provider.up";
/// Whether calls of a provider are refused at once.
pub const WEFT_PROVIDER_CIRCUIT_OPEN: &str = "weft.provider.circuit.open";
/// Times that a provider stopped to answer.
pub const WEFT_PROVIDER_DOWNS: &str = "weft.provider.downs";
/// Calls of a provider that were refused at once.
pub const WEFT_PROVIDER_REFUSED: &str = "weft.provider.refused";
/// Whether writes to a provider wait, as its data is moved.
pub const WEFT_PROVIDER_HELD: &str = "weft.provider.held";
/// Processes of outside providers that this host runs.
pub const WEFT_PROVIDER_PROCESS_UP: &str = "weft.provider.process.up";
/// Times that one ended.
pub const WEFT_PROVIDER_PROCESS_ENDS: &str = "weft.provider.process.ends";
/// What was refused as a namespace had more than its quota.
pub const WEFT_QUOTA_REFUSED: &str = "weft.quota.refused";
/// Keys that were looked at by moves that are on.
pub const WEFT_MOVE_KEYS: &str = "weft.move.keys";
/// Links that this host applied.
pub const WEFT_LINK_COUNT: &str = "weft.link.count";
/// Sealed secrets.
pub const WEFT_SECRET_COUNT: &str = "weft.secret.count";
/// Conditions: what this host could not bring about.
pub const WEFT_CONDITION_COUNT: &str = "weft.condition.count";
/// Connections to NATS that are there.
pub const WEFT_LATTICE_CONNECTED: &str = "weft.lattice.connected";
/// Times that a connection to NATS was lost.
pub const WEFT_LATTICE_DISCONNECTS: &str = "weft.lattice.disconnects";
/// Messages that were refused as there was no connection.
pub const WEFT_LATTICE_REFUSED: &str = "weft.lattice.refused";
/// Times that messages came faster than they were read.
pub const WEFT_LATTICE_SLOW_CONSUMERS: &str = "weft.lattice.slow_consumers";
/// What the server refused this host, as rights that are missing.
pub const WEFT_LATTICE_DENIED: &str = "weft.lattice.denied";
/// Messages that came and belong to nothing.
pub const WEFT_LATTICE_STRAYS: &str = "weft.lattice.strays";
/// How long a message takes to the server and back.
pub const WEFT_LATTICE_ROUND_TRIP: &str = "weft.lattice.round_trip";
/// Messages with several calls or answers.
pub const WEFT_LATTICE_BATCHES: &str = "weft.lattice.batches";
/// Calls and answers in such messages.
pub const WEFT_LATTICE_BATCHED: &str = "weft.lattice.batched";
/// Hosts of the lattice.
pub const WEFT_LATTICE_HOSTS: &str = "weft.lattice.hosts";
/// Whether this host does not hear itself.
pub const WEFT_LATTICE_BLIND: &str = "weft.lattice.blind";
/// Calls of other hosts.
pub const WEFT_RPC_CALLS: &str = "weft.rpc.calls";
/// Calls of other hosts that were tried again.
pub const WEFT_RPC_RETRIES: &str = "weft.rpc.retries";
/// Times that a host was passed over.
pub const WEFT_RPC_EJECTIONS: &str = "weft.rpc.ejections";
/// Calls that other hosts made.
pub const WEFT_RPC_SERVED: &str = "weft.rpc.served";
/// Calls of other hosts that run.
pub const WEFT_RPC_RUNNING: &str = "weft.rpc.running";
/// Streams between hosts that are open.
pub const WEFT_STREAM_OPEN: &str = "weft.stream.open";
/// Bytes that came over streams.
pub const WEFT_STREAM_RECEIVED: &str = "weft.stream.received";
/// Streams that were broken off.
pub const WEFT_STREAM_RESETS: &str = "weft.stream.resets";
/// Components that were fetched from other hosts.
pub const WEFT_ARTIFACT_FETCHES: &str = "weft.artifact.fetches";
/// Bytes of components that were sent to other hosts.
pub const WEFT_ARTIFACT_SENT: &str = "weft.artifact.sent";
/// Components that no second host has.
pub const WEFT_ARTIFACT_SINGLE: &str = "weft.artifact.single";
/// Calls of clients that see no hosts.
pub const WEFT_FRONT_CALLS: &str = "weft.front.calls";
/// Requests of tools that are fenced to a namespace.
pub const WEFT_FRONT_REQUESTS: &str = "weft.front.requests";
/// Answers to tools of which a rest is kept.
pub const WEFT_FRONT_ANSWERS_KEPT: &str = "weft.front.answers_kept";

/// Every metric. A test checks that each is emitted, and another that each is in README.md.
pub const METRICS: &[&str] = &[
    HTTP_SERVER_REQUEST_DURATION,
    HTTP_SERVER_ACTIVE_REQUESTS,
    WEFT_INVOCATION_QUEUE_DURATION,
    WEFT_INVOCATION_DURATION,
    WEFT_INVOCATION_CPU_TIME,
    WEFT_INVOCATION_SHED,
    WEFT_INVOCATION_COUNT,
    WEFT_CALL_COUNT,
    WEFT_MESSAGE_COUNT,
    WEFT_CHANGE_COUNT,
    WEFT_CAPABILITY_OPERATION_DURATION,
    WEFT_CAPABILITY_IO,
    WEFT_INSTANCE_START_DURATION,
    WEFT_INSTANCE_MEMORY_PEAK,
    WEFT_INSTANCE_REUSED,
    WEFT_COMPONENT_COMPILE_DURATION,
    WEFT_COMPONENT_LOAD_DURATION,
    WEFT_COMPONENT_LOADED,
    WEFT_COMPONENT_LOADS,
    WEFT_COMPONENT_EVICTIONS,
    WEFT_ARTIFACT_CACHE,
    WEFT_ARTIFACT_KEPT,
    WEFT_ARTIFACT_SIZE,
    WEFT_ARTIFACT_DROPPED,
    WEFT_POOL_SLOTS,
    WEFT_POOL_MEMORIES_WARM,
    WEFT_POOL_MEMORIES_WARM_SIZE,
    WEFT_APP_PLACES,
    WEFT_TASK_COUNT,
    WEFT_HTTP_CONNECTIONS,
    WEFT_HTTP_CONNECTIONS_REFUSED,
    WEFT_HTTP_REQUESTS_REJECTED,
    WEFT_PANICS,
    WEFT_TLS_CERTIFICATE_EXPIRY,
    WEFT_TLS_RELOAD,
    WEFT_GUEST_LOG_LINES,
    WEFT_RECONCILE_DURATION,
    WEFT_CONTROL_COMMIT_DURATION,
    WEFT_CONTROL_INDEX,
    WEFT_ACTOR_COUNT,
    WEFT_PROVIDER_COUNT,
    WEFT_PROVIDER_UP,
    WEFT_PROVIDER_CIRCUIT_OPEN,
    WEFT_PROVIDER_DOWNS,
    WEFT_PROVIDER_REFUSED,
    WEFT_PROVIDER_HELD,
    WEFT_MOVE_KEYS,
    WEFT_PROVIDER_PROCESS_UP,
    WEFT_PROVIDER_PROCESS_ENDS,
    WEFT_QUOTA_REFUSED,
    WEFT_LINK_COUNT,
    WEFT_SECRET_COUNT,
    WEFT_CONDITION_COUNT,
    WEFT_LATTICE_CONNECTED,
    WEFT_LATTICE_DISCONNECTS,
    WEFT_LATTICE_REFUSED,
    WEFT_LATTICE_SLOW_CONSUMERS,
    WEFT_LATTICE_DENIED,
    WEFT_LATTICE_STRAYS,
    WEFT_LATTICE_ROUND_TRIP,
    WEFT_LATTICE_BATCHES,
    WEFT_LATTICE_BATCHED,
    WEFT_LATTICE_HOSTS,
    WEFT_LATTICE_BLIND,
    WEFT_RPC_CALLS,
    WEFT_RPC_RETRIES,
    WEFT_RPC_EJECTIONS,
    WEFT_RPC_SERVED,
    WEFT_RPC_RUNNING,
    WEFT_STREAM_OPEN,
    WEFT_STREAM_RECEIVED,
    WEFT_STREAM_RESETS,
    WEFT_ARTIFACT_FETCHES,
    WEFT_ARTIFACT_SENT,
    WEFT_ARTIFACT_SINGLE,
    WEFT_FRONT_CALLS,
    WEFT_FRONT_REQUESTS,
    WEFT_FRONT_ANSWERS_KEPT,
];
