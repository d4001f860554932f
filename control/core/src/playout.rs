//! The queue of a model's GPUs, played forward to tell when it will be awake: who waits before it takes its turn, and whoever has come
//! may have to go again for the next. Nothing here decides anything.
//!
//! Each step takes what was learned of it. Not all of them take long at once, so what they take beyond their medians is added in
//! squares: a sum of 90 % quantiles would tell a long queue far too much.

use std::collections::BTreeSet;

use crate::{
    Core,
    estimate::{NO_IDEA, WAY},
    ids::{Bytes, GpuId, Millis, ModelId},
    learned::Span,
    phase::{Boot, Phase},
    policy::{self, Candidate, Need, Selection},
    state::ModelState,
};

/// Turns that are played one by one; further ones take as long as these on average.
const PLAYED: usize = 6;
/// Moments at which it is looked who can go for one turn.
const MOMENTS: usize = 4;

/// What will be on some GPUs, as far as it is played.
struct Playout<'a> {
    core: &'a Core,
    now: Millis,
    gpus: Vec<GpuId>,
    /// How far it is played, where everything takes as long as half of the time.
    at: Millis,
    /// Squares of how much longer each step takes most of the time, in ms²: not all of them do at once.
    spread: u64,
    /// Bytes by GPU, in the order of `gpus`.
    free: Vec<Bytes>,
    /// Who is on its way out, and when it has left; the next to leave last.
    coming: Vec<(Millis, &'a ModelState)>,
    /// Everybody else; who is there, or on its way there, may go later.
    stands: Vec<&'a ModelState>,
    /// Those as policies see them, and who has come since; made when somebody has to go.
    residents: Option<Vec<Candidate>>,
}

impl Core {
    /// How long until a model is awake: everybody who waits before it, then room for itself, then its wake.
    pub(crate) fn awake_in(&self, now: Millis, state: &ModelState) -> Millis {
        self.awake_in_if_since(now, state, state.waits_since(now))
    }

    /// … had it waited since then.
    pub(crate) fn awake_in_if_since(
        &self,
        now: Millis,
        state: &ModelState,
        since: Millis,
    ) -> Millis {
        let own = (state.rank_if_since(now, since), &state.spec.id);
        let before = |other: &&ModelState| {
            let is_first = (other.rank(now), &other.spec.id) < own;
            other.phase.waits_for_room() && is_first && !self.gpus_are_stopped(&other.spec.id)
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
        ahead.sort_by_key(|other| (other.rank(now), &other.spec.id));
        let awake = self.played(now, state, gpus, &ahead);
        awake.map_or(NO_IDEA, |at| at.since(now) + WAY)
    }

    /// When a model will be awake that waits from now on, or goes on waiting, behind `ahead`, first first; `gpus` are those of all of
    /// them. `None`: nothing is known that could ever make room for it.
    fn played(
        &self,
        now: Millis,
        state: &ModelState,
        gpus: Vec<GpuId>,
        ahead: &[&ModelState],
    ) -> Option<Millis> {
        let mut playout = Playout::new(self, now, gpus);
        let begins = playout.at;
        for other in ahead.iter().take(PLAYED) {
            // Nobody waits for one that nobody can make room for.
            if playout.takes_turn(other) {
                playout.stays(other);
            }
        }
        if let Some(more) = ahead.len().checked_sub(PLAYED) {
            let each = playout.at.since(begins).0 / u64::try_from(PLAYED).unwrap_or(1);
            playout.at = playout.at + Millis(each.saturating_mul(u64::try_from(more).unwrap_or(0)));
        }
        if state.leaves_soon(now) {
            playout.at = playout.at.max(now + self.leaving_takes(now, state));
        }
        let ends = playout.takes_turn(state);
        ends.then(|| playout.at + Millis(playout.spread.isqrt()))
    }

    /// One that is there, or on its way there, as policies see it.
    fn resident(&self, now: Millis, state: &ModelState) -> Option<Candidate> {
        let served = now + state.remaining(now);
        match state.phase {
            Phase::Serving => Some(self.candidate(now, state)),
            Phase::Waking { .. } => Some(Candidate {
                last_used: served,
                not_before: served + state.spec.min_runtime,
                expected_until: state.expected_until(served),
                ..self.candidate(now, state)
            }),
            // It was only started to be ready and goes by itself, unless somebody wants it.
            Phase::Booting(Boot::Started | Boot::Starting(_) | Boot::Waking(_)) => {
                let stays = if self.asked_for(now, state) {
                    state.spec.min_runtime
                } else {
                    Millis(0)
                };
                Some(Candidate {
                    last_used: served,
                    not_before: served + stays,
                    ..self.candidate(now, state)
                })
            }
            Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Draining { .. }
            | Phase::Sleeping { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => None,
        }
    }
}

impl<'a> Playout<'a> {
    fn new(core: &'a Core, now: Millis, gpus: Vec<GpuId>) -> Self {
        let mut playout = Self {
            core,
            now,
            gpus,
            at: now,
            spread: 0,
            free: Vec::new(),
            coming: Vec::new(),
            stands: Vec::new(),
            residents: None,
        };
        let free = |gpu: &GpuId| core.capacity(*gpu).less(core.reserved_on(*gpu));
        playout.free.extend(playout.gpus.iter().map(free));
        let there = core.places.on(&playout.gpus).into_iter();
        for other in there.filter_map(|slot| core.models.at(slot)) {
            if other.leaves_soon(now) {
                playout
                    .coming
                    .push((now + core.leaving_takes(now, other), other));
            } else {
                if other.phase.in_transition() {
                    playout.at = playout.at.max(now + other.remaining(now));
                }
                playout.stands.push(other);
            }
        }
        playout
            .coming
            .sort_by(|(a, one), (b, other)| b.cmp(a).then(one.slot.cmp(&other.slot)));
        playout
    }

    /// Everybody who is there, or on its way there, as policies see them.
    fn residents(&mut self) -> &mut Vec<Candidate> {
        let (core, now, stands) = (self.core, self.now, &self.stands);
        self.residents.get_or_insert_with(|| {
            let seen = stands.iter().filter_map(|state| core.resident(now, state));
            seen.collect()
        })
    }

    /// A model that has had its turn may have to go for the next.
    fn stays(&mut self, state: &ModelState) {
        let at = self.at;
        let resident = Candidate {
            busy: true,
            last_used: at,
            not_before: at + state.spec.min_runtime,
            spared_until: Millis(0),
            expected_until: state.expected_until(at),
            ..self.core.candidate(self.now, state)
        };
        self.residents().push(resident);
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
        self.passes(state.next_wake().takes());
        true
    }

    /// What a model needs on each of these GPUs.
    fn takes(&self, state: &ModelState) -> Vec<Bytes> {
        // Who leaves still has what it will have given up by then.
        let gives = if state.leaves_soon(self.now) {
            state.will_free()
        } else {
            Bytes(0)
        };
        let on = |gpu: &GpuId| {
            if state.spec.gpus.contains(gpu) {
                self.core.needs_on(state, *gpu, |_| true) + gives
            } else {
                Bytes(0)
            }
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
        let (core, missing) = (self.core, missing.collect());
        let missing = core.attainable(self.now, &state.spec.id, missing, self.residents());
        let need = Need {
            missing,
            busy_from: state.waits_since(self.now) + state.spec.max_wait,
            urgent: state.is_urgent(self.now),
        };
        // Soon after a start of control nobody may be put to sleep yet.
        self.at = self.at.max(core.sleeps_from());
        for _ in 0..MOMENTS {
            let at = self.at;
            match policy::choose(core.fleet.policy, &need, self.residents(), at) {
                Selection::Victims(victims) => {
                    let (going, staying) = std::mem::take(self.residents())
                        .into_iter()
                        .partition(|resident| victims.contains(&resident.model));
                    *self.residents() = staying;
                    self.go(going, &state.spec.id);
                    return true;
                }
                Selection::Wait(Some(at)) => self.at = at,
                Selection::Wait(None) => return false,
            }
        }
        true
    }

    /// They drain together, and sleep one after the other.
    fn go(&mut self, victims: Vec<Candidate>, waiter: &ModelId) {
        let mut longest: Option<Span> = None;
        for victim in victims {
            if let Some(state) = self.core.models.get(&victim.model) {
                let drain = self.core.drains_take(state, victim.busy, waiter);
                longest = longest.max(Some(drain));
                self.passes(state.learned.sleep.takes());
            }
            self.give(&victim.gpus, victim.frees);
        }
        longest.into_iter().for_each(|drain| self.passes(drain));
    }

    /// A step that takes its time.
    fn passes(&mut self, takes: Span) {
        let more = takes.most.since(takes.half).0;
        self.at = self.at + takes.half;
        self.spread = self.spread.saturating_add(more.saturating_mul(more));
    }
}
