//! The JSON Schema of the manifest, for editors.
//!
//! Made from the reader's own table of keys, so the two agree. It is stricter in one point: the reader takes a number or
//! a truth value for any text.

use serde_json::{Map, Value, json};

use crate::capability::{BACKENDS, Capability, OptionValue};
use crate::manifest::{ACTOR_LINK, API_VERSION, HTTP_LINK, MANIFEST, Object, PROVIDER_LINK, Shape};
use crate::route::{HEADER_LEN_MAX, METHODS, PATH_LEN_MAX};
use crate::subscription;
use crate::units::{duration_text, size_text};
use crate::watch;

const LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const NAME: &str = "^[a-z0-9-]{1,63}(/[a-z0-9-]{1,63}/[a-z0-9-]{1,63})?$";
const LINK: &str = "^[A-Za-z][A-Za-z0-9-]*:[A-Za-z][A-Za-z0-9-]*(/[A-Za-z][A-Za-z0-9-]*)?(@[0-9]+\\.[0-9]+\\.[0-9]+([-+][^#]+)?)?(#[A-Za-z0-9_-]{1,63})?$";
const FUNCTION: &str =
    "^[A-Za-z][A-Za-z0-9-]*:[A-Za-z][A-Za-z0-9-]*/[A-Za-z][A-Za-z0-9-]*(@.+)?\\.[A-Za-z][A-Za-z0-9-]*$";

const SECRET: &str = "^(secret:[a-z0-9-]{1,63}|env:WEFT_SECRET_[A-Za-z0-9_]+|file:[^/.][^/]*(/[^/.][^/]*)*)$";

/// The schema, of draft 2020-12.
pub fn json_schema() -> Value {
    let mut schema = object(&MANIFEST);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(format!("Manifest of an app ({API_VERSION})"));
    schema
}

fn object(object: &Object) -> Value {
    let mut properties = Map::new();
    for key in object.keys {
        let mut value = shape(&key.shape);
        let range = value["description"].take();
        let about = [Some(key.about), range.as_str()];
        value["description"] = json!(about.into_iter().flatten().collect::<Vec<_>>().join(" "));
        properties.insert(key.name.to_owned(), value);
    }
    let required: Vec<_> = object
        .keys
        .iter()
        .filter(|key| key.required)
        .map(|key| key.name)
        .collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn shape(of: &Shape) -> Value {
    let scalar = json!(["string", "number", "boolean"]);
    match of {
        Shape::ApiVersion => json!({ "const": API_VERSION }),
        Shape::Label => json!({ "type": "string", "pattern": LABEL }),
        Shape::Text { len_max, .. } => json!({ "type": scalar, "maxLength": len_max }),
        Shape::Component => json!({ "type": "string", "minLength": 1, "examples": ["catalog.wasm"] }),
        Shape::Count(range) => json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() }),
        Shape::Duration(range) => json!({
            "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "examples": ["500ms", "30s"],
            "description": format!("From {} to {}.", duration_text(*range.start()), duration_text(*range.end())),
        }),
        Shape::Size(range) => json!({
            "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|kB|KB|MB|GB)$", "examples": ["64MiB"],
            "description": format!("From {} to {}.", size_text(*range.start()), size_text(*range.end())),
        }),
        Shape::Function => {
            json!({ "type": "string", "pattern": FUNCTION, "examples": ["shop:catalog/catalog.get"] })
        }
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Name => json!({ "type": "string", "pattern": NAME }),
        Shape::Allow => json!({
            "type": "string", "pattern": "^(https?|\\*)://[^/]+(/[0-9]+)?(:[0-9]+)?$",
            "examples": ["https://api.example.com", "https://*.example.com:8443", "http://10.0.0.0/8:8080"],
        }),
        Shape::Capability => json!({ "enum": Capability::NAMES }),
        Shape::Backend => {
            let names: std::collections::BTreeSet<_> = BACKENDS.iter().map(|backend| backend.name).collect();
            json!({ "enum": names })
        }
        Shape::BackendConfig => json!({ "type": "object" }),
        Shape::Host => {
            json!({ "type": "string", "pattern": "^(\\*\\.)?[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$" })
        }
        Shape::Path => json!({ "type": "string", "pattern": "^/[!-~]*$", "maxLength": PATH_LEN_MAX }),
        Shape::Method => json!({ "enum": METHODS }),
        Shape::Subject => json!({
            "type": "string", "pattern": "^[!-~]+$", "maxLength": subscription::SUBJECT_LEN_MAX,
            "examples": ["orders.created", "orders.*", "orders.>"],
        }),
        Shape::Group => json!({
            "type": "string", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": subscription::GROUP_LEN_MAX,
        }),
        Shape::Bucket => json!({
            "type": "string", "pattern": "^[!-.0-~]+$", "maxLength": watch::BUCKET_LEN_MAX,
        }),
        Shape::Prefix => json!({
            "type": "string", "pattern": "^[!-~]*$", "maxLength": watch::WATCHED_LEN_MAX, "examples": ["user/"],
        }),
        Shape::Config => json!({ "type": "object", "additionalProperties": { "type": scalar } }),
        Shape::Headers => json!({
            "type": "object", "propertyNames": { "pattern": "^[A-Za-z0-9_-]{1,63}$" },
            "additionalProperties": { "type": scalar, "maxLength": HEADER_LEN_MAX },
        }),
        Shape::List(item) => json!({ "type": "array", "items": shape(item) }),
        Shape::Named(item) => json!({
            "type": "object", "propertyNames": { "pattern": LABEL }, "additionalProperties": named(item),
        }),
        Shape::Links => json!({
            "type": "object", "propertyNames": { "pattern": LINK },
            "additionalProperties": { "oneOf": [object(&PROVIDER_LINK), object(&ACTOR_LINK), object(&HTTP_LINK)] },
        }),
        Shape::Secrets => json!({
            "type": "object", "additionalProperties": { "type": "string", "pattern": SECRET, "examples": ["secret:api-key"] },
        }),
        Shape::Apps => json!({
            "type": "string", "pattern": "^[a-z0-9-]{1,63}(/([a-z0-9-]{1,63}|\\*))?$",
            "examples": ["blog", "default/blog", "default/*"],
        }),
        Shape::Object(item) => object(item),
    }
}

/// An object; one with a backend has the options of each backend.
fn named(item: &Object) -> Value {
    let mut schema = object(item);
    if item.keys.iter().any(|key| matches!(key.shape, Shape::Backend)) {
        let backends = BACKENDS.iter().map(|backend| {
            let options = backend.options.iter().map(|option| {
                let about = option.about;
                let value = match option.value {
                    OptionValue::Number { min, max } => {
                        json!({ "type": "integer", "minimum": min, "maximum": max, "description": about })
                    }
                    OptionValue::Text => json!({ "type": "string", "description": about }),
                };
                (option.name.to_owned(), value)
            });
            json!({ "properties": {
                "capability": { "const": backend.capability },
                "backend": { "const": backend.name },
                "config": { "properties": options.collect::<Map<_, _>>(), "additionalProperties": false },
            } })
        });
        schema["oneOf"] = backends.collect();
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_for_editors_is_this_schema() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/manifest.schema.json");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        // Compared as values: the order of keys depends on features that other crates ask of serde_json.
        if serde_json::from_str::<Value>(&stored).ok() != Some(json_schema()) {
            std::fs::write(path, format!("{:#}\n", json_schema())).unwrap();
            panic!("{path} was not of these keys and is written again: check it in");
        }
    }

    #[test]
    fn each_key_is_told_with_what_it_means() {
        fn walk(schema: &Value, keys: &mut usize) {
            for (key, value) in schema["properties"].as_object().into_iter().flatten() {
                *keys += 1;
                let told = value["description"]
                    .as_str()
                    .is_some_and(|about| about.ends_with('.'));
                assert!(
                    told || value.get("const").is_some() || key == "config",
                    "{key}: {value}"
                );
            }
            match schema {
                Value::Object(map) => map.values().for_each(|value| walk(value, keys)),
                Value::Array(items) => items.iter().for_each(|value| walk(value, keys)),
                _ => {}
            }
        }
        let mut keys = 0;
        walk(&json_schema(), &mut keys);
        assert!(keys > 35, "{keys}");
    }
}
