//! How often a model is asked for: counts that fade, over four horizons, so that a burst and a daily habit both show.

use std::f64::consts::LOG2_E;

use crate::{forecast::half_to_the, ids::Millis};

/// A minute, ten minutes, an hour, a day, in milliseconds: what is older than a horizon has faded to 1/e of its weight.
pub const HORIZONS: [f64; 4] = [60e3, 600e3, 3_600e3, 86_400e3];
/// Requests per second expected of a model that nobody ever asked for: one a day.
pub const PRIOR: f64 = 1.0 / 86_400.0;

/// Requests for one model so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    last: Millis,
    counts: [f64; HORIZONS.len()],
}

impl Demand {
    /// So many requests arrived at `now`; a moment before the last one counts as the last.
    pub fn arrived(&mut self, now: Millis, requests: u64) {
        let at = now.max(self.last);
        self.counts = self.faded(at);
        self.last = at;
        // More than a million at once say no more than a million.
        let requests = u32::try_from(requests.min(1_000_000)).unwrap_or(1_000_000);
        for count in &mut self.counts {
            *count += f64::from(requests);
        }
    }

    /// Requests per second at `now` over each of [`HORIZONS`], what is older fading.
    pub fn rates(&self, now: Millis) -> [f64; HORIZONS.len()] {
        let mut rates = self.faded(now);
        for (rate, horizon) in rates.iter_mut().zip(HORIZONS) {
            *rate *= 1e3 / horizon;
        }
        rates
    }

    /// Requests per second that are expected at `now`: the mean over all horizons, and [`PRIOR`] at least.
    pub fn rate(&self, now: Millis) -> f64 {
        let rates = self.rates(now);
        (rates.iter().sum::<f64>() / rates.len() as f64).max(PRIOR)
    }

    fn faded(&self, now: Millis) -> [f64; HORIZONS.len()] {
        let age = now.since(self.last).0 as f64;
        let mut counts = self.counts;
        for (count, horizon) in counts.iter_mut().zip(HORIZONS) {
            *count *= half_to_the(age / horizon * LOG2_E);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_fade_and_habits_stay() {
        let (mut burst, mut habit) = (Demand::default(), Demand::default());
        assert!((habit.rate(Millis(5)) - PRIOR).abs() < 1e-12);
        for hour in 0..48 {
            habit.arrived(Millis(hour * 3_600_000), 1);
        }
        let now = Millis(48 * 3_600_000);
        burst.arrived(now, 30);
        assert!(burst.rate(now) > 10.0 * habit.rate(now));
        let later = Millis(now.0 + 1_800_000);
        assert!(burst.rate(later) < burst.rate(now) / 10.0);
        let next_day = Millis(now.0 + 86_400_000);
        habit.arrived(next_day, 1);
        assert!(habit.rate(next_day) > PRIOR);
    }

    #[test]
    fn whatever_comes_it_stays_finite() {
        let mut demand = Demand::default();
        for (at, requests) in [(u64::MAX, u64::MAX), (0, u64::MAX), (u64::MAX / 2, 0)] {
            demand.arrived(Millis(at), requests);
            for now in [0, 1, u64::MAX] {
                let rate = demand.rate(Millis(now));
                assert!(rate.is_finite() && rate >= PRIOR);
            }
        }
    }
}
