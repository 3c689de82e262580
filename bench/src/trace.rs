//! Headers for a rule set, after ClassBench's trace generator (Taylor and Turner, 2007).

use bulkhead_dpdk::AclRule;
use bulkhead_rules::headers::{Headers, protocol};

use crate::five_tuples::{Family, FiveTuple};
use crate::random::Random;

/// How headers follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Each is drawn anew: the hard case, which scans and floods come near.
    Uniform,
    /// Each is repeated as often as a Pareto distribution says (shape 1, scale 1), as flows repeat
    /// their headers: ClassBench's traces of high locality.
    Pareto,
}

impl Order {
    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Pareto => "pareto",
        }
    }
}

/// `count` headers, each at a corner of a rule drawn at random or at a random point in it. Which
/// rule decides about them is another matter: an earlier one often does.
///
/// # Panics
///
/// Where there are no tuples.
pub fn headers(
    tuples: &[FiveTuple],
    family: Family,
    order: Order,
    seed: u64,
    count: usize,
) -> Vec<Headers> {
    let mut random = Random::new(seed);
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let headers = point(&random.pick(tuples).tuple, family, &mut random);
        let times = match order {
            Order::Uniform => 1,
            // No header is more than a tenth of the trace.
            Order::Pareto => ((1.0 / random.unit()) as usize).clamp(1, count.div_ceil(10)),
        };
        out.extend(std::iter::repeat_n(headers, times.min(count - out.len())));
    }
    out
}

/// A point of the rule: a corner of it, or in each field any value.
fn point(rule: &AclRule, family: Family, random: &mut Random) -> Headers {
    let corner = random.below(2) == 0;
    let mut address = |(prefix, len): (u128, u8)| {
        let host = family.mask(family.width()) & !family.mask(len);
        match (corner, random.below(2)) {
            (false, _) => prefix | random.bits128() & host,
            (true, 0) => prefix,
            (true, _) => prefix | host,
        }
    };
    let (src, dst) = (address(rule.src), address(rule.dst));
    let mut port = |(low, high): (u16, u16)| match (corner, random.below(2)) {
        (false, _) => random.within(low, high),
        (true, 0) => low,
        (true, _) => high,
    };
    let (src_port, dst_port) = (port(rule.src_ports), port(rule.dst_ports));
    let any = [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::GRE];
    let protocol = rule.protocol.unwrap_or_else(|| *random.pick(&any));
    let ether_type = family.ether_type();
    Headers { src, dst, src_port, dst_port, ether_type, protocol, ..Headers::default() }
        .normalised()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::five_tuples::{expand, key};
    use bulkhead_rules::policy::Policy;

    const POLICY: &str = "
version: 1
rules:
  - {name: one, from: 10.0.0.0/8, to: 192.0.2.1, service: {tcp: 80-90, from-port: 53}, action: allow}
  - {name: two, from: \"fd00::/16\", to: any, service: udp/53, action: deny}
";

    #[test]
    fn every_header_is_in_a_rule_and_pareto_repeats_them() {
        let policy = Policy::parse(POLICY).unwrap();
        for family in [Family::V4, Family::V6] {
            let tuples = expand(&policy, family, 10).unwrap();
            for (order, distinct) in [(Order::Uniform, 900..1001), (Order::Pareto, 20..500)] {
                let headers = headers(&tuples, family, order, 1, 1_000);
                assert_eq!(headers.len(), 1_000);
                assert!(headers.iter().all(|h| tuples[0].matches(family, &key(h))));
                let runs = 1 + headers.windows(2).filter(|pair| pair[0] != pair[1]).count();
                // Corners of a rule repeat even when drawn anew.
                let fewest = if order == Order::Uniform { 400 } else { distinct.start };
                assert!((fewest..distinct.end).contains(&runs), "{order:?}: {runs}");
            }
        }
    }
}
