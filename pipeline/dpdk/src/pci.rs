//! What can be known of a PCI device before DPDK tries it, so that the error names the real cause.

use std::fs;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Drivers through which DPDK reaches a device: those that hand it over whole, and those that it
/// works beside.
const USABLE: [&str; 8] = [
    "vfio-pci",
    "igb_uio",
    "uio_pci_generic",
    "uio_hv_generic",
    "mlx4_core",
    "mlx5_core",
    "mana",
    "nfp",
];

/// Refuses a device that is missing, or bound to a driver of the kernel.
pub(crate) fn check(address: &str) -> Result<()> {
    check_under(Path::new("/sys/bus/pci/devices"), address)
}

fn check_under(devices: &Path, address: &str) -> Result<()> {
    let device = devices.join(address);
    if !device.exists() {
        return Err(Error::refused(
            ErrorKind::NotFound,
            "there is no PCI device at this address",
            "`dpdk-devbind.py --status` lists the devices",
        ));
    }
    let driver = fs::read_link(device.join("driver")).ok().and_then(|path| name_of(&path));
    match driver {
        Some(driver) if USABLE.contains(&driver.as_str()) => Ok(()),
        Some(driver) => Err(Error::refused(
            ErrorKind::KernelDriver,
            format!("the device is bound to the kernel's driver {driver}"),
            match interface_of(&device) {
                Some(interface) => format!(
                    "bind it to DPDK (`modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci \
                     {address}`), or name the interface `{interface}` instead"
                ),
                None => format!(
                    "bind it to DPDK: `modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci {address}`"
                ),
            },
        )),
        None => Err(Error::refused(
            ErrorKind::KernelDriver,
            "the device is bound to no driver",
            format!("bind it: `modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci {address}`"),
        )),
    }
}

fn interface_of(device: &Path) -> Option<String> {
    let first = fs::read_dir(device.join("net")).ok()?.flatten().next()?;
    first.file_name().into_string().ok()
}

fn name_of(path: &Path) -> Option<String> {
    path.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_error_says_what_holds_the_device() {
        let root = std::env::temp_dir().join(format!("bulkhead-pci-{}", std::process::id()));
        let device = root.join("0000:03:00.0");
        fs::create_dir_all(device.join("net/eth7")).unwrap();
        let kind = || check_under(&root, "0000:03:00.0").map_err(|error| error.kind());

        assert_eq!(kind(), Err(ErrorKind::KernelDriver));
        symlink("/sys/bus/pci/drivers/ixgbe", device.join("driver")).unwrap();
        assert_eq!(kind(), Err(ErrorKind::KernelDriver));
        let text = check_under(&root, "0000:03:00.0").unwrap_err().to_string();
        assert!(text.contains("ixgbe") && text.contains("interface `eth7`"), "{text}");
        fs::remove_file(device.join("driver")).unwrap();
        symlink("/sys/bus/pci/drivers/vfio-pci", device.join("driver")).unwrap();
        assert_eq!(kind(), Ok(()));
        let missing = check_under(&root, "0000:04:00.0").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        fs::remove_dir_all(root).unwrap();
    }
}
