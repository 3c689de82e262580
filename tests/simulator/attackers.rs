//! What hostile hosts send: scans, floods, forged segments, replies that nobody asked for, errors
//! about nothing, fragments that do not fit, and frames that are none.

use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};

use super::frame::{InFlight, Sender};
use super::hosts::{Host, Kind, Path, Talk, VLANS};
use super::port::Place;
use super::random::Random;
use super::tcp::Segment;

/// An attacker is off the window by at least so much: more than any window.
const FAR: u32 = 1 << 30;

/// The next attack.
pub(super) fn attack(random: &mut Random, wires: u16, talks: &[Talk], out: &mut Vec<InFlight>) {
    match random.below(13) {
        0 => scan(random, wires, out),
        1 => syn_flood(random, wires, out),
        2 => udp_flood(random, wires, out),
        3 | 4 => blind(random, talks, out),
        5 => elsewhere(random, wires, talks, out),
        6 => unasked(random, wires, out),
        7 => error(random, wires, talks, out),
        8 | 9 => fragments(random, wires, talks, out),
        10 => spoofed(random, talks, out),
        11 => reopening(random, talks, out),
        _ => malformed(random, wires, out),
    }
}

fn hostile(place: Place, frame: &FrameBuilder) -> InFlight {
    InFlight::new(Sender::HOSTILE, place, frame.build())
}

/// One host looks for open ports: SYN, FIN, NULL, Xmas, ACK, SYN-ACK and RST probes.
fn scan(random: &mut Random, wires: u16, out: &mut Vec<InFlight>) {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
    let flags =
        random.pick(&[SYN, FIN, 0, FIN | PSH | URG, ACK, SYN | ACK, RST, FIN | ACK, SYN | FIN]);
    let path = Path::any(random, wires);
    for _ in 0..random.between(4, 16) {
        let segment =
            Segment { flags, seq: random.next() as u32, window: 1024, ..Segment::default() };
        let path = Path {
            server: Host::any(random, path.server.inside),
            server_port: random.pick(&[22, 80, 443, 502, 5000, 5001]),
            client_port: random.between(1024, 65_000) as u16,
            ..path
        };
        out.push(hostile(path.place(true), &path.tcp(true, &segment)));
    }
}

/// SYNs from addresses of nobody.
fn syn_flood(random: &mut Random, wires: u16, out: &mut Vec<InFlight>) {
    let path = Path { is_v6: false, ..Path::any(random, wires) };
    for _ in 0..random.between(16, 60) {
        let src = std::net::Ipv4Addr::from(0x0a00_0000 | random.next() as u32 & 0x00ff_ffff);
        let frame = path.link(true).ip(src, path.server.v4());
        let frame = frame.tcp(random.between(1, 65_535) as u16, path.server_port, tcp_flags::SYN);
        out.push(hostile(path.place(true), &frame.seq(random.next() as u32, 0)));
    }
}

/// One host opens as many flows as it can.
fn udp_flood(random: &mut Random, wires: u16, out: &mut Vec<InFlight>) {
    let path = Path::any(random, wires);
    for _ in 0..random.between(16, 60) {
        let port = random.between(1, 65_535) as u16;
        out.push(hostile(path.place(true), &path.ip(true).udp(port, path.server_port)));
    }
}

fn any_tcp<'a>(random: &mut Random, talks: &'a [Talk]) -> Option<(&'a Path, [u32; 2])> {
    let talk = &talks[random.below(talks.len())];
    match &talk.kind {
        Kind::Tcp { client, server } => Some((&talk.path, [client.next_seq(), server.next_seq()])),
        _ => None,
    }
}

/// Who knows a connection's addresses and ports, but not its numbers, tries to end it or to write
/// into it.
fn blind(random: &mut Random, talks: &[Talk], out: &mut Vec<InFlight>) {
    use tcp_flags::{ACK, FIN, PSH, RST};
    let Some((path, seqs)) = any_tcp(random, talks) else { return };
    for _ in 0..random.between(1, 6) {
        let from_client = random.permille(500);
        let off = FAR + (random.next() as u32) % (FAR - 1_000_000);
        let segment = Segment {
            flags: random.pick(&[RST, RST | ACK, ACK | PSH, FIN | ACK]),
            seq: seqs[usize::from(!from_client)].wrapping_add(off),
            ack: random.next() as u32,
            window: 1024,
            len: random.below(2) as u16,
            scale: None,
        };
        // Sometimes from another card than the host's own.
        let (from, to) = path.ends(from_client);
        let from = if random.permille(500) { Host::any(random, from.inside) } else { from };
        let frame = path.tcp(from_client, &segment).macs(from.mac(), to.mac());
        out.push(InFlight::new(Sender::BLIND, path.place(from_client), frame.build()));
    }
}

/// SYNs on the ports of connections that there are: most of all those that are about to end.
fn reopening(random: &mut Random, talks: &[Talk], out: &mut Vec<InFlight>) {
    for talk in talks {
        let Kind::Tcp { client, server } = &talk.kind else { continue };
        if (client.is_closing() || server.is_closing()) && random.permille(500) {
            let from_client = random.permille(200);
            let (flags, seq) = (tcp_flags::SYN, random.next() as u32);
            let segment = Segment { flags, seq, window: 1024, ..Segment::default() };
            let path = &talk.path;
            out.push(hostile(path.place(from_client), &path.tcp(from_client, &segment)));
        }
    }
}

/// The packets of a live conversation, in another VLAN or on another wire.
fn elsewhere(random: &mut Random, wires: u16, talks: &[Talk], out: &mut Vec<InFlight>) {
    let talk = &talks[random.below(talks.len())];
    let from_client = random.permille(300);
    let path = if wires > 1 && random.permille(300) {
        Path { wire: 1 - talk.path.wire, ..talk.path }
    } else {
        Path {
            vlan: (talk.path.vlan + 1 + random.below(VLANS.len() - 1)) % VLANS.len(),
            ..talk.path
        }
    };
    let (src, dst) = path.ports(from_client);
    let frame = match &talk.kind {
        Kind::Tcp { client, server } => {
            let (from, to) = if from_client { (client, server) } else { (server, client) };
            let flags = tcp_flags::ACK;
            let (seq, ack) = (from.next_seq(), to.next_seq());
            path.tcp(from_client, &Segment { flags, seq, ack, window: 512, ..Segment::default() })
        }
        Kind::Echo { .. } if from_client => path.ip(true).echo_request(path.client_port, 9),
        Kind::Echo { .. } => path.ip(false).echo_reply(path.client_port, 9),
        _ => path.ip(from_client).udp(src, dst).payload_len(20),
    };
    out.push(hostile(path.place(from_client), &frame));
}

/// Replies to what nobody has asked.
fn unasked(random: &mut Random, wires: u16, out: &mut Vec<InFlight>) {
    let path = Path::any(random, wires);
    let (src, dst) = path.ports(false);
    let frame = match random.below(4) {
        0 => path.ip(false).udp(src, dst).payload_len(100),
        1 => path.ip(false).echo_reply(path.client_port, 1),
        2 => path
            .ip(false)
            .tcp(src, dst, tcp_flags::SYN | tcp_flags::ACK)
            .seq(random.next() as u32, 1),
        _ => path.ip(false).sctp(src, dst).payload_len(16),
    };
    out.push(hostile(path.place(false), &frame));
}

/// ICMP errors: about conversations that there are, about such that there are not, to whom they do
/// not concern. Routers send the first kind too.
fn error(random: &mut Random, wires: u16, talks: &[Talk], out: &mut Vec<InFlight>) {
    let talk = &talks[random.below(talks.len())];
    let path = if random.permille(300) { Path::any(random, wires) } else { talk.path };
    let by_client = random.permille(500);
    let (src, dst) = path.ports(by_client);
    let quoted = match &talk.kind {
        Kind::Tcp { .. } => path.ip(by_client).tcp(src, dst, tcp_flags::ACK),
        Kind::Echo { .. } => path.ip(by_client).echo_request(path.client_port, 1),
        _ => path.ip(by_client).udp(src, dst),
    };
    let quoted = quoted.payload_len(8).build();
    let at = 14 + 4 * VLANS[path.vlan].len();
    let is_concerned = random.permille(800);
    let frame = if is_concerned {
        path.ip(!by_client)
    } else {
        let (from, _) = path.ends(!by_client);
        let other = Host { inside: !from.inside, number: random.below(super::hosts::HOSTS) };
        path.link(!by_client).ip(from.addr(path.is_v6), other.addr(path.is_v6))
    };
    let (kind, code) = if path.is_v6 { (1, 4) } else { (3, 3) };
    let frame = frame.icmp(kind, code, 0).payload(&quoted[at..quoted.len().min(at + 56)]);
    out.push(hostile(path.place(!by_client), &frame));
}

/// Fragments without a first one, over others, tiny, of used identifications.
fn fragments(random: &mut Random, wires: u16, talks: &[Talk], out: &mut Vec<InFlight>) {
    let live = talks[random.below(talks.len())].path;
    let path = if random.permille(500) { live } else { Path::any(random, wires) };
    let from_client = random.permille(700);
    let (src, dst) = path.ports(from_client);
    let id = random.below(64) as u32;
    let place = path.place(from_client);
    let ip = || path.ip(from_client);
    let first = |len| ip().fragment(id, 0, true).udp(src, dst).payload_len(len);
    let later = |offset, len, more| ip().fragment(id, offset, more).protocol(17).payload_len(len);
    let frames = match random.below(5) {
        0 => vec![later(8 * random.between(1, 300) as u16, 64, random.permille(500))],
        1 => vec![first(56), later(64, 64, true), later(96, 64, false)],
        2 => vec![first(120), later(64, 64, false), later(128, 8, false)],
        3 => vec![ip().fragment(id, 0, true).protocol(17).payload_len(4), later(8, 64, false)],
        _ => vec![first(56), first(56), later(64, 64, false), later(64, 64, false)],
    };
    out.extend(frames.iter().map(|frame| hostile(place, frame)));
}

/// Who is on the wire pretends to be one end of a conversation: another host's MAC address, or the
/// host's own frames with other flags and near numbers.
fn spoofed(random: &mut Random, talks: &[Talk], out: &mut Vec<InFlight>) {
    let talk = &talks[random.below(talks.len())];
    let path = talk.path;
    let from_client = random.permille(500);
    let (from, to) = path.ends(from_client);
    let (src, dst) = path.ports(from_client);
    let pretends = Host::any(random, from.inside);
    let frame = match &talk.kind {
        Kind::Tcp { client, server } => {
            let end = if from_client { client } else { server };
            let flags = random.pick(&[0x02, 0x12, 0x04, 0x14, 0x11, 0x10, 0x18]);
            let seq = end.next_seq().wrapping_add(random.below(4000) as u32).wrapping_sub(2000);
            path.tcp(from_client, &Segment { flags, seq, ack: 7, window: 99, ..Segment::default() })
        }
        _ => path.ip(from_client).udp(src, dst).payload_len(30),
    };
    out.push(hostile(path.place(from_client), &frame.macs(pretends.mac(), to.mac())));
}

/// Frames that are none, or that hosts read differently.
fn malformed(random: &mut Random, wires: u16, out: &mut Vec<InFlight>) {
    let path = Path { is_v6: false, ..Path::any(random, wires) };
    let (src, dst) = path.ports(true);
    let place = path.place(true);
    let mut whole = path.ip(true).udp(src, dst).payload_len(40).build();
    let at = 14 + 4 * VLANS[path.vlan].len();
    match random.below(10) {
        0 => whole = (0..random.between(1, 80)).map(|_| random.next() as u8).collect(),
        1 => whole.truncate(random.between(1, 40) as usize),
        2 => whole[at] = 0x65,
        3 => whole[at + 8] ^= 0x55,
        4 => whole[at + 3] = 0xff,
        5 => whole[6] |= 1,
        6 => {
            let tags = [10, 20, 30].into_iter().fold(FrameBuilder::new(), FrameBuilder::vlan);
            whole = tags.ip(path.client.v4(), path.server.v4()).udp(src, dst).build();
        }
        7 => whole[at + 24] = 0,
        8 => {
            let frame = path.ip(true).ipv4_options(&[131, 7, 4, 10, 0, 0, 9]);
            whole = frame.udp(src, dst).build();
        }
        _ => whole = FrameBuilder::new().ether_type(0x8808).payload(&[0, 1, 255, 255]).build(),
    }
    out.push(InFlight::new(Sender::HOSTILE, place, whole));
}
