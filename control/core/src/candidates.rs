//! Models as policies see them: the one place where what is known of a model becomes a value that a policy may judge.

use crate::{
    Core,
    ids::{GpuId, Millis},
    phase::Phase,
    policy::{Candidate, Need},
    state::ModelState,
};

impl Core {
    /// Every model that serves on a GPU where something is missing, and that could sleep somewhere when it was last asked to.
    pub(crate) fn candidates(&self, now: Millis, need: &Need) -> Vec<Candidate> {
        let gpus: Vec<GpuId> = need.missing.iter().map(|(gpu, _)| *gpu).collect();
        let there = self.places.on(&gpus).into_iter();
        there
            .filter_map(|slot| self.models.at(slot))
            .filter(|state| state.serves_and_has_a_berth(now))
            .map(|state| self.candidate(now, state))
            .collect()
    }

    /// A model as policies see it.
    pub(crate) fn candidate(&self, now: Millis, state: &ModelState) -> Candidate {
        let id = &state.spec.id;
        let tier = self.comes_back_from(now, state);
        let served: Millis = state.served_at.unwrap_or(state.since);
        Candidate {
            model: id.clone(),
            gpus: state.spec.gpus.clone(),
            frees: state.spec.awake.less(state.spec.asleep),
            pinned: sabotage!(
                PinnedGoes,
                false,
                state.spec.pinned && !state.operator.disabled
            ),
            busy: self.gates.in_flight(state.slot) > 0 || self.gates.held(state.slot) > 0,
            last_used: state
                .asked
                .last_used
                .map_or(served, |used| used.max(served)),
            not_before: sabotage!(
                MinRuntimeIgnored,
                Millis(0),
                served + state.spec.min_runtime
            ),
            spared_until: sabotage!(MinRuntimeIgnored, Millis(0), state.room.spare_until),
            expected_until: state.expected_until(served),
            sleep: state.learned.sleep.median(),
            wake: state.learned.back_from(tier).median(),
            demand: state.asked.demand,
            next_use: self.forecast.next_use(id),
        }
    }
}

impl ModelState {
    /// It serves, and could sleep somewhere when it was last asked to.
    fn serves_and_has_a_berth(&self, now: Millis) -> bool {
        matches!(self.phase, Phase::Serving) && now >= self.room.no_berth_until
    }

    /// It may make room, now or later.
    pub(crate) fn could_go(&self, now: Millis) -> bool {
        let pinned = self.spec.pinned && !self.operator.disabled;
        self.serves_and_has_a_berth(now) && !pinned
    }

    /// Whoever was told to come back finds it there, but nobody has to wait for them for longer than for requests that run in it.
    pub(crate) fn expected_until(&self, served: Millis) -> Millis {
        let most = served + self.spec.min_runtime + self.spec.max_wait;
        self.asked.back_by.min(most)
    }
}
