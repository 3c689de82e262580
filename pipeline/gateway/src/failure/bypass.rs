//! What carries the frames of a wire that fails open while no gateway judges them.

#[cfg(feature = "dpdk")]
use std::os::unix::fs::DirBuilderExt;

use tracing::warn;

use super::relays::RelayBypass;
use crate::config::{Config, Fail, Wire};
use crate::log::kind;

/// What can carry a wire's frames unjudged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// The kernel, from one port to the other.
    Kernel,
    /// Hardware, which a program works.
    Command,
    /// Nothing: the wire fails closed, whatever its configuration says.
    None,
}

impl Means {
    /// What there is for a wire that fails open. A program goes before the kernel: whoever names one has
    /// relays, which hold without a kernel, too.
    pub fn of(wire: &Wire) -> Self {
        if !wire.failure.command.is_empty() {
            Self::Command
        } else if interfaces(wire).is_some() {
            Self::Kernel
        } else {
            Self::None
        }
    }

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Command => "command",
            Self::None => "none",
        }
    }
}

/// A way past the gateway, for one wire. It outlives the process that engages it.
pub trait Bypass: Send {
    /// Lets every frame pass unjudged, without waiting: [`None`] while it is under way, and to be called again. The
    /// kernel's way is to be gone only while no gateway has the wire's ports, and takes one call.
    ///
    /// # Errors
    ///
    /// What failed and the remedy: the wire is cut.
    fn engage(&mut self) -> Option<Result<(), String>>;

    /// What of it can be done before all that a dead gateway held is given back: no thread of it is left.
    /// [`Self::engage`] follows, and says what failed. Returns whether frames pass unjudged from now on.
    fn begin(&mut self) -> bool {
        false
    }

    /// Ends that, without waiting: [`None`] while it is under way, and to be called again. For the kernel's way
    /// this is the gateway's part, between its ports' opening and their start: see [`release_all`].
    ///
    /// # Errors
    ///
    /// What failed and the remedy: frames may pass unjudged.
    fn release(&mut self) -> Option<Result<(), String>>;

    /// A gateway judges still: for hardware with a watchdog of its own, which engages by itself when it
    /// is not told this for a while. May be called as often as one likes. Returns whether it is told again after a
    /// while in which it was not: it may have engaged.
    fn feed(&mut self) -> bool {
        false
    }

    /// Whether a program of it runs.
    fn is_at_work(&mut self) -> bool {
        false
    }
}

/// The bypass of a wire that fails open; [`None`] where it fails closed, or nothing can bypass it.
pub fn of(wire: &Wire, mtu: u16) -> Option<Box<dyn Bypass>> {
    if wire.failure.fail == Fail::Closed {
        return None;
    }
    match Means::of(wire) {
        Means::Kernel => {
            let (inside, outside) = interfaces(wire)?;
            Some(Box::new(KernelBypass { wire: wire.name.clone(), inside, outside, mtu }))
        }
        Means::Command => Some(Box::new(RelayBypass::new(&wire.name, &wire.failure.command))),
        Means::None => None,
    }
}

/// Takes away what an earlier run has left at wires that fail closed: from now on nothing passes that
/// no worker judges.
///
/// # Errors
///
/// Where frames may go on passing: the wire, why, and the remedy.
pub fn clear_closed(config: &Config) -> Result<(), String> {
    give_up(config)?;
    let closed = config.wires.iter().filter(|wire| wire.failure.fail == Fail::Closed);
    for wire in closed {
        if release_kernel(wire)? {
            warn!(
                target: kind::BYPASS,
                wire = wire.name,
                "this wire fails closed now: the kernel's bypass was taken away"
            );
        }
    }
    Ok(())
}

/// Ends the kernel's bypass of all wires, so that the gateway's ports can be raised: those that fail closed by now may
/// have been bypassed by one that knew them otherwise. Returns the wires whose
/// frames passed unjudged until now.
///
/// # Errors
///
/// Where frames may go on passing: the wire, why, and the remedy.
pub fn release_all(config: &Config) -> Result<Vec<String>, String> {
    let mut released = Vec::new();
    for wire in &config.wires {
        if release_kernel(wire)? {
            released.push(wire.name.clone());
        }
    }
    Ok(released)
}

/// The kernel interfaces of a wire, inside first, where both its ports are ones.
fn interfaces(wire: &Wire) -> Option<(String, String)> {
    Some((interface_of(&wire.inside)?, interface_of(&wire.outside)?))
}

#[cfg(feature = "dpdk")]
fn interface_of(port: &str) -> Option<String> {
    bulkhead_dpdk::PortName::parse(port).interface().map(str::to_owned)
}

#[cfg(not(feature = "dpdk"))]
fn interface_of(_port: &str) -> Option<String> {
    None
}

#[cfg(feature = "dpdk")]
fn release_kernel(wire: &Wire) -> Result<bool, String> {
    let mut any = false;
    for interface in [&wire.inside, &wire.outside].into_iter().filter_map(|port| interface_of(port))
    {
        match bulkhead_dpdk::redirect::release(&interface) {
            Ok(was) => any |= was,
            // The port will say so, in its own words.
            Err(error) if error.kind() == bulkhead_dpdk::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(format!(
                    "wire {}: frames may pass unjudged, the kernel's bypass cannot be taken away: \
                     {error}; try `tc qdisc del dev {interface} clsact`",
                    wire.name
                ));
            }
        }
    }
    Ok(any)
}

#[cfg(not(feature = "dpdk"))]
fn release_kernel(_wire: &Wire) -> Result<bool, String> {
    Ok(false)
}

/// Keeps beside the control socket how interfaces were found, for whoever is the last to have them.
#[cfg(feature = "dpdk")]
pub fn keep_found(config: &Config) {
    if let Some(folder) = config.control_socket.parent() {
        // Where that fails whoever writes there says so.
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
    }
    bulkhead_dpdk::keep_found_beside(&config.control_socket);
}

/// No interface is changed without DPDK.
#[cfg(not(feature = "dpdk"))]
pub fn keep_found(_config: &Config) {}

/// Ends the bypass of interfaces that no wire names any more, and puts them back as they were found, as far as that
/// is known: what they receive would still come out of a port that a gateway guards.
#[cfg(feature = "dpdk")]
fn give_up(config: &Config) -> Result<(), String> {
    let ports = config.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
    let own: Vec<String> = ports.filter_map(|port| interface_of(port)).collect();
    for interface in bulkhead_dpdk::redirect::put_back(&own, true) {
        warn!(interface, "no wire has this interface any more: it is as it was found");
    }
    let strays = bulkhead_dpdk::redirect::release_strays(&own).map_err(|error| {
        format!("frames may pass unjudged, a bypass that was left cannot be taken away: {error}")
    })?;
    for interface in strays {
        warn!(
            target: kind::BYPASS,
            interface,
            "what this interface received came out of a port of a wire: that bypass was taken away"
        );
    }
    Ok(())
}

#[cfg(not(feature = "dpdk"))]
fn give_up(_config: &Config) -> Result<(), String> {
    Ok(())
}

/// Puts back what a bypass that has ended, or a gateway that was killed, has changed of interfaces that nobody
/// has any more.
#[cfg(feature = "dpdk")]
pub(super) fn put_back() {
    bulkhead_dpdk::redirect::put_back(&[], false);
}

#[cfg(not(feature = "dpdk"))]
pub(super) fn put_back() {}

/// Whether the kernel carries a wire's frames now.
#[cfg(feature = "dpdk")]
pub(super) fn is_kernel_engaged(wire: &Wire) -> Result<bool, String> {
    let Some((inside, outside)) = interfaces(wire) else { return Ok(false) };
    let ask = |interface: &str| {
        bulkhead_dpdk::redirect::is_engaged(interface).map_err(|error| error.to_string())
    };
    Ok(ask(&inside)? || ask(&outside)?)
}

#[cfg(not(feature = "dpdk"))]
pub(super) fn is_kernel_engaged(_wire: &Wire) -> Result<bool, String> {
    Ok(false)
}

/// The kernel carries the frames from one port to the other.
struct KernelBypass {
    wire: String,
    inside: String,
    outside: String,
    mtu: u16,
}

impl Bypass for KernelBypass {
    #[cfg(feature = "dpdk")]
    fn begin(&mut self) -> bool {
        let is_engaged = |port| bulkhead_dpdk::redirect::is_engaged(port).unwrap_or(false);
        // It may have come to one direction.
        bulkhead_dpdk::redirect::begin(&self.inside, &self.outside).is_ok()
            || is_engaged(&self.inside)
            || is_engaged(&self.outside)
    }

    #[cfg(feature = "dpdk")]
    fn engage(&mut self) -> Option<Result<(), String>> {
        let engaged = bulkhead_dpdk::redirect::engage(&self.inside, &self.outside, self.mtu);
        for note in engaged.iter().flatten() {
            tracing::info!(wire = self.wire, "{note}");
        }
        Some(engaged.map(|_| ()).map_err(|error| error.to_string()))
    }

    #[cfg(not(feature = "dpdk"))]
    fn engage(&mut self) -> Option<Result<(), String>> {
        let Self { wire, inside, outside, mtu } = self;
        Some(Err(format!("{wire}, {inside}, {outside}, MTU {mtu}: built without DPDK")))
    }

    fn release(&mut self) -> Option<Result<(), String>> {
        Some(Ok(()))
    }
}

#[cfg(all(test, feature = "dpdk"))]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_what_the_kernel_drives_on_both_sides_is_bypassed_by_it() {
        let of = |inside: &str, outside: &str, lines: &str| {
            let text = format!(
                "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"{inside}\"\noutside = \"{outside}\"\n\
                 fail = \"open\"\n{lines}"
            );
            let config = Config::parse("g.toml", Path::new(""), &text);
            Means::of(&config.unwrap_or_else(|error| panic!("{error}")).wires[0])
        };
        assert_eq!(of("eth1", "eth2", ""), Means::Kernel);
        assert_eq!(of("net_af_packet0,iface=eth1", "net_af_xdp0,iface=eth2", ""), Means::Kernel);
        assert_eq!(of("0000:3b:00.0", "eth2", ""), Means::None);
        assert_eq!(of("net_ring0", "net_ring1", ""), Means::None);
        let program = "bypass-command = [\"/bin/true\"]\n";
        assert_eq!(of("0000:3b:00.0", "0000:3b:00.1", program), Means::Command);
    }
}
