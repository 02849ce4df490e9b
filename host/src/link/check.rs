//! Whether what one component imports is what another exports.
//!
//! Owns the comparison of types, and how a difference is told: with both sides.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use wasmtime::component::types::{ComponentFunc, Type};
use weft_compose::InterfacePattern;

use crate::component::description::{Description, Interface};
use crate::digest::hex;

/// Bytes of a digest of types: enough for no two to be the same by chance or design.
const TYPES_LEN: usize = 16;
/// What stands for types that can't cross. No name in WIT has a space in it.
const RESOURCE: &str = "a resource";
const FOREIGN: &str = "a type that can't cross actors";

/// The functions of `target` that answer those of `import`, in the order of the import, each by its
/// [position](Description::position).
///
/// # Errors
/// What is missing, or which function differs and how, in one sentence.
pub fn exports(import: &Interface, target: &Description) -> Result<Vec<usize>, String> {
    let wanted: InterfacePattern = import
        .interface
        .parse()
        .map_err(|error| format!("its import {}: {error}", import.interface))?;
    let Some(export) = target
        .exports
        .iter()
        .find(|export| wanted.matches(&export.interface))
    else {
        let names: Vec<_> = target
            .exports
            .iter()
            .map(|export| export.interface.as_str())
            .collect();
        let offered = if names.is_empty() {
            "no interface".to_owned()
        } else {
            names.join(", ")
        };
        return Err(format!(
            "it imports {}, and the target exports {offered}",
            import.interface
        ));
    };
    import
        .functions
        .iter()
        .map(|function| {
            let found = export.functions.iter().find(|own| own.name == function.name);
            let Some((found, at)) = found.zip(target.position(&export.interface, &function.name)) else {
                return Err(format!(
                    "it imports the function `{}` of {}, which the target's {} does not have",
                    function.name, import.interface, export.interface
                ));
            };
            if function.types.is_some() && function.types == found.types {
                Ok(at)
            } else {
                Err(format!(
                    "`{}` of {} is {} where it is imported and {} where it is exported",
                    function.name, import.interface, function.signature, found.signature
                ))
            }
        })
        .collect()
}

/// A digest of what a function takes and gives, the same for two functions if a call of the one can be answered by the
/// other: names of parameters may differ. `None` if a type in it can't cross from actor to actor.
pub fn types(ty: &ComponentFunc) -> Option<String> {
    let all = ty
        .params()
        .map(|(_, ty)| describe(&ty))
        .chain([String::from("->")])
        .chain(ty.results().map(|ty| describe(&ty)));
    let text = all.collect::<Vec<_>>().join(", ");
    let crosses = !text.contains(RESOURCE) && !text.contains(FOREIGN);
    crosses.then(|| hex(&Sha256::digest(text)[..TYPES_LEN]))
}

/// A function's type as WIT writes it, types of other names written out.
pub fn signature(ty: &ComponentFunc) -> String {
    let mut text = "func(".to_owned();
    for (at, (name, ty)) in ty.params().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{name}: {}", describe(&ty));
    }
    text.push(')');
    if let Some(result) = ty.results().next() {
        let _ = write!(text, " -> {}", describe(&result));
    }
    text
}

/// A type as WIT writes it, with the fields and cases of named types written out.
pub fn describe(ty: &Type) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let payload = |name: &str, ty: Option<Type>| match ty {
        Some(ty) => format!("{name}({})", describe(&ty)),
        None => name.to_owned(),
    };
    match ty {
        Type::Bool => "bool".to_owned(),
        Type::S8 => "s8".to_owned(),
        Type::U8 => "u8".to_owned(),
        Type::S16 => "s16".to_owned(),
        Type::U16 => "u16".to_owned(),
        Type::S32 => "s32".to_owned(),
        Type::U32 => "u32".to_owned(),
        Type::S64 => "s64".to_owned(),
        Type::U64 => "u64".to_owned(),
        Type::Float32 => "f32".to_owned(),
        Type::Float64 => "f64".to_owned(),
        Type::Char => "char".to_owned(),
        Type::String => "string".to_owned(),
        Type::List(list) => format!("list<{}>", describe(&list.ty())),
        Type::Record(record) => {
            let fields = record
                .fields()
                .map(|field| format!("{}: {}", field.name, describe(&field.ty)));
            format!("record {{ {} }}", list(fields.collect()))
        }
        Type::Tuple(tuple) => format!("tuple<{}>", list(tuple.types().map(|ty| describe(&ty)).collect())),
        Type::Variant(variant) => {
            let cases = variant.cases().map(|case| payload(case.name, case.ty));
            format!("variant {{ {} }}", list(cases.collect()))
        }
        Type::Enum(names) => format!("enum {{ {} }}", list(names.names().map(str::to_owned).collect())),
        Type::Flags(names) => format!("flags {{ {} }}", list(names.names().map(str::to_owned).collect())),
        Type::Option(option) => format!("option<{}>", describe(&option.ty())),
        Type::Result(result) => match (result.ok(), result.err()) {
            (None, None) => "result".to_owned(),
            (Some(ok), None) => format!("result<{}>", describe(&ok)),
            (ok, Some(err)) => {
                let ok = ok.map_or("_".to_owned(), |ok| describe(&ok));
                format!("result<{ok}, {}>", describe(&err))
            }
        },
        Type::Own(_) | Type::Borrow(_) => RESOURCE.to_owned(),
        _ => FOREIGN.to_owned(),
    }
}
