//! What went wrong between the gateway and its devices, said so that an operator can act on it.

use std::fmt;
use std::io;

use crate::log;

/// What sort of failure it is, for callers that act on it; people read the [`Error`] itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration asks for something impossible.
    Config,
    /// The process lacks a capability.
    Privilege,
    /// There are no huge pages, or not enough memory.
    Memory,
    /// The device does not exist.
    NotFound,
    /// The device is used by another process, or by this one already.
    InUse,
    /// A PCI device is bound to a driver that DPDK cannot use.
    KernelDriver,
    /// The interface carries IP addresses: the host itself would answer on it.
    HasAddresses,
    /// The interface belongs to a bridge, bond or VRF of the host.
    Enslaved,
    /// The MTU is over the port's limit.
    Mtu,
    /// The device has too few or too many queues.
    Queues,
    /// Driver or device cannot do what was asked.
    Unsupported,
    /// Anything else that DPDK or the kernel refused.
    Refused,
}

/// A failure of DPDK or of the kernel. Displayed, it names the port, the call, the system's own
/// words, the remedy, and what DPDK logged while it failed.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    port: Option<String>,
    call: &'static str,
    errno: Option<i32>,
    problem: String,
    remedy: String,
    causes: Vec<String>,
}

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The port that it concerns, as the configuration names it.
    #[must_use]
    pub fn port(&self) -> Option<&str> {
        self.0.port.as_deref()
    }

    /// The function that failed; empty where a check of our own refused.
    #[must_use]
    pub fn call(&self) -> &str {
        self.0.call
    }

    /// The system's error number.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// What the operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.0.remedy
    }

    /// A refusal by a check of our own.
    pub(crate) fn refused(
        kind: ErrorKind,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            port: None,
            call: "",
            errno: None,
            problem: problem.into(),
            remedy: remedy.into(),
            causes: Vec::new(),
        }))
    }

    /// A call into DPDK that returned `status`, a negative errno. What DPDK complained of since the
    /// last failure is attached.
    pub(crate) fn dpdk(call: &'static str, status: i32) -> Self {
        let errno = status.checked_neg().filter(|&errno| errno > 0);
        let (kind, remedy) = by_errno(errno.unwrap_or(0));
        let mut error = Self::refused(kind, "", remedy);
        error.0.call = call;
        error.0.errno = errno;
        error.0.causes =
            log::take_complaints().into_iter().map(|line| format!("DPDK: {line}")).collect();
        error
    }

    /// A call into the kernel that failed.
    pub(crate) fn kernel(call: &'static str, from: &io::Error) -> Self {
        let (kind, remedy) = by_errno(from.raw_os_error().unwrap_or(0));
        let mut error = Self::refused(kind, "", remedy);
        error.0.call = call;
        error.0.errno = from.raw_os_error();
        if error.0.errno.is_none() {
            error.0.problem = from.to_string();
        }
        error
    }

    /// The same, concerning `port`.
    pub(crate) fn on(mut self, port: &str) -> Self {
        self.0.port = Some(port.to_owned());
        self
    }

    /// The same, with what was tried before.
    pub(crate) fn after(mut self, tried: &str, refusal: &Self) -> Self {
        self.0.causes.push(format!("{tried} was tried before: {refusal}"));
        self
    }

    /// The same, with a cause and a remedy that the caller knows better than the error number.
    pub(crate) fn because(
        mut self,
        kind: ErrorKind,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        self.0.kind = kind;
        self.0.problem = problem.into();
        self.0.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { port, call, errno, problem, remedy, causes, .. } = &*self.0;
        if let Some(port) = port {
            write!(f, "port {port}: ")?;
        }
        if !call.is_empty() {
            write!(f, "{call} failed")?;
            if let Some(errno) = errno {
                write!(f, ": {}", errno_text(*errno))?;
            }
            if !problem.is_empty() {
                f.write_str(": ")?;
            }
        }
        f.write_str(problem)?;
        if !remedy.is_empty() {
            write!(f, "; {remedy}")?;
        }
        if !causes.is_empty() {
            write!(f, " ({})", causes.join("; "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The system's words for an error number, with the number.
fn errno_text(errno: i32) -> String {
    // The standard library writes "No such device (os error 19)".
    io::Error::from_raw_os_error(errno).to_string().replace("os error", "errno")
}

/// What an error number means for a network device, and the usual way out.
fn by_errno(errno: i32) -> (ErrorKind, &'static str) {
    match errno {
        libc::EPERM | libc::EACCES => (
            ErrorKind::Privilege,
            "run as root, or with the capabilities NET_ADMIN, NET_RAW, BPF and IPC_LOCK",
        ),
        libc::ENODEV | libc::ENXIO | libc::ENOENT => {
            (ErrorKind::NotFound, "check the name; `ip link` and `dpdk-devbind.py -s` list devices")
        }
        libc::EBUSY | libc::EEXIST => (
            ErrorKind::InUse,
            "stop the other process that uses the device, or the second port that names it",
        ),
        libc::ENOMEM | libc::ENOBUFS => (
            ErrorKind::Memory,
            "reserve more huge pages (`sysctl -w vm.nr_hugepages=1024`), raise the memory lock \
             limit (`ulimit -l unlimited`), or configure fewer buffers",
        ),
        libc::ENOTSUP | libc::ENOSYS => (ErrorKind::Unsupported, "the driver cannot do this"),
        _ => (ErrorKind::Refused, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_port_call_errno_and_remedy() {
        let error = Error::kernel("bind", &io::Error::from_raw_os_error(libc::EPERM)).on("eth1");
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Privilege);
        for part in ["port eth1: ", "bind failed", "Operation not permitted", "errno 1", "root"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_the_caller_knows_replaces_what_the_number_suggests() {
        let error = Error::dpdk("rte_dev_probe", -libc::EBUSY).because(
            ErrorKind::KernelDriver,
            "it is bound to ixgbe",
            "bind it to vfio-pci",
        );
        assert_eq!(error.kind(), ErrorKind::KernelDriver);
        let text = error.to_string();
        assert!(text.contains("it is bound to ixgbe; bind it to vfio-pci"), "{text}");
        assert!(
            text.contains("rte_dev_probe failed: Device or resource busy (errno 16): "),
            "{text}"
        );
    }
}
