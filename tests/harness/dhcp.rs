//! A DHCP client that knows what it wants (RFC 2131 §4.3.2, INIT-REBOOT).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::frames::{Mac, ethernet, udp4};
use crate::raw::RawPort;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for a lease of the address until a server grants it. The address itself is left to the
/// caller to set. False where no server does within ten seconds.
pub fn lease(port: &RawPort, client: Mac, address: Ipv4Addr) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let request = request(client, address);
    let is_ack = |frame: &[u8]| {
        let message = frame.get(42..).unwrap_or_default();
        message.get(16..20) == Some(&address.octets()[..])
            && message.windows(3).any(|option| option == [53, 1, 5])
    };
    loop {
        port.send(&request);
        if port.receive_where(Duration::from_millis(300), is_ack).is_some() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

fn request(client: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..8].copy_from_slice(&[1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78]);
    message[10] = 0x80; // The answer as a broadcast: the client has no address to take it by.
    message[28..34].copy_from_slice(&client.0);
    message[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    message.extend([53, 1, 3, 50, 4]);
    message.extend(address.octets());
    message.push(255);
    let (nobody, all) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    ethernet(Mac([0xff; 6]), client, &[], 0x0800, &udp4((nobody, 68), (all, 67), &message))
}
