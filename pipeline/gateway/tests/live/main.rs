//! `bulkhead status --watch`: its screens at several sizes, and the command in a pseudo terminal.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod terminal;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_gateway::failure::bypassed::Bypassed;
use bulkhead_gateway::live::keys::{Panel, Ui};
use bulkhead_gateway::live::model::Model;
use bulkhead_gateway::live::{panels, screen};
use bulkhead_gateway::status::{
    Amount, Attention, Counted, PolicyStatus, PortStatus, StagedStatus, Status, Talker, WireStatus,
    WorkerStatus,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

const SECOND: Duration = Duration::from_secs(1);

fn port(device: &str, link: &str, received: u64) -> PortStatus {
    PortStatus {
        device: device.to_owned(),
        driver: "net_af_xdp".to_owned(),
        link: link.to_owned(),
        received,
        transmitted: received.saturating_sub(40),
        dropped: received / 50,
        would_drop: 7,
        received_bytes: received * 120,
        transmitted_bytes: received * 110,
    }
}

fn counted(counts: &[(&str, u64)]) -> Vec<Counted> {
    counts.iter().map(|(name, count)| Counted { name: (*name).to_owned(), count: *count }).collect()
}

/// A gateway after `n` thousands of packets.
fn status(n: u64) -> Box<Status> {
    let json = serde_json::json!({
        "version": "0.1.0", "ready": true, "uptime_s": 11_400 + n, "policy": null,
        "last_reload": null, "wires": [], "workers": [], "drops": [], "would_drop": [], "rules": [],
        "in_flight": 0,
    });
    let mut status: Status = serde_json::from_value(json).unwrap();
    status.unix_ms = 1_795_500_000_000 + n as i64 * 1000;
    status.policy = Some(PolicyStatus {
        source: "/etc/bulkhead/policy".to_owned(),
        hash: "5f0c3a9d2b7e1144aa".to_owned(),
        epoch: Some(7),
        rules: 42,
        age_s: 3_600,
        fallback: false,
        clock_synchronised: true,
        flows_revoked: 0,
    });
    let wire = |name: &str, mode: &str, inside, outside| WireStatus {
        name: name.to_owned(),
        mode: mode.to_owned(),
        redundancy_group: None,
        inside,
        outside,
        fail: if mode == "observe" { "open: kernel" } else { "closed" }.to_owned(),
    };
    status.wires = vec![
        wire("plc-1", "enforce", port("ens1f0", "up", n * 1000), port("ens1f1", "up", n * 4000)),
        wire(
            "historian",
            "observe",
            port("ens2f0", "no carrier", 900),
            port("ens2f1", "held down", 900),
        ),
    ];
    status.workers = [0.31, 0.07]
        .map(|busy_now| WorkerStatus {
            core: Some(3),
            busy: 0.2,
            flows: 1_200,
            flow_capacity: 65_536,
            handed_out: 5,
            handed_in: 9,
            latency_p99_ns: 18_300,
            busy_now,
            hangs: false,
        })
        .into();
    status.drops = counted(&[("policy", n * 90), ("tcp_no_flow", 17), ("new_flow_rate", n)]);
    status.would_drop = counted(&[("policy", 14)]);
    status.rules = counted(&[("hmi-to-plc", n * 10), ("default", n * 90), ("dns", 3)]);
    let amount = |packets: u64| Amount { packets, bytes: packets * 120 };
    let traffic = &mut status.traffic;
    (traffic.received, traffic.transmitted) = (amount(n * 5000), amount(n * 4900));
    (traffic.forwarded, traffic.dropped) = (amount(n * 4909), amount(n * 91));
    traffic.would_drop = amount(14);
    (status.flows.open, status.flows.capacity, status.flows.opened) = (2_400, 131_072, n * 30);
    (status.latency.p50_ns, status.latency.p99_ns, status.latency.p999_ns) =
        (6_100, 18_300, 71_000);
    status.bindings = 12;
    let talker = |host: &str, sent_bytes, received_bytes, denied_packets| Talker {
        host: host.to_owned(),
        vlan: 0,
        sent_bytes,
        received_bytes,
        denied_packets,
    };
    status.talkers.since_s = 480;
    status.talkers.by_bytes = vec![
        talker("10.30.3.11", 8_123_000, 912_000, 0),
        talker("fd00:20::11", 640_000, 5_120_000, 0),
    ];
    status.talkers.by_denied = vec![talker("10.66.0.66", 88_000, 0, 1_432)];
    status.staged =
        Some(StagedStatus { source: "next".to_owned(), age_s: 90, flows: 310, cut: 2, opened: 1 });
    status.attention = vec![Attention {
        alarm: true,
        what: "ens2f0 (historian, inside) has no carrier".to_owned(),
        remedy: "look at the cable and the device at its other end".to_owned(),
    }];
    Box::new(status)
}

/// A gateway that was looked at twice, a second apart.
fn model() -> Model {
    let mut model = Model::default();
    model.take(SECOND, Ok(status(10)));
    model.take(2 * SECOND, Ok(status(11)));
    model
}

fn drawn(model: &Model, ui: &Ui, (width, height): (u16, u16), at: Duration) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, model, ui, at)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let row: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        out.push_str(row.trim_end());
        out.push('\n');
    }
    out
}

fn plain() -> Ui {
    Ui::new(SECOND, false)
}

/// Compares a screen with the one that is kept.
fn golden(name: &str, shown: &str) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live").join(name);
    if fs::read_to_string(&kept).unwrap_or_default() != shown {
        let now = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&now, shown).unwrap();
        panic!("{} is not what is shown now, {}:\n{shown}", kept.display(), now.display());
    }
}

#[test]
fn the_screens_are_as_they_were_looked_at() {
    let model = model();
    for (panel, size) in [
        (Panel::Overview, (80, 24)),
        (Panel::Overview, (132, 40)),
        (Panel::Ports, (80, 24)),
        (Panel::Verdicts, (80, 24)),
        (Panel::Rules, (80, 24)),
        (Panel::Talkers, (80, 24)),
        (Panel::Workers, (80, 24)),
        (Panel::Overview, (30, 10)),
    ] {
        let ui = Ui { panel, ..plain() };
        let name = format!("{}-{}x{}.txt", panel.label().to_lowercase(), size.0, size.1);
        golden(&name, &text(&drawn(&model, &ui, size, 2 * SECOND)));
    }
}

#[test]
fn a_gateway_that_is_gone_is_said_to_be_since_when_and_what_was_known_stays() {
    let mut model = model();
    for at in [3, 4, 9] {
        let why = "no gateway answers at /run/bulkhead/control.sock".to_owned();
        model.take(at * SECOND, Err(why));
    }
    let at = 63 * SECOND;
    golden("gone-80x24.txt", &text(&drawn(&model, &plain(), (80, 24), at)));
    assert!(panels::line(&model, at).starts_with("gone for 1 min 0 s: no gateway answers"));
    // Who carries the frames meanwhile, and since when.
    let mut bypassed =
        Bypassed::now(&["plc-1".to_owned()], "the supervisor", "worker 0 stood still");
    bypassed.since_unix_ms = 1_795_500_003_000;
    model.bypassed = Some(bypassed);
    golden("bypassed-80x24.txt", &text(&drawn(&model, &plain(), (80, 24), at)));
    let said =
        "plc-1 passes everything unjudged, by the supervisor since 2026-11-24T06:00:03Z: worker 0";
    assert!(text(&drawn(&model, &plain(), (132, 40), at)).contains(said));
    assert!(panels::line(&model, at).contains(said));
    assert!(text(&drawn(&model, &plain(), (30, 10), at)).contains("UNJUDGED plc-1"));
    model.bypassed = None;
    // It is there again, and counts from zero.
    model.take(64 * SECOND, Ok(status(0)));
    assert_eq!((model.restarts, model.gone.is_none()), (1, true));
    assert!(model.rates.received.abs() < 1e-9, "there is no rate across a restart");
    model.take(65 * SECOND, Ok(status(1)));
    assert!((model.rates.received - 5000.0).abs() < 1e-6);
}

#[test]
fn a_pause_hides_neither_that_the_gateway_is_gone_nor_that_it_is_back() {
    let mut model = model();
    let before = model.status.clone();
    let at = 20 * SECOND;
    model.look(at, Ok(status(30)), true);
    assert_eq!(model.status, before, "what is paused stays");
    let shown = text(&drawn(&model, &plain(), (80, 24), at));
    assert!(!shown.contains("no answer for"), "it answers: {shown}");
    // One answer is missed, as in a `bulkhead restart`.
    model.look(21 * SECOND, Err("no gateway answers".to_owned()), true);
    assert!(text(&drawn(&model, &plain(), (80, 24), 21 * SECOND)).contains("GONE for"));
    model.look(22 * SECOND, Ok(status(1)), true);
    let shown = text(&drawn(&model, &plain(), (80, 24), 22 * SECOND));
    assert!(!shown.contains("GONE") && model.gone.is_none(), "{shown}");
}

#[test]
fn a_gateway_that_hangs_is_noticed() {
    let model = model();
    let shown = text(&drawn(&model, &plain(), (80, 24), 20 * SECOND));
    assert!(shown.contains("no answer for 18 s: does the gateway hang?"), "{shown}");
}

#[test]
fn every_panel_stands_at_every_size() {
    let mut gone = model();
    gone.take(3 * SECOND, Err("gone".to_owned()));
    for model in [Model::default(), model(), gone] {
        for panel in Panel::ALL {
            for (width, height) in [(1, 1), (5, 2), (20, 5), (44, 9), (45, 10), (80, 12), (300, 90)]
            {
                for scroll in [0, 1000] {
                    let ui = Ui { panel, scroll, help: scroll > 0, ..plain() };
                    drawn(&model, &ui, (width, height), 3 * SECOND);
                }
            }
        }
    }
}

#[test]
fn colours_are_the_sixteen_or_none() {
    let model = model();
    for colour in [true, false] {
        let mut seen = false;
        for panel in Panel::ALL {
            let ui = Ui { panel, colour, ..plain() };
            let buffer = drawn(&model, &ui, (80, 24), 2 * SECOND);
            for cell in buffer.content() {
                let is_of_many = |c| matches!(c, Color::Rgb(..) | Color::Indexed(_));
                assert!(!is_of_many(cell.fg) && !is_of_many(cell.bg));
                seen |= cell.fg != Color::Reset || cell.bg != Color::Reset;
            }
        }
        assert_eq!(seen, colour);
    }
}

#[test]
fn a_line_says_what_matters() {
    let line = panels::line(&model(), 2 * SECOND);
    assert_eq!(
        line,
        "06:00:11Z guarding in 5.00k/s 4.80Mbit/s forwarded 4.91k/s dropped 91/s would-drop 0/s flows \
         2400 p99 18.3 us busy 31% alarms 1 policy 5f0c3a9d2b7e"
    );
}
