//! References to secrets: where a value comes from, and texts that have such references in them.
//!
//! Owns the grammar of both, and how a value is written into a text. It must not know where values are kept.

use std::fmt;
use std::str::FromStr;

use crate::fault::repeated;
use crate::name::{PART_LEN_MAX, is_label};

/// What the names of variables begin with that are given out: who may write a manifest is not to read all of a host's
/// environment by it.
pub const ENV_PREFIX: &str = "WEFT_SECRET_";
/// Bytes of a variable's name or a file's path.
const SOURCE_LEN_MAX: usize = 255;

/// Where the value of a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretSource {
    /// A secret of the same app, which the control store has sealed.
    Sealed(String),
    /// A variable in each host's environment.
    Env(String),
    /// A file below each host's folder of secrets, as a relative path.
    File(String),
}

impl FromStr for SecretSource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text.split_once(':') {
            Some(("secret", name)) if is_label(name) => Ok(Self::Sealed(name.to_owned())),
            Some(("secret", name)) => Err(SourceError::Name(repeated(name))),
            Some(("env", name)) if is_variable(name) => Ok(Self::Env(name.to_owned())),
            Some(("env", name)) => Err(SourceError::Env(repeated(name))),
            Some(("file", path)) if is_below(path) => Ok(Self::File(path.to_owned())),
            Some(("file", path)) => Err(SourceError::File(repeated(path))),
            _ => Err(SourceError::Kind(repeated(text))),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed(name) => write!(f, "secret:{name}"),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

fn is_variable(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.len() <= SOURCE_LEN_MAX
        && name
            .strip_prefix(ENV_PREFIX)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(inner))
}

fn is_below(path: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.');
    path.len() <= SOURCE_LEN_MAX
        && path.split('/').all(is_part)
        && !path.contains(|c: char| c.is_control() || "\\{}".contains(c))
}

/// Why a text is no reference to a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It does not begin with a known kind.
    #[error("`{0}` is no source of a secret: expected secret:NAME, env:{ENV_PREFIX}NAME or file:NAME")]
    Kind(String),
    /// It is not the name of a secret.
    #[error(
        "`{0}` is not the name of a secret of this app: expected 1 to {PART_LEN_MAX} lower-case letters, digits or inner hyphens"
    )]
    Name(String),
    /// It is not a variable that is given out.
    #[error("`{0}` is not given out: name a variable that begins with {ENV_PREFIX}")]
    Env(String),
    /// It is not a path within the folder of secrets.
    #[error(
        "`{0}` is not below a host's folder of secrets: name a file in it, without `..` or a slash in front"
    )]
    File(String),
    /// Its end is missing.
    #[error("`${{` has no `}}`: write ${{secret:NAME}}, or $${{ for these two characters themselves")]
    Open,
    /// It is amid a text that is no address.
    #[error(
        "${{{0}}} stands amid other text: let it be all of the value, or a part of an address (SCHEME://...), where it is escaped"
    )]
    Place(SecretSource),
}

/// A text with references in it: `redis://:${secret:cache-password}@cache:6379`, or one reference that is all of it.
///
/// In an address a value is percent-encoded, so that no character of a password ends it. `$${` stands for `${`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Source(SecretSource),
}

impl FromStr for Template {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                plain.push_str(before);
                plain.push_str("${");
                rest = after;
                continue;
            }
            plain.push_str(before);
            let (source, after) = after.split_once('}').ok_or(SourceError::Open)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Source(source.parse()?));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        let template = Self(parts);
        let first = template.sources().next().cloned();
        match first.filter(|_| template.0.len() > 1 && !template.is_address()) {
            Some(source) => Err(SourceError::Place(source)),
            None => Ok(template),
        }
    }
}

impl Template {
    /// What it refers to, in order.
    pub fn sources(&self) -> impl Iterator<Item = &SecretSource> {
        self.0.iter().filter_map(|part| match part {
            Part::Source(source) => Some(source),
            Part::Text(_) => None,
        })
    }

    /// The text with the values in it. The caller keeps the result as secret as they are.
    ///
    /// # Errors
    /// What `value` says of a source.
    pub fn expand<'v, E>(
        &self,
        mut value: impl FnMut(&SecretSource) -> Result<&'v str, E>,
    ) -> Result<String, E> {
        let mut values = Vec::with_capacity(self.0.len());
        for source in self.sources() {
            values.push(value(source)?);
        }
        // All at once: what grows leaves copies behind in memory that is not its own any more.
        let plain = self.0.iter().map(|part| match part {
            Part::Text(text) => text.len(),
            Part::Source(_) => 0,
        });
        let len = plain.sum::<usize>() + 3 * values.iter().map(|value| value.len()).sum::<usize>();
        let (mut out, escaped, mut values) =
            (String::with_capacity(len), self.0.len() > 1, values.into_iter());
        for part in &self.0 {
            match (part, escaped) {
                (Part::Text(text), _) => out.push_str(text),
                (Part::Source(_), false) => out.extend(values.next()),
                (Part::Source(_), true) => values
                    .next()
                    .into_iter()
                    .for_each(|value| escape(value, &mut out)),
            }
        }
        Ok(out)
    }

    /// Whether it begins with a scheme.
    fn is_address(&self) -> bool {
        let Some(Part::Text(text)) = self.0.first() else {
            return false;
        };
        text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        })
    }
}

/// A value as it stands in an address. The caller keeps it as secret as it was.
pub fn in_address(value: &str) -> String {
    let mut out = String::with_capacity(3 * value.len());
    escape(value, &mut out);
    out
}

/// Percent-encodes what has a meaning in an address.
fn escape(value: &str, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
        }
    }
}

/// Options of backends that are secrets as a whole.
const SECRET_OPTIONS: &[&str] = &["accessKey", "nkey", "secretAccessKey", "token"];

/// What may be shown of an option of a backend: references, and what is no secret by itself.
pub fn shown(option: &str, text: &str) -> String {
    if SECRET_OPTIONS.contains(&option) && !text.starts_with("${") {
        return "***".to_owned();
    }
    without_password(text)
}

/// A text without the passwords of the addresses in it. What can't be told from a password is left out, too.
fn without_password(text: &str) -> String {
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => without_setting(text).unwrap_or_else(|| text.to_owned()),
    };
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let address = word.trim_end();
        without_query(&without_user(address)) + &word[address.len()..]
    });
    words.collect()
}

/// Without the value of `password`, where keys and values stand side by side: spaces may be around `=`, and in quotes.
fn without_setting(text: &str) -> Option<String> {
    const KEY: &str = "password";
    let (before, rest) = text.split_at(text.find(KEY)? + KEY.len());
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    // Where quotes end depends on what is escaped in them.
    let end = match value.starts_with('\'') {
        true => value.len(),
        false => value.find(char::is_whitespace).unwrap_or(value.len()),
    };
    Some(format!("{before}=***{}", &value[end..]))
}

fn without_user(address: &str) -> String {
    let is_reference = |text: &str| text.starts_with("${") && text.ends_with('}');
    let start = address.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = address.split_at(start);
    // What is before the last `@` ahead of the path is user and password.
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@').or_else(|| rest.rfind('@')) else {
        return address.to_owned();
    };
    let (login, rest) = rest.split_at(at);
    match login.split_once(':') {
        // A reference is not the password.
        _ if is_reference(login) && login.matches("${").count() == 1 => address.to_owned(),
        Some((_, password)) if password.is_empty() || is_reference(password) => address.to_owned(),
        Some((user, _)) => format!("{scheme}{user}:***{rest}"),
        // To NATS a user alone is a token.
        None if matches!(scheme, "" | "nats://" | "tls://") => format!("{scheme}***{rest}"),
        None => address.to_owned(),
    }
}

fn without_query(address: &str) -> String {
    let parts = address
        .split_inclusive(['?', '&'])
        .map(|part| match part.split_once('=') {
            Some((key, value)) if key.ends_with("pass") || key.ends_with("password") => {
                let more = if value.ends_with('&') { "&" } else { "" };
                match value.starts_with("${") {
                    true => part.to_owned(),
                    false => format!("{key}=***{more}"),
                }
            }
            _ => part.to_owned(),
        });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(template: &str, value: &str) -> String {
        let template: Template = template.parse().unwrap();
        let Ok(text) = template.expand(|_| Ok::<_, ()>(value)) else {
            unreachable!("each source has a value");
        };
        text
    }

    #[test]
    fn a_source_is_written_as_it_was_read() {
        for text in ["secret:db-password", "env:WEFT_SECRET_DB", "file:db/password"] {
            assert_eq!(text.parse::<SecretSource>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nothing_of_a_host_is_read_but_what_is_meant_to_be() {
        for text in [
            "db-password",
            "secret:",
            "secret:other/app",
            "secret:Db",
            "env:HOME",
            "env:WEFT_SECRET_",
            "env:WEFT_SECRET_A=B",
            "file:",
            "file:/etc/shadow",
            "file:../x",
            "file:a/../../x",
            "file:.hidden",
            "vault:x",
        ] {
            assert!(text.parse::<SecretSource>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn a_value_is_escaped_within_an_address_and_is_itself_alone() {
        let odd = "p@ss:w/rd ?#%é";
        assert_eq!(
            expanded("redis://u:${secret:p}@h:6379/0", odd),
            "redis://u:p%40ss%3Aw%2Frd%20%3F%23%25%C3%A9@h:6379/0"
        );
        assert_eq!(expanded("${secret:p}", odd), odd);
        assert_eq!(expanded("a $${secret:p} b", odd), "a ${secret:p} b");
        assert_eq!(expanded("nothing $ of {it}", odd), "nothing $ of {it}");
    }

    #[test]
    fn a_reference_amid_text_that_is_no_address_is_refused() {
        for text in [
            "password=${secret:p}",
            "${secret:a}${secret:b}",
            "x://${secret:p",
            "x://${p}",
        ] {
            assert!(text.parse::<Template>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn a_key_is_not_shown_and_a_reference_is() {
        assert_eq!(shown("secretAccessKey", "wJalr"), "***");
        assert_eq!(shown("secretAccessKey", "${secret:s3}"), "${secret:s3}");
        assert_eq!(shown("accessKeyId", "AKIA"), "AKIA");
        assert_eq!(shown("url", "redis://:pw@h"), "redis://:***@h");
    }

    #[test]
    fn a_password_is_not_shown_and_a_reference_is() {
        for (text, shown) in [
            ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
            ("postgres://u:p@w@h/db?x=a:b@c", "postgres://u:***@h/db?x=a:b@c"),
            ("redis://u:pw@a redis://b", "redis://u:***@a redis://b"),
            ("redis://u:${secret:p}@a", "redis://u:${secret:p}@a"),
            ("redis://u:pw/d@a", "redis://u:***@a"),
            ("redis://h:6379", "redis://h:6379"),
            ("server", "server"),
            ("host=db password=pw user=u", "host=db password=*** user=u"),
            ("host=db password = pw", "host=db password=***"),
            ("password='a b' host=db", "password=***"),
            ("nats://token@h:4222", "nats://***@h:4222"),
            ("nats://${secret:t}@h:4222", "nats://${secret:t}@h:4222"),
            ("user:pw@h:4222", "user:***@h:4222"),
            ("postgres://user@h/db", "postgres://user@h/db"),
            (
                "postgres://h/db?user=u&password=pw&x=y",
                "postgres://h/db?user=u&password=***&x=y",
            ),
            (
                "redis://u:a@h1\tredis://u:b@h2",
                "redis://u:***@h1\tredis://u:***@h2",
            ),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[$\\{\\}a-z:/@ ]{0,30}|\\PC{0,30}") {
            let _ = text.parse::<Template>();
            without_password(&text);
        }

        #[test]
        fn no_value_ends_the_password_of_an_address(value in "\\PC{1,20}") {
            let text = expanded("redis://u:${secret:p}@h", &value);
            let password = text.strip_prefix("redis://u:").and_then(|rest| rest.strip_suffix("@h")).unwrap();
            prop_assert!(password.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)), "{}", password);
        }

        #[test]
        fn a_text_without_references_stays_as_it_is(text in "[^$]{0,30}") {
            prop_assert_eq!(expanded(&text, "x"), text);
        }
    }
}
