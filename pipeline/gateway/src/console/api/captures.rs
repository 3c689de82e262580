//! Packets as they pass, to download: what `bulkhead trace --pcap` writes, asked for by an operator.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take};
use tokio::net::UnixStream;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::{Body, reason};
use crate::console::Console;
use crate::console::access::Caller;
use crate::console::problem::Problem;
use crate::control::client::ANOTHER_QUESTION;
use crate::control::{Answer, Ask};
use crate::trace::capture::CaptureFile;
use crate::trace::{MAX_BYTES, MAX_PAYLOAD_BYTES, TraceMessage, TraceOrder, words};

/// The most seconds, packets and bytes of one capture.
const MAX_SECONDS: u32 = 60;
const MAX_PACKETS: u64 = 10_000;
const MAX_CAPTURE_BYTES: usize = 16 << 20;

/// How long the gateway may take beyond the seconds that are asked for.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is captured, and why.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CaptureWanted {
    /// Which packets, as for `bulkhead trace`: `tcp 10.20.0.11 <-> any:502 drop`; empty for all.
    #[schema(max_length = 1000, example = "tcp 10.20.0.11 <-> any:502")]
    pub filter: String,
    /// For how many seconds at most.
    #[schema(minimum = 1, maximum = 60)]
    pub seconds: u32,
    /// How many packets at most.
    #[schema(minimum = 1, maximum = 10_000)]
    pub packets: u64,
    /// How many bytes of each packet are copied, with what applications said; without it, the headers.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65_535)]
    pub payload_bytes: Option<u32>,
    /// Why, for the audit log.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
}

/// A capture file (pcapng).
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Pcapng(Vec<u8>);

/// What became of a capture.
struct Captured {
    file: Pcapng,
    packets: u64,
    /// Packets that matched, and steps that were lost, where the gateway came to say so.
    counted: Option<(u64, u64)>,
    why: String,
}

/// Capture packets
///
/// The gateway follows the packets that match until their number or the time is over; then the file comes
/// back, in which a comment at every packet says what became of it. 16 MiB at most; whoever closes the
/// connection ends it. The audit log has who, what and why; payload is not copied unless it can be
/// entered. One runs at a time.
#[utoipa::path(post, path = "/captures", operation_id = "capture", tag = "flows",
    request_body = CaptureWanted,
    responses((status = 200, description = "A capture file", body = Pcapng,
               content_type = "application/x-pcapng",
               headers(("x-bulkhead-packets" = u64, description = "Packets in it"),
                       ("x-bulkhead-matched" = u64, description = "Packets that matched; absent where it was cut at 16 MiB"),
                       ("x-bulkhead-lost" = u64, description = "Steps that came faster than they could be told, likewise"),
                       ("x-bulkhead-ended" = String, description = "Why it ended: `count`, `seconds`, `bytes` or `stopping`"))),
              (status = 409, description = "The gateway refuses, or another one runs", body = Problem,
               content_type = "application/problem+json")))]
pub async fn capture(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Body(wanted): Body<CaptureWanted>,
) -> Result<Response, Problem> {
    let order = order(&console, &caller, wanted)?;
    let place = console.captures.try_acquire();
    let _place = place.map_err(|_| Problem::conflict("another capture runs: one at a time"))?;
    let limit = Duration::from_secs(order.seconds.into()) + PATIENCE;
    let captured = timeout(limit, follow(&console.settings.socket, order)).await;
    let captured =
        captured.map_err(|_| Problem::unavailable("the gateway does not end the trace"))??;
    let Captured { file: Pcapng(bytes), packets, counted, why } = captured;
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        // Numbers and words of ours: there is none that a header cannot have.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE.as_str(), "application/x-pcapng");
    let name = Timestamp::now().strftime("bulkhead-%Y%m%dT%H%M%SZ.pcapng");
    set(header::CONTENT_DISPOSITION.as_str(), &format!("attachment; filename=\"{name}\""));
    set("x-bulkhead-packets", &packets.to_string());
    set("x-bulkhead-ended", &why);
    if let Some((matched, lost)) = counted {
        set("x-bulkhead-matched", &matched.to_string());
        set("x-bulkhead-lost", &lost.to_string());
    }
    Ok(response)
}

/// What the gateway is told to follow.
fn order(console: &Console, caller: &Caller, wanted: CaptureWanted) -> Result<TraceOrder, Problem> {
    let CaptureWanted { filter, seconds, packets, payload_bytes, reason: why } = wanted;
    for (name, is, most) in [
        ("seconds", seconds.into(), MAX_SECONDS.into()),
        ("packets", packets, MAX_PACKETS),
        ("payload-bytes", payload_bytes.unwrap_or(1).into(), MAX_PAYLOAD_BYTES.into()),
    ] {
        if !(1..=most).contains(&is) {
            return Err(Problem::bad_request(format!("`{name}` is from 1 to {most}")));
        }
    }
    let why = reason(&why)?;
    let moment = console.gateway.moment().map_err(|(_, why)| Problem::unavailable(why))?;
    let wires: Vec<&str> = moment.status.wires.iter().map(|wire| wire.name.as_str()).collect();
    words::read(&filter, &wires).map_err(|error| {
        Problem::bad_request(format!("`filter`: {error}"))
            .remedy("write it as for `bulkhead trace`, such as tcp 10.20.0.11 <-> any:502")
    })?;
    Ok(TraceOrder {
        filter,
        count: packets,
        seconds,
        payload_bytes,
        reason: Some(why),
        on_behalf_of: Some(caller.audit_name()),
    })
}

/// Has the gateway follow packets, and writes them into a file. Whoever drops this ends the trace.
async fn follow(socket: &Path, order: TraceOrder) -> Result<Captured, Problem> {
    let gone = |error: std::io::Error| {
        Problem::unavailable(format!("no gateway answers at {}: {error}", socket.display()))
    };
    let mut stream = UnixStream::connect(socket).await.map_err(gone)?;
    let line = serde_json::to_vec(&Ask::Trace(order));
    let mut line = line.map_err(|error| Problem::internal(error.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(gone)?;
    let mut lines = BufReader::new(stream.take(2 * MAX_BYTES));
    let mut file =
        CaptureFile::new(Vec::new()).map_err(|error| Problem::internal(error.to_string()))?;
    let mut packets = 0;
    loop {
        match next(&mut lines).await? {
            TraceMessage::Packet(packet) => {
                if file.get_ref().len() + packet.bytes.len() > MAX_CAPTURE_BYTES {
                    let (file, why) = (Pcapng(file.into_inner()), "bytes".to_owned());
                    return Ok(Captured { file, packets, counted: None, why });
                }
                let written = file.append(&packet);
                packets +=
                    u64::from(written.map_err(|error| Problem::unavailable(error.to_string()))?);
            }
            TraceMessage::Began(_) | TraceMessage::Later(_) => {}
            TraceMessage::Ended(ended) => {
                let (file, counted) =
                    (Pcapng(file.into_inner()), Some((ended.matched, ended.lost)));
                return Ok(Captured { file, packets, counted, why: ended.why });
            }
        }
    }
}

/// The next line of a trace.
async fn next(lines: &mut BufReader<Take<UnixStream>>) -> Result<TraceMessage, Problem> {
    let mut line = String::new();
    let read = lines.read_line(&mut line).await;
    let silent = |why: &str| Problem::unavailable(format!("the gateway went silent: {why}"));
    if read.map_err(|error| silent(&error.to_string()))? == 0 {
        return Err(silent("it ended the trace without a word"));
    }
    match serde_json::from_str(&line) {
        Ok(Answer::Trace(message)) => Ok(*message),
        Ok(Answer::Error(error)) => Err(Problem::conflict(error)),
        Ok(_) => Err(Problem::unavailable(ANOTHER_QUESTION)),
        Err(error) => Err(silent(&format!("its answer makes no sense here: {error}"))),
    }
}
