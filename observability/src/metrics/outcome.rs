//! The ways in which things end, as attributes of metrics.
//!
//! Owns closed sets of words, so that a metric has a known number of series. Must not know what is measured.

/// How an invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Ok,
    Trap,
    Deadline,
    Cpu,
    Memory,
    Overloaded,
    RefusedByGuest,
    Cancelled,
    Unavailable,
    NotFound,
    Denied,
}

impl Outcome {
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Trap,
        Self::Deadline,
        Self::Cpu,
        Self::Memory,
        Self::Overloaded,
        Self::RefusedByGuest,
        Self::Cancelled,
        Self::Unavailable,
        Self::NotFound,
        Self::Denied,
    ];

    /// The value of the attribute `weft.outcome`, for spans and logs too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Overloaded => "overloaded",
            Self::RefusedByGuest => "refused-by-guest",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
        }
    }
}

/// Why admission refused an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShedReason {
    /// The actor's queue has no place.
    QueueFull,
    /// The invocation waited for as long as it may.
    QueueTimeout,
    /// The host has no instance slot left.
    PoolFull,
}

impl ShedReason {
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::QueueTimeout, Self::PoolFull];

    /// The value of the attribute `weft.reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::PoolFull => "pool-full",
        }
    }
}

/// What became of a message that an actor subscribed to, or of a change of a key that it watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageOutcome {
    /// Its handler ended well.
    Handled,
    /// It goes back to a backend that keeps what it tells, to come again.
    Returned,
    /// It was not handled, and its backend keeps none.
    Lost,
    /// It found the queue full.
    Dropped,
}

impl MessageOutcome {
    pub const ALL: [Self; 4] = [Self::Handled, Self::Returned, Self::Lost, Self::Dropped];

    /// The value of the attribute `weft.outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Returned => "returned",
            Self::Lost => "lost",
            Self::Dropped => "dropped",
        }
    }
}

/// How compiling a component ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompileOutcome {
    Ok,
    /// The bytes are not a component that this host can run.
    Invalid,
    /// The compiler passed its time limit.
    Timeout,
    /// The compiler passed its memory limit.
    Memory,
    /// The compiler failed in another way.
    Failed,
}

impl CompileOutcome {
    pub const ALL: [Self; 5] = [Self::Ok, Self::Invalid, Self::Timeout, Self::Memory, Self::Failed];

    /// The value of the attribute `weft.outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Failed => "failed",
        }
    }
}

/// What the cache of compiled components had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheResult {
    Hit,
    Miss,
    /// Something that does not match its checksum.
    Corrupt,
    /// Made by another engine version or with other settings.
    Stale,
}

impl CacheResult {
    pub const ALL: [Self; 4] = [Self::Hit, Self::Miss, Self::Corrupt, Self::Stale];

    /// The value of the attribute `weft.cache.result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Corrupt => "corrupt",
            Self::Stale => "stale",
        }
    }
}

/// Why a component's machine code was let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Eviction {
    /// It was not called for long.
    Idle,
    /// Too many were loaded.
    Bound,
    /// Unused slots of the pool held memory after a peak, which goes with it.
    Memory,
}

impl Eviction {
    pub const ALL: [Self; 3] = [Self::Idle, Self::Bound, Self::Memory];

    /// The value of the attribute `weft.reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Bound => "bound",
            Self::Memory => "memory",
        }
    }
}
