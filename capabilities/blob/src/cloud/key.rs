//! The keys of containers and objects.

use object_store::path::Path;
use weft_capabilities::{BlobError, Container, Object};

use crate::name::{Letters, decode, encode};

/// Bytes of a key, at most: what S3, Google and Azure all take.
const KEY_LEN_MAX: usize = 1_024;
/// Bytes of one part of a key: servers that keep keys as files take 255.
const PART_LEN_MAX: usize = 200;
/// Ends a part of a name that goes on in the next one, and is in no encoding: so that no key is the folder of another.
const GOES_ON: char = '+';
const OBJECTS: &str = "/o/";

/// What every key of the store begins with, from what was set.
pub(super) fn prefix(set: &str) -> String {
    match set.trim_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    }
}

/// A name in parts. None begins with a dot, as some servers take those for folders.
fn parts(name: &str) -> String {
    let mut encoded = encode(name, Letters::Both);
    if encoded.starts_with('.') {
        encoded.replace_range(..1, "%2e");
    }
    let mut parts = String::with_capacity(encoded.len() + 4);
    while encoded.len() > PART_LEN_MAX {
        // It is ASCII, so that each byte is a place to cut.
        let rest = encoded.split_off(PART_LEN_MAX);
        parts.push_str(&encoded);
        parts.extend([GOES_ON, '/']);
        encoded = rest;
    }
    // A part of dots alone would be another folder, too.
    if encoded.bytes().all(|byte| byte == b'.') {
        encoded = encoded.replace('.', "%2e");
    }
    parts + &encoded
}

/// What the keys of an app's containers begin with, or of the shared ones.
pub(super) fn scope(prefix: &str, scope: Option<(&str, &str)>) -> String {
    match scope {
        Some((namespace, app)) => format!("{prefix}apps/{}/{}/", parts(namespace), parts(app)),
        None => format!("{prefix}shared/"),
    }
}

fn base(prefix: &str, container: &Container) -> String {
    scope(prefix, container.scope()) + &parts(container.name())
}

/// What a folder below [`scope`] is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The beginning of a name, which goes on below it.
    Part,
    /// A container, by its name.
    Whole(String),
    /// What someone else put there.
    Foreign,
}

/// What `folder` is, which has no slash at its end.
pub(super) fn step(scope: &str, folder: &str) -> Step {
    match folder.strip_prefix(scope) {
        None => Step::Foreign,
        Some(parts) if parts.ends_with(GOES_ON) => Step::Part,
        Some(_) => name(scope, folder).map_or(Step::Foreign, Step::Whole),
    }
}

/// The key of what says that a container is there.
pub(super) fn marker(prefix: &str, container: &Container) -> Result<Path, BlobError> {
    path(base(prefix, container) + "/container")
}

/// What the keys of a container's objects begin with.
pub(super) fn folder(prefix: &str, container: &Container) -> Result<String, BlobError> {
    let folder = base(prefix, container) + OBJECTS;
    path(folder.clone()).map(|_| folder)
}

/// The key of an object.
pub(super) fn object(prefix: &str, object: &Object) -> Result<Path, BlobError> {
    path(base(prefix, object.container()) + OBJECTS + &parts(object.name()))
}

/// What the keys begin with of all objects whose names begin with `prefix`, and of some others.
pub(super) fn listed(folder: &str, prefix: &str) -> String {
    let mut encoded = parts(prefix);
    if let Some(end) = encoded.find(GOES_ON) {
        encoded.truncate(end);
    }
    format!("{folder}{encoded}")
}

/// The name of an object by its key, or of a container by its folder.
pub(super) fn name(folder: &str, key: &str) -> Option<String> {
    let parts = key.strip_prefix(folder)?;
    decode(&parts.replace(&format!("{GOES_ON}/"), ""))
}

fn path(key: String) -> Result<Path, BlobError> {
    if key.len() > KEY_LEN_MAX {
        return Err(BlobError::TooLarge {
            what: "key of the object",
            len: key.len() as u64,
            len_max: KEY_LEN_MAX as u64,
        });
    }
    Path::parse(key).map_err(|error| BlobError::Backend(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name_of_any_kind() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just(".".to_owned()),
            Just("..".to_owned()),
            Just("/".to_owned()),
            Just("+/".to_owned()),
            Just("%2e".to_owned()),
            "[a-zA-Z.]{1,3}",
            any::<char>().prop_map(String::from),
            "[a.]{150,210}",
        ];
        let name = proptest::collection::vec(part, 1..5).prop_map(|parts| parts.concat());
        name.prop_map(|mut name| {
            while name.len() > 500 {
                name.pop();
            }
            name
        })
    }

    fn key(name: &str) -> String {
        let container = Container::shared("c").unwrap();
        match object("", &container.object(name).unwrap()) {
            Ok(key) => key.to_string(),
            Err(BlobError::TooLarge { .. }) => format!("too long: {name}"),
            Err(error) => panic!("{name:?}: {error:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_key_reads_back_and_begins_as_what_is_asked_for_its_prefixes(name in name_of_any_kind(), end in 0..500_usize) {
            let container = Container::shared("c").unwrap();
            let folder = folder("", &container).unwrap();
            let key = key(&name);
            prop_assume!(!key.starts_with("too long"));
            prop_assert_eq!(super::name(&folder, &key), Some(name.clone()));
            let end = (0..=end.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap();
            prop_assert!(key.starts_with(&listed(&folder, &name[..end])), "{}", listed(&folder, &name[..end]));
            prop_assert!(key.split('/').all(|part| part.len() <= 255 && part.contains(|c| c != '.')));
        }

        #[test]
        fn a_container_is_found_by_its_folders_however_long_its_name_is(
            name in proptest::collection::vec(any::<char>(), 1..32).prop_map(String::from_iter),
        ) {
            let container = Container::shared(&name).unwrap();
            let (scope, base) = (scope("", None), base("", &container));
            let mut ends: Vec<_> = base.match_indices('/').map(|(at, _)| at).filter(|at| *at >= scope.len()).collect();
            ends.push(base.len());
            let steps: Vec<_> = ends.into_iter().map(|end| step(&scope, &base[..end])).collect();
            let (last, before) = steps.split_last().unwrap();
            prop_assert_eq!(last, &Step::Whole(name));
            prop_assert!(before.iter().all(|step| *step == Step::Part), "{:?}", before);
        }

        #[test]
        fn no_two_names_share_a_key_nor_is_one_the_folder_of_another(a in name_of_any_kind(), b in name_of_any_kind()) {
            let (first, second) = (key(&a), key(&b));
            prop_assert_eq!(first == second, a == b);
            let folder = format!("{}/", first);
            prop_assert!(!second.starts_with(&folder));
        }
    }
}
