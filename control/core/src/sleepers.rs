//! Engines that sleep: when one may end, what is lost with it, and who ends to make room for others, be it for copies in host RAM or
//! for what sleeping engines keep on their GPUs.

use std::collections::BTreeSet;

use crate::{
    Core, LOOK_AGAIN,
    decision::{Taken, Trigger},
    effect::Effect,
    ids::{Bytes, GpuId, Millis, ModelId},
    looks::OBSERVE_TIMEOUT,
    models::Slot,
    phase::{Boot, Failure, Phase, Tier},
    policy::{Candidate, Selection},
    state::{ModelState, Resident},
};

/// What it costs that an engine ends which somebody waits for: more than any that is only expected.
const WAITED_FOR: f64 = 1e9;

/// What sleeping engines take and others may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scarce {
    /// Host RAM of a NUMA node.
    Host(usize),
    /// Memory of a GPU.
    Gpu(GpuId),
}

/// When a sleeping engine may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    Now,
    /// When a look has shown that nothing is in it, which is due.
    Soon,
    /// Nobody knows when.
    Not,
}

/// Sleeping engines that end for others.
pub(crate) struct Leaving {
    pub(crate) models: Vec<ModelId>,
    /// What is lost with them.
    pub(crate) loss: f64,
    /// There is room when they are gone.
    pub(crate) enough: bool,
    /// All of them may go now.
    at_once: bool,
}

impl Core {
    /// When a sleeping engine may end, and its copy leave host RAM.
    pub(crate) fn leaves(&self, now: Millis, state: &ModelState) -> Leaves {
        // What never fits is woken for nobody, and what it keeps is counted on by those who fit.
        let refused = Phase::Failed {
            failure: Failure::NeverFits,
            retry_at: None,
        };
        let rests = matches!(
            state.phase,
            Phase::Asleep | Phase::Queued | Phase::Booting(Boot::Slept)
        ) || state.phase == refused
            && matches!(state.engine.resident, Resident::Asleep(_));
        let may = state.may_be_stopped();
        let follows = now < self.nothing_follows_from(state) || state.engine.inside > 0;
        let follows = follows || self.gates_have_some_in(now, state);
        let busy = state.engine.ending.is_some() || self.gpus_are_stopped(&state.spec.id);
        let observe = self.fleet.times.observe;
        if !rests || !may || follows || busy {
            Leaves::Not
        } else if state.is_surely_empty(observe) {
            Leaves::Now
        } else if now < state.since + observe + OBSERVE_TIMEOUT {
            Leaves::Soon
        } else {
            Leaves::Not
        }
    }

    /// Gates have requests in an engine that cannot say so itself, or had some when they fell silent.
    fn gates_have_some_in(&self, now: Millis, state: &ModelState) -> bool {
        let silence = self.sends_for(state);
        let waiting = |id: &ModelId| self.waiting(now, id, state.told.epoch, silence);
        let silent = || waiting(&state.spec.id).fenced_in_flight;
        !state.spec.caps.counts && (self.gates.in_flight(state.slot) > 0 || silent())
    }

    /// What the end of an engine that sleeps gives back.
    fn end_frees(&self, state: &ModelState, scarce: Scarce) -> Bytes {
        let mut gpus = state.spec.gpus.iter();
        match scarce {
            Scarce::Host(host) => {
                let there = gpus.filter(|gpu| self.host_of(gpu.0) == host);
                there.map(|_| state.host_reserved()).sum()
            }
            Scarce::Gpu(gpu) => {
                let there = gpus.any(|other| *other == gpu);
                if there { state.reserved() } else { Bytes(0) }
            }
        }
    }

    /// What is missing when those that are ending already are gone.
    pub(crate) fn beyond_what_comes(
        &self,
        waiter: Option<&ModelId>,
        mut missing: Vec<(Scarce, Bytes)>,
    ) -> Vec<(Scarce, Bytes)> {
        for state in self.holders(waiter, &missing) {
            if state.engine.ending.is_some() {
                self.take_from(state, &mut missing);
            }
        }
        missing
    }

    /// All but the waiter that may hold some of what is missing.
    fn holders(&self, waiter: Option<&ModelId>, missing: &[(Scarce, Bytes)]) -> Vec<&ModelState> {
        let mut there: BTreeSet<Slot> = BTreeSet::new();
        for (scarce, _) in missing {
            match scarce {
                Scarce::Host(host) => there.extend(self.places.in_host(*host)),
                Scarce::Gpu(gpu) => there.extend(self.places.on(&[*gpu])),
            }
        }
        let states = there.into_iter().filter_map(|slot| self.models.at(slot));
        let others = states.filter(|state| Some(&state.spec.id) != waiter);
        others.collect()
    }

    fn take_from(&self, state: &ModelState, missing: &mut Vec<(Scarce, Bytes)>) {
        for (scarce, bytes) in missing.iter_mut() {
            *bytes = bytes.less(self.end_frees(state, *scarce));
        }
        missing.retain(|(_, bytes)| *bytes > Bytes(0));
    }

    /// Which engines that sleep end so that this is no longer missing, least loss first. Those of which a look is due are waited for, but
    /// not for ever.
    pub(crate) fn who_leaves(
        &self,
        now: Millis,
        waiter: Option<&ModelId>,
        missing: &[(Scarce, Bytes)],
    ) -> Leaving {
        let until = waiter.and_then(|id| self.models.get(id)?.room.patient_until);
        let patient = until.is_none_or(|until| now < until);
        let helps = |state: &ModelState, missing: &[(Scarce, Bytes)]| {
            let mut all = missing.iter();
            all.any(|(scarce, _)| self.end_frees(state, *scarce) > Bytes(0))
        };
        let holders = self.holders(waiter, missing).into_iter();
        let mut can_go: Vec<(f64, &ModelState, Leaves)> = holders
            .filter(|state| helps(state, missing))
            .map(|state| {
                let loss = self.loss_of_leaving(now, state);
                (loss, state, self.leaves(now, state))
            })
            .filter(|(_, _, leaves)| match leaves {
                Leaves::Now => true,
                Leaves::Soon => patient,
                Leaves::Not => false,
            })
            .collect();
        can_go.sort_by(|(a, first, _), (b, second, _)| {
            a.total_cmp(b)
                .then_with(|| first.spec.id.cmp(&second.spec.id))
        });
        let mut missing = missing.to_vec();
        let (mut models, mut loss, mut at_once) = (Vec::new(), 0.0, true);
        for (price, state, leaves) in can_go {
            if helps(state, &missing) {
                self.take_from(state, &mut missing);
                models.push(state.spec.id.clone());
                loss += price;
                at_once &= leaves == Leaves::Now;
            }
        }
        Leaving {
            models,
            loss,
            enough: missing.is_empty(),
            at_once,
        }
    }

    /// They end for a model, or it waits until all of them may.
    pub(crate) fn they_leave(
        &mut self,
        now: Millis,
        id: &ModelId,
        leaving: Leaving,
        trigger: Trigger,
        effects: &mut Vec<Effect>,
    ) {
        if leaving.at_once {
            for other in leaving.models {
                self.demote(now, &other, id.name(), trigger, effects);
            }
        } else if let Some(state) = self.models.get_mut(id) {
            let until = now + self.fleet.times.observe + OBSERVE_TIMEOUT;
            state.room.patient_until.get_or_insert(until);
        }
    }

    /// A sleeping engine ends for others, and the next wake of its model is a start.
    fn demote(
        &mut self,
        now: Millis,
        id: &ModelId,
        waiter: &str,
        trigger: Trigger,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let start = state.learned.start.promised();
        let cause = if trigger == Trigger::Residual {
            format!("what it keeps on its GPU is needed for {waiter}")
        } else {
            format!("its copy leaves host RAM for {waiter}")
        };
        let sentence = format!("stopped: {cause}; its next wake is a start, about {start}");
        self.kill(id, cause, effects);
        self.choose_alone(now, id, trigger, Taken::Demote(Tier::Stopped));
        self.record(now, id, sentence, effects);
    }

    /// More copies are in host RAM than it has (found so at the start, or measured larger than thought): least loss first.
    pub(crate) fn relieve_hosts(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for host in 0..self.fleet.hosts.len() {
            let capacity = self.fleet.hosts.get(host).copied().unwrap_or_default();
            let excess = self.places.host_reserved(host).less(capacity);
            if excess > Bytes(0) {
                self.wake_at(Some(now + LOOK_AGAIN));
                let excess = vec![(Scarce::Host(host), excess)];
                let missing = self.beyond_what_comes(None, excess);
                let leaving = self.who_leaves(now, None, &missing);
                self.relieved(now, leaving, Trigger::HostRam, effects);
            }
        }
    }

    fn relieved(
        &mut self,
        now: Millis,
        leaving: Leaving,
        trigger: Trigger,
        effects: &mut Vec<Effect>,
    ) {
        for id in leaving.models.iter().filter(|_| leaving.at_once) {
            self.demote(now, id, "the others", trigger, effects);
        }
    }

    /// A GPU holds more than it should. Engines that sleep there end where less is lost with them than by what a policy would do. Returns
    /// whether they do, or will.
    pub(crate) fn sleepers_relieve(
        &mut self,
        now: Millis,
        (gpu, excess): (GpuId, Bytes),
        selection: &Selection,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let missing = self.beyond_what_comes(None, vec![(Scarce::Gpu(gpu), excess)]);
        let leaving = self.who_leaves(now, None, &missing);
        let better = match selection {
            Selection::Victims(victims) => {
                let states = victims.iter().filter_map(|id| self.models.get(id));
                let loss: f64 = states.map(|state| self.loss_of_sleep(now, state)).sum();
                leaving.enough && leaving.loss < loss
            }
            Selection::Wait(Some(_)) => missing.is_empty(),
            Selection::Wait(None) => missing.is_empty() || !leaving.models.is_empty(),
        };
        if better {
            self.relieved(now, leaving, Trigger::Residual, effects);
        }
        better
    }

    /// Where all that serve could not free enough, engines that sleep there end. Returns whether some do, or will.
    pub(crate) fn sleepers_make_room(
        &mut self,
        now: Millis,
        id: &ModelId,
        missing: &[(GpuId, Bytes)],
        candidates: &[Candidate],
        effects: &mut Vec<Effect>,
    ) -> bool {
        let gap = |(gpu, bytes): &(GpuId, Bytes)| {
            let there = candidates
                .iter()
                .filter(|candidate| !candidate.pinned && candidate.gpus.contains(gpu));
            let most: Bytes = there.map(|candidate| candidate.frees).sum();
            (Scarce::Gpu(*gpu), bytes.less(most))
        };
        let mut gaps: Vec<(Scarce, Bytes)> = missing.iter().map(gap).collect();
        gaps.retain(|(_, bytes)| *bytes > Bytes(0));
        if gaps.is_empty() || self.are_measured_first(id) {
            return false;
        }
        let leaving = self.who_leaves(now, Some(id), &gaps);
        let some = !leaving.models.is_empty() && leaving.enough;
        if some {
            self.wake_at(Some(now + LOOK_AGAIN));
            self.they_leave(now, id, leaving, Trigger::Residual, effects);
        }
        some
    }

    /// Seconds of waiting per second that are expected to be lost when a model's weights are in `tier` instead of RAM.
    pub(crate) fn loss(&self, now: Millis, state: &ModelState, tier: Tier) -> f64 {
        let learned = &state.learned;
        let wake = learned.back_from(tier).median();
        let longer = wake.since(learned.wake.median());
        seconds(longer) * state.asked.demand.rate(now)
    }

    /// … when a sleeping copy leaves RAM. Who is waited for loses most: a wait is lost for certain, and one that waits to be measured would
    /// begin its start again, perhaps for another that does the same for it. But they go too when nobody else can: copies of those
    /// who wait must not keep asleep whoever should make room for them.
    fn loss_of_leaving(&self, now: Millis, state: &ModelState) -> f64 {
        let waits = matches!(state.phase, Phase::Queued | Phase::Booting(Boot::Slept));
        let certain = if waits || self.wanted(now, state) {
            WAITED_FOR
        } else {
            0.0
        };
        certain + self.loss(now, state, Tier::Stopped)
    }

    /// … when one that serves goes to sleep. Whoever is busy is waited for.
    fn loss_of_sleep(&self, now: Millis, state: &ModelState) -> f64 {
        let busy = self.gates.in_flight(state.slot) > 0 || self.gates.held(state.slot) > 0;
        let certain = if busy { WAITED_FOR } else { 0.0 };
        let tier = self.comes_back_from(now, state);
        let wake = state.learned.back_from(tier).median();
        certain + seconds(wake) * state.asked.demand.rate(now)
    }
}

impl ModelState {
    /// Control may end its engine while it sleeps.
    pub(crate) fn may_be_stopped(&self) -> bool {
        self.spec.caps.restartable && self.spec.tier != Some(Tier::Ram)
    }
}

fn seconds(time: Millis) -> f64 {
    let ms = u32::try_from(time.0.min(1 << 31)).unwrap_or(u32::MAX);
    f64::from(ms) / 1_000.0
}
