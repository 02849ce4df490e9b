//! Reading what a stranger wrote.
//!
//! No length that the bytes claim is believed: an element takes at least a byte, and the memory of what it becomes is
//! counted before it is taken.

use std::mem::size_of;

use minicbor::Decoder;
use minicbor::data::Type as Item;

use super::error::At as _;
use super::{CodecError, ERR, Fields, Names, OK, Problem, Type, Value};

/// What reading one message may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How deep values may be nested. Types are trees of the component's, so this only ends what no type should be.
    pub depth: usize,
    /// Bytes of memory that the values may take: a byte of a list of bools becomes forty.
    pub memory: usize,
}

impl Default for Limits {
    /// Enough for a message of 1 MiB that is a list of the smallest values.
    fn default() -> Self {
        Self {
            depth: 64,
            memory: 64 << 20,
        }
    }
}

/// Reads one value of type `ty`, which must be all of `bytes`.
///
/// # Errors
/// Where the bytes are not such a value, or beyond `limits`.
pub fn decode(ty: &Type, bytes: &[u8], limits: &Limits) -> Result<Value, CodecError> {
    let mut reader = Reader::new(bytes, limits);
    let value = reader.value(ty)?;
    reader.end()?;
    Ok(value)
}

/// Reads the arguments or results of a function, an array of values of `types`. `root` names them in errors (`args`).
///
/// # Errors
/// Where the bytes are not such values, or beyond `limits`.
pub fn decode_all(
    root: &'static str,
    types: &[Type],
    bytes: &[u8],
    limits: &Limits,
) -> Result<Vec<Value>, CodecError> {
    let mut reader = Reader::new(bytes, limits);
    let values = reader.values(types).map_err(|error| error.under(root))?;
    reader.end().map_err(|problem| CodecError::root(root, problem))?;
    Ok(values)
}

struct Reader<'b> {
    cbor: Decoder<'b>,
    limits: Limits,
    depth_left: usize,
    memory_left: usize,
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8], limits: &Limits) -> Self {
        Self {
            cbor: Decoder::new(bytes),
            limits: *limits,
            depth_left: limits.depth,
            memory_left: limits.memory,
        }
    }

    fn bytes_left(&self) -> usize {
        self.cbor.input().len() - self.cbor.position()
    }

    fn end(&self) -> Result<(), Problem> {
        match self.bytes_left() {
            0 => Ok(()),
            left => Err(Problem::Trailing(left)),
        }
    }

    fn value(&mut self, ty: &Type) -> Result<Value, CodecError> {
        self.depth_left = self
            .depth_left
            .checked_sub(1)
            .ok_or(Problem::TooDeep(self.limits.depth))?;
        let value = self.value_inside(ty);
        self.depth_left += 1;
        value
    }

    fn value_inside(&mut self, ty: &Type) -> Result<Value, CodecError> {
        Ok(match ty {
            Type::Bool => Value::Bool(
                self.expect(ty, |item| item == Item::Bool)?
                    .bool()
                    .map_err(problem)?,
            ),
            Type::S8 => Value::S8(self.integer(ty)?),
            Type::U8 => Value::U8(self.integer(ty)?),
            Type::S16 => Value::S16(self.integer(ty)?),
            Type::U16 => Value::U16(self.integer(ty)?),
            Type::S32 => Value::S32(self.integer(ty)?),
            Type::U32 => Value::U32(self.integer(ty)?),
            Type::S64 => Value::S64(self.integer(ty)?),
            Type::U64 => Value::U64(self.integer(ty)?),
            Type::F32 => Value::F32(self.single(ty)?),
            Type::F64 => Value::F64(self.double(ty)?),
            Type::Char => {
                let mut chars = self.text(ty)?.chars();
                match (chars.next(), chars.next()) {
                    (Some(char), None) => Value::Char(char),
                    _ => return Err(Problem::Char.into()),
                }
            }
            Type::String => {
                let text = self.text(ty)?;
                Value::String(self.owned(text)?)
            }
            Type::Bytes => {
                let bytes = self
                    .expect(ty, |item| item == Item::Bytes)?
                    .bytes()
                    .map_err(problem)?;
                self.take(bytes.len())?;
                Value::Bytes(bytes.to_vec())
            }
            Type::List(element) => {
                let len = self.array(ty)?;
                Value::List(self.many(len, size_of::<Value>(), |reader, _| reader.value(element))?)
            }
            Type::Tuple(types) => Value::Tuple(self.values(types)?),
            Type::Record(fields) => Value::Record(self.record(ty, fields)?),
            Type::Variant(cases) => {
                let (case, len) = self.case(ty)?;
                let at = cases.find(case).ok_or_else(|| Problem::Case(case.to_owned()))?;
                let payload = self.payload(case, cases.at(at).1.as_ref(), len)?;
                Value::Variant(self.owned(case)?, payload)
            }
            Type::Enum(cases) => {
                let case = self.text(ty)?;
                cases.find(case).ok_or_else(|| Problem::Case(case.to_owned()))?;
                Value::Enum(self.owned(case)?)
            }
            Type::Option(some) => match self.array(ty)? {
                0 => Value::Option(None),
                1 => Value::Option(Some(self.boxed(some).at(0)?)),
                found => {
                    return Err(Problem::Count {
                        expected: 1,
                        found: found as u64,
                    }
                    .into());
                }
            },
            Type::Result { ok, err } => match self.case(ty)? {
                (OK, len) => Value::Result(Ok(self.payload(OK, ok.as_deref(), len)?)),
                (ERR, len) => Value::Result(Err(self.payload(ERR, err.as_deref(), len)?)),
                (case, _) => return Err(Problem::Case(case.to_owned()).into()),
            },
            Type::Flags(names) => Value::Flags(self.flags(ty, names)?),
            Type::Map(key, value) => {
                let len = self.array(ty)?;
                Value::Map(self.many(len, 2 * size_of::<Value>(), |reader, _| {
                    reader.pair(ty, key, value)
                })?)
            }
        })
    }

    fn values(&mut self, types: &[Type]) -> Result<Vec<Value>, CodecError> {
        let found = self.length(Item::Array, "an array")?;
        if found != types.len() {
            return Err(Problem::Count {
                expected: types.len(),
                found: found as u64,
            }
            .into());
        }
        self.many(found, size_of::<Value>(), |reader, at| reader.value(&types[at]))
    }

    fn pair(&mut self, ty: &Type, key: &Type, value: &Type) -> Result<(Value, Value), CodecError> {
        match self.array(ty)? {
            2 => Ok((self.value(key).at(0)?, self.value(value).at(1)?)),
            found => Err(Problem::Count {
                expected: 2,
                found: found as u64,
            }
            .into()),
        }
    }

    fn record(&mut self, ty: &Type, fields: &Fields<Type>) -> Result<Vec<(String, Value)>, CodecError> {
        let len = self.length(Item::Map, ty.kind())?;
        self.take(fields.len().saturating_mul(size_of::<(String, Value)>()))?;
        let mut found: Vec<Option<Value>> = Vec::new();
        found.resize_with(fields.len(), || None);
        for _ in 0..len {
            let name = self.text(&Type::String)?;
            let at = fields
                .find(name)
                .ok_or_else(|| Problem::Unknown(name.to_owned()))?;
            if found[at].is_some() {
                return Err(Problem::Repeated(name.to_owned()).into());
            }
            found[at] = Some(self.value(fields.at(at).1).in_field(name)?);
        }
        let field = |(value, (name, _)): (Option<Value>, (&str, &Type))| {
            let value = value.ok_or_else(|| Problem::Missing(name.to_owned()))?;
            Ok((self.owned(name)?, value))
        };
        found.into_iter().zip(fields.iter()).map(field).collect()
    }

    fn flags(&mut self, ty: &Type, names: &Names) -> Result<Vec<String>, CodecError> {
        let len = self.array(ty)?;
        self.take(names.len().saturating_mul(size_of::<String>()))?;
        let mut is_set = vec![false; names.len()];
        for at in 0..len {
            let name = self.text(&Type::String).at(at)?;
            let flag = names
                .find(name)
                .ok_or_else(|| Problem::Case(name.to_owned()))
                .at(at)?;
            if std::mem::replace(&mut is_set[flag], true) {
                return Err(Problem::Repeated(name.to_owned()).into());
            }
        }
        let set = names.iter().zip(is_set).filter(|(_, is_set)| *is_set);
        set.map(|(name, _)| Ok(self.owned(name)?)).collect()
    }

    /// The beginning of `[case, payload?]`: the case, and the length of the array.
    fn case(&mut self, ty: &Type) -> Result<(&'b str, usize), CodecError> {
        match self.array(ty)? {
            len @ 1..=2 => Ok((self.text(&Type::String).at(0)?, len)),
            found => Err(Problem::Count {
                expected: 2,
                found: found as u64,
            }
            .into()),
        }
    }

    fn payload(
        &mut self,
        case: &str,
        ty: Option<&Type>,
        len: usize,
    ) -> Result<Option<Box<Value>>, CodecError> {
        match (ty, len) {
            (Some(ty), 2) => self.boxed(ty).in_field(case).map(Some),
            (None, 1) => Ok(None),
            (ty, _) => Err(Problem::Payload {
                case: case.to_owned(),
                wanted: ty.is_some(),
            }
            .into()),
        }
    }

    fn boxed(&mut self, ty: &Type) -> Result<Box<Value>, CodecError> {
        self.take(size_of::<Value>())?;
        self.value(ty).map(Box::new)
    }

    /// `len` elements of `size` bytes each. Every one takes at least a byte, which [`Reader::length`] looked at.
    fn many<T>(
        &mut self,
        len: usize,
        size: usize,
        mut one: impl FnMut(&mut Self, usize) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        self.take(len.saturating_mul(size))?;
        let mut values = Vec::with_capacity(len);
        for at in 0..len {
            values.push(one(self, at).at(at)?);
        }
        Ok(values)
    }

    /// Counts `memory` bytes before they are allocated.
    fn take(&mut self, memory: usize) -> Result<(), Problem> {
        let left = self.memory_left.checked_sub(memory);
        self.memory_left = left.ok_or(Problem::TooLarge(self.limits.memory))?;
        Ok(())
    }

    fn owned(&mut self, text: &str) -> Result<String, Problem> {
        self.take(text.len())?;
        Ok(text.to_owned())
    }

    fn text(&mut self, ty: &Type) -> Result<&'b str, Problem> {
        self.expect(ty, |item| item == Item::String)?
            .str()
            .map_err(problem)
    }

    fn array(&mut self, ty: &Type) -> Result<usize, Problem> {
        self.length(Item::Array, ty.kind())
    }

    /// The length of an array or map, no greater than the bytes that are left.
    fn length(&mut self, wanted: Item, expected: &'static str) -> Result<usize, Problem> {
        let cbor = self.item(expected, |item| item == wanted)?;
        let len = if wanted == Item::Map {
            cbor.map()
        } else {
            cbor.array()
        };
        let len = len.map_err(problem)?.ok_or(Problem::Indefinite)?;
        usize::try_from(len)
            .ok()
            .filter(|len| *len <= self.bytes_left())
            .ok_or(Problem::End)
    }

    fn integer<T: TryFrom<i128>>(&mut self, ty: &Type) -> Result<T, Problem> {
        let integer = self.expect(ty, is_integer)?.int().map_err(problem)?;
        T::try_from(i128::from(integer)).map_err(|_| Problem::Range(ty.kind()))
    }

    fn single(&mut self, ty: &Type) -> Result<f32, Problem> {
        let double = self.double(ty)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whether something is lost is looked at"
        )]
        let single = double as f32;
        if f64::from(single) == double || double.is_nan() {
            Ok(single)
        } else {
            Err(Problem::Range(ty.kind()))
        }
    }

    /// A float of any width, or an integer that is the same number: JavaScript's encoders write 1.0 as 1.
    fn double(&mut self, ty: &Type) -> Result<f64, Problem> {
        let is_float = |item| matches!(item, Item::F16 | Item::F32 | Item::F64);
        if is_float(self.cbor.datatype().map_err(problem)?) {
            let double = self.cbor.f64().map_err(problem)?;
            return Ok(if double.is_nan() { f64::NAN } else { double });
        }
        let integer = i128::from(self.expect(ty, is_integer)?.int().map_err(problem)?);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "whether something is lost is looked at"
        )]
        let (double, back) = (integer as f64, integer as f64 as i128);
        if back == integer {
            Ok(double)
        } else {
            Err(Problem::Range(ty.kind()))
        }
    }

    fn expect(&mut self, ty: &Type, wanted: impl FnOnce(Item) -> bool) -> Result<&mut Decoder<'b>, Problem> {
        self.item(ty.kind(), wanted)
    }

    /// The decoder, if the next item is one that is `wanted`.
    fn item(
        &mut self,
        expected: &'static str,
        wanted: impl FnOnce(Item) -> bool,
    ) -> Result<&mut Decoder<'b>, Problem> {
        match self.cbor.datatype().map_err(problem)? {
            item if wanted(item) => Ok(&mut self.cbor),
            Item::ArrayIndef | Item::MapIndef | Item::BytesIndef | Item::StringIndef => {
                Err(Problem::Indefinite)
            }
            Item::Unknown(_) => Err(Problem::Malformed),
            item => Err(Problem::Kind {
                expected,
                found: format!("CBOR {item}"),
            }),
        }
    }
}

fn is_integer(item: Item) -> bool {
    use Item::{I8, I16, I32, I64, Int, U8, U16, U32, U64};
    matches!(item, U8 | U16 | U32 | U64 | I8 | I16 | I32 | I64 | Int)
}

/// What the CBOR library's error means here: the kind of item was looked at before.
fn problem(error: minicbor::decode::Error) -> Problem {
    if error.is_end_of_input() {
        Problem::End
    } else if std::error::Error::source(&error)
        .is_some_and(<dyn std::error::Error>::is::<std::str::Utf8Error>)
    {
        Problem::Utf8
    } else {
        Problem::Malformed
    }
}
