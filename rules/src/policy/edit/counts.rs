//! Plain host sets, of addresses of both families and of frames that are not IP, as they are edited.

use std::sync::Arc;

use super::cover::Cover;
use crate::policy::boxes::Union;
use crate::policy::{EndpointBox, EndpointChange, EndpointId};
use crate::sets::{AddrSet, FiniteSet, RangeSet, VlanSet};

/// A part of a plain host set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// IPv4 addresses, first and last.
    V4(u32, u32),
    /// IPv6 addresses, first and last.
    V6(u128, u128),
    /// Frames that are not IP.
    NonIp,
}

/// Something that enters or leaves a host set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Move {
    pub(super) piece: Piece,
    pub(super) enters: bool,
}

/// How many members of a list hold what.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    v4: Cover<u32>,
    v6: Cover<u128>,
    non_ip: u32,
}

impl Counts {
    /// The counts of all pieces.
    pub(super) fn of(pieces: &[Piece]) -> Self {
        let (mut v4, mut v6, mut non_ip) = (Vec::new(), Vec::new(), 0);
        for piece in pieces {
            match *piece {
                Piece::V4(low, high) => v4.push((low, high)),
                Piece::V6(low, high) => v6.push((low, high)),
                Piece::NonIp => non_ip += 1,
            }
        }
        Self { v4: Cover::of(&v4), v6: Cover::of(&v6), non_ip }
    }

    /// The union of all members.
    pub(super) fn union(&self) -> AddrSet {
        AddrSet { v4: self.v4.union(), v6: self.v6.union(), non_ip: self.non_ip > 0 }
    }

    /// The union as the one box of an endpoint.
    pub(super) fn plain_box(&self) -> EndpointBox {
        plain(self.union())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.ranges() == 0 && self.v6.ranges() == 0 && self.non_ip == 0
    }

    /// What handling the union costs, as [`crate::policy::boxes::weight`] says of its box.
    pub(super) fn weight(&self) -> usize {
        1 + self.v4.ranges() + self.v6.ranges()
    }

    /// Counts a piece once more, or once less. Returns what thereby entered or left the union.
    pub(super) fn change(&mut self, Move { piece, enters }: Move) -> Vec<Move> {
        let moved = |piece| Move { piece, enters };
        match piece {
            Piece::V4(low, high) => {
                let changed = self.v4.change((low, high), enters).into_iter();
                changed.map(|(low, high)| moved(Piece::V4(low, high))).collect()
            }
            Piece::V6(low, high) => {
                let changed = self.v6.change((low, high), enters).into_iter();
                changed.map(|(low, high)| moved(Piece::V6(low, high))).collect()
            }
            Piece::NonIp => {
                let before = self.non_ip > 0;
                let count = self.non_ip;
                self.non_ip = if enters { count + 1 } else { count.saturating_sub(1) };
                Vec::from_iter((before != (self.non_ip > 0)).then(|| moved(Piece::NonIp)))
            }
        }
    }

    /// What of the piece is in the union.
    pub(super) fn held(&self, piece: Piece) -> Vec<Piece> {
        match piece {
            Piece::V4(low, high) => pieces_v4(self.v4.held(low, high)),
            Piece::V6(low, high) => pieces_v6(self.v6.held(low, high)),
            Piece::NonIp => Vec::from_iter((self.non_ip > 0).then_some(piece)),
        }
    }

    /// What of the piece is not in the union.
    pub(super) fn free(&self, piece: Piece) -> Vec<Piece> {
        match piece {
            Piece::V4(low, high) => pieces_v4(self.v4.free(low, high)),
            Piece::V6(low, high) => pieces_v6(self.v6.free(low, high)),
            Piece::NonIp => Vec::from_iter((self.non_ip == 0).then_some(piece)),
        }
    }

    /// The union in pieces.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        pieces(&self.union())
    }

    /// The union, of which `before` is what it was before `moves`; and where they moved anything.
    pub(super) fn after(
        &self,
        before: &AddrSet,
        moves: &[Move],
        endpoint: EndpointId,
    ) -> (AddrSet, EndpointChange) {
        let (mut v4, mut v6, mut non_ip) = (Vec::new(), Vec::new(), false);
        for moved in moves {
            match moved.piece {
                Piece::V4(low, high) => v4.push((low, high)),
                Piece::V6(low, high) => v6.push((low, high)),
                Piece::NonIp => non_ip = true,
            }
        }
        let (v4, v6) = (RangeSet::<u32>::from_ranges(v4), RangeSet::<u128>::from_ranges(v6));
        let inside_v4 = v4.ranges().iter().flat_map(|&(low, high)| self.v4.held(low, high));
        let inside_v6 = v6.ranges().iter().flat_map(|&(low, high)| self.v6.held(low, high));
        let after = AddrSet {
            v4: before.v4.replaced(&v4, &RangeSet::<u32>::from_ranges(inside_v4)),
            v6: before.v6.replaced(&v6, &RangeSet::<u128>::from_ranges(inside_v6)),
            non_ip: self.non_ip > 0,
        };
        (after, EndpointChange { endpoint, v4, v6, non_ip, other: false })
    }
}

/// The addresses as an endpoint's box.
pub(super) fn plain(addrs: AddrSet) -> EndpointBox {
    EndpointBox {
        addrs,
        macs: FiniteSet::any(),
        vlans: VlanSet::any(),
        beyond: None,
        except_bound: Arc::default(),
    }
}

/// A set of addresses in pieces.
pub(super) fn pieces(addrs: &AddrSet) -> Vec<Piece> {
    let v4 = addrs.v4.ranges().iter().map(|&(low, high)| Piece::V4(low, high));
    let v6 = addrs.v6.ranges().iter().map(|&(low, high)| Piece::V6(low, high));
    v4.chain(v6).chain(addrs.non_ip.then_some(Piece::NonIp)).collect()
}

/// The addresses that a union holds so far.
pub(super) fn plain_pieces(union: &Union) -> Vec<Piece> {
    let v4 = union.v4.iter().map(|&(low, high)| Piece::V4(low, high));
    let v6 = union.v6.iter().map(|&(low, high)| Piece::V6(low, high));
    v4.chain(v6).chain(union.non_ip.then_some(Piece::NonIp)).collect()
}

fn pieces_v4(ranges: Vec<(u32, u32)>) -> Vec<Piece> {
    ranges.into_iter().map(|(low, high)| Piece::V4(low, high)).collect()
}

fn pieces_v6(ranges: Vec<(u128, u128)>) -> Vec<Piece> {
    ranges.into_iter().map(|(low, high)| Piece::V6(low, high)).collect()
}
