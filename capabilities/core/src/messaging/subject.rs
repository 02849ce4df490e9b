//! Subjects: what one is, what a pattern stands for, and whose they are.
//!
//! Owns the grammar, which is that of NATS made a little narrower, and [`Scope`], by which two apps on one backend don't
//! meet. A guest names subjects within its scope, and never sees more of them.

use std::fmt;
use std::sync::Arc;

use super::MessagingError;

/// The longest subject that a caller may name, in bytes.
pub const SUBJECT_LEN_MAX: usize = 255;
/// Tokens of a subject, at most.
pub const TOKENS_MAX: usize = 32;
/// The first token of subjects on which answers are awaited. Nobody but the backend listens there.
pub const INBOX: &str = "_INBOX";

/// What the full subjects of all scoped messages begin with.
const SCOPED: &str = "weft-app";
/// What the full subjects of answers within scopes begin with: another than [`SCOPED`], so that no pattern of an app
/// stands for them.
const SCOPED_INBOX: &str = "weft-reply";
/// What no shared subject begins with: the two above are the scoped ones'.
const RESERVED: &str = "weft";

/// What is wrong with a subject or pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubjectFault {
    /// Nothing, or two dots with nothing between them.
    #[error("is no subject: it has an empty token")]
    EmptyToken,
    /// Over [`SUBJECT_LEN_MAX`] bytes or [`TOKENS_MAX`] tokens.
    #[error("is too long for a subject: at most {SUBJECT_LEN_MAX} bytes in {TOKENS_MAX} tokens")]
    TooLong,
    /// White space, a control character, or one that is not ASCII.
    #[error("is no subject: it has a character other than printable ASCII")]
    BadCharacter,
    /// `*` or `>` where there must be none: in what is published, within a token, or `>` before the end.
    #[error("has a wildcard where none can be: `*` is a token of a pattern, and `>` its last one")]
    BadWildcard,
}

/// Whether `subject` can be published on.
///
/// # Errors
/// What is wrong with it.
pub fn check_subject(subject: &str) -> Result<(), SubjectFault> {
    check_tokens(subject)?;
    match subject.contains(['*', '>']) {
        true => Err(SubjectFault::BadWildcard),
        false => Ok(()),
    }
}

/// Whether `pattern` can be listened to.
///
/// # Errors
/// What is wrong with it.
pub fn check_pattern(pattern: &str) -> Result<(), SubjectFault> {
    check_tokens(pattern)?;
    let mut tokens = pattern.split('.').peekable();
    while let Some(token) = tokens.next() {
        let is_fine = match token {
            "*" => true,
            ">" => tokens.peek().is_none(),
            token => !token.contains(['*', '>']),
        };
        if !is_fine {
            return Err(SubjectFault::BadWildcard);
        }
    }
    Ok(())
}

fn check_tokens(subject: &str) -> Result<(), SubjectFault> {
    if subject.len() > SUBJECT_LEN_MAX || subject.split('.').count() > TOKENS_MAX {
        return Err(SubjectFault::TooLong);
    }
    if subject.split('.').any(str::is_empty) {
        return Err(SubjectFault::EmptyToken);
    }
    match subject.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(SubjectFault::BadCharacter),
    }
}

/// Whether `pattern` stands for `subject`: `*` for any one token, a last `>` for one or more.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(wanted), Some(token)) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
}

/// Whose subjects are meant. Cheap to clone.
///
/// A scoped one belongs to one app, so that two apps on one backend don't meet; in the shared one are all whose links say
/// so, and whoever else uses the backend. An app whose name can't be a token has a scope in which all is
/// [`MessagingError::Denied`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope(Option<Arc<str>>);

impl Scope {
    /// The subjects of one app.
    pub fn scoped(namespace: &str, app: &str) -> Self {
        Self(Some(format!("{namespace}.{app}").into()))
    }

    /// The subjects as they are.
    pub fn shared() -> Self {
        Self(None)
    }

    /// The subject as the backend knows it, the name checked: the one place where it is.
    ///
    /// # Errors
    /// [`MessagingError::BadSubject`] or [`MessagingError::Denied`].
    pub fn subject(&self, subject: &str) -> Result<String, MessagingError> {
        check_subject(subject).map_err(|fault| bad(subject, fault))?;
        self.full(subject)
    }

    /// The pattern as the backend knows it, the name checked.
    ///
    /// # Errors
    /// [`MessagingError::BadSubject`], or [`MessagingError::Denied`] for one that stands for answers, or would reach
    /// from the shared scope into others.
    pub fn pattern(&self, pattern: &str) -> Result<String, MessagingError> {
        check_pattern(pattern).map_err(|fault| bad(pattern, fault))?;
        let first = first_token(pattern);
        if first == INBOX || self.0.is_none() && matches!(first, "*" | ">") {
            return Err(denied(pattern));
        }
        self.full(pattern)
    }

    /// What a guest calls the subject that the backend calls `full`, if that is of this scope.
    pub fn strip<'s>(&self, full: &'s str) -> Option<std::borrow::Cow<'s, str>> {
        let Some(app) = &self.0 else {
            return Some(full.into());
        };
        let within = |root: &str| {
            let rest = full.strip_prefix(root)?.strip_prefix('.')?;
            rest.strip_prefix(&**app)?.strip_prefix('.')
        };
        match within(SCOPED) {
            Some(subject) => Some(subject.into()),
            None => within(SCOPED_INBOX).map(|rest| format!("{INBOX}.{rest}").into()),
        }
    }

    /// What the names of answers in this scope begin with for the backend, without a last dot.
    ///
    /// # Errors
    /// [`MessagingError::Denied`].
    pub fn inbox(&self) -> Result<String, MessagingError> {
        match &self.0 {
            None => Ok(INBOX.to_owned()),
            Some(app) => app_tokens(app, INBOX).map(|app| format!("{SCOPED_INBOX}.{app}")),
        }
    }

    /// What the names of answers in all scopes of apps match, without a last dot: for a backend that hears all its
    /// answers by one subscription.
    pub fn inbox_of_all() -> String {
        format!("{SCOPED_INBOX}.*.*")
    }

    fn full(&self, subject: &str) -> Result<String, MessagingError> {
        let Some(app) = &self.0 else {
            let first = first_token(subject);
            // Those that begin with `$` are the server's own: whole streams are deleted there.
            return match first.starts_with(RESERVED) || first.starts_with('$') {
                true => Err(denied(subject)),
                false => Ok(subject.to_owned()),
            };
        };
        let app = app_tokens(app, subject)?;
        match subject
            .strip_prefix(INBOX)
            .and_then(|rest| rest.strip_prefix('.'))
        {
            Some(rest) => Ok(format!("{SCOPED_INBOX}.{app}.{rest}")),
            None => Ok(format!("{SCOPED}.{app}.{subject}")),
        }
    }
}

fn first_token(subject: &str) -> &str {
    subject.split('.').next().unwrap_or_default()
}

fn app_tokens<'a>(app: &'a str, subject: &str) -> Result<&'a str, MessagingError> {
    match check_subject(app).is_ok() && app.split('.').count() == 2 {
        true => Ok(app),
        false => Err(denied(subject)),
    }
}

fn bad(subject: &str, fault: SubjectFault) -> MessagingError {
    // What a guest names is repeated to people, and so within bounds.
    let subject = subject.chars().take(SUBJECT_LEN_MAX).collect();
    MessagingError::BadSubject { subject, fault }
}

fn denied(subject: &str) -> MessagingError {
    let subject = subject.to_owned();
    MessagingError::Denied { subject }
}

impl fmt::Display for Scope {
    /// `namespace.app`, or `shared`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("shared"))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subjects_and_patterns_are_those_of_nats() {
        for subject in ["a", "orders.created", "a-b_c.1", "wasmcloud.echo", "_INBOX.x"] {
            assert_eq!(check_subject(subject), Ok(()), "{subject}");
        }
        for pattern in ["*", ">", "a.*", "a.>", "*.b.*", "a.*.>"] {
            assert_eq!(check_pattern(pattern), Ok(()), "{pattern}");
            assert_eq!(
                check_subject(pattern),
                Err(SubjectFault::BadWildcard),
                "{pattern}"
            );
        }
        let long = "a".repeat(SUBJECT_LEN_MAX + 1);
        let many = vec!["a"; TOKENS_MAX + 1].join(".");
        for (bad, fault) in [
            ("", SubjectFault::EmptyToken),
            (".", SubjectFault::EmptyToken),
            ("a..b", SubjectFault::EmptyToken),
            ("a.", SubjectFault::EmptyToken),
            ("a b", SubjectFault::BadCharacter),
            ("a\r\n", SubjectFault::BadCharacter),
            ("ä", SubjectFault::BadCharacter),
            ("a*", SubjectFault::BadWildcard),
            ("a.>.b", SubjectFault::BadWildcard),
            (&long, SubjectFault::TooLong),
            (&many, SubjectFault::TooLong),
        ] {
            assert_eq!(check_pattern(bad), Err(fault), "{bad:?}");
            assert_eq!(check_subject(bad), Err(fault), "{bad:?}");
        }
    }

    #[test]
    fn the_shared_scope_reaches_neither_the_scoped_ones_nor_the_server() {
        let shared = Scope::shared();
        assert_eq!(shared.subject("orders.created").unwrap(), "orders.created");
        assert_eq!(shared.pattern("orders.>").unwrap(), "orders.>");
        for subject in [
            "weft-app.default.shop.a",
            "weft-reply.a",
            "weft.prod.h",
            "$JS.API.x",
        ] {
            assert!(
                matches!(shared.subject(subject), Err(MessagingError::Denied { .. })),
                "{subject}"
            );
            assert!(
                matches!(shared.pattern(subject), Err(MessagingError::Denied { .. })),
                "{subject}"
            );
        }
        for pattern in [">", "*", "*.default.shop.a", "_INBOX.*"] {
            assert!(
                matches!(shared.pattern(pattern), Err(MessagingError::Denied { .. })),
                "{pattern}"
            );
        }
    }

    #[test]
    fn an_answer_lies_in_the_scope_and_nobody_listens_there() {
        let scope = Scope::scoped("default", "shop");
        let full = scope.subject("_INBOX.a.b").unwrap();
        assert_eq!(full, "weft-reply.default.shop.a.b");
        assert_eq!(full, format!("{}.a.b", scope.inbox().unwrap()));
        assert_eq!(scope.strip(&full).unwrap(), "_INBOX.a.b");
        assert!(matches!(
            scope.pattern("_INBOX.>"),
            Err(MessagingError::Denied { .. })
        ));
        assert!(!matches(&scope.pattern(">").unwrap(), &full));
        assert!(matches(&format!("{}.a.*", Scope::inbox_of_all()), &full));
    }

    #[test]
    fn an_app_that_can_not_be_named_has_no_subjects() {
        for (namespace, app) in [
            ("", "a"),
            ("a", ""),
            ("a.b", "c"),
            ("*", "a"),
            ("a", ">"),
            ("a b", "c"),
        ] {
            let scope = Scope::scoped(namespace, app);
            assert!(matches!(scope.subject("s"), Err(MessagingError::Denied { .. })));
            assert!(matches!(scope.pattern("s"), Err(MessagingError::Denied { .. })));
            assert!(scope.inbox().is_err());
        }
    }

    fn subject() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[ab]{1,2}", 1..5)
    }

    fn pattern() -> impl Strategy<Value = String> {
        (prop::collection::vec("[ab]|\\*", 1..4), any::<bool>()).prop_map(|(mut tokens, more)| {
            if more {
                tokens.push(">".to_owned());
            }
            tokens.join(".")
        })
    }

    /// The meaning of a pattern, written as plainly as it can be.
    fn stands_for(pattern: &[&str], subject: &[&str]) -> bool {
        match (pattern, subject) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            ([wanted, pattern @ ..], [token, subject @ ..]) => {
                (*wanted == "*" || wanted == token) && stands_for(pattern, subject)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_stands_for_what_its_wildcards_say(pattern in pattern(), subject in subject()) {
            let subject = subject.join(".");
            let (wanted, tokens): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), subject.split('.').collect());
            prop_assert_eq!(matches(&pattern, &subject), stands_for(&wanted, &tokens));
        }

        #[test]
        fn a_subject_is_found_by_itself_and_by_any_token_made_wide(tokens in subject(), at in any::<prop::sample::Index>()) {
            let (subject, at) = (tokens.join("."), at.index(tokens.len()));
            prop_assert!(matches(&subject, &subject));
            let mut one = tokens.clone();
            one[at] = "*".to_owned();
            prop_assert!(matches(&one.join("."), &subject));
            let rest = [&tokens[..at], &[">".to_owned()]].concat();
            prop_assert!(matches(&rest.join("."), &subject));
            let below = format!("{subject}.>");
            prop_assert!(!matches(&below, &subject));
        }

        #[test]
        fn a_scope_changes_no_match_and_no_two_scopes_meet(
            pattern in pattern(),
            subject in subject(),
            apps in ("[ab]{1,2}", "[ab]{1,2}", "[ab]{1,2}", "[ab]{1,2}"),
        ) {
            let subject = subject.join(".");
            let (one, other) = (Scope::scoped(&apps.0, &apps.1), Scope::scoped(&apps.2, &apps.3));
            let full = one.subject(&subject).unwrap();
            let stripped = one.strip(&full).unwrap();
            prop_assert_eq!(&*stripped, &subject);
            prop_assert_eq!(matches(&one.pattern(&pattern).unwrap(), &full), matches(&pattern, &subject));
            if one != other {
                prop_assert!(!matches(&other.pattern(&pattern).unwrap(), &full));
                prop_assert_eq!(other.strip(&full), None);
            }
            if let Ok(shared) = Scope::shared().pattern(&pattern) {
                prop_assert!(!matches(&shared, &full));
            }
        }
    }
}
