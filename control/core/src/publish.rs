//! What gates are told: rows that changed, and whole tables for gates that have none.

use crate::{
    Core,
    effect::{Admission, Effect},
    ids::{Epoch, GateId, Millis, ModelId},
    phase::Phase,
    state::ModelState,
};

impl Core {
    /// Sends every row that differs from what was last published.
    pub(crate) fn publish(&mut self, effects: &mut Vec<Effect>) {
        self.refresh();
        for slot in self.places.take_unpublished() {
            let news = |state: &ModelState| !state.is_published();
            if !self.models.at(slot).is_some_and(news) {
                continue;
            }
            let Some(state) = self.models.at_mut(slot) else {
                continue;
            };
            let mut row = state.row();
            if state.needs_epoch(&row) {
                self.counter += 1;
                state.told.epoch = Epoch {
                    term: self.fleet.term,
                    counter: self.counter,
                };
                row.epoch = state.told.epoch;
                if let Phase::Draining { epoch, .. } = &mut state.phase {
                    *epoch = state.told.epoch;
                }
            }
            match row.admission {
                Admission::Refuse { retry_after, .. } => state.asked.retry_after = retry_after,
                // Whoever cannot wait for so long is told when to come back, too.
                Admission::Hold { estimated_wait } => {
                    state.asked.retry_after = Millis(estimated_wait).retry_after();
                }
                Admission::Admit => {}
            }
            state.told.published = Some(row.clone());
            if self.open {
                effects.push(Effect::Publish(row));
            }
        }
    }

    /// Sends the whole table to gates that have none, once it is open (rule 7), and a heartbeat behind it (rule 3).
    pub(crate) fn serve_snapshots(&mut self, effects: &mut Vec<Effect>) {
        if !self.open {
            return;
        }
        for (gate, stream, sequence) in self.gates.take_unserved() {
            let rows = self
                .models
                .values()
                .filter_map(|state| state.told.published.clone())
                .collect();
            let elsewhere = self.elsewhere(&gate, true);
            effects.push(Effect::SendSnapshot {
                gate: gate.clone(),
                stream,
                rows,
            });
            effects.push(Effect::Heartbeat {
                gate,
                stream,
                echoed: sequence,
                elsewhere,
            });
        }
    }

    /// What the other gates have in flight, for `/status` at this gate; `None` where it was told a moment ago.
    pub(crate) fn elsewhere(&mut self, gate: &GateId, anew: bool) -> Option<Vec<(ModelId, u64)>> {
        let elsewhere = self.gates.elsewhere(self.now, gate, anew)?.into_iter();
        let named = |(slot, others)| Some((self.models.id(slot)?.clone(), others));
        Some(elsewhere.filter_map(named).collect())
    }
}
