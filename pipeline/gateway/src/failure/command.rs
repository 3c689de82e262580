//! `bulkhead bypass`: how each wire fails, which are bypassed, and a bypass by hand.

use serde::Serialize;

use super::bypass::{Means, clear_closed, is_kernel_engaged, keep_found, put_back, release_all};
use super::bypassed::Bypassed;
use super::bypasses::Bypasses;
use super::relays::RELAYS_UNTOLD;
use crate::audit::Who;
use crate::cli::{BypassAction, BypassArgs, exit};
use crate::config::{Config, Fail, Wire};
use crate::control::client::print_json;

/// How the wires fail, and which are bypassed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct BypassReport {
    /// The wires of the configuration, in its order.
    pub wires: Vec<WireBypass>,
    /// Who bypasses wires, since when and why; absent where none is bypassed, or nobody has written that down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<Bypassed>,
    /// Wires whose bypass by the kernel this command has ended.
    pub released: Vec<String>,
    /// What failed.
    pub errors: Vec<String>,
}

/// How a wire fails.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct WireBypass {
    /// Its name.
    pub name: String,
    /// `closed` or `open`, as the configuration says.
    pub fail: String,
    /// What can bypass a wire that fails open: `kernel`, `command`, or `none`, so that it fails closed; absent
    /// where it fails closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub means: Option<String>,
    /// Whether its frames pass unjudged now: by the kernel, or by a `bypass-command` as far as is written down.
    pub bypassed: bool,
}

/// Does what it is told and says what is so then. Returns the exit code.
pub fn main(args: &BypassArgs) -> u8 {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return error.exit_code();
        }
    };
    keep_found(&config);
    let mut errors = Vec::new();
    let mut released = Vec::new();
    let said = match args.action {
        BypassAction::Show => None,
        BypassAction::Engage => Some(engage(&config, &mut errors)),
        BypassAction::Release => match release(&config) {
            Ok(wires) => {
                released = wires;
                Some(match released.as_slice() {
                    [] => "no wire was bypassed by the kernel".to_owned(),
                    wires => format!("cut until a gateway runs: {}", wires.join(", ")),
                })
            }
            Err(error) => {
                errors.push(error);
                None
            }
        },
    };
    let report = BypassReport::of(&config, released, errors);
    if args.json {
        print_json(&report);
    } else {
        match (args.action, said) {
            (BypassAction::Show, _) => print!("{}", report.text()),
            (_, said) => said.iter().for_each(|said| println!("{said}")),
        }
        report.errors.iter().for_each(|error| eprintln!("error: {error}"));
    }
    if report.errors.is_empty() { exit::OK } else { exit::UNAVAILABLE }
}

fn engage(config: &Config, errors: &mut Vec<String>) -> String {
    errors.extend(clear_closed(config).err());
    let mut bypasses = Bypasses::new(config);
    let (relays, whose, socket) = (bypasses.relays(), whose(), &config.control_socket);
    let write = |wires: &[String]| {
        // The unit's last word only says once more what the supervisor has done.
        let bypassed = Bypassed::engaged(wires, &relays, (&whose.0, &whose.1), socket);
        if let Err(error) = bypassed.write(socket) {
            eprintln!("warning: who bypasses could not be written down: {error}");
        }
    };
    if !relays.is_empty() {
        // Ahead of their programs: one that says nothing may have switched them all the same.
        write(&[]);
    }
    let mut engaged = bypasses.engage();
    errors.append(&mut engaged.errors);
    if !engaged.wires.is_empty() {
        write(&engaged.wires);
    }
    engaged.to_string()
}

fn release(config: &Config) -> Result<Vec<String>, String> {
    let mut bypasses = Bypasses::new(config);
    let left = bypasses.release();
    let released = clear_closed(config).and_then(|()| release_all(config))?;
    put_back();
    if !left.is_empty() {
        return Err(format!(
            "frames may pass unjudged, its bypass does not end: {}",
            left.join(", ")
        ));
    }
    let written = Bypassed::read(&config.control_socket);
    let unknown = bypasses.cannot_release(written.as_ref());
    if !unknown.is_empty() {
        return Err(format!("{RELAYS_UNTOLD}: {}", unknown.join(", ")));
    }
    if let Err(error) = Bypassed::end(&config.control_socket) {
        eprintln!("warning: it is still written down that wires are bypassed: {error}");
    }
    Ok(released)
}

/// Who calls this, and why: the unit once its main process has ended, or a person.
fn whose() -> (String, String) {
    if let Ok(result) = std::env::var("SERVICE_RESULT") {
        return ("systemd".to_owned(), format!("the supervisor has ended (result {result})"));
    }
    let name = Who::user(rustix::process::getuid().as_raw()).name;
    // Only for the record: whoever is root may say anything.
    let behind = std::env::var("SUDO_USER").ok().filter(|_| name == "root");
    let by = behind.map_or(name, |behind| format!("{behind} (as root)"));
    (by, "`bulkhead bypass engage`".to_owned())
}

impl BypassReport {
    fn of(config: &Config, released: Vec<String>, mut errors: Vec<String>) -> Self {
        let known = Bypassed::read(&config.control_socket);
        let mut wire = |wire: &Wire| {
            let means = (wire.failure.fail == Fail::Open).then(|| Means::of(wire));
            let by_kernel = is_kernel_engaged(wire).unwrap_or_else(|error| {
                errors.push(format!("wire {}: {error}", wire.name));
                false
            });
            let name = &wire.name;
            let is_known = known.as_ref().is_some_and(|known| known.wires.contains(name));
            let has_relays = means == Some(Means::Command)
                || known.as_ref().is_some_and(|known| known.relays.contains(name));
            WireBypass {
                name: wire.name.clone(),
                fail: wire.failure.fail.label().to_owned(),
                means: means.map(|means| means.label().to_owned()),
                bypassed: by_kernel || (has_relays && is_known),
            }
        };
        let wires: Vec<WireBypass> = config.wires.iter().map(&mut wire).collect();
        // What was written down by a process that died may be over.
        let is_bypassed = wires.iter().any(|wire| wire.bypassed);
        let in_force = known.filter(|known| is_bypassed || !known.relays.is_empty());
        Self { wires, in_force, released, errors }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for wire in &self.wires {
            let fails = match wire.means.as_deref() {
                None => "fails closed",
                Some("kernel") => "fails open, by the kernel",
                Some("command") => "fails open, by its bypass-command",
                Some(_) => "fails closed: nothing can bypass it",
            };
            let now = if wire.bypassed { "; bypassed now" } else { "" };
            text.push_str(&format!("{}: {fails}{now}\n", wire.name));
        }
        if let Some(in_force) = &self.in_force {
            text.push_str(&format!("{}\n", in_force.describe()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_a_program_bypasses_is_known_by_what_is_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let text = "policy = \"p\"\ncontrol-socket = \"control.sock\"\n[[wire]]\nname = \"w\"\ninside = \
                    \"0000:3b:00.0\"\noutside = \"0000:3b:00.1\"\nfail = \"open\"\nbypass-command = \
                    [\"/bin/true\"]\n[[wire]]\nname = \"c\"\ninside = \"0000:3b:00.2\"\noutside = \
                    \"0000:3b:00.3\"\n";
        let config = Config::parse("g.toml", dir.path(), text).unwrap_or_else(|e| panic!("{e}"));
        let now = |config: &Config| BypassReport::of(config, Vec::new(), Vec::new());
        assert_eq!(now(&config).in_force, None);
        let mut errors = Vec::new();
        assert_eq!(engage(&config, &mut errors), "passes unjudged: w");
        assert_eq!(errors, Vec::<String>::new());
        let report = now(&config);
        let wires: Vec<_> = report.wires.iter().map(|w| (w.means.as_deref(), w.bypassed)).collect();
        assert_eq!(wires, [(Some("command"), true), (None, false)]);
        let shown = report.text();
        assert!(
            shown.starts_with(
                "w: fails open, by its bypass-command; bypassed now\nc: fails closed\n"
            )
        );
        assert!(shown.contains("w passes everything unjudged, by "), "{shown}");
        // The second word of whoever comes later is not whose bypass it is.
        let first = report.in_force.unwrap();
        engage(&config, &mut errors);
        assert_eq!(now(&config).in_force, Some(first));
        // Once the configuration names no program any more, nothing tells the relays to let go.
        let text = text.replace("fail = \"open\"\nbypass-command = [\"/bin/true\"]\n", "");
        let closed = Config::parse("g.toml", dir.path(), &text).unwrap_or_else(|e| panic!("{e}"));
        let said = release(&closed).unwrap_err();
        assert!(said.contains("work them by hand") && said.ends_with(": w"), "{said}");
        assert!(now(&closed).wires[0].bypassed);
        assert_eq!(release(&config), Ok(Vec::new()));
        assert_eq!(now(&config).in_force, None);
    }

    #[test]
    fn a_file_of_a_bypass_that_is_over_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let text = "policy = \"p\"\ncontrol-socket = \"control.sock\"\n[[wire]]\nname = \"w\"\ninside = \
                    \"0000:3b:00.0\"\noutside = \"0000:3b:00.1\"\n";
        let config = Config::parse("g.toml", Path::new(dir.path()), text);
        let config = config.unwrap_or_else(|e| panic!("{e}"));
        Bypassed::now(&["w".to_owned()], "anna", "maintenance")
            .write(&config.control_socket)
            .unwrap();
        let report = BypassReport::of(&config, Vec::new(), Vec::new());
        assert!(report.in_force.is_none() && !report.wires[0].bypassed);
    }
}
