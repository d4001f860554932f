//! How long an engine's actions and drains take, as distributions: what is promised is a quantile, since a mean is exceeded half of the
//! time. What each one that ends teaches is said here, too.

use crate::{ids::Millis, model::Durations, phase::Tier, state::ModelState};

/// Measurements kept of each action; older ones are forgotten.
const KEPT: usize = 32;
/// A drain that took longer had requests to wait for.
const BUSY_DRAIN: Millis = Millis(200);
/// The share of actions, in percent, that took no longer than what is promised.
pub(crate) const PROMISED: usize = 90;

/// The latest durations of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Samples {
    guess: Millis,
    /// A ring; the oldest is overwritten.
    kept: Vec<Millis>,
    next: usize,
    /// The two quantiles that are asked for all the time.
    median: Millis,
    promised: Millis,
}

impl Samples {
    /// Nothing was measured yet: the guess stands in.
    pub(crate) const fn guessed(guess: Millis) -> Self {
        Self {
            guess,
            kept: Vec::new(),
            next: 0,
            median: guess,
            promised: beyond(guess, 0),
        }
    }

    /// One more measurement.
    pub(crate) fn push(&mut self, took: Millis) {
        if self.kept.len() < KEPT {
            self.kept.push(took);
        } else if let Some(oldest) = self.kept.get_mut(self.next) {
            *oldest = took;
        }
        self.next = (self.next + 1) % KEPT;
        let most = beyond(self.quantile(PROMISED), self.kept.len());
        (self.median, self.promised) = (self.quantile(50), most);
    }

    /// The duration that `percent` of the measurements did not exceed (nearest rank).
    pub(crate) fn quantile(&self, percent: usize) -> Millis {
        let mut sorted = self.kept.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(self.guess)
    }

    /// What is promised.
    pub(crate) const fn promised(&self) -> Millis {
        self.promised
    }

    /// What half of the measurements did not exceed.
    pub(crate) const fn median(&self) -> Millis {
        self.median
    }

    /// Both.
    pub(crate) const fn takes(&self) -> Span {
        Span {
            half: self.median,
            most: self.promised,
        }
    }

    /// What is promised and what stands behind it.
    pub(crate) fn expected(&self) -> Expected {
        Expected {
            promised: self.promised,
            measured: self.kept.len(),
        }
    }
}

/// What few measurements do not show: the next one exceeds all of them often, and a guess half of the time.
const fn beyond(longest: Millis, measured: usize) -> Millis {
    let more = match measured {
        0 => longest.0 / 4,
        1 => longest.0 / 8,
        _ => 0,
    };
    Millis(longest.0.saturating_add(more))
}

/// How long something takes. The longer one is that which takes longer most of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// No longer than this, most of the time.
    pub(crate) most: Millis,
    /// No longer than this, half of the time.
    pub(crate) half: Millis,
}

/// What an action is expected to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// No longer than this, most of the time.
    pub promised: Millis,
    /// How many measurements of this life of control stand behind it.
    pub measured: usize,
}

/// All actions of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Learned {
    /// Start of the process until it serves.
    pub(crate) start: Samples,
    /// Wake from host RAM.
    pub(crate) wake: Samples,
    /// Wake from disk.
    pub(crate) reload: Samples,
    /// Sleep.
    pub(crate) sleep: Samples,
    /// Drain of a busy model until it was told to sleep.
    pub(crate) drain: Samples,
}

impl Learned {
    /// Before anything was measured in this life.
    pub(crate) const fn guessed(guess: &Durations) -> Self {
        Self {
            start: Samples::guessed(guess.start),
            wake: Samples::guessed(guess.wake),
            reload: Samples::guessed(guess.reload),
            sleep: Samples::guessed(guess.sleep),
            drain: Samples::guessed(Millis::seconds(4)),
        }
    }

    /// A wake from there, which is a start where nothing is left.
    pub(crate) const fn back_from(&self, tier: Tier) -> &Samples {
        match tier {
            Tier::Ram => &self.wake,
            Tier::Disk => &self.reload,
            Tier::Stopped => &self.start,
        }
    }
}

impl ModelState {
    /// How long the action that has just ended was waited for: what its driver measured, or more where that was not all.
    fn waited_for(&self, now: Millis, took: u64) -> Millis {
        now.since(self.since).max(Millis(took))
    }

    /// A start has ended.
    pub(crate) fn learn_start(&mut self, now: Millis, took: u64) {
        self.learned.start.push(self.waited_for(now, took));
    }

    /// A wake has ended.
    pub(crate) fn learn_wake(&mut self, now: Millis, took: u64) {
        let passed = self.waited_for(now, took);
        let learned = match self.tier() {
            Tier::Disk => &mut self.learned.reload,
            Tier::Ram | Tier::Stopped => &mut self.learned.wake,
        };
        learned.push(passed);
    }

    /// A sleep has ended.
    pub(crate) fn learn_sleep(&mut self, now: Millis, took: u64) {
        self.learned.sleep.push(self.waited_for(now, took));
    }

    /// A drain has ended with nothing left in flight.
    pub(crate) fn learn_drain(&mut self, now: Millis) {
        let took = now.since(self.since);
        if took > BUSY_DRAIN {
            self.learned.drain.push(took);
        }
    }

    /// A drain ran out with so many requests in flight: it would have taken as long as it takes until the last of them ends, where each
    /// may end at any moment, as often as the others did; but nobody knows more than a few times what was seen.
    pub(crate) fn learn_unfinished_drain(&mut self, length: Millis, in_flight: u64) {
        let ended = self.room.drained_from.saturating_sub(in_flight).max(1);
        let there = (self.room.drained_from.max(in_flight) + in_flight) / 2;
        let each = length.0.saturating_mul(there) / ended;
        let last: u64 = (1..=in_flight.min(1_000)).map(|left| 1_000 / left).sum();
        let rest = (each.saturating_mul(last) / 1_000).min(length.0.saturating_mul(3));
        self.room.would_drain_in = length + Millis(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(half: u64, most: u64) -> Span {
        Span {
            half: Millis(half),
            most: Millis(most),
        }
    }

    #[test]
    fn a_quantile_of_the_latest() {
        let mut samples = Samples::guessed(Millis(700));
        // Little is known yet: more is promised than was seen.
        assert_eq!(samples.takes(), span(700, 875));
        samples.push(Millis(80));
        assert_eq!(samples.takes(), span(80, 90));
        samples.push(Millis(80));
        assert_eq!(samples.takes(), span(80, 80));
        for took in 1..=10 {
            samples.push(Millis(took * 100));
        }
        assert_eq!(samples.quantile(50), Millis(400));
        assert_eq!(samples.promised(), Millis(900));
        for _ in 0..KEPT {
            samples.push(Millis(5));
        }
        assert_eq!(
            (samples.quantile(100), samples.expected().measured),
            (Millis(5), KEPT)
        );
    }
}
