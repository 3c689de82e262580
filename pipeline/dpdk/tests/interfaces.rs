//! Ports on real kernel interfaces: frames in and out, and interfaces left as they were.
#![allow(clippy::unwrap_used, reason = "a test whose stage cannot be set fails")]

mod support;

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_dpdk::{
    Backend, Device, DeviceConfig, DpdkPort, Eal, ErrorKind, HugePages, LinkState, Mempool,
    redirect,
};
use bulkhead_pipeline::port::{Burst, Frame, Port};
use support::{
    Host, TakenQueue, companion, describe, environment, environment_with, feature, forward_for,
    forward_until, frame, ip, isolated, only_queue, receive_queues, role, run, skip, two_wires,
    without_new_descriptors, without_privileges,
};

/// Opens a port by a name of the configuration.
fn open(eal: &Eal, pool: &Mempool, name: &str) -> Device {
    let device = Device::open(eal, pool, &DeviceConfig::new(name)).unwrap();
    println!("{name}: {}, {:?}", device.backend(), device.notes());
    device
}

/// Sends every frame from both hosts through two ports and compares what comes out.
fn frames_cross(names: [&str; 2], backend: &Backend, frames: &[Vec<u8>]) {
    frames_cross_at(1_500, names, backend, frames);
}

/// The same with a mempool for another MTU.
fn frames_cross_at(mtu: u16, names: [&str; 2], backend: &Backend, frames: &[Vec<u8>]) {
    frames_cross_in(&environment(mtu), names, backend, frames);
}

fn frames_cross_in(
    (eal, pool): &(Eal, Mempool),
    names: [&str; 2],
    backend: &Backend,
    frames: &[Vec<u8>],
) {
    let [mut left, mut right] = names.map(|name| open(eal, pool, name));
    assert_eq!(left.backend(), backend, "{:?}", left.notes());
    let (mut one, mut two) = (only_queue(&mut left), only_queue(&mut right));
    left.start().unwrap();
    right.start().unwrap();
    let hosts = [Host::on("h1"), Host::on("h2")];
    for (from, to) in [(0, 1), (1, 0)] {
        for sent in frames {
            hosts[from].send(sent);
            let mut got = None;
            forward_until(&mut one, &mut two, || {
                got = hosts[to].receive();
                got.is_some()
            });
            let Some(got) = got else { panic!("a frame of {} bytes was lost", sent.len()) };
            assert_eq!(got, *sent, "a frame of {} bytes was changed", sent.len());
        }
    }
    let counted = left.counters().unwrap();
    assert_eq!((counted.no_buffer, counted.transmit_errors), (0, 0));
}

/// Frames of every length that matters, with and without tags.
fn ordinary_frames() -> Vec<Vec<u8>> {
    let (untagged, one, stacked): (&[_], &[_], &[_]) =
        (&[], &[(0x8100, 0x6064)], &[(0x8100, 0x0064), (0x8100, 0x00c8)]);
    [60, 64, 65, 128, 1_000, 1_513, 1_514]
        .into_iter()
        .map(|length| frame(length, length as u8, untagged))
        .chain([64, 68, 1_514, 1_518].map(|length| frame(length, 7, one)))
        .chain([68, 1_518].map(|length| frame(length, 9, stacked)))
        .collect()
}

#[test]
fn frames_cross_af_xdp_unchanged() {
    isolated("frames_cross_af_xdp_unchanged", || {
        two_wires(1_500);
        let mut frames = ordinary_frames();
        frames.push(frame(200, 3, &[(0x88a8, 0x0064), (0x8100, 0x00c8)]));
        frames.extend(fragments());
        frames_cross(["p1", "p2"], &Backend::AfXdp, &frames);
    });
}

#[test]
fn frames_cross_af_xdp_without_huge_pages() {
    isolated("frames_cross_af_xdp_without_huge_pages", || {
        two_wires(1_500);
        let environment = environment_with(1_500, HugePages::Never);
        frames_cross_in(&environment, ["p1", "p2"], &Backend::AfXdp, &ordinary_frames());
    });
}

#[test]
fn frames_cross_af_packet_unchanged() {
    isolated("frames_cross_af_packet_unchanged", || {
        two_wires(1_500);
        frames_cross(AF_PACKET_PORTS, &Backend::AfPacket, &ordinary_frames());
    });
}

#[test]
fn a_tag_that_a_bridge_keeps_beside_the_frame_is_not_lost() {
    isolated("a_tag_that_a_bridge_keeps_beside_the_frame_is_not_lost", || {
        two_wires(1_500);
        ip("link add bridge0 type bridge");
        ip("link add far0 type veth peer name far1");
        for interface in ["far1", "h1"] {
            ip(&format!("link set {interface} master bridge0"));
        }
        for interface in ["far0", "far1", "bridge0"] {
            ip(&format!("link set {interface} up"));
        }
        let (eal, pool) = environment(1_500);
        for name in ["p1", "net_af_packet0,iface=p1"] {
            assert!(feature("h1", "tx-vlan-offload"), "{name}: the peer was not left as it was");
            let mut device = open(&eal, &pool, name);
            let mut queue = only_queue(&mut device);
            device.start().unwrap();
            let sent = frame(200, 3, &[(0x8100, 0x6064)]);
            assert_eq!(next_of_ours(&mut queue, &Host::on("far0"), &sent), sent, "{name}");
        }
    });
}

#[test]
fn a_peer_out_of_reach_is_noted_where_tags_could_be_lost() {
    isolated("a_peer_out_of_reach_is_noted_where_tags_could_be_lost", || {
        two_wires(1_500);
        let mut elsewhere = Command::new("unshare").args(["--net", "sleep", "20"]).spawn().unwrap();
        std::thread::sleep(QUIET);
        ip(&format!("link set h1 netns {}", elsewhere.id()));
        ip(&format!("link set h2 netns {}", elsewhere.id()));
        let (eal, pool) = environment(1_500);
        let noted = |name| open(&eal, &pool, name).notes().join("; ").contains("txvlan off");
        assert!(noted("p1") && noted("net_af_xdp0,iface=p2"));
        assert!(!noted("net_af_packet0,iface=p1"));
        elsewhere.kill().unwrap();
        elsewhere.wait().unwrap();
    });
}

#[test]
fn af_packet_never_hands_over_what_it_would_change() {
    isolated("af_packet_never_hands_over_what_it_would_change", || {
        two_wires(1_500);
        let (eal, pool) = environment(1_500);
        let [mut left, mut right] = AF_PACKET_PORTS.map(|name| open(&eal, &pool, name));
        let (mut one, mut two) = (only_queue(&mut left), only_queue(&mut right));
        left.start().unwrap();
        right.start().unwrap();
        let (sender, receiver, on_port) = (Host::on("h1"), Host::on("h2"), Host::on("p1"));
        // The driver would make it 802.1Q.
        sender.send(&frame(200, 3, &[(0x88a8, 0x0064), (0x8100, 0x00c8)]));
        // The kernel joins these two, and the driver would cut the result off.
        fragments().iter().for_each(|fragment| sender.send(fragment));
        // What the host itself sends on the port came from no wire.
        on_port.send(&frame(300, 4, &[]));
        let last = frame(100, 5, &[]);
        sender.send(&last);
        let mut got = None;
        forward_until(&mut one, &mut two, || {
            got = receiver.receive();
            got.is_some()
        });
        assert_eq!(got.as_ref(), Some(&last));
        assert!(!forward_for(&mut one, &mut two, QUIET, || receiver.receive().is_some()));
    });
}

#[test]
fn frames_cross_a_tap() {
    isolated("frames_cross_a_tap", || {
        if !std::path::Path::new("/dev/net/tun").exists() {
            return skip("frames_cross_a_tap", "no /dev/net/tun");
        }
        let (eal, pool) = environment(1_500);
        let mut device = open(&eal, &pool, "net_tap0,iface=tap7");
        assert_eq!(device.backend(), &Backend::Driver("net_tap".to_owned()));
        std::fs::write("/proc/sys/net/ipv6/conf/tap7/disable_ipv6", "1").unwrap();
        let mut queue = only_queue(&mut device);
        device.start().unwrap();
        let host = Host::on("tap7");
        let sent = frame(222, 4, &[(0x8100, 0x0005)]);
        assert_eq!(next(&mut queue, || host.send(&sent)), sent);
        let mut burst = Burst::new();
        let mut frame = queue.originate(sent.len()).unwrap();
        frame.bytes_mut().copy_from_slice(&sent);
        burst.push(frame);
        queue.transmit(&mut burst);
        assert_eq!(host.receive(), Some(sent));
    });
}

#[test]
fn a_link_that_is_held_down_is_seen_and_comes_back() {
    isolated("a_link_that_is_held_down_is_seen_and_comes_back", || {
        two_wires(1_500);
        let (eal, pool) = environment(1_500);
        let names = ["p1", "net_af_packet0,iface=p2"];
        let [mut left, mut right] = names.map(|name| open(&eal, &pool, name));
        let (mut one, mut two) = (only_queue(&mut left), only_queue(&mut right));
        left.start().unwrap();
        right.start().unwrap();
        for (device, host) in [(&left, "h1"), (&right, "h2")] {
            assert_eq!(device.link().unwrap(), LinkState::Up);
            ip(&format!("link set {host} down"));
            assert_eq!(device.link().unwrap(), LinkState::Down);
            ip(&format!("link set {host} up"));
            assert_eq!(device.link().unwrap(), LinkState::Up);

            device.set_link(false).unwrap();
            assert_eq!(device.link().unwrap(), LinkState::Held);
            assert!(describe(host).contains("NO-CARRIER"), "{}", describe(host));
            forward_for(&mut one, &mut two, QUIET, || false);
            device.set_link(true).unwrap();
            assert_eq!(device.link().unwrap(), LinkState::Up);
        }
        for (from_name, to) in [("h1", "h2"), ("h2", "h1")] {
            let (from, to, sent) = (Host::on(from_name), Host::on(to), frame(500, 1, &[]));
            from.send(&sent);
            let mut got = None;
            forward_until(&mut one, &mut two, || {
                got = to.receive();
                got.is_some()
            });
            assert!(got == Some(sent), "{from_name} is cut off after the links came back");
        }
    });
}

#[test]
fn what_the_kernel_had_no_room_for_is_counted_as_missed() {
    isolated("what_the_kernel_had_no_room_for_is_counted_as_missed", || {
        const SENT: u64 = 20_000;
        two_wires(1_500);
        let (eal, pool) = environment(1_500);
        for (name, host) in [("p1", "h1"), ("net_af_packet0,iface=p2", "h2")] {
            let mut device = open(&eal, &pool, name);
            let mut queue = only_queue(&mut device);
            device.start().unwrap();
            let host = Host::on(host);
            (0..SENT).for_each(|_| host.send(&frame(60, 1, &[])));
            let (mut received, mut burst) = (0, Burst::new());
            for _ in 0..2_000 {
                queue.receive(&mut burst);
                received += burst.len() as u64;
                queue.release(&mut burst);
            }
            let counted = device.counters().unwrap();
            println!("{name}: received {received}, {counted:?}");
            assert!(received > 500 && counted.missed > 0, "{name}");
            assert_eq!(received + counted.missed, SENT, "{name}: {:?}", device.xstats());
            assert_eq!(device.counters().unwrap(), counted, "{name}: counters do not go back");
        }
    });
}

#[test]
fn every_receive_queue_is_bound_or_closed() {
    isolated("every_receive_queue_is_bound_or_closed", || {
        two_wires(1_500);
        run("ethtool -L p1 rx 2");
        let (eal, pool) = environment(1_500);
        let queues = || receive_queues("p1");
        assert_eq!(queues(), 2);
        let one = open(&eal, &pool, "p1");
        assert_eq!((queues(), one.backend()), (1, &Backend::AfXdp));
        drop(one);
        assert_eq!(queues(), 2);

        let config = DeviceConfig { queues: 2, ..DeviceConfig::new("p1") };
        let mut two = Device::open(&eal, &pool, &config).unwrap();
        assert_eq!((queues(), two.backend(), two.hash_table_len()), (2, &Backend::AfXdp, None));
        let mut both = [two.take_queue(0).unwrap(), two.take_queue(1).unwrap()];
        assert!(two.take_queue(2).is_none());
        two.start().unwrap();
        let (host, mut burst) = (Host::on("h1"), Burst::new());
        host.send(&frame(60, 1, &[]));
        for _ in 0..1_000 {
            both.iter_mut().for_each(|queue| queue.receive(&mut burst));
            std::thread::sleep(Duration::from_micros(100));
        }
        assert_eq!(burst.len(), 1);
    });
}

#[test]
fn af_packet_brings_nothing_from_other_interfaces() {
    isolated("af_packet_brings_nothing_from_other_interfaces", || {
        two_wires(1_500);
        ip("link set lo up");
        let (eal, pool) = environment(1_500);
        let stop = AtomicBool::new(false);
        let mut burst = Burst::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let _ = socket.send_to(b"not for the wire", "127.0.0.1:9");
                }
            });
            for _ in 0..5 {
                let config =
                    DeviceConfig { queues: 2, ..DeviceConfig::new("net_af_packet0,iface=p1") };
                let mut device = Device::open(&eal, &pool, &config).unwrap();
                let mut queues = [device.take_queue(0).unwrap(), device.take_queue(1).unwrap()];
                device.start().unwrap();
                for _ in 0..100 {
                    queues.iter_mut().for_each(|queue| queue.receive(&mut burst));
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(burst.len(), 0, "frames of the loopback interface");
    });
}

#[test]
fn an_interface_is_left_as_it_was() {
    isolated("an_interface_is_left_as_it_was", || {
        two_wires(1_500);
        std::fs::write("/proc/sys/net/ipv6/conf/p1/disable_ipv6", "0").unwrap();
        ip("link set p1 down");
        run("ethtool -K p1 gro on");
        run("ethtool -K p2 gro on");
        let (eal, pool) = environment(2_000);
        for name in ["p1", "net_af_packet0,iface=p1"] {
            let before = state_of("p1");
            assert!(before.contains("gro on") && before.contains("promiscuity 0"), "{before}");
            let mut config = DeviceConfig::new(name);
            config.mtu = Some(2_000);
            let mut device = Device::open(&eal, &pool, &config).unwrap();
            let mut queue = only_queue(&mut device);
            device.start().unwrap();
            assert_eq!(next(&mut queue, || Host::on("h1").send(&frame(80, 6, &[]))).len(), 80);
            let during = state_of("p1");
            for changed in ["mtu 2000", "promiscuity 1", "gro off", "ipv6 off", "up"] {
                assert!(during.contains(changed), "{changed}: {during}");
            }
            assert_eq!(device.mtu(), 2_000);
            drop(device);
            assert_eq!(state_of("p1"), during, "a queue keeps its port open");
            drop(queue);
            assert_eq!(state_of("p1"), before, "{name}");
        }
    });
}

#[test]
fn a_start_clears_what_a_killed_gateway_left() {
    isolated("a_start_clears_what_a_killed_gateway_left", || {
        if role().is_some() {
            let (eal, pool) = environment(1_500);
            let device = open(&eal, &pool, "p1");
            assert_eq!(device.backend(), &Backend::AfXdp);
            device.start().unwrap();
            println!("victim is up");
            std::thread::sleep(Duration::from_secs(50));
            return;
        }
        two_wires(1_500);
        let mut victim = companion("a_start_clears_what_a_killed_gateway_left", "victim");
        let mut victim = victim.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("victim is up")));
        // What DPDK's own promiscuous mode would leave.
        ip("link set p1 promisc on");

        let (eal, pool) = environment(1_500);
        let error = Device::open(&eal, &pool, &DeviceConfig::new("p1")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert!(describe("p1").contains("xdp"), "{}", describe("p1"));

        let mut device = open(&eal, &pool, "p1");
        assert_eq!(device.backend(), &Backend::AfXdp);
        let notes = device.notes().join("; ");
        assert!(notes.contains("XDP program") && notes.contains("promiscuous"), "{notes}");
        let mut queue = only_queue(&mut device);
        device.start().unwrap();
        let sent = frame(90, 2, &[]);
        assert_eq!(next(&mut queue, || Host::on("h1").send(&sent)), sent);
        drop((queue, device));
        let after = describe("p1");
        assert!(!after.contains("xdp") && after.contains("promiscuity 0"), "{after}");
    });
}

#[test]
fn a_queue_that_the_kernel_gives_back_late_is_waited_for_at_no_cost_in_buffers() {
    isolated("a_queue_that_the_kernel_gives_back_late_is_waited_for_at_no_cost_in_buffers", || {
        two_wires(1_500);
        let (eal, pool) = environment(1_500);
        let free = pool.available();
        let other = open(&eal, &pool, "p2");
        let each = free - pool.available();
        let taken = TakenQueue::of("p1");
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1_000));
            drop(taken);
        });
        let device = open(&eal, &pool, "p1");
        assert_eq!(device.backend(), &Backend::AfXdp, "{:?}", device.notes());
        assert!(holder.is_finished(), "it was taken until then");
        assert_eq!(free - pool.available(), 2 * each, "buffers were lost");
        drop((device, other));
    });
}

#[test]
fn queues_that_stay_taken_are_waited_for_once() {
    isolated("queues_that_stay_taken_are_waited_for_once", || {
        two_wires(1_500);
        let (eal, pool) = environment(1_500);
        let _taken = ["p1", "p2"].map(TakenQueue::of);
        let [first, second] = ["p1", "p2"].map(|name| {
            let begun = std::time::Instant::now();
            let device = open(&eal, &pool, name);
            assert_eq!(device.backend(), &Backend::AfPacket, "{:?}", device.notes());
            begun.elapsed()
        });
        assert!(first >= Duration::from_millis(1_500), "{first:?}");
        assert!(second < first / 2, "{second:?} after {first:?}");
    });
}

#[test]
fn a_bypass_that_was_left_is_found_under_whatever_name() {
    isolated("a_bypass_that_was_left_is_found_under_whatever_name", || {
        two_wires(1_500);
        redirect::engage("p1", "p2", 1_500).unwrap();
        let (from, to) = (Host::on("h1"), Host::on("h2"));
        // Sent again until it arrives: a link that has just come up may not carry yet.
        let arrives = |seed: u8, times: u32| {
            let sent = frame(80, seed, &[]);
            (0..times).any(|_| {
                from.send(&sent);
                std::thread::sleep(Duration::from_millis(50));
                std::iter::from_fn(|| to.receive()).any(|frame| frame == sent)
            })
        };
        ip("link set p1 down");
        ip("link set p1 name lost");
        ip("link set lost up");
        assert!(arrives(1, 100), "the kernel carries frames on");
        let named =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(redirect::release_strays(&named(&["h2"])).unwrap(), named(&[]), "not ours");
        assert_eq!(redirect::release_strays(&named(&["p1", "p2"])).unwrap(), named(&["lost"]));
        assert!(!arrives(2, 5), "past the gateway");
        assert!(!redirect::is_engaged("lost").unwrap());
        assert!(redirect::is_engaged("p2").unwrap(), "whoever has this port ends that");
        assert_eq!(redirect::release_strays(&named(&["p1", "p2"])).unwrap(), named(&[]));
        // As under the packaged unit where every port is a PCI device: the kernel is not even asked.
        without_new_descriptors();
        assert!(redirect::release_strays(&named(&["p1"])).is_err());
        assert_eq!(redirect::release_strays(&[]).unwrap(), named(&[]));
    });
}

#[test]
fn what_cannot_be_a_port_is_refused_with_the_remedy() {
    isolated("what_cannot_be_a_port_is_refused_with_the_remedy", || {
        two_wires(1_500);
        ip("link set lo up");
        ip("link add bridge0 type bridge");
        ip("link set h2 master bridge0");
        ip("addr add 10.9.8.7/24 dev h1");
        let (eal, pool) = environment(1_500);
        let claimed = open(&eal, &pool, "p1");
        for (name, kind, words) in [
            ("nothing0", ErrorKind::NotFound, "no such interface"),
            ("lo", ErrorKind::Config, "loopback"),
            ("h1", ErrorKind::HasAddresses, "ip addr flush dev h1"),
            ("h2", ErrorKind::Enslaved, "ip link set dev h2 nomaster"),
            ("p1", ErrorKind::InUse, "each interface once"),
            ("net_af_xdp0,iface=h1", ErrorKind::HasAddresses, "10.9.8.7/24"),
            ("net_unheard0", ErrorKind::NotFound, "net_unheard"),
            ("ffff:1f:1f.7", ErrorKind::NotFound, "dpdk-devbind.py --status"),
        ] {
            let error = Device::open(&eal, &pool, &DeviceConfig::new(name)).unwrap_err();
            println!("{error}");
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(error.port(), Some(name), "{error}");
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
        drop(claimed);
        let mut config = DeviceConfig::new("net_af_packet0,iface=p2,qpairs=1");
        config.queues = 2;
        let error = Device::open(&eal, &pool, &config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Queues, "{error}");
        config = DeviceConfig::new("p1");
        config.mtu = Some(9_000);
        let error = Device::open(&eal, &pool, &config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("mempool"), "{error}");
    });
}

#[test]
fn without_privileges_the_error_names_them() {
    isolated("without_privileges_the_error_names_them", || {
        if role().is_some() {
            let (eal, pool) = environment(1_500);
            let error = Device::open(&eal, &pool, &DeviceConfig::new("p1")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Privilege, "{error}");
            let text = error.to_string();
            assert!(text.contains("NET_ADMIN") && text.contains("run as root"), "{text}");
            return;
        }
        two_wires(1_500);
        let mut nobody = companion("without_privileges_the_error_names_them", "nobody");
        let output = without_privileges(&mut nobody).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    });
}

#[test]
fn long_frames_cross_af_xdp_up_to_its_limit() {
    isolated("long_frames_cross_af_xdp_up_to_its_limit", || {
        two_wires(1_500);
        for interface in ["h1", "h2", "p1", "p2"] {
            ip(&format!("link set {interface} mtu {AF_XDP_MTU}"));
        }
        let length = usize::from(AF_XDP_MTU);
        let frames = [
            frame(length + 14, 1, &[]),
            frame(length + 18, 2, &[(0x8100, 0x0005)]),
            frame(60, 3, &[]),
        ];
        frames_cross_at(AF_XDP_MTU, ["p1", "p2"], &Backend::AfXdp, &frames);
    });
}

#[test]
fn beyond_the_limit_of_af_xdp_af_packet_takes_over() {
    isolated("beyond_the_limit_of_af_xdp_af_packet_takes_over", || {
        two_wires(9_000);
        let frames =
            [frame(9_014, 1, &[]), frame(9_018, 2, &[(0x8100, 0x0005)]), frame(60, 3, &[])];
        frames_cross_at(9_000, ["p1", "p2"], &Backend::AfPacket, &frames);
    });
}

/// The driver would wait, without end, for a socket whose frames nobody takes.
#[test]
fn af_packet_does_not_wait_for_an_interface_that_takes_nothing() {
    const NAME: &str = "af_packet_does_not_wait_for_an_interface_that_takes_nothing";
    isolated(NAME, || {
        two_wires(1_500);
        let slow = "qdisc replace dev p1 root tbf rate 8kbit burst 2000 limit 100000000";
        let shaped = Command::new("tc").args(slow.split(' ')).status();
        if !shaped.is_ok_and(|status| status.success()) {
            return skip(NAME, "this kernel has no token bucket filter, or there is no `tc`");
        }
        let (eal, pool) = environment(1_500);
        let mut device = open(&eal, &pool, "net_af_packet0,iface=p1,qdisc_bypass=0");
        let mut queue = only_queue(&mut device);
        device.start().unwrap();
        let mut burst: Burst<_> = Burst::new();
        let (mut calls, mut refused) = (0, 0);
        // Its ring holds 2,048 frames, and its socket fewer.
        while refused < 20 {
            if burst.is_empty() {
                burst.extend(queue.originate(1_500));
            }
            queue.transmit(&mut burst);
            refused = if burst.is_empty() { 0 } else { refused + 1 };
            calls += 1;
            assert!(calls < 20_000, "the interface takes everything");
        }
        run("tc qdisc del dev p1 root");
        for _ in 0..2_000 {
            queue.transmit(&mut burst);
            if burst.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the port sends nothing although the interface takes frames again");
    });
}

/// Two AF_PACKET ports that the test asks for by their device strings.
const AF_PACKET_PORTS: [&str; 2] = ["net_af_packet0,iface=p1", "net_af_packet1,iface=p2"];

/// The largest MTU that AF_XDP carries.
const AF_XDP_MTU: u16 = 3_434;

/// How long nothing must come before it is believed that nothing comes.
const QUIET: Duration = Duration::from_millis(300);

/// The first frame that arrives once `send` has been called.
fn next(queue: &mut DpdkPort, send: impl FnOnce()) -> Vec<u8> {
    send();
    let mut burst = Burst::new();
    for _ in 0..2_000 {
        queue.receive(&mut burst);
        if let Some(frame) = burst.first() {
            return frame.bytes().to_vec();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing arrived");
}

/// What arrives of a frame of [`frame`] that a host sends, again and again for a bridge may not yet
/// forward, among the frames that the bridge sends itself.
fn next_of_ours(queue: &mut DpdkPort, host: &Host, sent: &[u8]) -> Vec<u8> {
    let mut burst = Burst::new();
    for _ in 0..100 {
        host.send(sent);
        std::thread::sleep(Duration::from_millis(50));
        queue.receive(&mut burst);
        if let Some(frame) = burst.iter().find(|frame| frame.bytes().ends_with(&sent[18..])) {
            return frame.bytes().to_vec();
        }
        queue.release(&mut burst);
    }
    panic!("nothing arrived");
}

/// Two fragments of one IPv4 packet of 2,980 bytes.
fn fragments() -> [Vec<u8>; 2] {
    [0x2000_u16, 0x00b9].map(|place| {
        let mut frame = frame(1_514, 1, &[]);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let header = [0x45, 0, 0x05, 0xdc, 0x12, 0x34, (place >> 8) as u8, place as u8];
        frame[14..22].copy_from_slice(&header);
        frame[22..34].copy_from_slice(&[64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let words = frame[14..34].chunks(2);
        let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    })
}

/// What must be as it was found.
fn state_of(interface: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    let ipv6 = std::fs::read_to_string(path).unwrap();
    let words = describe(interface);
    let after = |word: &str| {
        let mut words = words.split_whitespace().skip_while(|each| *each != word);
        words.nth(1).unwrap_or("absent").to_owned()
    };
    format!(
        "mtu {} promiscuity {} {} {} gro {} ipv6 {}",
        after("mtu"),
        after("promiscuity"),
        if words.contains("UP") { "up" } else { "down" },
        if words.contains("xdp") { "xdp" } else { "" },
        if feature(interface, "generic-receive-offload") { "on" } else { "off" },
        if ipv6.trim() == "1" { "off" } else { "on" },
    )
}
