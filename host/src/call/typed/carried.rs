//! The values of typed functions as the lattice carries them: the few shapes that there are.

use weft_lattice::codec::{Type, Value};

/// Arguments or results that can be told by a list of values.
pub(super) trait Carried: Sized {
    /// Their types.
    fn types() -> Vec<Type>;
    /// As values.
    fn to_values(&self) -> Vec<Value>;
    /// Of values, if they have its types.
    fn of_values(values: Vec<Value>) -> Option<Self>;
}

/// One of them.
trait One: Sized {
    fn ty() -> Type;
    fn to_value(&self) -> Value;
    fn of_value(value: Value) -> Option<Self>;
}

impl<A: One> Carried for (A,) {
    fn types() -> Vec<Type> {
        vec![A::ty()]
    }

    fn to_values(&self) -> Vec<Value> {
        vec![self.0.to_value()]
    }

    fn of_values(values: Vec<Value>) -> Option<Self> {
        let [a] = values.try_into().ok()?;
        Some((A::of_value(a)?,))
    }
}

impl<A: One, B: One> Carried for (A, B) {
    fn types() -> Vec<Type> {
        vec![A::ty(), B::ty()]
    }

    fn to_values(&self) -> Vec<Value> {
        vec![self.0.to_value(), self.1.to_value()]
    }

    fn of_values(values: Vec<Value>) -> Option<Self> {
        let [a, b] = values.try_into().ok()?;
        Some((A::of_value(a)?, B::of_value(b)?))
    }
}

impl One for String {
    fn ty() -> Type {
        Type::String
    }

    fn to_value(&self) -> Value {
        Value::String(self.clone())
    }

    fn of_value(value: Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl One for Vec<u8> {
    fn ty() -> Type {
        Type::Bytes
    }

    fn to_value(&self) -> Value {
        Value::Bytes(self.clone())
    }

    fn of_value(value: Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl One for u32 {
    fn ty() -> Type {
        Type::U32
    }

    fn to_value(&self) -> Value {
        Value::U32(*self)
    }

    fn of_value(value: Value) -> Option<Self> {
        match value {
            Value::U32(number) => Some(number),
            _ => None,
        }
    }
}

impl<T: One> One for Option<T> {
    fn ty() -> Type {
        Type::Option(Box::new(T::ty()))
    }

    fn to_value(&self) -> Value {
        Value::Option(self.as_ref().map(|some| Box::new(some.to_value())))
    }

    fn of_value(value: Value) -> Option<Self> {
        match value {
            Value::Option(None) => Some(None),
            Value::Option(Some(some)) => T::of_value(*some).map(Some),
            _ => None,
        }
    }
}

impl<T: One, E: One> One for Result<T, E> {
    fn ty() -> Type {
        let (ok, err) = (Some(Box::new(T::ty())), Some(Box::new(E::ty())));
        Type::Result { ok, err }
    }

    fn to_value(&self) -> Value {
        Value::Result(match self {
            Ok(ok) => Ok(Some(Box::new(ok.to_value()))),
            Err(err) => Err(Some(Box::new(err.to_value()))),
        })
    }

    fn of_value(value: Value) -> Option<Self> {
        match value {
            Value::Result(Ok(Some(ok))) => T::of_value(*ok).map(Ok),
            Value::Result(Err(Some(err))) => E::of_value(*err).map(Err),
            _ => None,
        }
    }
}
