//! Files made to hurt: each is refused, or read, in bounded time and memory, with a place and a
//! remedy where it is refused.
//!
//! One test runs them all, one after another, because the allocator's peak is the process's.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use bulkhead_rules::analyze;
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::policy::{Edit, LoadOptions, Policy};
use bulkhead_rules::syntax::document::Member;
use bulkhead_rules::syntax::{Diagnostic, Source};
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

/// What any file may take beyond its own text; the largest that is accepted may take more.
const PEAK_MB: f32 = 400.0;

/// What any file may take of a processor, without optimisation.
const TIME: Duration = Duration::from_secs(15);

const HEAD: &str = "version: 1\n";

/// A refusal is expected with this code first.
fn refused(name: &str, text: String, code: &str) {
    let diagnostics = measured(name, text).expect_err(name);
    let first = diagnostics.first().map(|diagnostic| diagnostic.code().label());
    assert_eq!(first, Some(code), "{name}: {}", diagnostics[0]);
    assert!(diagnostics.len() <= 2 * 51, "{name}: {} diagnostics", diagnostics.len());
    let bytes: usize = diagnostics.iter().map(|diagnostic| diagnostic.to_string().len()).sum();
    assert!(bytes < 100_000, "{name}: {bytes} bytes of messages");
}

fn accepted(name: &str, text: String) {
    if let Err(diagnostics) = measured(name, text) {
        panic!("{name}: {}", diagnostics[0]);
    }
}

fn measured(name: &str, text: String) -> Result<(), Vec<Diagnostic>> {
    let source = [Source::new("hostile.yaml", text)];
    PEAK.reset_peak_usage();
    let (before, start) = (PEAK.current_usage_as_mb(), processor_time());
    let result = Policy::load(&source, &LoadOptions::default());
    let (took, peak) = (processor_time() - start, PEAK.peak_usage_as_mb() - before);
    let size = source[0].text.len() as f32 / 1e6;
    println!("{name:<28} {size:>6.1} MB of text: {took:>9.2?}, {peak:>6.1} MB at the peak");
    assert!(took < TIME, "{name} took {took:?}");
    assert!(peak < PEAK_MB, "{name} took {peak} MB");
    result.map(drop)
}

/// A small edit of an accepted policy that would make it larger than a load may be.
fn exploding_edits() {
    let mut text = HEAD.to_owned() + "groups:\n  hub: [10.0.0.0]\n  big: [";
    for host in 0..20_000u32 {
        let _ = write!(text, "11.{}.{}.{}, ", host >> 15, host >> 7 & 0xff, host << 1 & 0xff);
    }
    text += "any-ipv6]\n";
    for parent in 0..2000 {
        let _ = writeln!(text, "  p{parent}: [hub, 12.0.{}.{}]", parent >> 8, parent & 0xff);
    }
    text += "  rest: {in: [any, p7], except: big}\nrules:\n";
    text += "  - {name: r, from: rest, to: p9, action: deny}\n";
    let sources = [Source::new("hostile.yaml", text)];
    let policy = Policy::load(&sources, &LoadOptions::default()).expect("a policy").policy;
    policy.prepare_edits();
    for (group, member, code) in [
        ("hub", "big", Some("limit-exceeded")),
        ("hub", "rest", Some("cycle")),
        ("big", "any", Some("empty-selection")),
        ("hub", "any", None),
    ] {
        PEAK.reset_peak_usage();
        let (before, start) = (PEAK.current_usage_as_mb(), processor_time());
        let member = Member::Name(member.into());
        let result = policy.edited(&Edit::AddMember { group: group.into(), member });
        let (took, peak) = (processor_time() - start, PEAK.peak_usage_as_mb() - before);
        println!("an edit of {group:<17} {took:>31.2?}, {peak:>6.1} MB at the peak");
        assert_eq!(result.err().map(|errors| errors[0].code().label()), code, "{group}");
        assert!(took < TIME && peak < PEAK_MB, "{group} took {took:?} and {peak} MB");
    }
}

/// Groups of prefixes that overlap in every way: more classes than can be listed, and more overlaps
/// than can be told apart. Compiling ends in an error that names groups, the analysis in a list of
/// what it did not look at.
fn overlapping_groups() {
    const GROUPS: u32 = 200;
    let mut state = 1_u64;
    let mut random = |below: u32| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((state >> 32) * u64::from(below)) >> 32) as u32
    };
    let mut text = HEAD.to_owned() + "groups:\n";
    for group in 0..GROUPS {
        let _ = write!(text, "  g{group}: [");
        for _ in 0..200 {
            let len = 8 + 2 * random(13);
            let prefix = Ipv4Addr::from_bits(random(u32::MAX) >> (32 - len) << (32 - len));
            let _ = write!(text, "{prefix}/{len}, ");
        }
        text += "]\n";
    }
    text += "rules:\n";
    for rule in 0..20_000 {
        let (from, to, port) = (random(GROUPS), random(GROUPS), 1 + random(200));
        let action = if random(2) == 0 { "allow" } else { "deny" };
        let _ = writeln!(
            text,
            "  - {{name: r{rule}, from: g{from}, to: g{to}, service: tcp/{port}, action: {action}}}"
        );
    }
    let sources = [Source::new("hostile.yaml", text)];
    let policy = Policy::load(&sources, &LoadOptions::default()).expect("a policy").policy;

    let limits = Limits { memory_bytes: 24 << 20, ..Limits::default() };
    PEAK.reset_peak_usage();
    let (before, start) = (PEAK.current_usage_as_mb(), processor_time());
    let error = compile(&policy, &limits).map(drop).expect_err("more than 24 MiB").to_string();
    let (took, peak) = (processor_time() - start, PEAK.peak_usage_as_mb() - before);
    println!("overlapping groups are refused {took:>20.2?}, {peak:>6.1} MB at the peak: {error}");
    assert!(error.contains("needs more than the limit of 24 MiB; what costs most: endpoint `g"));
    let named: BTreeSet<&str> =
        error.split(", ").filter_map(|part| part.split('`').nth(1)).collect();
    assert_eq!(named.len(), 3, "{error}");
    assert!(took < TIME && peak < PEAK_MB, "took {took:?} and {peak} MB");

    PEAK.reset_peak_usage();
    let (before, start) = (PEAK.current_usage_as_mb(), processor_time());
    let found = analyze::findings(&policy, false);
    let (took, peak) = (processor_time() - start, PEAK.peak_usage_as_mb() - before);
    let left = found.not_analysed.len();
    println!("their analysis leaves {left} {took:>29.2?}, {peak:>6.1} MB at the peak");
    assert!(left > 0 && left + found.findings.len() <= policy.rule_count());
    assert!(took < TIME && peak < PEAK_MB, "took {took:?} and {peak} MB");
}

/// Ranges of as many prefixes as there can be, in every group, on one side of rules whose other side
/// has no address of that family.
fn ragged_ranges() {
    let range = |n: usize| format!("\"2001:db8:{n:x}::1-2001:db8:{n:x}:ffff:ffff:ffff:ffff:fffe\"");
    let ranges: Vec<String> = (1..=70).map(range).collect();
    let base = format!("{HEAD}groups:\n  base: [{}]\n", ranges.join(", "));
    let host = |n: usize| format!("10.{}.{}.1", n >> 8, n & 255);
    let groups = numbered(&base, 5_500, |text, n| {
        let _ = writeln!(text, "  g{n}: [base, {}]", host(n));
    });
    // So many that they are put in blocks first.
    let text = numbered(&(groups + "rules:\n"), 20_000, |text, n| {
        let sides = format!("from: g{}, to: 172.16.0.1, service: tcp/{}", n % 5_500, 1 + n / 5_500);
        let _ = writeln!(text, "  - {{name: r{n}, {sides}, action: allow}}");
    });
    let sources = [Source::new("hostile.yaml", text)];
    let policy = Policy::load(&sources, &LoadOptions::default()).expect("a policy").policy;
    PEAK.reset_peak_usage();
    let (before, start) = (PEAK.current_usage_as_mb(), processor_time());
    compile(&policy, &Limits::default()).expect("a classifier");
    let (took, peak) = (processor_time() - start, PEAK.peak_usage_as_mb() - before);
    println!("ragged ranges are compiled {took:>25.2?}, {peak:>6.1} MB at the peak");
    assert!(took < TIME && peak < PEAK_MB, "took {took:?} and {peak} MB");
}

/// What this thread has had of a processor: the time on the wall would be that of the neighbours.
fn processor_time() -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let on_cpu = schedule.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok());
    Duration::from_nanos(on_cpu.expect("nanoseconds on a processor"))
}

fn repeated(head: &str, part: &str, count: usize) -> String {
    let mut text = String::with_capacity(head.len() + part.len() * count);
    text.push_str(head);
    (0..count).for_each(|_| text.push_str(part));
    text
}

fn numbered(head: &str, count: usize, line: impl Fn(&mut String, usize)) -> String {
    let mut text = head.to_owned();
    (0..count).for_each(|number| line(&mut text, number));
    text
}

#[test]
fn hostile_files_end_in_bounded_time_and_memory() {
    yaml_bombs();
    rubbish();
    oversized();
    explosions();
    exploding_edits();
    overlapping_groups();
    ragged_ranges();
}

fn yaml_bombs() {
    let mut laughs = "version: 1\ngroups:\n  a: &a [10.0.0.1]\n".to_owned();
    for (letter, before) in ('b'..='z').zip('a'..) {
        let alias = format!("*{before}, ").repeat(10);
        let _ = writeln!(laughs, "  {letter}: &{letter} [{alias}]");
    }
    refused("alias bomb", laughs, "yaml-feature");
    refused("anchors", repeated("groups:\n  a:\n", "    - &a x\n", 1_000_000), "yaml-feature");
    refused("tags", repeated("groups:\n  a:\n", "    - !!str x\n", 1_000_000), "yaml-feature");
    refused("merge keys", "version: 1\n<<: {default: allow}\n".to_owned(), "unknown-key");
    refused("flow nesting", repeated("a: ", "[", 10_000_000), "unknown-key");
    refused("flow nesting in a group", repeated("groups:\n  a: ", "[", 1_000_000), "yaml-nesting");
    let steps = numbered("", 3_000, |text, level| {
        let _ = writeln!(text, "{}a:", " ".repeat(level));
    });
    refused("block nesting", steps, "unknown-key");
    refused("sequence nesting", repeated("", "- ", 10_000_000), "wrong-type");
    refused("question marks", repeated("groups:\n ", "? ", 10_000_000), "yaml-nesting");
    refused("documents", repeated("version: 1\n", "---\nversion: 1\n", 1_000_000), "yaml-feature");
    refused("directives", repeated("", "%FOO bar\n", 1_000_000), "yaml-syntax");
}

fn rubbish() {
    refused("words", repeated("", "lorem ipsum dolor\n", 1_000_000), "wrong-type");
    refused("colons", repeated("", ": : : :\n", 1_000_000), "yaml-feature");
    refused("braces", repeated("", "}{][\n", 1_000_000), "yaml-syntax");
    refused("quotes", repeated("\"", "x\n", 10_000_000), "yaml-syntax");
    let keys = numbered(HEAD, 1_000_000, |text, number| {
        let _ = writeln!(text, "key-{number}: value");
    });
    refused("unknown keys", keys, "unknown-key");
    refused("bad rules", repeated("version: 1\nrules:\n", "  - x\n", 1_000_000), "wrong-type");
    refused("comments", repeated("", "# nothing to see\n", 3_000_000), "empty-file");
    refused("blank lines", repeated("", "\n", 60_000_000), "empty-file");
    refused("spaces", repeated("", " ", 60_000_000), "empty-file");
    refused("NUL", format!("{HEAD}rules:\n  - name: a\0b\n"), "text-encoding");
    refused("zeros", repeated("", "\0", 60_000_000), "text-encoding");
    let error = Source::from_bytes("hostile.yaml", b"version: 1\nname: \xff\xfe".to_vec());
    let error = error.expect_err("not UTF-8");
    let place = error.place().expect("a place");
    assert_eq!((place.line, place.column, place.bytes.start), (2, 7, 17), "{error}");
}

fn oversized() {
    refused("65 MB", repeated(HEAD, "#", 65 << 20), "text-too-large");
    refused("a huge key", repeated(HEAD, "k", 60_000_000) + ": 1\n", "yaml-syntax");
    let value = repeated("version: 1\ndefault: ", "v", 60_000_000);
    refused("a huge value", value, "invalid-value");
    let reason = "version: 1\nrules:\n  - {name: a, action: deny, reason: ";
    refused("a huge reason", repeated(reason, "word ", 10_000_000) + "}", "invalid-value");
    let values = repeated("version: 1\ngroups:\n  a: [", "a,", 30_000_000);
    refused("values", values, "limit-exceeded");
    let labels =
        numbered("version: 1\ndevices:\n  a: {ip: 10.0.0.1, labels: {", 500_000, |text, n| {
            let _ = write!(text, "k{n}: v, ");
        });
    refused("labels", labels + "}}\n", "limit-exceeded");
    let rules = numbered("version: 1\nrules:\n", 300_000, |text, number| {
        let _ = writeln!(text, "  - {{name: r{number}, action: deny}}");
    });
    refused("rules", rules, "limit-exceeded");
    let long_line = numbered("{version: 1, rules: [", 200_000, |text, number| {
        let _ = write!(text, "{{name: r{number}, action: deny}}, ");
    });
    accepted("rules on one line", long_line + "]}\n");
    accepted("200,000 rules", large_policy());
}

/// As large as a policy may well be: 10,000 groups of ten, 200,000 rules of six keys.
fn large_policy() -> String {
    let groups = numbered("version: 1\ngroups:\n", 10_000, |text, number| {
        let base = format!("10.{}.{}", number / 250, number % 250);
        let members: Vec<String> = (1..=10).map(|host| format!("{base}.{}", host * 3)).collect();
        let _ = writeln!(text, "  g{number}: [{}]", members.join(", "));
    });
    numbered(&(groups + "rules:\n"), 200_000, |text, number| {
        let (from, to) = (number % 10_000, number / 20);
        let _ = writeln!(text, "  - name: rule-{number}\n    from: g{from}\n    to: g{to}");
        let _ = writeln!(text, "    service: [tcp/{}, udp/53]", number % 500 + 1);
        let _ = writeln!(text, "    action: allow\n    log: true");
    })
}

/// Rules that each take 6,000 other devices out of 6,000 devices.
fn many_cuts(rules: usize) -> String {
    let mut text = "version: 1\ndevices:\n".to_owned();
    for n in 0..12_000usize {
        let (high, low) = (n >> 8, n & 255);
        let mac = format!("02:00:00:00:{high:02x}:{low:02x}");
        let _ = writeln!(text, "  d{n}: {{mac: \"{mac}\", ip: 10.0.{high}.{low}}}");
    }
    let list =
        |from: usize| (from..from + 6_000).map(|n| format!("d{n}")).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "groups:\n  left: [{}]\n  right: [{}]\nrules:", list(0), list(6_000));
    numbered(&text, rules, |text, number| {
        let from = format!("{{in: left, except: [right, 192.168.0.{number}]}}");
        let _ = writeln!(text, "  - {{name: r{number}, from: {from}, action: deny}}");
    })
}

/// Small texts that stand for much.
fn explosions() {
    let chain = numbered("version: 1\ngroups:\n  g0: 10.0.0.1\n", 10_000, |text, number| {
        let _ = writeln!(text, "  g{}: g{number}", number + 1);
    });
    refused("a chain of groups", chain, "limit-exceeded");
    let mut wide = "version: 1\ngroups:\n  all: [".to_owned();
    (0..20_000).for_each(|n| write!(wide, "10.0.{}.{}, ", n / 128, n % 128 * 2).expect("memory"));
    wide.push_str("]\n");
    let copies = numbered(&wide, 5_000, |text, number| {
        let _ = writeln!(text, "  g{number}: [all, 192.168.0.{}]", number % 256);
    });
    refused("groups of a large group", copies, "limit-exceeded");
    let devices = |text: &mut String, letter: char, offset: usize| {
        for n in 0..4_000usize {
            let (high, low) = ((n + offset) >> 8, (n + offset) & 255);
            let _ = writeln!(
                text,
                "  {letter}{n}: {{mac: \"02:00:00:00:{high:02x}:{low:02x}\", ip: 10.0.{high}.{low}}}"
            );
        }
    };
    let list =
        |letter: char| (0..4_000).map(|n| format!("{letter}{n}")).collect::<Vec<_>>().join(", ");
    let mut text = "version: 1\ndevices:\n".to_owned();
    devices(&mut text, 'a', 0);
    devices(&mut text, 'b', 2_000);
    let (a, b) = (list('a'), list('b'));
    let _ = writeln!(text, "groups:\n  left: {{in: [{a}], except: [{b}]}}");
    let _ = writeln!(text, "  rest: {{in: any, except: [{a}]}}");
    accepted("devices cut from devices", text);
    accepted("much cut from much", many_cuts(20));
    let mut misses = "version: 1\ndevices:\n".to_owned();
    devices(&mut misses, 'a', 0);
    let addresses: Vec<String> =
        (0..20_000).map(|n| format!("10.1.{}.{}", n / 128, n % 128 * 2)).collect();
    let _ = writeln!(misses, "groups:\n  devices: [{}]", list('a'));
    let _ = writeln!(misses, "  wide: [{}]", addresses.join(", "));
    let misses = numbered(&(misses + "rules:\n"), 100, |text, number| {
        let except = format!("[devices, 192.168.0.{number}]");
        let from = format!("{{in: wide, except: {except}}}");
        let _ = writeln!(text, "  - {{name: r{number}, from: {from}, action: deny}}");
    });
    refused("much cut from what it misses", misses, "limit-exceeded");
    let mut services = "version: 1\nservices:\n  s0: [".to_owned();
    (1..30_000).for_each(|n| write!(services, "{{tcp: 1, from-port: {n}}}, ").expect("memory"));
    services.push_str("]\n");
    let services = numbered(&services, 5_000, |text, number| {
        let _ = writeln!(text, "  s{}: [s{number}, udp/1]", number + 1);
    });
    refused("services of services", services, "limit-exceeded");
    let unknown = numbered("version: 1\nrules:\n", 200_000, |text, number| {
        let _ = writeln!(text, "  - {{name: r{number}, from: x{number}, action: deny}}");
    });
    refused("unknown names", unknown, "unknown-name");
}
