//! Promise 5, as far as memory goes: a worker allocates and frees nothing, whatever comes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::Ipv4Addr;

use crate::common::{Gateway, content};
use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::snapshot::{Content, EditedContent, Mode};
use bulkhead_rules::classifier::Changes;
use bulkhead_rules::policy::RuleId;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the calls of each thread.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local
// without a destructor, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
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
    let mut gateway = Gateway::new(A, Mode::Enforce);
    let mut frames = Vec::new();
    for n in (0..2000).map(|n: u16| n % 301) {
        let src = Ipv4Addr::from(0x0a00_0000 + u32::from(n % 97));
        let dst = Ipv4Addr::from(0x0a00_0100 + u32::from(n % 89) * 5);
        let builder = FrameBuilder::new().ip(src, dst);
        match n % 7 {
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
    let counters = gateway.worker.counters();
    assert!(counters.flow_inserts.value() > 200 && counters.flow_revoked.value() > 10);
    assert!(gateway.publisher.edits() > 10);
    assert!(gateway.inside_counters().originated.packets.value() > 10);
}
