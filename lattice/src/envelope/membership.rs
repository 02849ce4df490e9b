//! Heartbeats, and digests of them.

use std::convert::Infallible;

use bytes::Bytes;
use minicbor::encode::Error;
use minicbor::{Decoder, Encoder};

use super::map::{Reader, Writer};
use super::{EnvelopeError, TEXT_LEN_MAX, VERSION};
use crate::subject::Address;

/// The most hosts of a digest: what fits into a message of 1 MiB.
const HOSTS_MAX: u64 = 8_192;

/// The longest details of a host, in bytes.
pub(crate) const DETAILS_LEN_MAX: usize = 4_096;

/// What a host says of itself, each second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who it is.
    pub address: Address,
    /// Counts its heartbeats.
    pub number: u64,
    /// How often [`Heartbeat::details`] changed.
    pub edition: u64,
    /// What else is to be known of it, for those who understand it.
    pub details: Bytes,
    /// Whether it may digest for its region before others do.
    pub controller: bool,
    /// Its region; what it says in another one is only that it asks for a digest there.
    pub region: String,
    /// How it stands by itself: alive, leaving, or gone with this.
    pub standing: Standing,
    /// It missed something, and asks for a digest of everything.
    pub wants_all: bool,
}

/// How a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Its heartbeats come.
    Alive,
    /// None came for a while: choose others.
    Suspect,
    /// It said that it goes: it takes no more calls.
    Leaving,
    /// None came for longer, or it has left.
    Gone,
}

/// A host in a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who it is.
    pub address: Address,
    /// How it stands.
    pub standing: Standing,
    /// See [`Heartbeat::edition`].
    pub edition: u64,
    /// See [`Heartbeat::details`].
    pub details: Bytes,
    /// See [`Heartbeat::controller`].
    pub controller: bool,
}

/// What changed in a region since the digest before, or everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Who made it.
    pub by: Address,
    /// The region.
    pub region: String,
    /// Counts its digests: one that is missed may have told of a change.
    pub number: u64,
    /// Whether `hosts` is everything: who is not in it is not there.
    pub all: bool,
    /// The hosts that changed, or all.
    pub hosts: Vec<Record>,
}

impl Standing {
    fn to_wire(self) -> u64 {
        self as u64
    }

    fn from_wire(number: u64) -> Self {
        match number {
            0 => Self::Alive,
            2 => Self::Leaving,
            3 => Self::Gone,
            // Also one of a later version.
            _ => Self::Suspect,
        }
    }
}

impl Heartbeat {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let flags = [self.controller, self.standing != Standing::Alive, self.wants_all];
        let len = 6 + flags.into_iter().map(u64::from).sum::<u64>();
        let mut out = Writer::new(len, self.details.len());
        out.number("e", self.edition);
        out.number("n", self.number);
        out.number("v", VERSION);
        if self.wants_all {
            out.flag("all", true);
        }
        out.cut_text("from", self.address.as_str());
        if self.standing != Standing::Alive {
            out.number("stand", self.standing.to_wire());
        }
        out.cut_text("region", &self.region);
        if self.controller {
            out.flag("control", true);
        }
        out.bytes("details", &self.details);
        out.finish()
    }

    /// Reads what [`Heartbeat::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        Ok(Self {
            address: fields.needed("from", fields.address("from")?)?,
            number: fields.needed("n", fields.number("n")?)?,
            edition: fields.needed("e", fields.number("e")?)?,
            details: fields
                .short_bytes("details", DETAILS_LEN_MAX)?
                .unwrap_or_default(),
            controller: fields.flag("control")?.unwrap_or_default(),
            region: fields.needed("region", fields.text("region")?)?,
            standing: fields
                .number("stand")?
                .map_or(Standing::Alive, Standing::from_wire),
            wants_all: fields.flag("all")?.unwrap_or_default(),
        })
    }
}

impl Digest {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let details: usize = self.hosts.iter().map(|host| host.details.len()).sum();
        let mut out = Writer::new(5 + u64::from(self.all), details + 64 * self.hosts.len());
        out.number("n", self.number);
        out.number("v", VERSION);
        out.cut_text("by", self.by.as_str());
        if self.all {
            out.flag("all", true);
        }
        out.array("hosts", &self.hosts, write_record);
        out.cut_text("region", &self.region);
        out.finish()
    }

    /// Reads what [`Digest::encode`] of this or another version made.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let fields = Reader::new(bytes)?;
        Ok(Self {
            by: fields.needed("by", fields.address("by")?)?,
            region: fields.needed("region", fields.text("region")?)?,
            number: fields.needed("n", fields.number("n")?)?,
            all: fields.flag("all")?.unwrap_or_default(),
            hosts: fields.array("hosts", HOSTS_MAX, read_record)?,
        })
    }
}

fn write_record(cbor: &mut Encoder<Vec<u8>>, record: &Record) -> Result<(), Error<Infallible>> {
    cbor.array(5)?
        .str(record.address.as_str())?
        .u64(record.standing.to_wire())?
        .u64(record.edition)?
        .bytes(&record.details)?
        .bool(record.controller)?;
    Ok(())
}

/// An array whose first five elements are known; those of a later version follow.
fn read_record(cbor: &mut Decoder<'_>) -> Option<Record> {
    let len = cbor.array().ok().flatten().filter(|len| *len >= 5)?;
    let address = cbor.str().ok().filter(|text| text.len() <= TEXT_LEN_MAX)?;
    let record = Record {
        address: Address::parse(address).ok()?,
        standing: Standing::from_wire(cbor.u64().ok()?),
        edition: cbor.u64().ok()?,
        details: Bytes::copy_from_slice(cbor.bytes().ok().filter(|bytes| bytes.len() <= DETAILS_LEN_MAX)?),
        controller: cbor.bool().ok()?,
    };
    (5..len).try_for_each(|_| cbor.skip()).ok()?;
    Some(record)
}
