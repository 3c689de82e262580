//! The internet checksum (RFC 1071).

use std::net::IpAddr;

/// Adds `bytes`, as big-endian 16-bit words (an odd last byte counts as the high half of a word), to
/// a running sum that [`finish`] folds. Sums of up to 2^33 bytes do not overflow.
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    let mut sum = sum;
    // Wider words fold to the same sum (RFC 1071 section 2).
    let (words, rest) = bytes.split_at(bytes.len() & !3);
    for word in words.chunks_exact(4) {
        sum += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    match *rest {
        [] => sum,
        [a] => sum + (u64::from(a) << 8),
        [a, b] => sum + u64::from(u16::from_be_bytes([a, b])),
        [a, b, c, ..] => sum + u64::from(u16::from_be_bytes([a, b])) + (u64::from(c) << 8),
    }
}

/// Folds a sum to 16 bits and complements it: the value of a checksum field. Over bytes that
/// include a right checksum field the result is 0.
pub fn finish(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop leaves 16 bits.
    !(sum as u16)
}

/// The sum over the pseudo header that TCP, UDP and ICMPv6 checksums cover (RFC 9293 §3.1, RFC 8200
/// §8.1). Addresses of two families sum as they are: no such packet exists.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, upper_len: u32) -> u64 {
    let add_addr = |sum, addr| match addr {
        IpAddr::V4(addr) => add(sum, &addr.octets()),
        IpAddr::V6(addr) => add(sum, &addr.octets()),
    };
    let sum = add_addr(add_addr(0, src), dst);
    add(sum, &upper_len.to_be_bytes()) + u64::from(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(finish(add(0, &bytes)), !0xddf2);
    }

    #[test]
    fn an_odd_byte_is_a_high_half() {
        assert_eq!(finish(add(0, &[0x12])), finish(add(0, &[0x12, 0x00])));
    }

    #[test]
    fn wide_words_sum_as_the_words_of_the_specification() {
        let bytes: Vec<u8> = (0..300_u32).map(|i| (i * 37 % 251) as u8).collect();
        for len in 0..bytes.len() {
            let slow = bytes[..len]
                .chunks(2)
                .map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low)));
            assert_eq!(finish(add(0, &bytes[..len])), finish(slow.sum()), "{len} bytes");
        }
        let ones = vec![0xff; 70_000];
        assert_eq!(finish(add(0, &ones)), 0);
    }

    #[test]
    fn a_right_header_sums_to_zero() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(finish(add(0, &header)), 0);
    }
}
