//! Whether a JSON body has the shape that the API's document gives it: all that is wrong with it, at once, in words for people.
//!
//! Of JSON Schema it knows what utoipa makes of our types, no more. What a body says is read by serde afterwards.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema::Schema},
};

/// Faults that are told of one body.
const MAX_FAULTS: usize = 32;

/// Something that is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Fault {
    /// Where: a JSON pointer (RFC 6901) as a URI fragment; of what is missing, where it should be.
    pointer: String,
    /// The same with dots.
    #[serde(skip)]
    field: String,
    /// Stable, for programs.
    code: &'static str,
    /// What is wrong; never what was sent, which may be a secret.
    detail: String,
}

impl Fault {
    /// Something about the field with this name: `leave.at`, `placement.prefer[0]`.
    pub(super) fn new(code: &'static str, field: &str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer(field), field: field.into(), code, detail: detail.into() }
    }

    /// What programs know it by.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// The field, with dots; empty for the body itself.
    pub(super) fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }
}

fn pointer(field: &str) -> String {
    let parts = field.split(['.', '[']).filter(|part| !part.is_empty()).map(|part| part.trim_end_matches(']'));
    parts.fold(String::from("#"), |pointer, part| pointer + "/" + part)
}

/// The shape of one kind of body.
#[derive(Debug)]
pub(super) struct Shape {
    root: Value,
    named: BTreeMap<String, Value>,
}

/// A schema of which every variant that a `kind` tells apart knows its own fields only: utoipa leaves that out.
pub(super) fn close_variants(schema: &mut Value) {
    for variant in schema.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(variant) =
            variant.as_object_mut().filter(|v| v.get("properties").is_some_and(|p| p.get("kind").is_some()))
        {
            variant.entry("additionalProperties").or_insert(false.into());
        }
    }
}

impl Shape {
    /// That of a `T`.
    pub(super) fn of<T: ToSchema>() -> Self {
        let mut parts = vec![];
        T::schemas(&mut parts);
        let value = |schema: &RefOr<Schema>| {
            let mut schema = serde_json::to_value(schema).expect("a schema is texts, numbers and lists of them");
            close_variants(&mut schema);
            schema
        };
        let named = parts.iter().map(|(name, schema)| (name.clone(), value(schema))).collect();
        Self { root: value(&<T as PartialSchema>::schema()), named }
    }

    /// What is wrong with `body`; the first [`MAX_FAULTS`] of it.
    pub(super) fn check(&self, body: &Value) -> Vec<Fault> {
        let mut check = Check { shape: self, at: vec![], faults: vec![] };
        check.value(&self.root, body);
        check.faults
    }

    /// The schema itself, behind its name.
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
        name.and_then(|name| self.named.get(name)).unwrap_or(schema)
    }

    /// What a schema allows, in words.
    fn allowed(&self, schema: &Value) -> String {
        let schema = self.resolve(schema);
        if let Some(variants) = list(schema, "oneOf") {
            return either(variants.iter().map(|variant| self.allowed(variant)));
        }
        if let Some(words) = list(schema, "enum") {
            return either(words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")));
        }
        either(types(schema).map(|kind| match kind {
            "integer" => match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
                (Some(min), Some(max)) => format!("a whole number from {min} to {max}"),
                (Some(min), None) => format!("a whole number of {min} or more"),
                _ => "a whole number".into(),
            },
            "string" if schema["format"] == "date-time" => "a time such as `2030-01-31T12:00:00Z`".into(),
            "string" => "a text".into(),
            "boolean" => "true or false".into(),
            "object" => "an object".into(),
            "array" => "a list".into(),
            "number" => "a number".into(),
            other => other.to_owned(),
        }))
    }
}

/// One body on its way through its shape.
struct Check<'a> {
    shape: &'a Shape,
    at: Vec<String>,
    faults: Vec<Fault>,
}

impl<'a> Check<'a> {
    fn value(&mut self, schema: &'a Value, value: &Value) {
        let schema = self.shape.resolve(schema);
        if let Some(variants) = list(schema, "oneOf") {
            return self.one_of(schema, variants, value);
        }
        let kind = types(schema).find(|kind| is(value, kind));
        let listed = list(schema, "enum").is_none_or(|words| value.is_null() || words.contains(value));
        if types(schema).next().is_some() && kind.is_none() || !listed || !in_range(schema, value) {
            return self.must_be(schema);
        }
        match value {
            Value::Object(fields) => self.object(schema, fields),
            Value::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    self.within(format!("[{n}]"), |check| check.value(&schema["items"], item));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: &'a Value, fields: &Map<String, Value>) {
        let known = schema["properties"].as_object();
        let others = schema.get("additionalProperties");
        for (name, value) in fields {
            let schema = known.and_then(|known| known.get(name)).or(others.filter(|others| others.is_object()));
            self.within(name.clone(), |check| match schema {
                Some(schema) => check.value(schema, value),
                None if others == Some(&Value::Bool(false)) => {
                    check.fault("unknown_field", |field| format!("`{field}` is no field of this request."));
                }
                None => {}
            });
        }
        for name in list(schema, "required").into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.within(name.into(), |check| check.fault("missing_field", |field| format!("`{field}` is needed.")));
            }
        }
    }

    /// Alternatives: told apart by their `kind`, if they have one.
    fn one_of(&mut self, schema: &'a Value, variants: &'a [Value], value: &Value) {
        let words = |variant: &'a Value| list(&variant["properties"]["kind"], "enum");
        if !variants.iter().all(|variant| words(self.shape.resolve(variant)).is_some()) {
            if !variants.iter().any(|variant| self.fits(variant, value)) {
                // Of what may be absent, what is wrong is within it.
                match variants.iter().find(|variant| value.is_object() && variant.get("$ref").is_some()) {
                    Some(variant) => self.value(variant, value),
                    None => self.must_be(schema),
                }
            }
            return;
        }
        let Some(fields) = value.as_object() else {
            return self.fault("invalid_field", |field| format!("{} must be an object.", named(field)));
        };
        let of_kind = |kind: &Value| variants.iter().find(|variant| words(variant).is_some_and(|w| w.contains(kind)));
        match fields.get("kind") {
            None => self.within("kind".into(), |check| check.fault("missing_field", |f| format!("`{f}` is needed."))),
            Some(kind) => match of_kind(kind) {
                Some(variant) => self.object(variant, fields),
                None => {
                    let kinds = variants.iter().filter_map(words).flatten().filter_map(Value::as_str);
                    let kinds = either(kinds.map(|kind| format!("`{kind}`")));
                    let detail = |field: &str| format!("`{field}` must be {kinds}.");
                    self.within("kind".into(), |check| check.fault("invalid_field", detail));
                }
            },
        }
    }

    fn fits(&self, schema: &'a Value, value: &Value) -> bool {
        let mut check = Check { shape: self.shape, at: vec![], faults: vec![] };
        check.value(schema, value);
        check.faults.is_empty()
    }

    fn must_be(&mut self, schema: &Value) {
        let allowed = self.shape.allowed(schema);
        self.fault("invalid_field", |field| format!("{} must be {allowed}.", named(field)));
    }

    fn within(&mut self, step: String, check: impl FnOnce(&mut Self)) {
        self.at.push(step);
        check(self);
        self.at.pop();
    }

    fn fault(&mut self, code: &'static str, detail: impl FnOnce(&str) -> String) {
        if self.faults.len() >= MAX_FAULTS {
            return;
        }
        let mut field = String::new();
        let mut pointer = String::from("#");
        for step in &self.at {
            if !field.is_empty() && !step.starts_with('[') {
                field.push('.');
            }
            field.push_str(step);
            let step = step.trim_start_matches('[').trim_end_matches(']');
            pointer.push('/');
            pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        }
        let detail = detail(&field);
        self.faults.push(Fault { pointer, field, code, detail });
    }
}

fn named(field: &str) -> String {
    if field.is_empty() { "The body".into() } else { format!("`{field}`") }
}

fn list<'a>(schema: &'a Value, key: &str) -> Option<&'a [Value]> {
    schema.get(key)?.as_array().map(Vec::as_slice)
}

/// The types that a schema allows.
fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let (one, several) = (schema["type"].as_str(), list(schema, "type"));
    one.into_iter().chain(several.into_iter().flatten().filter_map(Value::as_str))
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

/// Whether a number is within the schema's limits; anything else is.
fn in_range(schema: &Value, value: &Value) -> bool {
    let Some(number) = value.as_f64() else { return true };
    schema["minimum"].as_f64().is_none_or(|min| number >= min)
        && schema["maximum"].as_f64().is_none_or(|max| number <= max)
}

/// `a`, `a or b`, `a, b or c`.
fn either(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    match words.split_last() {
        None => "another value".into(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::request::CreateMeeting;

    fn faults(body: &Value) -> Vec<(String, &'static str, String)> {
        let faults = Shape::of::<CreateMeeting>().check(body);
        faults.into_iter().map(|fault| (fault.pointer, fault.code, fault.detail)).collect()
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_and_nothing_that_was_sent() {
        let body = json!({
            "source": {"kind": "janus", "url": 5, "pin": ["hunter2"], "colour": "hunter2"},
            "vad": {"preroll_ms": 2001, "hangover_ms": "x"},
            "placement": {"residency": ["eu", 7], "a/b": 1},
            "redundancy": 2.5,
            "leave": [],
            "interim": true,
        });
        let mut faults = faults(&body);
        faults.sort();
        let pointers: Vec<_> = faults.iter().map(|(pointer, code, _)| (pointer.as_str(), *code)).collect();
        assert_eq!(
            pointers,
            [
                ("#/interim", "unknown_field"),
                ("#/leave", "invalid_field"),
                ("#/placement/a~1b", "unknown_field"),
                ("#/placement/residency/1", "invalid_field"),
                ("#/redundancy", "invalid_field"),
                ("#/source/colour", "unknown_field"),
                ("#/source/pin", "invalid_field"),
                ("#/source/room", "missing_field"),
                ("#/source/url", "invalid_field"),
                ("#/vad/hangover_ms", "invalid_field"),
                ("#/vad/preroll_ms", "invalid_field"),
            ]
        );
        let details: Vec<_> = faults.iter().map(|(_, _, detail)| detail.as_str()).collect();
        assert!(details.contains(&"`vad.preroll_ms` must be a whole number from 0 to 2000."), "{details:#?}");
        assert!(details.contains(&"`leave` must be an object."), "{details:#?}");
        assert!(details.contains(&"`source.pin` must be a text or null."), "{details:#?}");
        assert!(!details.concat().contains("hunter2"), "{details:#?}");
    }

    #[test]
    fn a_list_is_no_object_at_any_level() {
        let nine = json!([null, ["whep", "http://relay.example/"], {}, {}, {}, {}, null, 1, {}]);
        assert_eq!(faults(&nine), [("#".into(), "invalid_field", "The body must be an object.".into())]);
        for at in ["source", "placement", "transcription", "vad", "leave", "metadata"] {
            let mut body = json!({"source": {"kind": "whep", "url": "http://relay.example/"}});
            body[at] = json!([]);
            let found = faults(&body);
            assert_eq!(found.len(), 1, "{found:#?}");
            assert_eq!((found[0].0.as_str(), found[0].2.contains("an object")), (format!("#/{at}").as_str(), true));
        }
    }

    #[test]
    fn what_is_right_passes() {
        for source in [
            json!({"kind": "whep", "url": "http://relay.example/", "participants": {"a": "Alice"}, "token": null}),
            json!({"kind": "janus", "url": "ws://relay.example/", "room": 1234}),
            json!({"kind": "janus", "url": "ws://relay.example/", "room": "standup", "pin": "1"}),
            json!({"kind": "livekit", "url": "wss://livekit.example", "key": "k", "secret": "s", "room": "standup"}),
            json!({"kind": "zoom_rtms", "server_urls": "wss://z", "meeting_uuid": "m", "rtms_stream_id": "s", "client_id": "c",
                "client_secret": "s"}),
        ] {
            let body = json!({"source": source, "leave": {"alone_after_seconds": null}, "metadata": {"x": [1, {}]}});
            assert_eq!(faults(&body), []);
        }
        for (source, detail) in [
            (json!({"kind": "zoom"}), "`source.kind` must be `whep`, `janus`, `livekit` or `zoom_rtms`."),
            (json!({}), "`source.kind` is needed."),
            (json!(null), "`source` must be an object."),
        ] {
            assert_eq!(faults(&json!({"source": source}))[0].2, detail);
        }
    }

    #[test]
    fn a_field_s_name_becomes_a_pointer() {
        assert_eq!(pointer("placement.prefer[3]"), "#/placement/prefer/3");
        assert_eq!(pointer(""), "#");
    }
}
