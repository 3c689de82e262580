//! Capabilities: which a thread keeps.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// The capabilities that a thread keeps, of those that it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Powers {
    /// What opening ports takes, and what root needs to read the operator's files.
    Start,
    /// What reading and writing the operator's files takes where the gateway is root.
    Files,
    /// None.
    None,
}

impl Powers {
    fn set(self) -> CapabilitySet {
        // Of files of other users, and of their groups: nothing where the gateway is a user of its own.
        let files = CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::FOWNER
            | CapabilitySet::CHOWN;
        match self {
            Self::None => CapabilitySet::empty(),
            Self::Files => files,
            // Interfaces and packet sockets; XDP programs, which libxdp looks up by number, for which the
            // kernel wants SYS_ADMIN; packet memory, and its physical addresses without an IOMMU.
            Self::Start => {
                files
                    | CapabilitySet::NET_ADMIN
                    | CapabilitySet::NET_RAW
                    | CapabilitySet::BPF
                    | CapabilitySet::PERFMON
                    | CapabilitySet::SYS_ADMIN
                    | CapabilitySet::SYS_RAWIO
                    | CapabilitySet::IPC_LOCK
                    | CapabilitySet::SYS_NICE
            }
        }
    }
}

/// Drops all but `powers` from the calling thread: from what it can use, what it could take up again, and
/// what programs that it starts could get. Returns what is left.
///
/// # Errors
///
/// What the kernel says.
pub fn keep(powers: Powers) -> Result<String, String> {
    let failed = |error| format!("capabilities cannot be dropped: {error}");
    let wanted = powers.set();
    let has = capabilities(None).map_err(failed)?;
    // Needs SETPCAP, which only root has; without it NO_NEW_PRIVS, which Landlock and seccomp set, keeps
    // programs from gaining any.
    for capability in CapabilitySet::all().iter().filter(|one| !wanted.contains(*one)) {
        let _ = remove_capability_from_bounding_set(capability);
    }
    if powers == Powers::None {
        clear_ambient_capability_set().map_err(failed)?;
    }
    let left = has.permitted & wanted;
    let inheritable = has.inheritable & wanted;
    let sets = CapabilitySets { effective: has.effective & wanted, permitted: left, inheritable };
    set_capabilities(None, sets).map_err(failed)?;
    Ok(names(left))
}

/// Lets no program that the calling thread starts gain capabilities, by its file's owner or marks.
///
/// # Errors
///
/// What the kernel says.
pub fn gain_none() -> Result<(), String> {
    let failed = |error| format!("programs may still gain capabilities: {error}");
    set_no_new_privs(true).map_err(failed)
}

/// Drops all but `powers` from a thread that does not open ports. It is not worth a gateway when that
/// fails: [`super::confine`] has said what the kernel thinks of it.
pub fn lower(powers: Powers) {
    let _ = keep(powers);
}

fn names(set: CapabilitySet) -> String {
    let names: Vec<&str> = set.iter_names().map(|(name, _)| name).collect();
    if names.is_empty() {
        "no capability is left".to_owned()
    } else {
        format!("left: {}", names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_drops_all_has_none_and_cannot_take_them_up_again() {
        let left = std::thread::spawn(|| {
            keep(Powers::None)?;
            let all = CapabilitySets {
                effective: CapabilitySet::NET_ADMIN,
                permitted: CapabilitySet::NET_ADMIN,
                inheritable: CapabilitySet::empty(),
            };
            assert!(set_capabilities(None, all).is_err(), "taken up again");
            capabilities(None).map_err(|error| error.to_string())
        });
        let left = left.join().unwrap().unwrap();
        assert!(left.permitted.is_empty() && left.effective.is_empty(), "{left:?}");
    }

    #[test]
    fn a_program_that_a_supervisor_starts_gains_nothing() {
        let said = std::thread::spawn(|| {
            keep(Powers::Start).unwrap();
            gain_none().unwrap();
            std::process::Command::new("cat").arg("/proc/self/status").output().unwrap().stdout
        });
        let said = String::from_utf8(said.join().unwrap()).unwrap();
        let field = |name: &str| {
            let found = said.lines().find_map(|line| line.strip_prefix(name));
            found.unwrap_or_else(|| panic!("{said}")).trim().to_owned()
        };
        assert_eq!(field("NoNewPrivs:"), "1");
        let has = u64::from_str_radix(&field("CapPrm:"), 16).unwrap();
        assert_eq!(has & !Powers::Start.set().bits(), 0, "{has:x}");
    }

    #[test]
    fn what_is_not_there_is_not_gained() {
        let before = capabilities(None).unwrap().permitted;
        let after = std::thread::spawn(|| {
            keep(Powers::Start).unwrap();
            capabilities(None).unwrap().permitted
        });
        assert_eq!(after.join().unwrap(), before & Powers::Start.set());
    }
}
