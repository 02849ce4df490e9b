//! What can be wrong with a manifest, and where.
//!
//! Owns the texts: each says what is wrong, what was expected, and what may have been meant. It must not know how a
//! manifest is read.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use crate::allow::AllowError;
use crate::interface::InterfaceError;
use crate::name::NameError;
use crate::scope::AppPatternError;

/// Faults that one report lists. Who has more has one cause for most of them.
pub const FAULTS_MAX: usize = 100;

/// Characters of a source line that a report shows.
const SHOWN_MAX: usize = 160;

/// Bytes of a text that a fault repeats: who wrote it knows it by then, and a report is sent and logged.
const REPEATED_MAX: usize = 256;

/// A place in a text. Lines and columns count from 1, columns and lengths in characters; `Span::default()` is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span {
    /// The line.
    pub line: u32,
    /// The column of the first character.
    pub column: u32,
    /// Characters on that line.
    pub len: u32,
}

/// A value and where it was written. Two are equal if their values are.
#[derive(Debug, Clone, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written, for a later check to point at.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value at a place.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl<T> From<T> for Spanned<T> {
    fn from(value: T) -> Self {
        Self::new(value, Span::default())
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

/// The candidate that a wrong word was probably meant to be, if one is near.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Near(Option<String>);

impl Near {
    /// The candidate with the fewest edits from `word`: at most a third of its letters, and at least one.
    pub fn of<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        // Comparing takes the product of the lengths; nobody mistypes what is longer.
        const COMPARED_MAX: usize = 128;
        let word = word.to_lowercase();
        let edits_max = (word.chars().count() / 3).max(1);
        let near = candidates
            .into_iter()
            .filter(|c| c.len() <= COMPARED_MAX && word.len() <= COMPARED_MAX)
            .map(|c| (strsim::osa_distance(&word, &c.to_lowercase()), c))
            .filter(|(edits, _)| *edits <= edits_max)
            .min();
        Self(near.map(|(_, candidate)| candidate.to_owned()))
    }

    /// A text that is known to be meant.
    pub fn is(text: impl Into<String>) -> Self {
        Self(Some(text.into()))
    }
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => write!(f, "; did you mean `{text}`?"),
            None => Ok(()),
        }
    }
}

/// What is wrong, one variant for each way. [`FaultKind::code`] is its name for machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[expect(missing_docs, reason = "the text of each variant says what its fields are")]
pub enum FaultKind {
    // The text.
    #[error("the manifest has {len} bytes, and at most {max} are read: split the app")]
    TextTooLong { len: usize, max: usize },
    #[error("this is not YAML: {0}")]
    Syntax(String),
    #[error("there is no manifest in here: start with `apiVersion: {expected}`")]
    Empty { expected: &'static str },
    #[error(
        "a second document starts here: a manifest is one document, so put this one into a file of its own"
    )]
    SeveralDocuments,
    #[error("this is nested deeper than {max} levels")]
    TooDeep { max: usize },
    #[error(
        "up to here there are more than {max} values, each alias counted as what it stands for: split the app"
    )]
    TooManyNodes { max: usize },
    #[error("this alias stands for a value that holds it: write the value out")]
    RecursiveAlias,
    #[error("the tag `{0}` means nothing here: leave it out")]
    Tag(String),
    #[error("a key is a plain text, not a list or a map")]
    KeyNotText,
    #[error("`{key}` is there twice, first in line {first}: remove one")]
    DuplicateKey { key: String, first: u32 },

    // Keys and values.
    #[error("unknown key `{key}` in {place}: expected {expected}{near}")]
    UnknownKey {
        key: String,
        place: &'static str,
        expected: String,
        near: Near,
    },
    #[error("{place} has no `{key}`, which is required")]
    MissingKey { place: &'static str, key: &'static str },
    #[error("`{what}` is {found}: expected {expected}")]
    WrongType {
        what: String,
        expected: &'static str,
        found: &'static str,
    },
    #[error("unknown manifest version `{version}`: expected `{expected}`")]
    ApiVersion { version: String, expected: &'static str },
    #[error("{0}{1}")]
    Name(NameError, Near),
    #[error("`{what}` has {len} bytes: at most {max} are kept")]
    ValueTooLong { what: String, len: usize, max: usize },
    #[error("`{what}` holds a line break or another control character: write it on one line")]
    ControlCharacter { what: String },
    #[error(
        "`{text}` is not a component: expected the path of a .wasm file, relative to the manifest, sha256: and 64 lower-case hexadecimal digits, or oci://REGISTRY/REPOSITORY:TAG"
    )]
    Component { text: String },
    #[error("`{text}` is not a whole number, which `{what}` is")]
    Number { what: String, text: String },
    #[error(
        "`{text}` is not a duration, which `{what}` is: expected a whole number of ms, s, m or h, such as 500ms or 30s{near}"
    )]
    Duration { what: String, text: String, near: Near },
    #[error(
        "`{text}` is not a size, which `{what}` is: expected a whole number of B, KiB, MiB or GiB, such as 64MiB{near}"
    )]
    Size { what: String, text: String, near: Near },
    #[error("`{what}` is {text}: expected from {min} to {max}")]
    OutOfRange {
        what: String,
        text: String,
        min: String,
        max: String,
    },
    #[error("`{text}` is not a function: expected INTERFACE.FUNCTION, for example shop:catalog/catalog.get")]
    Function { text: String },

    // Links and providers.
    #[error("{0}")]
    Interface(#[from] InterfaceError),
    #[error(
        "the platform serves no `{interface}`: an actor's own interface stands in a package of its own{near}"
    )]
    UnknownInterface { interface: String, near: Near },
    #[error("`{interface}` is there for every actor and takes no link: remove it")]
    NeedsNoLink { interface: String },
    #[error("a link goes to exactly one of `provider`, `actor` and `allow`: {found}")]
    LinkTarget { found: &'static str },
    #[error(
        "`{interface}` goes elsewhere than `{other}`: by the links of one name an actor has one provider of {capability}, so let both go to the same, with the same `bucket` and `shared`, or give one of them a name of its own behind a `#`"
    )]
    LinksDiffer {
        interface: String,
        other: String,
        capability: String,
    },
    #[error("`{interface}` can't be linked to {found}: it needs {needs}")]
    TargetKind {
        interface: String,
        found: &'static str,
        needs: String,
    },
    #[error("`{interface}` needs {needs}, and the provider `{provider}` serves {serves}")]
    TargetCapability {
        interface: String,
        needs: String,
        provider: String,
        serves: String,
    },
    #[error(
        "{actor} can't be linked to {target}: it is another app's, which does not let this one; add `{app}` to the `allowFrom` of {target}"
    )]
    NotAllowed {
        actor: String,
        target: String,
        app: String,
    },
    #[error("{app} has no actor `{actor}`{near}")]
    UnknownActor { app: String, actor: String, near: Near },
    #[error("{app} has no provider `{provider}`{near}")]
    UnknownProvider {
        app: String,
        provider: String,
        near: Near,
    },
    #[error("{0}")]
    Allow(#[from] AllowError),
    #[error("{0}")]
    AllowFrom(#[from] AppPatternError),
    #[error("this can't be a provider's process: {reason}")]
    Command { reason: &'static str },
    #[error(
        "`{text}` can't be a variable of a provider's process: expected capital letters, digits and `_`, and neither PATH nor one that starts with WEFT_, LD_ or DYLD_"
    )]
    EnvName { text: String },
    #[error("unknown capability `{capability}`: expected {expected}{near}")]
    UnknownCapability {
        capability: String,
        expected: String,
        near: Near,
    },
    #[error("{capability} has no backend `{backend}`: expected {expected}{near}")]
    UnknownBackend {
        capability: String,
        backend: String,
        expected: String,
        near: Near,
    },

    // Routes.
    #[error(
        "`{text}` is not the host of a route: expected a host name without scheme and port, or one below a star, such as shop.example or *.example"
    )]
    Host { text: String },
    #[error(
        "`{text}` is not the path of a route: expected one such as /shop, without query, empty segments, `.` and `..`{near}"
    )]
    Path { text: String, near: Near },
    #[error("unknown method `{method}`: expected {expected}{near}")]
    UnknownMethod {
        method: String,
        expected: String,
        near: Near,
    },
    #[error(
        "`{text}` can't be the name or value of a header: names are letters, digits and hyphens, values visible ASCII characters"
    )]
    Header { text: String },
    #[error(
        "the route in line {first} takes {claim}, too: remove one, or tell them apart by host, path, method or headers"
    )]
    RouteTwice { first: u32, claim: String },
    #[error(
        "this route's host, path, method and headers have {len} bytes when they are escaped and put together: at most {max} are kept, so match fewer headers or shorter ones"
    )]
    RouteTooLong { len: usize, max: usize },

    // Subscriptions.
    #[error(
        "`{text}` is not a subject to listen to: expected tokens with dots between them, such as orders.created, where `*` is any one token and a last `>` all that follow"
    )]
    Subject { text: String },
    #[error("`{text}` is not a group: expected letters, digits, `-` and `_`")]
    Group { text: String },
    #[error(
        "`{subject}` of `{provider}`: a subscription needs a provider of messaging, and this one serves {serves}"
    )]
    SubscriptionProvider {
        subject: String,
        provider: String,
        serves: String,
    },
    #[error("the subscription in line {first} is the same actor's to the same subject: remove one")]
    SubscriptionTwice { first: u32 },

    // Watches.
    #[error(
        "`{text}` is not a bucket to watch: expected 1 to {} printable characters of ASCII without spaces and `/`",
        crate::watch::BUCKET_LEN_MAX
    )]
    WatchBucket { text: String },
    #[error(
        "`{text}` is not what keys begin with: expected printable characters of ASCII without spaces, at most {} together with the name of the bucket",
        crate::watch::WATCHED_LEN_MAX
    )]
    WatchKeys { text: String },
    #[error(
        "`{bucket}` of `{provider}`: a watch needs a provider of key-value, and this one serves {serves}"
    )]
    WatchProvider {
        bucket: String,
        provider: String,
        serves: String,
    },
    #[error("the watch in line {first} is the same actor's of the same keys: remove one")]
    WatchTwice { first: u32 },

    // Found when it is deployed.
    #[error("{claim} is taken by the app {app}: choose another host, path, method or header")]
    RouteTaken { claim: String, app: String },
    #[error("the component of actor `{actor}` was not found")]
    NoComponent { actor: String },
    /// What a host found that knows the components, in its own words.
    #[error("{0}")]
    Found(String),
    #[error("{0}")]
    SecretSource(String),
    #[error("there is no secret {0}: `weft secret list` lists them")]
    UnknownSecret(String),
    #[error(
        "the next version of the secret {name} is {expected}, not {version}: another one was put meanwhile, so put it again"
    )]
    SecretVersion {
        name: String,
        version: u64,
        expected: u64,
    },
    #[error("{0} is not deployed")]
    NotDeployed(String),
    #[error("{actor} has no link for `{interface}`")]
    UnknownLink { actor: String, interface: String },
    #[error("{actor} is not placed on {host}: `weft get actors` tells where it is")]
    NotPlaced { actor: String, host: String },
}

impl FaultKind {
    /// The kind's name in kebab-case, for example `unknown-key`: stable, for machines and for the manual.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}

/// One thing that is wrong in one place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Where in the file.
    pub span: Span,
    /// What.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span { line, column, .. } = self.span;
        match line {
            0 => write!(f, "{}: {}", self.file, self.kind),
            _ => write!(f, "{}:{line}:{column}: {}", self.file, self.kind),
        }
    }
}

impl Fault {
    /// The fault with its line of `source` and a caret below the place.
    pub fn render(&self, source: &str) -> String {
        let mut out = self.to_string();
        let Span { line, column, len } = self.span;
        let Some(text) = (line as usize)
            .checked_sub(1)
            .and_then(|at| source.lines().nth(at))
        else {
            return out;
        };
        // A long line is shown from shortly before the place.
        let from = (column as usize).saturating_sub(SHOWN_MAX / 2);
        let from = if (column as usize) < SHOWN_MAX { 0 } else { from };
        let shown = text.chars().skip(from).take(SHOWN_MAX);
        // A tab or a control character would move the caret, or the terminal.
        let shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
        let number = line.to_string();
        let indent = (column as usize).saturating_sub(1 + from);
        let carets = (len.max(1) as usize).min(shown.chars().count().saturating_sub(indent).max(1));
        let (shown, bar) = (shown.trim_end(), " ".repeat(number.len()));
        let _ = write!(
            out,
            "\n {number} | {shown}\n {bar} | {:indent$}{}",
            "",
            "^".repeat(carets)
        );
        out
    }
}

/// All that is wrong with a manifest: up to [`FAULTS_MAX`] faults, in the order of the text, and how many more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The faults that are listed; never empty.
    pub listed: Vec<Fault>,
    /// Faults that are not listed.
    pub more: usize,
}

impl Faults {
    /// All faults with their lines of `source`.
    pub fn render(&self, source: &str) -> String {
        self.lines(|fault| fault.render(source))
    }

    fn lines(&self, line: impl Fn(&Fault) -> String) -> String {
        let mut lines: Vec<String> = self.listed.iter().map(line).collect();
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        lines.join("\n")
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self {
            listed: vec![fault],
            more: 0,
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(Fault::to_string))
    }
}

impl std::error::Error for Faults {}

/// Collects the faults of one file.
#[derive(Debug)]
pub struct Collector {
    file: Arc<str>,
    listed: Vec<Fault>,
    more: usize,
}

impl Collector {
    /// None found yet.
    pub fn new(file: Arc<str>) -> Self {
        Self {
            file,
            listed: Vec::new(),
            more: 0,
        }
    }

    /// Adds a fault. `kind` is only called for one that is listed, as looking for what was meant takes time.
    pub fn push(&mut self, span: Span, kind: impl FnOnce() -> FaultKind) {
        if self.listed.len() < FAULTS_MAX {
            let (file, kind) = (self.file.clone(), kind());
            self.listed.push(Fault { file, span, kind });
        } else {
            self.more += 1;
        }
    }

    /// Faults so far, those that are not listed too.
    pub fn count(&self) -> usize {
        self.listed.len() + self.more
    }

    /// `value`, if nothing was wrong.
    ///
    /// # Errors
    /// What was wrong.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Faults> {
        match value {
            Some(value) if self.listed.is_empty() => Ok(value),
            _ => {
                self.listed.sort_by_key(|fault| fault.span);
                Err(Faults {
                    listed: self.listed,
                    more: self.more,
                })
            }
        }
    }
}

/// As much of a text as a fault repeats.
pub(crate) fn repeated(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(REPEATED_MAX)];
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{cut}{more}")
}

/// `a, b or c`.
pub(crate) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    match words.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn means_the_nearest_word_and_none_that_is_far() {
        assert_eq!(
            Near::of("limts", ["links", "limits", "config"]),
            Near::is("limits")
        );
        assert_eq!(Near::of("Links", ["links", "limits"]), Near::is("links"));
        assert_eq!(Near::of("colour", ["links", "limits"]), Near::default());
    }

    #[test]
    fn lists_a_hundred_and_counts_the_rest() {
        let mut found = Collector::new("app.yaml".into());
        for line in 1..=250 {
            found.push(
                Span {
                    line,
                    column: 1,
                    len: 1,
                },
                || FaultKind::SeveralDocuments,
            );
        }
        let faults = found.finish::<()>(None).unwrap_err();
        assert_eq!((faults.listed.len(), faults.more), (FAULTS_MAX, 150));
        assert!(faults.to_string().ends_with("\nand 150 more"));
    }

    #[test]
    fn shows_the_place_in_a_long_line() {
        let source = format!("{}bad{}", "x".repeat(1_000), "y".repeat(1_000));
        let span = Span {
            line: 1,
            column: 1_001,
            len: 3,
        };
        let fault = Fault {
            file: "a".into(),
            span,
            kind: FaultKind::KeyNotText,
        };
        let lines: Vec<String> = fault.render(&source).lines().map(str::to_owned).collect();
        assert_eq!(lines[1].find("bad"), lines[2].find("^^^"));
        assert!(lines[1].len() < 200);
    }

    proptest! {
        #[test]
        fn any_place_in_any_text_can_be_shown(source in any::<String>(), line in 0..4_u32, column in any::<u32>(), len in any::<u32>()) {
            let fault = Fault { file: "a".into(), span: Span { line, column, len }, kind: FaultKind::KeyNotText };
            fault.render(&source);
        }
    }
}
