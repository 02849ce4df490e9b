//! Maps with text keys: the form of every envelope.

use std::convert::Infallible;

use bytes::Bytes;
use minicbor::encode::Error;
use minicbor::{Decoder, Encoder};

use super::{EnvelopeError, TEXT_LEN_MAX, VERSION};
use crate::subject::Address;

/// The most fields of an envelope: twice what there are, for those of later versions.
const FIELDS_MAX: usize = 32;

/// What an envelope takes without its body, in bytes, mostly.
const LEN_TYPICAL: usize = 256;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It has to be there.
    #[error("is missing")]
    Missing,
    /// It is there twice.
    #[error("is there twice")]
    Repeated,
    /// It is there beside another that excludes it.
    #[error("can't stand beside `{0}`")]
    Excluded(&'static str),
    /// Another kind of value, or out of range.
    #[error("should be {0}")]
    Kind(&'static str),
    /// A text that is too long.
    #[error("is {0} bytes long and may be at most {TEXT_LEN_MAX}: shorten it")]
    TooLong(usize),
}

pub(super) fn field(field: &'static str, problem: FieldError) -> EnvelopeError {
    EnvelopeError::Field { field, problem }
}

/// The fields of an envelope that were found, by where their value begins.
pub(super) struct Reader<'b> {
    whole: &'b Bytes,
    /// The first `len` of them are there. Not allocated, as there is one for each message.
    fields: [(&'b str, usize); FIELDS_MAX],
    len: usize,
}

impl<'b> Reader<'b> {
    /// Finds the fields of the map that is all of `bytes`, of a version that is known.
    pub(super) fn new(bytes: &'b Bytes) -> Result<Self, EnvelopeError> {
        let mut cbor = Decoder::new(bytes);
        let len = cbor.map().ok().flatten();
        let len = len.and_then(|len| usize::try_from(len).ok());
        let mut fields = [("", 0); FIELDS_MAX];
        let found = len.and_then(|len| fields.get_mut(..len));
        let found = found.ok_or(EnvelopeError::Malformed)?;
        let len = found.len();
        for field in found {
            let key = cbor.str().map_err(|_| EnvelopeError::Malformed)?;
            *field = (key, cbor.position());
            cbor.skip().map_err(|_| EnvelopeError::Malformed)?;
        }
        if cbor.position() != bytes.len() {
            return Err(EnvelopeError::Malformed);
        }
        let reader = Self {
            whole: bytes,
            fields,
            len,
        };
        match reader.needed("v", reader.number("v")?)? {
            VERSION => Ok(reader),
            other => Err(EnvelopeError::Version(other)),
        }
    }

    /// Where the value of `name` is, if it is there.
    fn at(&self, name: &'static str) -> Result<Option<Decoder<'b>>, EnvelopeError> {
        let mut found = self.found().iter().filter(|(key, _)| *key == name);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((_, at)), None) => {
                let mut cbor = Decoder::new(self.whole);
                cbor.set_position(*at);
                Ok(Some(cbor))
            }
            _ => Err(field(name, FieldError::Repeated)),
        }
    }

    /// Whether it is there.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.found().iter().any(|(key, _)| *key == name)
    }

    fn found(&self) -> &[(&'b str, usize)] {
        &self.fields[..self.len]
    }

    pub(super) fn number<T: TryFrom<u64>>(&self, name: &'static str) -> Result<Option<T>, EnvelopeError> {
        let number = |mut cbor: Decoder<'_>| cbor.u64().ok().and_then(|number| T::try_from(number).ok());
        let wrong = || field(name, FieldError::Kind("a whole number in its range"));
        self.at(name)?
            .map(|cbor| number(cbor).ok_or_else(wrong))
            .transpose()
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, EnvelopeError> {
        let wrong = |_| field(name, FieldError::Kind("a bool"));
        self.at(name)?
            .map(|mut cbor| cbor.bool().map_err(wrong))
            .transpose()
    }

    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, EnvelopeError> {
        let Some(mut cbor) = self.at(name)? else {
            return Ok(None);
        };
        let text = cbor
            .str()
            .map_err(|_| field(name, FieldError::Kind("a text of definite length")))?;
        check(name, text)?;
        Ok(Some(text.to_owned()))
    }

    pub(super) fn bytes(&self, name: &'static str) -> Result<Option<Bytes>, EnvelopeError> {
        let wrong = |_| field(name, FieldError::Kind("bytes of definite length"));
        let bytes = self
            .at(name)?
            .map(|mut cbor| cbor.bytes().map_err(wrong))
            .transpose()?;
        Ok(bytes.map(|bytes| self.whole.slice_ref(bytes)))
    }

    /// Bytes that are no longer than `len_max`, as a copy: what is kept should not keep its message.
    pub(super) fn short_bytes(
        &self,
        name: &'static str,
        len_max: usize,
    ) -> Result<Option<Bytes>, EnvelopeError> {
        match self.bytes(name)? {
            Some(bytes) if bytes.len() > len_max => Err(field(name, FieldError::Kind("shorter"))),
            bytes => Ok(bytes.map(|bytes| Bytes::copy_from_slice(&bytes))),
        }
    }

    pub(super) fn address(&self, name: &'static str) -> Result<Option<Address>, EnvelopeError> {
        let wrong = |_| field(name, FieldError::Kind("an address: letters, digits, `-` or `_`"));
        let text = self.text(name)?;
        text.map(|text| Address::parse(&text).map_err(wrong)).transpose()
    }

    pub(super) fn id_if_there(&self, name: &'static str) -> Result<Option<[u8; 16]>, EnvelopeError> {
        let there = self.at(name)?.is_some();
        there.then(|| self.id(name)).transpose()
    }

    /// The elements of an array, each read by `element`; an absent one is empty.
    pub(super) fn array<T>(
        &self,
        name: &'static str,
        len_max: u64,
        mut element: impl FnMut(&mut Decoder<'b>) -> Option<T>,
    ) -> Result<Vec<T>, EnvelopeError> {
        let Some(mut cbor) = self.at(name)? else {
            return Ok(Vec::new());
        };
        let wrong = || {
            field(
                name,
                FieldError::Kind("an array that is not too long, of its elements"),
            )
        };
        let len = cbor.array().ok().flatten().filter(|len| *len <= len_max);
        (0..len.ok_or_else(wrong)?)
            .map(|_| element(&mut cbor).ok_or_else(wrong))
            .collect()
    }

    pub(super) fn id(&self, name: &'static str) -> Result<[u8; 16], EnvelopeError> {
        let bytes = self.needed(name, self.bytes(name)?)?;
        let wrong = |_| field(name, FieldError::Kind("16 bytes"));
        bytes.as_ref().try_into().map_err(wrong)
    }

    /// The value of a field that has to be there.
    #[expect(
        clippy::unused_self,
        reason = "it reads as a question to the envelope, as the others do"
    )]
    pub(super) fn needed<T>(&self, name: &'static str, value: Option<T>) -> Result<T, EnvelopeError> {
        value.ok_or(field(name, FieldError::Missing))
    }
}

/// Writes a map, field by field, in the order that is asked for.
pub(super) struct Writer(Encoder<Vec<u8>>);

/// What a step of the encoder gives: it writes to memory.
fn put<T>(written: Result<T, Error<Infallible>>) {
    written.map(drop).expect("a Vec takes every byte");
}

impl Writer {
    /// A map of `len` fields with a body of `body_len` bytes.
    pub(super) fn new(len: u64, body_len: usize) -> Self {
        let mut cbor = Encoder::new(Vec::with_capacity(LEN_TYPICAL + body_len));
        put(cbor.map(len));
        Self(cbor)
    }

    pub(super) fn number(&mut self, name: &'static str, number: u64) {
        put(self.0.str(name).and_then(|cbor| cbor.u64(number)));
    }

    pub(super) fn flag(&mut self, name: &'static str, flag: bool) {
        put(self.0.str(name).and_then(|cbor| cbor.bool(flag)));
    }

    pub(super) fn bytes(&mut self, name: &'static str, bytes: &[u8]) {
        put(self.0.str(name).and_then(|cbor| cbor.bytes(bytes)));
    }

    pub(super) fn text(&mut self, name: &'static str, text: &str) -> Result<(), EnvelopeError> {
        check(name, text)?;
        self.cut_text(name, text);
        Ok(())
    }

    /// As much of `text` as may travel.
    pub(super) fn cut_text(&mut self, name: &'static str, text: &str) {
        let text = &text[..text.floor_char_boundary(TEXT_LEN_MAX)];
        put(self.0.str(name).and_then(|cbor| cbor.str(text)));
    }

    /// An array, each element written by `element`.
    pub(super) fn array<T>(
        &mut self,
        name: &'static str,
        elements: &[T],
        mut element: impl FnMut(&mut Encoder<Vec<u8>>, &T) -> Result<(), Error<Infallible>>,
    ) {
        put(self
            .0
            .str(name)
            .and_then(|cbor| cbor.array(elements.len() as u64)));
        for each in elements {
            put(element(&mut self.0, each));
        }
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.into_writer().into()
    }
}

fn check(name: &'static str, text: &str) -> Result<(), EnvelopeError> {
    if text.len() <= TEXT_LEN_MAX {
        return Ok(());
    }
    Err(field(name, FieldError::TooLong(text.len())))
}
