use super::*;

const MINIMAL: &str = r#"
policy = "policy.yaml"
[[wire]]
name = "line3"
inside = "eth1"
outside = "eth2"
"#;

fn parse(text: &str) -> Result<Config, Diagnostics> {
    Config::parse("gateway.toml", Path::new("/etc/bulkhead"), text)
}

fn mistakes(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn the_defaults_are_careful() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.policy, Path::new("/etc/bulkhead/policy.yaml"));
    assert_eq!(config.wires[0].mode, Mode::Observe);
    assert!(config.wires[0].link_propagation);
    assert_eq!(config.wires[0].link_settling, Duration::from_secs(30));
    assert_eq!(config.clock, ClockTrust::Kernel);
    assert!(config.metrics.listen.unwrap().ip().is_loopback());
    assert_eq!((config.workers, config.cores.len()), (1, 0));
}

#[test]
fn a_misspelt_key_is_shown_with_its_line_and_the_key_that_was_meant() {
    let text = MINIMAL.replace("inside", "inisde");
    assert_eq!(
        mistakes(&text),
        "error: unknown key `inisde`\n --> gateway.toml:5:1\n  |\n5 | inisde = \"eth1\"\n  | ^^^^^^\n  \
         = help: did you mean `inside`?"
    );
}

#[test]
fn every_mistake_is_found_in_one_run() {
    let text = r#"
policy = "p"
mtu = 90000
poll = "bussy"
cores = [1, 1, -3]
[[wire]]
name = "Line"
inside = "eth1"
outside = "eth1"
mode = "block"
[metrics]
listen = "9100"
[flows]
capacity = 1
"#;
    let shown = mistakes(text);
    for expected in [
        "`mtu` cannot be 90000",
        "write a number from 1280 to 9000",
        "did you mean `busy`?",
        "core 1 is listed twice",
        "-3 is no core",
        "`Line` cannot be the name of a wire",
        "port `eth1` is already taken: it is Line inside",
        "write `observe` or `enforce`",
        "`9100` is no address and port",
        "`capacity` cannot be 1",
    ] {
        assert!(shown.contains(expected), "missing {expected:?} in:\n{shown}");
    }
}

#[test]
fn ports_and_names_belong_to_one_wire() {
    let second = "[[wire]]\nname = \"line3\"\ninside = \"eth2\"\noutside = \"eth3\"\n";
    let shown = mistakes(&format!("{MINIMAL}{second}"));
    assert!(shown.contains("a second wire named `line3`; the first is in line 4"), "{shown}");
    assert!(shown.contains("port `eth2` is already taken: it is line3 outside"), "{shown}");
}

/// Three wires, of which the second and third have `second` and `third` as further lines.
fn three_wires(second: &str, third: &str) -> String {
    format!(
        "{MINIMAL}redundancy-group = \"ring\"\n\
         [[wire]]\nname = \"b\"\ninside = \"eth3\"\noutside = \"eth4\"\n{second}\n\
         [[wire]]\nname = \"c\"\ninside = \"eth5\"\noutside = \"eth6\"\n{third}\n"
    )
}

#[test]
fn wires_that_name_the_same_group_are_redundant() {
    let config = parse(&three_wires("", "redundancy-group = \"ring\"")).unwrap();
    assert_eq!([0, 1, 2].map(|wire| config.group_of(wire)), [0, 1, 0]);
}

#[test]
fn redundant_wires_in_different_modes_are_found() {
    let group = "redundancy-group = \"ring\"";
    let enforcing = format!("{group}\nmode = \"enforce\"");
    let found = |second: &str, third: &str| -> Vec<(String, String)> {
        let config = parse(&three_wires(second, third)).unwrap();
        let names = config.mixed_groups().map(|(a, b)| (a.name.clone(), b.name.clone()));
        names.collect()
    };
    assert_eq!(found(group, ""), []);
    assert_eq!(found(group, "mode = \"enforce\""), []);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(found(&enforcing, group), [pair("line3", "b"), pair("c", "b")]);
}

#[test]
fn a_wire_that_is_redundant_with_no_other_is_a_mistake() {
    let shown = mistakes(&three_wires("", ""));
    assert!(shown.contains("no other wire is in redundancy group `ring`"), "{shown}");
    assert!(shown.contains("--> gateway.toml:7:20"), "{shown}");
    let shown = mistakes(&three_wires("", "redundancy-group = \"rin\""));
    assert!(shown.contains("did you mean `rin`?") && shown.contains("`ring`?"), "{shown}");
    let shown = mistakes(&three_wires("", "redundancy-group = \"Ring 1\""));
    assert!(shown.contains("`Ring 1` cannot be the name of a redundancy group"), "{shown}");
}

#[test]
fn a_gateway_without_a_wire_or_a_policy_is_refused() {
    assert!(mistakes("policy = \"p\"\n").contains("there is no wire to guard"));
    assert!(mistakes("mtu = 1500\n").contains("the key `policy` is missing"));
    let shown = mistakes("mtu = 1500\npolicy = \"p\n");
    assert!(shown.contains("--> gateway.toml:2:"), "{shown}");
}

#[test]
fn workers_and_cores_must_agree() {
    let with = |head: &str| format!("{head}\n{MINIMAL}");
    assert_eq!(parse(&with("cores = [2, 3]")).unwrap().workers, 2);
    assert!(mistakes(&with("cores = [2, 3]\nworkers = 3")).contains("`cores` lists 2"));
    assert!(mistakes(&with("cores = []")).contains("`cores` is empty"));
}

#[test]
fn a_wire_may_refuse_connections_that_were_open_before() {
    let tcp = |line: &str| parse(&format!("{MINIMAL}{line}")).map(|config| config.wires[0].tcp);
    assert_eq!(tcp("").unwrap(), TcpPickup::Loose);
    assert_eq!(tcp("tcp = \"loose\"").unwrap(), TcpPickup::Loose);
    assert_eq!(tcp("tcp = \"strict\"").unwrap(), TcpPickup::Strict);
    let shown = mistakes(&format!("{MINIMAL}tcp = \"stict\""));
    assert!(shown.contains("did you mean `strict`?"), "{shown}");
}

#[test]
fn routers_and_dhcp_servers_are_outside_unless_the_file_says_otherwise() {
    let wire = |lines: &str| parse(&format!("{MINIMAL}{lines}")).unwrap().wires.remove(0);
    let plain = wire("");
    assert_eq!((plain.routers, plain.dhcp_servers), (Sides::OUTSIDE, Sides::OUTSIDE));
    let set = wire("routers = \"both\"\ndhcp-servers = \"none\"");
    assert_eq!((set.routers, set.dhcp_servers), (Sides::BOTH, Sides::NONE));
    let shown = mistakes(&format!("{MINIMAL}routers = \"outsied\""));
    assert!(shown.contains("did you mean `outside`?"), "{shown}");
}

#[test]
fn hosts_stay_on_their_side_but_where_wires_are_redundant() {
    let is_fixed = |lines: &str| parse(&format!("{MINIMAL}{lines}")).unwrap().wires[0].fixed_sides;
    assert!(is_fixed("") && !is_fixed("fixed-sides = false"));
    let group = "redundancy-group = \"ring\"\n";
    let two = format!("{group}[[wire]]\nname = \"b\"\ninside = \"c\"\noutside = \"d\"\n{group}");
    assert!(!is_fixed(&two) && is_fixed(&format!("fixed-sides = true\n{two}")));
}

#[test]
fn a_wire_says_which_tunnels_it_looks_into() {
    let tunnels = |lines: &str| {
        let wire = parse(&format!("{MINIMAL}{lines}")).unwrap().wires.remove(0);
        wire.tunnels.map(|tunnels| Tunnels::clone(&tunnels))
    };
    assert_eq!(tunnels(""), None);
    assert_eq!(tunnels("judge-inner = []"), None);
    let one = tunnels("judge-inner = [\"vxlan\"]\ntunnel-endpoints = [\"192.0.2.1\"]").unwrap();
    assert_eq!((one.vxlan, one.geneve), (Some(4789), None));
    let both = "judge-inner = [\"geneve\", \"vxlan\"]\nvxlan-port = 8472\n\
                tunnel-endpoints = [\"192.0.2.0/30\", \"239.1.1.1\", \"2001:db8::1-2001:db8::4\"]";
    let both = tunnels(both).unwrap();
    assert_eq!((both.vxlan, both.geneve), (Some(8472), Some(6081)));
    assert_eq!(
        both.endpoints.v4.ranges(),
        [(0xc000_0200, 0xc000_0203), (0xef01_0101, 0xef01_0101)]
    );
    assert_eq!(both.endpoints.v6.ranges().len(), 1);
    let shown = mistakes(&format!("{MINIMAL}judge-inner = [\"vxlan\"]"));
    assert!(shown.contains("`judge-inner` without `tunnel-endpoints`"), "{shown}");
    let shown = mistakes(&format!(
        "{MINIMAL}judge-inner = [\"vxlan\"]\ntunnel-endpoints = [\"192.0.2.1/24\"]"
    ));
    assert!(shown.contains("192.0.2.0/24"), "{shown}");
    let shown = mistakes(&format!("{MINIMAL}judge-inner = [\"vxlam\"]"));
    assert!(shown.contains("did you mean `vxlan`?"), "{shown}");
    let shown = mistakes(&format!("{MINIMAL}geneve-port = 4789"));
    assert!(shown.contains("`vxlan-port` and `geneve-port` are both 4789"), "{shown}");
}

#[test]
fn fragments_are_bounded() {
    let shown = mistakes(&format!("{MINIMAL}[fragments]\ncapacity = 63\ntimeout-s = 0\n"));
    assert!(shown.contains("`capacity` cannot be 63"), "{shown}");
    assert!(shown.contains("`timeout-s` cannot be 0"), "{shown}");
    let config = parse(&format!("{MINIMAL}[fragments]\ncapacity = 64\ntimeout-s = 120\n"));
    assert_eq!(
        config.unwrap().fragments,
        Fragments { capacity: 64, timeout_s: 120, wait_frames: 128, wait_ms: 100 }
    );
}

/// What `deploy/gateway.toml` shows as defaults are the defaults.
#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = include_str!("../../../../deploy/gateway.toml");
    let plain = Config::parse("gateway.toml", Path::new("/etc"), example).unwrap();
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let uncommented: Vec<&str> = (example.lines())
        // One worker per listed core, and which are there is the machine's business.
        // A wire is redundant with no other; nothing is exported; sockets are root's,
        // and the console has a certificate of its own and no proxy before it.
        .filter(|line| {
            let others = [
                "#cores",
                "#bypass-command",
                "#trusted-keys",
                "#required",
                "#name =",
                "#redundancy-group",
                "#records-group",
                "#control-group",
                "#control-read-group",
                "#certificate =",
                "#key =",
                "#public-url =",
                "#names =",
                "#json =",
                "#ipfix =",
                "#pcapng =",
            ];
            !others.iter().any(|key| line.starts_with(key))
        })
        .map(|line| if is_key(line) { &line[1..] } else { line })
        .collect();
    let spelt_out = Config::parse("gateway.toml", Path::new("/etc"), &uncommented.join("\n"));
    assert_eq!(plain, spelt_out.unwrap_or_else(|error| panic!("{error}")));
    // Every key of the file's shape is in the example.
    let shape = include_str!("document.rs");
    for field in shape.lines().filter_map(|line| line.trim().strip_prefix("pub(super) ")) {
        let Some((field, _)) = field.split_once(": ") else { continue };
        let key = field.replace('_', "-");
        let shown = example.lines().any(|line| {
            let line = line.trim_start_matches(['#', '[', ' ']);
            line.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with([' ', ']']))
        });
        assert!(shown, "deploy/gateway.toml does not show `{key}`");
    }
}

#[test]
fn the_consoles_public_url_is_an_https_host() {
    let with = |url: &str| parse(&format!("{MINIMAL}[console]\npublic-url = \"{url}\"\n"));
    for (written, meant) in [
        ("https://Console.plant.example/", "https://console.plant.example"),
        ("https://console.plant.example:443", "https://console.plant.example"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ] {
        assert_eq!(with(written).unwrap().console.public_url.as_deref(), Some(meant));
    }
    for wrong in ["http://console.plant.example", "https://", "https://a/console", "console", ""] {
        let shown = mistakes(&format!("{MINIMAL}[console]\npublic-url = \"{wrong}\"\n"));
        assert!(shown.contains("is not where browsers find a console"), "{shown}");
    }
}
