//! The types of `weft:provider/blob-store`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use weft_capabilities::{BlobError, Container, ContainerInfo, Object, ObjectInfo, ObjectPage};

use super::{Bound, Limit, Told, chain, size, word};
use crate::cbor::{Read, Reader, Unreadable, Write, Writer, put_case, record};

/// What a backend calls what was too large or can be no name; another word is told as the last of them.
const WHATS: &[&str] = &[
    "chunk",
    "object",
    "number of objects",
    "key of the object",
    "container",
    "scope",
    "request",
];

struct ContainerAt {
    name: String,
    scope: Option<(String, String)>,
}

struct ObjectAt {
    name: String,
    container: Container,
}

struct Range {
    end: u64,
    size: u64,
    start: u64,
}

/// When something was made, in milliseconds since 1970.
struct Millis(u64);

struct ObjectFacts {
    size: u64,
    created_at: Millis,
}

/// A reading that began, and its first bytes. If these are all, nothing is kept.
pub(crate) struct Begun {
    pub(crate) run: String,
    pub(crate) size: u64,
    pub(crate) chunk: Bytes,
}

record!(ContainerAt[2] { "name" name, "scope" scope });
record!(ObjectAt[2] { "name" name, "container" container });
record!(Range[3] { "end" end, "size" size, "start" start });
record!(ObjectFacts[2] { "size" size, "created-at" created_at });
record!(ObjectPage[2] { "names" names, "cursor" cursor });
record!(Begun[3] { "run" run, "size" size, "chunk" chunk });

impl Write for Container {
    fn write(&self, out: &mut Writer) {
        let scope = self.scope();
        let at = ContainerAt {
            name: self.name().to_owned(),
            scope: scope.map(|(namespace, app)| (namespace.to_owned(), app.to_owned())),
        };
        at.write(out);
    }
}

impl Read for Container {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let at = ContainerAt::read(from)?;
        let container = match &at.scope {
            Some((namespace, app)) => Self::scoped(namespace, app, &at.name),
            None => Self::shared(&at.name),
        };
        container.map_err(|_| Unreadable("names of a container of 1 to 128 bytes"))
    }
}

impl Write for Object {
    fn write(&self, out: &mut Writer) {
        let at = ObjectAt {
            name: self.name().to_owned(),
            container: self.container().clone(),
        };
        at.write(out);
    }
}

impl Read for Object {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let ObjectAt { name, container } = ObjectAt::read(from)?;
        let object = container.object(&name);
        object.map_err(|_| Unreadable("a name of an object of 1 to 512 bytes"))
    }
}

impl From<SystemTime> for Millis {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Write for Millis {
    fn write(&self, out: &mut Writer) {
        self.0.write(out);
    }
}

impl Read for Millis {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let millis = u64::read(from)?;
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        time.map(|_| Self(millis)).ok_or(Unreadable("a time"))
    }
}

impl Millis {
    /// Within what a time can be, as was looked at when it was read.
    fn time(&self) -> SystemTime {
        UNIX_EPOCH
            .checked_add(Duration::from_millis(self.0))
            .unwrap_or(UNIX_EPOCH)
    }
}

impl Write for ContainerInfo {
    fn write(&self, out: &mut Writer) {
        Millis::from(self.created_at).write(out);
    }
}

impl Read for ContainerInfo {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let created_at = Millis::read(from)?.time();
        Ok(Self { created_at })
    }
}

impl Write for ObjectInfo {
    fn write(&self, out: &mut Writer) {
        let facts = ObjectFacts {
            size: self.size,
            created_at: self.created_at.into(),
        };
        facts.write(out);
    }
}

impl Read for ObjectInfo {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let facts = ObjectFacts::read(from)?;
        Ok(Self {
            size: facts.size,
            created_at: facts.created_at.time(),
        })
    }
}

impl Write for BlobError {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::NoSuchContainer => put_case(out, "no-such-container", &()),
            Self::ContainerExists => put_case(out, "container-exists", &()),
            Self::NoSuchObject => put_case(out, "no-such-object", &()),
            Self::InvalidName { what, len_max } => {
                let limit = Bound {
                    what: (*what).to_owned(),
                    max: *len_max as u64,
                };
                put_case(out, "invalid-name", &limit);
            }
            Self::OutOfRange { start, end, size } => {
                let (start, end, size) = (*start, *end, *size);
                put_case(out, "out-of-range", &Range { end, size, start });
            }
            Self::AccessDenied => put_case(out, "access-denied", &()),
            Self::TooLarge { what, len, len_max } => {
                let limit = Limit {
                    what: (*what).to_owned(),
                    len: *len,
                    max: *len_max,
                };
                put_case(out, "too-large", &limit);
            }
            Self::Full => put_case(out, "full", &()),
            Self::Overloaded => put_case(out, "overloaded", &()),
            Self::Closed => put_case(out, "closed", &()),
            Self::Unavailable(why) => put_case(out, "unavailable", why),
            Self::Backend(source) => put_case(out, "failed", &chain(&**source)),
        }
    }
}

impl Read for BlobError {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let (case, len) = from.case()?;
        let nothing = |error, from: &mut Reader<'_>| from.payload::<()>(len).map(|()| error);
        match case {
            "no-such-container" => nothing(Self::NoSuchContainer, from),
            "container-exists" => nothing(Self::ContainerExists, from),
            "no-such-object" => nothing(Self::NoSuchObject, from),
            "invalid-name" => from.payload(len).map(|limit: Bound| Self::InvalidName {
                what: word(&limit.what, WHATS),
                len_max: size(limit.max),
            }),
            "out-of-range" => from.payload(len).map(|range: Range| Self::OutOfRange {
                start: range.start,
                end: range.end,
                size: range.size,
            }),
            "access-denied" => nothing(Self::AccessDenied, from),
            "too-large" => from.payload(len).map(|limit: Limit| Self::TooLarge {
                what: word(&limit.what, WHATS),
                len: limit.len,
                len_max: limit.max,
            }),
            "full" => nothing(Self::Full, from),
            "overloaded" => nothing(Self::Overloaded, from),
            "closed" => nothing(Self::Closed, from),
            "unavailable" => from.payload(len).map(Self::Unavailable),
            "failed" => from
                .payload(len)
                .map(|why: String| Self::Backend(Told(why).into())),
            _ => Err(Unreadable("an error of a blob store")),
        }
    }
}
