//! The law: what a component hands over comes out as it was, and its type too.

use std::fmt::Write as _;
use std::sync::LazyLock;

use proptest::prelude::*;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;
use weft_lattice::codec::{Limits, decode, encode};

use super::*;

static ENGINE: LazyLock<wasmtime::Engine> = LazyLock::new(wasmtime::Engine::default);

const NAME: &str = "[a-z][a-z0-9]{0,5}(-[a-z][a-z0-9]{0,3})?";

fn names() -> impl Strategy<Value = Names> {
    prop::collection::btree_set(NAME, 1..5).prop_map(|names| Names::new(names).unwrap())
}

fn fields<T: std::fmt::Debug>(field: impl Strategy<Value = T>) -> impl Strategy<Value = Fields<T>> {
    // A hash map, so that the order of the type is not that of the wire.
    prop::collection::hash_map(NAME, field, 1..5).prop_map(|fields| Fields::new(fields).unwrap())
}

/// Any type that a component can have today; maps are not enabled in its text.
fn types() -> impl Strategy<Value = Type> {
    use Type::{Bool, Bytes, Char, F32, F64, S8, S16, S32, S64, String, U8, U16, U32, U64};
    let plain = [
        Bool, S8, U8, S16, U16, S32, U32, S64, U64, F32, F64, Char, String, Bytes,
    ];
    let leaf = prop_oneof![
        8 => prop::sample::select(plain.to_vec()),
        1 => names().prop_map(Type::Enum),
        1 => names().prop_map(Type::Flags),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let maybe = || prop::option::of(boxed());
        prop_oneof![
            inner.clone().prop_map(Type::list),
            boxed().prop_map(Type::Option),
            fields(inner.clone()).prop_map(Type::Record),
            fields(prop::option::of(inner.clone())).prop_map(Type::Variant),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Type::Tuple),
            (maybe(), maybe()).prop_map(|(ok, err)| Type::Result { ok, err }),
        ]
    })
}

/// Any value of `ty`.
fn values(ty: &Type) -> BoxedStrategy<Value> {
    let payload = |ty: Option<&Type>| match ty {
        Some(ty) => values(ty).prop_map(|value| Some(Box::new(value))).boxed(),
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
        Type::F32 => any::<f32>().prop_map(Value::F32).boxed(),
        Type::F64 => any::<f64>().prop_map(Value::F64).boxed(),
        Type::Char => any::<char>().prop_map(Value::Char).boxed(),
        Type::String => any::<String>().prop_map(Value::String).boxed(),
        Type::Bytes => any::<Vec<u8>>().prop_map(Value::Bytes).boxed(),
        Type::List(element) => prop::collection::vec(values(element), 0..4)
            .prop_map(Value::List)
            .boxed(),
        Type::Record(fields) => {
            let fields = fields
                .iter()
                .map(|(name, ty)| (Just(name.to_owned()), values(ty)));
            fields.collect::<Vec<_>>().prop_map(Value::Record).boxed()
        }
        Type::Tuple(types) => types
            .iter()
            .map(values)
            .collect::<Vec<_>>()
            .prop_map(Value::Tuple)
            .boxed(),
        Type::Variant(cases) => {
            let cases = cases.iter().map(|(name, ty)| {
                let case = (Just(name.to_owned()), payload(ty.as_ref()));
                case.prop_map(|(name, payload)| Value::Variant(name, payload))
                    .boxed()
            });
            proptest::strategy::Union::new(cases).boxed()
        }
        Type::Enum(names) => {
            let names: Vec<String> = names.iter().map(str::to_owned).collect();
            prop::sample::select(names).prop_map(Value::Enum).boxed()
        }
        Type::Flags(names) => {
            let names: Vec<String> = names.iter().map(str::to_owned).collect();
            prop::sample::subsequence(names.clone(), 0..=names.len())
                .prop_map(Value::Flags)
                .boxed()
        }
        Type::Option(some) => prop::option::of(values(some).prop_map(Box::new))
            .prop_map(Value::Option)
            .boxed(),
        Type::Result { ok, err } => prop_oneof![
            payload(ok.as_deref()).prop_map(|value| Value::Result(Ok(value))),
            payload(err.as_deref()).prop_map(|value| Value::Result(Err(value))),
        ]
        .boxed(),
        Type::Map(..) => unreachable!("none is generated"),
    }
}

/// The type as component text. What has a name in WIT becomes a declaration, as imports may not hold it otherwise.
fn text(ty: &Type, declarations: &mut String) -> String {
    let quoted = |names: &Names| {
        names
            .iter()
            .map(|name| format!(" \"{name}\""))
            .collect::<String>()
    };
    let declared = match ty {
        Type::Bool => return "bool".to_owned(),
        Type::S8 => return "s8".to_owned(),
        Type::U8 => return "u8".to_owned(),
        Type::S16 => return "s16".to_owned(),
        Type::U16 => return "u16".to_owned(),
        Type::S32 => return "s32".to_owned(),
        Type::U32 => return "u32".to_owned(),
        Type::S64 => return "s64".to_owned(),
        Type::U64 => return "u64".to_owned(),
        Type::F32 => return "f32".to_owned(),
        Type::F64 => return "f64".to_owned(),
        Type::Char => return "char".to_owned(),
        Type::String => return "string".to_owned(),
        Type::Bytes => return "(list u8)".to_owned(),
        Type::List(element) => return format!("(list {})", text(element, declarations)),
        Type::Option(some) => return format!("(option {})", text(some, declarations)),
        Type::Tuple(types) => {
            let types = types.iter().map(|ty| format!(" {}", text(ty, declarations)));
            return format!("(tuple{})", types.collect::<String>());
        }
        Type::Result { ok, err } => {
            let ok = ok.as_ref().map(|ty| format!(" {}", text(ty, declarations)));
            let err = err
                .as_ref()
                .map(|ty| format!(" (error {})", text(ty, declarations)));
            return format!("(result{}{})", ok.unwrap_or_default(), err.unwrap_or_default());
        }
        Type::Record(fields) => {
            let fields = fields
                .iter()
                .map(|(name, ty)| format!(" (field \"{name}\" {})", text(ty, declarations)));
            format!("(record{})", fields.collect::<String>())
        }
        Type::Variant(cases) => {
            let cases = cases.iter().map(|(name, ty)| match ty {
                Some(ty) => format!(" (case \"{name}\" {})", text(ty, declarations)),
                None => format!(" (case \"{name}\")"),
            });
            format!("(variant{})", cases.collect::<String>())
        }
        Type::Enum(names) => format!("(enum{})", quoted(names)),
        Type::Flags(names) => format!("(flags{})", quoted(names)),
        Type::Map(..) => unreachable!("none is generated"),
    };
    let n = declarations.lines().count();
    writeln!(
        declarations,
        "(type $d{n} {declared}) (import \"t{n}\" (type $t{n} (eq $d{n})))"
    )
    .unwrap();
    format!("$t{n}")
}

/// The type of the only function that `wat` imports.
fn function(wat: &str) -> ComponentFunc {
    let component = Component::new(&ENGINE, wat::parse_str(wat).unwrap()).unwrap();
    let item = component.component_type().get_import(&ENGINE, "f").unwrap().ty;
    match item {
        ComponentItem::ComponentFunc(function) => function,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_value_of_any_type_crosses_as_it_is(
        (ty, values) in types().prop_flat_map(|ty| {
            let values = prop::collection::vec(values(&ty), 1..4);
            (Just(ty), values)
        })
    ) {
        let mut declarations = String::new();
        let written = text(&ty, &mut declarations);
        let function = function(&format!(
            "(component {declarations} (import \"f\" (func (param \"value\" {written}) (result {written}))))"
        ));
        let (params, result) = signature_of(&function).unwrap();
        prop_assert_eq!((&params[..], result.as_ref()), (&[ty.clone()][..], Some(&ty)));
        for value in values {
            let val = val_of(value.clone());
            let bytes = encode(&ty, &value_of(&ty, &val).unwrap()).unwrap();
            let back = val_of(decode(&ty, &bytes, &Limits::default()).unwrap());
            prop_assert_eq!(in_order(back), in_order(val));
        }
    }
}

/// Flags are a set.
fn in_order(val: Val) -> Val {
    match val {
        Val::Flags(mut set) => {
            set.sort();
            Val::Flags(set)
        }
        other => other,
    }
}

#[test]
fn what_belongs_to_one_instance_does_not_cross() {
    let resource = r#"(component
        (import "r" (type $r (sub resource)))
        (import "f" (func (param "handle" (list (own $r))))))"#;
    let error = signature_of(&function(resource)).unwrap_err();
    assert_eq!(error, ValueError::CantCross("a resource"));
    assert!(error.to_string().starts_with("a resource can't cross"), "{error}");
}

#[test]
fn a_value_of_another_type_is_refused() {
    let point = Type::Record(Fields::new([("x", Type::U8)]).unwrap());
    for val in [
        Val::Record(Vec::new()),
        Val::List(Vec::new()),
        Val::Enum("x".to_owned()),
    ] {
        assert_eq!(value_of(&point, &val), Err(ValueError::Mismatch));
    }
    assert_eq!(
        value_of(&Type::Bytes, &Val::List(vec![Val::U16(1)])),
        Err(ValueError::Mismatch)
    );
}
