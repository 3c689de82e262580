//! How large a policy may be.

/// Limits on a policy; over one of them it is refused with a diagnostic that names what costs most.
/// The defaults leave room for four times the largest policy that we know of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of text in all files together.
    pub text_bytes: usize,
    /// Values (scalars, lists and maps) in one file.
    pub values: usize,
    /// Rules.
    pub rules: usize,
    /// Assertions.
    pub assertions: usize,
    /// Devices.
    pub devices: usize,
    /// Groups.
    pub groups: usize,
    /// Services.
    pub services: usize,
    /// Groups within groups, or services within services.
    pub depth: usize,
    /// Address ranges, MAC addresses and port ranges that resolving may handle in all: groups
    /// within groups can stand for far more than is written.
    pub ranges: usize,
    /// Alternatives of one endpoint: devices with both a MAC and an IP address take one each.
    pub boxes: usize,
    /// Errors that are reported, and as many warnings.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            text_bytes: 64 << 20,
            values: 8_000_000,
            rules: 250_000,
            assertions: 10_000,
            devices: 200_000,
            groups: 50_000,
            services: 20_000,
            depth: 32,
            ranges: 10_000_000,
            boxes: 20_000,
            findings: 50,
        }
    }
}
