//! What carries a wire's frames while no gateway does: a filter on the ingress of each port that sends
//! every frame out of the other one, in the kernel.
//!
//! It sits below bridges, addresses and the host's firewall: every frame crosses, link-local control,
//! VLAN tags and all, nothing is learnt, and the host neither sees nor answers anything. It hears of no
//! process, so it stays when whoever put it there ends; and frames that an XDP program or nobody takes
//! reach it, so at most one of it and a gateway over AF_XDP carries a frame. A gateway over AF_PACKET
//! gets copies of what it carries, and discards them until it is gone: see [`crate::Device::start`].

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption,
    TcActionOption, TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader,
    TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32OptionFlags, TcU32Selector,
    TcU32SelectorFlags,
};

use super::found::Found;
use super::netlink::{Link, Rtnetlink};
use super::sys::{Ethtool, Offload};
use super::{claim_index, clear_leftovers};
use crate::error::{Error, ErrorKind, Result};

/// The priority of our filters, which is how they are known: before those of anybody else.
const PRIORITY: u32 = 1;

/// The same for the kernel: priority, and every protocol (`ETH_P_ALL`, in network order).
const INFO: u32 = (PRIORITY << 16) | (3_u16.to_be() as u32);

/// The hook that filters for received frames hang on, and its counterpart.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_INGRESS };
const EGRESS: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_EGRESS };

/// Lets the kernel carry every frame of up to `mtu` bytes between two interfaces, both ways, and raises them.
/// Does nothing where it does already. Returns what was put right on the way, in sentences for the log.
///
/// # Errors
///
/// [`ErrorKind::InUse`] where a gateway has one of the interfaces; otherwise an interface does not
/// exist, or the kernel refuses.
pub fn engage(inside: &str, outside: &str, mtu: u16) -> Result<Vec<String>> {
    let mut rtnetlink = connect()?;
    let mut notes = Vec::new();
    let mut links = [link_of(&mut rtnetlink, inside)?, link_of(&mut rtnetlink, outside)?];
    // Held until all is in place: two bypasses, or a bypass and a gateway, must not cross.
    let _claims = [
        claim_index(links[0].index).map_err(|error| error.on(inside))?,
        claim_index(links[1].index).map_err(|error| error.on(outside))?,
    ];
    for (from, to, name) in [(0, 1, inside), (1, 0, outside)] {
        prepare(&mut rtnetlink, &links[from], mtu, &mut notes)
            .and_then(|()| redirect(&mut rtnetlink, links[from].index, links[to].index))
            .map_err(|error| error.on(name))?;
    }
    // Last: a program whose process is gone lets frames through to the filters, mostly.
    for (link, name) in links.iter_mut().zip([inside, outside]) {
        let found = std::mem::take(link);
        clear_leftovers(&mut rtnetlink, found, &mut notes).map_err(|error| error.on(name))?;
        // Which may have cleared it.
        rtnetlink
            .link_by_name(name)
            .and_then(|link| rtnetlink.set_promiscuous_flag(link.index, true))
            .map_err(|error| Error::kernel("RTM_SETLINK(IFF_PROMISC)", &error).on(name))?;
    }
    Ok(notes)
}

/// The first part of [`engage`], for interfaces of a process of which no thread is left, but whose sockets
/// the kernel may still be closing: frames pass as soon as it has. To be followed by [`engage`].
///
/// # Errors
///
/// An interface does not exist, or the kernel refuses.
pub fn begin(inside: &str, outside: &str) -> Result<()> {
    let mut rtnetlink = connect()?;
    let links = [link_of(&mut rtnetlink, inside)?, link_of(&mut rtnetlink, outside)?];
    for (from, to, name) in [(0, 1, inside), (1, 0, outside)] {
        redirect(&mut rtnetlink, links[from].index, links[to].index)
            .map_err(|error| error.on(name))?;
        rtnetlink
            .set_promiscuous_flag(links[from].index, true)
            .map_err(|error| Error::kernel("RTM_SETLINK(IFF_PROMISC)", &error).on(name))?;
    }
    Ok(())
}

/// Ends what [`engage`] began at an interface. Returns whether it was so.
///
/// # Errors
///
/// The interface does not exist, or the kernel refuses.
pub fn release(interface: &str) -> Result<bool> {
    let mut rtnetlink = connect()?;
    let link = link_of(&mut rtnetlink, interface)?;
    let refused = |call, error: io::Error| Error::kernel(call, &error).on(interface);
    if !has_filter(&mut rtnetlink, link.index, INGRESS, true)
        .map_err(|error| refused("RTM_GETTFILTER", error))?
    {
        return Ok(false);
    }
    rtnetlink
        .ask(RouteNetlinkMessage::DelTrafficFilter(ours(link.index)), NLM_F_ACK)
        .map_err(|error| refused("RTM_DELTFILTER", error))?;
    // The hook goes too, unless others have filters there. Where that cannot be seen or done it stays:
    // an empty hook does nothing.
    let mut others = |parent| has_filter(&mut rtnetlink, link.index, parent, false).unwrap_or(true);
    if !others(INGRESS) && !others(EGRESS) {
        let _ = rtnetlink.ask(RouteNetlinkMessage::DelQueueDiscipline(hook(link.index)), NLM_F_ACK);
    }
    rtnetlink
        .set_promiscuous_flag(link.index, false)
        .map_err(|error| refused("RTM_SETLINK(IFF_PROMISC)", error))?;
    Ok(true)
}

/// Puts interfaces back as they were found, if it is written down how, but for those that a gateway has or that
/// `kept` names. Those that are bypassed are let be, or released first where `bypassed_too`. Returns which.
pub fn put_back(kept: &[String], bypassed_too: bool) -> Vec<String> {
    let (Ok(mut rtnetlink), Ok(ethtool)) = (connect(), Ethtool::new()) else { return Vec::new() };
    let mut done = Vec::new();
    for found in Found::all(&mut rtnetlink) {
        let name = found.name();
        if kept.iter().any(|kept| kept == name) {
            continue;
        }
        let Ok(link) = rtnetlink.link_by_name(name) else { continue };
        let Ok(_claim) = claim_index(link.index) else { continue };
        let is_bypassed = match bypassed_too {
            true => release(name).is_err(),
            false => is_engaged(name).unwrap_or(true),
        };
        if !is_bypassed && super::refuse_unfit(&mut rtnetlink, &link).is_err() {
            // The host has it by now: it was found otherwise, and taking it down could cut whoever reads this.
            found.forget();
        } else if !is_bypassed {
            found.put_back(&mut rtnetlink, &ethtool);
            done.push(name.to_owned());
        }
    }
    done
}

/// Ends what [`engage`] began at interfaces that are none of `own` and lead to one of these: whoever is plugged in
/// there would come out of a port that a gateway guards. The dead may have left it under another configuration, and
/// the interface may have another name since. Those that a gateway has are let be. Returns which were not.
///
/// # Errors
///
/// The kernel does not list its interfaces, or does not let go of one: frames may pass unjudged.
pub fn release_strays(own: &[String]) -> Result<Vec<String>> {
    if own.is_empty() {
        // Nothing leads to where the kernel has no interface, and a gateway of PCI ports alone may not ask it.
        return Ok(Vec::new());
    }
    let mut rtnetlink = connect()?;
    let links = rtnetlink.links().map_err(|error| Error::kernel("RTM_GETLINK", &error))?;
    let (ours, others): (Vec<Link>, Vec<Link>) =
        links.into_iter().partition(|link| own.contains(&link.name));
    let mut released = Vec::new();
    for link in others {
        let target = filter_of(&mut rtnetlink, link.index).ok().flatten().flatten();
        if !ours.iter().any(|our| Some(our.index) == target) {
            continue;
        }
        let Ok(_claim) = claim_index(link.index) else { continue };
        match release(&link.name) {
            Ok(true) => released.push(link.name),
            Ok(false) => {}
            // It has gone since.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(released)
}

/// Whether the kernel carries what an interface receives to the other port of its wire.
///
/// # Errors
///
/// The interface does not exist, or the kernel does not say.
pub fn is_engaged(interface: &str) -> Result<bool> {
    let mut rtnetlink = connect()?;
    let link = link_of(&mut rtnetlink, interface)?;
    has_filter(&mut rtnetlink, link.index, INGRESS, true)
        .map_err(|error| Error::kernel("RTM_GETTFILTER", &error).on(interface))
}

fn connect() -> Result<Rtnetlink> {
    Rtnetlink::new().map_err(|error| Error::kernel("socket(NETLINK_ROUTE)", &error))
}

pub(super) fn link_of(rtnetlink: &mut Rtnetlink, name: &str) -> Result<Link> {
    rtnetlink.link_by_name(name).map_err(|error| {
        let refused = Error::kernel("RTM_GETLINK", &error).on(name);
        match error.raw_os_error() {
            Some(libc::ENODEV) => refused.because(
                ErrorKind::NotFound,
                "there is no such interface in this network namespace",
                "`ip link` lists the interfaces",
            ),
            _ => refused,
        }
    })
}

/// Makes an interface one that may carry others' frames: up, quiet, nothing merged that cannot be
/// taken apart again.
fn prepare(
    rtnetlink: &mut Rtnetlink,
    link: &Link,
    mtu: u16,
    notes: &mut Vec<String>,
) -> Result<()> {
    super::refuse_unfit(rtnetlink, link)?;
    let mut found = Found::of(link);
    notes.extend(found.note(|_| ()));
    notes.extend(super::quiet_ipv6(&mut found));
    if let Ok(ethtool) = Ethtool::new() {
        if ethtool.offload(&link.name, Offload::Lro) == Some(true) {
            notes.extend(found.note(|found| {
                if !found.offloads.contains(&Offload::Lro) {
                    found.offloads.push(Offload::Lro);
                }
            }));
            if let Err(error) = ethtool.set_offload(&link.name, Offload::Lro, false) {
                notes.push(format!("LRO of {} cannot be turned off: {error}", link.name));
            }
        }
    }
    if link.mtu < u32::from(mtu) {
        if let Err(error) = rtnetlink.set_mtu(link.index, u32::from(mtu)) {
            let (name, own) = (&link.name, link.mtu);
            notes.push(format!("{name} keeps its MTU of {own}, longer frames are lost: {error}"));
        }
    }
    if !link.up {
        rtnetlink
            .set_up(link.index, true)
            .map_err(|error| Error::kernel("RTM_SETLINK(IFF_UP)", &error))?;
    }
    Ok(())
}

fn redirect(rtnetlink: &mut Rtnetlink, from: u32, to: u32) -> Result<()> {
    let refused = |call, error: io::Error| Error::kernel(call, &error);
    match filter_of(rtnetlink, from).map_err(|error| refused("RTM_GETTFILTER", error))? {
        None => {}
        Some(Some(target)) if target != to => {
            // Of a configuration that named another port, or of an interface that has gone and come back.
            let delete = RouteNetlinkMessage::DelTrafficFilter(ours(from));
            rtnetlink.ask(delete, NLM_F_ACK).map_err(|error| refused("RTM_DELTFILTER", error))?;
        }
        Some(_) => return Ok(()),
    }
    let made = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    match rtnetlink.ask(RouteNetlinkMessage::NewQueueDiscipline(hook(from)), made) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
            return Err(refused("RTM_NEWQDISC(clsact)", error).because(
                ErrorKind::Unsupported,
                "the kernel cannot filter what the interface receives",
                "the kernel needs sch_ingress, cls_u32 and act_mirred (`modprobe`); Debian's has them",
            ));
        }
        _ => {}
    }
    rtnetlink.ask(RouteNetlinkMessage::NewTrafficFilter(filter(from, to)), made).map_err(|error| {
        refused("RTM_NEWTFILTER", error).because(
            ErrorKind::Unsupported,
            "the kernel cannot redirect what the interface receives",
            "the kernel needs cls_u32 and act_mirred (`modprobe`), and no filter of priority 1",
        )
    })
}

/// The hook that filters of received and of sent frames hang on.
fn hook(index: u32) -> TcMessage {
    let header = TcHeader {
        index: index as i32,
        handle: TcHandle { major: 0xffff, minor: 0 },
        parent: TcHandle::CLSACT,
        ..TcHeader::default()
    };
    TcMessage::from_parts(header, vec![TcAttribute::Kind("clsact".to_owned())])
}

/// Every frame that one interface receives goes out of another.
fn filter(from: u32, to: u32) -> TcMessage {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    (mirror.generic, mirror.eaction, mirror.ifindex) =
        (generic, TcMirrorActionType::EgressRedir, to);
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    // A selector without keys matches everything, however short.
    let mut every = TcU32Selector::default();
    every.flags = TcU32SelectorFlags::Terminal;
    let options = vec![
        TcOption::U32(TcFilterU32Option::Selector(every)),
        TcOption::U32(TcFilterU32Option::Action(vec![action])),
        TcOption::U32(TcFilterU32Option::Flags(TcU32OptionFlags::SkipHw)),
    ];
    let header =
        TcHeader { index: from as i32, parent: INGRESS, info: INFO, ..TcHeader::default() };
    TcMessage::from_parts(
        header,
        vec![TcAttribute::Kind(TcFilterU32::KIND.to_owned()), TcAttribute::Options(options)],
    )
}

/// What deletes our filters at an interface.
fn ours(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    (message.header.parent, message.header.info) = (INGRESS, INFO);
    message
}

/// Our filter at an interface, by where it sends frames, as far as the kernel says that.
fn filter_of(rtnetlink: &mut Rtnetlink, index: u32) -> io::Result<Option<Option<u32>>> {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = INGRESS;
    let mut found: Option<Option<u32>> = None;
    rtnetlink.exchange(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP, |reply| {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = reply else { return };
        let is_u32 =
            |one: &TcAttribute| matches!(one, TcAttribute::Kind(kind) if kind == TcFilterU32::KIND);
        if filter.header.info == INFO && filter.attributes.iter().any(is_u32) {
            // A filter comes as several parts, of which one has the action.
            found = Some(found.flatten().or_else(|| target_of(&filter)));
        }
    })?;
    Ok(found)
}

fn target_of(filter: &TcMessage) -> Option<u32> {
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let actions = options.iter().find_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    })?;
    let parts = actions.iter().flat_map(|action| &action.attributes);
    let mut options = parts.filter_map(|part| match part {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.find_map(|options| {
        options.iter().find_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
            _ => None,
        })
    })
}

/// Whether there is a filter: one of ours, or any other.
fn has_filter(
    rtnetlink: &mut Rtnetlink,
    index: u32,
    parent: TcHandle,
    ours: bool,
) -> io::Result<bool> {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = parent;
    let mut found = false;
    let asked = RouteNetlinkMessage::GetTrafficFilter(message);
    rtnetlink.exchange(asked, NLM_F_DUMP, |reply| {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = reply {
            let is_u32 = filter.attributes.iter().any(
                |attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == TcFilterU32::KIND),
            );
            found |= (is_u32 && filter.header.info == INFO) == ours;
        }
    })?;
    Ok(found)
}
