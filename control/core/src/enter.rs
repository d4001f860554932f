//! Every change of phase, and what ends and begins with it.

use crate::{
    Core,
    ids::{Bytes, Millis, ModelId},
    phase::{Failure, Phase},
    state::ModelState,
};

impl Core {
    /// Moves a model into a phase. Every change of phase passes here.
    pub(crate) fn enter(&mut self, now: Millis, id: &ModelId, phase: Phase) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        state.passes_to(now, &phase);
        state.phase = phase;
        state.since = now;
        // A look that is under way was asked for in another phase; its answer would be stale.
        (
            state.engine.observing,
            state.engine.observe_at,
            state.engine.unanswered,
            state.engine.unsaid,
        ) = (None, now + self.fleet.times.observe, 0, 0);
        state.room.patient_until = None;
        // What it takes and gives counts from here on.
        self.refresh();
        self.make_estimate(now, id);
        match self.models.get(id).map(|state| &state.phase) {
            Some(Phase::Serving) => {
                self.wait_ends(now, id);
                self.came_back(now, id);
            }
            Some(Phase::Queued) => self.wait_begins(now, id),
            Some(_) | None => {}
        }
        self.renew_estimates_beside(now, id);
        self.refresh();
    }
}

impl ModelState {
    /// What ends with its phase, or begins with the next.
    fn passes_to(&mut self, now: Millis, next: &Phase) {
        let serves = matches!(self.phase, Phase::Serving);
        if serves || matches!(next, Phase::Serving) {
            // Who was refused before or while it served had their chance to come back.
            self.asked.fulfilled_at = Some(now);
        }
        if let Phase::Failed { failure, .. } = self.phase
            && failure == Failure::NeverFits
        {
            self.engine.last_error = None;
        }
        match next {
            Phase::Serving => self.begins_to_serve(now),
            Phase::Draining { .. } => self.served_before = serves,
            Phase::Sleeping { .. } => {}
            Phase::Asleep => {
                // Who asks next begins to wait anew.
                (self.told.stuck, self.room.wait, self.room.restoring) = (false, None, false);
                self.told.boot_ready = true;
                self.operator.sleeps &= self.spec.pinned;
            }
            Phase::Booting(_)
            | Phase::Queued
            | Phase::Waking { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => {}
        }
        if !matches!(
            next,
            Phase::Serving | Phase::Draining { .. } | Phase::Sleeping { .. }
        ) {
            // What it was found to hold is over with its service, whoever takes a drain back in between.
            self.engine.found_awake = Bytes(0);
        }
    }

    /// Whatever was wished, waited for or not known of it is over.
    fn begins_to_serve(&mut self, now: Millis) {
        self.served_at = Some(now);
        self.told.boot_ready = true;
        (self.operator.wants, self.room.restoring) = (false, false);
        self.engine.failures = 0;
        self.engine.last_error = None;
        (self.engine.inside, self.engine.frozen_since) = (0, None);
        self.asked.held_since = None;
        (self.told.stuck, self.engine.lacked_room) = (false, false);
        self.resolve();
    }
}
