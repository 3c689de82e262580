//! Questions and orders to the kernel about its interfaces, over rtnetlink.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// An interface as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Administratively up.
    pub(crate) up: bool,
    /// There is a carrier, and the interface is up.
    pub(crate) carrier: bool,
    pub(crate) loopback: bool,
    pub(crate) mtu: u32,
    pub(crate) max_mtu: u32,
    /// The bridge, bond or VRF that it belongs to.
    pub(crate) controller: Option<u32>,
    pub(crate) promiscuity: u32,
    /// A veth: one of two ends.
    pub(crate) veth: bool,
    /// The interface at the other end of a veth, where it is in this network namespace.
    pub(crate) peer: Option<u32>,
    /// Programs attached: their mode and number.
    pub(crate) xdp: Vec<(XdpMode, u32)>,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum XdpMode {
    Generic,
    Driver,
    Hardware,
}

/// A connection to rtnetlink in the network namespace of the thread that made it.
pub(crate) struct Rtnetlink {
    socket: Socket,
    sequence: u32,
}

impl Rtnetlink {
    pub(crate) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface called `name`; `ENODEV` where there is none.
    pub(crate) fn link_by_name(&mut self, name: &str) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link(message)
    }

    /// The interface with this index; `ENODEV` where there is none.
    pub(crate) fn link_by_index(&mut self, index: u32) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.link(message)
    }

    /// Every interface, but those of a kind that cannot be read: somebody's tunnel is no reason to stop.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut links = Vec::new();
        self.exchange_each(request, NLM_F_DUMP, |reply| {
            if let Ok(RouteNetlinkMessage::NewLink(message)) = reply {
                links.push(link_of(&message));
            }
            Ok(())
        })?;
        Ok(links)
    }

    /// The addresses of an interface, those of link scope (`fe80::/10`, `169.254/16`) excepted.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<String>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let mut found = Vec::new();
        self.exchange(request, NLM_F_DUMP, |reply| match reply {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                found.extend(
                    address_of(&message)
                        .filter(is_beyond_link)
                        .map(|address| format!("{address}/{}", message.header.prefix_len)),
                );
            }
            _ => {}
        })?;
        Ok(found)
    }

    /// Sets the interface administratively up or down.
    pub(crate) fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.set(message)
    }

    pub(crate) fn set_promiscuous_flag(&mut self, index: u32, on: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Promisc;
        message.header.flags = if on { LinkFlags::Promisc } else { LinkFlags::empty() };
        self.set(message)
    }

    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set(message)
    }

    /// Takes the XDP program of one mode off the interface.
    pub(crate) fn detach_xdp(&mut self, index: u32, mode: XdpMode) -> io::Result<()> {
        const NO_PROGRAM: i32 = -1;
        let flags = match mode {
            XdpMode::Generic => 1 << 1,
            XdpMode::Driver => 1 << 2,
            XdpMode::Hardware => 1 << 3,
        };
        let mut message = LinkMessage::default();
        message.header.index = index;
        let xdp = vec![LinkXdp::Fd(NO_PROGRAM), LinkXdp::Flags(flags)];
        message.attributes.push(LinkAttribute::Xdp(xdp));
        self.set(message)
    }

    fn link(&mut self, message: LinkMessage) -> io::Result<Link> {
        let mut found = None;
        self.exchange(RouteNetlinkMessage::GetLink(message), 0, |reply| {
            if let RouteNetlinkMessage::NewLink(message) = reply {
                found = Some(link_of(&message));
            }
        })?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn set(&mut self, message: LinkMessage) -> io::Result<()> {
        self.exchange(RouteNetlinkMessage::SetLink(message), NLM_F_ACK, |_| {})
    }

    /// Sends an order, whose only reply is whether it was carried out.
    pub(crate) fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(request, flags, |_| {})
    }

    /// Sends a request and hands every reply to it to `take`.
    pub(crate) fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.exchange_each(request, flags, |reply| {
            take(reply?);
            Ok(())
        })
    }

    /// The same with replies that cannot be read, which end it if `take` hands the error back.
    fn exchange_each(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(io::Result<RouteNetlinkMessage>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Ok(header) = NetlinkBuffer::new_checked(rest) {
                let length = (header.length() as usize).next_multiple_of(4).min(rest.len());
                if header.sequence_number() == self.sequence {
                    let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
                    match reply.map(|reply| reply.payload) {
                        Err(error) => {
                            take(Err(io::Error::new(io::ErrorKind::InvalidData, error)))?;
                        }
                        Ok(NetlinkPayload::Done(_)) => return Ok(()),
                        Ok(NetlinkPayload::Error(error)) if error.code.is_none() => return Ok(()),
                        Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                        Ok(NetlinkPayload::InnerMessage(inner)) => take(Ok(inner))?,
                        Ok(_) => {}
                    }
                    if flags == 0 {
                        return Ok(());
                    }
                }
                if length == 0 || length >= rest.len() {
                    break;
                }
                rest = &rest[length..];
            }
        }
    }
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    // On point-to-point links the own address is the local one.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn is_beyond_link(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    let (mut lower, mut elsewhere) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(info) => {
                link.veth = info.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::MaxMtu(mtu) => link.max_mtu = *mtu,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::Promiscuity(count) => link.promiscuity = *count,
            LinkAttribute::Xdp(xdp) => link.xdp = xdp_programs(xdp),
            _ => {}
        }
    }
    link.peer = lower.filter(|_| link.veth && !elsewhere);
    link
}

/// The programs in an interface's XDP attributes. With programs of several modes the kernel lists
/// each; with one it also gives the mode.
fn xdp_programs(attributes: &[LinkXdp]) -> Vec<(XdpMode, u32)> {
    let mut programs: Vec<_> = attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkXdp::SkbProgId(id) => Some((XdpMode::Generic, *id)),
            LinkXdp::DrvProgId(id) => Some((XdpMode::Driver, *id)),
            LinkXdp::HwProgId(id) => Some((XdpMode::Hardware, *id)),
            _ => None,
        })
        .collect();
    if programs.is_empty() {
        let mode = attributes.iter().find_map(|attribute| match attribute {
            LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
            LinkXdp::Attached(XdpAttached::Driver) => Some(XdpMode::Driver),
            LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpMode::Hardware),
            _ => None,
        });
        let id = attributes.iter().find_map(|attribute| match attribute {
            LinkXdp::ProgId(id) => Some(*id),
            _ => None,
        });
        programs.extend(mode.zip(id));
    }
    programs
}
