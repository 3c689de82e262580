//! The published JSON Schema agrees with the reader: what loads is valid, and what is misshapen is
//! not. What only resolution finds (unknown names, cycles, host bits) no schema can.

mod validate;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

fn schema() -> Value {
    serde_json::from_str(include_str!("../../policy.schema.json")).expect("the schema is JSON")
}

/// The text as an editor's YAML 1.2 sees it.
fn json(text: &str) -> Value {
    let mut stack: Vec<Value> = vec![Value::Array(Vec::new())];
    let mut keys: Vec<Option<String>> = vec![None];
    for event in Parser::new_from_str(text) {
        let (event, _) = event.expect("a case that is YAML");
        match event {
            Event::MappingStart(..) => {
                stack.push(Value::Object(Map::new()));
                keys.push(None);
            }
            Event::SequenceStart(..) => {
                stack.push(Value::Array(Vec::new()));
                keys.push(None);
            }
            Event::Scalar(text, style, ..) => {
                let key = keys.last_mut().expect("a container");
                match stack.last() {
                    Some(Value::Object(_)) if key.is_none() => *key = Some(text.into_owned()),
                    _ => put(&mut stack, &mut keys, scalar(text, style)),
                }
            }
            Event::MappingEnd | Event::SequenceEnd => {
                let whole = stack.pop().expect("a container");
                keys.pop();
                put(&mut stack, &mut keys, whole);
            }
            _ => {}
        }
    }
    match stack.pop() {
        Some(Value::Array(mut documents)) if documents.len() == 1 => documents.remove(0),
        _ => Value::Null,
    }
}

fn put(stack: &mut [Value], keys: &mut [Option<String>], value: Value) {
    match (stack.last_mut(), keys.last_mut().and_then(Option::take)) {
        (Some(Value::Object(map)), Some(key)) => {
            map.insert(key, value);
        }
        (Some(Value::Array(items)), _) => items.push(value),
        _ => panic!("a value without a place"),
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.into_owned());
    }
    match &*text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        text => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
    }
}

fn errors(schema: &Value, text: &str) -> Vec<String> {
    validate::errors(schema, &json(text))
}

#[test]
fn the_examples_are_valid() {
    let (schema, mut count) = (schema(), 0);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples");
    for entry in fs::read_dir(folder).expect("the examples") {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let found = errors(&schema, &fs::read_to_string(&path).expect("an example"));
            assert!(found.is_empty(), "{}: {found:#?}", path.display());
            count += 1;
        }
    }
    assert!(count >= 3, "only {count} examples");
}

/// One construct at a time, so that no mistake hides behind another.
#[test]
fn the_schema_and_the_reader_agree() {
    let schema = schema();
    let rule = |rest: &str| format!("version: 1\nrules: [{{name: r, action: deny, {rest}}}]\n");
    let device = |rest: &str| format!("version: 1\ndevices: {{d: {{{rest}}}}}\n");
    let group = |rest: &str| format!("version: 1\ngroups: {{g: {rest}}}\n");
    let service = |rest: &str| format!("version: 1\nservices: {{s: {rest}}}\n");
    let cases = [
        (true, "version: 1\n".to_owned()),
        (true, "version: '1'\ndefault: reject\n".to_owned()),
        (false, "version: 2\n".to_owned()),
        (false, "default: deny\nrules: [{name: a, action: deny}]\n".to_owned()),
        (false, "version: 1\ndefaults: deny\n".to_owned()),
        (false, "version: 1\nrules: []\n".to_owned()),
        (false, "version: 1\ngroups: [a]\n".to_owned()),
        (false, "version: 1\nrules: [{action: deny}]\n".to_owned()),
        (false, "version: 1\nrules: [{name: a}]\n".to_owned()),
        (false, "version: 1\nrules: [{name: a, action: allow}]\n".to_owned()),
        (false, "version: 1\nrules: [{name: a, action: allow, from: any, to: any}]\n".to_owned()),
        (
            true,
            "version: 1\nrules: [{name: a, action: allow, from: any, to: any, service: any}]\n"
                .to_owned(),
        ),
        (
            true,
            "version: 1\nrules: [{name: a, action: allow, between: [any, any], service: any}]\n"
                .to_owned(),
        ),
        (
            false,
            "version: 1\nassert: [{from: any, to: any, service: any, must: never}]\n".to_owned(),
        ),
        (false, "version: 1\nassert: [{from: any, to: any, must: reach}]\n".to_owned()),
        (
            true,
            "version: 1\nassert: [{from: any, to: any, service: any, must: reach}]\n".to_owned(),
        ),
        (true, rule("from: any")),
        (true, rule("from: [10.0.0.1, 10.0.0.0/8, 10.0.0.1-10.0.0.2, 'fd00::1', 'fd00::/8']")),
        (true, rule("from: {in: any, except: 02:00:00:00:00:01}")),
        (false, rule("from: {except: any}")),
        (false, rule("from: []")),
        (false, rule("form: any")),
        (false, rule("between: [any, any], to: any")),
        (false, rule("between: [any]")),
        (true, rule("vlan: 210")),
        (true, rule("vlan: [100, 7]")),
        (true, rule("vlan: {in: [untagged, 5, [1, 2]]}")),
        (false, rule("vlan: 4095")),
        (false, rule("vlan: [1, 2, 3]")),
        (false, rule("vlan: tagged")),
        (true, rule("log: true")),
        (false, rule("log: yes")),
        (true, rule("starts: 2026-12-01T06:00:00Z, expires: '2026-12-01T07:00:00.5+01:00'")),
        (false, rule("starts: 2026-12-01")),
        (false, rule("starts: 2026-12-01T06:00:00")),
        (true, rule("reason: 'CHG-1042: why'")),
        (true, device("mac: 02-00-00-00-00-01")),
        (true, device("mac: [0200.0000.0001], ip: '::1', vlan: 1, labels: {line: 3}")),
        (false, device("vlan: 30")),
        (false, device("mac: 10.0.0.1")),
        (false, device("ip: some-host")),
        (false, device("ip: 10.0.0.1, labels: {Line: x}")),
        (false, group("10.0.0.256")),
        (false, group("PLC")),
        (false, group("~")),
        (false, group("[a, [b]]")),
        (true, group("[a, any]")),
        (true, service("[tcp/502, udp/1-2, sctp/any, icmp/echo-request, icmp/3/4, icmpv6/128]")),
        (true, service("[ip/47, eth/0x8892, other, {udp: 53, from-port: [1024-65535, 53]}]")),
        (false, service("502")),
        (false, service("502/tcp")),
        (false, service("tcp/0")),
        (false, service("icmp/echo-requst")),
        (false, service("icmp/packet-too-big")),
        (false, service("ip/256")),
        (false, service("ip/gre")),
        (false, service("eth/8892")),
        (true, service("[llc/0x82, llc/0XfE, llc/0x1]")),
        (false, service("llc/0x00")),
        (false, service("llc/0x100")),
        (false, service("llc/82")),
        (false, service("{from-port: 1}")),
        (false, service("{tcp: 1, udp: 1}")),
        (false, service("{tcp: []}")),
    ];
    for (valid, text) in cases {
        let found = errors(&schema, &text);
        assert_eq!(found.is_empty(), valid, "the schema on {text}{found:#?}");
        let source = bulkhead_rules::syntax::Source::new("case.yaml", text.clone());
        let read = bulkhead_rules::syntax::parse_document(&source, &Default::default());
        assert_eq!(read.is_ok(), valid, "the reader on {text}{:?}", read.err());
    }
}

#[test]
fn misshapen_golden_files_are_invalid() {
    let schema = schema();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    for case in ["keys", "names", "addresses", "services", "vlans-and-times", "version-unknown"] {
        let text = fs::read_to_string(folder.join(case).with_extension("yaml")).expect("a case");
        assert!(!errors(&schema, &text).is_empty(), "{case}.yaml is valid");
    }
}
