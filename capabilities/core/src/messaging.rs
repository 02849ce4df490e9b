//! Messaging: bytes on subjects, to all who listen or to one of a group.
//!
//! Owns the trait, its limits and its errors. [`subject`] owns what a subject is and whose it is; [`delivery`] how what
//! was published gets to who subscribed; [`memory`] is the backend within a process.

pub mod delivery;
pub mod memory;
pub mod subject;

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use delivery::{Delivery, Refused, Settle, Subscriber, Subscription, subscription};
pub use memory::MemoryMessaging;
pub use subject::{INBOX, Scope, SubjectFault, matches};

/// The longest body, in bytes: with headers and subjects it stays below a megabyte, the default of NATS.
pub const BODY_LEN_MAX: usize = 960 << 10;
/// Headers of one message, at most.
pub const HEADERS_LEN_MAX: usize = 64;
/// Bytes of all names and values of one message's headers, at most.
pub const HEADERS_BYTES_MAX: usize = 16 << 10;
/// The longest name of a group, in bytes.
pub const GROUP_LEN_MAX: usize = 255;
/// Messages that wait in one subscription unless it is told otherwise: a burst, and not a backlog.
pub const QUEUE_LEN_DEFAULT: usize = 256;

/// Something said on a subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it is said: tokens with dots between them, without wildcards, as in `orders.created`.
    pub subject: String,
    /// What is said, at most [`BODY_LEN_MAX`] bytes.
    pub body: Bytes,
    /// Where an answer is awaited, if one is.
    pub reply_to: Option<String>,
    /// Names and values, in order: a name may come twice. At most [`HEADERS_LEN_MAX`] of [`HEADERS_BYTES_MAX`] bytes.
    pub headers: Vec<(String, String)>,
}

impl Message {
    /// A message without headers that asks for no answer.
    pub fn new(subject: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            subject: subject.into(),
            body: body.into(),
            ..Self::default()
        }
    }

    /// The value of the first header called `name`, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(held, _)| held.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Whether body and headers are within their limits; a [`Scope`] checks the subjects.
    ///
    /// # Errors
    /// [`MessagingError::TooLarge`] or [`MessagingError::BadHeader`].
    pub fn check(&self) -> Result<(), MessagingError> {
        let bytes = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        at_most("body", self.body.len(), BODY_LEN_MAX)?;
        at_most("number of headers", self.headers.len(), HEADERS_LEN_MAX)?;
        at_most("size of all headers", bytes, HEADERS_BYTES_MAX)?;
        match self.headers.iter().find(|(name, value)| !is_header(name, value)) {
            Some((name, _)) => Err(MessagingError::BadHeader { name: name.clone() }),
            None => Ok(()),
        }
    }
}

/// As in HTTP, and so in NATS: a name is a token (RFC 9110), and a value has no line end.
fn is_header(name: &str, value: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(is_token) && !value.chars().any(char::is_control)
}

pub(crate) fn at_most(what: &'static str, len: usize, len_max: usize) -> Result<(), MessagingError> {
    if len > len_max {
        return Err(MessagingError::TooLarge { what, len, len_max });
    }
    Ok(())
}

/// What to listen to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// A subject, in which the token `*` stands for any one and a last `>` for one or more.
    pub pattern: String,
    /// Of all who subscribe as one group, one gets each message; who has no group gets all.
    ///
    /// A backend that keeps a place for a group does so for this group and this pattern in this scope.
    pub group: Option<String>,
    /// Messages that wait to be taken, at most (at least one).
    pub queue_len: usize,
}

impl Listen {
    /// To `pattern`, for oneself, with a queue of [`QUEUE_LEN_DEFAULT`].
    pub fn to(pattern: impl Into<String>) -> Self {
        Self {
            pattern: pattern.into(),
            group: None,
            queue_len: QUEUE_LEN_DEFAULT,
        }
    }

    /// As one of `group`.
    #[must_use]
    pub fn in_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// With room for `queue_len` messages.
    #[must_use]
    pub fn with_queue(mut self, queue_len: usize) -> Self {
        self.queue_len = queue_len;
        self
    }

    /// Whether the group can be one: letters, digits, `-` and `_`. A [`Scope`] checks the pattern.
    ///
    /// # Errors
    /// [`MessagingError::BadGroup`].
    pub fn check_group(&self) -> Result<(), MessagingError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        match &self.group {
            Some(group) if !(1..=GROUP_LEN_MAX).contains(&group.len()) || !group.bytes().all(fits) => {
                Err(MessagingError::BadGroup { group: group.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// What a backend promises of a message that was published while somebody listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// It is delivered once or not at all: not if a queue is full, or a connection is lost.
    AtMostOnce,
    /// It is delivered until a subscriber of each group has settled it, or the backend's bound is reached.
    AtLeastOnce,
}

/// A messaging backend.
///
/// Every operation may be called from any number of tasks at once. Messages of one publisher reach a subscriber in the
/// order of their publishing, unless they are delivered again. Names that begin with [`INBOX`] are for answers: who
/// handles a request publishes the answer on its `reply_to`.
pub trait Messaging: Send + Sync + 'static {
    /// What is promised of a message.
    fn guarantee(&self) -> Guarantee;

    /// Says `message` to all who listen. When this returns it has been handed over, or, with
    /// [`Guarantee::AtLeastOnce`], is kept. Nobody may listen.
    fn publish<'a>(&'a self, scope: &'a Scope, message: Message)
    -> BoxFuture<'a, Result<(), MessagingError>>;

    /// Says `message` and gives the first answer, after at most `timeout`. Its `reply_to` is not read: the backend makes
    /// one, that lies in the scope as its subject does.
    ///
    /// [`MessagingError::NoResponders`] at once if nobody listens, where the backend can tell.
    fn request<'a>(
        &'a self,
        scope: &'a Scope,
        message: Message,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Message, MessagingError>>;

    /// Listens. When this returns, messages come, and go on coming after the backend was away for a while.
    fn subscribe<'a>(
        &'a self,
        scope: &'a Scope,
        listen: Listen,
    ) -> BoxFuture<'a, Result<Subscription, MessagingError>>;

    /// Asks whether the backend would take a message now, without one. It says why not as any operation would, but never
    /// [`MessagingError::NoResponders`]: whether somebody listens is no matter.
    fn check(&self) -> BoxFuture<'_, Result<(), MessagingError>>;

    /// Refuses what comes after, ends requests that wait and all subscriptions. May be called twice.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Why an operation on messages failed.
#[derive(Debug, thiserror::Error)]
pub enum MessagingError {
    /// A subject or pattern that can't be one.
    #[error("`{subject}` {fault}")]
    BadSubject {
        /// What was given.
        subject: String,
        /// What is wrong with it.
        fault: SubjectFault,
    },
    /// A group that can't be one.
    #[error("`{group}` can't be a group: expected 1 to {GROUP_LEN_MAX} letters, digits, `-` or `_`")]
    BadGroup {
        /// What was given.
        group: String,
    },
    /// A header that can't be one.
    #[error("the header `{name}` can't be one: a name is a token, and a value has no control characters")]
    BadHeader {
        /// Its name.
        name: String,
    },
    /// The caller may not do this.
    #[error("access to `{subject}` is denied")]
    Denied {
        /// Where.
        subject: String,
    },
    /// Something is over its limit.
    #[error("the {what} is too large: {len}, at most {len_max}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// How large it is.
        len: usize,
        /// How large it may be.
        len_max: usize,
    },
    /// Nobody listens, so that there will be no answer.
    #[error("nobody listens on `{subject}`")]
    NoResponders {
        /// Where.
        subject: String,
    },
    /// No answer in time. Whoever listens may have acted.
    #[error("no answer on `{subject}` in time")]
    Timeout {
        /// Where.
        subject: String,
    },
    /// Too much waits already; try again later.
    #[error("messaging is overloaded: its queue stayed full; try again later")]
    Overloaded,
    /// The backend was closed.
    #[error("messaging is closed")]
    Closed,
    /// The backend can't be reached or gave up. The message may have been handed over.
    #[error("messaging is unavailable: {0}")]
    Unavailable(String),
    /// The backend failed. The message may have been handed over.
    #[error("messaging failed")]
    Backend(#[source] Box<dyn Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_in_any_case_and_has_no_line_end() {
        let mut message = Message::new("a", "b");
        message.headers = vec![("Traceparent".to_owned(), "00-1".to_owned())];
        assert_eq!(message.header("traceparent"), Some("00-1"));
        message.check().unwrap();
        for (name, value) in [
            ("", "v"),
            ("a b", "v"),
            ("a:", "v"),
            ("a", "v\r\nb: c"),
            ("ä", "v"),
        ] {
            message.headers = vec![(name.to_owned(), value.to_owned())];
            assert!(
                matches!(message.check(), Err(MessagingError::BadHeader { .. })),
                "{name:?}: {value:?}"
            );
        }
    }

    #[test]
    fn what_is_over_a_limit_is_refused() {
        let header = |len| ("h".to_owned(), "v".repeat(len));
        for message in [
            Message::new("a", vec![0; BODY_LEN_MAX + 1]),
            Message {
                headers: vec![header(1); HEADERS_LEN_MAX + 1],
                ..Message::new("a", "")
            },
            Message {
                headers: vec![header(HEADERS_BYTES_MAX)],
                ..Message::new("a", "")
            },
        ] {
            assert!(matches!(message.check(), Err(MessagingError::TooLarge { .. })));
        }
        for group in ["", "a.b", "a b", "*", ">"] {
            assert!(
                Listen::to("a").in_group(group).check_group().is_err(),
                "{group:?}"
            );
        }
    }
}
