//! Any bytes as a value of any type.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use weft_lattice::codec::{Fields, Names, Type};

#[derive(Debug, Arbitrary)]
enum Shape {
    Plain(u8),
    List(Box<Shape>),
    Record(Vec<Shape>),
    Tuple(Vec<Shape>),
    Variant(Vec<Option<Shape>>),
    Enum(u8),
    Option(Box<Shape>),
    Result(Option<Box<Shape>>, Option<Box<Shape>>),
    Flags(u8),
    Map(Box<Shape>, Box<Shape>),
}

const PLAIN: [Type; 14] = [
    Type::Bool,
    Type::S8,
    Type::U8,
    Type::S16,
    Type::U16,
    Type::S32,
    Type::U32,
    Type::S64,
    Type::U64,
    Type::F32,
    Type::F64,
    Type::Char,
    Type::String,
    Type::Bytes,
];

/// The names of a type: `f0`, `f1`, ...
fn named<T>(fields: impl Iterator<Item = T>) -> Fields<T> {
    let named = fields.enumerate().map(|(at, field)| (format!("f{at}"), field));
    Fields::new(named).expect("numbered names are unique")
}

fn names(len: u8) -> Names {
    Names::new((0..len.max(1)).map(|at| format!("f{at}"))).expect("numbered names are unique")
}

fn of(shape: &Shape) -> Type {
    let boxed = |shape: &Shape| Box::new(of(shape));
    match shape {
        Shape::Plain(at) => PLAIN[usize::from(*at) % PLAIN.len()].clone(),
        Shape::List(element) => Type::list(of(element)),
        Shape::Record(fields) => Type::Record(named(fields.iter().map(of))),
        Shape::Tuple(types) => Type::Tuple(types.iter().map(of).collect()),
        Shape::Variant(cases) => Type::Variant(named(cases.iter().map(|case| case.as_ref().map(of)))),
        Shape::Enum(len) => Type::Enum(names(*len)),
        Shape::Option(some) => Type::Option(boxed(some)),
        Shape::Result(ok, err) => Type::Result {
            ok: ok.as_deref().map(boxed),
            err: err.as_deref().map(boxed),
        },
        Shape::Flags(len) => Type::Flags(names(*len)),
        Shape::Map(key, value) => Type::Map(boxed(key), boxed(value)),
    }
}

fuzz_target!(|input: (Shape, &[u8])| weft_lattice_fuzz::value(&of(&input.0), input.1));
