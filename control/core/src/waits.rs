//! What waits are spent on, and how good the estimates were: each wait is followed from the first wish until the model serves, and
//! compared with what was estimated when it began.

use crate::{
    Core,
    decision::WaitCauses,
    ids::{Millis, ModelId},
};

/// The way of a model from the first wish until it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    since: Millis,
    promised: Millis,
    chosen: Option<Millis>,
    drained: Option<Millis>,
    room: Option<Millis>,
}

impl Core {
    /// Somebody begins to wait for a model.
    pub(crate) fn wait_begins(&mut self, now: Millis, id: &ModelId) {
        if let Some(state) = self.models.get_mut(id) {
            state.room.wait = Some(Wait {
                since: now,
                promised: state.told.estimate,
                chosen: None,
                drained: None,
                room: None,
            });
        }
    }

    /// It was decided who makes room.
    pub(crate) fn wait_chosen(&mut self, now: Millis, id: &ModelId) {
        if let Some(wait) = self.wait_of(id) {
            wait.chosen.get_or_insert(now);
        }
    }

    /// A victim has drained and goes to sleep.
    pub(crate) fn wait_drained(&mut self, now: Millis, id: &ModelId) {
        if let Some(wait) = self.wait_of(id) {
            wait.drained = Some(now);
        }
    }

    /// There is room.
    pub(crate) fn wait_has_room(&mut self, now: Millis, id: &ModelId) {
        if let Some(wait) = self.wait_of(id) {
            wait.chosen.get_or_insert(now);
            wait.room = Some(now);
        }
    }

    /// It serves: what was waited for, and how good the estimate was.
    pub(crate) fn wait_ends(&mut self, now: Millis, id: &ModelId) {
        let Some(wait) = self
            .models
            .get_mut(id)
            .and_then(|state| state.room.wait.take())
        else {
            return;
        };
        let room = wait.room.unwrap_or(now);
        let chosen = wait.chosen.unwrap_or(room);
        let drained = wait.drained.unwrap_or(chosen);
        let WaitCauses {
            turn,
            drain,
            sleep,
            wake,
        } = &mut self.tally.waits;
        *turn += chosen.since(wait.since).0;
        *drain += drained.since(chosen).0;
        *sleep += room.since(drained).0;
        *wake += now.since(room).0;
        let waited = now.since(wait.since);
        let score = &mut self.tally.estimates;
        score.scored += 1;
        score.kept += u64::from(waited <= wait.promised);
        score.estimated += wait.promised.0;
        score.waited += waited.0;
        score.off += (waited.since(wait.promised) + wait.promised.since(waited)).0;
    }

    fn wait_of(&mut self, id: &ModelId) -> Option<&mut Wait> {
        self.models.get_mut(id)?.room.wait.as_mut()
    }
}
