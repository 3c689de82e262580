//! `gateway.toml` to a checked [`Config`].
//!
//! The file is strict: an unknown key, a value out of range or a port used twice is an error with
//! its line, and nothing starts. Paths that are not absolute count from the file's own folder.
//! `deploy/gateway.toml` shows every key with its default.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_pipeline::bindings::TableConfig;
use bulkhead_pipeline::conntrack::Timeouts;
use bulkhead_pipeline::fragment::FragmentTableConfig;
pub use bulkhead_pipeline::parse::Tunnels;
pub use bulkhead_pipeline::snapshot::{Mode, Sides, TcpPickup};
use bulkhead_rules::compile;
use bulkhead_rules::syntax::parse_addresses;

use crate::cli::exit;
use crate::diagnostic::{Diagnostic, Diagnostics, did_you_mean};
use crate::workflow::lockdown::Bounds;

mod console;
mod document;
mod failure;
mod hardening;
mod learn;
mod lockdown;
mod records;
mod redundancy;
mod signatures;

pub use console::{
    ConsoleConfig, DEFAULT_PORT as DEFAULT_CONSOLE_PORT, MAX_USER_BYTES, Tls, is_user_name,
};
use document::{Document, Spanned};
pub use failure::{Fail, WireFailure};
pub use hardening::Hardening;
pub use learn::LearnConfig;
pub use records::{Export, Records};
pub use signatures::Signatures;

/// The most bytes that a configuration file may have.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The most wires of one gateway.
pub const MAX_WIRES: usize = 128;

/// The most workers of one gateway.
pub const MAX_WORKERS: usize = 64;

/// A checked configuration; [`Config::parse`] is the only way to one.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The policy: a file, or a folder whose `*.yaml` files are read in the order of their names.
    pub policy: PathBuf,
    /// Where the last accepted policy is kept.
    pub state_dir: PathBuf,
    /// The Unix socket for `status` and `reload`.
    pub control_socket: PathBuf,
    /// What is logged, from `error` to `trace`.
    pub log_level: LogLevel,
    /// Bytes of the longest IP packet that crosses.
    pub mtu: u16,
    /// The number of workers.
    pub workers: usize,
    /// The cores of the workers, in their order; empty where the gateway chooses.
    pub cores: Vec<usize>,
    /// How a worker waits for frames.
    pub poll: Poll,
    /// When the clock counts as synchronised, so that the times of rules are heeded.
    pub clock: ClockTrust,
    /// How long after start and after observe → enforce a TCP connection is adopted mid-stream.
    pub grace: Duration,
    /// The wires, in the order of their [`bulkhead_rules::headers::WireId`].
    pub wires: Vec<Wire>,
    /// How long a worker, or the process, may stand still before it counts as hanging.
    pub hang: Duration,
    /// Flow tables.
    pub flows: Flows,
    /// Fragment tables.
    pub fragments: Fragments,
    /// Who has which address.
    pub bindings: Bindings,
    /// Flow records.
    pub records: Records,
    /// Whose policies are taken.
    pub signatures: Signatures,
    /// When a lockdown is refused.
    pub lockdown: Bounds,
    /// What becomes of them in other programs.
    pub export: Export,
    /// What the learning process keeps.
    pub learn: LearnConfig,
    /// The console.
    pub console: ConsoleConfig,
    /// The metrics endpoint.
    pub metrics: Metrics,
    /// What a policy may cost.
    pub limits: Limits,
    /// What processes may do besides what they need.
    pub hardening: Hardening,
    /// What DPDK is told.
    pub dpdk: Dpdk,
}

/// A pair of ports that are bridged through the gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Its name in policies, metrics and logs.
    pub name: String,
    /// The port towards the protected side: interface name, PCI address or DPDK device string.
    pub inside: String,
    /// The port towards everybody else.
    pub outside: String,
    /// Whether verdicts are carried out. `observe` unless the file says otherwise: putting a gateway
    /// in starts by watching.
    pub mode: Mode,
    /// What becomes of TCP connections that were open before.
    pub tcp: TcpPickup,
    /// Where routers are, which may advertise themselves.
    pub routers: Sides,
    /// Where DHCP servers are, which may answer.
    pub dhcp_servers: Sides,
    /// Whether hosts stay on their side of the wire.
    pub fixed_sides: bool,
    /// The tunnels whose inner packets are judged, where there are any.
    pub tunnels: Option<Arc<Tunnels>>,
    /// The redundancy group: wires that name the same one are judged by one state, so that what goes
    /// out by one may come back by another.
    pub redundancy_group: Option<String>,
    /// Whether carrier loss on one port takes the other down.
    pub link_propagation: bool,
    /// How long a port may take to find carrier before it counts as lost.
    pub link_settling: Duration,
    /// What becomes of it while no gateway judges.
    pub failure: WireFailure,
}

/// The word for a mode in configuration, metrics and logs.
pub fn mode_label(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    }
}

/// How a worker waits for frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Poll {
    /// Never sleeps: for cores that nothing else uses.
    Busy,
    /// Sleeps for microseconds when idle: for machines without cores to burn.
    Adaptive,
}

/// When the clock counts as synchronised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockTrust {
    /// When the kernel says so, as NTP daemons tell it.
    Kernel,
    /// Always: for clocks that are set by means that do not tell the kernel, such as `phc2sys`.
    Trusted,
}

/// What is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the levels of the log, from few to many lines")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The word in configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The flow table of each worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flows {
    /// Flows that one worker can hold.
    pub capacity: usize,
    /// Flows that one source address may hold at one worker.
    pub per_source_limit: u32,
    /// Flows that one source address may open at one worker in a second.
    pub new_flows_per_source: u32,
    /// How long flows may be silent.
    pub timeouts: Timeouts,
    /// Answers of reject rules, per worker and second.
    pub rejects_per_second: u32,
}

/// The fragment table of each worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fragments {
    /// Packets whose fragments one worker can follow at once.
    pub capacity: usize,
    /// How long after its first fragment a packet is given up, in seconds.
    pub timeout_s: u32,
    /// Later fragments that may wait for their first one.
    pub wait_frames: usize,
    /// How long they may, in milliseconds.
    pub wait_ms: u32,
}

/// Who has which address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bindings {
    /// How large the table may grow, and how long it remembers.
    pub table: TableConfig,
    /// Whether enforcing wires drop what contradicts it.
    pub guard: bool,
}

/// The metrics endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    /// Where it listens; [`None`] for `listen = "off"`.
    pub listen: Option<SocketAddr>,
    /// Rules with a series of their own; the hits of the others are summed as `other`.
    pub rule_limit: usize,
}

/// What a policy may cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of all files of a policy together.
    pub policy_bytes: u64,
    /// Files of a policy directory.
    pub policy_files: usize,
    /// What compiling a policy may take.
    pub compile: compile::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self { policy_bytes: 64 << 20, policy_files: 1000, compile: compile::Limits::default() }
    }
}

/// What DPDK is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dpdk {
    /// Where packet memory lies.
    pub huge_pages: HugePages,
    /// Descriptors of each receive and transmit queue.
    pub queue_size: u16,
}

/// Where packet memory lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugePages {
    /// In huge pages where enough of them are free.
    Auto,
    /// In huge pages, or the gateway does not start.
    Require,
    /// In ordinary memory: slower, and of no use to physical devices.
    Never,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    ///
    /// A text for people: the file that cannot be read, or every mistake in it with its line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::of_text(path, &Self::text(path)?)
    }

    /// The text of a configuration file.
    ///
    /// # Errors
    ///
    /// That it cannot be read.
    pub fn text(path: &Path) -> Result<String, ConfigError> {
        crate::policy_files::read_text(path, MAX_CONFIG_BYTES)
            .map_err(|error| ConfigError::Unreadable(error.to_string()))
    }

    /// Checks a text that was read from `path`.
    ///
    /// # Errors
    ///
    /// Every mistake in it with its line.
    pub fn of_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse(&path.display().to_string(), path.parent().unwrap_or(Path::new("")), text)
            .map_err(ConfigError::Invalid)
    }

    /// Checks the text of a configuration file. `file` is its name in diagnostics, `folder` is where
    /// relative paths count from.
    ///
    /// # Errors
    ///
    /// Every mistake that could be found, at least one.
    pub fn parse(file: &str, folder: &Path, text: &str) -> Result<Self, Diagnostics> {
        let document: Document = toml::from_str(text)
            .map_err(|error| Diagnostics(vec![syntax_error(file, text, &error)]))?;
        let mut checker = Checker { file, text, folder, found: Vec::new() };
        let config = checker.config(document);
        if checker.found.is_empty() {
            Ok(config)
        } else {
            checker.found.sort_by_key(|d| (d.line, d.column));
            Err(Diagnostics(checker.found))
        }
    }
}

/// Why there is no [`Config`].
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read: the path and why.
    Unreadable(String),
    /// The file is wrong.
    Invalid(Diagnostics),
}

impl ConfigError {
    /// What a command that needs the configuration ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable(_) => exit::UNAVAILABLE,
            Self::Invalid(_) => exit::REFUSED,
        }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "error: {why}"),
            Self::Invalid(diagnostics) => diagnostics.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Collects mistakes on the way from the document to the configuration, and puts a harmless value
/// where one was wrong, so that one run finds them all.
struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    folder: &'a Path,
    found: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn config(&mut self, document: Document) -> Config {
        let wires = self.wires(document.wire);
        let (workers, cores) = self.workers(document.workers, document.cores);
        let control_socket = self.path(document.control_socket, "/run/bulkhead/control.sock");
        let records = self.records(
            document.records,
            (document.records_socket, document.records_group),
            &control_socket,
        );
        let metrics = document.metrics;
        let limits = document.limits;
        let dpdk = document.dpdk;
        let groups = [document.control_group, document.control_read_group];
        let hardening = self.hardening(document.hardening, groups);
        Config {
            policy: self.path(Some(document.policy), ""),
            state_dir: self.path(document.state_dir, "/var/lib/bulkhead"),
            control_socket,
            log_level: self.log_level(document.log_level),
            mtu: self.number("mtu", document.mtu, 1500, 1280..=9000),
            workers,
            cores,
            poll: self.choice(
                document.poll,
                Poll::Adaptive,
                &[("busy", Poll::Busy), ("adaptive", Poll::Adaptive)],
            ),
            clock: self.choice(
                document.clock,
                ClockTrust::Kernel,
                &[("kernel", ClockTrust::Kernel), ("trusted", ClockTrust::Trusted)],
            ),
            grace: self.seconds("grace-s", document.grace_s, 60, 0..=3600),
            wires,
            hang: self.hang(document.failure),
            flows: self.flows(document.flows, document.timeouts),
            fragments: self.fragments(document.fragments),
            bindings: self.bindings(document.bindings),
            records,
            signatures: self.signatures(document.signatures),
            lockdown: self.lockdown(document.lockdown),
            export: self.export(document.export),
            learn: self.learn(document.learn_dir, document.learn),
            console: self.console(document.console),
            metrics: Metrics {
                listen: self.listen(metrics.listen),
                rule_limit: self.number("rule-limit", metrics.rule_limit, 1000, 0..=100_000),
            },
            limits: Limits {
                policy_bytes: self.number::<u64>("policy-mib", limits.policy_mib, 64, 1..=1024)
                    << 20,
                policy_files: self.number("policy-files", limits.policy_files, 1000, 1..=100_000),
                compile: compile::Limits {
                    memory_bytes: self.number("compile-mib", limits.compile_mib, 1024, 1..=65_536)
                        << 20,
                    time: self.seconds("compile-s", limits.compile_s, 30, 1..=600),
                },
            },
            hardening,
            dpdk: Dpdk {
                huge_pages: self.choice(
                    dpdk.huge_pages,
                    HugePages::Auto,
                    &[
                        ("auto", HugePages::Auto),
                        ("require", HugePages::Require),
                        ("never", HugePages::Never),
                    ],
                ),
                queue_size: self.number("queue-size", dpdk.queue_size, 1024, 64..=8192),
            },
        }
    }

    fn wires(&mut self, tables: Vec<Spanned<document::Wire>>) -> Vec<Wire> {
        if tables.is_empty() {
            let end = self.text.len();
            self.mistake(end..end, "there is no wire to guard").help(
                "add `[[wire]]` with `name`, `inside` and `outside`: a pair of ports that are bridged",
            );
        }
        if let Some(table) = tables.get(MAX_WIRES) {
            self.mistake(table.span(), format!("more than {MAX_WIRES} wires"));
        }
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut ports: HashMap<String, String> = HashMap::new();
        let mut groups: BTreeMap<String, Vec<Range<usize>>> = BTreeMap::new();
        let mut wires = Vec::new();
        for table in tables {
            let table = table.into_inner();
            let name = table.name.get_ref().clone();
            self.check_name(&table.name, "a wire");
            if let Some(first) = names.insert(name.clone(), table.name.span().start) {
                let line = self.line_of(first);
                self.mistake(
                    table.name.span(),
                    format!("a second wire named `{name}`; the first is in line {line}"),
                );
            }
            for (side, port) in [("inside", &table.inside), ("outside", &table.outside)] {
                let device = port.get_ref().trim().to_owned();
                if device.is_empty() || device.chars().any(char::is_control) {
                    self.mistake(port.span(), format!("`{side}` names no port")).help(
                        "write an interface (`eth1`), a PCI address (`0000:3b:00.0`) or a DPDK \
                         device (`net_af_xdp0,iface=eth1`)",
                    );
                } else if let Some(other) = ports.insert(device.clone(), format!("{name} {side}")) {
                    self.mistake(
                        port.span(),
                        format!("port `{device}` is already taken: it is {other}"),
                    )
                    .help("a port belongs to one side of one wire");
                }
            }
            let mode = self.choice(
                table.mode,
                Mode::Observe,
                &[("observe", Mode::Observe), ("enforce", Mode::Enforce)],
            );
            let tcp = self.choice(
                table.tcp,
                TcpPickup::Loose,
                &[("loose", TcpPickup::Loose), ("strict", TcpPickup::Strict)],
            );
            let routers = self.sides(table.routers);
            let dhcp_servers = self.sides(table.dhcp_servers);
            let fixed_sides = table.fixed_sides.unwrap_or(table.redundancy_group.is_none());
            let tunnels = self.tunnels(
                table.judge_inner,
                table.tunnel_endpoints,
                table.vxlan_port,
                table.geneve_port,
            );
            let link_settling = self.seconds("link-settling-s", table.link_settling_s, 30, 1..=300);
            wires.push(Wire {
                name,
                inside: table.inside.into_inner().trim().to_owned(),
                outside: table.outside.into_inner().trim().to_owned(),
                mode,
                tcp,
                routers,
                dhcp_servers,
                fixed_sides,
                tunnels,
                redundancy_group: self.redundancy_group(table.redundancy_group, &mut groups),
                link_propagation: table.link_propagation.unwrap_or(true),
                link_settling,
                failure: self.wire_failure(table.fail, table.bypass_command),
            });
        }
        self.check_groups(&groups);
        wires
    }

    /// Some sides of a wire; unless the file says otherwise, what serves others is on the outside.
    fn sides(&mut self, written: Option<Spanned<String>>) -> Sides {
        let sides = [
            ("outside", Sides::OUTSIDE),
            ("inside", Sides::INSIDE),
            ("both", Sides::BOTH),
            ("none", Sides::NONE),
        ];
        self.choice(written, Sides::OUTSIDE, &sides)
    }

    fn tunnels(
        &mut self,
        judged: Option<Spanned<Vec<Spanned<String>>>>,
        endpoints: Option<Spanned<Vec<Spanned<String>>>>,
        vxlan_port: Option<Spanned<i64>>,
        geneve_port: Option<Spanned<i64>>,
    ) -> Option<Arc<Tunnels>> {
        let span = vxlan_port.as_ref().or(geneve_port.as_ref()).map(Spanned::span);
        let vxlan = self.number("vxlan-port", vxlan_port, 4789, 1..=65_535);
        let geneve = self.number("geneve-port", geneve_port, 6081, 1..=65_535);
        if let (Some(span), true) = (span, vxlan == geneve) {
            self.mistake(span, format!("`vxlan-port` and `geneve-port` are both {geneve}"))
                .help("each kind of tunnel needs a port of its own");
        }
        let judged = judged.filter(|judged| !judged.get_ref().is_empty())?;
        let mut tunnels = Tunnels::default();
        let judged_at = judged.span();
        for word in judged.into_inner() {
            match self.choice(Some(word), None, &[("vxlan", Some(true)), ("geneve", Some(false))]) {
                Some(true) => tunnels.vxlan = Some(vxlan),
                Some(false) => tunnels.geneve = Some(geneve),
                None => {}
            }
        }
        let endpoints = endpoints.map(Spanned::into_inner).unwrap_or_default();
        if endpoints.is_empty() {
            self.mistake(judged_at, "`judge-inner` without `tunnel-endpoints`").help(
                "list the addresses between which there are tunnels, multicast groups included, as \
                 `tunnel-endpoints = [\"192.0.2.0/28\"]`: no rule judges the outer packets",
            );
        }
        for written in endpoints {
            match parse_addresses(written.get_ref()) {
                Ok(addresses) => tunnels.endpoints = tunnels.endpoints.union(&addresses),
                Err((message, help)) => {
                    let mistake = self.mistake(written.span(), message);
                    if let Some(help) = help {
                        mistake.help(help);
                    }
                }
            }
        }
        Some(Arc::new(tunnels))
    }

    fn redundancy_group(
        &mut self,
        group: Option<Spanned<String>>,
        groups: &mut BTreeMap<String, Vec<Range<usize>>>,
    ) -> Option<String> {
        let group = group?;
        self.check_name(&group, "a redundancy group");
        groups.entry(group.get_ref().clone()).or_default().push(group.span());
        Some(group.into_inner())
    }

    /// A wire that is redundant with no other is a slip of the pen: its flows would not be shared.
    fn check_groups(&mut self, groups: &BTreeMap<String, Vec<Range<usize>>>) {
        for (name, spans) in groups {
            let [span] = &spans[..] else { continue };
            let others = groups.keys().map(String::as_str).filter(|other| other != name);
            let help = match did_you_mean(name, others) {
                Some(other) => format!("did you mean `{other}`?"),
                None => "name the same `redundancy-group` at each wire whose traffic may go by \
                         another one, or at none"
                    .to_owned(),
            };
            self.mistake(span.clone(), format!("no other wire is in redundancy group `{name}`"))
                .help(help);
        }
    }

    fn check_name(&mut self, name: &Spanned<String>, of: &str) {
        let text = name.get_ref();
        let valid = text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && (text.chars()).all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !valid || text == "any" {
            self.mistake(name.span(), format!("`{text}` cannot be the name of {of}")).help(
                "a name is a lower-case letter, then lower-case letters, digits and `-`, at most 63 \
                 in all; `any` is reserved",
            );
        }
    }

    fn workers(
        &mut self,
        workers: Option<Spanned<i64>>,
        cores: Option<Spanned<Vec<Spanned<i64>>>>,
    ) -> (usize, Vec<usize>) {
        let mut list = Vec::new();
        let listed = cores.as_ref().map(|cores| cores.get_ref().len());
        for core in cores.iter().flat_map(|cores| cores.get_ref()) {
            match usize::try_from(*core.get_ref()) {
                Ok(number) if number < 4096 && !list.contains(&number) => list.push(number),
                Ok(number) if number < 4096 => {
                    self.mistake(core.span(), format!("core {number} is listed twice"))
                        .help("each worker needs a core of its own");
                }
                _ => {
                    self.mistake(core.span(), format!("{} is no core", core.get_ref()))
                        .help("`lscpu -e` lists the cores of this machine");
                }
            }
        }
        if let (Some(0), Some(cores)) = (listed, &cores) {
            self.mistake(cores.span(), "`cores` is empty")
                .help("leave it out to let the gateway choose");
        }
        let span = workers.as_ref().map(Spanned::span);
        let default = listed.unwrap_or(1).clamp(1, MAX_WORKERS);
        let count = self.number("workers", workers, default as i64, 1..=MAX_WORKERS as i64);
        let count = usize::try_from(count).unwrap_or(1);
        if let (Some(span), Some(listed)) = (span, listed) {
            if listed != count && listed > 0 {
                self.mistake(span, format!("{count} workers, but `cores` lists {listed}"))
                    .help("leave `workers` out: there is one for each core");
            }
        }
        (count, list)
    }

    fn flows(&mut self, table: document::Flows, timeouts: document::Timeouts) -> Flows {
        Flows {
            capacity: self.number("capacity", table.capacity, 1 << 18, 1024..=1 << 26),
            per_source_limit: self.number(
                "per-source-limit",
                table.per_source_limit,
                1 << 15,
                1..=1 << 26,
            ),
            new_flows_per_source: self.number(
                "new-flows-per-source",
                table.new_flows_per_source,
                5000,
                1..=10_000_000,
            ),
            timeouts: self.timeouts(timeouts),
            rejects_per_second: self.number(
                "rejects-per-second",
                table.rejects_per_second,
                1000,
                0..=1_000_000,
            ),
        }
    }

    fn fragments(&mut self, table: document::Fragments) -> Fragments {
        let default = FragmentTableConfig::default();
        Fragments {
            capacity: self.number("capacity", table.capacity, default.capacity, 64..=1 << 20),
            timeout_s: self.number("timeout-s", table.timeout_s, default.timeout_s, 1..=120),
            wait_frames: self.number(
                "wait-frames",
                table.wait_frames,
                default.wait_frames,
                0..=1024,
            ),
            wait_ms: self.number("wait-ms", table.wait_ms, default.wait_ms, 1..=1000),
        }
    }

    fn bindings(&mut self, table: document::Bindings) -> Bindings {
        let default = TableConfig::default();
        let age = self.seconds("age-s", table.age_s, 1200, 10..=7 * 86_400);
        Bindings {
            table: TableConfig {
                capacity: self.number("capacity", table.capacity, 65_536, 64..=1 << 20),
                per_mac: self.number("per-mac", table.per_mac, 32, 1..=65_536),
                age_ms: u64::try_from(age.as_millis()).unwrap_or(default.age_ms),
            },
            guard: table.guard.unwrap_or(true),
        }
    }

    fn timeouts(&mut self, table: document::Timeouts) -> Timeouts {
        let default = Timeouts::default();
        let mut timeout = |key, value, default| self.number(key, value, default, 1..=30 * 86_400);
        Timeouts {
            tcp_syn_sent_s: timeout("tcp-syn-sent-s", table.tcp_syn_sent_s, default.tcp_syn_sent_s),
            tcp_syn_received_s: timeout(
                "tcp-syn-received-s",
                table.tcp_syn_received_s,
                default.tcp_syn_received_s,
            ),
            tcp_adopted_s: timeout("tcp-adopted-s", table.tcp_adopted_s, default.tcp_adopted_s),
            tcp_established_s: timeout(
                "tcp-established-s",
                table.tcp_established_s,
                default.tcp_established_s,
            ),
            tcp_half_closed_s: timeout(
                "tcp-half-closed-s",
                table.tcp_half_closed_s,
                default.tcp_half_closed_s,
            ),
            tcp_closing_s: timeout("tcp-closing-s", table.tcp_closing_s, default.tcp_closing_s),
            tcp_time_wait_s: timeout(
                "tcp-time-wait-s",
                table.tcp_time_wait_s,
                default.tcp_time_wait_s,
            ),
            tcp_closed_s: timeout("tcp-closed-s", table.tcp_closed_s, default.tcp_closed_s),
            udp_unanswered_s: timeout(
                "udp-unanswered-s",
                table.udp_unanswered_s,
                default.udp_unanswered_s,
            ),
            udp_answered_s: timeout("udp-answered-s", table.udp_answered_s, default.udp_answered_s),
            icmp_unanswered_s: timeout(
                "icmp-unanswered-s",
                table.icmp_unanswered_s,
                default.icmp_unanswered_s,
            ),
            icmp_answered_s: timeout(
                "icmp-answered-s",
                table.icmp_answered_s,
                default.icmp_answered_s,
            ),
            other_unanswered_s: timeout(
                "other-unanswered-s",
                table.other_unanswered_s,
                default.other_unanswered_s,
            ),
            other_answered_s: timeout(
                "other-answered-s",
                table.other_answered_s,
                default.other_answered_s,
            ),
        }
    }

    fn listen(&mut self, listen: Option<Spanned<String>>) -> Option<SocketAddr> {
        let default = SocketAddr::from(([127, 0, 0, 1], DEFAULT_METRICS_PORT));
        let Some(listen) = listen else { return Some(default) };
        if listen.get_ref() == "off" {
            return None;
        }
        let parsed = listen.get_ref().parse::<SocketAddr>().ok();
        if parsed.is_none() {
            self.mistake(listen.span(), format!("`{}` is no address and port", listen.get_ref()))
                .help(format!("write `{default}`, `[::1]:{DEFAULT_METRICS_PORT}` or `off`"));
        }
        parsed
    }

    fn log_level(&mut self, level: Option<Spanned<String>>) -> LogLevel {
        use LogLevel::{Debug, Error, Info, Trace, Warn};
        let levels = [Error, Warn, Info, Debug, Trace].map(|level| (level.label(), level));
        self.choice(level, Info, &levels)
    }

    fn path(&mut self, path: Option<Spanned<String>>, default: &str) -> PathBuf {
        let Some(path) = path else { return PathBuf::from(default) };
        if path.get_ref().is_empty() || path.get_ref().contains('\0') {
            self.mistake(path.span(), "an empty path");
        }
        self.folder.join(path.get_ref())
    }

    fn seconds(
        &mut self,
        key: &str,
        value: Option<Spanned<i64>>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_secs(self.number(key, value, default, range))
    }

    fn number<T>(
        &mut self,
        key: &str,
        value: Option<Spanned<i64>>,
        default: T,
        range: RangeInclusive<T>,
    ) -> T
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(value) = value else { return default };
        match T::try_from(*value.get_ref()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let message = format!("`{key}` cannot be {}", value.get_ref());
                self.mistake(value.span(), message).help(format!(
                    "write a number from {} to {}",
                    range.start(),
                    range.end()
                ));
                default
            }
        }
    }

    fn choice<T: Copy>(
        &mut self,
        value: Option<Spanned<String>>,
        default: T,
        choices: &[(&'static str, T)],
    ) -> T {
        let Some(value) = value else { return default };
        let written = value.get_ref().as_str();
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == written) {
            return *choice;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let help = match did_you_mean(written, words.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("write {}", quoted_list(&words)),
        };
        self.mistake(value.span(), format!("there is no `{written}` here")).help(help);
        default
    }

    fn mistake(&mut self, span: Range<usize>, message: impl Into<String>) -> Help<'_> {
        self.found.push(Diagnostic::at(self.file, self.text, span, message));
        Help(self.found.last_mut())
    }

    fn line_of(&self, offset: usize) -> usize {
        self.text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
    }
}

/// Where the metrics endpoint listens unless told otherwise. It lies outside of the range 9100 to
/// 9999, all of which Prometheus' list of default ports gives to other exporters.
pub const DEFAULT_METRICS_PORT: u16 = 10469;

/// The diagnostic that was just found, to be given its help.
struct Help<'a>(Option<&'a mut Diagnostic>);

impl Help<'_> {
    fn help(self, help: impl Into<String>) {
        if let Some(diagnostic) = self.0 {
            diagnostic.help = Some(help.into());
        }
    }
}

/// What the TOML reader found, in our words where it concerns a key.
fn syntax_error(file: &str, text: &str, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(text.len()..text.len());
    let message = error.message().trim();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let written = quoted.next().unwrap_or_default().to_owned();
        let known: Vec<&str> = quoted.collect();
        let help = match did_you_mean(&written, known.iter().copied()) {
            Some(key) => format!("did you mean `{key}`?"),
            None => format!("the keys here are {}", quoted_list(&known)),
        };
        return Diagnostic::at(file, text, span, format!("unknown key `{written}`"))
            .with_help(help);
    }
    if message.starts_with("missing field") {
        let key = quoted.next().unwrap_or_default();
        return Diagnostic::at(file, text, span, format!("the key `{key}` is missing"));
    }
    Diagnostic::at(file, text, span, message.lines().collect::<Vec<_>>().join("; "))
}

fn quoted_list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests;
