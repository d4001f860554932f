//! The choices that were made, kept for those who ask why: a bounded ring per model, and what came of each.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    Core,
    decision::{Choice, Followed, GpuNeed, Regret, Shadow, Taken, Trigger, Verdict, Weighed},
    effect::Effect,
    ids::{Millis, ModelId},
    phase::{Phase, Tier},
    policy::{self, Candidate, Need, Policy, Selection},
    state::ModelState,
};

/// Choices kept per model.
const KEPT: usize = 32;
/// What is kept of what followed one choice.
const FOLLOWED: usize = 16;
/// A wait is looked at as a whole again after this.
const WEIGHED_FOR: Millis = Millis(1_000);
/// Woken again so soon after it made room for another: the two take turns.
const THRASH: Millis = Millis::seconds(60);

/// All choices that are kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    last: u64,
    kept: BTreeMap<u64, Choice>,
    /// Numbers of those in which a model was the target or a victim, oldest first.
    of: BTreeMap<ModelId, VecDeque<u64>>,
}

impl Choices {
    /// Keeps a choice under a new number.
    pub(crate) fn keep(&mut self, mut choice: Choice) -> u64 {
        self.last += 1;
        choice.number = self.last;
        let mut concerned = vec![choice.target.clone()];
        if let Taken::Evict(victims) = &choice.taken {
            concerned.extend(victims.iter().cloned());
        }
        self.kept.insert(self.last, choice);
        for model in concerned {
            let ring = self.of.entry(model.clone()).or_default();
            ring.push_back(self.last);
            if ring.len() > KEPT
                && let Some(oldest) = ring.pop_front()
                && self
                    .kept
                    .get(&oldest)
                    .is_some_and(|choice| choice.target == model)
            {
                // Its victims may still name it; who asks them finds it gone.
                self.kept.remove(&oldest);
            }
        }
        self.last
    }

    /// One by its number, as long as it is kept.
    pub(crate) fn get(&self, number: u64) -> Option<&Choice> {
        self.kept.get(&number)
    }

    fn get_mut(&mut self, number: Option<u64>) -> Option<&mut Choice> {
        self.kept.get_mut(&number?)
    }

    /// The latest about a model, oldest first. First starts tell nothing that was weighed: only where there is nothing else.
    pub(crate) fn of(&self, model: &ModelId, last: usize) -> Vec<Choice> {
        let numbers = self.of.get(model).into_iter().flatten();
        let mut choices: Vec<&Choice> = numbers.filter_map(|n| self.kept.get(n)).collect();
        if !choices.iter().all(|choice| choice.is_first_start()) {
            choices.retain(|choice| !choice.is_first_start());
        }
        let from = choices.len().saturating_sub(last);
        choices.into_iter().skip(from).cloned().collect()
    }

    /// The number of the latest about a model.
    pub(crate) fn latest(&self, model: &ModelId) -> Option<u64> {
        self.of.get(model).and_then(|ring| ring.back()).copied()
    }

    /// The number of the one that was made about a model at this very moment.
    pub(crate) fn made_at(&self, now: Millis, model: &ModelId) -> Option<u64> {
        let number = self.latest(model)?;
        self.get(number)
            .filter(|choice| choice.at == now)
            .map(|_| number)
    }

    /// A model is gone: nobody asks for its choices any more. Those of others in which it was a victim stay.
    pub(crate) fn forget(&mut self, model: &ModelId) {
        for number in self.of.remove(model).into_iter().flatten() {
            if self
                .kept
                .get(&number)
                .is_some_and(|choice| choice.target == *model)
            {
                self.kept.remove(&number);
            }
        }
    }
}

impl Core {
    /// A choice for whom room is needed, with everybody who was weighed. One that only repeats the last (the same is still waited for)
    /// takes its place.
    pub(crate) fn choose_for(
        &mut self,
        now: Millis,
        id: &ModelId,
        need: &Need,
        needs: Vec<GpuNeed>,
        taken: Taken,
    ) -> u64 {
        if let Some(number) = self.still_waits(now, id, &taken) {
            return number;
        }
        let weighed = self.weighed(now, id, need, &taken);
        let shadow = match &taken {
            Taken::Evict(victims) => self.shadow(now, need, victims),
            Taken::Wake(_)
            | Taken::Wait(_)
            | Taken::WaitForRoom
            | Taken::GiveUp
            | Taken::Sleep(_)
            | Taken::Demote(_) => None,
        };
        if shadow.as_ref().is_some_and(|shadow| shadow.differs) {
            self.tally.shadow_differs += 1;
        }
        let trigger = self.trigger(now, id);
        self.keep(now, id, trigger, needs, weighed, taken, shadow)
    }

    /// The running choice of a model that waits as it did a moment ago: not everybody is weighed again for every event.
    fn still_waits(&mut self, now: Millis, id: &ModelId, taken: &Taken) -> Option<u64> {
        let number = self.choices.latest(id)?;
        let last = self.choices.get(number)?;
        let same = std::mem::discriminant(taken) == std::mem::discriminant(&last.taken);
        let fresh = last.target == *id && last.is_waiting() && same;
        let state = self.models.get(id)?;
        (fresh && now < state.room.weighed_at + WEIGHED_FOR).then_some(number)
    }

    /// A choice about one model alone.
    pub(crate) fn choose_alone(
        &mut self,
        now: Millis,
        id: &ModelId,
        trigger: Trigger,
        taken: Taken,
    ) -> u64 {
        self.keep(now, id, trigger, Vec::new(), Vec::new(), taken, None)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one value")]
    fn keep(
        &mut self,
        now: Millis,
        id: &ModelId,
        trigger: Trigger,
        need: Vec<GpuNeed>,
        weighed: Vec<Weighed>,
        taken: Taken,
        shadow: Option<Shadow>,
    ) -> u64 {
        if let Some(state) = self.models.get_mut(id) {
            state.room.weighed_at = now;
        }
        let choice = Choice {
            number: 0,
            at: now,
            target: id.clone(),
            trigger,
            policy: self.fleet.policy.name,
            need,
            weighed,
            taken,
            shadow,
            followed: Vec::new(),
            regrets: Vec::new(),
        };
        if let Some(last) = self.choices.get_mut(self.choices.latest(id))
            && last.makes_room_for(id)
            && matches!(choice.taken, Taken::WaitForRoom | Taken::Wake(_))
        {
            // What an eviction was made for is part of it: one thing to explain, and not three.
            return last.number;
        }
        if let Some(last) = self.choices.get_mut(self.choices.latest(id))
            && last.target == *id
            && last.is_waiting()
            && last.followed.is_empty()
        {
            // The wait that it ends, or goes on with, is one choice with it.
            let (number, at) = (last.number, last.at);
            if choice.is_waiting() {
                *last = Choice {
                    number,
                    at,
                    ..choice
                };
                return number;
            }
        }
        self.tally.choices += 1;
        self.choices.keep(choice)
    }

    /// Everybody on the GPUs where something is missing, each with the reason why it goes or stays.
    fn weighed(&self, now: Millis, id: &ModelId, need: &Need, taken: &Taken) -> Vec<Weighed> {
        let gpus: Vec<_> = need.missing.iter().map(|(gpu, _)| *gpu).collect();
        let there = self.places.on(&gpus).into_iter();
        let weighs = |state: &&ModelState| state.spec.id != *id && state.holds_room();
        let weighing: Vec<(Verdict, Candidate)> = there
            .filter_map(|slot| self.models.at(slot))
            .filter(weighs)
            .map(|state| {
                let candidate = self.candidate(now, state);
                (self.verdict(now, state, &candidate, need, taken), candidate)
            })
            .collect();
        let candidates: Vec<Candidate> = weighing.iter().map(|(_, c)| c.clone()).collect();
        let order = policy::order(self.fleet.policy, &candidates, now).into_iter();
        let weigh = |(price, candidate): (f64, &Candidate)| {
            let found = weighing.iter().find(|(_, c)| c.model == candidate.model);
            Weighed {
                model: candidate.model.clone(),
                verdict: found.map_or(Verdict::Kept, |(verdict, _)| *verdict),
                frees: candidate.frees,
                idle: now.since(candidate.last_used),
                busy: candidate.busy,
                price,
            }
        };
        order.map(weigh).collect()
    }

    fn verdict(
        &self,
        now: Millis,
        state: &ModelState,
        candidate: &Candidate,
        need: &Need,
        taken: &Taken,
    ) -> Verdict {
        let chosen = matches!(taken, Taken::Evict(victims) if victims.contains(&state.spec.id));
        if chosen {
            Verdict::Chosen
        } else if state.leaves_soon(now) {
            Verdict::Leaving
        } else if !matches!(state.phase, Phase::Serving) {
            Verdict::Moving
        } else if candidate.pinned {
            Verdict::Pinned
        } else if !policy::helps(need, candidate) {
            Verdict::NoHelp
        } else if state.room.no_berth_until > now || candidate.spared_until > now && !need.urgent {
            Verdict::Spared(candidate.spared_until)
        } else if candidate.not_before > now && !need.urgent {
            Verdict::MinRuntime(candidate.not_before)
        } else if candidate.expected_until > now && !need.urgent {
            Verdict::Expected(candidate.expected_until)
        } else if candidate.busy && need.busy_from > now && !need.urgent {
            Verdict::Busy(need.busy_from)
        } else {
            Verdict::Kept
        }
    }

    fn shadow(&self, now: Millis, need: &Need, victims: &[ModelId]) -> Option<Shadow> {
        let shadow: &'static Policy = self.fleet.shadow?;
        let others = match policy::choose(shadow, need, &self.candidates(now, need), now) {
            Selection::Victims(others) => others,
            Selection::Wait(_) => Vec::new(),
        };
        let same = others.len() == victims.len() && others.iter().all(|id| victims.contains(id));
        Some(Shadow {
            policy: shadow.name,
            victims: others,
            differs: !same,
        })
    }

    /// Notes what came of a choice.
    pub(crate) fn followed(&mut self, now: Millis, number: Option<u64>, id: &ModelId, what: &str) {
        if let Some(choice) = self.choices.get_mut(number)
            && choice.followed.len() < FOLLOWED
        {
            choice.followed.push(Followed {
                at: now,
                model: id.clone(),
                what: what.to_owned(),
            });
        }
    }

    /// Notes that a model which was to make room does not.
    pub(crate) fn made_no_room(&mut self, now: Millis, id: &ModelId, why: &str) {
        let state = self.models.get_mut(id);
        let number = state.and_then(|state| state.room.making_room.take());
        self.followed(now, number, id, why);
    }

    /// Where a model that goes to sleep by a choice about itself has found a place.
    pub(crate) fn sleeps_in(&mut self, id: &ModelId, tier: Tier) {
        if let Some(choice) = self.choices.get_mut(self.choices.latest(id))
            && choice.target == *id
            && let Taken::Sleep(into) = &mut choice.taken
        {
            *into = tier;
        }
    }

    /// Whether somebody asks anew for a model that made room, and too soon. What was frozen in it then was known: it is no sign of that.
    pub(crate) fn wanted_back(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let Some((number, slept)) = state.room.evicted.filter(|_| !state.room.asked_anew) else {
            return;
        };
        let gone = state.operator.disabled || state.operator.removing;
        if gone || !self.asked_anew(now, state) {
            return;
        }
        let (after, wake_takes) = (now.since(slept), state.wake_takes());
        if let Some(state) = self.models.get_mut(id) {
            state.room.asked_anew = true;
        }
        if after > wake_takes {
            return;
        }
        self.tally.regrets += 1;
        let regret = Regret {
            victim: id.clone(),
            after,
            wake_takes,
        };
        let Some(choice) = self.choices.get_mut(Some(number)) else {
            return;
        };
        choice.regrets.push(regret);
        let kept_it = |shadow: &Shadow| shadow.differs && !shadow.victims.contains(id);
        self.tally.shadow_saves += u64::from(choice.shadow.as_ref().is_some_and(kept_it));
        let sentence = format!(
            "wanted again {after} after it made room for {}: it should have stayed",
            choice.target
        );
        self.record(now, id, sentence, effects);
    }

    /// A model that made room serves again.
    pub(crate) fn came_back(&mut self, now: Millis, id: &ModelId) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        (state.room.displaced, state.room.asked_anew) = (false, false);
        let thrash = state
            .room
            .evicted
            .take()
            .is_some_and(|(_, slept)| now.since(slept) <= THRASH);
        self.tally.thrash += u64::from(thrash);
    }
}

impl Choice {
    /// Others go for this model, and it has not come yet.
    fn makes_room_for(&self, id: &ModelId) -> bool {
        self.target == *id
            && matches!(self.taken, Taken::Evict(_))
            && self.followed.iter().all(|followed| followed.model != *id)
    }

    /// Room was there for a start, or a wake, that only measures.
    pub(crate) fn is_first_start(&self) -> bool {
        self.trigger == Trigger::Boot && matches!(self.taken, Taken::Wake(_))
    }

    fn is_waiting(&self) -> bool {
        match self.taken {
            Taken::Wait(_) | Taken::WaitForRoom | Taken::GiveUp => true,
            Taken::Wake(_) | Taken::Evict(_) | Taken::Sleep(_) | Taken::Demote(_) => false,
        }
    }
}
