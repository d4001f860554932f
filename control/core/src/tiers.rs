//! Where weights go when a model sleeps: host RAM while there is room, else disk, else nowhere. What is worth least leaves first.
//!
//! A copy in RAM leaves it by the end of its engine's process: an engine that sleeps cannot be asked to sleep deeper (vLLM answers
//! 200 and does nothing), and waking it for that would take room on the GPU from those who wait.

use crate::{
    Core,
    decision::Trigger,
    effect::Effect,
    event::{EngineState, Observation},
    failures::COOL_DOWN,
    ids::{Bytes, Millis, ModelId},
    phase::{Boot, Cause, Phase, Tier},
    sleepers::{Leaves, Leaving, Scarce},
    state::{ModelState, Resident},
};

/// Where a model that has nothing in flight any more can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Berth {
    /// There.
    In(Tier),
    /// Others are leaving host RAM for it, or a look at them will show whether they may.
    Wait,
    /// Nowhere, and why.
    Nowhere(String),
}

/// What has to happen for a berth.
enum Way {
    /// Nothing.
    Open(Tier),
    /// These leave host RAM for it, or have begun to.
    After(Leaving),
    /// There is none, and why.
    None(String),
}

impl Core {
    /// Where a model goes now: to its end, if a GPU had no room for its sleep. `empty`: no request is in its engine, so that its process
    /// may end. May send others away.
    pub(crate) fn berth(
        &mut self,
        now: Millis,
        id: &ModelId,
        empty: bool,
        effects: &mut Vec<Effect>,
    ) -> Berth {
        let Some(state) = self.models.get(id) else {
            return Berth::Wait;
        };
        match self.way(now, state, empty) {
            Way::Open(tier) => Berth::In(tier),
            Way::After(leaving) => {
                self.they_leave(now, id, leaving, Trigger::HostRam, effects);
                Berth::Wait
            }
            Way::None(why) => Berth::Nowhere(why),
        }
    }

    /// From where it would come back if it went to sleep now with nothing in its engine. Each model is asked as if it went alone: which
    /// others go with it is not known before all have their price, so that of two that go together into the last host RAM both are
    /// priced as if they had it.
    pub(crate) fn comes_back_from(&self, now: Millis, state: &ModelState) -> Tier {
        match self.way(now, state, true) {
            Way::Open(tier) => tier,
            // One that finds no berth goes on serving.
            Way::After(_) | Way::None(_) => Tier::Ram,
        }
    }

    fn way(&self, now: Millis, state: &ModelState, empty: bool) -> Way {
        let caps = state.spec.caps;
        let stop = empty && caps.restartable;
        if state.engine.lacked_room && stop {
            return Way::Open(Tier::Stopped);
        }
        match state.spec.tier {
            Some(Tier::Disk) if caps.disk => return Way::Open(Tier::Disk),
            Some(Tier::Stopped) if stop => return Way::Open(Tier::Stopped),
            Some(Tier::Ram | Tier::Disk | Tier::Stopped) | None => {}
        }
        let short = self.host_short(state);
        if short.is_empty() {
            return Way::Open(Tier::Ram);
        }
        let deeper = match state.spec.tier {
            Some(Tier::Ram) => None,
            Some(Tier::Disk | Tier::Stopped) | None if caps.disk => Some(Tier::Disk),
            Some(Tier::Disk | Tier::Stopped) | None if stop => Some(Tier::Stopped),
            Some(Tier::Disk | Tier::Stopped) | None => None,
        };
        let own = deeper.map(|tier| self.loss(now, state, tier));
        let id = Some(&state.spec.id);
        let short = self.beyond_what_comes(id, short);
        match (deeper, self.who_leaves(now, id, &short)) {
            // Enough leaves already, or what leaves is worth less than this one.
            (_, leaving) if leaving.enough && own.is_none_or(|own| leaving.loss <= own) => {
                Way::After(leaving)
            }
            (Some(tier), _) => Way::Open(tier),
            (None, _) => Way::None(format!(
                "its copy would take {} of host RAM per GPU, which is full of copies that cannot leave",
                state.spec.sizes.host.bytes
            )),
        }
    }

    /// A model that drains has nothing in flight that is known of. Notes until when silent gates may still send requests to its engine, and
    /// returns whether its process may end: nothing is in it, and nothing follows.
    pub(crate) fn may_end(&mut self, now: Millis, id: &ModelId) -> bool {
        let Some(state) = self.models.get(id) else {
            return false;
        };
        let Phase::Draining { epoch, .. } = state.phase else {
            return false;
        };
        let sends_for = self.sends_for(state);
        let waiting = self.waiting(now, id, epoch, sends_for);
        let Some(state) = self.models.get_mut(id) else {
            return false;
        };
        state.engine.follows_until = if waiting.all_acknowledged {
            Millis(0)
        } else {
            now + sends_for
        };
        let seen = state.spec.caps.counts || waiting.all_zero && !waiting.fenced_in_flight;
        let over = self
            .models
            .get(id)
            .is_some_and(|state| now >= self.nothing_follows_from(state));
        sabotage!(StopsTooEarly, true, seen && over)
    }

    /// Its engine ends instead of sleeping: its memory counts as held until it is gone, and its next wake is a start.
    pub(crate) fn stop_engine(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let sentence = format!(
            "its engine is stopped rather than put to sleep (no host RAM for its copy, or so configured); its next wake is a start, about {}",
            state.learned.start.promised()
        );
        let asleep = matches!(state.phase, Phase::Asleep);
        state.engine.lacked_room = false;
        self.kill(id, "it sleeps without a process".into(), effects);
        if !asleep {
            self.enter(now, id, Phase::Asleep);
        }
        self.record(now, id, sentence, effects);
    }

    /// A model that was to end rather than sleep, and had to keep its process (frozen requests, gates that could still send some), ends
    /// once nothing can follow any more.
    pub(crate) fn ends_at_last(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let lies =
            matches!(state.phase, Phase::Asleep) && state.engine.resident != Resident::Stopped;
        if !lies || state.spec.tier != Some(Tier::Stopped) {
            return;
        }
        if self.leaves(now, state) == Leaves::Now {
            self.stop_engine(now, id, effects);
        } else {
            let at = self.nothing_follows_from(state);
            self.wake_at(Some(at).filter(|at| *at > now));
        }
    }

    /// It cannot sleep anywhere: it goes on serving, and who waits for its room looks for another.
    pub(crate) fn has_no_berth(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: Cause,
        why: &str,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(state) = self.models.get_mut(id) {
            state.room.spare_until = now + COOL_DOWN;
            state.room.no_berth_until = state.room.spare_until;
            state.operator.sleeps = false;
        }
        self.enter(now, id, Phase::Serving);
        let what = format!("cannot be put to sleep, serving on: {why}");
        self.made_no_room(now, id, &what);
        self.record(now, id, what, effects);
        if let Cause::Preempt(waiter) = cause {
            let sentence = format!("{id} cannot make room: {why}");
            if let Some(waiting) = self.models.get_mut(&waiter) {
                waiting.told.stuck = true;
            }
            self.record(now, &waiter, sentence, effects);
        }
    }

    /// NUMA nodes on which a model's copy does not fit, with what is missing there.
    fn host_short(&self, state: &ModelState) -> Vec<(Scarce, Bytes)> {
        let mut short: Vec<(Scarce, Bytes)> = Vec::new();
        let hosts = sabotage!(HostRamForgotten, 0, self.fleet.hosts.len());
        for host in 0..hosts {
            let gpus = state.spec.gpus.iter();
            let shares = gpus.filter(|gpu| self.host_of(gpu.0) == host);
            let more = state.spec.sizes.host.bytes.less(state.host_reserved());
            let takes: Bytes = shares.map(|_| more).sum();
            let missing = takes.less(self.host_free(host));
            if missing > Bytes(0) {
                short.push((Scarce::Host(host), missing));
            }
        }
        short
    }

    /// NUMA node of a GPU.
    pub(crate) fn host_of(&self, gpu: usize) -> usize {
        self.fleet.host_of.get(gpu).copied().unwrap_or(0)
    }

    fn host_free(&self, host: usize) -> Bytes {
        let capacity = self.fleet.hosts.get(host).copied().unwrap_or_default();
        capacity.less(self.places.host_reserved(host))
    }
}

impl ModelState {
    /// A look at the engine shows what its processes hold of host RAM.
    pub(crate) fn seen_in_host(&mut self, seen: &Observation) {
        if matches!(seen.state, EngineState::Awake | EngineState::Asleep) {
            self.engine.host_kept = seen.memory.host.unwrap_or(self.engine.host_kept);
        }
    }

    /// Bytes of host RAM, for each of its GPUs, that its copy takes now. One that was in RAM once may keep its room there while it is
    /// awake (vLLM keeps the pinned blocks for its next sleep).
    pub(crate) fn host_reserved(&self) -> Bytes {
        if self.engine.resident == Resident::Stopped {
            return Bytes(0);
        }
        let going = matches!(
            self.phase,
            Phase::Sleeping { .. } | Phase::Booting(Boot::Sleeping(_))
        );
        let there = going || matches!(self.engine.resident, Resident::Asleep(_));
        if there && self.engine.copy == Tier::Ram {
            self.spec.sizes.host.bytes.max(self.engine.host_kept)
        } else {
            let in_doubt = self.engine.in_doubt.map(|doubt| doubt.host);
            self.engine.host_kept.max(in_doubt.unwrap_or_default())
        }
    }
}
