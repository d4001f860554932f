//! The queue of a model's GPUs, played forward: who waits before it takes its turn, and whoever has come may have to go again for the
//! next. Each step takes what was learned of it; what is too much in the sum is corrected by what came of earlier estimates.

use crate::{
    Core,
    ids::{Bytes, GpuId, Millis},
    phase::{Boot, Phase},
    policy::{self, Choice, Need, Resident as Candidate},
    state::ModelState,
};

/// Turns that are played one by one; further ones take as long as these on average.
const PLAYED: usize = 6;
/// Moments at which it is looked who can go for one turn.
const MOMENTS: usize = 4;

/// What will be on some GPUs, as far as it is played.
struct Line<'a> {
    core: &'a Core,
    now: Millis,
    gpus: &'a [GpuId],
    /// How far it is played.
    at: Millis,
    /// Bytes by GPU, in the order of `gpus`.
    free: Vec<Bytes>,
    /// Who is on its way out, and when it has left; the next to leave last.
    coming: Vec<(Millis, &'a ModelState)>,
    residents: Vec<Candidate>,
}

impl Core {
    /// When a model will be awake that waits from now on, or goes on waiting, behind `ahead`, first first. `None`: nothing is known that
    /// could ever make room for it.
    pub(crate) fn awake_at(
        &self,
        now: Millis,
        state: &ModelState,
        ahead: &[&ModelState],
    ) -> Option<Millis> {
        let mut line = Line::new(self, now, state);
        let begins = line.at;
        for other in ahead.iter().take(PLAYED) {
            // Nobody waits for one that nobody can make room for.
            line.takes_turn(other);
        }
        if let Some(more) = ahead.len().checked_sub(PLAYED) {
            let each = line.at.since(begins).0 / u64::try_from(PLAYED).unwrap_or(1);
            line.at = line.at + Millis(each.saturating_mul(u64::try_from(more).unwrap_or(0)));
        }
        if state.leaves_soon(now) {
            line.at = line.at.max(now + self.leaving_takes(now, state));
        }
        line.takes_turn(state).then_some(line.at)
    }
}

impl<'a> Line<'a> {
    fn new(core: &'a Core, now: Millis, state: &'a ModelState) -> Self {
        let gpus = &state.spec.gpus;
        let mut line = Self {
            core,
            now,
            gpus,
            at: now,
            free: Vec::new(),
            coming: Vec::new(),
            residents: Vec::new(),
        };
        let free = |gpu: &GpuId| core.capacity(*gpu).less(core.reserved_on(*gpu));
        line.free.extend(gpus.iter().map(free));
        for other in core.neighbours(&state.spec.id).chain([state]) {
            if other.leaves_soon(now) {
                line.coming
                    .push((now + core.leaving_takes(now, other), other));
            } else {
                line.stands(other);
            }
        }
        line.coming
            .sort_by(|(a, one), (b, other)| b.cmp(a).then(one.slot.cmp(&other.slot)));
        line
    }

    /// One that is there, or is on its way there and may go later.
    fn stands(&mut self, state: &'a ModelState) {
        let on_its_way = state.phase.in_transition();
        if on_its_way {
            self.at = self.at.max(self.now + state.remaining(self.now));
        }
        let mut resident = self.core.candidate(self.now, state);
        match state.phase {
            Phase::Serving => {}
            Phase::Waking { .. } => {
                let served = self.now + state.remaining(self.now);
                resident.last_used = served;
                resident.not_before = served + state.spec.min_runtime;
            }
            // It was only started to be ready, and goes by itself.
            Phase::Booting(Boot::Started | Boot::Starting(_) | Boot::Waking(_)) => {
                resident.not_before = self.now + state.remaining(self.now);
            }
            Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Draining { .. }
            | Phase::Sleeping { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => return,
        }
        self.residents.push(resident);
    }

    /// A model gets its room and wakes. Returns whether it can.
    fn takes_turn(&mut self, state: &ModelState) -> bool {
        let takes = self.takes(state);
        while !self.has(&takes)
            && let Some((left, leaving)) = self.coming.pop()
        {
            self.at = self.at.max(left);
            self.give(&leaving.spec.gpus, leaving.will_free());
        }
        if !self.has(&takes) && !self.make_room(state, &takes) {
            return false;
        }
        let adds = state.spec.awake.less(state.reserved());
        for (gpu, free) in self.gpus.iter().zip(&mut self.free) {
            if state.spec.gpus.contains(gpu) {
                *free = free.less(adds);
            }
        }
        self.at = self.at + state.wake_takes();
        self.residents.push(Candidate {
            busy: true,
            last_used: self.at,
            not_before: self.at + state.spec.min_runtime,
            spared_until: Millis(0),
            ..self.core.candidate(self.now, state)
        });
        true
    }

    /// What a model needs on each of these GPUs.
    fn takes(&self, state: &ModelState) -> Vec<Bytes> {
        let needs = self.core.needs(self.now, &state.spec.id);
        let gives = if state.leaves_soon(self.now) {
            state.will_free()
        } else {
            Bytes(0)
        };
        let on = |gpu: &GpuId| {
            let there = needs.iter().find(|need| need.gpu == *gpu);
            there.map_or(Bytes(0), |need| need.needs + gives)
        };
        self.gpus.iter().map(on).collect()
    }

    fn has(&self, takes: &[Bytes]) -> bool {
        takes
            .iter()
            .zip(&self.free)
            .all(|(takes, free)| takes <= free)
    }

    fn give(&mut self, gpus: &[GpuId], bytes: Bytes) {
        for (gpu, free) in self.gpus.iter().zip(&mut self.free) {
            if gpus.contains(gpu) {
                *free = *free + bytes;
            }
        }
    }

    /// Whoever can go first goes. Returns whether somebody can.
    fn make_room(&mut self, state: &ModelState, takes: &[Bytes]) -> bool {
        let on_each = self.gpus.iter().zip(takes.iter().zip(&self.free));
        let missing = on_each
            .filter(|(_, (takes, free))| takes > free)
            .map(|(gpu, (takes, free))| (*gpu, takes.less(*free)));
        let missing = self
            .core
            .attainable(&state.spec.id, missing.collect(), &self.residents);
        let need = Need {
            missing,
            busy_from: state.waits_since(self.now) + state.spec.max_wait,
            urgent: state.is_urgent(self.now),
        };
        // Soon after a start of control nobody may be put to sleep yet.
        self.at = self.at.max(self.core.sleeps_from());
        for _ in 0..MOMENTS {
            match policy::choose(self.core.fleet.policy, &need, &self.residents, self.at) {
                Choice::Victims(victims) => {
                    let (going, staying) = std::mem::take(&mut self.residents)
                        .into_iter()
                        .partition(|resident| victims.contains(&resident.model));
                    self.residents = staying;
                    self.go(going);
                    return true;
                }
                Choice::Wait(Some(at)) => self.at = at,
                Choice::Wait(None) => return false,
            }
        }
        true
    }

    /// They drain together, and sleep one after the other.
    fn go(&mut self, victims: Vec<Candidate>) {
        let (mut drain, mut sleep) = (Millis(0), Millis(0));
        for victim in victims {
            if let Some(state) = self.core.models.get(&victim.model) {
                drain = drain.max(self.core.drain_takes(state, victim.busy));
                sleep = sleep + state.learned.sleep.promised();
            }
            self.give(&victim.gpus, victim.frees);
        }
        self.at = self.at + drain + sleep;
    }
}
