//! The shape of `gateway.toml`, before anything is checked.

use serde::Deserialize;
pub(super) use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) policy: Spanned<String>,
    pub(super) state_dir: Option<Spanned<String>>,
    pub(super) control_socket: Option<Spanned<String>>,
    pub(super) control_group: Option<Spanned<String>>,
    pub(super) control_read_group: Option<Spanned<String>>,
    pub(super) records_socket: Option<Spanned<String>>,
    pub(super) records_group: Option<Spanned<String>>,
    pub(super) learn_dir: Option<Spanned<String>>,
    pub(super) log_level: Option<Spanned<String>>,
    pub(super) mtu: Option<Spanned<i64>>,
    pub(super) workers: Option<Spanned<i64>>,
    pub(super) cores: Option<Spanned<Vec<Spanned<i64>>>>,
    pub(super) poll: Option<Spanned<String>>,
    pub(super) clock: Option<Spanned<String>>,
    pub(super) grace_s: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) wire: Vec<Spanned<Wire>>,
    #[serde(default)]
    pub(super) failure: Failure,
    #[serde(default)]
    pub(super) flows: Flows,
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    #[serde(default)]
    pub(super) fragments: Fragments,
    #[serde(default)]
    pub(super) bindings: Bindings,
    #[serde(default)]
    pub(super) records: Records,
    #[serde(default)]
    pub(super) signatures: Signatures,
    #[serde(default)]
    pub(super) lockdown: Lockdown,
    #[serde(default)]
    pub(super) export: Export,
    #[serde(default)]
    pub(super) learn: Learn,
    #[serde(default)]
    pub(super) console: Console,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) hardening: Hardening,
    #[serde(default)]
    pub(super) dpdk: Dpdk,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Wire {
    pub(super) name: Spanned<String>,
    pub(super) inside: Spanned<String>,
    pub(super) outside: Spanned<String>,
    pub(super) mode: Option<Spanned<String>>,
    pub(super) tcp: Option<Spanned<String>>,
    pub(super) routers: Option<Spanned<String>>,
    pub(super) dhcp_servers: Option<Spanned<String>>,
    pub(super) fixed_sides: Option<bool>,
    pub(super) judge_inner: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) tunnel_endpoints: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) vxlan_port: Option<Spanned<i64>>,
    pub(super) geneve_port: Option<Spanned<i64>>,
    pub(super) redundancy_group: Option<Spanned<String>>,
    pub(super) link_propagation: Option<bool>,
    pub(super) link_settling_s: Option<Spanned<i64>>,
    pub(super) fail: Option<Spanned<String>>,
    pub(super) bypass_command: Option<Spanned<Vec<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Failure {
    pub(super) hang_ms: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Flows {
    pub(super) capacity: Option<Spanned<i64>>,
    pub(super) per_source_limit: Option<Spanned<i64>>,
    pub(super) new_flows_per_source: Option<Spanned<i64>>,
    pub(super) rejects_per_second: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Timeouts {
    pub(super) tcp_syn_sent_s: Option<Spanned<i64>>,
    pub(super) tcp_syn_received_s: Option<Spanned<i64>>,
    pub(super) tcp_adopted_s: Option<Spanned<i64>>,
    pub(super) tcp_established_s: Option<Spanned<i64>>,
    pub(super) tcp_half_closed_s: Option<Spanned<i64>>,
    pub(super) tcp_closing_s: Option<Spanned<i64>>,
    pub(super) tcp_time_wait_s: Option<Spanned<i64>>,
    pub(super) tcp_closed_s: Option<Spanned<i64>>,
    pub(super) udp_unanswered_s: Option<Spanned<i64>>,
    pub(super) udp_answered_s: Option<Spanned<i64>>,
    pub(super) icmp_unanswered_s: Option<Spanned<i64>>,
    pub(super) icmp_answered_s: Option<Spanned<i64>>,
    pub(super) other_unanswered_s: Option<Spanned<i64>>,
    pub(super) other_answered_s: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Fragments {
    pub(super) capacity: Option<Spanned<i64>>,
    pub(super) timeout_s: Option<Spanned<i64>>,
    pub(super) wait_frames: Option<Spanned<i64>>,
    pub(super) wait_ms: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Bindings {
    pub(super) capacity: Option<Spanned<i64>>,
    pub(super) per_mac: Option<Spanned<i64>>,
    pub(super) age_s: Option<Spanned<i64>>,
    pub(super) guard: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Records {
    pub(super) interval_s: Option<Spanned<i64>>,
    pub(super) ring: Option<Spanned<i64>>,
    pub(super) backlog_mib: Option<Spanned<i64>>,
    pub(super) copies: Option<bool>,
    pub(super) denied_copies_per_second: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Export {
    pub(super) json: Option<Spanned<String>>,
    pub(super) json_mib: Option<Spanned<i64>>,
    pub(super) json_files: Option<Spanned<i64>>,
    pub(super) ipfix: Option<Vec<Spanned<String>>>,
    pub(super) ipfix_domain: Option<Spanned<i64>>,
    pub(super) pcapng: Option<Spanned<String>>,
    pub(super) pcapng_mib: Option<Spanned<i64>>,
    pub(super) pcapng_files: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Signatures {
    pub(super) trusted_keys: Option<Spanned<String>>,
    pub(super) required: Option<Spanned<bool>>,
    pub(super) name: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Lockdown {
    pub(super) max_denied_ratio: Option<Spanned<f64>>,
    pub(super) min_staged_s: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Learn {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) period_s: Option<Spanned<i64>>,
    pub(super) retention_days: Option<Spanned<i64>>,
    pub(super) max_rows: Option<Spanned<i64>>,
    pub(super) max_mib: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Console {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) metrics: Option<Spanned<String>>,
    pub(super) dir: Option<Spanned<String>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) tls: Option<Spanned<String>>,
    pub(super) certificate: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) public_url: Option<Spanned<String>>,
    pub(super) names: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) session_idle_min: Option<Spanned<i64>>,
    pub(super) session_hours: Option<Spanned<i64>>,
    pub(super) memory_mib: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Metrics {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) rule_limit: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Limits {
    pub(super) policy_mib: Option<Spanned<i64>>,
    pub(super) policy_files: Option<Spanned<i64>>,
    pub(super) compile_mib: Option<Spanned<i64>>,
    pub(super) compile_s: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Dpdk {
    pub(super) huge_pages: Option<Spanned<String>>,
    pub(super) queue_size: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Hardening {
    pub(super) confine: Option<bool>,
    pub(super) read: Option<Vec<Spanned<String>>>,
    pub(super) write: Option<Vec<Spanned<String>>>,
}
