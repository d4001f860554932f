//! Seeded numbers for whoever needs chance: the same seed gives the same run, on every machine. Not for secrets.

/// A sequence of numbers that look random (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// The sequence of a seed.
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(super) const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from zero to less than `most` (0 for 0).
    pub(super) fn below(&mut self, most: u64) -> usize {
        usize::try_from(self.roll().checked_rem(most).unwrap_or(0)).unwrap_or(0)
    }
}
