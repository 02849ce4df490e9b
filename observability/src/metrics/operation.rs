//! What an actor asks of others, as attributes of metrics: calls of other actors, and operations of
//! capabilities.
//!
//! Owns closed sets of words, so that a metric has a known number of series. Must not know who serves them.

/// Which way a call from actor to actor went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallPath {
    /// To this host.
    Local,
    /// To another host of this zone.
    Zone,
    /// To another zone of this region.
    Region,
    /// To another region.
    Far,
}

impl CallPath {
    pub const ALL: [Self; 4] = [Self::Local, Self::Zone, Self::Region, Self::Far];

    /// The value of the attribute `weft.call.path`, for spans too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Far => "far",
        }
    }
}

/// What an actor can ask of a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    KeyValueGet,
    KeyValueSet,
    KeyValueDelete,
    KeyValueExists,
    KeyValueListKeys,
    KeyValueIncrement,
    KeyValueSwap,
    KeyValueGetMany,
    KeyValueSetMany,
    KeyValueDeleteMany,
    SqlQuery,
    SqlExecute,
    SqlBegin,
    SqlCommit,
    SqlRollback,
    HttpRequest,
    BlobCreateContainer,
    BlobDeleteContainer,
    BlobContainerInfo,
    BlobListObjects,
    BlobClear,
    BlobObjectInfo,
    BlobRead,
    BlobWrite,
    BlobDeleteObjects,
    BlobCopyObject,
    BlobMoveObject,
    SecretsGet,
    SecretsReveal,
    MessagingPublish,
    MessagingRequest,
}

impl Operation {
    pub const ALL: [Self; 31] = [
        Self::KeyValueGet,
        Self::KeyValueSet,
        Self::KeyValueDelete,
        Self::KeyValueExists,
        Self::KeyValueListKeys,
        Self::KeyValueIncrement,
        Self::KeyValueSwap,
        Self::KeyValueGetMany,
        Self::KeyValueSetMany,
        Self::KeyValueDeleteMany,
        Self::SqlQuery,
        Self::SqlExecute,
        Self::SqlBegin,
        Self::SqlCommit,
        Self::SqlRollback,
        Self::HttpRequest,
        Self::BlobCreateContainer,
        Self::BlobDeleteContainer,
        Self::BlobContainerInfo,
        Self::BlobListObjects,
        Self::BlobClear,
        Self::BlobObjectInfo,
        Self::BlobRead,
        Self::BlobWrite,
        Self::BlobDeleteObjects,
        Self::BlobCopyObject,
        Self::BlobMoveObject,
        Self::SecretsGet,
        Self::SecretsReveal,
        Self::MessagingPublish,
        Self::MessagingRequest,
    ];

    /// The value of the attribute `weft.capability`, for spans too.
    pub const fn capability(self) -> &'static str {
        self.words().0
    }

    /// The value of the attribute `weft.operation`, for spans too. Unique within its capability.
    pub const fn as_str(self) -> &'static str {
        self.words().1
    }

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::KeyValueGet => ("key-value", "get"),
            Self::KeyValueSet => ("key-value", "set"),
            Self::KeyValueDelete => ("key-value", "delete"),
            Self::KeyValueExists => ("key-value", "exists"),
            Self::KeyValueListKeys => ("key-value", "list-keys"),
            Self::KeyValueIncrement => ("key-value", "increment"),
            Self::KeyValueSwap => ("key-value", "swap"),
            Self::KeyValueGetMany => ("key-value", "get-many"),
            Self::KeyValueSetMany => ("key-value", "set-many"),
            Self::KeyValueDeleteMany => ("key-value", "delete-many"),
            Self::SqlQuery => ("sql", "query"),
            Self::SqlExecute => ("sql", "execute"),
            Self::SqlBegin => ("sql", "begin"),
            Self::SqlCommit => ("sql", "commit"),
            Self::SqlRollback => ("sql", "rollback"),
            Self::HttpRequest => ("http-client", "request"),
            Self::BlobCreateContainer => ("blob-store", "create-container"),
            Self::BlobDeleteContainer => ("blob-store", "delete-container"),
            Self::BlobContainerInfo => ("blob-store", "container-info"),
            Self::BlobListObjects => ("blob-store", "list-objects"),
            Self::BlobClear => ("blob-store", "clear"),
            Self::BlobObjectInfo => ("blob-store", "object-info"),
            Self::BlobRead => ("blob-store", "read"),
            Self::BlobWrite => ("blob-store", "write"),
            Self::BlobDeleteObjects => ("blob-store", "delete-objects"),
            Self::BlobCopyObject => ("blob-store", "copy-object"),
            Self::BlobMoveObject => ("blob-store", "move-object"),
            Self::SecretsGet => ("secrets", "get"),
            Self::SecretsReveal => ("secrets", "reveal"),
            Self::MessagingPublish => ("messaging", "publish"),
            Self::MessagingRequest => ("messaging", "request"),
        }
    }
}

/// Which way the bytes of an object went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectBytes {
    Read,
    Written,
}

impl ObjectBytes {
    pub const ALL: [Self; 2] = [Self::Read, Self::Written];

    /// The operation that began it.
    pub const fn operation(self) -> Operation {
        match self {
            Self::Read => Operation::BlobRead,
            Self::Written => Operation::BlobWrite,
        }
    }
}

/// How an operation of a capability ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationOutcome {
    Ok,
    /// The guest was told an error, or its invocation was over before the answer.
    Error,
}

impl OperationOutcome {
    pub const ALL: [Self; 2] = [Self::Ok, Self::Error];

    /// The value of the attribute `weft.outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The series are told apart by these words, and their instruments by the place in `ALL`.
    #[test]
    fn each_operation_has_a_place_and_words_of_its_own() {
        let words: BTreeSet<_> = Operation::ALL
            .iter()
            .map(|operation| (operation.capability(), operation.as_str()))
            .collect();
        assert_eq!(words.len(), Operation::ALL.len());
        let places: Vec<_> = Operation::ALL
            .iter()
            .map(|operation| *operation as usize)
            .collect();
        assert_eq!(places, (0..Operation::ALL.len()).collect::<Vec<_>>());
    }
}
