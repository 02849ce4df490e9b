//! The routes of the admin API that are served, against its document and against what one namespace may ask.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_host::admin::served_routes;

const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

#[test]
fn the_openapi_document_has_every_route_and_no_other() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
        {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let served: BTreeSet<_> = served_routes()
        .map(|route| (route.method.to_string(), route.path.to_owned()))
        .collect();
    assert_eq!(described, served);
}

#[test]
fn every_reference_within_the_openapi_document_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                members.values().for_each(|value| walk(value, document));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    walk(&document, &document);
}

#[test]
fn every_route_that_is_not_of_one_namespace_is_closed_to_who_has_rights_for_one() {
    let open: Vec<_> = served_routes()
        .filter(|route| route.is_of_namespace)
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(
        open,
        [
            "GET /v1/apps",
            "GET /v1/actors",
            "GET /v1/providers",
            "GET /v1/links",
            "GET /v1/subscriptions",
            "GET /v1/watches",
            "GET /v1/conditions",
            "GET /v1/logs",
            "GET /v1/openapi.json",
            "HEAD /v1/artifacts/{digest}",
            "PUT /v1/artifacts/{digest}",
            "POST /v1/deploy",
            "DELETE /v1/apps/{namespace}/{app}",
            "PUT /v1/links",
            "DELETE /v1/links",
            "PUT /v1/placements",
            "DELETE /v1/placements",
            "GET /v1/secrets",
            "PUT /v1/secrets",
            "DELETE /v1/secrets",
            "POST /v1/moves",
            "DELETE /v1/moves",
            "POST /v1/call",
        ]
    );
}
