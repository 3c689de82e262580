//! Which addresses a device in quarantine has, by whatever it was called.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bulkhead_rules::headers::Mac;
use bulkhead_rules::policy::Policy;

use crate::state::Gateway;

/// A MAC address with more addresses than this is taken for a router's: a quarantine of one of them
/// must not cut off all.
const MOST_OF_ONE_HOST: usize = 8;

/// The addresses and MAC addresses of a device: one of the policy by its name, else an address, with
/// the MAC address that it is bound to, else a MAC address.
///
/// # Errors
///
/// That it is none of these.
pub fn of(gateway: &Gateway, policy: Option<&Policy>, device: &str) -> Result<Vec<String>, String> {
    if let Some(known) = policy.and_then(|policy| policy.devices().find(|d| *d.name == *device)) {
        let v4 = known.addresses.v4.ranges().iter();
        let v4 = v4.map(|&(low, high)| range(IpAddr::V4(low.into()), IpAddr::V4(high.into())));
        let v6 = known.addresses.v6.ranges().iter();
        let v6 = v6.map(|&(low, high)| range(IpAddr::V6(low.into()), IpAddr::V6(high.into())));
        // A device by its MAC address alone may have any address: the MAC address tells it.
        let is_named = !known.addresses.is_any();
        let addresses = v4.chain(v6).filter(|_| is_named);
        return Ok(addresses.chain(known.macs.iter().map(Mac::to_string)).collect());
    }
    if let Ok(address) = device.parse::<IpAddr>() {
        return Ok(of_address(gateway, address));
    }
    if is_mac(device) {
        return Ok(vec![device.to_ascii_lowercase()]);
    }
    Err(format!(
        "`{device}` is no device of the policy in force, no address and no MAC address; `bulkhead \
         bindings` shows who has which address"
    ))
}

/// Whether two words name the same device: addresses may be written in more than one way.
pub fn is_same(one: &str, two: &str) -> bool {
    if let (Ok(one), Ok(two)) = (one.parse::<IpAddr>(), two.parse::<IpAddr>()) {
        return one == two;
    }
    one == two || is_mac(one) && one.eq_ignore_ascii_case(two)
}

/// The address, and whoever has it: changing the address is no way out.
fn of_address(gateway: &Gateway, address: IpAddr) -> Vec<String> {
    let followed = gateway.bindings();
    let bound = |mac: Mac| followed.table.iter().filter(|(.., b)| b.mac == mac).count();
    let macs: BTreeSet<Mac> = (followed.table.iter())
        .filter(|(_, known, _)| *known == address)
        .map(|(_, _, binding)| binding.mac)
        .filter(|&mac| bound(mac) <= MOST_OF_ONE_HOST)
        .collect();
    std::iter::once(address.to_string()).chain(macs.iter().map(Mac::to_string)).collect()
}

fn range(low: IpAddr, high: IpAddr) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 6 && parts.iter().all(is_byte)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_device_is_its_addresses_and_macs() {
        let config = "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"a\"\noutside = \"b\"\n";
        let config = Config::parse("gateway.toml", Path::new(""), config);
        let gateway = Gateway::new(config.unwrap_or_else(|e| panic!("{e}")));
        let text = "version: 1\ndevices:\n  plc: {ip: [10.0.0.1, \"fd00::1\"], mac: \
                    \"02:00:00:00:00:01\"}\n  mobile: {mac: \"02:00:00:00:00:02\"}\n";
        let policy = Policy::parse(text).unwrap_or_else(|found| panic!("{found:?}"));
        let of = |device: &str| of(&gateway, Some(&policy), device);
        let plc = ["10.0.0.1", "fd00::1", "02:00:00:00:00:01"].map(str::to_owned);
        assert_eq!(of("plc"), Ok(plc.to_vec()));
        assert_eq!(of("mobile"), Ok(vec!["02:00:00:00:00:02".to_owned()]));
        assert_eq!(of("10.9.9.9"), Ok(vec!["10.9.9.9".to_owned()]));
        assert_eq!(of("02:AB:00:00:00:01"), Ok(vec!["02:ab:00:00:00:01".to_owned()]));
        for wrong in ["plc-7", "10.0.0", "02:00", "\", to: any", ""] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
