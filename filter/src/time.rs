//! Milliseconds: moments of the host's monotonic clock and lengths of time. Saturating, so that no arithmetic can trap.

/// A moment (since an arbitrary zero that all gates of a process share) or a length, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// `n` seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(n.saturating_mul(1_000))
    }

    /// This moment moved later, or this length made longer.
    #[must_use]
    pub const fn plus(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }

    /// Time since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds rounded up, held between 1 and 60: the range of Retry-After.
    pub fn retry_after(self) -> u32 {
        u32::try_from(self.0.div_ceil(1_000).clamp(1, 60)).unwrap_or(60)
    }
}
