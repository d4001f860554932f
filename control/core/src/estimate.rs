//! How long a request that arrives now would wait: what was learned of each step of the way that it has to go (see `line`). Every first
//! estimate is compared with the wait that followed.

use crate::{
    Core,
    decision::WaitCauses,
    ids::{Millis, ModelId},
    learned::Span,
    phase::{Boot, Phase, Tier},
    state::{ModelState, Resident},
};

/// An estimate is made anew after this …
const ESTIMATED_FOR: Millis = Millis(1_000);
/// … and after this for each model on its GPU: so many others move it, and so many rows would follow.
const ESTIMATED_FOR_EACH: Millis = Millis(10);
/// Where nothing is known that could ever make room, or only an operator knows.
const NO_IDEA: Millis = Millis::seconds(60);
/// A message's way to a gate and the answer's way back.
const WAY: Millis = Millis(50);

/// The way of a model from the first wish until it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    since: Millis,
    promised: Millis,
    chosen: Option<Millis>,
    drained: Option<Millis>,
    room: Option<Millis>,
}

impl Core {
    /// Estimated wait of a request that arrives now.
    pub(crate) fn estimate(&self, now: Millis, id: &ModelId) -> Millis {
        let Some(state) = self.models.get(id) else {
            return Millis(0);
        };
        let learned = &state.learned;
        match &state.phase {
            Phase::Booting(Boot::Waiting | Boot::Slept) if self.gpus_are_stopped(id) => NO_IDEA,
            Phase::Booting(Boot::Waiting) => self.in_line(now, state) + self.ready_in(now, state),
            Phase::Booting(Boot::Slept) => self.in_line(now, state) + learned.sleep.promised(),
            Phase::Booting(Boot::Observing { .. } | Boot::Starting(_)) => {
                learned.start.promised() + self.ready_in(now, state)
            }
            Phase::Booting(Boot::Started | Boot::Sleeping(_) | Boot::Waking(_)) => {
                self.sleeps_from().since(now) + self.ready_in(now, state)
            }
            Phase::Booting(Boot::Unanswered) | Phase::Waking { .. } => state.wake_takes() + WAY,
            Phase::Asleep | Phase::Queued if self.gpus_are_stopped(id) => NO_IDEA,
            // Who still leaves comes back after those for whom it goes.
            Phase::Asleep | Phase::Queued | Phase::Sleeping { .. } | Phase::Draining { .. } => {
                self.in_line(now, state)
            }
            Phase::Failed { retry_at: None, .. } => NO_IDEA,
            Phase::Failed {
                retry_at: Some(at), ..
            } if state.told.boot_ready => at.since(now),
            // Its first start begins anew.
            Phase::Failed {
                retry_at: Some(at), ..
            } => at.since(now) + self.in_line(now, state) + self.ready_in(now, state),
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
        if now < state.told.estimated_at + self.estimated_for(state) {
            return;
        }
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

    fn estimated_for(&self, state: &ModelState) -> Millis {
        let gpus = state.spec.gpus.iter();
        let there = gpus.filter_map(|gpu| self.places.gpu(*gpu).map(|place| place.models.len()));
        let there = u64::try_from(there.max().unwrap_or(0)).unwrap_or(u64::MAX);
        ESTIMATED_FOR.max(Millis(ESTIMATED_FOR_EACH.0.saturating_mul(there)))
    }

    /// Everybody who waits before it, then room for itself, then its wake.
    fn in_line(&self, now: Millis, state: &ModelState) -> Millis {
        self.in_line_since(now, state, state.waits_since(now))
    }

    /// A model that has started sleeps before it is ready; and where it has to be measured, it wakes once more, behind all who wait now.
    fn ready_in(&self, now: Millis, state: &ModelState) -> Millis {
        let learned = &state.learned;
        let once_more = if state.spec.conditioned {
            learned.wake.promised()
        } else {
            self.in_line_since(now, state, now) + learned.sleep.promised()
        };
        learned.sleep.promised() + once_more
    }

    /// … where it has waited since then.
    fn in_line_since(&self, now: Millis, state: &ModelState, since: Millis) -> Millis {
        let place = |state: &ModelState| (!state.is_urgent(now), state.waits_since(now));
        let own = ((!state.is_urgent(now), since), &state.spec.id);
        let before = |other: &&ModelState| {
            let queued = matches!(
                other.phase,
                Phase::Queued | Phase::Booting(Boot::Waiting | Boot::Slept)
            );
            queued && (place(other), &other.spec.id) < own && !self.gpus_are_stopped(&other.spec.id)
        };
        let mut ahead: Vec<&ModelState> = self.neighbours(&state.spec.id).filter(before).collect();
        ahead.sort_by_key(|other| (place(other), &other.spec.id));
        let awake = self.awake_at(now, state, &ahead);
        awake.map_or(NO_IDEA, |at| at.since(now) + WAY)
    }

    /// How long a drain takes from now on.
    pub(crate) fn drain_takes(&self, state: &ModelState, busy: bool) -> Span {
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
        let silence = self.silence(state, cause);
        let silent = self.gates.blocked_until(state.slot, *epoch, silence);
        let unheard = self.drains_from(state, cause);
        let silent = silent.max(unheard).since(now);
        let busy = self.gates.in_flight(state.slot) > 0;
        let (takes, gone) = (self.drain_takes(state, busy).most, now.since(state.since));
        // A request that has lasted longer than most lasts until the end of the drain; one that nobody can count may.
        let caps = state.spec.caps;
        let lasts = busy && gone > takes || !caps.counts && !caps.lossless;
        let own = match deadline.since(now) {
            Millis(0) => left(takes, gone),
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
        own.max(silent).max(moving)
    }

    /// What is left until a model that leaves has left.
    pub(crate) fn leaving_takes(&self, now: Millis, state: &ModelState) -> Millis {
        match state.phase {
            Phase::Draining { .. } => self.drain_left(now, state) + state.learned.sleep.promised(),
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

    /// Somebody begins to wait for a model.
    pub(crate) fn wait_begins(&mut self, now: Millis, id: &ModelId) {
        if let Some(state) = self.models.get_mut(id) {
            state.room.wait = Some(Wait {
                since: now,
                promised: state.told.estimate,
                chosen: None,
                drained: None,
                room: None,
            });
        }
    }

    /// It was decided who makes room.
    pub(crate) fn wait_chosen(&mut self, now: Millis, id: &ModelId) {
        if let Some(wait) = self.wait_of(id) {
            wait.chosen.get_or_insert(now);
        }
    }

    /// A victim has drained and goes to sleep.
    pub(crate) fn wait_drained(&mut self, now: Millis, id: &ModelId) {
        if let Some(wait) = self.wait_of(id) {
            wait.drained = Some(now);
        }
    }

    /// There is room.
    pub(crate) fn wait_has_room(&mut self, now: Millis, id: &ModelId) {
        if let Some(wait) = self.wait_of(id) {
            wait.chosen.get_or_insert(now);
            wait.room = Some(now);
        }
    }

    /// It serves: what was waited for, and how good the estimate was.
    pub(crate) fn wait_ends(&mut self, now: Millis, id: &ModelId) {
        let Some(wait) = self
            .models
            .get_mut(id)
            .and_then(|state| state.room.wait.take())
        else {
            return;
        };
        let room = wait.room.unwrap_or(now);
        let chosen = wait.chosen.unwrap_or(room);
        let drained = wait.drained.unwrap_or(chosen);
        let WaitCauses {
            turn,
            drain,
            sleep,
            wake,
        } = &mut self.tally.waits;
        *turn += chosen.since(wait.since).0;
        *drain += drained.since(chosen).0;
        *sleep += room.since(drained).0;
        *wake += now.since(room).0;
        let waited = now.since(wait.since);
        let score = &mut self.tally.estimates;
        score.scored += 1;
        score.kept += u64::from(waited <= wait.promised);
        score.estimated += wait.promised.0;
        score.waited += waited.0;
        score.off += (waited.since(wait.promised) + wait.promised.since(waited)).0;
    }

    fn wait_of(&mut self, id: &ModelId) -> Option<&mut Wait> {
        self.models.get_mut(id)?.room.wait.as_mut()
    }
}

/// Whether gates are told a new estimate: not for every second that passes.
fn notable(old: Millis, new: Millis) -> bool {
    let change = new.since(old) + old.since(new);
    change.0 > 500 && change.0 > old.0 / 4
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
    /// Since when it waits, or that it would begin now.
    pub(crate) fn waits_since(&self, now: Millis) -> Millis {
        match self.phase {
            Phase::Queued | Phase::Booting(_) => self.waiting_since(),
            Phase::Asleep
            | Phase::Waking { .. }
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Sleeping { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => now,
        }
    }

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

    /// Since when a model waits: frozen requests wait from their freeze on, and held ones since before this life where they do.
    pub(crate) fn waiting_since(&self) -> Millis {
        let held = sabotage!(WaitsBeginAnew, None, self.asked.held_since);
        let earlier = self.engine.frozen_since.into_iter().chain(held);
        earlier.fold(self.since, Millis::min)
    }

    /// Its requests have been frozen for longer than its operator allows.
    pub(crate) fn is_urgent(&self, now: Millis) -> bool {
        self.engine.frozen_since.is_some_and(|since| {
            sabotage!(
                MaxFreezeIgnored,
                false,
                now.since(since) >= self.spec.max_freeze
            )
        })
    }

    /// It takes room on its GPUs that it could give up.
    pub(crate) fn holds_room(&self) -> bool {
        self.engine.resident == Resident::Awake || self.phase.in_transition()
    }
}
