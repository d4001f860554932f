//! How good what requests were told was: an estimated wait, or a Retry-After, against how long it took.

use greenthread_core::ids::Millis;

/// A time that was told, and the time that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// What was told.
    pub(super) told: Millis,
    /// What it was.
    pub(super) took: Millis,
}

/// Promises and how they were kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Score {
    /// How many there were.
    pub(super) count: u64,
    /// The share that took no longer than told.
    pub(super) kept: f64,
    /// By how many seconds half of them were off, either way, at most.
    pub(super) off_p50_s: f64,
    /// … and 95 of 100.
    pub(super) off_p95_s: f64,
}

/// How promises were kept; `None` where there were none.
pub(super) fn score(told: &[Told]) -> Option<Score> {
    let kept = told.iter().filter(|told| told.took <= told.told).count();
    let mut off: Vec<u64> = told
        .iter()
        .map(|told| told.took.0.abs_diff(told.told.0))
        .collect();
    off.sort_unstable();
    let rank = |percent: usize| (off.len() * percent).div_ceil(100).max(1) - 1;
    let seconds = |percent| Some(*off.get(rank(percent))? as f64 / 1_000.0);
    Some(Score {
        count: off.len() as u64,
        kept: super::slots_report::ratio(kept as u64, off.len() as u64)?,
        off_p50_s: seconds(50)?,
        off_p95_s: seconds(95)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_short_and_too_long_are_both_off() {
        let told = |told, took| Told {
            told: Millis(told),
            took: Millis(took),
        };
        let score = score(&[told(3_000, 3_000), told(3_000, 5_000), told(9_000, 3_000)]);
        let expected = Score {
            count: 3,
            kept: 2.0 / 3.0,
            off_p50_s: 2.0,
            off_p95_s: 6.0,
        };
        assert_eq!(score, Some(expected));
        assert_eq!(super::score(&[]), None);
    }
}
