//! The arguments and the result of a function as the bytes that cross the lattice.
//!
//! Owns what is kept of a function's type for that, made once when it is first needed.

use std::sync::OnceLock;

use bytes::Bytes;
use wasmtime::component::types::ComponentFunc;
use weft_lattice::codec::{CodecError, Limits, Type, Value, decode_all, encode_all};

use super::{ValueError, signature_of};

/// The types of a function, as the lattice knows them.
pub struct Signature {
    params: Vec<Type>,
    result: Vec<Type>,
}

/// The same, made when it is asked for: most functions are never called from another host.
pub struct LazySignature {
    ty: ComponentFunc,
    known: OnceLock<Result<Signature, ValueError>>,
}

/// Values can't cross.
#[derive(Debug, thiserror::Error)]
pub enum CrossError {
    /// Their types can't.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// They are not of their types, or the bytes are something else.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl LazySignature {
    /// Of a function of type `ty`.
    pub fn new(ty: ComponentFunc) -> Self {
        Self {
            ty,
            known: OnceLock::new(),
        }
    }

    /// The types.
    ///
    /// # Errors
    /// They can't cross.
    pub fn get(&self) -> Result<&Signature, ValueError> {
        let made = self.known.get_or_init(|| {
            let (params, result) = signature_of(&self.ty)?;
            let result = result.into_iter().collect();
            Ok(Signature { params, result })
        });
        made.as_ref().map_err(Clone::clone)
    }
}

impl Signature {
    /// The types of the parameters.
    pub fn params(&self) -> &[Type] {
        &self.params
    }

    /// The type of the result, if there is one.
    pub fn result(&self) -> Option<&Type> {
        self.result.first()
    }

    /// Arguments as bytes.
    ///
    /// # Errors
    /// [`CrossError::Codec`]
    pub fn encode_args(&self, args: &[Value]) -> Result<Bytes, CrossError> {
        Ok(encode_all("args", &self.params, args)?.into())
    }

    /// The arguments that came.
    ///
    /// # Errors
    /// [`CrossError::Codec`]
    pub fn decode_args(&self, bytes: &[u8]) -> Result<Vec<Value>, CrossError> {
        Ok(decode_all("args", &self.params, bytes, &Limits::default())?)
    }

    /// A result as bytes.
    ///
    /// # Errors
    /// [`CrossError::Codec`]
    pub fn encode_result(&self, result: &[Value]) -> Result<Bytes, CrossError> {
        Ok(encode_all("result", &self.result, result)?.into())
    }

    /// The result that came.
    ///
    /// # Errors
    /// [`CrossError::Codec`]
    pub fn decode_result(&self, bytes: &[u8]) -> Result<Option<Value>, CrossError> {
        Ok(decode_all("result", &self.result, bytes, &Limits::default())?.pop())
    }
}
