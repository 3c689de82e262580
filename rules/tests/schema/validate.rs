//! The part of JSON Schema (draft 2020-12) that the published schema uses; a keyword that is not here
//! is refused, so that none is believed to be checked when it is not. A validator crate would be the
//! heaviest dependency of the whole workspace.

use regex_lite::Regex;
use serde_json::Value;

/// Where `instance` breaks `schema`, as JSON pointers with the keyword.
pub(crate) fn errors(root: &Value, instance: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    Validator { root }.check(root, instance, "", &mut errors);
    errors
}

struct Validator<'s> {
    root: &'s Value,
}

impl Validator<'_> {
    fn is_valid(&self, schema: &Value, instance: &Value) -> bool {
        let mut errors = Vec::new();
        self.check(schema, instance, "", &mut errors);
        errors.is_empty()
    }

    fn check(&self, schema: &Value, instance: &Value, at: &str, errors: &mut Vec<String>) {
        let Value::Object(keywords) = schema else {
            if schema != &Value::Bool(true) {
                errors.push(format!("{at}: nothing may stand here"));
            }
            return;
        };
        for (keyword, value) in keywords {
            let holds = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "then" => true,
                "$ref" => {
                    let pointer = text(value).strip_prefix('#').expect("a local reference");
                    let target = self.root.pointer(pointer).expect("a definition");
                    self.check(target, instance, at, errors);
                    true
                }
                "if" => {
                    if self.is_valid(value, instance) {
                        self.check(&keywords["then"], instance, at, errors);
                    }
                    true
                }
                "anyOf" => list(value).iter().any(|s| self.is_valid(s, instance)),
                "oneOf" => list(value).iter().filter(|s| self.is_valid(s, instance)).count() == 1,
                "not" => !self.is_valid(value, instance),
                "enum" => list(value).contains(instance),
                "const" => value == instance,
                "type" => match value {
                    Value::Array(types) => types.iter().any(|t| is_a(text(t), instance)),
                    one => is_a(text(one), instance),
                },
                _ => match instance {
                    Value::Object(_) => self.object(keyword, keywords, instance, at, errors),
                    Value::Array(items) => self.array(keyword, value, items, at, errors),
                    _ => scalar(keyword, value, instance),
                },
            };
            if !holds {
                errors.push(format!("{at}: breaks {keyword}"));
            }
        }
    }

    fn object(
        &self,
        keyword: &str,
        schema: &serde_json::Map<String, Value>,
        instance: &Value,
        at: &str,
        errors: &mut Vec<String>,
    ) -> bool {
        let (value, empty) = (&schema[keyword], serde_json::Map::new());
        let fields = instance.as_object().unwrap_or(&empty);
        let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        match keyword {
            "required" => list(value).iter().all(|key| fields.contains_key(text(key))),
            "minProperties" => fields.len() as u64 >= number(value),
            "maxProperties" => fields.len() as u64 <= number(value),
            "propertyNames" => {
                fields.keys().all(|key| self.is_valid(value, &Value::String(key.clone())))
            }
            "properties" => {
                for (key, field) in fields {
                    if let Some(schema) = known.get(key) {
                        self.check(schema, field, &format!("{at}/{key}"), errors);
                    }
                }
                true
            }
            "additionalProperties" => {
                for (key, field) in fields.iter().filter(|(key, _)| !known.contains_key(*key)) {
                    self.check(value, field, &format!("{at}/{key}"), errors);
                }
                true
            }
            _ => is_for_another_type(keyword),
        }
    }

    fn array(
        &self,
        keyword: &str,
        value: &Value,
        items: &[Value],
        at: &str,
        errors: &mut Vec<String>,
    ) -> bool {
        match keyword {
            "minItems" => items.len() as u64 >= number(value),
            "maxItems" => items.len() as u64 <= number(value),
            "items" => {
                for (index, item) in items.iter().enumerate() {
                    self.check(value, item, &format!("{at}/{index}"), errors);
                }
                true
            }
            _ => is_for_another_type(keyword),
        }
    }
}

fn scalar(keyword: &str, value: &Value, instance: &Value) -> bool {
    match (keyword, instance) {
        ("pattern", Value::String(s)) => Regex::new(text(value)).expect("a pattern").is_match(s),
        ("minLength", Value::String(s)) => s.chars().count() as u64 >= number(value),
        ("maxLength", Value::String(s)) => s.chars().count() as u64 <= number(value),
        ("minimum", Value::Number(n)) => n.as_i64() >= value.as_i64(),
        ("maximum", Value::Number(n)) => n.as_i64() <= value.as_i64(),
        _ => is_for_another_type(keyword),
    }
}

/// Keywords say nothing about instances of other types.
fn is_for_another_type(keyword: &str) -> bool {
    let known = [
        "required",
        "minProperties",
        "maxProperties",
        "propertyNames",
        "properties",
        "additionalProperties",
        "minItems",
        "maxItems",
        "items",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
    ];
    assert!(known.contains(&keyword), "the schema uses {keyword}, which is not checked");
    true
}

fn is_a(kind: &str, instance: &Value) -> bool {
    match kind {
        "object" => instance.is_object(),
        "array" => instance.is_array(),
        "string" => instance.is_string(),
        "boolean" => instance.is_boolean(),
        "integer" => instance.is_i64() || instance.is_u64(),
        "number" => instance.is_number(),
        other => panic!("the schema uses the type {other}"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}
