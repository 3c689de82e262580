//! Which addresses are bound to which MAC addresses, and what that means to rules.
//!
//! A rule that names a MAC address, itself or by a device, matches frames of that MAC address. Where
//! the host is not on the link that the frame crosses, as beyond a router, the frame shows another one.
//! There its bound addresses stand for it: as destinations only, because any host can write any source
//! into a packet, and only on links on which neither the host nor a claim to the address was seen, so
//! that on its own links nothing but its MAC address will do.
//!
//! What a rule leaves out with `except` it leaves out at its bound addresses too, again as
//! destinations only. To this no link is an exception, or whoever claims the address on a link of his
//! own would undo what protects its host: only frames to the MAC address of another host that has the
//! same address there, as where networks reuse addresses, are that host's.
//!
//! The same MAC address on a frame with an address that is not bound to it (yet) is the same host
//! nevertheless: a device that is denied something cannot shake the rule off by taking another address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::edit::{Delta, EndpointChange};
use super::{Endpoint, EndpointBox, EndpointId, Policy};
use crate::headers::{Mac, VlanTags, WireId};
use crate::sets::{AddrSet, FiniteSet, RangeSet, VlanSet};

/// A network as frames show it: a wire, and the VLAN tags on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Link {
    /// The wire.
    pub wire: WireId,
    /// The tags.
    pub tags: VlanTags,
}

/// An address that is bound to a MAC address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BoundAddress {
    /// The address.
    pub address: IpAddr,
    /// The links, ascending, on which the host or any claim to the address was seen.
    pub links: Arc<[Link]>,
    /// The other hosts that have the address, each on a link of its own, ascending. Routers, which may
    /// answer for any address, are none.
    pub namesakes: Arc<[(Link, Mac)]>,
}

impl BoundAddress {
    /// Whether another host with this MAC address has the address on the link.
    pub fn is_namesake(&self, link: Link, mac: Mac) -> bool {
        self.namesakes.binary_search(&(link, mac)).is_ok()
    }
}

/// Whether packets to the address pass routers, so that it means the same host on other links.
pub fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_link_local(),
        IpAddr::V6(a) => !a.is_unicast_link_local(),
    }
}

/// Who has an address on a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// Its MAC address.
    pub mac: Mac,
    /// Whether it is on the inside of the wire.
    pub inside: bool,
}

/// What is known of addresses. Cheap to share, costly to change: it is made anew.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bindings {
    by_mac: BTreeMap<Mac, Vec<BoundAddress>>,
    holders: HashMap<(Link, IpAddr), Holder>,
}

impl Bindings {
    /// `by_mac` are the addresses that rules follow, `holders` those that hosts are held to.
    pub fn new(
        mut by_mac: BTreeMap<Mac, Vec<BoundAddress>>,
        holders: HashMap<(Link, IpAddr), Holder>,
    ) -> Self {
        by_mac.values_mut().for_each(|bound| bound.sort_unstable());
        Self { by_mac, holders }
    }

    /// The addresses bound to a MAC address, ascending.
    pub fn of(&self, mac: Mac) -> &[BoundAddress] {
        self.by_mac.get(&mac).map_or(&[], Vec::as_slice)
    }

    /// Whether nobody is held to any address.
    #[inline]
    pub fn holds_nobody(&self) -> bool {
        self.holders.is_empty()
    }

    /// What hosts are held to, without addresses that rules follow.
    #[must_use]
    pub fn without_addresses(&self) -> Self {
        Self { by_mac: BTreeMap::new(), holders: self.holders.clone() }
    }

    /// Who has the address on the link, as far as is known.
    pub fn holder(&self, link: Link, address: IpAddr) -> Option<Holder> {
        self.holders.get(&(link, address)).copied()
    }

    /// Whether it is known that another host than this one has the address on the link.
    pub fn is_of_another(&self, link: Link, address: IpAddr, host: Holder) -> bool {
        self.holder(link, address).is_some_and(|holder| holder != host)
    }

    /// The MAC addresses whose bound addresses are not the same in `other`.
    fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Mac> + 'a {
        let here = self.by_mac.keys().filter(|mac| self.of(**mac) != other.of(**mac));
        let there = other.by_mac.keys().filter(|mac| !self.by_mac.contains_key(mac));
        here.chain(there).copied()
    }

    /// The boxes without what bound addresses take from them, and those that they add.
    pub(super) fn extend(&self, boxes: Arc<Vec<EndpointBox>>) -> Arc<Vec<EndpointBox>> {
        if self.by_mac.is_empty() {
            return boxes;
        }
        let beyond = self.beyond(&boxes);
        let except: Vec<(usize, Arc<[BoundAddress]>)> = (boxes.iter().enumerate())
            .map(|(place, b)| (place, self.except(b)))
            .filter(|(_, bound)| !bound.is_empty())
            .collect();
        if beyond.is_empty() && except.is_empty() {
            return boxes;
        }
        let mut all = Arc::unwrap_or_clone(boxes);
        for (place, bound) in except {
            all[place].except_bound = bound;
        }
        all.extend(beyond);
        Arc::new(all)
    }

    /// The bound addresses, ascending, of the MAC addresses that the box leaves out.
    fn except(&self, b: &EndpointBox) -> Arc<[BoundAddress]> {
        let FiniteSet::AllBut(macs) = &b.macs else { return Arc::default() };
        let bound = macs.iter().flat_map(|&mac| self.of(mac));
        let bound = bound.filter(|one| is_routed(one.address) && contains(&b.addrs, one.address));
        let mut bound: Vec<BoundAddress> = bound.cloned().collect();
        bound.sort_unstable();
        bound.into()
    }

    fn beyond(&self, boxes: &[EndpointBox]) -> Vec<EndpointBox> {
        // One box for all that are seen alike: of thousands of devices, most are.
        let mut alike: BTreeMap<(&Arc<[Link]>, usize), Ranges> = BTreeMap::new();
        let mut vlans: Vec<&VlanSet> = Vec::new();
        for (b, macs) in boxes.iter().filter_map(|b| Some((b, named(b)?))) {
            let place = vlans.iter().position(|known| **known == b.vlans).unwrap_or_else(|| {
                vlans.push(&b.vlans);
                vlans.len() - 1
            });
            for bound in macs.iter().flat_map(|&mac| self.of(mac)) {
                if is_routed(bound.address) && contains(&b.addrs, bound.address) {
                    alike.entry((&bound.links, place)).or_default().push(bound.address);
                }
            }
        }
        let to_box =
            |((links, vlans_place), ranges): ((&Arc<[Link]>, usize), Ranges)| EndpointBox {
                addrs: ranges.into_set(),
                macs: FiniteSet::any(),
                vlans: vlans[vlans_place].clone(),
                beyond: Some(Arc::clone(links)),
                except_bound: Arc::default(),
            };
        alike.into_iter().map(to_box).collect()
    }
}

impl Policy {
    /// What is known of addresses.
    pub fn bindings(&self) -> &Arc<Bindings> {
        &self.bindings
    }

    /// The policy with other bindings, and what they change: an edit like any other, but that the
    /// text does not show it. Looks at every endpoint, and takes time for those that change.
    pub fn bound(&self, bindings: &Arc<Bindings>) -> (Self, Delta) {
        let mut differing: Vec<Mac> = self.bindings.differing(bindings).collect();
        differing.sort_unstable();
        let mut policy = Self { bindings: Arc::clone(bindings), ..self.clone() };
        let mut delta = Delta::default();
        if differing.is_empty() {
            return (policy, delta);
        }
        for (id, endpoint) in (0u32..).zip(self.endpoints.iter()) {
            let mut macs = endpoint.boxes.iter().flat_map(|b| b.macs.named());
            if !macs.any(|mac| differing.binary_search(mac).is_ok()) {
                continue;
            }
            let own = endpoint.boxes.iter().filter(|b| b.beyond.is_none());
            let own = own.map(|b| EndpointBox { except_bound: Arc::default(), ..b.clone() });
            let boxes = bindings.extend(Arc::new(own.collect()));
            if boxes != endpoint.boxes {
                let changed = Endpoint { label: endpoint.label.clone(), boxes };
                *policy.endpoints.get_mut(id as usize) = Arc::new(changed);
                delta.endpoints.push(EndpointChange::other(EndpointId(id)));
            }
        }
        (policy, delta)
    }

    /// The devices that the text defines, with the MAC addresses that it gives each.
    pub fn devices(&self) -> impl Iterator<Item = NamedDevice<'_>> {
        self.editing.devices().iter().map(|device| NamedDevice {
            name: &device.name.value,
            macs: device.macs.iter().map(|mac| mac.value).collect(),
            addresses: super::boxes::device_box(device).addrs,
        })
    }

    /// Every MAC address of a single host that a rule names, itself, by a device or as an exception,
    /// ascending.
    pub fn named_macs(&self) -> Vec<Mac> {
        let boxes = self.endpoints.iter().flat_map(|endpoint| endpoint.boxes.iter());
        let written = boxes.flat_map(|b| match &b.macs {
            FiniteSet::Only(macs) | FiniteSet::AllBut(macs) => macs.iter(),
        });
        let mut macs: Vec<Mac> = written.copied().collect();
        macs.retain(|mac| !mac.is_group());
        macs.sort_unstable();
        macs.dedup();
        macs
    }
}

/// A device of a policy's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedDevice<'p> {
    /// Its name.
    pub name: &'p str,
    /// Its MAC addresses; none where the text gives none.
    pub macs: Vec<Mac>,
    /// Its addresses; all where the text gives none.
    pub addresses: AddrSet,
}

/// The MAC addresses that a box names, unless it takes all but some.
fn named(b: &EndpointBox) -> Option<&[Mac]> {
    match &b.macs {
        FiniteSet::Only(macs) => Some(macs),
        FiniteSet::AllBut(_) => None,
    }
}

fn contains(addrs: &AddrSet, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => addrs.v4.contains(a.into()),
        IpAddr::V6(a) => addrs.v6.contains(a.into()),
    }
}

/// Addresses on their way to a set.
#[derive(Default)]
struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    fn push(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.v4.push((a.into(), a.into())),
            IpAddr::V6(a) => self.v6.push((a.into(), a.into())),
        }
    }

    fn into_set(self) -> AddrSet {
        AddrSet {
            v4: RangeSet::<u32>::from_ranges(self.v4),
            v6: RangeSet::<u128>::from_ranges(self.v6),
            non_ip: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::Scratch;
    use crate::compile::{Compiler, Limits};
    use crate::headers::{ETHER_IPV4, Headers, PolicyTime, protocol};
    use crate::oracle;
    use crate::policy::{Edit, RuleId};
    use crate::syntax::document::Member;

    const PLC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const CELL: Link = Link { wire: WireId(0), tags: VlanTags::UNTAGGED };
    const OFFICE: Link = Link { wire: WireId(1), tags: VlanTags::UNTAGGED };
    const NOW: PolicyTime = PolicyTime { unix_ms: 0, synchronised: true };
    const POLICY: &str = "
version: 1
devices:
  plc: {mac: '02:00:00:00:00:07'}
  pinned: {mac: '02:00:00:00:00:08', ip: 10.0.0.8}
groups:
  line: [plc, pinned, 10.9.9.9]
rules:
  - {name: never, from: plc, to: any, service: tcp/22, action: deny}
  - {name: work, from: any, to: line, service: tcp/502, action: allow}
  - {name: report, from: plc, to: any, service: tcp/443, action: allow}
";

    fn bound(all: &[(Mac, [u8; 4], &[Link])]) -> Arc<Bindings> {
        let mut by_mac: BTreeMap<Mac, Vec<BoundAddress>> = BTreeMap::new();
        for &(mac, address, links) in all {
            let (address, links) = (address.into(), links.into());
            let namesakes = all.iter().filter(|one| IpAddr::from(one.1) == address && one.0 != mac);
            let of_one = |one: &(Mac, [u8; 4], &[Link])| (one.2[0], one.0);
            let namesakes = namesakes.map(of_one).collect();
            by_mac.entry(mac).or_default().push(BoundAddress { address, links, namesakes });
        }
        Arc::new(Bindings::new(by_mac, HashMap::new()))
    }

    fn syn(link: Link, src: (Mac, [u8; 4]), dst: (Mac, [u8; 4]), port: u16) -> Headers {
        Headers {
            src: u128::from(u32::from_be_bytes(src.1)),
            dst: u128::from(u32::from_be_bytes(dst.1)),
            src_port: 40_000,
            dst_port: port,
            ether_type: ETHER_IPV4,
            protocol: protocol::TCP,
            wire: link.wire,
            tags: link.tags,
            src_mac: src.0,
            dst_mac: dst.0,
        }
    }

    /// The deciding rule, on which the oracle and a classifier that followed every change agree.
    struct Judged {
        policy: Policy,
        compiler: Compiler,
    }

    impl Judged {
        fn new() -> Self {
            Self::of(POLICY)
        }

        fn of(text: &str) -> Self {
            let policy = Policy::parse(text).unwrap_or_else(|errors| panic!("{errors:?}"));
            let compiler = Compiler::new(&policy, &Limits::default()).expect("it compiles");
            Self { policy, compiler }
        }

        fn bind(&mut self, bindings: &Arc<Bindings>) -> usize {
            let (policy, delta) = self.policy.bound(bindings);
            self.compiler.edit(&policy, &delta).expect("it compiles");
            self.policy = policy;
            delta.endpoints.len()
        }

        fn rule(&mut self, headers: &Headers) -> &str {
            let mut found = [RuleId::DEFAULT];
            let (headers, mut scratch) = ([*headers], Scratch::default());
            self.compiler.publish().classify(&headers, NOW, &mut scratch, &mut found);
            assert_eq!(found[0], oracle::classify(&self.policy, &headers[0], NOW));
            self.policy.rule_name(found[0])
        }
    }

    const HMI: (Mac, [u8; 4]) = (Mac([2, 0, 0, 0, 0, 9]), [10, 20, 0, 1]);

    #[test]
    fn a_bound_address_stands_for_its_device_beyond_its_links_as_a_destination_only() {
        let mut judged = Judged::new();
        let to_plc = |link, mac, last| syn(link, HMI, (mac, [10, 0, 0, last]), 502);
        assert_eq!(judged.rule(&to_plc(OFFICE, ROUTER, 7)), "default");
        assert_eq!(judged.rule(&to_plc(CELL, PLC, 7)), "work");
        assert_eq!(judged.bind(&bound(&[(PLC, [10, 0, 0, 7], &[CELL])])), 2);
        assert_eq!(judged.rule(&to_plc(OFFICE, ROUTER, 7)), "work");
        assert_eq!(judged.rule(&to_plc(CELL, PLC, 7)), "work");
        assert_eq!(judged.rule(&to_plc(CELL, ROUTER, 7)), "default", "on its own link");
        assert_eq!(judged.rule(&to_plc(OFFICE, ROUTER, 6)), "default");
        // Anybody can write its address into a packet as the source.
        let forged = syn(OFFICE, (ROUTER, [10, 0, 0, 7]), HMI, 443);
        assert_eq!(judged.rule(&forged), "default");
        // A move takes the old address away and brings the new one.
        judged.bind(&bound(&[(PLC, [10, 0, 0, 99], &[CELL])]));
        assert_eq!(judged.rule(&to_plc(OFFICE, ROUTER, 7)), "default");
        assert_eq!(judged.rule(&to_plc(OFFICE, ROUTER, 99)), "work");
        judged.bind(&Arc::default());
        assert_eq!(judged.rule(&to_plc(OFFICE, ROUTER, 99)), "default");
    }

    #[test]
    fn a_device_does_not_shake_off_a_rule_by_taking_another_address() {
        let mut judged = Judged::new();
        judged.bind(&bound(&[(PLC, [10, 0, 0, 7], &[CELL])]));
        for source in [[10, 0, 0, 7], [10, 0, 0, 66]] {
            assert_eq!(judged.rule(&syn(CELL, (PLC, source), HMI, 22)), "never");
        }
    }

    #[test]
    fn a_device_with_addresses_has_those_of_its_bound_ones_that_are_among_them() {
        let pinned = Mac([2, 0, 0, 0, 0, 8]);
        let mut judged = Judged::new();
        let both = [(pinned, [10, 0, 0, 8], &[CELL][..]), (pinned, [10, 0, 0, 66], &[CELL])];
        assert_eq!(judged.bind(&bound(&both)), 1);
        let to = |last| syn(OFFICE, HMI, (ROUTER, [10, 0, 0, last]), 502);
        assert_eq!(judged.rule(&to(8)), "work");
        assert_eq!(judged.rule(&to(66)), "default");
    }

    #[test]
    fn edits_of_members_keep_what_is_bound() {
        let bindings = bound(&[(PLC, [10, 0, 0, 7], &[CELL])]);
        let (policy, _) = Policy::parse(POLICY).unwrap().bound(&bindings);
        let group = Arc::from("line");
        let edit = Edit::AddMember { group, member: Member::Mac(ROUTER) };
        let (edited, _) = policy.edited(&edit).unwrap_or_else(|errors| panic!("{errors:?}"));
        let to_plc = syn(OFFICE, HMI, (ROUTER, [10, 0, 0, 7]), 502);
        assert_eq!(edited.rule_name(oracle::classify(&edited, &to_plc, NOW)), "work");
        assert_eq!(edited.bindings(), &bindings);
        let both = [(PLC, [10, 0, 0, 7], &[CELL][..]), (ROUTER, [10, 0, 0, 1], &[CELL])];
        let (edited, delta) = edited.bound(&bound(&both));
        assert_eq!(delta.endpoints.len(), 1, "only the group has the new member");
        let to_router = syn(OFFICE, HMI, (PLC, [10, 0, 0, 1]), 502);
        assert_eq!(edited.rule_name(oracle::classify(&edited, &to_router, NOW)), "work");
    }

    const WITH_EXCEPTIONS: &str = "
version: 1
devices:
  plc: {mac: '02:00:00:00:00:07'}
  pinned: {mac: '02:00:00:00:00:08', ip: 10.0.0.8}
groups:
  others: {in: [10.0.0.0/8, 'fd00::/8'], except: [plc, pinned]}
rules:
  - {name: work, from: any, to: others, service: tcp/502, action: allow}
  - {name: report, from: {in: any, except: [plc]}, to: any, service: tcp/443, action: allow}
";

    #[test]
    fn an_exception_leaves_a_device_out_at_its_bound_addresses_on_every_link() {
        let mut judged = Judged::of(WITH_EXCEPTIONS);
        let to = |link, mac, last| syn(link, HMI, (mac, [10, 0, 0, last]), 502);
        assert_eq!(judged.rule(&to(OFFICE, ROUTER, 7)), "work", "nobody knows whose it is");
        assert_eq!(judged.rule(&to(CELL, PLC, 7)), "default");
        assert_eq!(judged.bind(&bound(&[(PLC, [10, 0, 0, 7], &[CELL])])), 2);
        for link in [OFFICE, CELL] {
            assert_eq!(judged.rule(&to(link, ROUTER, 7)), "default");
            assert_eq!(judged.rule(&to(link, ROUTER, 6)), "work");
        }
        // Anybody can write the device's address into a packet as the source.
        let forged = syn(OFFICE, (ROUTER, [10, 0, 0, 7]), HMI, 443);
        assert_eq!(judged.rule(&forged), "report");
        // A claim on another link makes the address that host's, not the router's.
        judged.bind(&bound(&[
            (PLC, [10, 0, 0, 7], &[CELL, OFFICE]),
            (HMI.0, [10, 0, 0, 7], &[OFFICE]),
        ]));
        assert_eq!(judged.rule(&to(OFFICE, ROUTER, 7)), "default");
        assert_eq!(judged.rule(&to(OFFICE, HMI.0, 7)), "work");
        assert_eq!(judged.rule(&to(CELL, HMI.0, 7)), "default");
        // It is left out where it goes, and nowhere else.
        judged.bind(&bound(&[(PLC, [10, 0, 0, 99], &[CELL])]));
        assert_eq!(judged.rule(&to(OFFICE, ROUTER, 7)), "work");
        assert_eq!(judged.rule(&to(OFFICE, ROUTER, 99)), "default");
        judged.bind(&Arc::default());
        assert_eq!(judged.rule(&to(OFFICE, ROUTER, 99)), "work");
    }

    #[test]
    fn an_exception_of_a_device_with_addresses_is_of_those() {
        let pinned = Mac([2, 0, 0, 0, 0, 8]);
        let mut judged = Judged::of(WITH_EXCEPTIONS);
        let both = [(pinned, [10, 0, 0, 8], &[CELL][..]), (pinned, [10, 0, 0, 66], &[CELL])];
        judged.bind(&bound(&both));
        let to = |last| syn(OFFICE, HMI, (ROUTER, [10, 0, 0, last]), 502);
        assert_eq!(judged.rule(&to(8)), "default");
        assert_eq!(judged.rule(&to(66)), "work");
    }

    #[test]
    fn edits_of_members_keep_what_is_left_out() {
        let bindings = bound(&[(PLC, [10, 0, 0, 7], &[CELL])]);
        let (policy, _) = Policy::parse(WITH_EXCEPTIONS).unwrap().bound(&bindings);
        let group = Arc::from("others");
        let edit = Edit::AddMember { group, member: Member::Mac(ROUTER) };
        let (edited, _) = policy.edited(&edit).unwrap_or_else(|errors| panic!("{errors:?}"));
        let to_plc = syn(OFFICE, HMI, (Mac([2, 0, 0, 0, 0, 2]), [10, 0, 0, 7]), 502);
        assert_eq!(edited.rule_name(oracle::classify(&edited, &to_plc, NOW)), "default");
    }

    #[test]
    fn what_no_router_forwards_is_the_hosts_of_the_link() {
        let mut judged = Judged::of(&WITH_EXCEPTIONS.replace("10.0.0.0/8", "169.254.0.0/16"));
        judged.bind(&bound(&[(PLC, [169, 254, 0, 7], &[CELL])]));
        let to = |mac| syn(OFFICE, HMI, (mac, [169, 254, 0, 7]), 502);
        assert_eq!(judged.rule(&to(ROUTER)), "work");
        assert_eq!(judged.rule(&to(PLC)), "default");
        let mut judged = Judged::new();
        judged.bind(&bound(&[(PLC, [169, 254, 0, 7], &[CELL])]));
        assert_eq!(judged.rule(&to(ROUTER)), "default");
    }

    #[test]
    fn an_exception_names_its_device() {
        let text = POLICY.replace("[plc, pinned, 10.9.9.9]", "{in: [10.0.0.0/8], except: [plc]}");
        let policy = Policy::parse(&text.replace("from: plc, ", "from: pinned, ")).unwrap();
        assert!(policy.named_macs().contains(&PLC));
    }
}
