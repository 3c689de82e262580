//! `bulkhead-bench rfc2544` and its sisters, small: what the README promises of their figures.

#![allow(clippy::unwrap_used, reason = "a test whose stage cannot be set fails")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs the benchmark and returns its lines of JSON.
fn lines(arguments: &[&str], record: &Path) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead-bench"))
        .args(arguments)
        .args(["--json", "--record"])
        .arg(record)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

fn are_in_order(latency: &Value) {
    let keys = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
    let values = keys.map(|key| number(latency, key));
    assert!(values.is_sorted() && values[0] > 0.0, "{latency}");
}

fn is_a_picture(folder: &Path, name: &str) {
    let picture = std::fs::read_to_string(folder.join(name)).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("</svg>"), "{name}");
}

/// Over memory, and over shared memory through DPDK.
#[test]
fn rfc2544_gives_a_line_for_each_size_with_all_four_measures() {
    for over in ["memory", "memif"] {
        let folder = tempfile::tempdir().unwrap();
        let small = ["rfc2544", "--sizes", "64,imix", "--seconds", "0.01", "--attempts", "1"];
        let flags = ["--resolution-percent", "50", "--flows", "16", "--over", over];
        let lines = lines(&[&small[..], &flags].concat(), folder.path());
        let sizes: Vec<_> = lines.iter().map(|line| line["size"].as_str()).collect();
        assert_eq!(sizes, [Some("64"), Some("imix")]);
        for line in &lines {
            assert_eq!(line["over"].as_str(), Some(over));
            // On a busy machine there may be no rate without loss.
            for key in ["throughput_fps", "throughput_mbps", "worker_busy_percent"] {
                assert!(number(line, key) >= 0.0, "{key} of {line}");
            }
            assert!(number(line, "highest_fps") > 0.0, "{line}");
            assert!(number(line, "back_to_back_frames") >= 0.0);
            assert!(line["limited_by_tester"].is_boolean());
            assert!(number(line, "trials") >= number(line, "void_trials"));
            let loads: Vec<_> = line["latency"].as_array().unwrap().iter().collect();
            let percents: Vec<_> = loads.iter().map(|at| number(at, "load_percent")).collect();
            assert_eq!(percents, [10.0, 50.0, 90.0]);
            loads.iter().filter(|at| number(at, "count") > 0.0).for_each(|at| are_in_order(at));
            let loss = line["loss"].as_array().unwrap();
            assert_eq!(number(&loss[0], "rate_percent"), 100.0);
            for at in loss {
                assert!((0.0..=100.0).contains(&number(at, "lost_percent")), "{at}");
            }
        }
        let name = if over == "memory" { "rfc2544" } else { "rfc2544-memif" };
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.md"))).unwrap();
        assert!(text.contains("| imix |") && text.contains("## Latency"), "{text}");
        let json = std::fs::read(folder.path().join(format!("{name}.json"))).unwrap();
        let all: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(all["lines"].as_array().map(Vec::len), Some(2));
        assert!(all["machine"]["processor"].is_string());
        is_a_picture(folder.path(), &format!("{name}-throughput.svg"));
        is_a_picture(folder.path(), &format!("{name}-latency.svg"));
    }
}

/// Over memory, and over shared memory through DPDK.
#[test]
fn rfc9411_gives_a_line_for_each_phase() {
    for over in ["memory", "memif"] {
        let folder = tempfile::tempdir().unwrap();
        let small = ["rfc9411", "--seconds", "0.05", "--attempts", "3", "--capacity", "1024"];
        let flags = ["--objects", "1024,30000", "--rules", "10", "--over", over];
        let lines = lines(&[&small[..], &flags].concat(), folder.path());
        let tests: Vec<_> = lines.iter().map(|line| line["test"].as_str().unwrap()).collect();
        let each = ["connections-per-second", "response-time"];
        let expected = [&["concurrent-connections"][..], &each, &each, &["throughput"; 3]].concat();
        assert_eq!(tests, expected);
        let held = &lines[0];
        assert_eq!(number(held, "flow_capacity"), 1024.0);
        // Both candidate sets of a flow are seldom full before nine tenths of the table are.
        let open = number(held, "concurrent_connections");
        assert!((900.0..=1024.0).contains(&open), "{held}");
        let attempted = open + number(held, "evicted_half_open");
        assert!(attempted <= 1024.0, "{held}");
        assert!(
            held["first_refused_at"].is_null() || number(held, "first_refused_at") <= attempted
        );
        are_in_order(&held["first_byte_while_open"]);
        for line in &lines[1..] {
            assert_eq!(line["over"].as_str(), Some(over));
            for key in ["connections_per_second", "transactions_per_second", "goodput_mbps"] {
                assert!(number(line, key) >= 0.0, "{key} of {line}");
            }
            assert!(number(line, "attempted") > 0.0, "{line}");
            assert!(line["is_valid"].is_boolean());
            for key in ["worker_busy_percent", "worker_us_per_connection", "failed"] {
                assert!(number(line, key) >= 0.0, "{key} of {line}");
            }
        }
        for line in lines.iter().filter(|line| line["test"] == "response-time") {
            for key in ["first_byte", "last_byte"] {
                if number(&line[key], "count") > 0.0 {
                    are_in_order(&line[key]);
                }
            }
        }
        assert!(lines[7]["object_bytes"].is_null(), "the mix comes last");
        let name = if over == "memory" { "rfc9411" } else { "rfc9411-memif" };
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.md"))).unwrap();
        assert!(text.contains("| throughput | mix |"), "{text}");
        is_a_picture(folder.path(), &format!("{name}-rates.svg"));
        is_a_picture(folder.path(), &format!("{name}-times.svg"));
    }
}
