//! Arguments and results as CBOR, by the rules of `docs/wire.md`.
//!
//! Owns the mapping of Rust types, without a value of its own in between: a value of 8 MiB is copied once to be sent, and
//! not at all to be read. Must not know what is called. What is written is deterministic; what is read comes from
//! strangers, so no length is believed and memory is counted before it is taken.

use std::convert::Infallible;
use std::mem::size_of;

use bytes::Bytes;
use minicbor::data::Type as Item;
use minicbor::{Decoder, Encoder};
use weft_lattice::codec;

/// What is written to.
pub(crate) type Writer = Encoder<Vec<u8>>;

/// Memory that one message may become: as much as for values of components, and more than the longest of ours needs.
const MEMORY_MAX: usize = 128 << 20;

/// What can be written.
pub(crate) trait Write {
    /// Whether it is nothing: a case without a payload.
    const IS_NOTHING: bool = false;

    fn write(&self, out: &mut Writer);
}

/// What can be read.
pub(crate) trait Read: Sized {
    /// As [`Write::IS_NOTHING`].
    const IS_NOTHING: bool = false;

    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable>;
}

/// Bytes that are not what the function has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}: are both sides built for the same interface?")]
pub(crate) struct Unreadable(pub(crate) &'static str);

/// The bytes of arguments or results, which are a tuple.
pub(crate) fn encode(values: &impl Write) -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    values.write(&mut out);
    out.into_writer()
}

/// Reads arguments or results, which must be all of `bytes`.
pub(crate) fn decode<T: Read>(bytes: &Bytes) -> Result<T, Unreadable> {
    let mut reader = Reader {
        cbor: Decoder::new(bytes),
        whole: bytes,
        memory_left: MEMORY_MAX,
    };
    let value = T::read(&mut reader)?;
    if reader.cbor.position() != bytes.len() {
        return Err(Unreadable("the end after the value"));
    }
    Ok(value)
}

/// What a step of the encoder gives: it writes to memory.
pub(crate) fn put<T>(written: Result<T, minicbor::encode::Error<Infallible>>) {
    written.map(drop).expect("a Vec takes every byte");
}

/// Writes `[case]` or `[case, payload]`.
pub(crate) fn put_case<T: Write + ?Sized>(out: &mut Writer, case: &str, payload: &T) {
    put(out.array(1 + u64::from(!T::IS_NOTHING)));
    put(out.str(case));
    payload.write(out);
}

pub(crate) struct Reader<'b> {
    cbor: Decoder<'b>,
    whole: &'b Bytes,
    memory_left: usize,
}

impl<'b> Reader<'b> {
    /// The length of an array, each element of which becomes `size` bytes.
    fn array(&mut self, size: usize) -> Result<usize, Unreadable> {
        let len = self.cbor.array().ok().flatten();
        let left = self.whole.len() - self.cbor.position();
        // An element takes at least one byte.
        let len = len
            .and_then(|len| usize::try_from(len).ok())
            .filter(|len| *len <= left)
            .ok_or(Unreadable("an array"))?;
        let memory = self.memory_left.checked_sub(len.saturating_mul(size));
        self.memory_left = memory.ok_or(Unreadable("a smaller message"))?;
        Ok(len)
    }

    pub(crate) fn text(&mut self) -> Result<&'b str, Unreadable> {
        self.cbor.str().map_err(|_| Unreadable("a text"))
    }

    /// The case of a variant, and how many elements the array has that it is in.
    pub(crate) fn case(&mut self) -> Result<(&'b str, usize), Unreadable> {
        let len = self.array(0)?;
        if !(1..=2).contains(&len) {
            return Err(Unreadable("a case with at most one payload"));
        }
        Ok((self.text()?, len))
    }

    /// The payload of a case that is in an array of `len` elements.
    pub(crate) fn payload<T: Read>(&mut self, len: usize) -> Result<T, Unreadable> {
        if (len == 2) == T::IS_NOTHING {
            return Err(Unreadable("the payload that the case has"));
        }
        T::read(self)
    }

    /// How many fields a record has, which must be those of its type.
    pub(crate) fn record(&mut self, fields: u64) -> Result<u64, Unreadable> {
        let len = self.cbor.map().ok().flatten();
        len.filter(|len| *len == fields)
            .ok_or(Unreadable("a record with the fields of its type"))
    }

    fn integer<T: TryFrom<i128>>(&mut self, expected: &'static str) -> Result<T, Unreadable> {
        let integer = self.cbor.int().map_err(|_| Unreadable(expected))?;
        T::try_from(i128::from(integer)).map_err(|_| Unreadable(expected))
    }
}

impl<T: Write + ?Sized> Write for &T {
    const IS_NOTHING: bool = T::IS_NOTHING;

    fn write(&self, out: &mut Writer) {
        T::write(self, out);
    }
}

impl Write for () {
    const IS_NOTHING: bool = true;

    fn write(&self, _: &mut Writer) {}
}

impl Read for () {
    const IS_NOTHING: bool = true;

    fn read(_: &mut Reader<'_>) -> Result<Self, Unreadable> {
        Ok(())
    }
}

impl Write for bool {
    fn write(&self, out: &mut Writer) {
        put(out.bool(*self));
    }
}

impl Read for bool {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        from.cbor.bool().map_err(|_| Unreadable("a bool"))
    }
}

impl Write for u64 {
    fn write(&self, out: &mut Writer) {
        put(out.u64(*self));
    }
}

impl Read for u64 {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        from.integer("a u64")
    }
}

impl Write for i64 {
    fn write(&self, out: &mut Writer) {
        put(out.i64(*self));
    }
}

impl Read for i64 {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        from.integer("an s64")
    }
}

impl Write for f64 {
    fn write(&self, out: &mut Writer) {
        let written = codec::encode(&codec::Type::F64, &codec::Value::F64(*self));
        let written = written.expect("a float is of the type of floats");
        out.writer_mut().extend_from_slice(&written);
    }
}

impl Read for f64 {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let expected = Unreadable("a float");
        if matches!(from.cbor.datatype(), Ok(Item::F16 | Item::F32 | Item::F64)) {
            return from.cbor.f64().map_err(|_| expected);
        }
        let integer: i64 = from.integer(expected.0)?;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "whether something is lost is looked at"
        )]
        let (double, back) = (integer as f64, integer as f64 as i128);
        if back == i128::from(integer) {
            Ok(double)
        } else {
            Err(expected)
        }
    }
}

impl Write for str {
    fn write(&self, out: &mut Writer) {
        put(out.str(self));
    }
}

impl Write for String {
    fn write(&self, out: &mut Writer) {
        put(out.str(self));
    }
}

impl Read for String {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        from.text().map(str::to_owned)
    }
}

impl Write for Bytes {
    fn write(&self, out: &mut Writer) {
        put(out.bytes(self));
    }
}

impl Read for Bytes {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let bytes = from.cbor.bytes().map_err(|_| Unreadable("bytes"))?;
        Ok(from.whole.slice_ref(bytes))
    }
}

impl<T: Write> Write for [T] {
    fn write(&self, out: &mut Writer) {
        put(out.array(self.len() as u64));
        self.iter().for_each(|element| element.write(out));
    }
}

impl<T: Write> Write for Vec<T> {
    fn write(&self, out: &mut Writer) {
        self[..].write(out);
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        let len = from.array(size_of::<T>())?;
        let mut elements = Self::with_capacity(len);
        for _ in 0..len {
            elements.push(T::read(from)?);
        }
        Ok(elements)
    }
}

impl<T: Write> Write for Option<T> {
    fn write(&self, out: &mut Writer) {
        put(out.array(u64::from(self.is_some())));
        if let Some(some) = self {
            some.write(out);
        }
    }
}

impl<T: Read> Read for Option<T> {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        match from.array(0)? {
            0 => Ok(None),
            1 => T::read(from).map(Some),
            _ => Err(Unreadable("an option")),
        }
    }
}

impl<T: Write, E: Write> Write for Result<T, E> {
    fn write(&self, out: &mut Writer) {
        match self {
            Ok(ok) => put_case(out, "ok", ok),
            Err(error) => put_case(out, "err", error),
        }
    }
}

impl<T: Read, E: Read> Read for Result<T, E> {
    fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
        match from.case()? {
            ("ok", len) => from.payload(len).map(Ok),
            ("err", len) => from.payload(len).map(Err),
            _ => Err(Unreadable("`ok` or `err`")),
        }
    }
}

macro_rules! tuple {
    ($len:literal: $($name:ident $at:tt),*) => {
        impl<$($name: Write),*> Write for ($($name,)*) {
            fn write(&self, out: &mut Writer) {
                put(out.array($len));
                $(self.$at.write(out);)*
            }
        }

        impl<$($name: Read),*> Read for ($($name,)*) {
            fn read(from: &mut Reader<'_>) -> Result<Self, Unreadable> {
                if from.array(0)? != $len {
                    return Err(Unreadable(concat!("a tuple of ", $len)));
                }
                Ok(($($name::read(from)?,)*))
            }
        }
    };
}

tuple!(1: A 0);
tuple!(2: A 0, B 1);
tuple!(3: A 0, B 1, C 2);
tuple!(4: A 0, B 1, C 2, D 3);

/// A record, its fields in the order of the wire: the shorter names first.
macro_rules! record {
    ($ty:ident[$len:literal] { $($name:literal $field:ident),* } $(without $kept:ident)?) => {
        impl $crate::cbor::Write for $ty {
            fn write(&self, out: &mut $crate::cbor::Writer) {
                $crate::cbor::put(out.map($len));
                $(
                    $crate::cbor::put(out.str($name));
                    self.$field.write(out);
                )*
            }
        }

        impl $crate::cbor::Read for $ty {
            fn read(from: &mut $crate::cbor::Reader<'_>) -> Result<Self, $crate::cbor::Unreadable> {
                $(let mut $field = None;)*
                for _ in 0..from.record($len)? {
                    let is_new = match from.text()? {
                        $($name => $field.replace($crate::cbor::Read::read(from)?).is_none(),)*
                        _ => false,
                    };
                    if !is_new {
                        return Err($crate::cbor::Unreadable("each field of the record once"));
                    }
                }
                let missing = $crate::cbor::Unreadable("all fields of the record");
                Ok(Self { $($field: $field.ok_or(missing)?,)* $($kept: Default::default())? })
            }
        }
    };
}
pub(crate) use record;
