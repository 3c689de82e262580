//! What the stages know of the frames of one burst, column by column.

use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::RuleId;

use crate::observe::{ByFate, Fate};
use crate::parse::{Parsed, Tunnels, enter_tunnel, parse_into};
use crate::port::{Burst, Frame, MAX_BURST};
use crate::verdict::Verdict;

/// One place for each frame of a burst, in the order of arrival. Allocated once for each worker.
#[derive(Debug)]
pub struct Columns {
    /// What the parser learnt; where the verdict is a drop of the parser's, the fields of the layers
    /// before the one that failed.
    pub parsed: [Parsed; MAX_BURST],
    /// The frame's length in bytes.
    pub len: [u32; MAX_BURST],
    /// What becomes of the frame.
    pub verdict: [Verdict; MAX_BURST],
    /// The rule that opened or forbade a flow with this frame; none for a frame that rides a flow.
    pub decided_by: [Option<RuleId>; MAX_BURST],
    /// How many places are in use.
    pub count: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            parsed: [Parsed::default(); MAX_BURST],
            len: [0; MAX_BURST],
            verdict: [Verdict::UNDECIDED; MAX_BURST],
            decided_by: [None; MAX_BURST],
            count: 0,
        }
    }
}

impl Columns {
    /// Parses a burst that came on `wire`, and of packets of `tunnels` what they carry. Afterwards a
    /// verdict is [`Verdict::UNDECIDED`] where the frame parsed, and the parser's drop reason where it did not.
    #[inline(never)]
    pub fn parse<F: Frame>(&mut self, burst: &Burst<F>, wire: WireId, tunnels: Option<&Tunnels>) {
        self.count = burst.len();
        for (place, frame) in burst.iter().enumerate() {
            let bytes = frame.bytes();
            self.len[place] = bytes.len() as u32;
            self.decided_by[place] = None;
            self.verdict[place] = match parse_into(bytes, wire, F::ORIGIN, &mut self.parsed[place])
            {
                Ok(()) => Verdict::UNDECIDED,
                Err(reason) => Verdict::Drop(reason),
            };
        }
        if let Some(tunnels) = tunnels {
            self.enter_tunnels(burst, wire, tunnels);
        }
    }

    #[cold]
    fn enter_tunnels<F: Frame>(&mut self, burst: &Burst<F>, wire: WireId, tunnels: &Tunnels) {
        for (place, frame) in burst.iter().enumerate() {
            if self.is_undecided(place) {
                let parsed = &mut self.parsed[place];
                let entered = enter_tunnel(frame.bytes(), wire, F::ORIGIN, tunnels, parsed);
                if let Err(reason) = entered {
                    self.verdict[place] = Verdict::Drop(reason);
                }
            }
        }
    }

    /// Moves what is known of the frame in place `from` to the place `to`.
    pub(crate) fn shift(&mut self, from: usize, to: usize) {
        if from != to {
            self.parsed[to] = self.parsed[from];
            self.len[to] = self.len[from];
            self.verdict[to] = self.verdict[from];
            self.decided_by[to] = self.decided_by[from];
        }
    }

    /// Whether every frame passes by the flow that it belongs to, and none by a rule: so it is with
    /// nearly every burst.
    pub(crate) fn is_smooth(&self) -> bool {
        // Without a branch for each place, so that places are compared many at a time.
        let places = ..self.count;
        let passes = |all, verdict: &Verdict| all & (*verdict == Verdict::Forward);
        let rides = |all, rule: &Option<RuleId>| all & rule.is_none();
        self.verdict[places].iter().fold(true, passes)
            & self.decided_by[places].iter().fold(true, rides)
    }

    /// How many frames there are of each fate. `is_smooth` is [`Self::is_smooth`].
    pub(crate) fn by_fate(&self, is_smooth: bool) -> ByFate {
        let mut out = ByFate::default();
        if is_smooth {
            out[Fate::Forward as usize] = self.count as u64;
            return out;
        }
        for &verdict in &self.verdict[..self.count] {
            out[Fate::from(verdict) as usize] += 1;
        }
        out
    }

    /// Bytes of all frames together.
    pub(crate) fn bytes(&self) -> u64 {
        self.len[..self.count].iter().map(|&len| u64::from(len)).sum()
    }

    /// Whether the frame in this place parsed and waits for a verdict.
    pub fn is_undecided(&self, place: usize) -> bool {
        self.verdict[place] == Verdict::UNDECIDED
    }
}
