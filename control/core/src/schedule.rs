//! Who gets room next: the queue of each GPU, oldest wish first, and the victims that make room.

use std::collections::BTreeSet;

use crate::{
    Core,
    effect::Effect,
    ids::{Bytes, GpuId, Millis, ModelId},
    phase::{Boot, Cause, Failure, Phase},
    policy::{self, Choice, Need, Resident as Candidate},
    state::{ModelState, Resident},
};

impl Core {
    /// Starts what can start now, chooses victims for what cannot. Strictly by waiting time on each GPU, so that nobody starves.
    pub(crate) fn schedule(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let observing = self
            .models
            .values()
            .any(|state| matches!(state.phase, Phase::Booting(Boot::Observing { .. })));
        if !self.open || observing {
            return;
        }
        let mut taken: BTreeSet<GpuId> = BTreeSet::new();
        for state in self
            .models
            .values()
            .filter(|state| sabotage!(TwoTransitions, false, state.phase.in_transition()))
        {
            taken.extend(&state.spec.gpus);
        }
        for id in self.queue(now) {
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
        self.relieve_overcommitted(now, &taken, effects);
    }

    /// Everybody who waits for room: those with requests frozen for too long first, then by waiting time, then by name.
    fn queue(&self, now: Millis) -> Vec<ModelId> {
        let waits = |state: &&ModelState| {
            matches!(
                state.phase,
                Phase::Queued | Phase::Booting(Boot::Waiting | Boot::Slept)
            ) && !state.ending
        };
        let mut queue: Vec<_> = self
            .models
            .values()
            .filter(waits)
            .map(|state| {
                (
                    !urgent(state, now),
                    waiting_since(state),
                    state.spec.id.clone(),
                )
            })
            .collect();
        queue.sort();
        sabotage!(NewestFirst, queue.reverse());
        queue.into_iter().map(|(_, _, id)| id).collect()
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
        let candidates = self.candidates();
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
        let Some(state) = self.models.get(id) else {
            return false;
        };
        self.models.values().any(|other| {
            other.spec.id != *id
                && other
                    .spec
                    .gpus
                    .iter()
                    .any(|gpu| state.spec.gpus.contains(gpu))
                && (leaves_soon(other, now) || matches!(other.phase, Phase::Booting(Boot::Started)))
        })
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
            Effect::Wake { model, attempt }
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
        let lacking = state.spec.gpus.iter().map(|gpu| {
            // Of everything, not only of what it adds: nothing is begun on a GPU that is beyond its capacity already.
            let others = self.reserved_on(*gpu).less(state.reserved());
            let need = (others + state.spec.awake).less(self.capacity(*gpu));
            let coming: Bytes = if expected {
                let leaving =
                    |other: &&ModelState| other.spec.gpus.contains(gpu) && leaves_soon(other, now);
                self.models
                    .values()
                    .filter(leaving)
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
            (*gpu, need.less(coming))
        });
        lacking.filter(|(_, lacking)| *lacking > Bytes(0)).collect()
    }

    /// Why a model can never be woken with this fleet, if so.
    pub(crate) fn never_fits(&self, id: &ModelId) -> Option<String> {
        let state = self.models.get(id)?;
        state.spec.gpus.iter().find_map(|gpu| {
            let others = self.models.values().filter(|other| other.spec.id != *id && other.spec.gpus.contains(gpu));
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
        taken: &BTreeSet<GpuId>,
        effects: &mut Vec<Effect>,
    ) {
        if now < self.sleeps_from() {
            self.wake_at(Some(self.sleeps_from()));
            return;
        }
        let mut reserved = vec![Bytes(0); self.fleet.gpus.len()];
        for state in self.models.values() {
            for gpu in &state.spec.gpus {
                if let Some(sum) = reserved.get_mut(gpu.0) {
                    *sum = *sum + state.reserved();
                }
            }
        }
        for (index, reserved) in reserved.into_iter().enumerate() {
            let gpu = GpuId(index);
            let excess = reserved.less(self.capacity(gpu));
            if excess == Bytes(0) {
                continue;
            }
            let leaving = |state: &ModelState| {
                matches!(state.phase, Phase::Draining { .. }) && state.spec.gpus.contains(&gpu)
            };
            if taken.contains(&gpu) || self.models.values().any(leaving) {
                continue;
            }
            let need = Need {
                missing: vec![(gpu, excess)],
                busy_from: now,
                urgent: false,
            };
            let candidates = self.candidates();
            match policy::choose(&need, &candidates, now) {
                Choice::Victims(victims) => {
                    for victim in victims {
                        let sentence = format!(
                            "GPU {index} holds {excess} more than it should: going to sleep"
                        );
                        self.begin_drain(now, &victim, Cause::Overcommit, sentence, effects);
                    }
                }
                Choice::Wait(until) => self.wake_at(until),
            }
        }
    }

    /// Every model that is awake and serves, for the policy.
    fn candidates(&self) -> Vec<Candidate> {
        let serving = self
            .models
            .values()
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
                    not_before: sabotage!(
                        MinRuntimeIgnored,
                        Millis(0),
                        (served + state.spec.min_runtime).max(state.spare_until)
                    ),
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
        self.models
            .values()
            .filter(|state| state.spec.gpus.contains(&gpu))
            .map(ModelState::reserved)
            .sum()
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
                let ahead = self.models.values().filter(|other| {
                    matches!(other.phase, Phase::Queued | Phase::Waking { .. })
                        && other
                            .spec
                            .gpus
                            .iter()
                            .any(|gpu| state.spec.gpus.contains(gpu))
                });
                let turn = |other: &ModelState| other.learned.sleep + other.wake_takes();
                ahead
                    .filter(|other| other.spec.id != *id)
                    .fold(state.learned.sleep + wake, |sum, other| sum + turn(other))
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
