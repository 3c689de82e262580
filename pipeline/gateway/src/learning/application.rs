//! Which application a conversation is, by the first bytes that one side sends.
//!
//! Only what is cheap and certain is recognised: a signature has to be so particular that other
//! protocols do not begin alike. Where a header has little that is particular (NTP, Modbus), the
//! protocol's own port has to agree too. Nothing here trusts a length that it has not compared.

use std::fmt;

use serde::Serialize;

/// An application protocol. One list makes the variants, their names, and what recognises them, in
/// the order in which they are tried.
macro_rules! applications {
    ($($variant:ident, $label:literal, $transport:ident, $test:path;)*) => {
        /// An application protocol.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
        #[serde(into = "&'static str")]
        #[allow(missing_docs, reason = "the protocols' own names")]
        pub enum Application {
            $($variant,)*
        }

        impl Application {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in reports and in the store.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }

        const SIGNATURES: &[(Application, Over, fn(&Payload<'_>) -> Option<Sender>)] =
            &[$((Application::$variant, Over::$transport, $test),)*];
    };
}

applications! {
    Tls, "tls", Tcp, tls;
    Ssh, "ssh", Tcp, ssh;
    Http, "http", Tcp, http;
    Smb, "smb", Tcp, smb;
    S7comm, "s7comm", Tcp, s7comm;
    Rdp, "rdp", Tcp, rdp;
    OpcUa, "opc-ua", Tcp, opc_ua;
    Dicom, "dicom", Tcp, dicom;
    Hl7, "hl7", Tcp, hl7;
    Dnp3, "dnp3", Either, dnp3;
    EtherNetIp, "ethernet-ip", Either, ethernet_ip;
    Bacnet, "bacnet", Udp, bacnet;
    Modbus, "modbus", Tcp, modbus;
    Ntp, "ntp", Udp, ntp;
    Dns, "dns", Either, dns;
}

impl From<Application> for &'static str {
    fn from(application: Application) -> Self {
        application.label()
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A transport that carries payloads which are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP: the first bytes of one direction.
    Tcp,
    /// UDP: a datagram.
    Udp,
}

/// Which end sent the bytes, as far as they tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The one that asks.
    Client,
    /// The one that answers.
    Server,
    /// Both speak alike.
    Unknown,
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// Over what it came.
    pub transport: Transport,
    /// From this port.
    pub src_port: u16,
    /// To this one.
    pub dst_port: u16,
    /// As much as there is of the payload.
    pub bytes: &'a [u8],
    /// How long it was on the wire: copies are cut.
    pub len: usize,
}

/// The application that a payload begins, and who sent it.
pub fn recognise(payload: &Payload<'_>) -> Option<(Application, Sender)> {
    SIGNATURES.iter().find_map(|&(application, over, test)| {
        let fits = match over {
            Over::Tcp => payload.transport == Transport::Tcp,
            Over::Udp => payload.transport == Transport::Udp,
            Over::Either => true,
        };
        fits.then(|| test(payload)).flatten().map(|sender| (application, sender))
    })
}

#[derive(Clone, Copy)]
enum Over {
    Tcp,
    Udp,
    Either,
}

impl Payload<'_> {
    fn u8(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn be16(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8(at)?, self.u8(at + 1)?]))
    }

    fn le16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes([self.u8(at)?, self.u8(at + 1)?]))
    }

    fn le32(&self, at: usize) -> Option<u32> {
        Some(u32::from(self.le16(at)?) | u32::from(self.le16(at + 2)?) << 16)
    }

    /// Who sent it, where the server's port is one of these.
    fn by_port(&self, ports: &[u16]) -> Option<Sender> {
        match (ports.contains(&self.src_port), ports.contains(&self.dst_port)) {
            (true, true) => Some(Sender::Unknown),
            (false, true) => Some(Sender::Client),
            (true, false) => Some(Sender::Server),
            (false, false) => None,
        }
    }
}

/// RFC 8446, section 5.1: a handshake record with a hello in it.
fn tls(p: &Payload<'_>) -> Option<Sender> {
    let is_record = p.u8(0)? == 22 && p.u8(1)? == 3 && p.u8(2)? <= 4;
    let length = p.be16(3)?;
    if !is_record || !(4..=0x4000).contains(&length) {
        return None;
    }
    match p.u8(5)? {
        1 => Some(Sender::Client),
        2 => Some(Sender::Server),
        _ => None,
    }
}

/// RFC 4253, section 4.2.
fn ssh(p: &Payload<'_>) -> Option<Sender> {
    let is_banner = p.bytes.starts_with(b"SSH-2.0-") || p.bytes.starts_with(b"SSH-1.");
    is_banner.then_some(Sender::Unknown)
}

/// RFC 9112, and HTTP/2's preface (RFC 9113, section 3.4).
fn http(p: &Payload<'_>) -> Option<Sender> {
    const METHODS: [&[u8]; 9] = [
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"CONNECT ",
        b"PRI * HTTP/2.0",
    ];
    if p.bytes.starts_with(b"HTTP/1.") {
        return Some(Sender::Server);
    }
    let method = METHODS.iter().find(|method| p.bytes.starts_with(method))?;
    let target = *p.bytes.get(method.len())?;
    let is_target = target == b'/' || target == b'*' || target.is_ascii_alphanumeric();
    (is_target || method.starts_with(b"PRI")).then_some(Sender::Client)
}

/// MS-SMB2 and MS-CIFS behind the session header of RFC 1002.
fn smb(p: &Payload<'_>) -> Option<Sender> {
    if p.u8(0)? != 0 || p.bytes.get(5..8)? != b"SMB" {
        return None;
    }
    let is_response = match p.u8(4)? {
        0xfe => p.u8(4 + 16)? & 1 == 1,
        0xff => p.u8(4 + 9)? & 0x80 != 0,
        // Encrypted or compressed: either side.
        0xfd | 0xfc => return Some(Sender::Unknown),
        _ => return None,
    };
    Some(if is_response { Sender::Server } else { Sender::Client })
}

/// The kind of a COTP packet (ISO 8073) in TPKT (RFC 1006), and where its variable part begins.
fn cotp(p: &Payload<'_>) -> Option<(u8, usize)> {
    let length = usize::from(p.be16(2)?);
    if p.u8(0)? != 3 || p.u8(1)? != 0 || length < 7 || length > p.len {
        return None;
    }
    let header = usize::from(p.u8(4)?);
    (header >= 2 && header + 5 <= length).then_some((p.u8(5)?, 5 + header))
}

const CONNECT_REQUEST: u8 = 0xe0;
const CONNECT_CONFIRM: u8 = 0xd0;
const DATA: u8 = 0xf0;

/// Siemens' protocol over ISO on TCP: its own magic in data, or a connection whose called selector
/// names a kind of S7 connection (1 programming device, 2 operator panel, 3 other), rack and slot.
fn s7comm(p: &Payload<'_>) -> Option<Sender> {
    let (kind, rest) = cotp(p)?;
    match kind {
        DATA if p.u8(rest)? == 0x32 => match p.u8(rest + 1)? {
            1 => Some(Sender::Client),
            2 | 3 => Some(Sender::Server),
            7 => Some(Sender::Unknown),
            _ => None,
        },
        CONNECT_REQUEST | CONNECT_CONFIRM => {
            let mut called = None;
            let mut at = 11;
            while at + 2 <= rest {
                let (code, length) = (p.u8(at)?, usize::from(p.u8(at + 1)?));
                if code == 0xc2 {
                    called = p.bytes.get(at + 2..at + 2 + length);
                }
                at += 2 + length;
            }
            let is_s7 = matches!(called?, [1..=3, slot] if slot & 0x1f <= 18);
            let sender = if kind == CONNECT_REQUEST { Sender::Client } else { Sender::Server };
            is_s7.then_some(sender)
        }
        _ => None,
    }
}

/// MS-RDPBCGR, sections 2.2.1.1 and 2.2.1.2: a cookie, or the negotiation of its security.
fn rdp(p: &Payload<'_>) -> Option<Sender> {
    let (kind, end) = cotp(p)?;
    let variable = p.bytes.get(11..end.min(p.bytes.len()))?;
    let negotiates = |kind: u8| {
        variable
            .windows(8)
            .next_back()
            .is_some_and(|last| last[0] == kind && last[2] == 8 && last[3] == 0)
    };
    match kind {
        CONNECT_REQUEST if variable.starts_with(b"Cookie: msts") || negotiates(1) => {
            Some(Sender::Client)
        }
        CONNECT_CONFIRM if negotiates(2) || negotiates(3) => Some(Sender::Server),
        _ => None,
    }
}

/// OPC 10000-6, section 7.1.2: a type of message, a chunk type and a length.
fn opc_ua(p: &Payload<'_>) -> Option<Sender> {
    let length = p.le32(4)?;
    if !(8..=0x0100_0000).contains(&length) {
        return None;
    }
    match p.bytes.get(..4)? {
        b"HELF" => Some(Sender::Client),
        b"ACKF" | b"RHEF" => Some(Sender::Server),
        b"OPNF" | b"MSGF" | b"MSGC" | b"CLOF" => Some(Sender::Unknown),
        _ => None,
    }
}

/// DICOM PS3.8, section 9.3: an association is asked for, or accepted.
fn dicom(p: &Payload<'_>) -> Option<Sender> {
    let kind = p.u8(0)?;
    let length = u32::from(p.be16(2)?) << 16 | u32::from(p.be16(4)?);
    let is_association = p.u8(1)? == 0 && (68..=0x10_0000).contains(&length);
    // Protocol version 1, two reserved bytes, then titles in ASCII.
    let titles = p.bytes.get(10..42)?;
    let in_ascii = titles.iter().all(|byte| (0x20..0x7f).contains(byte));
    if !is_association || p.be16(6)? & 1 != 1 || p.be16(8)? != 0 || !in_ascii {
        return None;
    }
    match kind {
        1 => Some(Sender::Client),
        2 => Some(Sender::Server),
        _ => None,
    }
}

/// HL7 in its minimal lower layer: a vertical tab, then a message header and its separators.
fn hl7(p: &Payload<'_>) -> Option<Sender> {
    p.bytes.starts_with(b"\x0bMSH|").then_some(Sender::Unknown)
}

/// IEEE 1815: the header of a link frame with its checksum.
fn dnp3(p: &Payload<'_>) -> Option<Sender> {
    let header = p.bytes.get(..8)?;
    let is_start = header[0] == 0x05 && header[1] == 0x64 && header[2] >= 5;
    if !is_start || crc_dnp(header) != p.le16(8)? {
        return None;
    }
    // The direction bit is set by the master, which opens connections as a rule.
    Some(if header[3] & 0x80 != 0 { Sender::Client } else { Sender::Server })
}

/// CRC-16/DNP: reflected, polynomial 0x3d65, inverted at the end.
fn crc_dnp(bytes: &[u8]) -> u16 {
    let step = |crc: u16| if crc & 1 == 1 { crc >> 1 ^ 0xa6bc } else { crc >> 1 };
    !bytes.iter().fold(0, |crc, &byte| (0..8).fold(crc ^ u16::from(byte), |crc, _| step(crc)))
}

/// CIP volume 2, section 2-3: a command, the length of what follows, no options.
fn ethernet_ip(p: &Payload<'_>) -> Option<Sender> {
    let command = p.le16(0)?;
    let is_command = matches!(command, 0x0004 | 0x0063..=0x0066 | 0x006f | 0x0070);
    let length = usize::from(p.le16(2)?);
    let is_whole = match p.transport {
        Transport::Udp => length + 24 == p.len,
        Transport::Tcp => length + 24 <= p.len,
    };
    if !is_command || !is_whole || p.le32(20)? != 0 || p.le32(8)? > 0x69 {
        return None;
    }
    p.by_port(&[44_818]).or_else(|| (command >= 0x0063 && length > 0).then_some(Sender::Unknown))
}

/// ASHRAE 135, annex J: the virtual link's header over its whole datagram, then version 1.
fn bacnet(p: &Payload<'_>) -> Option<Sender> {
    let is_link = p.u8(0)? == 0x81 && p.u8(1)? <= 0x0c && usize::from(p.be16(2)?) == p.len;
    let version = match p.u8(1)? {
        // Forwarded: the sender's address comes first.
        4 => p.u8(10)?,
        9..=11 => p.u8(4)?,
        // Management of broadcasts has no network layer.
        _ => 1,
    };
    (is_link && version == 1).then_some(Sender::Unknown)
}

/// The Modbus messaging guide, section 3.1: an application header, and a function that exists.
fn modbus(p: &Payload<'_>) -> Option<Sender> {
    let length = usize::from(p.be16(4)?);
    let function = p.u8(7)? & 0x7f;
    let is_whole = p.be16(2)? == 0 && (2..=254).contains(&length) && length + 6 <= p.len;
    let exists = matches!(function, 1..=8 | 11 | 12 | 15..=17 | 20..=24 | 43 | 90);
    if is_whole && exists { p.by_port(&[502, 802]) } else { None }
}

/// RFC 5905, section 7.3, at its port.
fn ntp(p: &Payload<'_>) -> Option<Sender> {
    let first = p.u8(0)?;
    let (version, mode) = (first >> 3 & 7, first & 7);
    if p.len < 48 || !(1..=4).contains(&version) || p.u8(1)? > 16 {
        return None;
    }
    let by_port = p.by_port(&[123])?;
    match mode {
        3 => Some(Sender::Client),
        4 => Some(Sender::Server),
        1 | 2 | 5 => Some(by_port),
        _ => None,
    }
}

/// RFC 1035, section 4.1, at the ports of DNS and its kin.
fn dns(p: &Payload<'_>) -> Option<Sender> {
    let start = match p.transport {
        Transport::Udp => 0,
        Transport::Tcp if usize::from(p.be16(0)?) + 2 <= p.len => 2,
        Transport::Tcp => return None,
    };
    let flags = p.be16(start + 2)?;
    let counts = [4, 6, 8, 10].map(|at| p.be16(start + at));
    let is_sane = counts.iter().all(|count| count.is_some_and(|count| count <= 512))
        && counts.iter().any(|count| count.is_some_and(|count| count > 0))
        && matches!(flags >> 11 & 0xf, 0 | 4 | 5);
    if !is_sane {
        return None;
    }
    p.by_port(&[53, 5353, 5355])?;
    Some(if flags & 0x8000 != 0 { Sender::Server } else { Sender::Client })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(bytes: &[u8], dst_port: u16) -> Option<(Application, Sender)> {
        let len = bytes.len();
        let transport = Transport::Tcp;
        recognise(&Payload { transport, src_port: 40_000, dst_port, bytes, len })
    }

    fn udp(bytes: &[u8], dst_port: u16) -> Option<(Application, Sender)> {
        let len = bytes.len();
        let transport = Transport::Udp;
        recognise(&Payload { transport, src_port: 40_000, dst_port, bytes, len })
    }

    #[test]
    fn applications_are_known_by_their_first_bytes() {
        let client = |application| Some((application, Sender::Client));
        let server = |application| Some((application, Sender::Server));
        let either = |application| Some((application, Sender::Unknown));
        let hello = [22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
        assert_eq!(tcp(&hello, 8_443), client(Application::Tls));
        assert_eq!(tcp(b"SSH-2.0-OpenSSH_9.2\r\n", 22), either(Application::Ssh));
        assert_eq!(tcp(b"GET / HTTP/1.1\r\n", 8_080), client(Application::Http));
        assert_eq!(tcp(b"HTTP/1.1 200 OK\r\n", 8_080), server(Application::Http));
        let setup = [
            3, 0, 0, 25, 2, 0xf0, 0x80, 0x32, 1, 0, 0, 0, 0, 0, 8, 0, 0, 0xf0, 0, 0, 1, 0, 1, 3,
            0xc0,
        ];
        assert_eq!(tcp(&setup, 102), client(Application::S7comm));
        let connect =
            [3, 0, 0, 22, 17, 0xe0, 0, 0, 0, 1, 0, 0xc0, 1, 10, 0xc1, 2, 1, 0, 0xc2, 2, 1, 2];
        assert_eq!(tcp(&connect, 102), client(Application::S7comm));
        // MMS calls selector 0001.
        let mms = [3, 0, 0, 22, 17, 0xe0, 0, 0, 0, 1, 0, 0xc0, 1, 10, 0xc1, 2, 0, 1, 0xc2, 2, 0, 1];
        assert_eq!(tcp(&mms, 102), None);
        let negotiation = [3, 0, 0, 19, 14, 0xe0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 11, 0, 0, 0];
        assert_eq!(tcp(&negotiation, 3_389), client(Application::Rdp));
        assert_eq!(tcp(b"\x0bMSH|^~\\&|", 2_575), either(Application::Hl7));
        let read = [0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, 10];
        assert_eq!(tcp(&read, 502), client(Application::Modbus));
        assert_eq!(tcp(&read, 503), None, "too little of it is particular");
        let link = [0x05, 0x64, 0x05, 0xc0, 0x01, 0x00, 0x00, 0x04, 0xe9, 0x21];
        assert_eq!(tcp(&link, 20_000), client(Application::Dnp3));
        let mut broken = link;
        broken[4] ^= 1;
        assert_eq!(tcp(&broken, 20_000), None, "its checksum is wrong");
        let who_is = [0x81, 0x0b, 0, 12, 1, 0x20, 0xff, 0xff, 0, 0xff, 0x10, 8];
        assert_eq!(udp(&who_is, 47_808), either(Application::Bacnet));
        let mut time = [0; 48];
        time[0] = 0x23;
        assert_eq!(udp(&time, 123), client(Application::Ntp));
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
        assert_eq!(udp(query, 53), client(Application::Dns));
        let mut identity = [0; 24];
        identity[0] = 0x63;
        assert_eq!(udp(&identity, 44_818), client(Application::EtherNetIp));
        assert_eq!(tcp(b"HELF\x20\x00\x00\x00", 4_840), client(Application::OpcUa));
        let mut associate = [0x20; 74];
        associate[..10].copy_from_slice(&[1, 0, 0, 0, 0, 68, 0, 1, 0, 0]);
        assert_eq!(tcp(&associate, 104), client(Application::Dicom));
        let mut negotiate = [0; 72];
        negotiate[4..8].copy_from_slice(b"\xfeSMB");
        assert_eq!(tcp(&negotiate, 445), client(Application::Smb));
    }

    #[test]
    fn no_length_is_trusted() {
        // Every prefix of everything that is recognised, and every byte of it changed.
        let samples: [&[u8]; 6] = [
            &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3],
            &[3, 0, 0, 22, 17, 0xe0, 0, 0, 0, 1, 0, 0xc0, 1, 10, 0xc1, 2, 1, 0, 0xc2, 2, 1, 2],
            &[0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, 10],
            &[0x81, 0x04, 0, 12, 1, 0x20, 0xff, 0xff, 0, 0xff, 0x01, 8],
            &[0, 0, 0, 64, 0xfe, b'S', b'M', b'B', 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01",
        ];
        for sample in samples {
            for end in 0..=sample.len() {
                for at in 0..end {
                    let mut bytes = sample[..end].to_vec();
                    for value in [0, 1, 0x7f, 0x80, 0xff] {
                        bytes[at] = value;
                        for port in [53, 102, 502, 445, 47_808] {
                            tcp(&bytes, port);
                            udp(&bytes, port);
                        }
                    }
                }
            }
        }
    }
}
