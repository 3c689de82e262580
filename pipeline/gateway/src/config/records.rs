//! Flow records, and what becomes of them in other programs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bulkhead_pipeline::record::RecordConfig;

use super::Checker;
use super::document::{self, Spanned};
use crate::export::{Collector, FileRing, Transport};

/// The most collectors of IPFIX.
const MAX_COLLECTORS: usize = 8;

/// Flow records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records {
    /// The Unix socket on which they are told; [`None`] for `records-socket = "off"`.
    pub socket: Option<PathBuf>,
    /// The group, by name or number, whose members may read it; without one, root's.
    pub group: Option<String>,
    /// How each worker makes them.
    pub worker: RecordConfig,
    /// Bytes of records that are kept for readers that are slow or yet to come.
    pub log_bytes: usize,
}

/// What flow records are exported to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Export {
    /// Files of JSON lines.
    pub json: Option<FileRing>,
    /// Capture files with what was denied.
    pub evidence: Option<FileRing>,
    /// Collectors of IPFIX.
    pub ipfix: Vec<Collector>,
    /// The observation domain that they are told.
    pub ipfix_domain: u32,
}

impl Checker<'_> {
    /// The socket is beside the control socket unless the file says otherwise.
    pub(super) fn records(
        &mut self,
        table: document::Records,
        (socket, group): (Option<Spanned<String>>, Option<Spanned<String>>),
        control_socket: &Path,
    ) -> Records {
        let default = RecordConfig::default();
        let is_off = socket.as_ref().is_some_and(|socket| socket.get_ref() == "off");
        let beside = control_socket.with_file_name("records.sock");
        Records {
            socket: (!is_off).then(|| match socket {
                Some(socket) => self.path(Some(socket), ""),
                None => beside,
            }),
            group: group.and_then(|group| self.group(&group)),
            worker: RecordConfig {
                ring: self.number("ring", table.ring, default.ring, 64..=1 << 20),
                interval_s: self.number("interval-s", table.interval_s, 60, 1..=86_400),
                copies: table.copies.unwrap_or(default.copies),
                denied_copies_per_second: self.number(
                    "denied-copies-per-second",
                    table.denied_copies_per_second,
                    default.denied_copies_per_second,
                    0..=100_000,
                ),
            },
            log_bytes: self.number("backlog-mib", table.backlog_mib, 16, 1..=1024) << 20,
        }
    }

    /// A group's name, or its number.
    pub(super) fn group(&mut self, group: &Spanned<String>) -> Option<String> {
        let name = group.get_ref();
        let is_name = !name.is_empty()
            && name.len() <= 32
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_name {
            self.mistake(group.span(), format!("`{name}` is no group"))
                .help("write the name of a group of this machine, or its number");
        }
        is_name.then(|| name.clone())
    }

    pub(super) fn export(&mut self, table: document::Export) -> Export {
        let mut ipfix = Vec::new();
        for written in table.ipfix.unwrap_or_default() {
            match collector(written.get_ref()) {
                Some(collector) if ipfix.contains(&collector) => {
                    self.mistake(written.span(), format!("`{collector}` is there twice"));
                }
                Some(collector) => ipfix.push(collector),
                None => {
                    let message = format!("`{}` is no collector", written.get_ref());
                    self.mistake(written.span(), message).help(
                        "write `udp://192.0.2.1:4739` or `tcp://[2001:db8::1]:4739`, with an address",
                    );
                }
            }
            if ipfix.len() > MAX_COLLECTORS {
                let message = format!("more than {MAX_COLLECTORS} collectors");
                self.mistake(written.span(), message);
                break;
            }
        }
        let json_mib = ("json-mib", table.json_mib, 64);
        let json_files = ("json-files", table.json_files, 16);
        let evidence_mib = ("pcapng-mib", table.pcapng_mib, 16);
        let evidence_files = ("pcapng-files", table.pcapng_files, 8);
        let (json_span, pcapng_span) =
            (table.json.as_ref().map(Spanned::span), table.pcapng.as_ref().map(Spanned::span));
        let json = self.file_ring(table.json, json_mib, json_files);
        let evidence = self.file_ring(table.pcapng, evidence_mib, evidence_files);
        if let (Some(json), Some(evidence), Some(_), Some(span)) =
            (&json, &evidence, json_span, pcapng_span)
        {
            if json.folder == evidence.folder {
                self.mistake(span, "`json` and `pcapng` are one folder")
                    .help("give each a folder of its own: its oldest files are removed");
            }
        }
        let ipfix_domain = self.number("ipfix-domain", table.ipfix_domain, 1, 0..=u32::MAX);
        Export { json, evidence, ipfix, ipfix_domain }
    }

    fn file_ring(
        &mut self,
        folder: Option<Spanned<String>>,
        (mib_key, mib, default_mib): (&str, Option<Spanned<i64>>, u64),
        (files_key, files, default_files): (&str, Option<Spanned<i64>>, usize),
    ) -> Option<FileRing> {
        let most_bytes = self.number(mib_key, mib, default_mib, 1..=65_536) << 20;
        let most_files = self.number(files_key, files, default_files, 1..=10_000);
        let folder = self.path(Some(folder?), "");
        Some(FileRing { folder, most_bytes, most_files })
    }
}

fn collector(written: &str) -> Option<Collector> {
    let (scheme, address) = written.split_once("://")?;
    let transport = match scheme {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        _ => return None,
    };
    let address: SocketAddr = address.parse().ok()?;
    (address.port() != 0).then_some(Collector { transport, address })
}
