//! Rules to the lists in which lookups find them.

use std::collections::HashMap;

use super::budget::{Budget, Cost, Exceeded};
use super::hosts::{Part, Side};
use super::services::Services;
use crate::classifier::parts::{Boxes, Check, Entry, List, NO_CHECK, PairTable, Parts, Times};
use crate::policy::{Action, Policy, Rule};

/// Places every rule. On failure the costs name the rules with the most entries.
pub(super) fn build(
    policy: &Policy,
    src: &Side<'_>,
    dst: &Side<'_>,
    services: &Services,
    budget: &mut Budget,
) -> Result<Parts, (Exceeded, Vec<Cost>)> {
    let alternatives = alternatives(policy, src, dst);
    let placed = place(&alternatives, services);
    let mut builder = Builder { policy, src, dst, out: Parts::default(), boxes: HashMap::new() };
    builder
        .fill(&alternatives, &placed, services, budget)
        .map_err(|exceeded| (exceeded, costs(policy, &alternatives, &placed, services)))?;
    Ok(builder.out)
}

/// A rule, one part of its source and one part of its destination; twice that for `between`.
struct Alternative<'a> {
    rule: u32,
    service: u32,
    src: (u32, &'a Part<'a>),
    dst: (u32, &'a Part<'a>),
}

/// Where an alternative is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Pair,
    Src,
    Dst,
    Service,
    Rest,
}

fn alternatives<'a>(policy: &Policy, src: &'a Side<'a>, dst: &'a Side<'a>) -> Vec<Alternative<'a>> {
    let mut out = Vec::with_capacity(policy.rules().len());
    for (id, rule) in policy.rules().iter().enumerate() {
        let swapped = rule.between.then_some((rule.to, rule.from));
        for (from, to) in [(rule.from, rule.to)].into_iter().chain(swapped) {
            for src in src.parts_of(from.0) {
                for dst in dst.parts_of(to.0) {
                    out.push(Alternative { rule: id as u32, service: rule.service.0, src, dst });
                }
            }
        }
    }
    out
}

impl Alternative<'_> {
    fn keys(&self) -> (Option<&[u32]>, Option<&[u32]>) {
        (self.src.1.keys.as_deref(), self.dst.1.keys.as_deref())
    }

    /// The entries that the alternative takes in `place`.
    fn entries(&self, place: Place, services: &Services) -> usize {
        let (src, dst) = self.keys();
        let (src, dst) = (src.map_or(0, <[u32]>::len), dst.map_or(0, <[u32]>::len));
        match place {
            Place::Pair => src.saturating_mul(dst),
            Place::Src => src,
            Place::Dst => dst,
            Place::Service => services.classes[self.service as usize].len(),
            Place::Rest => 1,
        }
    }
}

/// Chooses the place of each alternative: the most discriminating one whose cost in entries, the
/// cheapest alternatives first, stays within a bound that is linear in the policy.
fn place(alternatives: &[Alternative<'_>], services: &Services) -> Vec<Place> {
    let bound = (alternatives.len() * 8).max(1 << 16);
    let mut places = vec![Place::Rest; alternatives.len()];
    let mut left: Vec<usize> = (0..alternatives.len()).collect();
    let choices: [fn(&Alternative<'_>) -> Option<Place>; 3] = [
        |a| matches!(a.keys(), (Some(_), Some(_))).then_some(Place::Pair),
        |a| match a.keys() {
            (Some(src), Some(dst)) if dst.len() < src.len() => Some(Place::Dst),
            (Some(_), _) => Some(Place::Src),
            (None, Some(_)) => Some(Place::Dst),
            (None, None) => None,
        },
        |_| Some(Place::Service),
    ];
    for choice in choices {
        let mut sized: Vec<(usize, usize, Place)> = (left.iter())
            .filter_map(|&id| {
                let place = choice(&alternatives[id])?;
                Some((alternatives[id].entries(place, services), id, place))
            })
            .collect();
        sized.sort_unstable_by_key(|&(entries, id, _)| (entries, id));
        let mut total = 0usize;
        for (entries, id, place) in sized {
            total = total.saturating_add(entries);
            if total > bound {
                break;
            }
            places[id] = place;
        }
        left.retain(|&id| places[id] == Place::Rest);
    }
    places
}

fn costs(
    policy: &Policy,
    alternatives: &[Alternative<'_>],
    places: &[Place],
    services: &Services,
) -> Vec<Cost> {
    let mut costs: Vec<Cost> = (policy.rules().iter())
        .map(|rule| Cost { what: format!("rule `{}`", rule.name), amount: 0, unit: "entries" })
        .collect();
    for (alternative, &place) in alternatives.iter().zip(places) {
        costs[alternative.rule as usize].amount += alternative.entries(place, services) as u64;
    }
    costs
}

struct Builder<'a> {
    policy: &'a Policy,
    src: &'a Side<'a>,
    dst: &'a Side<'a>,
    out: Parts,
    /// Where the boxes of a side (0 source, 1 destination) and part are in the output.
    boxes: HashMap<(u8, u32), u32>,
}

impl Builder<'_> {
    fn fill(
        &mut self,
        alternatives: &[Alternative<'_>],
        places: &[Place],
        services: &Services,
        budget: &mut Budget,
    ) -> Result<(), Exceeded> {
        let (mut pairs, mut by_src, mut by_dst) = (Vec::new(), Vec::new(), Vec::new());
        let (mut by_service, mut rest) = (Vec::new(), Vec::new());
        for (alternative, &place) in alternatives.iter().zip(places) {
            let entries = alternative.entries(place, services);
            // Once with its key for sorting, once in the output.
            budget.spend(entries, entries * (size_of::<(u64, Entry)>() + size_of::<Entry>()))?;
            let entry = self.entry(alternative, place, budget)?;
            let (src, dst) = alternative.keys();
            let (src, dst) = (src.unwrap_or_default(), dst.unwrap_or_default());
            let classes = &services.classes[alternative.service as usize];
            let with = |keys: &[u32], list: &mut Vec<(u64, Entry)>| {
                list.extend(keys.iter().map(|&key| (u64::from(key), entry)));
            };
            match place {
                Place::Pair => {
                    for &s in src {
                        pairs.extend(dst.iter().map(|&d| (PairTable::key(s, d), entry)));
                    }
                }
                Place::Src => with(src, &mut by_src),
                Place::Dst => with(dst, &mut by_dst),
                Place::Service => with(classes, &mut by_service),
                Place::Rest => with(&[0], &mut rest),
            }
        }
        let pairs = self.lists(pairs);
        budget.spend(pairs.len(), PairTable::bytes_for(pairs.len()))?;
        self.out.pairs = PairTable::new(&pairs);
        self.out.by_src = self.table(by_src, self.src.map.keys, budget)?;
        self.out.by_dst = self.table(by_dst, self.dst.map.keys, budget)?;
        self.out.by_service = self.table(by_service, services.map.classes, budget)?;
        self.out.rest = self.table(rest, 1, budget)?[0];
        Ok(())
    }

    /// Moves keyed entries, which are in the order of their rules, into one list for each key.
    fn lists(&mut self, mut keyed: Vec<(u64, Entry)>) -> Vec<(u64, List)> {
        keyed.sort_by_key(|&(key, _)| key);
        (keyed.chunk_by(|a, b| a.0 == b.0))
            .map(|chunk| {
                let list = List { start: self.out.entries.len() as u32, len: chunk.len() as u32 };
                self.out.entries.extend(chunk.iter().map(|&(_, entry)| entry));
                (chunk[0].0, list)
            })
            .collect()
    }

    /// The same, as a table over keys below `keys`.
    fn table(
        &mut self,
        keyed: Vec<(u64, Entry)>,
        keys: usize,
        budget: &mut Budget,
    ) -> Result<Vec<List>, Exceeded> {
        budget.spend(keys, keys * size_of::<List>())?;
        let mut table = vec![List::default(); keys];
        for (key, list) in self.lists(keyed) {
            table[key as usize] = list;
        }
        Ok(table)
    }

    /// The entry of an alternative, which compares what the place does not imply.
    fn entry(
        &mut self,
        alternative: &Alternative<'_>,
        place: Place,
        budget: &mut Budget,
    ) -> Result<Entry, Exceeded> {
        let rule = &self.policy.rules()[alternative.rule as usize];
        let src_listed = matches!(place, Place::Pair | Place::Src);
        let dst_listed = matches!(place, Place::Pair | Place::Dst);
        let src = self.compared(0, alternative.src, src_listed, budget)?;
        let dst = self.compared(1, alternative.dst, dst_listed, budget)?;
        let times = times(rule);
        let plain = rule.vlans.is_any() && rule.wires.is_any() && times.is_none();
        let check = if plain && src.is_none() && dst.is_none() {
            NO_CHECK
        } else {
            let sets = size_of_val(rule.vlans.named()) + size_of_val(rule.wires.named());
            budget.spend(1, size_of::<Check>() + sets)?;
            let (vlans, wires) = (rule.vlans.clone(), rule.wires.clone());
            self.out.checks.push(Check { src, dst, vlans, wires, times });
            self.out.checks.len() as u32 - 1
        };
        Ok(Entry { rule: alternative.rule, service: alternative.service, check })
    }

    /// What to compare one side of a frame with; nothing where its place in a list, or the
    /// endpoint's being anything at all, says that it matches.
    fn compared(
        &mut self,
        side: u8,
        (id, part): (u32, &Part<'_>),
        listed: bool,
        budget: &mut Budget,
    ) -> Result<Option<u32>, Exceeded> {
        if part.implied && (listed || part.keys.is_none()) {
            return Ok(None);
        }
        if let Some(&place) = self.boxes.get(&(side, id)) {
            return Ok(Some(place));
        }
        let boxes = Boxes::new(part.boxes.iter().map(|&b| b.clone()).collect());
        budget.spend(part.boxes.len(), boxes.size_bytes())?;
        let place = self.out.boxes.len() as u32;
        self.out.boxes.push(boxes);
        self.boxes.insert((side, id), place);
        Ok(Some(place))
    }
}

fn times(rule: &Rule) -> Option<Times> {
    let timed = rule.starts.is_some() || rule.expires.is_some();
    timed.then(|| Times {
        starts: rule.starts,
        expires: rule.expires,
        unsynchronised: rule.action != Action::Allow,
    })
}
