//! Who gets room next: the queue of each GPU, oldest wish first, and the victims that make room.

use std::collections::BTreeSet;

use crate::{
    Core,
    agenda::Turn,
    effect::Effect,
    ids::{Bytes, GpuId, Millis, ModelId},
    phase::{Boot, Cause, Failure, Phase, Tier},
    policy::{self, Choice, Need, Resident as Candidate},
    state::{ModelState, Resident},
};

/// A queue is looked at again after this, whatever happens: what it waits for may pass without an event.
const LOOK_AGAIN: Millis = Millis(1_000);

impl Core {
    /// Starts what can start now on these GPUs, chooses victims for what cannot. Strictly by waiting time on each GPU, so that nobody
    /// starves.
    pub(crate) fn schedule(
        &mut self,
        now: Millis,
        mut gpus: BTreeSet<GpuId>,
        effects: &mut Vec<Effect>,
    ) {
        gpus.extend(self.places.dirty());
        if !self.open || self.places.any_observing() {
            return;
        }
        while let Some(gpu) = gpus.pop_first() {
            let together = self.waiting_together(gpu);
            self.turn_at = None;
            self.serve_queues(now, &together, effects);
            for gpu in &together {
                gpus.remove(gpu);
                let at = self.turn_at;
                self.agenda.set(Turn::Gpu(*gpu), at);
            }
        }
    }

    /// The GPUs whose queues must be served together with this one's: those that share a waiting model with it.
    fn waiting_together(&self, gpu: GpuId) -> BTreeSet<GpuId> {
        let mut together = BTreeSet::from([gpu]);
        let mut new = vec![gpu];
        while let Some(gpu) = new.pop() {
            let queued = self.places.gpu(gpu).map(|place| place.queued.iter());
            let states = queued
                .into_iter()
                .flatten()
                .filter_map(|id| self.models.get(id));
            for gpu in states.flat_map(|state| &state.spec.gpus) {
                if together.insert(*gpu) {
                    new.push(*gpu);
                }
            }
        }
        together
    }

    fn serve_queues(&mut self, now: Millis, gpus: &BTreeSet<GpuId>, effects: &mut Vec<Effect>) {
        let moves = |gpu: &&GpuId| {
            let place = self.places.gpu(**gpu);
            place.is_some_and(|place| !place.moving.is_empty())
        };
        let mut taken: BTreeSet<GpuId> = gpus.iter().filter(moves).copied().collect();
        let queue = self.queue(now, gpus);
        if !queue.is_empty() {
            self.wake_at(Some(now + LOOK_AGAIN));
        }
        for id in queue {
            let Some(state) = self.models.get(&id) else {
                continue;
            };
            let gpus = state.spec.gpus.clone();
            // S6: one transition per GPU at a time; and nobody overtakes on a GPU.
            let waits = gpus.iter().any(|gpu| taken.contains(gpu));
            if waits || self.serve_head(now, &id, effects) {
                taken.extend(gpus);
            }
        }
        self.relieve_overcommitted(now, gpus, &taken, effects);
    }

    /// Everybody who waits for room there: those with requests frozen for too long first, then by waiting time, then by name.
    fn queue(&self, now: Millis, gpus: &BTreeSet<GpuId>) -> Vec<ModelId> {
        let places = gpus.iter().filter_map(|gpu| self.places.gpu(*gpu));
        let waiting: BTreeSet<&ModelId> = places.flat_map(|place| &place.queued).collect();
        let states = waiting.into_iter().filter_map(|id| self.models.get(id));
        let mut queue: Vec<_> = states
            .map(|state| (!urgent(state, now), waiting_since(state), &state.spec.id))
            .collect();
        queue.sort();
        queue.into_iter().map(|(_, _, id)| id.clone()).collect()
    }

    /// The head of a queue: wake it, wait, or make room. Returns whether those behind it wait for it: not where nothing is known that
    /// could ever make room for it.
    fn serve_head(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) -> bool {
        if let Some(reason) = self.never_fits(id) {
            self.fail(now, id, Failure::NeverFits, None, &reason, effects);
            return true;
        }
        let missing = self.missing(now, id, false);
        if missing.is_empty() {
            self.start_or_wake(now, id, effects);
            return true;
        }
        let missing = self.missing(now, id, true);
        if missing.is_empty() {
            // Enough is on its way out already.
            return true;
        }
        let Some(state) = self.models.get(id) else {
            return true;
        };
        let since = waiting_since(state);
        let urgent = urgent(state, now);
        let need = Need {
            missing,
            busy_from: since + state.spec.max_wait,
            urgent,
        };
        let wake_again = state
            .frozen_since
            .map(|at| at + state.spec.max_freeze)
            .filter(|at| *at > now);
        self.wake_at(wake_again);
        // Nobody may sleep yet: a barrier would refuse requests for nothing.
        if now < self.sleeps_from() {
            self.wake_at(Some(self.sleeps_from()));
            return true;
        }
        let candidates = self.candidates(&need);
        match policy::choose(&need, &candidates, now) {
            Choice::Victims(victims) => {
                for victim in victims {
                    let sentence = self.why(now, &victim, id, &candidates);
                    self.begin_drain(now, &victim, Cause::Preempt(id.clone()), sentence, effects);
                    self.advance(now, &victim, effects);
                }
                if let Some(state) = self.models.get_mut(id) {
                    state.stuck = false;
                }
                true
            }
            Choice::Wait(None) if !self.room_may_come(now, id) => {
                self.give_up_waiting(now, id, effects);
                false
            }
            Choice::Wait(until) => {
                self.wake_at(until);
                true
            }
        }
    }

    /// Whether something that is under way on a model's GPUs ends by itself and may leave room.
    fn room_may_come(&self, now: Millis, id: &ModelId) -> bool {
        self.neighbours(id).any(|other| {
            leaves_soon(other, now) || matches!(other.phase, Phase::Booting(Boot::Started))
        })
    }

    /// The other models that share a GPU with this one.
    fn neighbours(&self, id: &ModelId) -> impl Iterator<Item = &ModelState> {
        let gpus = self.models.get(id).map(|state| state.spec.gpus.as_slice());
        let around = self.places.on(gpus.unwrap_or_default());
        let others = around.into_iter().filter(move |other| *other != id);
        others.filter_map(|other| self.models.get(other))
    }

    /// Those who wait are told so; it stays in the queue.
    fn give_up_waiting(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        if !std::mem::replace(&mut state.stuck, true) {
            let sentence = "no room can be made: what holds its GPU cannot be put to sleep now; requests get 503 `too_long`, others may go first";
            self.record(now, id, sentence, effects);
        }
    }

    fn start_or_wake(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let attempt = self.next_attempt();
        let Some(state) = self.models.get(id) else {
            return;
        };
        let start = state.resident == Resident::Stopped && state.spec.caps.restartable;
        let phase = match (&state.phase, start) {
            (Phase::Booting(_), true) => Phase::Booting(Boot::Starting(attempt)),
            (Phase::Booting(_), false) => Phase::Booting(Boot::Waking(attempt)),
            (_, _) => Phase::Waking { attempt },
        };
        let model = id.clone();
        let held = self.gates.held(id);
        let takes = state.wake_takes();
        let sentence = match (&phase, start) {
            (Phase::Booting(_), true) => "first start".to_owned(),
            (Phase::Booting(_), false) => "waking once to be measured".to_owned(),
            (_, true) => format!(
                "starting for {}, about {takes}",
                requests(held, state.inside)
            ),
            (_, false) => format!("waking for {}, about {takes}", requests(held, state.inside)),
        };
        effects.push(if start {
            Effect::Start { model, attempt }
        } else {
            Effect::Wake {
                model,
                attempt,
                tier: Tier::Ram,
            }
        });
        if let Some(state) = self.models.get_mut(id) {
            // Somebody asked: the wish that it sleeps is over. One that comes from here on is obeyed when it is awake.
            state.operator_sleeps = false;
        }
        self.enter(now, id, phase);
        self.record(now, id, sentence, effects);
    }

    /// What is missing per GPU for a model to wake. `expected`: count what is on its way out as free.
    fn missing(&self, now: Millis, id: &ModelId, expected: bool) -> Vec<(GpuId, Bytes)> {
        let Some(state) = self.models.get(id) else {
            return Vec::new();
        };
        let need = state.spec.awake.less(state.reserved());
        let lacking = state.spec.gpus.iter().map(|gpu| {
            let free = self.capacity(*gpu).less(self.reserved_on(*gpu));
            let coming: Bytes = if expected {
                self.models_on(*gpu)
                    .filter(|other| leaves_soon(other, now))
                    .map(|other| {
                        other.reserved().less(if other.ending {
                            Bytes(0)
                        } else {
                            other.spec.asleep
                        })
                    })
                    .sum()
            } else {
                Bytes(0)
            };
            (*gpu, need.less(free + coming))
        });
        lacking.filter(|(_, lacking)| *lacking > Bytes(0)).collect()
    }

    /// Why a model can never be woken with this fleet, if so.
    pub(crate) fn never_fits(&self, id: &ModelId) -> Option<String> {
        let state = self.models.get(id)?;
        state.spec.gpus.iter().find_map(|gpu| {
            let others = self.models_on(*gpu).filter(|other| other.spec.id != *id);
            let kept: Bytes = others
                .map(|other| match (other.spec.pinned && !other.disabled, other.resident) {
                    (true, _) => other.spec.awake,
                    (false, Resident::Stopped) => Bytes(0),
                    (false, Resident::Asleep(left)) => left.min(other.spec.awake),
                    (false, Resident::Awake) => other.spec.asleep,
                })
                .sum();
            let most = self.capacity(*gpu).less(kept);
            (state.spec.awake > most).then(|| {
                format!(
                    "it needs {} on GPU {}, and at most {most} can ever be free there ({} less {kept} that pinned and sleeping models keep)",
                    state.spec.awake,
                    gpu.0,
                    self.capacity(*gpu)
                )
            })
        })
    }

    /// More is awake than fits (found at start, or measured larger than declared): put the least recently used to sleep.
    fn relieve_overcommitted(
        &mut self,
        now: Millis,
        gpus: &BTreeSet<GpuId>,
        taken: &BTreeSet<GpuId>,
        effects: &mut Vec<Effect>,
    ) {
        for gpu in gpus.iter().copied() {
            let excess = self.reserved_on(gpu).less(self.capacity(gpu));
            if excess == Bytes(0) {
                continue;
            }
            if now < self.sleeps_from() {
                self.wake_at(Some(self.sleeps_from()));
                continue;
            }
            self.wake_at(Some(now + LOOK_AGAIN));
            let leaving = |state: &ModelState| matches!(state.phase, Phase::Draining { .. });
            if taken.contains(&gpu) || self.models_on(gpu).any(leaving) {
                continue;
            }
            let need = Need {
                missing: vec![(gpu, excess)],
                busy_from: now,
                urgent: false,
            };
            let candidates = self.candidates(&need);
            match policy::choose(&need, &candidates, now) {
                Choice::Victims(victims) => {
                    for victim in victims {
                        let sentence = format!(
                            "GPU {} holds {excess} more than it should: going to sleep",
                            gpu.0
                        );
                        self.begin_drain(now, &victim, Cause::Overcommit, sentence, effects);
                    }
                }
                Choice::Wait(until) => self.wake_at(until),
            }
        }
    }

    /// Every model that serves where something is missing, for the policy.
    fn candidates(&self, need: &Need) -> Vec<Candidate> {
        let gpus: Vec<GpuId> = need.missing.iter().map(|(gpu, _)| *gpu).collect();
        let there = self.places.on(&gpus).into_iter();
        let serving = there
            .filter_map(|id| self.models.get(id))
            .filter(|state| matches!(state.phase, Phase::Serving));
        serving
            .map(|state| {
                let id = &state.spec.id;
                let served = state.served_at.unwrap_or(state.since);
                Candidate {
                    model: id.clone(),
                    gpus: state.spec.gpus.clone(),
                    frees: state.spec.awake.less(state.spec.asleep),
                    pinned: state.spec.pinned && !state.disabled,
                    busy: self.gates.in_flight(id) > 0 || self.gates.held(id) > 0,
                    last_used: state.last_used.map_or(served, |used| used.max(served)),
                    not_before: (served + state.spec.min_runtime).max(state.spare_until),
                }
            })
            .collect()
    }

    fn why(
        &self,
        now: Millis,
        victim: &ModelId,
        waiter: &ModelId,
        candidates: &[Candidate],
    ) -> String {
        let Some(chosen) = candidates
            .iter()
            .find(|candidate| candidate.model == *victim)
        else {
            return String::new();
        };
        let use_ = if chosen.busy {
            "busy".to_owned()
        } else {
            format!("idle for {}", now.since(chosen.last_used))
        };
        format!(
            "making room for {waiter}: {use_}, least recently used of {} that can go; draining",
            candidates.len()
        )
    }

    /// Bytes reserved on a GPU now.
    pub(crate) fn reserved_on(&self, gpu: GpuId) -> Bytes {
        self.places
            .gpu(gpu)
            .map_or(Bytes(0), |place| place.reserved)
    }

    /// Every model that is placed on a GPU.
    fn models_on(&self, gpu: GpuId) -> impl Iterator<Item = &ModelState> {
        let place = self.places.gpu(gpu).map(|place| place.models.iter());
        place
            .into_iter()
            .flatten()
            .filter_map(|id| self.models.get(id))
    }

    /// Bytes that models may use on a GPU.
    pub(crate) fn capacity(&self, gpu: GpuId) -> Bytes {
        self.fleet.gpus.get(gpu.0).copied().unwrap_or_default()
    }

    /// Estimated wait of a request that arrives as the model enters `phase`.
    pub(crate) fn estimate(&self, now: Millis, id: &ModelId, phase: &Phase) -> Millis {
        let Some(state) = self.models.get(id) else {
            return Millis(0);
        };
        let wake = state.wake_takes();
        let round_trip = state.learned.sleep + state.learned.wake;
        match phase {
            Phase::Booting(Boot::Observing { .. } | Boot::Waiting | Boot::Starting(_)) => {
                state.learned.start + round_trip
            }
            Phase::Booting(Boot::Started | Boot::Sleeping(_) | Boot::Slept | Boot::Waking(_)) => {
                round_trip
            }
            Phase::Booting(Boot::Unanswered) | Phase::Waking { .. } | Phase::Asleep => wake,
            Phase::Queued => {
                let ahead = self
                    .neighbours(id)
                    .filter(|other| matches!(other.phase, Phase::Queued | Phase::Waking { .. }));
                let turn = |other: &ModelState| other.learned.sleep + other.wake_takes();
                ahead.fold(state.learned.sleep + wake, |sum, other| sum + turn(other))
            }
            Phase::Sleeping { .. } => round_trip,
            Phase::Draining { deadline, .. } => {
                round_trip
                    + if self.gates.in_flight(id) > 0 {
                        deadline.since(now)
                    } else {
                        Millis(0)
                    }
            }
            Phase::Failed { retry_at, .. } => retry_at.map_or(Millis(60_000), |at| at.since(now)),
            Phase::Serving | Phase::Removed { .. } => Millis(0),
        }
    }
}

/// Since when a model waits: frozen requests wait from their freeze on.
fn waiting_since(state: &ModelState) -> Millis {
    state
        .frozen_since
        .map_or(state.since, |frozen| frozen.min(state.since))
}

/// Its memory is on its way out. A removed model waits for its requests without end; after its drain time nobody counts on it.
fn leaves_soon(state: &ModelState, now: Millis) -> bool {
    let drains = match &state.phase {
        Phase::Draining {
            cause: Cause::Remove,
            deadline,
            ..
        } => now < *deadline,
        Phase::Draining { .. } | Phase::Sleeping { .. } => true,
        Phase::Booting(_)
        | Phase::Asleep
        | Phase::Queued
        | Phase::Waking { .. }
        | Phase::Serving
        | Phase::Failed { .. }
        | Phase::Removed { .. } => false,
    };
    drains || state.ending
}

/// Its requests have been frozen for longer than its operator allows.
fn urgent(state: &ModelState, now: Millis) -> bool {
    state
        .frozen_since
        .is_some_and(|since| now.since(since) >= state.spec.max_freeze)
}

fn requests(held: u64, inside: u64) -> String {
    let waiting = format!("{} held", counted(held));
    let frozen = format!("{} inside the engine", counted(inside));
    match (held, inside) {
        (0, 0) => "its operator, or a request that was told to come back".to_owned(),
        (_, 0) => waiting,
        (0, _) => frozen,
        (_, _) => format!("{waiting} and {frozen}"),
    }
}

/// "1 request", "2 requests".
pub(crate) fn counted(requests: u64) -> String {
    format!("{requests} request{}", if requests == 1 { "" } else { "s" })
}
