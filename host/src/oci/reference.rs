//! Names of what is in a registry: `oci://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::digest::Digest;

/// What a reference begins with.
pub const SCHEME: &str = "oci://";
/// Bytes of a repository's name; registries take no longer ones.
const REPOSITORY_LEN_MAX: usize = 255;
/// Bytes of a tag, by the specification.
const TAG_LEN_MAX: usize = 128;
/// The tag that is meant if none is named.
const TAG: &str = "latest";

/// A name of something in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where: a host, with its port if that is not the usual one.
    pub registry: String,
    /// Which repository.
    pub repository: String,
    /// Which tag, which may mean something else tomorrow.
    pub tag: String,
    /// The digest of the manifest, which means one thing for ever; it goes before the tag.
    pub digest: Option<String>,
}

/// A text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no reference: {problem}; expected oci://REGISTRY/REPOSITORY:TAG, such as oci://ghcr.io/me/hello:1.0"
)]
pub struct ReferenceError {
    text: String,
    problem: &'static str,
}

impl Reference {
    /// The registry's host, without its port.
    pub fn host(&self) -> &str {
        match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.registry,
        }
    }

    /// Whether the registry is on this machine.
    pub fn is_on_this_machine(&self) -> bool {
        let host = self.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |problem| ReferenceError {
            text: text.chars().take(300).filter(|c| !c.is_control()).collect(),
            problem,
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or(wrong("it does not begin with oci://"))?;
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest, None),
        };
        if digest.is_some_and(|digest| digest.parse::<Digest>().is_err()) {
            return Err(wrong(
                "what follows the @ is not sha256: and 64 hexadecimal digits",
            ));
        }
        let (registry, path) = name.split_once('/').ok_or(wrong("it names no repository"))?;
        let host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        let authority = registry.parse::<http::uri::Authority>();
        if registry.is_empty() || !registry.bytes().all(host) || authority.is_err() {
            return Err(wrong("its registry is no host"));
        }
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, tag),
            None => (path, TAG),
        };
        let part = |part: &str| {
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            part.bytes().next().is_some_and(fits)
                && part.bytes().last().is_some_and(fits)
                && part.bytes().all(|byte| fits(byte) || b"._-".contains(&byte))
        };
        if repository.len() > REPOSITORY_LEN_MAX || !repository.split('/').all(part) {
            return Err(wrong(
                "its repository is not of lower-case letters, digits, `.`, `_`, `-` and `/`",
            ));
        }
        let in_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=TAG_LEN_MAX).contains(&tag.len()) || !tag.bytes().all(in_tag) || tag.starts_with(['.', '-'])
        {
            return Err(wrong(
                "its tag is not of 1 to 128 letters, digits, `.`, `_` and `-`",
            ));
        }
        let repository = match repository.contains('/') || registry != "docker.io" {
            true => repository.to_owned(),
            false => format!("library/{repository}"),
        };
        Ok(Self {
            registry: registry.to_ascii_lowercase(),
            repository,
            tag: tag.to_owned(),
            digest: digest.map(str::to_owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}:{}", self.registry, self.repository, self.tag)?;
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reference_has_a_registry_a_repository_a_tag_and_perhaps_a_digest() {
        let digest = Digest::of(b"").to_string();
        for (text, shown) in [
            ("oci://ghcr.io/me/hello:1.0", "oci://ghcr.io/me/hello:1.0"),
            ("oci://GHCR.io/me/hello", "oci://ghcr.io/me/hello:latest"),
            ("oci://docker.io/hello", "oci://docker.io/library/hello:latest"),
            ("oci://[::1]:5000/a/b_c:x", "oci://[::1]:5000/a/b_c:x"),
            (
                &format!("oci://127.0.0.1:5000/a@{digest}"),
                &format!("oci://127.0.0.1:5000/a:latest@{digest}"),
            ),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), shown);
        }
        for text in [
            "ghcr.io/me/hello",
            "oci://",
            "oci://ghcr.io",
            "oci://ghcr.io/",
            "oci:///a",
            "oci://a b/c",
            "oci://u@h/c",
            "oci://h/A",
            "oci://h/a/../b",
            "oci://h/-a",
            "oci://h/a:",
            "oci://h/a:-x",
            "oci://h/a:b:c",
            "oci://h/a@b",
            "oci://h/a?b=c",
            "oci://h/a#b",
            "oci://h/a%2f",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        let here = |text: &str| text.parse::<Reference>().unwrap().is_on_this_machine();
        assert!(here("oci://127.0.0.1:5000/a") && here("oci://localhost/a") && here("oci://[::1]:1/a"));
        assert!(
            !here("oci://127.0.0.1.example.com/a")
                && !here("oci://10.0.0.1:5000/a")
                && !here("oci://localhost.com/a")
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_of_a_reference_is_read_as_the_same(text in "oci://[a-zA-Z0-9.:\\[\\]-]{1,9}/[a-z0-9._/-]{1,9}(:[\\PC]{0,4})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
