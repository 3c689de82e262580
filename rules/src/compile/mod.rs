//! Policy to classifier.
//!
//! Read the modules in the order in which [`compile`] calls them:
//!
//! 1. `services`: EtherTypes, protocols and ports to service classes;
//! 2. `hosts`: the endpoints of one side to address and MAC classes;
//! 3. `lists`: each rule into the list where the fewest frames have to be compared with it;
//!
//! over `partition`, which finds equivalence classes, and `budget`, which keeps the limits.

pub(crate) mod budget;
mod hosts;
mod lists;
pub(crate) mod partition;
pub(crate) mod services;
#[cfg(test)]
pub(crate) mod tests;

use crate::classifier::Classifier;
use crate::policy::{Policy, RuleId};
use budget::Budget;
pub use budget::{CompileError, Limits};

/// Compiles a policy. Rules that are not in force now are compiled too: [`Classifier::classify`]
/// is told the time.
///
/// # Errors
///
/// When the policy needs more memory or time than `limits` grants; the error names what costs most.
pub fn compile(policy: &Policy, limits: &Limits) -> Result<Classifier, CompileError> {
    let mut budget = Budget::new(*limits);
    let used = Used::of(policy);
    let services = services::build(policy, &used.services, &mut budget).map_err(|exceeded| {
        budget.error(exceeded, "telling its services apart", services::costs(policy))
    })?;
    let mut side = |used: &[bool], stage| {
        hosts::build(policy, used, &mut budget)
            .map_err(|exceeded| budget.error(exceeded, stage, hosts::size_costs(policy)))
    };
    let src = side(&used.sources, "telling its sources apart")?;
    let dst = side(&used.destinations, "telling its destinations apart")?;
    let parts = lists::build(policy, &src, &dst, &services, &mut budget).map_err(
        |(exceeded, mut costs)| {
            costs.extend(src.costs(policy));
            budget.error(exceeded, "listing its rules", costs)
        },
    )?;
    let tests_mac = |id| policy.endpoint(id).tests_mac();
    let first_mac_rule = policy.rules().iter().position(|r| tests_mac(r.from) || tests_mac(r.to));
    Ok(Classifier {
        default: policy.default_action(),
        actions: policy.rules().iter().map(|rule| rule.action).collect(),
        first_mac_rule: first_mac_rule.map(|index| RuleId(index as u32)),
        src: src.map,
        dst: dst.map,
        services: services.map,
        parts,
    })
}

/// Which endpoints and services the rules use, and on which side. Assertions use some too, which
/// are not to split classes.
struct Used {
    sources: Vec<bool>,
    destinations: Vec<bool>,
    services: Vec<bool>,
}

impl Used {
    fn of(policy: &Policy) -> Self {
        let mut used = Self {
            sources: vec![false; policy.endpoints().len()],
            destinations: vec![false; policy.endpoints().len()],
            services: vec![false; policy.services().len()],
        };
        for rule in policy.rules() {
            let (from, to) = (rule.from.0 as usize, rule.to.0 as usize);
            used.sources[from] = true;
            used.destinations[to] = true;
            if rule.between {
                used.sources[to] = true;
                used.destinations[from] = true;
            }
            used.services[rule.service.0 as usize] = true;
        }
        used
    }
}
