//! Size of an endpoint's partition of the flow table, and what follows from its fill.
//!
//! A partition begins small and grows while packets are judged. Its size is one word of the
//! endpoint's record, so that a program sees it as it was at one time.
//!
//! Growing is one store of that word. From then on new flows get their places by the greater
//! number of sets, and flows from before are looked for by the smaller one, too, until all of
//! them have been moved ([`grow`](super::grow)).

use super::Idle;

/// Sets, growth and shortening of a partition.
///
/// | bits | field |
/// |---|---|
/// | 0–23 | number of sets, a power of two, − 1 |
/// | 24–28 | while flows may lie in their places of before: how often the number has doubled |
/// | 29–31 | binary digits by which idle times are shortened, see [`Size::shorten`] |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size(pub u32);

const GROWTH_AT: u32 = 24;
const SHORTENING_AT: u32 = 29;
const SETS: u32 = (1 << GROWTH_AT) - 1;
const GROWTH: u32 = (1 << (SHORTENING_AT - GROWTH_AT)) - 1;

impl Size {
    /// That of a partition with so many sets, a power of two.
    pub const fn of(sets: u32) -> Self {
        Self(sets.wrapping_sub(1) & SETS)
    }

    /// Number of sets − 1.
    #[inline(always)]
    pub const fn mask(self) -> u32 {
        self.0 & SETS
    }

    /// Number of sets.
    pub const fn sets(self) -> u32 {
        self.mask() + 1
    }

    /// Returns how often the number of sets has doubled since flows got the places in which
    /// they may lie; 0 if all of them lie where they belong.
    #[inline(always)]
    pub const fn growth(self) -> u32 {
        self.0 >> GROWTH_AT & GROWTH
    }

    /// Number of sets − 1 by which places are chosen: that of now, or, with all bits of
    /// `earlier`, that of before the partition grew.
    #[inline(always)]
    pub(crate) const fn mask_by(self, earlier: u32) -> u32 {
        self.mask() >> (self.growth() & earlier)
    }

    /// The size after growing to so many sets, while flows lie where they lay.
    #[must_use]
    pub const fn grown(self, sets: u32) -> Self {
        let growth = sets.ilog2() - self.sets().ilog2();
        Self(Self::of(sets).0 | growth << GROWTH_AT | self.0 >> SHORTENING_AT << SHORTENING_AT)
    }

    /// The same size when all flows lie where they belong.
    #[must_use]
    pub const fn settled(self) -> Self {
        Self(self.0 & !(GROWTH << GROWTH_AT))
    }

    /// Binary digits by which idle times are shortened.
    #[inline(always)]
    pub const fn shortening(self) -> u32 {
        self.0 >> SHORTENING_AT
    }

    /// The same size with idle times shortened as `used` of `most` entries demand.
    #[must_use]
    pub const fn filled(self, used: u32, most: u32) -> Self {
        let others = (1 << SHORTENING_AT) - 1;
        Self(self.0 & others | shortening(used, most) << SHORTENING_AT)
    }

    /// The jiffies that a flow may be idle in this partition, of those that it may be at most.
    ///
    /// An established TCP connection may be idle as long as ever: it keeps its place until an
    /// opener with more than its share must make room.
    #[inline(always)]
    pub(crate) const fn shorten(self, idle: u32, kind: u32) -> u32 {
        // Without a branch, for the verifier's sake.
        let is_other = (Idle::TcpEstablished as u32).wrapping_sub(kind) >> 31;
        idle >> (self.shortening() & 0u32.wrapping_sub(is_other))
    }

    /// As [`Self::shorten`], for a flow of this kind.
    pub const fn shortened(self, idle: u32, kind: Idle) -> u32 {
        self.shorten(idle, kind as u32)
    }
}

/// Binary digits by which idle times are shortened where `used` of `most` entries are.
///
/// | entries in use | a flow may be idle |
/// |---|---|
/// | up to a half | as long as configured |
/// | up to five eighths | half of that |
/// | up to three quarters | a quarter |
/// | more | an eighth |
///
/// Never less than an eighth: at the configured closing time of 20 s, a connection that closes
/// keeps its place for 2 s whatever the fill.
pub const fn shortening(used: u32, most: u32) -> u32 {
    let eighths = used as u64 * 8;
    let most = most as u64;
    (eighths > most * 4) as u32 + (eighths > most * 5) as u32 + (eighths > most * 6) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_grows_knows_its_places_of_before() {
        let size = Size::of(512).filled(9, 16);
        let grown = size.grown(4096);
        assert_eq!((grown.sets(), grown.growth()), (4096, 3));
        assert_eq!((grown.mask_by(0), grown.mask_by(u32::MAX)), (4095, 511));
        assert_eq!(grown.shortening(), size.shortening());
        assert_eq!(grown.settled(), Size::of(4096).filled(9, 16));
        assert_eq!(grown.settled().mask_by(u32::MAX), 4095);
    }

    #[test]
    fn idle_times_never_lengthen_as_a_partition_fills() {
        let most = 16_384;
        let idle = |used, kind| Size::of(4096).filled(used, most).shortened(60_000, kind);
        for kind in Idle::ALL {
            for used in 0..most {
                assert!(idle(used + 1, kind) <= idle(used, kind), "{used} {kind:?}");
            }
        }
        let at = [8_192, 8_193, 10_240, 10_241, 12_288, 12_289, most];
        let times = at.map(|used| idle(used, Idle::Udp));
        assert_eq!(
            times,
            [60_000, 30_000, 30_000, 15_000, 15_000, 7_500, 7_500]
        );
        assert_eq!(idle(most, Idle::TcpEstablished), 60_000);
    }
}
