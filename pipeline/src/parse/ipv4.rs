//! IPv4 (RFC 791, RFC 1122).

use bulkhead_rules::headers::protocol;

use super::{FragmentPlace, be16, be32};
use crate::verdict::DropReason;

const MIN_HEADER_LEN: usize = 20;

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
    pub(super) fn new_checked(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let Some(fixed) = bytes.first_chunk::<MIN_HEADER_LEN>() else {
            return Err(DropReason::Ipv4Truncated);
        };
        let header_len = header_len(fixed)?;
        let total_len = usize::from(be16(fixed, 2));
        if total_len < header_len {
            return Err(DropReason::Ipv4HeaderLength);
        }
        let Some(payload) = bytes.get(header_len..total_len) else {
            return Err(DropReason::Ipv4Truncated);
        };
        if header_len > MIN_HEADER_LEN {
            let options = bytes.get(MIN_HEADER_LEN..header_len).unwrap_or_default();
            check_checksum(sum_fixed(fixed) + sum_words(options))?;
            check_options(options)?;
        } else {
            check_checksum(sum_fixed(fixed))?;
        }
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

    /// Addresses that no packet on a wire may carry (RFC 1122 §3.2.1.3). A source that equals the
    /// destination makes a host answer itself.
    #[inline(always)]
    fn check_addresses(&self) -> Result<(), DropReason> {
        let (src, dst) = (self.src(), self.dst());
        let bad_src = src >> 28 == 0xe || src == u32::MAX;
        let loopback = src >> 24 == 127 || dst >> 24 == 127;
        if bad_src | loopback | (src == dst) { Err(DropReason::Ipv4Address) } else { Ok(()) }
    }
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

/// Version and header length. Nearly every packet has the one value that needs no more checks.
#[inline(always)]
fn header_len(fixed: &[u8; MIN_HEADER_LEN]) -> Result<usize, DropReason> {
    if fixed[0] == 0x45 {
        return Ok(MIN_HEADER_LEN);
    }
    if fixed[0] >> 4 != 4 {
        return Err(DropReason::Ipv4Version);
    }
    let header_len = usize::from(fixed[0] & 0xf) * 4;
    if header_len < MIN_HEADER_LEN { Err(DropReason::Ipv4HeaderLength) } else { Ok(header_len) }
}

#[inline(always)]
fn sum_fixed(fixed: &[u8; MIN_HEADER_LEN]) -> u64 {
    // Words of 32 bits fold to the same 16 as words of 16 would (RFC 1071 §2).
    let word = |at| u64::from(be32(fixed, at));
    word(0) + word(4) + word(8) + word(12) + word(16)
}

fn sum_words(options: &[u8]) -> u64 {
    crate::checksum::add(0, options)
}

#[inline(always)]
fn check_checksum(sum: u64) -> Result<(), DropReason> {
    // The sum of at most 15 words of 32 bits: 36 bits, then 20, then 17, then 16.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    if sum == 0xffff { Ok(()) } else { Err(DropReason::Ipv4Checksum) }
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
