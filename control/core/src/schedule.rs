//! Who gets room next: the queue of each GPU (see `queue`) is served from its head, and victims make room where there is none.

use std::collections::BTreeSet;

use crate::{
    Core, LOOK_AGAIN,
    agenda::Turn,
    decision::{GpuNeed, Taken, Trigger, Verdict},
    effect::Effect,
    ids::{Bytes, GpuId, Millis, ModelId},
    phase::{Boot, Cause, Failure, Phase, Tier},
    policy::{self, Need, Selection},
    state::{ModelState, Resident},
    wishes::for_whom,
};

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

    /// Heads of these queues wake, wait or get room; then what holds too much goes, and who is popular comes back.
    fn serve_queues(&mut self, now: Millis, gpus: &BTreeSet<GpuId>, effects: &mut Vec<Effect>) {
        let moves = |gpu: &&GpuId| {
            let place = self.places.gpu(**gpu);
            sabotage!(
                TwoTransitions,
                false,
                place.is_some_and(|place| !place.moving.is_empty())
            )
        };
        let stopped =
            |gpu: &&GpuId| sabotage!(StoppedGpuMoves, false, self.why_stopped(**gpu).is_some());
        let closed = |gpu: &&GpuId| moves(gpu) || stopped(gpu);
        let closed: BTreeSet<GpuId> = gpus.iter().filter(closed).copied().collect();
        let mut taken = closed.clone();
        let queue = self.queue(now, gpus);
        if !queue.is_empty() {
            self.wake_at(Some(now + LOOK_AGAIN));
        }
        for id in queue {
            let Some(state) = self.models.get(&id) else {
                continue;
            };
            let gpus = state.spec.gpus.clone();
            self.update_estimate(now, &id);
            if self.gpus_are_stopped(&id) {
                // It waits for an operator or for whoever holds that memory, and nobody else waits for it.
                continue;
            }
            // S6: one transition per GPU at a time; and nobody overtakes on a GPU.
            let waits = sabotage!(
                OthersOvertake,
                gpus.iter().any(|gpu| closed.contains(gpu)),
                gpus.iter().any(|gpu| taken.contains(gpu))
            );
            if waits || self.serve_head(now, &id, effects) {
                taken.extend(gpus);
            }
        }
        self.relieve_overcommitted(now, gpus, &closed, effects);
        self.relieve_hosts(now, effects);
        self.restore_popular(now, gpus, &taken);
    }

    /// A popular model that was displaced comes back once there is room and nobody waits.
    fn restore_popular(&mut self, now: Millis, gpus: &BTreeSet<GpuId>, taken: &BTreeSet<GpuId>) {
        let there: Vec<GpuId> = gpus.iter().copied().collect();
        let nobody_waits = |gpu: &GpuId| {
            let place = self.places.gpu(*gpu);
            !taken.contains(gpu) && place.is_some_and(|place| place.queued.is_empty())
        };
        let comes_back = |state: &&ModelState| {
            state.spec.popular
                && state.room.displaced
                && matches!(state.phase, Phase::Asleep)
                && !(state.operator.disabled
                    || state.operator.removing
                    || state.engine.ending.is_some())
                && state.spec.gpus.iter().all(nobody_waits)
                && self
                    .needs(now, &state.spec.id)
                    .iter()
                    .all(|need| need.needs <= need.free)
        };
        // One at a time: the next is looked at when this one has its room.
        let states = self.places.on(&there).into_iter();
        let first = states
            .filter_map(|slot| self.models.at(slot))
            .find(comes_back)
            .map(|state| state.spec.id.clone());
        if let Some(state) = first.and_then(|id| self.models.get_mut(&id)) {
            state.room.restoring = sabotage!(PopularStaysAway, false, true);
        }
    }

    /// The head of a queue: wake it, wait, or make room. Returns whether those behind it wait for it: not where nothing is known that
    /// could ever make room for it.
    fn serve_head(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) -> bool {
        if let Some(reason) = self.never_fits(id) {
            self.fail(now, id, Failure::NeverFits, None, &reason, effects);
            return true;
        }
        let needs = self.needs(now, id);
        let Some(state) = self.models.get(id) else {
            return true;
        };
        let need = Need {
            missing: missing(&needs),
            busy_from: state.waits_since(now)
                + sabotage!(MaxWaitIgnored, Millis(0), state.spec.max_wait),
            urgent: state.is_urgent(now),
        };
        // 1. There is room.
        if needs.iter().all(|need| need.needs <= need.free) {
            if state.engine.lacked_room && self.others_go_first(now, id, &need, &needs, effects) {
                return true;
            }
            let Some(state) = self.models.get(id) else {
                return true;
            };
            let tier = state.tier();
            self.choose_for(now, id, &need, needs, Taken::Wake(tier));
            self.start_or_wake(now, id, effects);
            return true;
        }
        // Nobody makes room for one that only comes back because there is some.
        if state.room.restoring && !self.asked_for(now, state) {
            if let Some(state) = self.models.get_mut(id) {
                state.room.restoring = false;
            }
            return false;
        }
        // 2. Enough is on its way out already.
        if need.missing.is_empty() {
            self.choose_for(now, id, &need, needs, Taken::WaitForRoom);
            return true;
        }
        let frozen = state
            .engine
            .frozen_since
            .map(|at| at + state.spec.max_freeze);
        self.wake_at(frozen.filter(|at| *at > now));
        // 3. Nobody may sleep yet: a barrier would refuse requests for nothing.
        if now < self.sleeps_from() {
            self.wake_at(Some(self.sleeps_from()));
            let until = Some(self.sleeps_from());
            self.choose_for(now, id, &need, needs, Taken::Wait(until));
            return true;
        }
        // 4. Somebody makes room, or nobody can.
        self.find_room(now, id, need, needs, effects)
    }

    /// Who makes room for the head of a queue now, if anybody can. Returns whether those behind it wait for it.
    fn find_room(
        &mut self,
        now: Millis,
        id: &ModelId,
        need: Need,
        needs: Vec<GpuNeed>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let candidates = self.candidates(now, &need);
        let need = Need {
            missing: self.attainable(now, id, need.missing, &candidates),
            ..need
        };
        if self.sleepers_make_room(now, id, &need.missing, &candidates, effects) {
            self.choose_for(now, id, &need, needs, Taken::WaitForRoom);
            return true;
        }
        match policy::choose(self.fleet.policy, &need, &candidates, now) {
            Selection::Victims(victims) => {
                let all = sabotage!(
                    TooFewVictims,
                    victims.into_iter().step_by(2).collect(),
                    victims
                );
                self.make_room(now, id, &need, needs, all, effects);
                true
            }
            Selection::Wait(None) if self.are_measured_first(id) => {
                self.choose_for(now, id, &need, needs, Taken::WaitForRoom);
                false
            }
            Selection::Wait(None) if !self.room_may_come(now, id) => {
                self.choose_for(now, id, &need, needs, Taken::GiveUp);
                self.give_up_waiting(now, id, effects);
                false
            }
            Selection::Wait(until) => {
                self.choose_for(now, id, &need, needs, Taken::Wait(until));
                self.wake_at(until);
                true
            }
        }
    }

    /// A model takes more than anybody knows: the last try failed for lack of room where there should have been enough. All others that
    /// may go do so before the next, once. Returns whether it waits for them.
    fn others_go_first(
        &mut self,
        now: Millis,
        id: &ModelId,
        need: &Need,
        needs: &[GpuNeed],
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(state) = self.models.get(id) else {
            return false;
        };
        let only_comes_back = state.room.restoring && !self.asked_for(now, state);
        let all = state.spec.gpus.iter().map(|gpu| (*gpu, Bytes(1)));
        let need = Need {
            missing: all.collect(),
            ..need.clone()
        };
        let mut candidates = self.candidates(now, &need);
        candidates.retain(|other| {
            let may = !other.pinned && other.spared_until <= now && other.frees > Bytes(0);
            may && !only_comes_back
        });
        let from = |other: &policy::Candidate| {
            let busy_from = if other.busy { need.busy_from } else { now };
            other.not_before.max(busy_from).max(self.sleeps_from())
        };
        let until = candidates.iter().map(from).filter(|from| *from > now).min();
        let now_go = candidates.iter().filter(|other| from(other) <= now);
        let victims: Vec<ModelId> = now_go.map(|other| other.model.clone()).collect();
        if !victims.is_empty() {
            let sentence = "its last try failed since a GPU had no room for it: others go first";
            self.record(now, id, sentence, effects);
            self.make_room(now, id, &need, needs.to_vec(), victims, effects);
            return true;
        }
        let leaves = self.neighbours(id).any(|other| other.leaves_soon(now));
        if until.is_none() && !leaves {
            if let Some(state) = self.models.get_mut(id) {
                state.engine.lacked_room = false;
            }
            return false;
        }
        let taken = until.map_or(Taken::WaitForRoom, |until| Taken::Wait(Some(until)));
        self.choose_for(now, id, &need, needs.to_vec(), taken);
        self.wake_at(until);
        true
    }

    /// The forecast hears of every choice, whoever makes it: it duels with recency over who goes.
    fn forecast_learns(&mut self, now: Millis, need: &Need) {
        let candidates = self.candidates(now, need);
        let idle = candidates.iter().filter(|candidate| {
            !candidate.pinned && !candidate.busy && candidate.free_from() <= now
        });
        let ids: Vec<&ModelId> = idle.map(|candidate| &candidate.model).collect();
        self.forecast.chosen_among(ids);
    }

    /// The victims of a choice begin to drain.
    fn make_room(
        &mut self,
        now: Millis,
        id: &ModelId,
        need: &Need,
        needs: Vec<GpuNeed>,
        victims: Vec<ModelId>,
        effects: &mut Vec<Effect>,
    ) {
        let number = self.choose_for(now, id, need, needs, Taken::Evict(victims.clone()));
        self.forecast_learns(now, need);
        self.wait_chosen(now, id);
        self.tally.evictions += u64::try_from(victims.len()).unwrap_or(0);
        for victim in &victims {
            let sentence = self.why(victim, id, number);
            if let Some(state) = self.models.get_mut(victim) {
                state.room.making_room = Some(number);
            }
            self.begin_drain(now, victim, Cause::Preempt(id.clone()), sentence, effects);
            self.advance(now, victim, effects);
        }
        // They go one after the other: that is known now that all of them leave.
        for victim in &victims {
            self.make_estimate(now, victim);
        }
        if let Some(state) = self.models.get_mut(id) {
            state.told.stuck = sabotage!(StuckThoughRoomComes, state.told.stuck, false);
        }
    }

    /// Whether something that is under way on a model's GPUs ends by itself and may leave room.
    fn room_may_come(&self, now: Millis, id: &ModelId) -> bool {
        self.neighbours(id).any(|other| {
            other.leaves_soon(now) || matches!(other.phase, Phase::Booting(Boot::Started))
        })
    }

    /// A first start waits until its neighbours are measured: were they stopped for it, both would start for ever.
    pub(crate) fn are_measured_first(&self, id: &ModelId) -> bool {
        let state = self.models.get(id);
        let begins =
            state.is_some_and(|state| matches!(state.phase, Phase::Booting(Boot::Waiting)));
        begins
            && self
                .neighbours(id)
                .any(|other| matches!(other.phase, Phase::Booting(Boot::Slept)))
    }

    /// Those who wait are told so; it stays in the queue.
    fn give_up_waiting(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut state.told.stuck, true) {
            return;
        }
        let known = self.models.get(id).map(|state| self.in_the_way(state));
        let known = known.filter(|known| !known.is_empty());
        let why = known.map_or_else(
            || {
                "what holds its GPU cannot be put to sleep (greenthread why-not says more)"
                    .to_owned()
            },
            |known| known.join("; "),
        );
        let sentence = format!(
            "no room can be made now: {why}; requests get 503 `too_long`, others may go first"
        );
        self.record(now, id, sentence, effects);
    }

    fn start_or_wake(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let attempt = self.next_attempt();
        let Some(state) = self.models.get(id) else {
            return;
        };
        let own = sabotage!(StrangerStarted, true, state.spec.caps.restartable);
        let start = state.engine.resident == Resident::Stopped && own;
        let phase = match (&state.phase, start) {
            (Phase::Booting(_), true) => Phase::Booting(Boot::Starting(attempt)),
            (Phase::Booting(_), false) => Phase::Booting(Boot::Waking(attempt)),
            (_, _) => Phase::Waking { attempt },
        };
        let model = id.clone();
        let held = self.held(id);
        let (takes, tier) = (state.wake_takes(), state.tier());
        let sentence = match (&phase, start) {
            (Phase::Booting(_), true) => "first start".to_owned(),
            (Phase::Booting(_), false) => "waking once to be measured".to_owned(),
            (_, true) => format!("starting for {}, about {takes}", for_whom(state, held)),
            (_, false) => format!("waking for {}, about {takes}", for_whom(state, held)),
        };
        let told = sabotage!(WrongTier, Tier::Ram, tier);
        effects.push(if start {
            Effect::Start { model, attempt }
        } else {
            Effect::Wake {
                model,
                attempt,
                tier: told,
            }
        });
        if let Some(state) = self.models.get_mut(id) {
            // Somebody asked: the wish that it sleeps is over. One that comes from here on is obeyed when it is awake.
            state.operator.sleeps = false;
        }
        self.enter(now, id, phase);
        self.wait_has_room(now, id);
        self.record(now, id, sentence, effects);
    }

    /// More is held than fits (found at start, or measured larger than declared): who is cheapest to lose goes to sleep, or ends where it
    /// sleeps.
    fn relieve_overcommitted(
        &mut self,
        now: Millis,
        gpus: &BTreeSet<GpuId>,
        closed: &BTreeSet<GpuId>,
        effects: &mut Vec<Effect>,
    ) {
        for gpu in gpus.iter().copied() {
            let excess = self.reserved_on(gpu).less(self.capacity(gpu));
            if excess == Bytes(0) {
                continue;
            }
            if sabotage!(RelievesTooEarly, false, now < self.sleeps_from()) {
                self.wake_at(Some(self.sleeps_from()));
                continue;
            }
            self.wake_at(Some(now + LOOK_AGAIN));
            let leaving = |state: &ModelState| matches!(state.phase, Phase::Draining { .. });
            // Who waits there waits for nothing: as long as too much is awake nobody else can be woken.
            if closed.contains(&gpu) || self.models_on(gpu).any(leaving) {
                continue;
            }
            let need = Need {
                missing: vec![(gpu, excess)],
                busy_from: now,
                urgent: false,
            };
            let candidates = self.candidates(now, &need);
            let selection = policy::choose(self.fleet.policy, &need, &candidates, now);
            if self.sleepers_relieve(now, (gpu, excess), &selection, effects) {
                continue;
            }
            match selection {
                Selection::Victims(victims) => {
                    for victim in victims {
                        let taken = Taken::Sleep(Tier::Ram);
                        self.choose_alone(now, &victim, Trigger::Overcommit, taken);
                        let sentence = format!(
                            "GPU {} holds {excess} more than it should: going to sleep",
                            gpu.0
                        );
                        self.begin_drain(now, &victim, Cause::Overcommit, sentence, effects);
                    }
                }
                Selection::Wait(until) => self.wake_at(until),
            }
        }
    }

    fn why(&self, victim: &ModelId, waiter: &ModelId, number: u64) -> String {
        let choice = self.choices.get(number);
        let weighed = choice
            .map(|choice| choice.weighed.as_slice())
            .unwrap_or_default();
        let can_go = weighed.iter().filter(|weighed| match weighed.verdict {
            Verdict::Chosen | Verdict::Kept => true,
            Verdict::Pinned
            | Verdict::MinRuntime(_)
            | Verdict::Spared(_)
            | Verdict::Expected(_)
            | Verdict::Busy(_)
            | Verdict::Leaving
            | Verdict::Moving
            | Verdict::NoHelp => false,
        });
        let can_go = can_go.count();
        let chosen = weighed.iter().find(|weighed| weighed.model == *victim);
        let use_ = match chosen {
            Some(chosen) if !chosen.busy => format!("idle for {}", chosen.idle),
            Some(_) | None => "busy".to_owned(),
        };
        let rule = self.fleet.policy.rule;
        format!("making room for {waiter}: {use_}, {rule} of {can_go} that can go; draining")
    }
}

impl ModelState {
    /// Its memory is on its way out. A removed model waits for its requests without end; after its drain time nobody counts on it.
    pub(crate) fn leaves_soon(&self, now: Millis) -> bool {
        let drains = match &self.phase {
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
        drains || self.engine.ending.is_some()
    }
}

/// What is missing per GPU; only GPUs where something is.
fn missing(needs: &[GpuNeed]) -> Vec<(GpuId, Bytes)> {
    let some = needs.iter().filter(|need| need.missing > Bytes(0));
    some.map(|need| (need.gpu, need.missing)).collect()
}
