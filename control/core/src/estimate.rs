//! How long a request that arrives now would wait: sums of what was learned, each a quantile, along the way that it has to go. Every
//! first estimate is compared with the wait that followed.

use crate::{
    Core,
    decision::WaitCauses,
    ids::{Bytes, Millis, ModelId},
    phase::{Boot, Phase},
    policy::{self, Choice, Need},
    state::{ModelState, Resident},
};

/// An estimate is made anew after this.
const ESTIMATED_FOR: Millis = Millis(1_000);
/// Where nothing is known that could ever make room, or only an operator knows.
const NO_IDEA: Millis = Millis::seconds(60);

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
    /// Estimated wait of a request that arrives as the model enters `phase`.
    pub(crate) fn estimate(&self, now: Millis, id: &ModelId, phase: &Phase) -> Millis {
        let Some(state) = self.models.get(id) else {
            return Millis(0);
        };
        let learned = &state.learned;
        let round_trip = learned.sleep.promised() + learned.wake.promised();
        match phase {
            Phase::Booting(Boot::Observing { .. } | Boot::Waiting | Boot::Starting(_)) => {
                learned.start.promised() + round_trip
            }
            Phase::Booting(Boot::Started | Boot::Sleeping(_) | Boot::Slept | Boot::Waking(_)) => {
                round_trip
            }
            Phase::Booting(Boot::Unanswered) | Phase::Waking { .. } => state.wake_takes(),
            Phase::Asleep | Phase::Queued if self.is_stopped(id) => NO_IDEA,
            Phase::Asleep | Phase::Queued => self.in_line(now, state),
            Phase::Sleeping { .. } => learned.sleep.promised() + self.in_line(now, state),
            // It comes back after those for whom it goes.
            Phase::Draining { .. } => {
                let drain = self.drain_takes(state, self.gates.in_flight(state.slot) > 0);
                drain + learned.sleep.promised() + self.in_line(now, state)
            }
            Phase::Failed { retry_at, .. } => retry_at.map_or(NO_IDEA, |at| at.since(now)),
            Phase::Serving | Phase::Removed { .. } => Millis(0),
        }
    }

    /// Publishes a better estimate to those who come now, where it has become another one.
    pub(crate) fn update_estimate(&mut self, now: Millis, id: &ModelId) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        if now < state.estimated_at + ESTIMATED_FOR {
            return;
        }
        let new = self.estimate(now, id, &state.phase);
        let old = state.estimate;
        let change = new.since(old) + old.since(new);
        let notable = change.0 > 500 && change.0 > old.0 / 4;
        if let Some(state) = self.models.get_mut(id) {
            state.estimated_at = now;
            if notable {
                state.estimate = new;
            }
        }
    }

    /// What is under way on its GPUs, then everybody who waits before it, then room for itself, then its wake.
    fn in_line(&self, now: Millis, state: &ModelState) -> Millis {
        let id = &state.spec.id;
        let neighbours: Vec<&ModelState> = self.neighbours(id).collect();
        let moving = neighbours.iter().map(|other| remaining(other, now));
        let mut wait = moving.max().unwrap_or_default();
        let since = waits_since(state, now);
        let before = |other: &&ModelState| {
            let queued = matches!(
                other.phase,
                Phase::Queued | Phase::Booting(Boot::Waiting | Boot::Slept)
            );
            queued && (waits_since(other, now), &other.spec.id) < (since, id)
        };
        let ahead: Vec<&ModelState> = neighbours.iter().copied().filter(before).collect();
        for other in &ahead {
            wait = wait + other.learned.sleep.promised() + other.wake_takes();
        }
        let turns = ahead.len();
        let serving = neighbours
            .iter()
            .filter(|other| matches!(other.phase, Phase::Serving));
        // Who goes for those at the end of a long queue has only just been woken for those at its front, and may be busy.
        let cycles = turns / serving.count().max(1);
        let stays = |other: &&ModelState| other.spec.min_runtime + self.drain_takes(other, true);
        for stay in ahead.iter().map(stays).take(cycles) {
            wait = wait + stay;
        }
        // Whoever is first waits for somebody to go; from then on one after the other goes and comes.
        let first = ahead
            .into_iter()
            .min_by_key(|other| waits_since(other, now));
        let sleep = if turns > 0 {
            state.learned.sleep.promised()
        } else {
            Millis(0)
        };
        wait + self.room_takes(now, first.unwrap_or(state)) + sleep + state.wake_takes()
    }

    /// How long it takes until there is room for a model at the head of its queue.
    fn room_takes(&self, now: Millis, state: &ModelState) -> Millis {
        let id = &state.spec.id;
        let needs = self.needs(now, id);
        if needs.iter().all(|need| need.needs <= need.free) {
            return Millis(0);
        }
        let missing: Vec<_> = needs
            .iter()
            .filter(|need| need.missing > Bytes(0))
            .map(|need| (need.gpu, need.missing))
            .collect();
        if missing.is_empty() {
            let leaving = self.neighbours(id).filter(|other| other.leaves_soon(now));
            return leaving
                .map(|other| self.leaving_takes(now, other))
                .max()
                .unwrap_or_default();
        }
        let need = Need {
            missing,
            busy_from: waits_since(state, now) + state.spec.max_wait,
            urgent: false,
        };
        let candidates = self.candidates(now, &need);
        let (from, victims) = match policy::choose(self.fleet.policy, &need, &candidates, now) {
            Choice::Victims(victims) => (now, victims),
            Choice::Wait(None) => return NO_IDEA,
            Choice::Wait(Some(at)) => {
                match policy::choose(self.fleet.policy, &need, &candidates, at) {
                    Choice::Victims(victims) => (at, victims),
                    Choice::Wait(_) => (at, Vec::new()),
                }
            }
        };
        let victims = victims.iter().filter_map(|id| self.models.get(id));
        let leave = |victim: &ModelState| {
            let busy = self.gates.in_flight(victim.slot) > 0;
            self.drain_takes(victim, busy) + victim.learned.sleep.promised()
        };
        let leaving = victims.map(leave).fold(Millis(0), |sum, takes| sum + takes);
        // Soon after a start of control nobody may be put to sleep yet.
        from.max(self.sleeps_from()).since(now) + leaving
    }

    /// How long a drain takes from now on.
    pub(crate) fn drain_takes(&self, state: &ModelState, busy: bool) -> Millis {
        let (caps, timeout) = (state.spec.caps, state.spec.drain_timeout);
        let bound = self.fleet.times.forward_bound;
        // A heartbeat's way there and back; and what may still be on its way to an engine that would lose it.
        let least = match (caps.lossless, caps.counts) {
            (true, _) => Millis(50),
            (false, true) => bound + Millis(50),
            (false, false) => timeout.max(bound),
        };
        if busy {
            state.learned.drain.promised().min(timeout).max(least)
        } else {
            least
        }
    }

    /// What is left until a model that leaves has left.
    fn leaving_takes(&self, now: Millis, state: &ModelState) -> Millis {
        match state.phase {
            Phase::Draining { deadline, .. } => {
                let drain = self.drain_takes(state, self.gates.in_flight(state.slot) > 0);
                drain.min(deadline.since(now)) + state.learned.sleep.promised()
            }
            Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Waking { .. }
            | Phase::Serving
            | Phase::Sleeping { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => remaining(state, now),
        }
    }

    /// Somebody begins to wait for a model.
    pub(crate) fn wait_begins(&mut self, now: Millis, id: &ModelId) {
        if let Some(state) = self.models.get_mut(id) {
            state.wait = Some(Wait {
                since: now,
                promised: state.estimate,
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
        let Some(wait) = self.models.get_mut(id).and_then(|state| state.wait.take()) else {
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
        self.models.get_mut(id)?.wait.as_mut()
    }
}

fn waits_since(state: &ModelState, now: Millis) -> Millis {
    match state.phase {
        Phase::Queued | Phase::Booting(_) => state.waiting_since(),
        Phase::Asleep
        | Phase::Waking { .. }
        | Phase::Serving
        | Phase::Draining { .. }
        | Phase::Sleeping { .. }
        | Phase::Failed { .. }
        | Phase::Removed { .. } => now,
    }
}

/// What is left of the action that is under way on a model, by what was learned.
fn remaining(state: &ModelState, now: Millis) -> Millis {
    let takes = match &state.phase {
        Phase::Waking { .. } | Phase::Booting(Boot::Starting(_) | Boot::Waking(_)) => {
            state.wake_takes()
        }
        Phase::Sleeping { .. } | Phase::Booting(Boot::Sleeping(_)) => {
            state.learned.sleep.promised()
        }
        Phase::Booting(_)
        | Phase::Asleep
        | Phase::Queued
        | Phase::Serving
        | Phase::Draining { .. }
        | Phase::Failed { .. }
        | Phase::Removed { .. } => return Millis(0),
    };
    takes.since(now.since(state.since))
}

impl ModelState {
    /// Since when a model waits: frozen requests wait from their freeze on.
    pub(crate) fn waiting_since(&self) -> Millis {
        self.frozen_since
            .map_or(self.since, |frozen| frozen.min(self.since))
    }

    /// Its requests have been frozen for longer than its operator allows.
    pub(crate) fn is_urgent(&self, now: Millis) -> bool {
        self.frozen_since.is_some_and(|since| {
            sabotage!(
                MaxFreezeIgnored,
                false,
                now.since(since) >= self.spec.max_freeze
            )
        })
    }

    /// It takes room on its GPUs that it could give up.
    pub(crate) fn holds_room(&self) -> bool {
        self.resident == Resident::Awake || self.phase.in_transition()
    }
}
