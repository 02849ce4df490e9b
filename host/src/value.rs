//! Values of components, and the same values as the lattice carries them.
//!
//! Owns the step between wasmtime's reflected types and values and those of [`weft_lattice::codec`], which mirror the
//! component model too. It must not know who calls whom; [`wire`] knows the bytes. What belongs to one instance or one host
//! (resources, streams, futures) has no form on the wire, and is an error here.

#[cfg(test)]
mod tests;
pub mod wire;

use wasmtime::component::Val;
use wasmtime::component::types::{ComponentFunc, Type as ValType};
use weft_lattice::codec::{Fields, Names, Type, TypeError, Value};

/// A type or value has no form on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It means something only inside one instance, or is not known to the wire.
    #[error("{0} can't cross from one actor to another: hand over plain values in its place")]
    CantCross(&'static str),
    /// The type is not one that a component can have.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A value is not of the type that was given with it.
    #[error("a value is not of its type: was it made for another function?")]
    Mismatch,
}

/// The types of a function's parameters, and that of its result.
///
/// # Errors
/// [`ValueError::CantCross`] for the first that can't.
pub fn signature_of(function: &ComponentFunc) -> Result<(Vec<Type>, Option<Type>), ValueError> {
    let params = function
        .params()
        .map(|(_, ty)| type_of(&ty))
        .collect::<Result<_, _>>()?;
    let result = function.results().next().map(|ty| type_of(&ty)).transpose()?;
    Ok((params, result))
}

/// A type as the lattice knows it.
///
/// # Errors
/// [`ValueError::CantCross`] if it holds a resource, a stream, a future or the like.
pub fn type_of(ty: &ValType) -> Result<Type, ValueError> {
    let boxed = |ty: ValType| type_of(&ty).map(Box::new);
    let names = |names: &mut dyn Iterator<Item = &str>| Names::new(names.map(str::to_owned));
    Ok(match ty {
        ValType::Bool => Type::Bool,
        ValType::S8 => Type::S8,
        ValType::U8 => Type::U8,
        ValType::S16 => Type::S16,
        ValType::U16 => Type::U16,
        ValType::S32 => Type::S32,
        ValType::U32 => Type::U32,
        ValType::S64 => Type::S64,
        ValType::U64 => Type::U64,
        ValType::Float32 => Type::F32,
        ValType::Float64 => Type::F64,
        ValType::Char => Type::Char,
        ValType::String => Type::String,
        ValType::List(list) => Type::list(type_of(&list.ty())?),
        ValType::Map(map) => Type::Map(boxed(map.key())?, boxed(map.value())?),
        ValType::Record(record) => {
            let fields = record.fields().map(|field| Ok((field.name, type_of(&field.ty)?)));
            Type::Record(Fields::new(fields.collect::<Result<Vec<_>, ValueError>>()?)?)
        }
        ValType::Tuple(tuple) => Type::Tuple(tuple.types().map(|ty| type_of(&ty)).collect::<Result<_, _>>()?),
        ValType::Variant(variant) => {
            let cases = variant
                .cases()
                .map(|case| Ok((case.name, case.ty.map(|ty| type_of(&ty)).transpose()?)));
            Type::Variant(Fields::new(cases.collect::<Result<Vec<_>, ValueError>>()?)?)
        }
        ValType::Enum(cases) => Type::Enum(names(&mut cases.names())?),
        ValType::Flags(flags) => Type::Flags(names(&mut flags.names())?),
        ValType::Option(option) => Type::Option(boxed(option.ty())?),
        ValType::Result(result) => Type::Result {
            ok: result.ok().map(boxed).transpose()?,
            err: result.err().map(boxed).transpose()?,
        },
        ValType::Own(_) | ValType::Borrow(_) => return Err(ValueError::CantCross("a resource")),
        ValType::Future(_) => return Err(ValueError::CantCross("a future")),
        ValType::Stream(_) => return Err(ValueError::CantCross("a stream")),
        ValType::ErrorContext => return Err(ValueError::CantCross("an error context")),
        ValType::FixedLengthList(_) => return Err(ValueError::CantCross("a list of fixed length")),
    })
}

/// A value of type `ty` as the lattice carries it. The type tells bytes from other lists, and is not checked beyond
/// what that takes: encoding does so.
///
/// # Errors
/// [`ValueError::CantCross`], or [`ValueError::Mismatch`] where the value has another shape than its type.
pub fn value_of(ty: &Type, val: &Val) -> Result<Value, ValueError> {
    let boxed = |ty: Option<&Type>, val: Option<&Val>| match (ty, val) {
        (Some(ty), Some(val)) => Ok(Some(Box::new(value_of(ty, val)?))),
        (None, None) => Ok(None),
        _ => Err(ValueError::Mismatch),
    };
    Ok(match (ty, val) {
        (_, Val::Bool(value)) => Value::Bool(*value),
        (_, Val::S8(value)) => Value::S8(*value),
        (_, Val::U8(value)) => Value::U8(*value),
        (_, Val::S16(value)) => Value::S16(*value),
        (_, Val::U16(value)) => Value::U16(*value),
        (_, Val::S32(value)) => Value::S32(*value),
        (_, Val::U32(value)) => Value::U32(*value),
        (_, Val::S64(value)) => Value::S64(*value),
        (_, Val::U64(value)) => Value::U64(*value),
        (_, Val::Float32(value)) => Value::F32(*value),
        (_, Val::Float64(value)) => Value::F64(*value),
        (_, Val::Char(value)) => Value::Char(*value),
        (_, Val::String(value)) => Value::String(value.clone()),
        (Type::Bytes, Val::List(vals)) => {
            let byte = |val: &Val| match val {
                Val::U8(byte) => Ok(*byte),
                _ => Err(ValueError::Mismatch),
            };
            Value::Bytes(vals.iter().map(byte).collect::<Result<_, _>>()?)
        }
        (Type::List(element), Val::List(vals)) => {
            let vals = vals.iter().map(|val| value_of(element, val));
            Value::List(vals.collect::<Result<_, _>>()?)
        }
        (Type::Map(key, value), Val::Map(pairs)) => {
            let pairs = pairs
                .iter()
                .map(|(k, v)| Ok((value_of(key, k)?, value_of(value, v)?)));
            Value::Map(pairs.collect::<Result<_, ValueError>>()?)
        }
        (Type::Record(fields), Val::Record(vals)) if fields.len() == vals.len() => {
            let vals = std::iter::zip(fields.iter(), vals)
                .map(|((_, ty), (name, val))| Ok((name.clone(), value_of(ty, val)?)));
            Value::Record(vals.collect::<Result<_, ValueError>>()?)
        }
        (Type::Tuple(types), Val::Tuple(vals)) if types.len() == vals.len() => {
            let vals = std::iter::zip(types, vals).map(|(ty, val)| value_of(ty, val));
            Value::Tuple(vals.collect::<Result<_, _>>()?)
        }
        (Type::Variant(cases), Val::Variant(case, val)) => {
            let (_, ty) = cases
                .iter()
                .find(|(name, _)| name == case)
                .ok_or(ValueError::Mismatch)?;
            Value::Variant(case.clone(), boxed(ty.as_ref(), val.as_deref())?)
        }
        (Type::Enum(_), Val::Enum(case)) => Value::Enum(case.clone()),
        (Type::Flags(_), Val::Flags(set)) => Value::Flags(set.clone()),
        (Type::Option(_), Val::Option(None)) => Value::Option(None),
        (Type::Option(ty), Val::Option(val)) => Value::Option(boxed(Some(ty), val.as_deref())?),
        (Type::Result { ok, err }, Val::Result(result)) => Value::Result(match result {
            Ok(val) => Ok(boxed(ok.as_deref(), val.as_deref())?),
            Err(val) => Err(boxed(err.as_deref(), val.as_deref())?),
        }),
        (_, Val::Resource(_)) => return Err(ValueError::CantCross("a resource")),
        (_, Val::Future(_)) => return Err(ValueError::CantCross("a future")),
        (_, Val::Stream(_)) => return Err(ValueError::CantCross("a stream")),
        (_, Val::ErrorContext(_)) => return Err(ValueError::CantCross("an error context")),
        (_, Val::FixedLengthList(_)) => return Err(ValueError::CantCross("a list of fixed length")),
        _ => return Err(ValueError::Mismatch),
    })
}

/// A value that came over the lattice, as wasmtime takes it. That it is of the callee's type was checked when it was
/// decoded. Bytes become 40 times as large: who can calls in typed form.
pub fn val_of(value: Value) -> Val {
    let boxed = |value: Option<Box<Value>>| value.map(|value| Box::new(val_of(*value)));
    match value {
        Value::Bool(value) => Val::Bool(value),
        Value::S8(value) => Val::S8(value),
        Value::U8(value) => Val::U8(value),
        Value::S16(value) => Val::S16(value),
        Value::U16(value) => Val::U16(value),
        Value::S32(value) => Val::S32(value),
        Value::U32(value) => Val::U32(value),
        Value::S64(value) => Val::S64(value),
        Value::U64(value) => Val::U64(value),
        Value::F32(value) => Val::Float32(value),
        Value::F64(value) => Val::Float64(value),
        Value::Char(value) => Val::Char(value),
        Value::String(value) => Val::String(value),
        Value::Bytes(bytes) => Val::List(bytes.into_iter().map(Val::U8).collect()),
        Value::List(values) => Val::List(values.into_iter().map(val_of).collect()),
        Value::Record(fields) => Val::Record(
            fields
                .into_iter()
                .map(|(name, value)| (name, val_of(value)))
                .collect(),
        ),
        Value::Tuple(values) => Val::Tuple(values.into_iter().map(val_of).collect()),
        Value::Variant(case, value) => Val::Variant(case, boxed(value)),
        Value::Enum(case) => Val::Enum(case),
        Value::Option(value) => Val::Option(boxed(value)),
        Value::Result(result) => Val::Result(result.map(boxed).map_err(boxed)),
        Value::Flags(set) => Val::Flags(set),
        Value::Map(pairs) => Val::Map(pairs.into_iter().map(|(k, v)| (val_of(k), val_of(v))).collect()),
    }
}
