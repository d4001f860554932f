//! How long a request that arrives now would wait, and a drain will take: the sum of what was learned of each step of the way that is
//! left. The queue before it is played forward in `playout`; how good the estimates were is found out in `waits`.

use crate::{
    Core,
    drain::LONGER_DRAINS,
    ids::{Millis, ModelId},
    learned::Span,
    model::OnDrainTimeout,
    phase::{Boot, Phase},
    state::ModelState,
};

/// An estimate is made anew after this …
const ESTIMATED_FOR: Millis = Millis(1_000);
/// … and after this for each model on its GPU: so many others move it, and so many rows would follow.
const ESTIMATED_FOR_EACH: Millis = Millis(10);
/// Where no more models are on a GPU, those who sleep there are told at once what others do.
const TOLD_AT_ONCE: usize = 8;
/// Where nothing is known that could ever make room, or only an operator knows.
pub(crate) const NO_IDEA: Millis = Millis::seconds(60);
/// A message's way to a gate and the answer's way back.
pub(crate) const WAY: Millis = Millis(50);

impl Core {
    /// Estimated wait of a request that arrives now.
    pub(crate) fn estimate(&self, now: Millis, id: &ModelId) -> Millis {
        let Some(state) = self.models.get(id) else {
            return Millis(0);
        };
        let learned = &state.learned;
        match &state.phase {
            Phase::Booting(Boot::Waiting | Boot::Slept) if self.gpus_are_stopped(id) => NO_IDEA,
            Phase::Booting(Boot::Waiting) => self.awake_in(now, state) + self.ready_in(now, state),
            Phase::Booting(Boot::Slept) => self.awake_in(now, state),
            Phase::Booting(Boot::Observing { .. }) => {
                learned.start.promised() + self.ready_in(now, state)
            }
            Phase::Booting(Boot::Starting(_)) => state.remaining(now) + self.ready_in(now, state),
            Phase::Booting(Boot::Started) => {
                self.first_sleep_from(state).since(now) + self.ready_in(now, state)
            }
            Phase::Booting(Boot::Sleeping(_)) if !state.spec.conditioned => {
                state.remaining(now) + self.awake_in_if_since(now, state, now)
            }
            Phase::Booting(Boot::Sleeping(_) | Boot::Waking(_)) => state.remaining(now) + WAY,
            Phase::Booting(Boot::Unanswered) | Phase::Waking { .. } => state.wake_takes() + WAY,
            Phase::Asleep | Phase::Queued if self.gpus_are_stopped(id) => NO_IDEA,
            // Who still leaves comes back after those for whom it goes.
            Phase::Asleep | Phase::Queued | Phase::Sleeping { .. } | Phase::Draining { .. } => {
                self.awake_in(now, state)
            }
            Phase::Failed { retry_at: None, .. } => NO_IDEA,
            Phase::Failed {
                retry_at: Some(at), ..
            } if state.told.boot_ready => at.since(now),
            // Its first start begins anew.
            Phase::Failed {
                retry_at: Some(at), ..
            } => at.since(now) + self.awake_in(now, state) + self.ready_in(now, state),
            Phase::Serving | Phase::Removed { .. } => Millis(0),
        }
    }

    /// The first estimates of a phase: of the wait, and of the drain where it drains.
    pub(crate) fn make_estimate(&mut self, now: Millis, id: &ModelId) {
        let estimate = self.estimate(now, id);
        let drain = self.models.get(id).map(|state| self.drain_left(now, state));
        if let Some(state) = self.models.get_mut(id) {
            (state.told.estimate, state.told.estimated_at) = (estimate, now);
            state.told.drain_takes = drain.unwrap_or_default();
        }
    }

    /// Tells those who come now another wait where it has become another one, and a longer drain where it lasts.
    pub(crate) fn update_estimate(&mut self, now: Millis, id: &ModelId) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        if now >= state.told.estimated_at + self.estimated_for(state) {
            self.renew_estimate(now, id);
        }
    }

    /// A model has entered a phase: who sleeps beside it may wait for it. Where many do, they hear of it when they are looked at next.
    pub(crate) fn renew_estimates_beside(&mut self, now: Millis, id: &ModelId) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        if !self.open || self.most_on_a_gpu(state) > TOLD_AT_ONCE {
            return;
        }
        let sleeps = |other: &&ModelState| matches!(other.phase, Phase::Asleep);
        let sleepers: Vec<ModelId> = (self.neighbours(id).filter(sleeps))
            .map(|other| other.spec.id.clone())
            .collect();
        for sleeper in sleepers {
            self.renew_estimate(now, &sleeper);
        }
    }

    fn renew_estimate(&mut self, now: Millis, id: &ModelId) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let (wait, drain) = (self.estimate(now, id), self.drain_left(now, state));
        if let Some(state) = self.models.get_mut(id) {
            state.told.estimated_at = now;
            if notable(state.told.estimate, wait) {
                state.told.estimate = wait;
            }
            // A row for every second of a drain would say little: it is told anew when it takes twice as long.
            if drain > state.told.drain_takes + state.told.drain_takes
                && notable(state.told.drain_takes, drain)
            {
                state.told.drain_takes = drain;
            }
        }
    }

    /// Models on that of its GPUs that has most.
    fn most_on_a_gpu(&self, state: &ModelState) -> usize {
        let gpus = state.spec.gpus.iter();
        let there = gpus.filter_map(|gpu| self.places.gpu(*gpu).map(|place| place.models.len()));
        there.max().unwrap_or(0)
    }

    fn estimated_for(&self, state: &ModelState) -> Millis {
        let there = u64::try_from(self.most_on_a_gpu(state)).unwrap_or(u64::MAX);
        ESTIMATED_FOR.max(Millis(ESTIMATED_FOR_EACH.0.saturating_mul(there)))
    }

    /// A model that has started serves whoever asked for it; where it has to be measured it sleeps first, and wakes once more behind all
    /// who wait now.
    fn ready_in(&self, now: Millis, state: &ModelState) -> Millis {
        if state.spec.conditioned {
            WAY
        } else {
            state.learned.sleep.promised() + self.awake_in_if_since(now, state, now)
        }
    }

    /// How long it takes until a model has drained that begins now, for `waiter`. Where its engine cannot freeze what lasts longer it is
    /// reopened, and drained anew.
    pub(crate) fn drains_take(&self, state: &ModelState, busy: bool, waiter: &ModelId) -> Span {
        let Span { half, most } = self.drain_takes(state, busy);
        let takes = if busy && state.reopens() {
            let first = self.drain_lasts(state, Some(waiter));
            attempts(first, state.room.would_drain_in)
        } else {
            Millis(0)
        };
        Span {
            half: half.max(takes),
            most: most.max(takes),
        }
    }

    /// How long one drain takes.
    fn drain_takes(&self, state: &ModelState, busy: bool) -> Span {
        let (caps, timeout) = (state.spec.caps, state.spec.drain_timeout);
        let bound = self.fleet.times.forward_bound;
        // A heartbeat's way there and back; and what may still be on its way to an engine that would lose it.
        let least = match (caps.lossless, caps.counts) {
            (true, _) => WAY,
            (false, true) => bound + WAY,
            (false, false) => timeout.max(bound),
        };
        if busy {
            let Span { half, most } = state.learned.drain.takes();
            Span {
                half: half.min(timeout).max(least),
                most: most.min(timeout).max(least),
            }
        } else {
            Span {
                half: least,
                most: least,
            }
        }
    }

    /// How long a running drain still takes. Others that move there go first.
    fn drain_left(&self, now: Millis, state: &ModelState) -> Millis {
        let Phase::Draining {
            deadline,
            epoch,
            cause,
            ..
        } = &state.phase
        else {
            return Millis(0);
        };
        let (id, deadline) = (&state.spec.id, *deadline);
        if self.gpus_are_stopped(id) {
            return NO_IDEA;
        }
        // Nobody sleeps before gates that were not heard, or not any more, have come to a stop by themselves.
        let silence = self.blocks_for(state, cause);
        let silent_until = self.gates.blocked_until(state.slot, *epoch, silence);
        let from = self.drains_from(state, cause).max(silent_until);
        let busy = self.gates.in_flight(state.slot) > 0;
        let gone = now.since(state.since);
        let mut takes = self.drain_takes(state, busy).most;
        if busy {
            takes = takes.max(state.room.would_drain_in);
        }
        // A request that has lasted longer than most lasts until the end of the drain; one that nobody can count may.
        let caps = state.spec.caps;
        let lasts = busy && gone > takes || !caps.counts && !caps.lossless;
        let own = match deadline.since(now) {
            Millis(0) => left(takes, gone),
            until_end if busy && state.reopens() => until_end.min(left(takes, gone)),
            until_end if lasts => until_end.max(takes.since(gone)),
            _ => left(takes, gone),
        };
        let others = self.neighbours(id);
        let moves = |other: &ModelState| {
            if matches!(other.phase, Phase::Draining { .. }) {
                other.learned.sleep.promised()
            } else {
                other.remaining(now)
            }
        };
        let moving: Millis = others.map(moves).fold(Millis(0), |sum, takes| sum + takes);
        own.max(from.since(now)).max(moving)
    }

    /// What is left until a model that leaves has left.
    pub(crate) fn leaving_takes(&self, now: Millis, state: &ModelState) -> Millis {
        match state.phase {
            Phase::Draining { deadline, .. } => {
                let mut left = self.drain_left(now, state);
                if state.reopens() && self.gates.in_flight(state.slot) > 0 {
                    let (length, gone) = (deadline.since(state.since), now.since(state.since));
                    let takes = attempts(length, state.room.would_drain_in);
                    left = left.max(takes.since(gone));
                }
                left + state.learned.sleep.promised()
            }
            Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Waking { .. }
            | Phase::Serving
            | Phase::Sleeping { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => state.remaining(now),
        }
    }
}

/// How long it takes to drain requests that last so long, where the first drain ends after `length`, the next after twice that, and so
/// on, with a rest behind each that is as long as itself.
fn attempts(length: Millis, takes: Millis) -> Millis {
    let (mut passed, mut length) = (Millis(0), length);
    for _ in 0..LONGER_DRAINS {
        if takes <= length {
            break;
        }
        passed = passed + length + length;
        length = length + length;
    }
    passed + takes
}

/// Whether gates are told a new estimate: not for every second that passes, but sooner that it takes longer than that it does not.
fn notable(old: Millis, new: Millis) -> bool {
    let (longer, shorter) = (new.since(old), old.since(new));
    longer.0 > 100 && longer.0 > old.0 / 10 || shorter.0 > 500 && shorter.0 > old.0 / 4
}

/// What is left of something that takes so long and has lasted for a while. What is overdue stays so for longer, the longer it is.
fn left(takes: Millis, gone: Millis) -> Millis {
    let overdue = gone.since(takes);
    if overdue > Millis(0) {
        Millis(overdue.0.saturating_mul(3)) + WAY
    } else {
        takes.since(gone)
    }
}

impl ModelState {
    /// Its engine cannot freeze requests that last longer than its drain, and they are not cut off.
    fn reopens(&self) -> bool {
        match self.spec.on_drain_timeout {
            OnDrainTimeout::Freeze => !self.spec.caps.lossless,
            OnDrainTimeout::Cancel => true,
            OnDrainTimeout::Abort => false,
        }
    }

    /// What is left of the action that is under way on it, by what was learned.
    pub(crate) fn remaining(&self, now: Millis) -> Millis {
        let gone = now.since(self.since);
        match &self.phase {
            Phase::Waking { .. } | Phase::Booting(Boot::Starting(_) | Boot::Waking(_)) => {
                left(self.wake_takes(), gone)
            }
            Phase::Sleeping { .. } | Phase::Booting(Boot::Sleeping(_)) => {
                left(self.learned.sleep.promised(), gone)
            }
            Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => Millis(0),
        }
    }
}
