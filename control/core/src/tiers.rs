//! Where weights go when a model sleeps: host RAM while there is room, else disk, else nowhere. What is worth least leaves first.
//!
//! A copy in RAM leaves it by the end of its engine's process: an engine that sleeps cannot be asked to sleep deeper (vLLM answers
//! 200 and does nothing), and waking it for that would take room on the GPU from those who wait.

use crate::{
    Core, OBSERVE_TIMEOUT,
    decision::{Taken, Trigger},
    effect::Effect,
    event::{EngineState, Observation},
    failures::COOL_DOWN,
    ids::{Bytes, Millis, ModelId},
    model::OnLeaseEnd,
    phase::{Boot, Cause, Phase, Tier},
    state::{ModelState, Resident},
};

/// What it costs that a copy leaves RAM which somebody waits for: more than any that is only expected.
const WAITED_FOR: f64 = 1e9;

/// Host RAM of which too much is taken is looked at again after this.
const LOOK_AGAIN: Millis = Millis(1_000);

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

/// When a sleeping engine may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    Now,
    /// When a look has shown that nothing is in it, which is due.
    Soon,
    /// Nobody knows when.
    Not,
}

/// Copies that leave host RAM for others.
struct Leaving {
    models: Vec<ModelId>,
    /// What is lost with them.
    loss: f64,
    /// There is room when they are gone.
    enough: bool,
    /// All of them may go now.
    at_once: bool,
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
        let caps = state.spec.caps;
        let stop = empty && caps.restartable;
        if state.crowded && stop {
            return Berth::In(Tier::Stopped);
        }
        match state.spec.tier {
            Some(Tier::Disk) if caps.disk => return Berth::In(Tier::Disk),
            Some(Tier::Stopped) if stop => return Berth::In(Tier::Stopped),
            Some(Tier::Ram | Tier::Disk | Tier::Stopped) | None => {}
        }
        let short = self.host_short(state);
        if short.is_empty() {
            return Berth::In(Tier::Ram);
        }
        let deeper = match state.spec.tier {
            Some(Tier::Ram) => None,
            Some(Tier::Disk | Tier::Stopped) | None if caps.disk => Some(Tier::Disk),
            Some(Tier::Disk | Tier::Stopped) | None if stop => Some(Tier::Stopped),
            Some(Tier::Disk | Tier::Stopped) | None => None,
        };
        let own = deeper.map(|tier| self.loss(now, state, tier));
        let patient = state.patient_until.is_none_or(|until| now < until);
        match (deeper, self.who_leaves(now, id, &short, patient)) {
            // Enough leaves already, or what leaves is worth less than this one.
            (_, leaving) if leaving.enough && own.is_none_or(|own| leaving.loss <= own) => {
                if leaving.at_once {
                    for other in leaving.models {
                        self.demote(now, &other, id, effects);
                    }
                } else if let Some(state) = self.models.get_mut(id) {
                    let until = now + self.fleet.times.observe + OBSERVE_TIMEOUT;
                    state.patient_until.get_or_insert(until);
                }
                Berth::Wait
            }
            (Some(tier), _) => Berth::In(tier),
            (None, _) => Berth::Nowhere(format!(
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
        state.follows_until = if waiting.all_acknowledged {
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
        state.crowded = false;
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
        let lies = matches!(state.phase, Phase::Asleep) && state.resident != Resident::Stopped;
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
            state.spare_until = now + COOL_DOWN;
            state.operator_sleeps = false;
        }
        self.enter(now, id, Phase::Serving);
        let what = format!("cannot be put to sleep, serving on: {why}");
        self.made_no_room(now, id, &what);
        self.record(now, id, what, effects);
        if let Cause::Preempt(waiter) = cause {
            let sentence = format!("{id} cannot make room: {why}");
            if let Some(waiting) = self.models.get_mut(&waiter) {
                waiting.stuck = true;
            }
            self.record(now, &waiter, sentence, effects);
        }
    }

    /// NUMA nodes on which a model's copy does not fit, with what is missing there.
    fn host_short(&self, state: &ModelState) -> Vec<(usize, Bytes)> {
        let mut short: Vec<(usize, Bytes)> = Vec::new();
        let hosts = sabotage!(HostRamForgotten, 0, self.fleet.hosts.len());
        for host in 0..hosts {
            let gpus = state.spec.gpus.iter();
            let shares = gpus.filter(|gpu| self.host_of(gpu.0) == host);
            let more = state.spec.sizes.host.bytes.less(state.host_reserved());
            let takes: Bytes = shares.map(|_| more).sum();
            let missing = takes.less(self.host_free(host));
            if missing > Bytes(0) {
                short.push((host, missing));
            }
        }
        short
    }

    /// NUMA node of a GPU.
    fn host_of(&self, gpu: usize) -> usize {
        self.fleet.host_of.get(gpu).copied().unwrap_or(0)
    }

    fn host_free(&self, host: usize) -> Bytes {
        let capacity = self.fleet.hosts.get(host).copied().unwrap_or_default();
        capacity.less(self.places.host_reserved(host))
    }

    /// Whose copies leave these nodes, least loss first. Those that leave already count without loss. `patient`: those of which a look is
    /// due are waited for.
    fn who_leaves(
        &self,
        now: Millis,
        id: &ModelId,
        short: &[(usize, Bytes)],
        patient: bool,
    ) -> Leaving {
        let frees = |state: &ModelState, host: usize| -> Bytes {
            let gpus = state.spec.gpus.iter();
            let there = gpus.filter(|gpu| self.host_of(gpu.0) == host);
            there.map(|_| state.host_reserved()).sum()
        };
        let helps = |state: &ModelState, missing: &[(usize, Bytes)]| {
            let mut hosts = missing.iter();
            hosts.any(|(host, _)| frees(state, *host) > Bytes(0))
        };
        let others = self.models.values().filter(|state| state.spec.id != *id);
        let (going, staying): (Vec<&ModelState>, Vec<&ModelState>) = others
            .filter(|state| helps(state, short))
            .partition(|state| state.ending.is_some());
        let mut can_go: Vec<(f64, &ModelState, Leaves)> = staying
            .into_iter()
            .map(|state| {
                (
                    self.loss_of_leaving(now, state),
                    state,
                    self.leaves(now, state),
                )
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
        let mut missing: Vec<(usize, Bytes)> = short.to_vec();
        let take = |state: &ModelState, missing: &mut Vec<(usize, Bytes)>| {
            for (host, bytes) in missing.iter_mut() {
                *bytes = bytes.less(frees(state, *host));
            }
            missing.retain(|(_, bytes)| *bytes > Bytes(0));
        };
        going.iter().for_each(|state| take(state, &mut missing));
        let (mut models, mut loss, mut at_once) = (Vec::new(), 0.0, true);
        for (price, state, leaves) in can_go {
            if helps(state, &missing) {
                take(state, &mut missing);
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

    /// Seconds of waiting per second that are expected to be lost when a model's weights are in `tier` instead of RAM.
    fn loss(&self, now: Millis, state: &ModelState, tier: Tier) -> f64 {
        let learned = &state.learned;
        let wake = match tier {
            Tier::Ram => &learned.wake,
            Tier::Disk => &learned.reload,
            Tier::Stopped => &learned.start,
        };
        let longer = wake.median().since(learned.wake.median());
        let seconds = u32::try_from(longer.0.min(1 << 31)).unwrap_or(u32::MAX);
        f64::from(seconds) / 1_000.0 * state.demand.rate(now)
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

    /// How long a silent gate may go on sending requests for a row: by its lease, or because it flows (rules 4 and 14).
    pub(crate) fn sends_for(&self, state: &ModelState) -> Millis {
        match state.spec.on_lease_end {
            OnLeaseEnd::Flow => self.flow_silence(),
            OnLeaseEnd::Hold => self.fence(),
        }
    }

    /// Until when gates of which this control never heard may send requests to a model's engine, by a predecessor's table. The beginning
    /// of time for an engine that did not run then.
    pub(crate) fn strangers_until(&self, state: &ModelState) -> Millis {
        if state.adopted {
            self.term_since + self.sends_for(state)
        } else {
            Millis(0)
        }
    }

    /// From when on nothing reaches an engine any more, so that its process may end (rule 14).
    fn nothing_follows_from(&self, state: &ModelState) -> Millis {
        state.follows_until.max(self.strangers_until(state))
    }

    /// When a sleeping engine may end, and its copy leave host RAM.
    fn leaves(&self, now: Millis, state: &ModelState) -> Leaves {
        let rests = matches!(
            state.phase,
            Phase::Asleep | Phase::Queued | Phase::Booting(Boot::Slept)
        );
        let may = state.spec.caps.restartable && state.spec.tier != Some(Tier::Ram);
        let follows = now < self.nothing_follows_from(state) || state.inside > 0;
        let busy = state.ending.is_some() || self.is_stopped(&state.spec.id);
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

    /// A sleeping copy leaves host RAM: its engine ends, and the next wake is a start.
    fn demote(&mut self, now: Millis, id: &ModelId, waiter: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let start = state.learned.start.promised();
        let cause = format!("its copy leaves host RAM for {waiter}");
        let sentence = format!(
            "stopped: {cause}, which is worth more there; its next wake is a start, about {start}"
        );
        self.kill(id, cause, effects);
        self.choose_alone(now, id, Trigger::HostRam, Taken::Demote(Tier::Stopped));
        self.record(now, id, sentence, effects);
    }

    /// More copies are in host RAM than it has (found so at the start, or measured larger than thought): least loss first.
    pub(crate) fn relieve_hosts(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for host in 0..self.fleet.hosts.len() {
            let capacity = self.fleet.hosts.get(host).copied().unwrap_or_default();
            let excess = self.places.host_reserved(host).less(capacity);
            if excess == Bytes(0) {
                continue;
            }
            self.wake_at(Some(now + LOOK_AGAIN));
            let nobody = ModelId(String::new());
            let leaving = self.who_leaves(now, &nobody, &[(host, excess)], true);
            for id in leaving.models.iter().filter(|_| leaving.at_once) {
                self.demote(now, id, &ModelId("the others".to_owned()), effects);
            }
        }
    }
}

impl ModelState {
    /// A look at the engine shows what its processes hold of host RAM.
    pub(crate) fn seen_in_host(&mut self, seen: &Observation) {
        if matches!(seen.state, EngineState::Awake | EngineState::Asleep) {
            self.host_kept = seen.memory.host.unwrap_or(self.host_kept);
        }
    }

    /// Bytes of host RAM, for each of its GPUs, that its copy takes now. One that was in RAM once may keep its room there while it is
    /// awake (vLLM keeps the pinned blocks for its next sleep).
    pub(crate) fn host_reserved(&self) -> Bytes {
        if self.resident == Resident::Stopped {
            return Bytes(0);
        }
        let going = matches!(
            self.phase,
            Phase::Sleeping { .. } | Phase::Booting(Boot::Sleeping(_))
        );
        let there = going || matches!(self.resident, Resident::Asleep(_));
        if there && self.copy == Tier::Ram {
            self.spec.sizes.host.bytes.max(self.host_kept)
        } else {
            let open = self.unsettled.map(|unsettled| unsettled.host);
            self.host_kept.max(open.unwrap_or_default())
        }
    }
}
