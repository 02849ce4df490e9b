//! A message as NATS has it, and back.

use std::str::FromStr as _;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use weft_capabilities::{Message, MessagingError, Scope};

use crate::error::{Reason, Unanswered};
use crate::jetstream::Failure;

/// What the names of headers begin with that mean something to NATS, or here: a guest may not delete a stream's messages,
/// nor have another app's taken for repeats.
const RESERVED: [&str; 2] = ["nats-", "weft-"];

pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| {
        let start = name.get(..reserved.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(reserved))
    })
}

/// The headers of a message that was checked. Reserved ones are left out.
pub(super) fn headers(message: &Message) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        if is_reserved(name) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    (!headers.is_empty()).then_some(headers)
}

/// Where the answer is awaited, for NATS.
pub(super) fn reply(scope: &Scope, message: &Message) -> Result<Option<String>, MessagingError> {
    let reply_to = message.reply_to.as_ref();
    reply_to.map(|reply_to| scope.subject(reply_to)).transpose()
}

/// A message that came. `None` if it is of no subject of this scope.
pub(super) fn read(scope: &Scope, message: async_nats::Message) -> Option<Message> {
    let reply_to = message.reply.as_deref().and_then(|reply| scope.strip(reply));
    Some(Message {
        subject: scope.strip(&message.subject)?.into_owned(),
        body: message.payload,
        reply_to: reply_to.map(std::borrow::Cow::into_owned),
        headers: message.headers.as_ref().map(listed).unwrap_or_default(),
    })
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let all = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    all.filter(|(name, _)| !is_reserved(name.as_ref()))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// What a failure at `subject`, as the caller has it, is for the caller.
pub(super) fn error(failure: Failure, subject: &str) -> MessagingError {
    let subject = || subject.to_owned();
    match failure {
        Failure::Unanswered(unanswered) => match unanswered {
            Unanswered::Closed => MessagingError::Closed,
            Unanswered::Denied | Unanswered::Not(Reason::Denied) => {
                MessagingError::Denied { subject: subject() }
            }
            Unanswered::NoResponders => MessagingError::NoResponders { subject: subject() },
            Unanswered::TooLarge { len, len_max } => MessagingError::TooLarge {
                what: "message for this server",
                len,
                len_max,
            },
            other => MessagingError::Unavailable(other.text()),
        },
        Failure::Full { .. } => MessagingError::Overloaded,
        Failure::Refused(refusal) if refusal.code >= 500 => MessagingError::Unavailable(refusal.to_string()),
        other => MessagingError::Backend(Box::new(other)),
    }
}
