//! What the users of a stream hold.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::end::End;
use super::{StreamError, Streams};
use crate::envelope::StreamId;
use crate::subject::{Address, Subject};

/// Both halves of one end of a stream. Dropped, it is reset, unless both directions have come to their end.
#[derive(Debug)]
pub struct Duplex {
    /// What comes.
    pub reader: Reader,
    /// What goes.
    pub writer: Writer,
}

/// A stream that came with a call, which the callee may take. One that it leaves costs nothing.
pub struct Offer {
    streams: Streams,
    id: StreamId,
    from: Address,
}

impl Offer {
    pub(crate) fn new(streams: Streams, id: StreamId, from: Address) -> Self {
        Self { streams, id, from }
    }

    /// Takes it: the caller may send from now on.
    ///
    /// # Errors
    /// There is no room.
    pub fn accept(self) -> Result<Duplex, StreamError> {
        self.streams.accept(self.id, &self.from)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Offer")
    }
}

/// The half that reads. Dropped before the end, it resets the stream.
pub struct Reader(Arc<End>);

/// The half that writes. Dropped before [`Writer::finish`], it resets the stream.
pub struct Writer(Arc<End>);

/// Binds a prepared stream to the host that the call goes to.
pub struct Binder(Arc<End>);

impl Duplex {
    pub(super) fn new(end: Arc<End>) -> Self {
        Self {
            reader: Reader(end.clone()),
            writer: Writer(end),
        }
    }

    /// Lets go of one that the callee did not take, which then is told nothing.
    pub fn discard(self) {
        self.reader.0.discard();
    }
}

impl Reader {
    /// The next bytes; `None` at the end. Dropping the future loses none.
    ///
    /// # Errors
    /// The stream was reset.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if let Some(taken) = self.0.take() {
                return taken;
            }
            self.0.readable.notified().await;
        }
    }
}

impl Writer {
    /// Writes `data`, as the other end reads. Dropping the future may leave a part written, and the stream is reset then.
    ///
    /// # Errors
    /// The stream was reset, or there is no connection, which resets it.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(self.0.shared.data_len_max));
            let (subject, frame) = loop {
                if let Some(put) = self.0.put(&part) {
                    break put?;
                }
                self.0.writable.notified().await;
            };
            self.send(&subject, frame).await?;
        }
        Ok(())
    }

    /// Ends this direction. The other goes on.
    ///
    /// # Errors
    /// As for [`Writer::write`].
    pub async fn finish(self) -> Result<(), StreamError> {
        let (subject, frame) = loop {
            if let Some(finish) = self.0.finish() {
                break finish?;
            }
            self.0.writable.notified().await;
        };
        self.send(&subject, frame).await
    }

    /// Ends the stream in both directions, and tells the other end why.
    pub fn reset(self, why: &str) {
        self.0.reset_here(why);
    }

    async fn send(&self, subject: &Subject, frame: Bytes) -> Result<(), StreamError> {
        let sent = self.0.shared.transport.publish(subject, frame).await;
        sent.map_err(|error| {
            self.0.reset_here("it could not be sent");
            StreamError::Reset(error.to_string().into())
        })
    }
}

impl Binder {
    pub(super) fn new(end: Arc<End>) -> Self {
        Self(end)
    }

    /// Binds the stream to `peer`, under a new name, in place of whom it was bound to before.
    pub fn bind(&self, peer: &Address) -> StreamId {
        let id = StreamId::random();
        let new = self.0.route_to(id, peer);
        debug_assert!(new, "a random name is new");
        id
    }

    /// Whether nothing has come or gone, so that it can be bound to another host.
    pub fn is_untouched(&self) -> bool {
        self.0.is_untouched()
    }

    /// Resets it, as its call failed.
    pub fn fail(&self, why: &str) {
        self.0.reset_here(why);
    }
}

impl Drop for Binder {
    fn drop(&mut self) {
        self.0.call_ended();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.let_go_of_reading();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.let_go_of_writing();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}
