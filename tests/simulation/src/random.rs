//! Chance, from a seed: the only source of it in the simulation, so that one seed is one history.

/// A generator of the splitmix family.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed ^ 0x6772_6565_6e74_6872);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Biased by less than one part in 2^32 for the bounds in use.
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `part` times out of `whole`.
    pub fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    /// An index of something with so many members.
    pub fn index(&mut self, members: usize) -> usize {
        usize::try_from(self.below(members as u64)).unwrap_or(0)
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.index(among.len())]
    }

    /// A length around `mean`, mostly shorter, at most four times as long: pauses between things that happen by chance.
    pub fn pause(&mut self, mean: u64) -> u64 {
        let short = self.below(mean.saturating_mul(2));
        if self.chance(1, 8) { short * 2 } else { short }
    }
}
