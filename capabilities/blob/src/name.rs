//! Names of guests, as names of files and keys.
//!
//! Owns the encoding: each byte that is not plain is `%XX`. So no name is another's, whatever a file system does with
//! case and Unicode, none is more than one step of a path, and each can be read back. What a name begins with begins
//! its encoding, too.

use weft_capabilities::{Container, Object};

/// The container of one app, or a shared one, by its name; `None` if it can't be one.
pub(crate) fn container(scope: Option<(&str, &str)>, name: &str) -> Option<Container> {
    match scope {
        Some((namespace, app)) => Container::scoped(namespace, app, name),
        None => Container::shared(name),
    }
    .ok()
}

/// Bytes of one step of a path, at most, before its kind: file systems take 255.
const STEP_LEN_MAX: usize = 200;

/// Which letters are plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letters {
    /// Lower case only, as file systems may take both for one.
    Lower,
    /// Both cases.
    Both,
}

/// The encoding of `name`. Injective, and of ASCII letters, digits, `-`, `_`, `.` and `%` only.
pub fn encode(name: &str, letters: Letters) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => encoded.push(char::from(byte)),
            b'A'..=b'Z' if letters == Letters::Both => encoded.push(char::from(byte)),
            _ => {
                let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
                encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    encoded
}

/// The name of an encoding; `None` if it is none.
pub fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
            bytes.push(u8::try_from(digit(0)? << 4 | digit(1)?).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// What a step of a path stands for: its first letter. No two kinds are at one place under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Namespace,
    App,
    Container,
    Object,
    /// The beginning of a long name, which goes on in the next step.
    Part,
}

impl Step {
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Namespace => "n.",
            Self::App => "a.",
            Self::Container => "c.",
            Self::Object => "o.",
            Self::Part => "p.",
        }
    }
}

fn steps(name: &str, kind: Step) -> impl Iterator<Item = String> {
    let mut rest = encode(name, Letters::Lower);
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        // It is ASCII, so that each byte is a place to cut.
        let after = rest.split_off(rest.len().min(STEP_LEN_MAX));
        let step = std::mem::replace(&mut rest, after);
        ended = rest.is_empty();
        let kind = if ended { kind } else { Step::Part };
        Some(format!("{}{step}", kind.prefix()))
    })
}

/// The steps from a store's folder to that of an app's containers.
pub(crate) fn scope_steps(scope: Option<(&str, &str)>) -> Vec<String> {
    let mut path = Vec::new();
    if let Some((namespace, app)) = scope {
        path.extend(steps(namespace, Step::Namespace));
        path.extend(steps(app, Step::App));
    }
    path
}

/// The steps from a store's folder to a container's.
pub(crate) fn container_steps(container: &Container) -> Vec<String> {
    let mut path = scope_steps(container.scope());
    path.extend(steps(container.name(), Step::Container));
    path
}

/// The steps from a container's folder to an object's file: mostly one.
pub(crate) fn object_steps(object: &Object) -> Vec<String> {
    steps(object.name(), Step::Object).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;
    use weft_capabilities::blob_store::{CONTAINER_LEN_MAX, OBJECT_LEN_MAX};

    use super::*;

    /// Names with what is special somewhere, often.
    fn hostile() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("..".to_owned()),
            Just("/".to_owned()),
            Just("\\".to_owned()),
            Just("\0".to_owned()),
            Just("%".to_owned()),
            Just("%2e".to_owned()),
            Just("con".to_owned()),
            Just("o.".to_owned()),
            "[aA]{1,3}",
            "\\PC{1,3}",
            any::<char>().prop_map(String::from),
            "[a/]{100,200}",
        ];
        let name = proptest::collection::vec(part, 1..6).prop_map(|parts| parts.concat());
        name.prop_map(|mut name| {
            while name.len() > CONTAINER_LEN_MAX.min(OBJECT_LEN_MAX) {
                name.pop();
            }
            name
        })
    }

    fn path(container: &str, object: &str) -> String {
        let container = Container::scoped("default", "shop", container).unwrap();
        let mut steps = container_steps(&container);
        steps.extend(object_steps(&container.object(object).unwrap()));
        steps.join("/")
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_plain_and_reads_back(name in any::<String>()) {
            for letters in [Letters::Lower, Letters::Both] {
                let encoded = encode(&name, letters);
                prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.%".contains(&b)));
                prop_assert_eq!(decode(&encoded), Some(name.clone()));
            }
        }

        #[test]
        fn a_path_stays_below_its_folder_and_each_step_is_a_name(container in hostile(), object in hostile()) {
            let path = path(&container, &object);
            for step in Path::new(&path).components() {
                let Component::Normal(step) = step else {
                    return Err(TestCaseError::fail(format!("{path} leaves its folder")));
                };
                prop_assert!(step.len() <= 255);
                prop_assert!(step.to_str().unwrap().bytes().all(|b| !b.is_ascii_uppercase()));
            }
        }

        #[test]
        fn no_two_objects_share_a_path(a in (hostile(), hostile()), b in (hostile(), hostile())) {
            let paths = (path(&a.0, &a.1), path(&b.0, &b.1));
            prop_assert_eq!(paths.0 == paths.1, a == b);
            // Nor is one the folder of another.
            let folder = format!("{}/", paths.1);
            prop_assert!(!paths.0.starts_with(&folder));
        }

        #[test]
        fn a_prefix_of_a_name_is_one_of_its_encoding_and_no_other_is(name in hostile(), other in hostile()) {
            let starts = encode(&name, Letters::Both).starts_with(&encode(&other, Letters::Both));
            prop_assert_eq!(starts, name.starts_with(&other));
        }

        #[test]
        fn no_text_makes_decoding_panic(text in any::<String>()) {
            let _ = decode(&text);
        }
    }
}
