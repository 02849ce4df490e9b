//! Values: what is written is read, what a stranger wrote is read or refused, and errors say where.

use proptest::prelude::*;
use weft_lattice::codec::{
    Fields, Limits, Names, Problem, Type, TypeError, Value, decode, decode_all, encode, encode_all,
};

use crate::from_hex;
use crate::vectors::{item, item_value, text, vectors};

fn names() -> impl Strategy<Value = Names> {
    proptest::collection::btree_set("[a-z][a-z0-9-]{0,30}", 1..5)
        .prop_map(|names| Names::new(names).expect("a set"))
}

fn fields<T: std::fmt::Debug>(field: impl Strategy<Value = T>) -> impl Strategy<Value = Fields<T>> {
    // A hash map, so that the order of the type is not that of the wire.
    proptest::collection::hash_map("[a-z][a-z0-9-]{0,30}", field, 1..5)
        .prop_map(|fields| Fields::new(fields).expect("a map"))
}

fn types() -> impl Strategy<Value = Type> {
    use Type::{
        Bool, Bytes, Char, Enum, F32, F64, Flags, Map, Option, Record, S8, S16, S32, S64, String, Tuple, U8,
        U16, U32, U64, Variant,
    };
    let plain = [
        Bool, S8, U8, S16, U16, S32, U32, S64, U64, F32, F64, Char, String, Bytes,
    ];
    let leaf = prop_oneof![
        14 => prop::sample::select(plain.to_vec()),
        1 => names().prop_map(Enum),
        1 => names().prop_map(Flags),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let maybe = || proptest::option::of(boxed());
        prop_oneof![
            inner.clone().prop_map(Type::list),
            boxed().prop_map(Option),
            fields(inner.clone()).prop_map(Record),
            fields(proptest::option::of(inner.clone())).prop_map(Variant),
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Tuple),
            (maybe(), maybe()).prop_map(|(ok, err)| Type::Result { ok, err }),
            (boxed(), boxed()).prop_map(|(key, value)| Map(key, value)),
        ]
    })
}

/// Any value of `ty`, but for NaN, which is not itself.
fn value_of(ty: &Type) -> BoxedStrategy<Value> {
    let payload = |ty: Option<&Type>| match ty {
        Some(ty) => value_of(ty).prop_map(|value| Some(Box::new(value))).boxed(),
        None => Just(None).boxed(),
    };
    match ty {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::S8 => any::<i8>().prop_map(Value::S8).boxed(),
        Type::U8 => any::<u8>().prop_map(Value::U8).boxed(),
        Type::S16 => any::<i16>().prop_map(Value::S16).boxed(),
        Type::U16 => any::<u16>().prop_map(Value::U16).boxed(),
        Type::S32 => any::<i32>().prop_map(Value::S32).boxed(),
        Type::U32 => any::<u32>().prop_map(Value::U32).boxed(),
        Type::S64 => any::<i64>().prop_map(Value::S64).boxed(),
        Type::U64 => any::<u64>().prop_map(Value::U64).boxed(),
        Type::F32 => prop_oneof![any::<f32>(), any::<i16>().prop_map(f32::from)]
            .prop_map(Value::F32)
            .boxed(),
        Type::F64 => prop_oneof![any::<f64>(), any::<f32>().prop_map(f64::from)]
            .prop_map(Value::F64)
            .boxed(),
        Type::Char => any::<char>().prop_map(Value::Char).boxed(),
        Type::String => any::<String>().prop_map(Value::String).boxed(),
        Type::Bytes => any::<Vec<u8>>().prop_map(Value::Bytes).boxed(),
        Type::List(element) => proptest::collection::vec(value_of(element), 0..4)
            .prop_map(Value::List)
            .boxed(),
        Type::Record(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, ty)| (Just(name.to_owned()), value_of(ty)))
                .collect();
            fields.prop_map(Value::Record).boxed()
        }
        Type::Tuple(types) => types
            .iter()
            .map(value_of)
            .collect::<Vec<_>>()
            .prop_map(Value::Tuple)
            .boxed(),
        Type::Variant(cases) => {
            let cases: Vec<_> = cases
                .iter()
                .map(|(name, ty)| (Just(name.to_owned()), payload(ty.as_ref())))
                .map(|case| {
                    case.prop_map(|(name, payload)| Value::Variant(name, payload))
                        .boxed()
                })
                .collect();
            proptest::strategy::Union::new(cases).boxed()
        }
        Type::Enum(names) => {
            let names: Vec<String> = names.iter().map(str::to_owned).collect();
            prop::sample::select(names).prop_map(Value::Enum).boxed()
        }
        Type::Option(some) => proptest::option::of(value_of(some))
            .prop_map(|value| Value::Option(value.map(Box::new)))
            .boxed(),
        Type::Result { ok, err } => prop_oneof![
            payload(ok.as_deref()).prop_map(|value| Value::Result(Ok(value))),
            payload(err.as_deref()).prop_map(|value| Value::Result(Err(value))),
        ]
        .boxed(),
        Type::Flags(names) => {
            let names: Vec<String> = names.iter().map(str::to_owned).collect();
            let len = names.len();
            prop::sample::subsequence(names, 0..=len)
                .prop_map(Value::Flags)
                .boxed()
        }
        Type::Map(key, value) => proptest::collection::vec((value_of(key), value_of(value)), 0..4)
            .prop_map(Value::Map)
            .boxed(),
    }
}

pub(crate) fn typed_values() -> impl Strategy<Value = (Type, Value)> {
    types().prop_flat_map(|ty| (Just(ty.clone()), value_of(&ty)))
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_written_the_same_again((ty, value) in typed_values()) {
        let bytes = encode(&ty, &value).unwrap();
        let read = decode(&ty, &bytes, &Limits::default()).unwrap();
        prop_assert_eq!(&read, &value);
        prop_assert_eq!(encode(&ty, &read).unwrap(), bytes);
    }

    #[test]
    fn a_value_that_is_cut_short_or_has_more_after_it_is_refused(
        (ty, value) in typed_values(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(&ty, &value).unwrap();
        let cut = cut.index(bytes.len());
        prop_assert!(decode(&ty, &bytes[..cut], &Limits::default()).is_err());
        bytes.push(0);
        let error = decode(&ty, &bytes, &Limits::default()).unwrap_err();
        prop_assert_eq!(error.problem(), &Problem::Trailing(1));
    }

    #[test]
    fn what_a_stranger_wrote_is_read_or_refused_and_what_is_read_can_be_written(
        (ty, value) in typed_values(),
        bytes in any::<Vec<u8>>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut spoilt = encode(&ty, &value).unwrap();
        let at = at.index(spoilt.len());
        spoilt[at] = byte;
        for bytes in [bytes, spoilt] {
            if let Ok(value) = decode(&ty, &bytes, &Limits::default()) {
                let canonical = encode(&ty, &value).unwrap();
                prop_assert!(canonical.len() <= bytes.len(), "the shortest form is the canonical one");
            }
        }
    }

    #[test]
    fn a_value_takes_no_more_memory_than_the_limit((ty, value) in typed_values(), memory in 0..2_000_usize) {
        let bytes = encode(&ty, &value).unwrap();
        let limits = Limits { memory, ..Limits::default() };
        match decode(&ty, &bytes, &limits) {
            Ok(value) => prop_assert!(memory_of(&value) <= memory),
            Err(error) => prop_assert_eq!(error.problem(), &Problem::TooLarge(memory)),
        }
    }

    #[test]
    fn every_nan_is_the_same((single, double) in (any::<u32>(), any::<u64>())) {
        let single = f32::from_bits(single | 0x7f80_0001);
        let double = f64::from_bits(double | 0x7ff0_0000_0000_0001);
        prop_assert_eq!(encode(&Type::F32, &Value::F32(single)).unwrap(), from_hex("f97e00"));
        prop_assert_eq!(encode(&Type::F64, &Value::F64(double)).unwrap(), from_hex("f97e00"));
    }
}

/// What a value holds on the heap.
fn memory_of(value: &Value) -> usize {
    let all = |values: &[Value]| {
        values
            .iter()
            .map(|value| size_of::<Value>() + memory_of(value))
            .sum()
    };
    let boxed = |value: &Option<Box<Value>>| {
        value
            .as_ref()
            .map_or(0, |value| size_of::<Value>() + memory_of(value))
    };
    match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(values) | Value::Tuple(values) => all(values),
        Value::Record(fields) => fields
            .iter()
            .map(|(name, value)| size_of::<(String, Value)>() + name.len() + memory_of(value))
            .sum(),
        Value::Variant(case, payload) => case.len() + boxed(payload),
        Value::Enum(case) => case.len(),
        Value::Option(value) | Value::Result(Ok(value) | Err(value)) => boxed(value),
        Value::Flags(names) => names.iter().map(|name| size_of::<String>() + name.len()).sum(),
        Value::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| 2 * size_of::<Value>() + memory_of(key) + memory_of(value))
            .sum(),
        _ => 0,
    }
}

#[test]
fn what_was_written_once_is_written_for_ever() {
    let golden = std::fs::read_to_string(crate::path("tests/golden/values.txt")).unwrap();
    let line = |vector: &crate::vectors::Vector| {
        let bytes = encode(&vector.ty, &vector.value).unwrap();
        format!(
            "{} | {} | {}",
            vector.type_text,
            vector.value_text,
            crate::to_hex(&bytes)
        )
    };
    let written: Vec<String> = vectors().iter().map(line).collect();
    assert_eq!(golden.lines().collect::<Vec<_>>(), written);
}

#[test]
fn numbers_of_any_width_are_taken_if_the_type_holds_them_exactly() {
    let read = |ty: &Type, hex: &str| {
        decode(ty, &from_hex(hex), &Limits::default()).map_err(|error| error.problem().clone())
    };
    assert_eq!(read(&Type::U8, "1b0000000000000001"), Ok(Value::U8(1)));
    assert_eq!(read(&Type::U8, "190100"), Err(Problem::Range("a u8")));
    assert_eq!(read(&Type::U8, "20"), Err(Problem::Range("a u8")));
    assert_eq!(
        read(&Type::S64, "3bffffffffffffffff"),
        Err(Problem::Range("an s64"))
    );
    assert_eq!(read(&Type::F32, "fb3ff8000000000000"), Ok(Value::F32(1.5)));
    assert_eq!(
        read(&Type::F32, "fb3fb999999999999a"),
        Err(Problem::Range("an f32"))
    );
    assert_eq!(read(&Type::F64, "01"), Ok(Value::F64(1.0)));
    assert_eq!(
        read(&Type::F64, "1b0020000000000001"),
        Err(Problem::Range("an f64"))
    );
    assert!(matches!(read(&Type::U8, "f93c00"), Err(Problem::Kind { .. })));
}

#[test]
fn fields_and_flags_come_in_any_order() {
    let read = |ty: &Type, hex: &str| decode(ty, &from_hex(hex), &Limits::default()).unwrap();
    let other_order = "a3 63736b75 63612d31 626964 07 657072696365 f948c0";
    assert_eq!(read(&item(), other_order), item_value("a-1", 9.5, 7));
    let flags = Type::Flags(Names::new(["read", "write"]).unwrap());
    let set = Value::Flags(vec!["read".to_owned(), "write".to_owned()]);
    assert_eq!(read(&flags, "82 657772697465 6472656164"), set);
}

#[test]
fn an_error_says_where_and_what() {
    let items = [
        Type::U8,
        Type::Record(Fields::new([("items", Type::list(item()))]).unwrap()),
    ];
    let read = |hex: &str| {
        decode_all("args", &items, &from_hex(hex), &Limits::default())
            .unwrap_err()
            .to_string()
    };
    for (hex, error) in [
        (
            "82 01 a1 656974656d73 81 a3 626964 07 63736b75 00",
            "`args[1].items[0].sku`: expected a string, found CBOR u8",
        ),
        (
            "82 01 a1 656974656d73 81 a1 626964 07",
            "`args[1].items[0]`: the field `sku` is missing",
        ),
        (
            "82 01 a1 6178 00",
            "`args[1]`: the field `x` is unknown here: are both sides built against the same interface?",
        ),
        (
            "82 01 a1 656974656d73 81 a2 626964 07 626964 07",
            "`args[1].items[0]`: `id` is there twice",
        ),
        ("81 01", "`args`: expected 2 elements, found 1"),
        ("82 18 01", "`args[1]`: the bytes end here"),
        (
            "9f 01 ff",
            "`args`: the length is indefinite: send a definite one",
        ),
        (
            "82 01 a1 656974656d73 9b0000000000ffffff",
            "`args[1].items`: the bytes end here",
        ),
        ("82 c1 01", "`args[0]`: expected a u8, found CBOR tag"),
    ] {
        assert_eq!(read(hex), error);
    }
}

#[test]
fn each_other_fault_has_its_problem() {
    let shape = Type::Variant(Fields::new([("circle", Some(Type::F32)), ("empty", None)]).unwrap());
    let flags = Type::Flags(Names::new(["a"]).unwrap());
    let result = Type::Result { ok: None, err: None };
    let payload = |case: &str, wanted| Problem::Payload {
        case: case.to_owned(),
        wanted,
    };
    for (ty, hex, problem) in [
        (&shape, "81 66636972636c65", payload("circle", true)),
        (&shape, "82 65656d707479 01", payload("empty", false)),
        (&shape, "81 6178", Problem::Case("x".to_owned())),
        (
            &shape,
            "80",
            Problem::Count {
                expected: 2,
                found: 0,
            },
        ),
        (&result, "81 6178", Problem::Case("x".to_owned())),
        (&flags, "81 6178", Problem::Case("x".to_owned())),
        (&flags, "82 6161 6161", Problem::Repeated("a".to_owned())),
        (&Type::Char, "62 6161", Problem::Char),
        (&Type::String, "61 ff", Problem::Utf8),
        (&Type::String, "7f 6161 ff", Problem::Indefinite),
        (
            &Type::Option(Box::new(Type::U8)),
            "82 01 01",
            Problem::Count {
                expected: 1,
                found: 2,
            },
        ),
        (&Type::U8, "1c", Problem::Malformed),
        (&Type::U8, "", Problem::End),
    ] {
        let error = decode(ty, &from_hex(hex), &Limits::default()).unwrap_err();
        assert_eq!(error.problem(), &problem, "{hex}");
    }
}

#[test]
fn depth_and_memory_are_bounded() {
    let deep = (0..100).fold(Type::U8, |ty, _| Type::Option(Box::new(ty)));
    let bytes = [vec![0x81; 100], vec![0]].concat();
    let error = decode(&deep, &bytes, &Limits::default()).unwrap_err();
    assert_eq!(error.problem(), &Problem::TooDeep(64));
    let large = [from_hex("9a 00 10 00 00"), vec![0xf4; 1 << 20]].concat();
    let bools = Type::list(Type::Bool);
    assert!(decode(&bools, &large, &Limits::default()).is_ok());
    let small = Limits {
        memory: 1 << 20,
        ..Limits::default()
    };
    assert_eq!(
        decode(&bools, &large, &small).unwrap_err().problem(),
        &Problem::TooLarge(1 << 20)
    );
}

#[test]
fn a_value_that_is_not_of_its_type_is_not_written() {
    let wrong = |ty: &Type, value: &Value| encode(ty, value).unwrap_err().to_string();
    assert_eq!(
        wrong(&Type::U8, &text("x")),
        "`value`: expected a u8, found a string"
    );
    let mut record = item_value("a-1", 9.5, 7);
    if let Value::Record(fields) = &mut record {
        fields.pop();
    }
    assert_eq!(wrong(&item(), &record), "`value`: the field `id` is missing");
    let pair = [Type::U8, Type::Tuple(vec![Type::U8, Type::U8])];
    let values = [Value::U8(1), Value::Tuple(vec![Value::U8(1), Value::Bool(true)])];
    let error = encode_all("args", &pair, &values).unwrap_err();
    assert_eq!(error.to_string(), "`args[1][1]`: expected a u8, found a bool");
}

#[test]
fn a_type_has_each_name_once() {
    assert_eq!(
        Names::new(["a", "b", "a"]),
        Err(TypeError::Repeated("a".to_owned()))
    );
}
