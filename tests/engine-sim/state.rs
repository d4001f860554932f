//! What vLLM's scheduler and executor remember, and how sleep, wake, pause and resume change it. Pure values: no clock, no I/O.
//!
//! Scheduler and executor are two things that do not check each other, which is why `/resume` on a sleeping engine, or a wake that
//! overtakes a pending sleep, leaves an engine that computes without memory. Here such tokens are counted instead of crashing.

use std::collections::BTreeSet;

/// How the scheduler treats requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Normally.
    Running,
    /// Requests that were started go on, others wait.
    NoNew,
    /// Nothing goes on.
    Stopped,
}

/// What happens to requests in flight when the engine pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseMode {
    /// They end at once, truncated.
    Abort,
    /// They are waited for.
    Wait,
    /// They are frozen and go on later.
    Keep,
}

impl PauseMode {
    /// As it is written in a query.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "abort" => Some(Self::Abort),
            "wait" => Some(Self::Wait),
            "keep" => Some(Self::Keep),
            _other => None,
        }
    }
}

/// Parts of the memory that can be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The model.
    Weights,
    /// The cache.
    KvCache,
}

/// What a call to `/wake_up` asks of the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WakePlan {
    /// Nothing: awake already, or a tag is not known or not asleep. vLLM ignores the whole call then, and says 200.
    Nothing,
    /// These parts come back.
    Parts(BTreeSet<Part>),
}

/// Scheduler, executor and the counts that `/metrics` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The scheduler.
    pub schedule: Schedule,
    /// What of the memory is away.
    pub away: BTreeSet<Part>,
    /// The sleep level that was last *asked for*, which is what vLLM's metric shows; `None`: awake.
    pub level_shown: Option<u8>,
    /// The level of the sleep that took place.
    pub level: u8,
    /// Host RAM is taken for a copy of the weights, in use or kept for the next sleep.
    pub has_copy: bool,
    /// False after a level-2 sleep until the weights are loaded again: the answers are garbage.
    pub weights_valid: bool,
    /// Says asleep although it is not.
    pub pretends_sleep: bool,
    /// Number of aborts; a request that was accepted before the last one is over.
    pub aborts: u64,
    /// Accepted, not yet started.
    pub queued: u64,
    /// Started, not yet over.
    pub running: u64,
    /// The gauges: what the scheduler saw when it last took a step.
    pub gauge_running: u64,
    /// As `gauge_running`.
    pub gauge_queued: u64,
}

impl State {
    /// An engine that has just started.
    pub(crate) fn awake() -> Self {
        Self {
            schedule: Schedule::Running,
            away: BTreeSet::new(),
            level_shown: None,
            level: 0,
            has_copy: false,
            weights_valid: true,
            pretends_sleep: false,
            aborts: 0,
            queued: 0,
            running: 0,
            gauge_running: 0,
            gauge_queued: 0,
        }
    }

    /// What `/is_paused` says.
    pub(crate) fn is_paused(&self) -> bool {
        self.pretends_sleep || self.schedule != Schedule::Running
    }

    /// What `/is_sleeping` says.
    pub(crate) fn is_sleeping(&self) -> bool {
        self.is_paused() || !self.away.is_empty()
    }

    /// A request that waits in the queue may start.
    pub(crate) fn may_start(&self) -> bool {
        self.schedule == Schedule::Running
    }

    /// A request that was started may compute its next token.
    pub(crate) fn may_go_on(&self) -> bool {
        match self.schedule {
            Schedule::Running | Schedule::NoNew => true,
            Schedule::Stopped => false,
        }
    }

    /// A pause with `mode=wait` is complete.
    pub(crate) fn is_drained(&self) -> bool {
        self.running == 0 && (self.schedule != Schedule::Running || self.queued == 0)
    }

    /// The scheduler pauses. With [`PauseMode::Abort`] everything accepted so far is over, the queue included.
    pub(crate) fn pause(&mut self, mode: PauseMode) {
        self.schedule = match mode {
            PauseMode::Abort => {
                self.aborts += 1;
                Schedule::NoNew
            }
            PauseMode::Wait => Schedule::NoNew,
            PauseMode::Keep => Schedule::Stopped,
        };
    }

    /// The scheduler goes on, whether there is memory or not.
    pub(crate) fn resume(&mut self) {
        self.schedule = Schedule::Running;
        self.pretends_sleep = false;
    }

    /// Whether a sleep of this level has anything to do for the executor: one that sleeps already is left as it is.
    pub(crate) fn has_weights_to_free(&self, level: u8) -> bool {
        level >= 1 && !self.away.contains(&Part::Weights)
    }

    /// The memory is gone.
    pub(crate) fn freed(&mut self, level: u8) {
        self.away = BTreeSet::from([Part::Weights, Part::KvCache]);
        self.level = level;
        if level >= 2 {
            self.weights_valid = false;
        } else {
            self.has_copy = true;
        }
    }

    /// What a wake with these tags (`None`: no tag given) asks of the executor.
    pub(crate) fn plan_wake(&self, tags: Option<&[String]>) -> WakePlan {
        if self.away.is_empty() {
            return WakePlan::Nothing;
        }
        let Some(tags) = tags else {
            return WakePlan::Parts(self.away.clone());
        };
        let mut parts = BTreeSet::new();
        for tag in tags.iter().filter(|tag| *tag != "scheduling") {
            let part = match tag.as_str() {
                "weights" => Part::Weights,
                "kv_cache" => Part::KvCache,
                _unknown => return WakePlan::Nothing,
            };
            if !self.away.contains(&part) {
                return WakePlan::Nothing;
            }
            parts.insert(part);
        }
        if parts.is_empty() {
            WakePlan::Nothing
        } else {
            WakePlan::Parts(parts)
        }
    }

    /// These parts are back. True, and the scheduler goes on, when nothing is away any more.
    pub(crate) fn woke(&mut self, parts: &BTreeSet<Part>) -> bool {
        self.away.retain(|part| !parts.contains(part));
        let awake = self.away.is_empty();
        if awake {
            self.resume();
            self.level_shown = None;
        }
        awake
    }

    /// The scheduler took a step: only now do the gauges move. Frozen requests whose cache is gone count as waiting.
    pub(crate) fn stepped(&mut self) {
        let frozen = !self.away.is_empty() && !self.may_go_on();
        self.gauge_running = if frozen { 0 } else { self.running };
        self.gauge_queued = if frozen {
            self.queued + self.running
        } else {
            self.queued
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asleep(level: u8) -> State {
        let mut state = State::awake();
        state.pause(PauseMode::Keep);
        state.freed(level);
        state
    }

    fn tags(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    #[test]
    fn wake_plans() {
        let check = |state: &State, given: Option<&[&str]>, expected: &[Part]| {
            let plan = state.plan_wake(given.map(tags).as_deref());
            let expected = match expected {
                [] => WakePlan::Nothing,
                parts => WakePlan::Parts(parts.iter().copied().collect()),
            };
            assert_eq!(plan, expected, "{given:?}");
        };
        check(&asleep(1), None, &[Part::Weights, Part::KvCache]);
        check(&asleep(1), Some(&["weights"]), &[Part::Weights]);
        check(
            &asleep(1),
            Some(&["weights", "scheduling"]),
            &[Part::Weights],
        );
        check(&asleep(1), Some(&["weights", "unknown"]), &[]);
        check(&asleep(1), Some(&["scheduling"]), &[]);
        check(&State::awake(), None, &[]);
        let mut partly = asleep(1);
        assert!(!partly.woke(&BTreeSet::from([Part::Weights])));
        check(&partly, Some(&["weights"]), &[]);
        check(&partly, None, &[Part::KvCache]);
    }

    #[test]
    fn resume_on_a_sleeping_engine_is_the_dangerous_pair() {
        let mut state = asleep(1);
        state.resume();
        assert!(state.is_sleeping() && !state.is_paused() && state.may_start());
    }

    #[test]
    fn pause_modes() {
        let check = |mode, may_go_on, aborts| {
            let mut state = State::awake();
            state.pause(mode);
            assert!(
                !state.may_start() && state.is_sleeping() && state.is_paused(),
                "{mode:?}"
            );
            assert_eq!(
                (state.may_go_on(), state.aborts),
                (may_go_on, aborts),
                "{mode:?}"
            );
        };
        check(PauseMode::Abort, true, 1);
        check(PauseMode::Wait, true, 0);
        check(PauseMode::Keep, false, 0);
    }

    #[test]
    fn the_memory_of_a_copy_is_kept_after_the_wake() {
        let everything = BTreeSet::from([Part::Weights, Part::KvCache]);
        for (level, has_copy) in [(1, true), (2, false)] {
            let mut state = asleep(level);
            state.woke(&everything);
            assert_eq!(state.has_copy, has_copy, "level {level}");
        }
        let mut state = asleep(1);
        state.woke(&everything);
        state.freed(2);
        assert!(state.has_copy, "a sleep of level 2 does not give it back");
    }

    #[test]
    fn level_two_loses_the_weights_and_a_second_sleep_does_nothing() {
        assert!(!asleep(2).weights_valid);
        assert!(asleep(1).weights_valid);
        assert!(!asleep(1).has_weights_to_free(2));
        assert!(!State::awake().has_weights_to_free(0));
        // Unless its weights were brought back: then they can be dropped again.
        let mut partly = asleep(2);
        partly.woke(&BTreeSet::from([Part::Weights]));
        assert!(partly.has_weights_to_free(2));
    }
}
