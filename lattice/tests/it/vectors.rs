//! A value of each type with its bytes, as docs/wire.md shows them.

use weft_lattice::codec::{Fields, Names, Type, Value};

/// A type and a value, with the texts that docs/wire.md has for them.
pub(crate) struct Vector {
    pub(crate) type_text: &'static str,
    pub(crate) value_text: &'static str,
    pub(crate) ty: Type,
    pub(crate) value: Value,
}

pub(crate) fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub(crate) fn item() -> Type {
    let fields = [("sku", Type::String), ("price", Type::F64), ("id", Type::U32)];
    Type::Record(Fields::new(fields).expect("each name once"))
}

pub(crate) fn item_value(sku: &str, price: f64, id: u32) -> Value {
    Value::Record(vec![
        ("sku".to_owned(), text(sku)),
        ("price".to_owned(), Value::F64(price)),
        ("id".to_owned(), Value::U32(id)),
    ])
}

fn boxed(value: Value) -> Option<Box<Value>> {
    Some(Box::new(value))
}

pub(crate) fn vectors() -> Vec<Vector> {
    let shape = || {
        Type::Variant(Fields::new([("circle", Some(Type::F32)), ("empty", None)]).expect("each name once"))
    };
    let names = || Names::new(["read", "write", "admin"]).expect("each name once");
    let result = || Type::Result {
        ok: Some(Box::new(Type::U8)),
        err: Some(Box::new(Type::String)),
    };
    let bare = || Type::Result { ok: None, err: None };
    let option = |some| Type::Option(Box::new(some));
    [
        ("bool", "false", Type::Bool, Value::Bool(false)),
        ("bool", "true", Type::Bool, Value::Bool(true)),
        ("u8", "23", Type::U8, Value::U8(23)),
        ("u8", "24", Type::U8, Value::U8(24)),
        ("u16", "1000", Type::U16, Value::U16(1000)),
        ("u32", "1000000", Type::U32, Value::U32(1_000_000)),
        ("u64", "18446744073709551615", Type::U64, Value::U64(u64::MAX)),
        ("s8", "-1", Type::S8, Value::S8(-1)),
        ("s16", "-500", Type::S16, Value::S16(-500)),
        ("s32", "-2147483648", Type::S32, Value::S32(i32::MIN)),
        ("s64", "-9223372036854775808", Type::S64, Value::S64(i64::MIN)),
        ("f32", "1.5", Type::F32, Value::F32(1.5)),
        ("f32", "0.1", Type::F32, Value::F32(0.1)),
        ("f64", "1.5", Type::F64, Value::F64(1.5)),
        ("f64", "100000.0", Type::F64, Value::F64(100_000.0)),
        ("f64", "0.1", Type::F64, Value::F64(0.1)),
        ("f64", "-inf", Type::F64, Value::F64(f64::NEG_INFINITY)),
        ("f64", "nan", Type::F64, Value::F64(f64::NAN)),
        ("char", "'ü'", Type::Char, Value::Char('ü')),
        ("string", "\"weft\"", Type::String, text("weft")),
        (
            "list<u8>",
            "[1, 2, 255]",
            Type::Bytes,
            Value::Bytes(vec![1, 2, 255]),
        ),
        (
            "list<u16>",
            "[1, 2, 255]",
            Type::list(Type::U16),
            Value::List([1, 2, 255].map(Value::U16).into()),
        ),
        (
            "record { sku: string, price: f64, id: u32 }",
            "{sku: \"a-1\", price: 9.5, id: 7}",
            item(),
            item_value("a-1", 9.5, 7),
        ),
        (
            "tuple<u8, string>",
            "(1, \"x\")",
            Type::Tuple(vec![Type::U8, Type::String]),
            Value::Tuple(vec![Value::U8(1), text("x")]),
        ),
        (
            "variant { circle(f32), empty }",
            "circle(1.5)",
            shape(),
            Value::Variant("circle".to_owned(), boxed(Value::F32(1.5))),
        ),
        (
            "variant { circle(f32), empty }",
            "empty",
            shape(),
            Value::Variant("empty".to_owned(), None),
        ),
        (
            "enum { read, write, admin }",
            "write",
            Type::Enum(names()),
            Value::Enum("write".to_owned()),
        ),
        ("option<u8>", "none", option(Type::U8), Value::Option(None)),
        (
            "option<u8>",
            "some(1)",
            option(Type::U8),
            Value::Option(boxed(Value::U8(1))),
        ),
        (
            "option<option<u8>>",
            "some(none)",
            option(option(Type::U8)),
            Value::Option(boxed(Value::Option(None))),
        ),
        (
            "result<u8, string>",
            "ok(1)",
            result(),
            Value::Result(Ok(boxed(Value::U8(1)))),
        ),
        (
            "result<u8, string>",
            "err(\"no\")",
            result(),
            Value::Result(Err(boxed(text("no")))),
        ),
        ("result", "ok", bare(), Value::Result(Ok(None))),
        ("result", "err", bare(), Value::Result(Err(None))),
        (
            "flags { read, write, admin }",
            "{read, admin}",
            Type::Flags(names()),
            Value::Flags(vec!["read".to_owned(), "admin".to_owned()]),
        ),
        (
            "map<string, u8>",
            "[(\"a\", 1), (\"b\", 2)]",
            Type::Map(Box::new(Type::String), Box::new(Type::U8)),
            Value::Map(vec![(text("a"), Value::U8(1)), (text("b"), Value::U8(2))]),
        ),
    ]
    .map(|(type_text, value_text, ty, value)| Vector {
        type_text,
        value_text,
        ty,
        value,
    })
    .into()
}
