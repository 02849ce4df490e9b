//! Messages of apps over NATS: said with a subject for the answer, heard by all or by one of a group.
//!
//! Beside [`Transport`](crate::transport::Transport), which hosts need among themselves: here subjects have wildcards
//! and groups have names, and who asks hears that nobody listens.

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures::StreamExt;

use super::NatsTransport;
use crate::subject::Subject;
use crate::transport::TransportError;

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Where it was said.
    pub subject: String,
    /// Where an answer is awaited.
    pub reply: Option<String>,
    /// What was said.
    pub payload: Bytes,
    /// Instead of an answer: nobody listens where it was asked.
    pub no_responders: bool,
}

/// Messages of a subject, until this is dropped.
pub struct Listening(async_nats::Subscriber);

impl NatsTransport {
    /// Says `payload` to all who listen to `subject`; answers, and that nobody listens, come on `reply`. Nothing is
    /// queued while there is no connection.
    ///
    /// # Errors
    /// [`TransportError`]; it was not sent.
    pub async fn say(
        &self,
        subject: &Subject,
        reply: Option<&Subject>,
        payload: Bytes,
    ) -> Result<(), TransportError> {
        self.check(subject, &payload)?;
        let reply = reply.map(|reply| reply.as_str().to_owned());
        self.send(subject, reply, payload).await
    }

    /// Listens to `subject`, which may have wildcards; of those who do so as one `group`, one hears each message. When it
    /// returns, messages come, and they come again after the connection was lost for a while.
    ///
    /// # Errors
    /// [`TransportError`]
    pub async fn listen(&self, subject: &Subject, group: Option<&str>) -> Result<Listening, TransportError> {
        self.check(subject, &Bytes::new())?;
        let (client, to) = (&self.0.sender.client, subject.as_str().to_owned());
        let listening = match group {
            Some(group) => client.queue_subscribe(to, group.to_owned()).await,
            None => client.subscribe(to).await,
        };
        let listening = listening.map_err(|_| TransportError::Disconnected)?;
        self.barrier().await?;
        Ok(Listening(listening))
    }
}

impl Listening {
    /// The next message; `None` when no more come. Dropping the future loses none.
    pub async fn next(&mut self) -> Option<Heard> {
        let Message {
            subject,
            reply,
            payload,
            status,
            ..
        } = self.0.next().await?;
        Some(Heard {
            subject: subject.to_string(),
            reply: reply.map(|reply| reply.to_string()),
            payload,
            no_responders: status == Some(StatusCode::NO_RESPONDERS),
        })
    }

    /// Listens no more: what has come is still to be had, and then nothing.
    pub async fn end(&mut self) {
        // Fails if the connection is closed for good, and then nothing comes either.
        let _ = self.0.drain().await;
    }
}
