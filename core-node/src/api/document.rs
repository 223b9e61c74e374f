//! `/openapi.json`: what utoipa makes of the handlers, and what holds for all of them.

use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

use super::shape::close_variants;

/// Where a meeting is another core's: what every resource of one may answer.
const OF_A_MEETING: &str = "/v1/meetings/{id}";

/// The document, finished.
pub(super) fn finish(document: &OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("a document is texts, numbers and lists of them");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    let bearer = json!({"type": "http", "scheme": "bearer", "description": "`api.token`, where the core has one"});
    document["components"]["securitySchemes"] = json!({ "bearer": bearer });
    unsigned(&mut document);
    for schema in children(&mut document["components"]["schemas"]) {
        close_variants(schema.1);
    }
    for (path, item) in children(&mut document["paths"]) {
        for (_, operation) in children(item) {
            // Who calls a hook signs.
            if path.starts_with("/v1/") && !path.starts_with("/v1/hooks/") {
                guard(&path, operation);
            }
            children(&mut operation["responses"]).for_each(|(status, response)| describe(&status, response));
        }
    }
    document
}

/// Numbers that are never negative reach twice as far as those that may be: their format says so.
fn unsigned(value: &mut Value) {
    if value["minimum"] == 0 {
        match value["format"].as_str() {
            Some("int32") => value["format"] = "uint32".into(),
            Some("int64") => value["format"] = "uint64".into(),
            _ => {}
        }
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(unsigned),
        Value::Object(members) => members.values_mut().for_each(unsigned),
        _ => {}
    }
}

/// Adds what every guarded resource has: the token, and the answers that are not its own.
fn guard(path: &str, operation: &mut Value) {
    // One of the two: a core may be open.
    operation["security"] = json!([{ "bearer": [] }, {}]);
    let common: &[&str] =
        if path.starts_with(OF_A_MEETING) { &["307", "401", "404", "500", "503"] } else { &["401", "500"] };
    let problem = json!({"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}});
    if let Some(responses) = operation["responses"].as_object_mut() {
        for status in common {
            responses.entry(*status).or_insert_with(|| problem.clone());
        }
    }
}

/// Names a response, and gives a problem its media type.
fn describe(status: &str, response: &mut Value) {
    if response.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
        response["description"] = words(status).into();
    }
    let Some(content) = response.get_mut("content").and_then(Value::as_object_mut) else { return };
    let is_problem = |kind: &Value| kind["schema"]["$ref"] == "#/components/schemas/Problem";
    if content.get("application/json").is_some_and(is_problem) {
        let problem = content.remove("application/json").unwrap_or_default();
        content.insert("application/problem+json".into(), problem);
    }
    if status == "307" {
        let location = json!({"description": "The same request there", "schema": {"type": "string"}});
        response["headers"] = json!({ "Location": location });
    }
}

fn words(status: &str) -> &'static str {
    match status {
        "200" => "As asked",
        "201" => "Made",
        "202" => "Begun",
        "204" => "Nothing more",
        "307" => "Another core serves the meeting, or may: ask it",
        "400" => "The body is no JSON",
        "401" => "A valid bearer token is needed",
        "404" => "There is no such meeting here",
        "408" => "The body did not come in time",
        "409" => "As the meeting stands, no",
        "413" => "The body is too long",
        "415" => "The body is no JSON by its media type",
        "422" => "Something in the request is not allowed; `field` or `errors` says what",
        "429" => "Too many at a time from this address",
        "500" => "The core could not read its store",
        "503" => "Not now; `code` says why, `Retry-After` when to ask again",
        "507" => "The core's store is full",
        _ => "See `code`",
    }
}

fn children(value: &mut Value) -> impl Iterator<Item = (String, &mut Value)> {
    value.as_object_mut().into_iter().flatten().map(|(name, value)| (name.clone(), value))
}
