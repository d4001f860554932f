//! Rounds of turns: who was touched, who is due, and who minds what others on its GPU do, until nothing follows any more.
//!
//! The order does not depend on chance: in each round models by slot, then GPUs by number.

use std::collections::BTreeSet;

use crate::{
    Core,
    agenda::Turn,
    effect::Effect,
    ids::{Millis, ModelId},
    models::Slot,
};

/// Rounds in which models may follow from each other within one step; what is left goes on a millisecond later.
const ROUNDS: usize = 8;

/// Turns that are due and taken in one step: a fleet that was started at once wants its looks at once. What is left stays due, and the
/// next step follows without a pause.
const DUE_MOST: usize = 4;

impl Core {
    /// Lets everybody who may do something have a turn.
    pub(crate) fn settle(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for _ in 0..DUE_MOST {
            let Some(due) = self.agenda.take_due(now) else {
                break;
            };
            match due {
                Turn::Model(slot) => self.models.touch(slot),
                Turn::Gpu(gpu) => self.places.mark(gpu),
            }
        }
        self.refresh();
        let mut turn = self.places.take_refreshed();
        self.places.take_changed();
        for _ in 0..ROUNDS {
            let dirty = self.places.take_dirty();
            let on_dirty = dirty.iter().filter_map(|gpu| self.places.gpu(*gpu));
            turn.extend(on_dirty.flat_map(|place| &place.attentive));
            self.open_when_observed(now);
            if turn.is_empty() && dirty.is_empty() && self.places.is_settled() {
                return;
            }
            self.turns_of_models(now, std::mem::take(&mut turn), effects);
            self.schedule(now, dirty, effects);
            self.refresh();
            // Who was touched without a visible change has had its turn.
            self.places.take_refreshed();
            turn = self.places.take_changed();
        }
        for slot in turn {
            self.agenda.set(Turn::Model(slot), Some(now + Millis(1)));
        }
        for gpu in self.places.take_dirty() {
            self.agenda.set(Turn::Gpu(gpu), Some(now + Millis(1)));
        }
    }

    fn turns_of_models(&mut self, now: Millis, turn: BTreeSet<Slot>, effects: &mut Vec<Effect>) {
        let mut looked = Vec::with_capacity(turn.len());
        for slot in turn {
            #[cfg(test)]
            {
                self.turns += 1;
            }
            self.turn_at = None;
            let Some(id) = self.models.id(slot).cloned() else {
                self.agenda.set(Turn::Model(slot), None);
                continue;
            };
            self.look(now, &id, effects);
            looked.push((slot, id, self.turn_at));
        }
        self.open_when_observed(now);
        for (slot, id, at) in looked {
            self.turn_at = at;
            self.advance(now, &id, effects);
            let at = self.turn_at.take();
            self.agenda.set(Turn::Model(slot), at);
        }
        self.refresh();
    }

    /// Snapshots are sent when every engine was looked at or timed out (rule 7).
    fn open_when_observed(&mut self, now: Millis) {
        if !self.open
            && now >= self.opens_from()
            && sabotage!(OpensAtOnce, true, !self.places.any_observing())
        {
            self.open = true;
            // What each was estimated to wait when it was looked at did not know of those that were looked at later.
            let ids: Vec<ModelId> = (self.models.values())
                .map(|state| state.spec.id.clone())
                .collect();
            for id in ids {
                self.make_estimate(now, &id);
            }
            self.models.touch_all();
            self.places.mark_all();
        }
    }
}
