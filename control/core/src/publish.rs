//! What gates are told: rows that changed, and whole tables for gates that have none.

use crate::{Core, effect::Effect, ids::Epoch, phase::Phase, state::ModelState};

impl Core {
    /// Sends every row that differs from what was last published.
    pub(crate) fn publish(&mut self, effects: &mut Vec<Effect>) {
        self.refresh();
        for id in self.places.take_unpublished() {
            let shown = |state: &&ModelState| state.published.as_ref() != Some(&state.row());
            if self.models.get(&id).filter(shown).is_none() {
                continue;
            }
            let Some(state) = self.models.get_mut(&id) else {
                continue;
            };
            let mut row = state.row();
            if state.needs_epoch(&row) {
                self.counter += 1;
                state.epoch = Epoch {
                    term: self.fleet.term,
                    counter: self.counter,
                };
                row.epoch = state.epoch;
                if let Phase::Draining { epoch, .. } = &mut state.phase {
                    *epoch = state.epoch;
                }
            }
            state.published = Some(row.clone());
            if self.open {
                effects.push(Effect::Publish(row));
            }
        }
    }

    pub(crate) fn serve_snapshots(&mut self, effects: &mut Vec<Effect>) {
        if !self.open {
            return;
        }
        for (gate, stream, sequence) in self.gates.take_unserved() {
            let rows = self
                .models
                .values()
                .filter_map(|state| state.published.clone())
                .collect();
            let elsewhere = self.gates.elsewhere(self.now, &gate, true);
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
}
