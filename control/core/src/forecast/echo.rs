//! Each use of a model makes more of it likely, much at first and less later. How much over each half-life is the same for all models
//! and learned from all of them together, so that a model of which little is known is judged by what others did after as little.
//!
//! Unlike the other witnesses, this one adds up what the half-lives say in uses per millisecond instead of comparing shares: after a
//! pause the short ones have nothing left to say. (A self-exciting process, its kernel learned by expectation and maximisation.)

use std::f64::consts::LN_2;

use super::past::{BY_TIME, LONGEST_MILLIS, half_to_the, lengths};

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
    /// Faded uses of all models at the last turn.
    there: [f64; BY_TIME],
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
        }
    }
}

impl Echo {
    /// A model with these faded uses has its turn, so many milliseconds after the last one began.
    pub(super) fn learn(&mut self, pause: f64, uses: &[f64; BY_TIME]) {
        let halves: [f64; BY_TIME] = lengths(LONGEST_MILLIS);
        let claims = self.strengths.iter().zip(uses);
        let all: f64 = claims.map(|(strength, uses)| strength * uses).sum();
        for at in 0..BY_TIME {
            let due = if all > 0.0 {
                self.strengths[at] * uses[at] / all
            } else {
                0.0
            };
            let lived = self.there[at] * heard(pause, halves[at]);
            self.caused[at] = self.caused[at] * STAYS + due;
            self.lived[at] = self.lived[at] * STAYS + lived;
            // A thousandth of a use: what was never seen is not impossible.
            self.strengths[at] = (self.caused[at] + 1e-3) / (self.lived[at] + 1.0);
        }
    }

    /// These are the faded uses of all models, as the turn begins.
    pub(super) fn begin(&mut self, there: [f64; BY_TIME]) {
        self.there = there;
    }

    /// Uses per millisecond of a model with these faded uses, on average over so many milliseconds from now.
    pub(super) fn rate(&self, uses: &[f64; BY_TIME], horizon: f64) -> f64 {
        let halves: [f64; BY_TIME] = lengths(LONGEST_MILLIS);
        let mut expected = f64::MIN_POSITIVE;
        for at in 0..BY_TIME {
            expected += self.strengths[at] * uses[at] * heard(horizon, halves[at]);
        }
        expected / horizon
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
    fn after_pairs(apart: f64) -> Echo {
        let halves: [f64; BY_TIME] = lengths(LONGEST_MILLIS);
        let mut echo = Echo::default();
        let mut uses = [0.0; BY_TIME];
        for turn in 0..2_000 {
            let pause = if turn % 2 == 0 { 3_600_000.0 } else { apart };
            for (uses, half) in uses.iter_mut().zip(halves) {
                *uses *= half_to_the(pause / half);
            }
            echo.learn(pause, &uses);
            uses = uses.map(|uses| uses + 1.0);
            echo.begin(uses);
        }
        echo
    }

    #[test]
    fn what_comes_in_pairs_is_expected_soon_and_not_later() {
        let echo = after_pairs(20_000.0);
        let just_used = [1.0; BY_TIME];
        let soon = echo.rate(&just_used, 30_000.0);
        let later = echo.rate(&just_used, 1_800_000.0);
        // Half of all uses are followed by one within 20 s; one in an hour comes in any case.
        assert!(soon * 30_000.0 > 0.25, "{}", soon * 30_000.0);
        assert!(later * 1_800_000.0 < 1.5, "{}", later * 1_800_000.0);
        assert!(soon > 5.0 * later);
    }

    #[test]
    fn what_was_never_used_has_next_to_no_echo() {
        let echo = Echo::default();
        let rate = echo.rate(&[0.0; BY_TIME], 60_000.0);
        assert!(rate > 0.0 && rate < 1e-12, "{rate}");
    }
}
