//! A frame on its way, with what the world knows of it.

use super::port::Place;

/// Why a frame was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// A host does its work.
    Honest,
    /// An attacker who knows addresses and ports of a connection, but is far off its window.
    Blind,
    /// Any other attacker.
    Hostile,
}

/// Who sent a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sender {
    pub(super) origin: Origin,
    /// The conversation that it belongs to: its place among all, and its number.
    pub(super) talk: Option<(usize, u64)>,
}

impl Sender {
    pub(super) const HOSTILE: Self = Self { origin: Origin::Hostile, talk: None };
    pub(super) const BLIND: Self = Self { origin: Origin::Blind, talk: None };
}

/// A frame on its way to or from the gateway.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) sender: Sender,
    /// The port of the gateway to which it goes, or from which it comes.
    pub(super) place: Place,
    pub(super) bytes: Vec<u8>,
    /// Whether the network has changed a bit of it or cut it.
    pub(super) is_damaged: bool,
}

impl InFlight {
    pub(super) fn new(sender: Sender, place: Place, bytes: Vec<u8>) -> Self {
        Self { sender, place, bytes, is_damaged: false }
    }
}
