//! Policies that several tests use. The rig's outside host is 10.77.2.1, its inside host 10.77.1.1.

/// Some services permitted from outside to inside, some denied in silence, some rejected.
pub(crate) const BASIC: &str = r#"
version: 1
default: deny
devices:
  client: {ip: [10.77.2.1, "fd77::2:1"]}
  server: {ip: [10.77.1.1, "fd77::1:1"]}
services:
  ping: [icmp/echo-request, icmpv6/echo-request]
rules:
  - {name: work, from: client, to: server, service: [tcp/502, udp/53, ping], action: allow}
  - {name: told-no, from: client, to: server, service: [tcp/504, udp/55], action: reject}
"#;

/// Nothing at all.
pub(crate) const NOTHING: &str = "version: 1\ndefault: deny\n";
