//! Promise 5, as far as memory goes: a worker allocates and frees nothing, whatever comes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::Ipv4Addr;

use crate::common::{Gateway, content};
use bulkhead_pipeline::bindings;
use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::snapshot::{Content, EditedContent, Mode, Publisher};
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::classifier::Changes;
use bulkhead_rules::policy::RuleId;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Counts the calls of each thread, and the bytes that it asks for.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local
// without a destructor, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        BYTES.set(BYTES.get() + layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const A: &str = "
version: 1
rules:
  - {name: refuse, from: any, to: any, service: udp/22, action: reject, log: true}
  - {name: work, from: any, to: any, service: [udp, tcp/80, icmp], action: allow, log: true}
";
const B: &str = "
version: 1
rules:
  - {name: work, from: any, to: 10.0.1.0/24, service: [udp/1-30000, tcp/80], action: allow}
";

#[test]
fn no_packet_makes_a_worker_allocate_or_free() {
    let (tap, mut claims) = bindings::channel(16);
    let content_of_a = content(A, Mode::Enforce, 0);
    let mut gateway = Gateway::with_tap(content_of_a, &WorkerConfig::default(), tap);
    let mut frames = Vec::new();
    for n in (0..2000).map(|n: u16| n % 301) {
        let src = Ipv4Addr::from(0x0a00_0000 + u32::from(n % 97));
        let dst = Ipv4Addr::from(0x0a00_0100 + u32::from(n % 89) * 5);
        let builder = FrameBuilder::new().ip(src, dst);
        match n % 8 {
            7 => frames.push(FrameBuilder::new().arp(1, src, dst).build()),
            0 => frames.push(builder.udp(n, 22).build()),
            1 | 2 => frames.push(builder.udp(n, n.wrapping_mul(31)).build()),
            3 => frames.push(builder.tcp(n, 80, flag::SYN).build()),
            4 => frames.push(builder.echo_request(n, 1).build()),
            5 => {
                frames.extend(builder.udp(n, 53).payload_len(2000).build_fragments(n.into(), 1480))
            }
            _ => frames.push(builder.udp(n, 53).build()[..usize::from(n % 60)].to_vec()),
        }
    }
    let mut publications = [B, A, B].map(|text| content(text, Mode::Enforce, 0)).into_iter();
    for (polls, burst) in frames.chunks(50).enumerate() {
        for frame in burst {
            gateway.inside.send(frame).expect("room");
        }
        if polls % 10 == 5 {
            if let Some(content) = publications.next() {
                gateway.publisher.publish(content);
            }
        } else if polls % 2 == 0 {
            // Both rules go and come: what counted for them is replaced, and freed elsewhere.
            let Content { policy, classifier, .. } = gateway.publisher.current().content.clone();
            let rules = vec![RuleId(0), RuleId(1)];
            gateway.publisher.publish_edit(EditedContent {
                policy,
                classifier,
                changes: Changes::Footprints { src: vec![0, 1], dst: Vec::new() },
                rules_added: rules.clone(),
                rules_removed: rules,
            });
        }
        if polls % 3 == 0 {
            gateway.publisher.collect();
        }
        let before = CALLS.get();
        gateway.worker.poll();
        gateway.worker.poll();
        assert_eq!(CALLS.get() - before, 0, "the worker allocated or freed in loop {polls}");
        gateway.wait_ms(20);
        while gateway.outside.receive().is_some() || gateway.inside.receive().is_some() {}
    }
    assert!(publications.next().is_none(), "every reload happened");
    gateway.publisher.collect();
    assert!(claims.take().is_some(), "what was claimed was handed on");
    let counters = gateway.worker.counters();
    assert!(counters.flow_inserts.value() > 200 && counters.flow_revoked.value() > 10);
    assert!(gateway.publisher.edits() > 10);
    assert!(gateway.inside_counters().originated.packets.value() > 10);
}

/// What the publication of an edit allocates, in bytes, for a policy of `rules` rules and four
/// workers.
fn publication_bytes(rules: usize, removed: &[RuleId]) -> usize {
    let mut text = String::from("version: 1\nrules:\n");
    for rule in 0..rules {
        text.push_str(&format!(
            "  - {{name: r{rule}, from: any, to: 10.0.0.1, service: udp/{}, action: allow, log: true}}\n",
            rule % 60_000 + 1
        ));
    }
    let content = content(&text, Mode::Enforce, 0);
    let (mut publisher, _readers) = Publisher::new(content.clone(), 4);
    let edited = EditedContent {
        policy: content.policy,
        classifier: content.classifier,
        changes: Changes::Footprints { src: vec![1], dst: vec![2] },
        rules_added: Vec::new(),
        rules_removed: removed.to_vec(),
    };
    publisher.publish_edit(edited.clone());
    let before = BYTES.get();
    publisher.publish_edit(edited);
    BYTES.get() - before
}

#[test]
fn publishing_an_edit_allocates_next_to_nothing_for_the_rules_it_leaves_alone() {
    let [few, many] = [500, 10_000].map(|rules| publication_bytes(rules, &[]));
    assert_eq!(few, many, "an edit of a member");
    assert!(few < 1000, "{few} bytes");
    let [few, many] = [500, 10_000].map(|rules| publication_bytes(rules, &[RuleId(300)]));
    // A bit for each rule that is logged, a pointer for each 256; both twice, on their way into the
    // snapshot.
    assert!(many - few <= 2 * (9_500 / 8 + 8 + 8 * (9_500 / 256 + 1)), "{few}, {many} bytes");
    assert!(few < 20_000, "{few} bytes");
}
