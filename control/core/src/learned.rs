//! How long an engine's actions take, as distributions: what is promised is a quantile, since a mean is exceeded half of the time.

use crate::{ids::Millis, model::Durations, phase::Tier};

/// Measurements kept of each action; older ones are forgotten.
const KEPT: usize = 32;
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
            promised: guess,
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
        (self.median, self.promised) = (self.quantile(50), self.quantile(PROMISED));
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
            drain: Samples::guessed(Millis::seconds(5)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_of_the_latest() {
        let mut samples = Samples::guessed(Millis(700));
        assert_eq!(samples.promised(), Millis(700));
        samples.push(Millis(10));
        assert_eq!(samples.promised(), Millis(10));
        for took in 1..=10 {
            samples.push(Millis(took * 100));
        }
        assert_eq!(samples.quantile(50), Millis(500));
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
