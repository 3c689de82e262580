//! What the policy language means, construct by construct.

use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, PolicyTime, VlanTags};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{Action, LoadOptions, Policy, RuleId};
use bulkhead_rules::syntax::{Diagnostic, Source};

const DESIGN: &str = r#"
version: 1
default: deny
devices:
  plc-7: {mac: "02:1b:1d:00:30:01", vlan: 30, labels: {line: "3", kind: plc}}
  ct-1:  {ip: [10.80.1.50, "fd00:80::50"]}
groups:
  hmi:        [10.20.0.11, 10.20.0.12]
  plc-line3:  [10.30.3.0/24, 10.31.0.1-10.31.0.20, plc-7, "fd00:30:3::/64"]
  web:        {in: [10.80.0.0/16], except: [ct-1]}
  pacs:       [10.90.0.4]
services:
  modbus:  tcp/502
  hl7:     tcp/2575-2579
  dns:     [udp/53, tcp/53]
  ping:    [icmp/echo-request, icmpv6/echo-request]
  odd-dns: {udp: 53, from-port: 1024-65535}
  gre:     ip/47
rules:
  - name: hmi-to-plc
    from: hmi
    to: plc-line3
    service: [modbus, ping]
    action: allow
    log: true
    starts: 2026-11-24T06:00:00Z
    expires: 2026-12-01T06:00:00Z
    reason: CHG-1042 commissioning of line 3
  - name: dicom
    between: [ct-1, pacs]
    service: tcp/104
    action: allow
assert:
  - {from: hmi, to: plc-line3, service: modbus, must: reach}
  - {from: any, to: plc-line3, service: tcp/22, must: not-reach}
"#;

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|diagnostics| panic!("{}", shown(&diagnostics)))
}

fn shown(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

const NOW: PolicyTime = PolicyTime { unix_ms: 1_795_700_000_000, synchronised: true };

fn tcp4(src: [u8; 4], dst: [u8; 4], port: u16) -> Headers {
    Headers {
        src: u32::from_be_bytes(src).into(),
        dst: u32::from_be_bytes(dst).into(),
        src_port: 40_000,
        dst_port: port,
        ether_type: ETHER_IPV4,
        protocol: 6,
        ..Headers::default()
    }
}

#[test]
fn the_policy_of_the_design_decides_as_it_reads() {
    let policy = policy(DESIGN);
    assert_eq!(policy.default_action(), Action::Deny);
    assert_eq!(policy.rules().len(), 2);
    assert_eq!(policy.assertions().len(), 2);
    let hmi_to_plc = RuleId(0);
    let to_plc = tcp4([10, 20, 0, 11], [10, 30, 3, 77], 502);
    assert_eq!(oracle::classify(&policy, &to_plc, NOW), hmi_to_plc);
    let wrong_port = tcp4([10, 20, 0, 11], [10, 30, 3, 77], 503);
    assert_eq!(oracle::classify(&policy, &wrong_port, NOW), RuleId::DEFAULT);
    let by_mac = Headers {
        dst: 1,
        dst_mac: Mac([0x02, 0x1b, 0x1d, 0, 0x30, 1]),
        tags: VlanTags::single(30),
        ..to_plc
    };
    assert_eq!(oracle::classify(&policy, &by_mac, NOW), hmi_to_plc);
    let other_vlan = Headers { tags: VlanTags::single(31), ..by_mac };
    assert_eq!(oracle::classify(&policy, &other_vlan, NOW), RuleId::DEFAULT);
    let dicom = tcp4([10, 90, 0, 4], [10, 80, 1, 50], 104);
    assert_eq!(oracle::classify(&policy, &dicom, NOW), RuleId(1));
    let reversed = tcp4([10, 80, 1, 50], [10, 90, 0, 4], 104);
    assert_eq!(oracle::classify(&policy, &reversed, NOW), RuleId(1));
    let early = PolicyTime { unix_ms: 0, ..NOW };
    assert_eq!(oracle::classify(&policy, &to_plc, early), RuleId::DEFAULT);
    let v6 = Headers { ether_type: ETHER_IPV6, dst: 0xfd00_0030_0003 << 80, ..to_plc };
    assert_eq!(oracle::classify(&policy, &v6, NOW), RuleId::DEFAULT);
}

#[test]
fn the_examples_load_without_a_warning() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the examples are in the repository") {
        let path = entry.expect("a readable folder").path();
        let text = std::fs::read_to_string(&path).expect("a readable example");
        let source = Source::new(path.display().to_string(), text);
        match Policy::load(&[source], &LoadOptions::default()) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", shown(&loaded.warnings)),
            Err(diagnostics) => panic!("{}", shown(&diagnostics)),
        }
        count += 1;
    }
    assert!(count >= 3, "only {count} examples in {folder}");
}
