//! What containers and objects are called in NATS.
//!
//! A container is a bucket of NATS's object store: the stream `OBJ_BUCKET`, of which `$O.BUCKET.M.NAME` has what is known of
//! an object, its name in base64, and `$O.BUCKET.C.NUID` its bytes. A container's name may be any text and a stream's may
//! not, so a bucket is called `PREFIX-READABLE-HASH`, of which only the hash counts.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use sha2::{Digest as _, Sha256};
use weft_capabilities::Container;

/// Characters of a bucket's name that are there to be read.
const READABLE_LEN_MAX: usize = 40;
/// Bytes of the hash in a bucket's name: so many that nobody finds a name that meets another app's container.
const BUCKET_HASH_LEN: usize = 16;
/// Bytes of the hash of an object's name in a nuid. If two names share it, a sweep finds less.
const OBJECT_HASH_LEN: usize = 8;
/// What the nuids of objects that Weft writes begin with: others' have no `-`.
const NUID: &str = "weft-";

/// What the description of a container's stream begins with; then comes which container it is.
pub(super) const DESCRIPTION: &str = "Weft's container ";

/// The bucket that a container is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Bucket {
    name: String,
}

impl Bucket {
    pub(super) fn of(prefix: &str, container: &Container) -> Self {
        let scope = container.scope().map(|(namespace, app)| [namespace, app]);
        let mut hash = Sha256::new();
        for part in scope.iter().flatten().copied().chain([container.name()]) {
            // With its length, so that no two lists of parts read the same.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let path = container.to_string();
        let readable = path.chars().take(READABLE_LEN_MAX).map(|c| match c {
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => c,
            _ => '-',
        });
        let readable: String = readable.collect();
        let hash = hex(&hash.finalize()[..BUCKET_HASH_LEN]);
        Self {
            name: format!("{prefix}-{readable}-{hash}"),
        }
    }

    /// The container of one app, or a shared one, that a stream is: its description has the name, and what it is called
    /// proves it.
    pub(super) fn container(
        prefix: &str,
        scope: Option<(&str, &str)>,
        stream: &str,
        description: &str,
    ) -> Option<Container> {
        let path = description.strip_prefix(DESCRIPTION)?;
        let container = match scope {
            Some((namespace, app)) => {
                let name = path.strip_prefix(&format!("{namespace}/{app}/"))?;
                Container::scoped(namespace, app, name)
            }
            None => Container::shared(path),
        }
        .ok()?;
        (Self::of(prefix, &container).stream() == stream).then_some(container)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn stream(&self) -> String {
        format!("OBJ_{}", self.name)
    }

    /// All subjects of its stream.
    pub(super) fn subjects(&self) -> [String; 2] {
        ["C", "M"].map(|kind| format!("$O.{}.{kind}.>", self.name))
    }

    /// Where it is said what an object is.
    pub(super) fn meta(&self, object: &str) -> String {
        format!("{}{}", self.metas(), URL_SAFE.encode(object))
    }

    /// What the subjects of all objects begin with.
    pub(super) fn metas(&self) -> String {
        format!("$O.{}.M.", self.name)
    }

    /// The object's name in a subject. `None` if it is none.
    pub(super) fn object(&self, subject: &str) -> Option<String> {
        let token = subject.strip_prefix(&self.metas())?;
        String::from_utf8(URL_SAFE.decode(token).ok()?).ok()
    }

    /// Where the bytes of an object are.
    pub(super) fn chunks(&self, nuid: &str) -> String {
        format!("{}{nuid}", self.all_chunks())
    }

    /// What the subjects of all objects' bytes begin with.
    pub(super) fn all_chunks(&self) -> String {
        format!("$O.{}.C.", self.name)
    }
}

/// A name for the bytes of one write of an object: `weft-TIME-OBJECT-RANDOM`, the time in milliseconds and a hash of the
/// object's name, so that a sweep sees by the name alone what may have been left behind.
pub(super) fn nuid(object: &str, now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let object = object_hash(object);
    let random: u64 = rand::random();
    format!("{NUID}{:012x}-{object}-{random:016x}", since.as_millis())
}

/// Of an object's name, what its nuids have.
pub(super) fn object_hash(object: &str) -> String {
    hex(&Sha256::digest(object)[..OBJECT_HASH_LEN])
}

/// When an object of Weft's was begun, and [`object_hash`] of its name. `None` if the nuid is another client's.
pub(super) fn read_nuid(nuid: &str) -> Option<(SystemTime, &str)> {
    let mut parts = nuid.strip_prefix(NUID)?.split('-');
    let (time, object, _random) = (parts.next()?, parts.next()?, parts.next()?);
    let ms = u64::from_str_radix(time, 16).ok()?;
    let began = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms))?;
    parts.next().is_none().then_some((began, object))
}

/// Whether a nuid that was read can stand in a subject: what others wrote may have any text there, such as `>`.
pub(super) fn is_nuid(nuid: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=128).contains(&nuid.len()) && nuid.chars().all(is_legal)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string can't fail.
        write!(hex, "{byte:02x}").unwrap_or_default();
        hex
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_capabilities::blob_store::{CONTAINER_LEN_MAX, OBJECT_LEN_MAX};

    use super::*;
    use crate::jetstream::NAME_LEN_MAX;

    #[test]
    fn a_bucket_is_found_by_who_reads_the_names_of_streams() {
        let container = Container::scoped("default", "shop", "../pictures").unwrap();
        let name = Bucket::of("weft", &container).name;
        assert!(name.starts_with("weft-default-shop----pictures-"), "{name}");
    }

    #[test]
    fn the_longest_names_fit_in_a_line_of_the_protocol_and_in_a_name_of_a_file() {
        let name = "\u{10ffff}".repeat(CONTAINER_LEN_MAX / 4);
        let bucket = Bucket::of(
            &"p".repeat(NAME_LEN_MAX),
            &Container::scoped(&name, &name, &name).unwrap(),
        );
        assert!(bucket.stream().len() <= 255 - 64, "{}", bucket.stream());
        assert!(bucket.meta(&"o".repeat(OBJECT_LEN_MAX)).len() <= 4_096 - 256);
    }

    #[test]
    fn a_nuid_tells_when_it_was_made_and_of_what() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
        let made = nuid("a/b", now);
        assert_eq!(read_nuid(&made), Some((now, &*object_hash("a/b"))));
        assert!(is_nuid(&made));
        assert_ne!(made, nuid("a/b", now));
        for other in [
            "",
            "weft-",
            "weft-1-2",
            "weft-x-2-3",
            "weft-1-2-3-4",
            "S4B1Q8ZXWMJ9N3FV0QDZ2K",
        ] {
            assert_eq!(read_nuid(other), None, "{other}");
        }
        for other in ["", ">", "*", "a.b", "a b", "a\r\n"] {
            assert!(!is_nuid(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_a_token_of_nats_and_is_found_again(
            container in "\\PC{1,30}|[\\x00-\\x7f]{1,40}",
            object in "\\PC{1,40}|[\\x00-\\x7f]{1,40}",
        ) {
            let bucket = Bucket::of("weft", &Container::shared(&container).unwrap());
            let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_=".contains(c);
            prop_assert!(bucket.stream().chars().all(is_legal));
            let subject = bucket.meta(&object);
            let token = subject.strip_prefix(&bucket.metas()).unwrap();
            prop_assert!(!token.is_empty() && token.chars().all(is_legal), "{}", token);
            prop_assert_eq!(bucket.object(&subject), Some(object));
        }

        #[test]
        fn no_two_containers_share_a_bucket(
            a in ("[ab/]{1,3}", "[ab/]{1,3}", "[ab/]{1,3}"),
            b in ("[ab/]{1,3}", "[ab/]{1,3}", "[ab/]{1,3}"),
        ) {
            let of = |container: Container| Bucket::of("weft", &container);
            let scoped = |(namespace, app, name): &(String, String, String)| {
                of(Container::scoped(namespace, app, name).unwrap())
            };
            prop_assert_eq!(scoped(&a) == scoped(&b), a == b);
            prop_assert_ne!(scoped(&a), of(Container::shared(&format!("{}/{}/{}", a.0, a.1, a.2)).unwrap()));
        }
    }
}
