//! Records of the control store on their way to the hosts that follow it.

use std::sync::Arc;

use bytes::Bytes;
use minicbor::Decoder;
use minicbor::data::Type;

use super::map::{Reader, Writer};
use super::{EnvelopeError, VERSION};
use crate::control::{Change, Entry, Event, Index, OPS_MAX, RANGE_LEN_MAX};

/// The most events of one reply.
pub(crate) const EVENTS_MAX: usize = 1_000;

/// What a follower asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsRequest {
    /// The moment that it has: it asks for what comes after.
    pub after: Index,
    /// It asks for everything instead, from the first key after this one on; the empty key for all.
    pub page: Option<String>,
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsReply {
    /// Names the store: another one has nothing to do with what the follower has.
    pub store: String,
    /// What it asked for.
    pub records: Records,
}

/// Changes, or entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// What changed, in order; none if nothing did for as long as the follower was kept waiting.
    Events(Vec<Arc<Event>>),
    /// The store does not have the changes any more: all has to be read.
    Forgotten,
    /// A part of all entries.
    Page {
        /// The moment at which they were read.
        at: Index,
        /// In the order of their keys.
        entries: Vec<Entry>,
        /// Whether there are more.
        more: bool,
    },
}

impl RecordsRequest {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new(2 + u64::from(self.page.is_some()), 0);
        out.number("v", VERSION);
        out.number("after", self.after.0);
        self.page
            .as_ref()
            .inspect(|page| out.bytes("page", page.as_bytes()));
        out.finish()
    }

    /// Reads what [`RecordsRequest::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let page = fields.bytes("page")?;
        Ok(Self {
            after: Index(fields.needed("after", fields.number("after")?)?),
            page: page.map(|page| String::from_utf8_lossy(&page).into_owned()),
        })
    }
}

impl RecordsReply {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let mut out = match &self.records {
            Records::Events(events) => {
                let mut out = Writer::new(3, 0);
                out.array("events", events, |cbor, event| {
                    cbor.array(3)?.u64(event.index.0)?.str(&event.by)?;
                    cbor.array(event.changes.len() as u64)?;
                    for Change { key, value } in &event.changes {
                        cbor.array(2)?.str(key)?;
                        match value {
                            Some(value) => cbor.bytes(value)?,
                            None => cbor.null()?,
                        };
                    }
                    Ok(())
                });
                out
            }
            Records::Forgotten => Writer::new(2, 0),
            Records::Page { at, entries, more } => {
                let mut out = Writer::new(5, 0);
                out.number("at", at.0);
                out.array("page", entries, |cbor, entry| {
                    cbor.array(3)?.str(&entry.key)?.bytes(&entry.value)?;
                    cbor.u64(entry.modified.0).map(drop)
                });
                out.flag("more", *more);
                out
            }
        };
        out.number("v", VERSION);
        out.cut_text("store", &self.store);
        out.finish()
    }

    /// Reads what [`RecordsReply::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        let store = fields.needed("store", fields.text("store")?)?;
        let records = match fields.number("at")? {
            Some(at) => Records::Page {
                at: Index(at),
                entries: fields.array("page", RANGE_LEN_MAX as u64, entry)?,
                more: fields.needed("more", fields.flag("more")?)?,
            },
            None if fields.has("events") => {
                Records::Events(fields.array("events", EVENTS_MAX as u64, event)?)
            }
            None => Records::Forgotten,
        };
        Ok(Self { store, records })
    }
}

fn array_of(cbor: &mut Decoder<'_>, len: u64) -> Option<()> {
    (cbor.array().ok()?? == len).then_some(())
}

fn entry(cbor: &mut Decoder<'_>) -> Option<Entry> {
    array_of(cbor, 3)?;
    Some(Entry {
        key: cbor.str().ok()?.to_owned(),
        value: Bytes::copy_from_slice(cbor.bytes().ok()?),
        modified: Index(cbor.u64().ok()?),
    })
}

fn event(cbor: &mut Decoder<'_>) -> Option<Arc<Event>> {
    array_of(cbor, 3)?;
    let index = Index(cbor.u64().ok()?);
    let by = cbor.str().ok()?.to_owned();
    let len = cbor.array().ok()??;
    if len > OPS_MAX as u64 {
        return None;
    }
    let changes = (0..len).map(|_| change(cbor)).collect::<Option<_>>()?;
    Some(Arc::new(Event { index, by, changes }))
}

fn change(cbor: &mut Decoder<'_>) -> Option<Change> {
    array_of(cbor, 2)?;
    let key = cbor.str().ok()?.to_owned();
    let value = match cbor.datatype().ok()? {
        Type::Null => {
            cbor.null().ok()?;
            None
        }
        _ => Some(Bytes::copy_from_slice(cbor.bytes().ok()?)),
    };
    Some(Change { key, value })
}
