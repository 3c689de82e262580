//! What an edit changed, in terms that a flow can remember.
//!
//! A flow keeps the footprint under which it was judged. After an edit only flows whose footprint
//! the edit lists have to be judged again.

/// Footprints of either side are numbers below this: the low bits of the class, so that a table of
/// them all stays small.
pub const FOOTPRINTS: usize = 1 << 12;

/// Where in a policy a frame was judged: one number for its source and one for its destination.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Footprint {
    /// Of the source, below [`FOOTPRINTS`].
    pub src: u16,
    /// Of the destination, below [`FOOTPRINTS`].
    pub dst: u16,
}

impl Footprint {
    pub(crate) fn of_classes(src: u32, dst: u32) -> Self {
        let low_bits = |class: u32| (class as usize % FOOTPRINTS) as u16;
        Self { src: low_bits(src), dst: low_bits(dst) }
    }
}

/// The flows whose verdict an edit may have changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changes {
    /// All of them.
    Everything,
    /// Those whose footprint has a source in `src` or a destination in `dst`.
    Footprints {
        /// Footprints of sources.
        src: Vec<u16>,
        /// Footprints of destinations.
        dst: Vec<u16>,
    },
}
