//! Each use of a model makes more of it likely, much at first and less later. How much over each half-life is the same for all models
//! and learned from all of them together, so that a model of which little is known is judged by what others did after as little.
//!
//! Unlike the other witnesses, this one adds up what the half-lives say in uses per millisecond instead of comparing shares: after a
//! pause the short ones have nothing left to say. (A self-exciting process, its kernel learned by expectation and maximisation.)

use std::f64::consts::LN_2;

use super::past::{BY_TIME, LONGEST_MILLIS, half_to_the, lengths};
use crate::ids::Millis;

/// How far ahead rates are told, in milliseconds.
pub(super) const HORIZONS: [f64; 2] = [150_000.0, 3_600_000.0];
/// What stays of what was learned with each turn: about 500 are remembered.
const STAYS: f64 = 0.998;
/// Half-lives that were lived through before the first turn, for each length.
const LIVED_AT_START: f64 = 10.0;
/// Uses that follow from one, over all half-lives together, as long as nothing is known.
const FOLLOW_AT_START: f64 = 1.0;

/// How strongly uses echo, by half-lives.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    /// Uses per millisecond that each use, as faded, brings.
    strengths: [f64; BY_TIME],
    /// Uses that were due to each half-life.
    caused: [f64; BY_TIME],
    /// Faded uses × milliseconds in which they could have caused one.
    lived: [f64; BY_TIME],
    /// Faded uses of all models, as of `at`.
    there: [f64; BY_TIME],
    at: Millis,
    /// Share of its full strength that a use has on average over each horizon, by half-lives.
    reach: [[f64; BY_TIME]; HORIZONS.len()],
}

impl Default for Echo {
    fn default() -> Self {
        let halves = lengths(LONGEST_MILLIS);
        let strengths = halves.map(|half| FOLLOW_AT_START / BY_TIME as f64 * LN_2 / half);
        let lived = halves.map(|half| LIVED_AT_START * half);
        let mut caused = [0.0; BY_TIME];
        for ((caused, strength), lived) in caused.iter_mut().zip(strengths).zip(lived) {
            *caused = strength * lived;
        }
        Self {
            strengths,
            caused,
            lived,
            there: [0.0; BY_TIME],
            at: Millis(0),
            reach: HORIZONS.map(|horizon| halves.map(|half| heard(horizon, half) / horizon)),
        }
    }
}

impl Echo {
    /// Time passes until `now`, when some model is used.
    pub(super) fn pass(&mut self, now: Millis) {
        let pause = now.since(self.at).0 as f64;
        self.at = self.at.max(now);
        let halves: [f64; BY_TIME] = lengths(LONGEST_MILLIS);
        let counts = self.lived.iter_mut().zip(&mut self.there);
        for ((lived, there), half) in counts.zip(halves) {
            *lived += *there * heard(pause, half);
            *there *= half_to_the(pause / half);
        }
    }

    /// Another model than the last has its turn; these are its uses so far, as faded.
    pub(super) fn learn(&mut self, uses: &[f64; BY_TIME]) {
        let claims = self.strengths.iter().zip(uses);
        let all: f64 = claims.map(|(strength, uses)| strength * uses).sum();
        let counts = self.caused.iter_mut().zip(&mut self.lived);
        let strengths = self.strengths.iter_mut().zip(uses);
        for ((caused, lived), (strength, uses)) in counts.zip(strengths) {
            let due = if all > 0.0 {
                *strength * uses / all
            } else {
                0.0
            };
            *caused = *caused * STAYS + due;
            *lived *= STAYS;
            // A thousandth of a use: what was never seen is not impossible.
            *strength = (*caused + 1e-3) / (*lived + 1.0);
        }
    }

    /// A use, or the part of one that requests close together are, that echoes from now on.
    pub(super) fn used(&mut self, uses: f64) {
        self.there = self.there.map(|there| there + uses);
    }

    /// Uses per millisecond of a model with these faded uses, on average over each horizon from now.
    pub(super) fn rates(&self, uses: &[f64]) -> [f64; HORIZONS.len()] {
        let mut rates = [f64::MIN_POSITIVE; HORIZONS.len()];
        for (at, (strength, uses)) in self.strengths.iter().zip(uses).enumerate() {
            let claim = strength * uses;
            for (rate, reach) in rates.iter_mut().zip(&self.reach) {
                *rate += claim * reach[at];
            }
        }
        rates
    }
}

/// Milliseconds of its full strength that are left of a use in so many milliseconds from now.
fn heard(millis: f64, half: f64) -> f64 {
    (1.0 - half_to_the(millis / half)) * half / LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an echo knows after a thousand pairs of uses, each pair so far apart and an hour after the last.
    fn after_pairs(apart: u64) -> Echo {
        let halves: [f64; BY_TIME] = lengths(LONGEST_MILLIS);
        let mut echo = Echo::default();
        let mut uses = [0.0; BY_TIME];
        let mut now = Millis(0);
        for turn in 0..2_000 {
            let pause = if turn % 2 == 0 { 3_600_000 } else { apart };
            now = now + Millis(pause);
            for (uses, half) in uses.iter_mut().zip(halves) {
                *uses *= half_to_the(pause as f64 / half);
            }
            echo.pass(now);
            echo.learn(&uses);
            echo.used(1.0);
            uses = uses.map(|uses| uses + 1.0);
        }
        echo
    }

    #[test]
    fn what_comes_in_pairs_is_expected_soon_and_not_for_long() {
        let [soon, later] = after_pairs(20_000).rates(&[1.0; BY_TIME]);
        // Half of all uses are followed by one within 20 s; another comes within the hour in any case.
        assert!(soon * HORIZONS[0] > 0.25, "{}", soon * HORIZONS[0]);
        assert!(later * HORIZONS[1] < 2.0, "{}", later * HORIZONS[1]);
        assert!(soon > 3.0 * later, "{soon} {later}");
    }

    #[test]
    fn what_was_never_used_has_next_to_no_echo() {
        for rate in Echo::default().rates(&[0.0; BY_TIME]) {
            assert!(rate > 0.0 && rate < 1e-12, "{rate}");
        }
    }
}
