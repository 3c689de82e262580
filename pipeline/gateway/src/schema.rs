//! `bulkhead schema`: what commands print with `--json`, as JSON Schema 2020-12.
//!
//! The schemas are made of the types that are printed, by the same derive from which the console's API
//! is described; tests validate what every command really prints.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use crate::audit::command::{HashedEntry, VerifyReport};
use crate::bindings::report::BindingsReport;
use crate::check::CheckReport;
use crate::cli::{SchemaArgs, exit};
use crate::control::client::print_json;
use crate::devices::DeviceReport;
use crate::diagnostic::did_you_mean;
use crate::diff::DiffReport;
use crate::drift::DriftReport;
use crate::explain::ExplainReport;
use crate::explain_rule::ExplainRuleReport;
use crate::failure::command::BypassReport;
use crate::failure::restart::RestartReport;
use crate::generate::VersionReport;
use crate::learning::captures::Imported;
use crate::map::Line;
use crate::propose::ProposeReport;
use crate::reach::ReachReport;
use crate::reload::ReloadReport;
use crate::replay::flows::FlowsReport;
use crate::status::Status;
use crate::trace::TraceMessage;
use crate::workflow::ChangeReport;
use crate::workflow::commands::{Exceptions, HistoryReport};
use crate::workflow::stage::StageReport;
use crate::{learning, replay};

/// Where definitions of a schema are, as the derive writes it, and as JSON Schema has it.
const REFERENCES: [&str; 2] = ["#/components/schemas/", "#/$defs/"];

/// A command, and what makes its schema.
type Described = (&'static str, fn() -> Value);

/// What prints JSON, in the order of the command line, and the schema of it. A command with several
/// answers has several entries; options that make the difference are part of the name.
const ALL: &[Described] = &[
    ("check", object::<CheckReport>),
    ("explain", object::<ExplainReport>),
    ("diff", object::<DiffReport>),
    ("reach", object::<ReachReport>),
    ("replay", object::<replay::report::Report>),
    ("replay --flows", object::<FlowsReport>),
    ("learn --status", object::<learning::service::Status>),
    ("learn --from-capture", object::<Imported>),
    ("map", list::<Line>),
    ("devices", list::<DeviceReport>),
    ("propose", object::<ProposeReport>),
    ("explain-rule", object::<ExplainRuleReport>),
    ("drift", object::<DriftReport>),
    #[cfg(feature = "dpdk")]
    ("doctor", object::<crate::doctor::DoctorReport>),
    ("status", object::<Status>),
    // One document a line, as it happens.
    ("trace", trace_line),
    ("report", object::<crate::report::Report>),
    ("reload", object::<ReloadReport>),
    ("restart", object::<RestartReport>),
    ("bypass", object::<BypassReport>),
    ("bindings", object::<BindingsReport>),
    ("stage", object::<ChangeReport>),
    ("stage --status", object::<StageReport>),
    ("lockdown", object::<ChangeReport>),
    ("observe", object::<ChangeReport>),
    ("rollback", object::<ChangeReport>),
    ("history", object::<HistoryReport>),
    ("grant", object::<ChangeReport>),
    ("grants", object::<Exceptions>),
    ("quarantine", object::<ChangeReport>),
    ("audit", list::<HashedEntry>),
    ("audit verify", object::<VerifyReport>),
    ("version", object::<VersionReport>),
];

/// Prints the schema that the command line names, or all of them. Returns the exit code.
pub fn main(args: &SchemaArgs) -> u8 {
    if args.command.is_empty() {
        let all = ALL.iter().map(|(name, schema)| ((*name).to_owned(), titled(name, schema())));
        print_json(&Value::Object(all.collect()));
        return exit::OK;
    }
    let name = args.command.join(" ");
    match of(&name) {
        Some(schema) => {
            print_json(&schema);
            exit::OK
        }
        None => {
            let near = did_you_mean(&name, ALL.iter().map(|(name, _)| *name));
            let help = near.map_or_else(
                || "`bulkhead schema` prints all".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            eprintln!("error: no command `{name}` prints JSON\n  = help: {help}");
            exit::REFUSED
        }
    }
}

/// The schema of what a command prints.
pub fn of(command: &str) -> Option<Value> {
    let (name, schema) = ALL.iter().find(|(name, _)| *name == command)?;
    Some(titled(name, schema()))
}

/// What has a schema.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

fn titled(name: &str, mut schema: Value) -> Value {
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(format!("bulkhead {name} --json"));
    schema
}

fn object<T: ToSchema>() -> Value {
    let mut schema = in_json(&T::schema());
    schema["$defs"] = definitions::<T>();
    schema
}

fn list<T: ToSchema>() -> Value {
    let mut definitions = definitions::<T>();
    let name = T::name();
    definitions[&*name] = in_json(&T::schema());
    let item = format!("{}{name}", REFERENCES[1]);
    json!({"type": "array", "items": {"$ref": item}, "$defs": definitions})
}

/// A line of a trace, as the gateway tells it.
fn trace_line() -> Value {
    let message = format!("{}{}", REFERENCES[1], TraceMessage::name());
    json!({
        "type": "object",
        "properties": {"trace": {"$ref": message}},
        "required": ["trace"],
        "$defs": definitions::<TraceMessage>(),
    })
}

/// What the schema of a type refers to.
fn definitions<T: ToSchema>() -> Value {
    let mut parts: Vec<(String, RefOr<Schema>)> = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut parts);
    let parts = parts.iter().map(|(name, schema)| (name.clone(), in_json(schema)));
    Value::Object(parts.collect::<Map<String, Value>>())
}

fn in_json(schema: &RefOr<Schema>) -> Value {
    let mut value = serde_json::to_value(schema).unwrap_or_default();
    refer_to_definitions(&mut value);
    value
}

fn refer_to_definitions(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "$ref" => {
                        *text = text.replace(REFERENCES[0], REFERENCES[1]);
                    }
                    other => refer_to_definitions(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(refer_to_definitions),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli;

    /// Why a command prints no JSON.
    const WITHOUT: [(&str, &str); 6] = [
        ("console", "its API is described by --openapi"),
        ("sign", "it writes files"),
        ("run", "it answers over its socket, and logs JSON with --log-format json"),
        ("completions", "a shell reads what it prints"),
        ("manual", "it writes files"),
        ("schema", "it prints JSON whatever it is told"),
    ];

    #[test]
    fn every_command_prints_json_that_is_described_or_has_a_reason_not_to() {
        let has_json = |command: &clap::Command| {
            command.get_arguments().any(|argument| argument.get_long() == Some("json"))
        };
        let described: BTreeSet<&str> = names().filter_map(|name| name.split(' ').next()).collect();
        for command in cli::command().get_subcommands() {
            let name = command.get_name();
            let has = has_json(command) || command.get_subcommands().any(has_json);
            assert_eq!(has, WITHOUT.iter().all(|(without, _)| *without != name), "{name} --json");
            assert_eq!(has, described.contains(name), "bulkhead schema {name}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, into: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    into.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|value| references(value, into));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, into)),
                _ => {}
            }
        }
        for name in names() {
            let schema = of(name).unwrap();
            let mut all = BTreeSet::new();
            references(&schema, &mut all);
            for reference in all {
                let found = reference.strip_prefix('#').and_then(|path| schema.pointer(path));
                assert!(found.is_some(), "{name}: {reference}");
            }
        }
    }
}
