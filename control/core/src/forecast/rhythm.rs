//! Models have a rhythm, each its own: some come back by the clock, some in crowds. How likely the next use is after how many of a model's
//! usual pauses is the same for all models and learned from all of them together; how long its usual pause is, each model shows.

use super::past::half_to_the;

/// Ages in usual pauses that are told apart: half octaves, from a 32nd of a pause to four pauses.
const AGES: usize = 15;
/// The youngest age, in octaves of the usual pause.
const YOUNGEST: f64 = -5.0;
/// What a new pause changes of the usual one.
const PAUSE_RATE: f64 = 0.3;
/// The usual pause of a model that was used once: an hour, in octaves of a millisecond.
const PAUSE_AT_START: f64 = 21.78;
/// What stays of what was learned with each turn: about 500 are remembered.
const STAYS: f64 = 0.998;
/// Turns at each age that the even start is worth.
const TURNS_AT_START: f64 = 0.1;

/// How long a model usually pauses between its turns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause {
    /// Mean of the pauses' logarithms, in octaves of a millisecond.
    octaves: Option<f64>,
}

/// Where a model is in its rhythm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Beat {
    /// How old its last use is, in usual pauses: an index of [`AGES`].
    age: usize,
    /// Usual pauses per millisecond.
    pace: f64,
}

/// How likely the next use is at each age, relative to others.
#[derive(Clone, Debug)]
pub(super) struct Rhythm {
    /// Turns that came at each age.
    came: [f64; AGES],
    /// Turns that would have come if all ages were alike.
    due: [f64; AGES],
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            came: [TURNS_AT_START; AGES],
            due: [TURNS_AT_START; AGES],
        }
    }
}

impl Pause {
    /// A turn came so many milliseconds after the last use.
    pub(super) fn ended(&mut self, millis: f64) {
        let new = octaves(millis);
        let changed = |old: f64| old + PAUSE_RATE * (new - old);
        self.octaves = Some(self.octaves.map_or(new, changed));
    }

    /// The beat at so many milliseconds after the last use.
    pub(super) fn beat(&self, millis: f64) -> Beat {
        let usual = self.octaves.unwrap_or(PAUSE_AT_START);
        let halves = (octaves(millis) - usual - YOUNGEST) * 2.0;
        Beat {
            age: halves.clamp(0.0, AGES as f64 - 1.0) as usize,
            pace: half_to_the(usual),
        }
    }
}

impl Rhythm {
    /// How likely a model's next use is now, in the same measure for all.
    pub(super) fn claim(&self, beat: &Beat) -> f64 {
        beat.pace * self.came[beat.age] / self.due[beat.age]
    }

    /// A turn came. All who contended for it, whether they had it, and the sum of their claims.
    pub(super) fn learn(&mut self, contenders: impl Iterator<Item = (Beat, bool)>, claims: f64) {
        let start = TURNS_AT_START * (1.0 - STAYS);
        for count in self.came.iter_mut().chain(&mut self.due) {
            *count = *count * STAYS + start;
        }
        for (beat, has_won) in contenders {
            self.due[beat.age] += beat.pace / claims.max(f64::MIN_POSITIVE);
            self.came[beat.age] += f64::from(u8::from(has_won));
        }
    }
}

/// The logarithm to base 2, within a tenth, of at least 1; a straight line between powers of two, the same on every machine.
fn octaves(millis: f64) -> f64 {
    /// Bits of a float below its exponent, which is stored from 1023 on.
    const FRACTION: f64 = (1_u64 << 52) as f64;
    millis.max(1.0).to_bits() as f64 / FRACTION - 1_023.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octaves_are_logarithms() {
        for millis in [1.0, 2.0, 3.0, 1_000.0, 3_600_000.0, 1e12_f64] {
            let (got, want) = (octaves(millis), millis.log2());
            assert!((got - want).abs() < 0.1, "{millis} ms: {got}, not {want}");
        }
        assert_eq!(octaves(0.0), 0.0);
    }

    #[test]
    fn what_comes_by_the_clock_is_expected_when_its_pause_is_over() {
        let mut slow = Pause::default();
        let mut fast = Pause::default();
        let mut rhythm = Rhythm::default();
        for _ in 0..200 {
            slow.ended(600_000.0);
            fast.ended(60_000.0);
            // The slow one is far from due; the fast one comes in time.
            let beats = [(slow.beat(60_000.0), false), (fast.beat(60_000.0), true)];
            let claims = beats.iter().map(|(beat, _)| rhythm.claim(beat)).sum();
            rhythm.learn(beats.into_iter(), claims);
        }
        let claim = |pause: &Pause, millis: f64| rhythm.claim(&pause.beat(millis));
        assert!(claim(&slow, 60_000.0) < claim(&slow, 600_000.0) / 100.0);
        assert!(claim(&fast, 60_000.0) > 9.0 * claim(&slow, 600_000.0));
    }

    #[test]
    fn a_model_that_was_used_once_has_a_beat() {
        let rhythm = Rhythm::default();
        assert!(rhythm.claim(&Pause::default().beat(0.0)) > 0.0);
        assert!(rhythm.claim(&Pause::default().beat(1e15)) > 0.0);
    }
}
