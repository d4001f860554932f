//! How long a request that arrives now would wait: what was learned of each step of the way that it has to go (see `line`). Every first
//! estimate is compared with the wait that followed.

use std::collections::BTreeSet;

use crate::{
    Core, LONGER_DRAINS,
    decision::WaitCauses,
    ids::{GpuId, Millis, ModelId},
    learned::Span,
    model::OnDrainTimeout,
    phase::{Boot, Phase, Tier},
    state::{ModelState, Resident},
};

/// An estimate is made anew after this …
const ESTIMATED_FOR: Millis = Millis(1_000);
/// … and after this for each model on its GPU: so many others move it, and so many rows would follow.
const ESTIMATED_FOR_EACH: Millis = Millis(10);
/// Where no more models are on a GPU, those who sleep there are told at once what others do.
const TOLD_AT_ONCE: usize = 8;
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
            Phase::Booting(Boot::Slept) => self.in_line(now, state),
            Phase::Booting(Boot::Observing { .. }) => {
                learned.start.promised() + self.ready_in(now, state)
            }
            Phase::Booting(Boot::Starting(_)) => state.remaining(now) + self.ready_in(now, state),
            Phase::Booting(Boot::Started) => {
                self.first_sleep_from(state).since(now) + self.ready_in(now, state)
            }
            Phase::Booting(Boot::Sleeping(_)) if !state.spec.conditioned => {
                state.remaining(now) + self.in_line_since(now, state, now)
            }
            Phase::Booting(Boot::Sleeping(_) | Boot::Waking(_)) => state.remaining(now) + WAY,
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
    pub(crate) fn most_on_a_gpu(&self, state: &ModelState) -> usize {
        let gpus = state.spec.gpus.iter();
        let there = gpus.filter_map(|gpu| self.places.gpu(*gpu).map(|place| place.models.len()));
        there.max().unwrap_or(0)
    }

    fn estimated_for(&self, state: &ModelState) -> Millis {
        let there = u64::try_from(self.most_on_a_gpu(state)).unwrap_or(u64::MAX);
        ESTIMATED_FOR.max(Millis(ESTIMATED_FOR_EACH.0.saturating_mul(there)))
    }

    /// Everybody who waits before it, then room for itself, then its wake.
    fn in_line(&self, now: Millis, state: &ModelState) -> Millis {
        self.in_line_since(now, state, state.waits_since(now))
    }

    /// A model that has started serves whoever asked for it; where it has to be measured it sleeps first, and wakes once more behind all
    /// who wait now.
    fn ready_in(&self, now: Millis, state: &ModelState) -> Millis {
        if state.spec.conditioned {
            WAY
        } else {
            state.learned.sleep.promised() + self.in_line_since(now, state, now)
        }
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
        // Nobody overtakes who waits for other GPUs, too.
        let (mut gpus, mut ahead) = (Vec::new(), vec![state]);
        loop {
            let asked = ahead.iter().flat_map(|other| &other.spec.gpus);
            let new: BTreeSet<GpuId> = asked.copied().filter(|gpu| !gpus.contains(gpu)).collect();
            if new.is_empty() {
                break;
            }
            gpus.extend(new);
            let there = self.places.on(&gpus).into_iter();
            let there = there.filter_map(|slot| self.models.at(slot));
            ahead = there
                .filter(|other| other.slot != state.slot)
                .filter(before)
                .collect();
        }
        ahead.sort_by_key(|other| (place(other), &other.spec.id));
        let awake = self.awake_at(now, state, gpus, &ahead);
        awake.map_or(NO_IDEA, |at| at.since(now) + WAY)
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
        let silence = self.silence(state, cause);
        let silent = self.gates.blocked_until(state.slot, *epoch, silence);
        let unheard = self.drains_from(state, cause);
        let silent = silent.max(unheard).since(now);
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
        own.max(silent).max(moving)
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

    /// A drain ran out with so many requests in flight: it would have taken as long as it takes until the last of them ends, where each
    /// may end at any moment, as often as the others did; but nobody knows more than a few times what was seen.
    pub(crate) fn drain_ran_out(&mut self, length: Millis, in_flight: u64) {
        let ended = self.room.drained_from.saturating_sub(in_flight).max(1);
        let there = (self.room.drained_from.max(in_flight) + in_flight) / 2;
        let each = length.0.saturating_mul(there) / ended;
        let last: u64 = (1..=in_flight.min(1_000)).map(|left| 1_000 / left).sum();
        let rest = (each.saturating_mul(last) / 1_000).min(length.0.saturating_mul(3));
        self.room.would_drain_in = length + Millis(rest);
    }

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
