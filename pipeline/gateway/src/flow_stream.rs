//! What `bulkhead run` tells about flows, and how it is framed: the one contract between the gateway
//! and whoever keeps records of it (`bulkhead learn`, exports).
//!
//! A stream is a Unix socket on which the gateway only writes. Each frame is a length (four bytes,
//! little endian) and one [`Message`] in postcard's encoding; the first is [`Message::Hello`]. The
//! same types are written as JSON where people or other programs read them.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use bulkhead_rules::headers::Mac;
use serde::{Deserialize, Serialize};

/// The version of the messages. A reader that knows another one says so and leaves.
pub const VERSION: u16 = 2;

/// The longest message, in bytes: a [`Frame`] of the largest MTU and its description.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// One message of the gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// Always the first.
    Hello(Hello),
    /// What became of a flow.
    Flow(Box<Flow>),
    /// A copy of a frame.
    Frame(Box<Frame>),
    /// What was lost since the last such message, or since the connection.
    Lost(Lost),
}

/// Who speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// The gateway's version.
    pub software: String,
    /// Names of the wires.
    pub wires: Vec<String>,
    /// Where in the stream of the gateway's run the first message after this one stands.
    pub at: Reached,
}

/// A place in the stream that a run of the gateway tells, whoever reads it: by it a reader that comes
/// again knows what its predecessor was told and did not keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reached {
    /// The run: another one for each start of the gateway.
    pub run: u64,
    /// Flow records and copies of frames before this place, those included that were lost.
    pub before: Lost,
}

/// Telemetry that never arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lost {
    /// Flow records.
    pub flows: u64,
    /// Copies of frames.
    pub frames: u64,
}

/// Why there is a record of a flow now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// It was opened.
    Started,
    /// It is open still; so much has passed by now.
    Continues,
    /// It is over.
    Ended,
    /// It was not opened: the policy forbids it, on an enforcing wire. Repeated attempts are one
    /// record with the number of their packets.
    Denied,
}

/// Where the client is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Behind the wire's inside port.
    Inside,
    /// Behind the outside port.
    Outside,
}

/// How a flow ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Both sides closed it.
    Closed,
    /// One side reset it.
    Reset,
    /// It was silent for longer than its timeout.
    Idle,
    /// It made room for another in a full table.
    Evicted,
    /// A newer policy, or a rule's time, forbade it.
    Revoked,
    /// A new flow took its place.
    Replaced,
    /// The gateway stopped.
    Stopped,
}

/// One flow. The client is the end that opened it, as far as is known: see
/// [`Flow::opening_seen`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flow {
    /// Why there is a record.
    pub event: Event,
    /// When the first packet came, in milliseconds since the Unix epoch.
    pub first_ms: i64,
    /// When the last one did.
    pub last_ms: i64,
    /// The wire on which the first packet came.
    pub wire: String,
    /// Where the client is.
    pub client_side: Side,
    /// VLAN identifiers, the outer one first; 0 where there is none.
    pub vlan: [u16; 2],
    /// EtherType, or below 0x0100 the DSAP of an LLC frame.
    pub ether_type: u16,
    /// IP protocol number; 0 where the frame is not IP.
    pub protocol: u8,
    /// The client's address; nothing where the frame is not IP.
    pub client: Option<IpAddr>,
    /// The server's address.
    pub server: Option<IpAddr>,
    /// The client's port, of TCP, UDP and SCTP; otherwise 0.
    pub client_port: u16,
    /// The server's port; of ICMP the type in the upper, the code in the lower byte.
    pub server_port: u16,
    /// The MAC address that stood in the client's frames: its own, or a router's.
    pub client_mac: MacAddress,
    /// The MAC address that the client's frames went to.
    pub server_mac: MacAddress,
    /// Whether the packet that opens such a flow was seen (a pure SYN; any first packet of a
    /// protocol without connections counts). If not, client and server may be the other way round.
    pub opening_seen: bool,
    /// Whether the server answered.
    pub answered: bool,
    /// Packets of the client since the first.
    pub client_packets: u64,
    /// Packets of the server.
    pub server_packets: u64,
    /// Bytes of the client's frames, without FCS.
    pub client_bytes: u64,
    /// Bytes of the server's frames.
    pub server_bytes: u64,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// Whether the policy permits it. A wire that observes forwards it all the same.
    pub allowed: bool,
    /// Why it is dropped, where it is or would be: a label of the drop reasons.
    pub reason: Option<String>,
    /// The rule that decided.
    pub rule: String,
    /// The epoch of the policy that decided.
    pub epoch: u64,
    /// Whether the wire enforces.
    pub enforced: bool,
    /// What the staged policy says, where there is one.
    pub staged: Option<Staged>,
}

/// The staged policy's word on a flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Staged {
    /// Whether it permits the flow.
    pub allowed: bool,
    /// The rule that decides.
    pub rule: String,
}

/// Why a frame was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameKind {
    /// It was denied: evidence.
    Denied,
    /// It has the first payload of its direction of a flow, by which the application is known.
    FirstPayload,
    /// It tells names or roles of hosts: DHCP, mDNS, NetBIOS, LLDP, DNS answers.
    Announcement,
}

/// A copy of a frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Frame {
    /// Why it was copied.
    pub kind: FrameKind,
    /// When it came, in milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// The wire.
    pub wire: String,
    /// Whether it came in by the wire's inside or outside port.
    pub from: Side,
    /// The rule that decided, where one did.
    pub rule: Option<String>,
    /// The drop reason, where it was or would be dropped.
    pub reason: Option<String>,
    /// Its length on the wire, without FCS.
    pub len: u32,
    /// Its first bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// A MAC address: six bytes among programs, text for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MacAddress(pub Mac);

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.0)
        } else {
            self.0.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 6]>::deserialize(deserializer).map(|bytes| Self(Mac(bytes)));
        }
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| {
                part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            let parsed = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte = parsed.ok_or_else(|| {
                serde::de::Error::custom(format!("`{text}` is not a MAC address"))
            })?;
        }
        match parts.next() {
            None => Ok(Self(Mac(bytes))),
            Some(_) => Err(serde::de::Error::custom(format!("`{text}` is not a MAC address"))),
        }
    }
}

/// Why a stream cannot be read on.
#[derive(Debug)]
pub enum StreamError {
    /// The connection, or the end of it within a message.
    Io(io::Error),
    /// A length of zero or above [`MAX_MESSAGE_BYTES`].
    Length(usize),
    /// Bytes that are no message.
    Malformed(postcard::Error),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the stream of flow records broke: {error}"),
            Self::Length(bytes) => write!(f, "a message of {bytes} bytes is none of a gateway's"),
            Self::Malformed(error) => write!(
                f,
                "a message of another version of Bulkhead, or none: {error}; run the same version \
                 on both ends"
            ),
        }
    }
}

impl std::error::Error for StreamError {}

/// Appends a message with its length to `buffer`. A message that is too long is left out: `false`.
pub fn append(buffer: &mut Vec<u8>, message: &Message) -> bool {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    let taken = std::mem::take(buffer);
    match postcard::to_extend(message, taken) {
        Ok(extended) => *buffer = extended,
        // Growing a vector does not fail, and these types have no other way to.
        Err(error) => unreachable!("the messages are plain data: {error}"),
    }
    let bytes = buffer.len() - start - 4;
    if bytes > MAX_MESSAGE_BYTES {
        buffer.truncate(start);
        return false;
    }
    buffer[start..start + 4].copy_from_slice(&(bytes as u32).to_le_bytes());
    true
}

/// Writes one message.
///
/// # Errors
///
/// What the writer answers; [`io::ErrorKind::InvalidInput`] for a message that is too long.
pub fn write(writer: &mut impl Write, message: &Message) -> io::Result<()> {
    let mut buffer = Vec::new();
    if !append(&mut buffer, message) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    writer.write_all(&buffer)
}

/// Reads the next message; [`None`] at an end between two messages. `buffer` is scratch.
///
/// # Errors
///
/// See [`StreamError`]. After an error nothing more can be read.
pub fn read(reader: &mut impl Read, buffer: &mut Vec<u8>) -> Result<Option<Message>, StreamError> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match reader.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(StreamError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StreamError::Io(error)),
        }
    }
    let bytes = u32::from_le_bytes(length) as usize;
    if bytes == 0 || bytes > MAX_MESSAGE_BYTES {
        return Err(StreamError::Length(bytes));
    }
    buffer.resize(bytes, 0);
    reader.read_exact(buffer).map_err(StreamError::Io)?;
    postcard::from_bytes(buffer).map(Some).map_err(StreamError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            event: Event::Ended,
            first_ms: 1_700_000_000_000,
            last_ms: 1_700_000_001_500,
            wire: "line3".to_owned(),
            client_side: Side::Outside,
            vlan: [30, 0],
            ether_type: 0x0800,
            protocol: 6,
            client: Some("10.20.0.11".parse().unwrap_or_else(|e| panic!("{e}"))),
            server: Some("10.30.3.11".parse().unwrap_or_else(|e| panic!("{e}"))),
            client_port: 40_000,
            server_port: 502,
            client_mac: MacAddress(Mac([2, 0x1b, 0x1d, 0, 0x30, 1])),
            server_mac: MacAddress(Mac([2, 0x1b, 0x1d, 0, 0x30, 2])),
            opening_seen: true,
            answered: true,
            client_packets: 6,
            server_packets: 5,
            client_bytes: 500,
            server_bytes: 400,
            end: Some(End::Closed),
            allowed: true,
            reason: None,
            rule: "hmi-to-plc".to_owned(),
            epoch: 3,
            enforced: false,
            staged: Some(Staged { allowed: false, rule: "default".to_owned() }),
        }
    }

    fn messages() -> Vec<Message> {
        let frame = Frame {
            kind: FrameKind::Denied,
            unix_ms: 7,
            wire: "line3".to_owned(),
            from: Side::Inside,
            rule: None,
            reason: Some("policy".to_owned()),
            len: 1514,
            bytes: (0..=255).collect(),
        };
        let hello = Hello {
            version: VERSION,
            software: "0".to_owned(),
            wires: Vec::new(),
            at: Reached::default(),
        };
        vec![
            Message::Hello(hello),
            Message::Flow(Box::new(flow())),
            Message::Frame(Box::new(frame)),
            Message::Lost(Lost { flows: 1, frames: u64::MAX }),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        for message in messages() {
            write(&mut bytes, &message).unwrap_or_else(|e| panic!("{e}"));
        }
        let (mut reader, mut scratch) = (bytes.as_slice(), Vec::new());
        for message in messages() {
            let read = read(&mut reader, &mut scratch).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(read, Some(message));
        }
        assert!(matches!(read(&mut reader, &mut scratch), Ok(None)));
    }

    #[test]
    fn json_says_the_same() {
        for message in messages() {
            let json = serde_json::to_string(&message).unwrap_or_else(|e| panic!("{e}"));
            let back: Message = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(back, message);
        }
        let json = serde_json::to_string(&flow()).unwrap_or_else(|e| panic!("{e}"));
        assert!(json.contains(r#""client-mac":"02:1b:1d:00:30:01""#), "{json}");
        for wrong in
            ["02:1b:1d:00:30", "02:1b:1d:00:30:01:02", "2:1b:1d:0:30:1", "+2:1b:1d:00:30:01"]
        {
            assert!(
                serde_json::from_str::<MacAddress>(&format!("\"{wrong}\"")).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn every_cut_and_every_wrong_length_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Message::Flow(Box::new(flow()))).unwrap_or_else(|e| panic!("{e}"));
        for end in 1..bytes.len() {
            let mut scratch = Vec::new();
            assert!(read(&mut &bytes[..end], &mut scratch).is_err(), "cut at {end}");
        }
        for length in [0, MAX_MESSAGE_BYTES as u32 + 1, u32::MAX] {
            let mut wrong = bytes.clone();
            wrong[..4].copy_from_slice(&length.to_le_bytes());
            assert!(matches!(
                read(&mut wrong.as_slice(), &mut Vec::new()),
                Err(StreamError::Length(_))
            ));
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_left_out() {
        let Some(Message::Frame(mut frame)) = messages().into_iter().nth(2) else { panic!() };
        frame.bytes = vec![0; MAX_MESSAGE_BYTES];
        let mut buffer = vec![1, 2, 3];
        assert!(!append(&mut buffer, &Message::Frame(frame)));
        assert_eq!(buffer, [1, 2, 3]);
    }
}
