//! A competitor in a process of its own, which stays outside of this repository.
//!
//! The program is called with two files, once a round: rules in ClassBench's format, and headers in
//! that of its traces (source, destination, source port, destination port, protocol, 0, the line of the
//! rule that decides, from 0, or -1). It prints one figure a line, as `ns_per_lookup 73.5`; also
//! `build_ms`, `bytes` and `wrong`, the number of headers for which it found another rule.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use bulkhead_dpdk::AclKey;
use serde::Serialize;
use tempfile::TempDir;

use crate::contest::Rounds;
use crate::five_tuples::FiveTuple;
use crate::tuple_space::TupleSpace;

/// Its name and its program, as in `name=program`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
}

impl std::str::FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                let path = std::path::absolute(path).map_err(|error| error.to_string())?;
                Ok(Self { name: name.to_owned(), path })
            }
            _ => Err("name=program, as in dbtable=/opt/dbtable/run".to_owned()),
        }
    }
}

/// The program with its files.
#[derive(Debug)]
pub struct External {
    program: Program,
    folder: TempDir,
    /// What it said so far.
    pub figures: Figures,
}

/// What a program said, of several calls.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Figures {
    /// Its name.
    pub name: String,
    /// Nanoseconds a lookup.
    pub rounds: Rounds,
    /// Milliseconds that its build took.
    pub build_ms: Option<f64>,
    /// Bytes of its rules.
    pub bytes: Option<f64>,
    /// Headers for which it found another rule.
    pub wrong: Option<f64>,
}

impl External {
    /// Writes the files. `tuples` are IPv4.
    ///
    /// # Errors
    ///
    /// Where they cannot be written.
    pub fn new(
        program: &Program,
        tuples: &[FiveTuple],
        space: &TupleSpace,
        keys: &[AclKey],
    ) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("rules"), rules(tuples))?;
        fs::write(folder.path().join("trace"), trace(space, keys))?;
        let figures = Figures { name: program.name.clone(), ..Figures::default() };
        Ok(Self { program: program.clone(), folder, figures })
    }

    /// Calls the program once.
    ///
    /// # Errors
    ///
    /// Where it does not run or does not say what a lookup takes.
    pub fn round(&mut self) -> io::Result<()> {
        let Program { name, path } = &self.program;
        let context = |problem: String| io::Error::other(format!("{name}: {problem}"));
        // What it writes beside itself goes when the folder goes.
        let output = Command::new(path)
            .current_dir(self.folder.path())
            .arg(self.folder.path().join("rules"))
            .arg(self.folder.path().join("trace"))
            .output()
            .map_err(|error| context(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let figure = |key: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse::<f64>().ok())
        };
        let each = figure("ns_per_lookup").ok_or_else(|| {
            context(format!("{}, and said no ns_per_lookup but: {said}", output.status))
        })?;
        let figures = &mut self.figures;
        figures.rounds.0.push(each);
        figures.build_ms = figure("build_ms").or(figures.build_ms);
        figures.bytes = figure("bytes").or(figures.bytes);
        figures.wrong = figure("wrong").or(figures.wrong);
        Ok(())
    }
}

fn rules(tuples: &[FiveTuple]) -> String {
    let mut out = String::new();
    for FiveTuple { tuple, .. } in tuples {
        let prefix =
            |(address, len): (u128, u8)| format!("{}/{len}", Ipv4Addr::from_bits(address as u32));
        let (src, dst) = (tuple.src_ports, tuple.dst_ports);
        let protocol = match tuple.protocol {
            Some(protocol) => format!("0x{protocol:02x}/0xFF"),
            None => "0x00/0x00".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "@{}\t{}\t{} : {}\t{} : {}\t{protocol}\t0x0000/0x0000\t",
            prefix(tuple.src),
            prefix(tuple.dst),
            src.0,
            src.1,
            dst.0,
            dst.1,
        );
    }
    out
}

fn trace(space: &TupleSpace, keys: &[AclKey]) -> String {
    let mut out = String::new();
    for key in keys {
        let decides = space.first_tuple(key).map_or(-1, |index| index as i64);
        let AclKey { src, dst, src_port, dst_port, protocol } = key;
        let _ = writeln!(out, "{src}\t{dst}\t{src_port}\t{dst_port}\t{protocol}\t0\t{decides}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classbench::policy_text;
    use crate::five_tuples::{Family, expand, key};
    use crate::trace::{Order, headers};
    use bulkhead_rules::policy::Policy;
    use std::os::unix::fs::PermissionsExt;

    const SET: &str = "\
@10.1.0.0/16\t192.0.2.1/32\t53 : 53\t1024 : 65535\t0x11/0xFF\t0x0000/0x0000\t
@0.0.0.0/0\t192.0.2.0/24\t0 : 65535\t0 : 65535\t0x00/0x00\t0x0000/0x0000\t
";

    #[test]
    fn a_program_gets_rules_and_headers_and_its_figures_are_read() {
        let policy = Policy::parse(&policy_text(SET, Family::V4).unwrap()).unwrap();
        let tuples = expand(&policy, Family::V4, 10).unwrap();
        assert_eq!(rules(&tuples), SET);
        let space = TupleSpace::new(Family::V4, &tuples);
        let headers = headers(&tuples, Family::V4, Order::Uniform, 1, 20);
        let keys: Vec<_> = headers.iter().map(key).collect();
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("count");
        let text = "#!/bin/sh\necho ns_per_lookup $(wc -l < $2).5\necho wrong $(wc -l < $1)\n";
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let program = format!("counter={}", script.display()).parse().unwrap();
        let mut external = External::new(&program, &tuples, &space, &keys).unwrap();
        external.round().unwrap();
        external.round().unwrap();
        assert_eq!(external.figures.rounds.0, [20.5, 20.5]);
        assert_eq!((external.figures.wrong, external.figures.bytes), (Some(2.0), None));
        fs::write(&script, "#!/bin/sh\necho no\n").unwrap();
        assert!(external.round().unwrap_err().to_string().contains("counter: "));
    }
}
