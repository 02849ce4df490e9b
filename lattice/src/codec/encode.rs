//! Writing.

use std::convert::Infallible;

use half::f16;
use minicbor::encode::Error;

use super::error::At as _;
use super::{CodecError, ERR, OK, Problem, Type, Value};

/// The canonical NaN of each width that can't be written shorter is this half (RFC 8949, section 4.2.2).
const NAN: f32 = f32::NAN;

/// Writes `value`, which must be of type `ty`.
///
/// # Errors
/// Where the value is not of the type.
pub fn encode(ty: &Type, value: &Value) -> Result<Vec<u8>, CodecError> {
    let mut out = Writer::new(Vec::new());
    write(&mut out, ty, value)?;
    Ok(out.into_writer())
}

/// Writes `values`, the arguments or results of a function, as an array. `root` names them in errors (`args`).
///
/// # Errors
/// Where a value is not of its type, or that there are more or fewer.
pub fn encode_all(root: &'static str, types: &[Type], values: &[Value]) -> Result<Vec<u8>, CodecError> {
    let mut out = Writer::new(Vec::new());
    write_all(&mut out, types, values).map_err(|error| error.under(root))?;
    Ok(out.into_writer())
}

type Writer = minicbor::Encoder<Vec<u8>>;

/// What a step of the encoder gives: it writes to memory.
fn put<T>(written: Result<T, Error<Infallible>>) {
    written.map(drop).expect("a Vec takes every byte");
}

fn write(out: &mut Writer, ty: &Type, value: &Value) -> Result<(), CodecError> {
    match (ty, value) {
        (Type::Bool, Value::Bool(value)) => put(out.bool(*value)),
        (Type::S8, Value::S8(value)) => put(out.i8(*value)),
        (Type::U8, Value::U8(value)) => put(out.u8(*value)),
        (Type::S16, Value::S16(value)) => put(out.i16(*value)),
        (Type::U16, Value::U16(value)) => put(out.u16(*value)),
        (Type::S32, Value::S32(value)) => put(out.i32(*value)),
        (Type::U32, Value::U32(value)) => put(out.u32(*value)),
        (Type::S64, Value::S64(value)) => put(out.i64(*value)),
        (Type::U64, Value::U64(value)) => put(out.u64(*value)),
        (Type::F32, Value::F32(value)) => write_f32(out, *value),
        (Type::F64, Value::F64(value)) => write_f64(out, *value),
        (Type::Char, Value::Char(value)) => put(out.str(value.encode_utf8(&mut [0; 4]))),
        (Type::String, Value::String(value)) => put(out.str(value)),
        (Type::Bytes, Value::Bytes(value)) => put(out.bytes(value)),
        (Type::List(element), Value::List(values)) => {
            put(out.array(values.len() as u64));
            for (at, value) in values.iter().enumerate() {
                write(out, element, value).at(at)?;
            }
        }
        (Type::Tuple(types), Value::Tuple(values)) => write_all(out, types, values)?,
        (Type::Record(fields), Value::Record(values)) => {
            for (at, (name, _)) in fields.iter().enumerate() {
                match values.get(at) {
                    Some((given, _)) if given == name => {}
                    Some((given, _)) if fields.find(given).is_none() => {
                        return Err(Problem::Unknown(given.clone()).into());
                    }
                    _ => return Err(Problem::Missing(name.to_owned()).into()),
                }
            }
            if let Some((extra, _)) = values.get(fields.len()) {
                return Err(Problem::Unknown(extra.clone()).into());
            }
            put(out.map(values.len() as u64));
            for &at in fields.sorted() {
                let (name, ty) = fields.at(at);
                put(out.str(name));
                write(out, ty, &values[at].1).in_field(name)?;
            }
        }
        (Type::Variant(cases), Value::Variant(case, payload)) => {
            let at = cases.find(case).ok_or_else(|| Problem::Case(case.clone()))?;
            write_case(out, case, cases.at(at).1.as_ref(), payload.as_deref())?;
        }
        (Type::Enum(cases), Value::Enum(case)) => {
            cases.find(case).ok_or_else(|| Problem::Case(case.clone()))?;
            put(out.str(case));
        }
        (Type::Option(some), Value::Option(value)) => {
            put(out.array(u64::from(value.is_some())));
            if let Some(value) = value {
                write(out, some, value).at(0)?;
            }
        }
        (Type::Result { ok, err }, Value::Result(value)) => match value {
            Ok(value) => write_case(out, OK, ok.as_deref(), value.as_deref())?,
            Err(value) => write_case(out, ERR, err.as_deref(), value.as_deref())?,
        },
        (Type::Flags(names), Value::Flags(set)) => {
            let mut is_set = vec![false; names.len()];
            for name in set {
                let at = names.find(name).ok_or_else(|| Problem::Case(name.clone()))?;
                if std::mem::replace(&mut is_set[at], true) {
                    return Err(Problem::Repeated(name.clone()).into());
                }
            }
            put(out.array(set.len() as u64));
            for (name, _) in names.iter().zip(is_set).filter(|(_, is_set)| *is_set) {
                put(out.str(name));
            }
        }
        (Type::Map(key, value), Value::Map(pairs)) => {
            put(out.array(pairs.len() as u64));
            for (at, pair) in pairs.iter().enumerate() {
                put(out.array(2));
                write(out, key, &pair.0).at(0).at(at)?;
                write(out, value, &pair.1).at(1).at(at)?;
            }
        }
        (ty, value) => {
            return Err(Problem::Kind {
                expected: ty.kind(),
                found: value.kind().to_owned(),
            }
            .into());
        }
    }
    Ok(())
}

fn write_all(out: &mut Writer, types: &[Type], values: &[Value]) -> Result<(), CodecError> {
    if types.len() != values.len() {
        return Err(Problem::Count {
            expected: types.len(),
            found: values.len() as u64,
        }
        .into());
    }
    put(out.array(values.len() as u64));
    for (at, (ty, value)) in types.iter().zip(values).enumerate() {
        write(out, ty, value).at(at)?;
    }
    Ok(())
}

fn write_case(
    out: &mut Writer,
    case: &str,
    ty: Option<&Type>,
    payload: Option<&Value>,
) -> Result<(), CodecError> {
    put(out.array(1 + u64::from(payload.is_some())));
    put(out.str(case));
    match (ty, payload) {
        (Some(ty), Some(payload)) => write(out, ty, payload).in_field(case),
        (None, None) => Ok(()),
        (ty, _) => Err(Problem::Payload {
            case: case.to_owned(),
            wanted: ty.is_some(),
        }
        .into()),
    }
}

/// The shortest float that is the same number.
fn write_f32(out: &mut Writer, value: f32) {
    let half = f16::from_f32(value).to_f32();
    if value.is_nan() {
        put(out.f16(NAN));
    } else if half == value {
        put(out.f16(value));
    } else {
        put(out.f32(value));
    }
}

fn write_f64(out: &mut Writer, value: f64) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whether something is lost is looked at"
    )]
    let single = value as f32;
    if value.is_nan() || f64::from(single) == value {
        write_f32(out, single);
    } else {
        put(out.f64(value));
    }
}
