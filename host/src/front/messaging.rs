//! `wasmcloud:messaging@0.2.0`, over whatever provider the actor is linked to.
//!
//! Owns the shape that components of wasmCloud 1.x were built against: a subject, bytes, and where an answer is awaited. It
//! has no headers, so that the trace goes with a message without the guest. What comes in is [`crate::ingress::messages`]'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};
use weft_capabilities::messaging::{Message, MessagingError};
use weft_compose::Capability;
use weft_observability::context_of;
use weft_observability::metrics::Operation;

use super::operation::observed;
use crate::call::remote::wire_trace;
use crate::invocation::Call;
use crate::link::{Import, MessagingLink};
use crate::store::InstanceState;

/// What an actor imports to say something.
pub const CONSUMER: &str = "wasmcloud:messaging/consumer";
/// The types of both sides.
pub const TYPES: &str = "wasmcloud:messaging/types";
/// The versions that are served.
pub const VERSIONS: &[&str] = &["0.2.0"];

/// The header of the W3C's trace context.
pub const TRACEPARENT: &str = "traceparent";
/// The header of what vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// A message as guests see it.
#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(record)]
pub struct BrokerMessage {
    /// Where it is said.
    pub subject: String,
    /// What is said.
    pub body: Vec<u8>,
    /// Where an answer is awaited.
    #[component(name = "reply-to")]
    pub reply_to: Option<String>,
}

impl From<Message> for BrokerMessage {
    fn from(message: Message) -> Self {
        Self {
            subject: message.subject,
            body: message.body.into(),
            reply_to: message.reply_to,
        }
    }
}

type Answer<'a, T> = Box<dyn Future<Output = wasmtime::Result<(Result<T, String>,)>> + Send + 'a>;

pub(super) fn add_to_linker(linker: &mut Linker<InstanceState>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        let mut consumer = linker.instance(&format!("{CONSUMER}@{version}"))?;
        consumer.func_wrap_async("publish", publish)?;
        consumer.func_wrap_async("request", request)?;
    }
    Ok(())
}

fn publish<'a>(context: StoreContextMut<'a, InstanceState>, (message,): (BrokerMessage,)) -> Answer<'a, ()> {
    let call = context.data().call().clone();
    Box::new(async move {
        let said = observed(&call, Operation::MessagingPublish, async {
            let link = linked(&call)?;
            if let Some(quota) = &link.quota {
                quota.try_message()?;
            }
            let message = Message {
                reply_to: message.reply_to,
                headers: trace_headers(&call),
                ..Message::new(message.subject, message.body)
            };
            link.broker.publish(&link.scope, message).await.map_err(told)
        });
        Ok((said.await,))
    })
}

fn request<'a>(
    context: StoreContextMut<'a, InstanceState>,
    (subject, body, timeout_ms): (String, Vec<u8>, u32),
) -> Answer<'a, BrokerMessage> {
    let call = context.data().call().clone();
    Box::new(async move {
        let asked = observed(&call, Operation::MessagingRequest, async {
            let link = linked(&call)?;
            if let Some(quota) = &link.quota {
                quota.try_message()?;
            }
            let message = Message {
                headers: trace_headers(&call),
                ..Message::new(subject, body)
            };
            // An answer after the invocation's end is nobody's.
            let left = call.deadline.saturating_duration_since(Instant::now());
            let timeout = Duration::from_millis(timeout_ms.into()).min(left);
            let answer = link.broker.request(&link.scope, message, timeout).await;
            answer.map(BrokerMessage::from).map_err(told)
        });
        Ok((asked.await,))
    })
}

fn linked(call: &Arc<Call>) -> Result<&MessagingLink, String> {
    let links = call.links(Import::MESSAGING);
    links
        .messaging
        .as_ref()
        .ok_or_else(|| match links.denies(Capability::Messaging) {
            true => format!(
                "denied: {CONSUMER} is linked to a provider of another app, which does not let this one"
            ),
            false => format!("nothing is linked to {CONSUMER}"),
        })
}

/// What a backend says of itself is the operator's; the guest learns that it failed.
fn told(error: MessagingError) -> String {
    error.to_string()
}

/// The trace that a message belongs to, that of the operation's own span if it is recorded.
fn trace_headers(call: &Call) -> Vec<(String, String)> {
    let trace = context_of(&tracing::Span::current()).or_else(|| call.trace.clone());
    let Some(trace) = trace.as_ref().map(wire_trace) else {
        return Vec::new();
    };
    let mut headers = vec![(TRACEPARENT.to_owned(), trace.parent)];
    if !trace.state.is_empty() {
        headers.push((TRACESTATE.to_owned(), trace.state));
    }
    headers
}
