//! IPv4 (RFC 791, RFC 1122).

use bulkhead_rules::headers::protocol;

use super::{FragmentPlace, Origin, be16, be32, field};
use crate::checksum;
use crate::verdict::DropReason;

pub(super) const MIN_HEADER_LEN: usize = 20;

/// A header that passed all checks, and what it covers.
pub(super) struct Ipv4<'a> {
    fixed: &'a [u8; MIN_HEADER_LEN],
    /// Bytes of the header, options included.
    pub(super) header_len: usize,
    /// Bytes of the packet by its own length field.
    pub(super) total_len: usize,
    /// What follows the header, up to the total length.
    pub(super) payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// `bytes` start with the header and may run on after the packet.
    #[inline(always)]
    pub(super) fn new_checked(bytes: &'a [u8], origin: Origin) -> Result<Self, DropReason> {
        let Some(fixed) = bytes.first_chunk::<MIN_HEADER_LEN>() else {
            return Err(DropReason::Ipv4Truncated);
        };
        // Nearly every packet has the version and header length that need no more checks.
        let header_len = match fixed[0] {
            0x45 if is_checksum_right(fixed) => MIN_HEADER_LEN,
            _ => check_unusual(bytes, fixed, origin)?,
        };
        let total_len = usize::from(be16(fixed, 2));
        if total_len < header_len {
            return Err(DropReason::Ipv4HeaderLength);
        }
        let Some(payload) = bytes.get(header_len..total_len) else {
            return Err(DropReason::Ipv4Truncated);
        };
        let header = Self { fixed, header_len, total_len, payload };
        header.check_addresses()?;
        Ok(header)
    }

    #[inline(always)]
    pub(super) fn src(&self) -> u32 {
        be32(self.fixed, 12)
    }

    #[inline(always)]
    pub(super) fn dst(&self) -> u32 {
        be32(self.fixed, 16)
    }

    #[inline(always)]
    pub(super) fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// Neither the first nor a later fragment.
    #[inline(always)]
    pub(super) fn is_whole(&self) -> bool {
        be16(self.fixed, 6) & 0x3fff == 0
    }

    /// Where the fragment stands. "Don't fragment" together with a fragment's place is no reason to
    /// drop: hosts that probe the path's MTU cut their own packets and forbid others to.
    #[inline(always)]
    pub(super) fn fragment(&self) -> Result<FragmentPlace, DropReason> {
        let field = be16(self.fixed, 6);
        let (offset, more) = ((field & 0x1fff) * 8, field & 0x2000 != 0);
        let place = FragmentPlace {
            id: u32::from(be16(self.fixed, 4)),
            offset,
            len: self.payload.len() as u16,
            more,
        };
        place.check(self.header_len, self.protocol() == protocol::TCP)?;
        Ok(place)
    }

    #[inline(always)]
    fn check_addresses(&self) -> Result<(), DropReason> {
        let (src, dst) = (self.src(), self.dst());
        if src == dst
            || (is_unusual(src) || dst >> 24 == 127) && !are_unusual_addresses_fit(src, dst)
        {
            return Err(DropReason::Ipv4Address);
        }
        Ok(())
    }
}

/// Loopback, multicast and beyond.
#[inline(always)]
pub(super) fn is_unusual(addr: u32) -> bool {
    matches!(addr >> 24, 127 | 224..)
}

/// Source, destination, protocol and upper layer of a quoted packet. Its checksum is not compared:
/// routers on its way changed the header.
pub(super) fn parse_quoted(bytes: &[u8]) -> Result<(u128, u128, u8, &[u8]), DropReason> {
    let quotation = || {
        let fixed = bytes.first_chunk::<MIN_HEADER_LEN>()?;
        let upper = bytes.get(header_len(fixed).ok()?..)?;
        let first = be16(fixed, 6) & 0x1fff == 0;
        first.then(|| (u128::from(be32(fixed, 12)), u128::from(be32(fixed, 16)), fixed[9], upper))
    };
    quotation().ok_or(DropReason::IcmpMalformed)
}

/// The checks that the addresses of ordinary packets cannot fail (RFC 1122 §3.2.1.3).
#[cold]
fn are_unusual_addresses_fit(src: u32, dst: u32) -> bool {
    let is_loopback = |addr: u32| addr >> 24 == 127;
    let is_group = src >> 28 == 0xe;
    !(is_group || src == u32::MAX || is_loopback(src) || is_loopback(dst))
}

/// Version, header length, options and checksum of a header that is unusual or wrong. Returns the
/// header length.
#[cold]
fn check_unusual(
    bytes: &[u8],
    fixed: &[u8; MIN_HEADER_LEN],
    origin: Origin,
) -> Result<usize, DropReason> {
    let header_len = header_len(fixed)?;
    let total_len = usize::from(be16(fixed, 2));
    if header_len > total_len {
        return Err(DropReason::Ipv4HeaderLength);
    }
    let header = bytes.get(..header_len).ok_or(DropReason::Ipv4Truncated)?;
    let unfinished = origin == Origin::Capture && be16(fixed, 10) == 0;
    if checksum::finish(checksum::add(0, header)) != 0 && !unfinished {
        return Err(DropReason::Ipv4Checksum);
    }
    check_options(header.get(MIN_HEADER_LEN..).unwrap_or_default())?;
    Ok(header_len)
}

fn header_len(fixed: &[u8; MIN_HEADER_LEN]) -> Result<usize, DropReason> {
    if fixed[0] >> 4 != 4 {
        return Err(DropReason::Ipv4Version);
    }
    let header_len = usize::from(fixed[0] & 0xf) * 4;
    if header_len < MIN_HEADER_LEN { Err(DropReason::Ipv4HeaderLength) } else { Ok(header_len) }
}

/// Whether the checksum of a header without options is right.
#[inline(always)]
pub(super) fn is_checksum_right(fixed: &[u8; MIN_HEADER_LEN]) -> bool {
    // Wider words and the machine's byte order fold to the same sum (RFC 1071 §2); every carry out
    // of a word is added to its end.
    let word = |at| u64::from_ne_bytes(field(fixed, at));
    let last = u64::from(u32::from_ne_bytes(field(fixed, 16)));
    let (sum, carry) = word(0).overflowing_add(word(8));
    let (sum, carry) = sum.overflowing_add(last + u64::from(carry));
    let sum = sum.wrapping_add(u64::from(carry));
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum.wrapping_add(u32::from(carry));
    // The high half is the sum of both halves with its carry brought around.
    sum.wrapping_add(sum.rotate_left(16)) >> 16 == 0xffff
}

/// The options' lengths, and no source routing: it reaches hosts that the addresses do not name.
fn check_options(options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut rest = options;
    loop {
        match *rest {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, ..] => rest = &rest[1..],
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(DropReason::Ipv4Options),
            [_, len, ..] if len >= 2 => {
                rest = rest.get(usize::from(len)..).ok_or(DropReason::Ipv4Options)?;
            }
            _ => return Err(DropReason::Ipv4Options),
        }
    }
}
