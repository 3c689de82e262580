//! Shared with the fuzz target `config`.

use std::collections::HashSet;
use std::path::Path;

use bulkhead_gateway::config::{Config, MAX_WIRES, MAX_WORKERS};

/// Checks a configuration file. Returns whether it was accepted.
///
/// # Panics
///
/// When an accepted configuration breaks a promise, or a refusal points at nothing.
pub(crate) fn check(text: &str) -> bool {
    match Config::parse("gateway.toml", Path::new("/etc/bulkhead"), text) {
        Ok(config) => {
            assert!((1..=MAX_WIRES).contains(&config.wires.len()));
            assert!((1..=MAX_WORKERS).contains(&config.workers));
            assert!(config.cores.is_empty() || config.cores.len() == config.workers);
            assert!((1280..=9000).contains(&config.mtu));
            assert!(config.policy.is_absolute());
            let ports: HashSet<_> =
                config.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]).collect();
            assert_eq!(ports.len(), 2 * config.wires.len(), "a port on two sides");
            let names: HashSet<_> = config.wires.iter().map(|wire| &wire.name).collect();
            assert_eq!(names.len(), config.wires.len(), "two wires of one name");
            true
        }
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty(), "refused without a reason");
            let lines = text.split('\n').count();
            for mistake in &mistakes.0 {
                assert!((1..=lines).contains(&mistake.line), "line {} of {lines}", mistake.line);
                assert!(!mistake.message.is_empty());
                assert!(mistake.to_string().len() < 4000 + mistake.message.len());
            }
            false
        }
    }
}
