//! Who waits for room on a GPU, and in which order: whose requests were frozen for too long first, then by waiting time, then by name.
//! Strictly so, that nobody starves.

use std::collections::BTreeSet;

use crate::{
    Core,
    ids::{GpuId, Millis, ModelId},
    models::Slot,
    phase::Phase,
    state::ModelState,
};

/// Where a model stands in a queue: who is less goes first, and of equals the one whose name comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    is_patient: bool,
    waited_from: Millis,
}

impl Core {
    /// The GPUs whose queues must be served together with this one's: those that share a waiting model with it.
    pub(crate) fn waiting_together(&self, gpu: GpuId) -> BTreeSet<GpuId> {
        let mut together = BTreeSet::from([gpu]);
        let mut new = vec![gpu];
        while let Some(gpu) = new.pop() {
            let queued = self.places.gpu(gpu).map(|place| &place.queued);
            let states = queued
                .into_iter()
                .flatten()
                .filter_map(|slot| self.models.at(*slot));
            for gpu in states.flat_map(|state| &state.spec.gpus) {
                if together.insert(*gpu) {
                    new.push(*gpu);
                }
            }
        }
        together
    }

    /// Everybody who waits for room there, first first.
    pub(crate) fn queue(&self, now: Millis, gpus: &BTreeSet<GpuId>) -> Vec<ModelId> {
        let places = gpus.iter().filter_map(|gpu| self.places.gpu(*gpu));
        let waiting: BTreeSet<Slot> = places
            .flat_map(|place| place.queued.iter().copied())
            .collect();
        let states = waiting.into_iter().filter_map(|slot| self.models.at(slot));
        let mut queue: Vec<_> = states
            .map(|state| (state.rank(now), &state.spec.id))
            .collect();
        queue.sort();
        sabotage!(NewestFirst, queue.reverse());
        queue.into_iter().map(|(_, id)| id.clone()).collect()
    }
}

impl ModelState {
    /// Its place among those who wait.
    pub(crate) fn rank(&self, now: Millis) -> Rank {
        self.rank_if_since(now, self.waits_since(now))
    }

    /// … had it waited since then.
    pub(crate) fn rank_if_since(&self, now: Millis, since: Millis) -> Rank {
        let waited_from = sabotage!(QueueByName, Millis(0), since);
        Rank {
            is_patient: !self.is_urgent(now),
            waited_from,
        }
    }

    /// Since when it waits for room or goes through its first start, frozen requests from their freeze on, and held ones since before this
    /// life where they do; for whoever does not wait, `now`: it would begin to.
    pub(crate) fn waits_since(&self, now: Millis) -> Millis {
        match self.phase {
            Phase::Queued | Phase::Booting(_) => {
                let held = sabotage!(WaitsBeginAnew, None, self.asked.held_since);
                let earlier = self.engine.frozen_since.into_iter().chain(held);
                earlier.fold(self.since, Millis::min)
            }
            Phase::Asleep
            | Phase::Waking { .. }
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Sleeping { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => now,
        }
    }

    /// Its requests have been frozen for longer than its operator allows.
    pub(crate) fn is_urgent(&self, now: Millis) -> bool {
        self.engine.frozen_since.is_some_and(|since| {
            sabotage!(
                MaxFreezeIgnored,
                false,
                now.since(since) >= self.spec.max_freeze
            )
        })
    }
}
