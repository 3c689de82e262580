//! One TCP connection, both of its ends: what each sends upon what it gets.

use bulkhead_pipeline::frames::tcp_flags::{ACK, FIN, PSH, SYN};

use crate::rfc::segment::{Client, SEGMENT_BYTES, Segment};

/// Bytes of a request.
pub(super) const REQUEST_BYTES: usize = 250;

/// Bytes that a server has under way at most: 16 segments, within a window without scaling.
const WINDOW_BYTES: u32 = 16 * SEGMENT_BYTES as u32;

/// Segments that a client acknowledges at once.
const DELAYED_ACKS: u8 = 2;

/// Where the two ends begin to count.
const CLIENT_FIRST: u32 = 0x1000_0000;
const SERVER_FIRST: u32 = 0x5000_0000;

/// What has become of a connection, as its client sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Phase {
    /// There is none.
    #[default]
    Free,
    /// The client has sent its SYN.
    Opening,
    /// It is established, and carries nothing.
    Idle,
    /// The client has asked for an object.
    Receiving,
    /// The client has sent its FIN.
    Closing,
}

/// What a segment has brought about at the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Nothing that anybody waits for.
    None,
    /// The connection is established.
    Opened,
    /// The first bytes of an object have come; `complete` if they were all.
    First { complete: bool },
    /// The last bytes of an object have come.
    Complete,
    /// The connection is over.
    Closed,
}

/// A connection. Segments for the other end are pushed to `out`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// Bytes of the object that is asked for.
    object: u32,
    /// The client's next byte, and the next that it expects.
    client_seq: u32,
    client_ack: u32,
    received: u32,
    unacknowledged: u8,
    /// The first byte of the object, as the server counts; how much of it is sent and acknowledged.
    server_base: u32,
    server_ack: u32,
    sent: u32,
    acknowledged: u32,
    to_send: u32,
}

impl Connection {
    /// The client sends its SYN.
    pub(super) fn open(client: Client, out: &mut Vec<Segment>) -> Self {
        let connection = Self {
            phase: Phase::Opening,
            client_seq: CLIENT_FIRST.wrapping_add(1),
            ..Self::default()
        };
        out.push(Segment { flags: SYN, ..segment(client, true, CLIENT_FIRST, 0) });
        connection
    }

    /// The client asks for an object.
    pub(super) fn request(&mut self, client: Client, object: u32, out: &mut Vec<Segment>) {
        (self.phase, self.object, self.received) = (Phase::Receiving, object, 0);
        let flags = ACK | PSH;
        let base = segment(client, true, self.client_seq, self.client_ack);
        out.push(Segment { flags, payload: REQUEST_BYTES, ..base });
        self.client_seq = self.client_seq.wrapping_add(REQUEST_BYTES as u32);
        self.unacknowledged = 0;
    }

    /// The client closes.
    pub(super) fn close(&mut self, client: Client, out: &mut Vec<Segment>) {
        self.phase = Phase::Closing;
        let base = segment(client, true, self.client_seq, self.client_ack);
        out.push(Segment { flags: FIN | ACK, ..base });
        self.client_seq = self.client_seq.wrapping_add(1);
    }

    /// The client gets a segment.
    pub(super) fn at_client(&mut self, got: &Segment, out: &mut Vec<Segment>) -> Event {
        let acknowledgement =
            |this: &Self| segment(got.client, true, this.client_seq, this.client_ack);
        match self.phase {
            Phase::Opening if got.flags == SYN | ACK && got.ack == self.client_seq => {
                self.client_ack = got.seq.wrapping_add(1);
                self.phase = Phase::Idle;
                out.push(acknowledgement(self));
                Event::Opened
            }
            Phase::Receiving if got.payload > 0 && got.seq == self.client_ack => {
                let is_first = self.received == 0;
                self.client_ack = self.client_ack.wrapping_add(got.payload as u32);
                self.received += got.payload as u32;
                self.unacknowledged += 1;
                let complete = self.received >= self.object;
                if complete {
                    self.phase = Phase::Idle;
                } else if self.unacknowledged >= DELAYED_ACKS {
                    self.unacknowledged = 0;
                    out.push(acknowledgement(self));
                }
                match (is_first, complete) {
                    (true, complete) => Event::First { complete },
                    (false, true) => Event::Complete,
                    (false, false) => Event::None,
                }
            }
            Phase::Closing if got.flags & FIN != 0 && got.seq == self.client_ack => {
                self.client_ack = self.client_ack.wrapping_add(1);
                self.phase = Phase::Free;
                out.push(acknowledgement(self));
                Event::Closed
            }
            _ => Event::None,
        }
    }

    /// The server gets a segment.
    pub(super) fn at_server(&mut self, got: &Segment, out: &mut Vec<Segment>) {
        let next = got.seq.wrapping_add(got.payload as u32);
        if got.flags & SYN != 0 {
            self.server_ack = next.wrapping_add(1);
            let base = segment(got.client, false, SERVER_FIRST, self.server_ack);
            out.push(Segment { flags: SYN | ACK, ..base });
        } else if got.flags & FIN != 0 {
            let base = segment(got.client, false, got.ack, next.wrapping_add(1));
            out.push(Segment { flags: FIN | ACK, ..base });
        } else if got.payload > 0 {
            (self.server_base, self.server_ack) = (got.ack, next);
            (self.sent, self.acknowledged, self.to_send) = (0, 0, self.object);
            self.send_window(got.client, out);
        } else if self.sent < self.to_send {
            self.acknowledged = got.ack.wrapping_sub(self.server_base);
            self.send_window(got.client, out);
        }
    }

    fn send_window(&mut self, client: Client, out: &mut Vec<Segment>) {
        while self.sent < self.to_send && self.sent.saturating_sub(self.acknowledged) < WINDOW_BYTES
        {
            let payload = (self.to_send - self.sent).min(SEGMENT_BYTES as u32);
            let seq = self.server_base.wrapping_add(self.sent);
            let base = segment(client, false, seq, self.server_ack);
            self.sent += payload;
            let flags = if self.sent == self.to_send { ACK | PSH } else { ACK };
            out.push(Segment { flags, payload: payload as usize, ..base });
        }
    }
}

/// An acknowledgement, which others are made from.
fn segment(client: Client, from_client: bool, seq: u32, ack: u32) -> Segment {
    Segment { client, from_client, seq, ack, flags: ACK, payload: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets both ends talk until nothing is under way; returns the events at the client and how many
    /// segments there were.
    fn talk(
        connection: &mut Connection,
        mut under_way: Vec<Segment>,
        longest_flight: &mut usize,
    ) -> (Vec<Event>, usize) {
        let (mut events, mut count) = (Vec::new(), 0);
        while !under_way.is_empty() {
            let flight = under_way.iter().filter(|segment| !segment.from_client).count();
            *longest_flight = flight.max(*longest_flight);
            let mut out = Vec::new();
            let segment = under_way.remove(0);
            count += 1;
            if segment.from_client {
                connection.at_server(&segment, &mut out);
            } else {
                events.push(connection.at_client(&segment, &mut out));
            }
            under_way.extend(out);
        }
        events.retain(|event| *event != Event::None);
        (events, count)
    }

    #[test]
    fn two_objects_cross_a_connection_that_opens_and_closes() {
        let (client, mut out, mut flight) = (Client { host: 1, port: 2_000 }, Vec::new(), 0);
        let mut connection = Connection::open(client, &mut out);
        let (events, count) = talk(&mut connection, out, &mut flight);
        assert_eq!((events, count), (vec![Event::Opened], 3));
        for (object, expected) in [
            (1_024, vec![Event::First { complete: true }]),
            (100_000, vec![Event::First { complete: false }, Event::Complete]),
        ] {
            let mut out = Vec::new();
            connection.request(client, object, &mut out);
            let (events, _) = talk(&mut connection, out, &mut flight);
            assert_eq!(events, expected);
            assert_eq!((connection.received, connection.phase), (object, Phase::Idle));
        }
        assert!((2..=16).contains(&flight), "{flight} segments at once");
        let mut out = Vec::new();
        connection.close(client, &mut out);
        let (events, count) = talk(&mut connection, out, &mut flight);
        assert_eq!((events, count, connection.phase), (vec![Event::Closed], 3, Phase::Free));
    }

    #[test]
    fn what_comes_after_a_gap_is_not_taken() {
        let (client, mut out) = (Client { host: 1, port: 2_000 }, Vec::new());
        let mut connection = Connection::open(client, &mut out);
        talk(&mut connection, out, &mut 0);
        let mut request = Vec::new();
        connection.request(client, 5_000, &mut request);
        let mut answer = Vec::new();
        connection.at_server(&request[0], &mut answer);
        assert_eq!(answer.len(), 4);
        let mut out = Vec::new();
        assert_eq!(connection.at_client(&answer[1], &mut out), Event::None);
        assert_eq!(connection.at_client(&answer[0], &mut out), Event::First { complete: false });
        assert!(out.is_empty());
    }
}
