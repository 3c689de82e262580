//! How large a policy may be.

/// Limits on a policy; over one of them it is refused with a diagnostic that names what costs most.
/// The defaults leave room for 200,000
/// rules and for groups of 100,000 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of text in all files together.
    pub text_bytes: usize,
    /// Values (scalars, lists and maps) in all files together.
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
    /// Address ranges and MAC addresses that resolving may handle in all: groups
    /// within groups can stand for far more than is written.
    pub ranges: usize,
    /// Comparisons of ranges, MAC addresses and VLANs that all `except` together may take.
    pub steps: usize,
    /// Service terms that resolving may handle in all, for the same reason.
    pub terms: usize,
    /// Alternatives of one endpoint: devices with both a MAC and an IP address take one each.
    pub boxes: usize,
    /// Errors that are reported, and as many warnings.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            text_bytes: 64 << 20,
            values: 4_000_000,
            rules: 250_000,
            assertions: 10_000,
            devices: 200_000,
            groups: 50_000,
            services: 20_000,
            depth: 32,
            ranges: 10_000_000,
            steps: 200_000_000,
            terms: 1_000_000,
            boxes: 20_000,
            findings: 50,
        }
    }
}
