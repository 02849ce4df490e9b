//! Whether what one component imports is what another exports.
//!
//! Owns the comparison of types, and how a difference is told: with both sides.

use std::fmt::Write as _;

use wasmtime::component::ComponentExportIndex;
use wasmtime::component::types::{ComponentFunc, Type};
use weft_compose::InterfacePattern;

use crate::component::LoadedComponent;
use crate::component::imports::{ActorImport, exported_functions, exported_interfaces};
use crate::engine::Engine;

/// The functions of `target` that answer those of `import`, in the order of the import.
///
/// # Errors
/// What is missing, or which function differs and how, in one sentence.
pub fn exports(
    engine: &Engine,
    import: &ActorImport,
    target: &LoadedComponent,
) -> Result<Vec<ComponentExportIndex>, String> {
    let component = target.pre.component();
    let wanted: InterfacePattern = import
        .interface
        .parse()
        .map_err(|error| format!("its import {}: {error}", import.interface))?;
    let offered = exported_interfaces(engine, component);
    let Some(interface) = offered.iter().find(|name| wanted.matches(name)) else {
        let offered = match offered.as_slice() {
            [] => "no interface".to_owned(),
            names => names.join(", "),
        };
        return Err(format!(
            "it imports {}, and the target exports {offered}",
            import.interface
        ));
    };
    let exports = exported_functions(engine, component, interface);
    import
        .functions
        .iter()
        .map(|function| {
            let Some((_, export)) = exports.iter().find(|(name, _)| *name == function.name) else {
                return Err(format!(
                    "it imports the function `{}` of {}, which the target's {interface} does not have",
                    function.name, import.interface
                ));
            };
            if same(&function.ty, &export.ty) {
                Ok(export.index)
            } else {
                Err(format!(
                    "`{}` of {} is {} where it is imported and {} where it is exported",
                    function.name,
                    import.interface,
                    signature(&function.ty),
                    signature(&export.ty)
                ))
            }
        })
        .collect()
}

/// Names of parameters may differ; what goes over is the same.
fn same(a: &ComponentFunc, b: &ComponentFunc) -> bool {
    a.params().map(|(_, ty)| ty).eq(b.params().map(|(_, ty)| ty)) && a.results().eq(b.results())
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
        Type::Own(_) | Type::Borrow(_) => "a resource".to_owned(),
        _ => "a type that can't cross actors".to_owned(),
    }
}
