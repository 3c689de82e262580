//! What becomes of a wire while no gateway judges, in truth.

use super::Finding;
use crate::config::{Fail, Wire};
use crate::failure::bypass::Means;

pub(super) fn of_failure(wire: &Wire) -> Finding {
    let about = format!("fail {}", wire.name);
    match (wire.failure.fail, Means::of(wire)) {
        (Fail::Closed, _) => {
            Finding::well(&about, "closed: nothing passes while no gateway judges".to_owned())
        }
        (Fail::Open, Means::Kernel) => Finding::advice(
            &about,
            "open: the kernel carries every frame while no gateway runs, and nothing while this machine \
             has no power"
                .to_owned(),
            "leave it so where an outage is worse than an attack; relays (`bypass-command`) also hold \
             without power"
                .to_owned(),
        ),
        (Fail::Open, Means::Command) => Finding::advice(
            &about,
            format!("open: {} works a bypass", wire.failure.command.join(" ")),
            "try it by `bulkhead bypass engage` while the gateway is stopped, and by pulling the plug"
                .to_owned(),
        ),
        (Fail::Open, Means::None) => Finding::problem(
            &about,
            "closed, although `fail = \"open\"`: nothing can bypass ports that the kernel does not drive"
                .to_owned(),
            "name kernel interfaces, or NICs with bypass relays and their `bypass-command`; or write \
             `fail = \"closed\"`"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::State;
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_wire_that_cannot_fail_open_is_a_problem_and_is_called_closed() {
        let of = |inside: &str, lines: &str| {
            let text = format!(
                "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"{inside}\"\noutside = \"eth2\"\n{lines}"
            );
            let config = Config::parse("g", Path::new(""), &text);
            of_failure(&config.unwrap_or_else(|error| panic!("{error}")).wires[0])
        };
        let open = "fail = \"open\"\n";
        assert_eq!(of("eth1", "").state, State::Well);
        assert_eq!(of("eth1", open).state, State::Advice);
        let problem = of("0000:3b:00.0", open);
        assert_eq!(problem.state, State::Problem);
        assert!(problem.found.starts_with("closed"), "{}", problem.found);
        let command = format!("{open}bypass-command = [\"/usr/sbin/b\"]\n");
        assert_eq!(of("0000:3b:00.0", &command).state, State::Advice);
    }
}
