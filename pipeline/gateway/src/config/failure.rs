//! What becomes of wires while no gateway judges: `fail` and `bypass-command` of a wire, and the table
//! `[failure]`.

use std::time::Duration;

use super::{Checker, Config, Spanned, document};

/// What becomes of a wire while no gateway judges it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fail {
    /// Nothing passes.
    Closed,
    /// Everything passes.
    Open,
}

impl Fail {
    /// The word in configuration, metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// A wire's part of the configuration of failures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WireFailure {
    /// What becomes of it.
    pub fail: Fail,
    /// The program that works a hardware bypass, and its first arguments; empty where there is none.
    pub command: Vec<String>,
}

/// How long a worker may stand still, in milliseconds, unless the file says otherwise. A round takes it
/// microseconds; a machine that gives it no processor for a second does not forward either.
const HANG_MS: u64 = 1000;

impl Config {
    /// The wires that fail open.
    pub fn open_wires(&self) -> impl Iterator<Item = &super::Wire> {
        self.wires.iter().filter(|wire| wire.failure.fail == Fail::Open)
    }
}

impl Checker<'_> {
    pub(super) fn hang(&mut self, table: document::Failure) -> Duration {
        Duration::from_millis(self.number("hang-ms", table.hang_ms, HANG_MS, 200..=60_000))
    }

    pub(super) fn wire_failure(
        &mut self,
        fail: Option<Spanned<String>>,
        command: Option<Spanned<Vec<String>>>,
    ) -> WireFailure {
        let fail =
            self.choice(fail, Fail::Closed, &[("closed", Fail::Closed), ("open", Fail::Open)]);
        let Some(command) = command else { return WireFailure { fail, command: Vec::new() } };
        let span = command.span();
        let command = command.into_inner();
        if !command.first().is_some_and(|program| program.starts_with('/')) {
            self.mistake(span, "`bypass-command` names no program by its whole path")
                .help("write the program and its arguments: `[\"/usr/local/sbin/bypass\", \"0\"]`");
        } else if fail == Fail::Closed {
            self.mistake(span, "`bypass-command` at a wire that fails closed")
                .help("write `fail = \"open\"` too, or leave the command out");
        }
        WireFailure { fail, command }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(lines: &str) -> Result<Config, String> {
        let text = format!(
            "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"a\"\noutside = \"b\"\n{lines}"
        );
        Config::parse("g.toml", Path::new(""), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_wire_fails_closed_unless_it_is_told_otherwise() {
        let config = parse("").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.wires[0].failure.fail, Fail::Closed);
        assert_eq!((config.open_wires().count(), config.hang), (0, Duration::from_secs(1)));
        let config = parse("fail = \"open\"\nbypass-command = [\"/bin/b\", \"1\"]\n");
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.open_wires().count(), 1);
        assert_eq!(config.wires[0].failure.command, ["/bin/b", "1"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        for (lines, said) in [
            ("fail = \"opne\"\n", "did you mean `open`?"),
            ("fail = \"open\"\nbypass-command = [\"b\"]\n", "whole path"),
            ("fail = \"open\"\nbypass-command = []\n", "whole path"),
            ("bypass-command = [\"/bin/b\"]\n", "fails closed"),
            ("[failure]\nhang-ms = 10\n", "hang-ms"),
        ] {
            let error = parse(lines).err().unwrap_or_default();
            assert!(error.contains(said), "{lines}: {error}");
        }
    }
}
