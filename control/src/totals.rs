//! Counters that only grow, per model: what the gates count (outcomes, waits) and what control counts (wakes, sleeps).
//!
//! A gate sends its totals since it exists; here the growth is added up, so that a gate that goes takes nothing with it.

use std::collections::BTreeMap;

use greenthread_core::{
    event::{Event, Outcome},
    ids::{GateId, ModelId},
};

/// Gates whose last totals are remembered. An older one that comes back after so many others is counted again from zero.
const REMEMBERED_GATES: usize = 1_024;
/// Outcomes that one row can name; a gate of another version may know a few more than we.
const OUTCOMES: usize = 64;

/// What a gate counted for one row since the gate exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowTotals {
    /// Requests by outcome ("forwarded", "left", the reason of an answer).
    pub outcomes: BTreeMap<String, u64>,
    /// Released requests by bucket of their wait.
    pub waits: Vec<u64>,
}

/// What is known of one model over all gates, gone ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelTotals {
    /// Requests and waits.
    pub requests: RowTotals,
    /// Wakes that ended well, and those that did not.
    pub wakes: (u64, u64),
    /// Sleeps that ended well, and those that did not.
    pub sleeps: (u64, u64),
}

/// All counters.
#[derive(Debug, Default)]
pub struct Totals {
    models: BTreeMap<ModelId, ModelTotals>,
    gates: BTreeMap<GateId, LastSeen>,
    heard: u64,
}

#[derive(Debug, Default)]
struct LastSeen {
    /// Position in the order of hearing, to forget the one that was silent longest.
    heard: u64,
    rows: BTreeMap<ModelId, RowTotals>,
}

impl Totals {
    /// Adds what grew since the gate's last figures.
    pub fn gate_said(&mut self, gate: &GateId, rows: Vec<(ModelId, RowTotals)>) {
        self.heard += 1;
        if !self.gates.contains_key(gate) && self.gates.len() >= REMEMBERED_GATES {
            let silent = self
                .gates
                .iter()
                .min_by_key(|(_, seen)| seen.heard)
                .map(|(id, _)| id.clone());
            silent.map(|id| self.gates.remove(&id));
        }
        let seen = self.gates.entry(gate.clone()).or_default();
        seen.heard = self.heard;
        for (model, now) in rows {
            // A row that no model has any more (or never had) is not counted: a gate cannot fill our memory with names.
            let Some(total) = self.models.get_mut(&model) else {
                continue;
            };
            let before = seen.rows.entry(model).or_default();
            total.requests.add_growth(before, &now);
            *before = now;
        }
    }

    /// Counts the end of a transition.
    pub fn engine_said(&mut self, event: &Event) {
        let (model, outcome, woke) = match event {
            Event::Woke { model, outcome, .. } => (model, outcome, true),
            Event::Slept { model, outcome, .. } => (model, outcome, false),
            Event::Tick
            | Event::Hello { .. }
            | Event::Report { .. }
            | Event::Ack { .. }
            | Event::Bye { .. }
            | Event::StreamClosed { .. }
            | Event::Observed { .. }
            | Event::Started { .. }
            | Event::EngineGone { .. }
            | Event::GpuRead { .. }
            | Event::GpuAccepted(_)
            | Event::ModelSet(_)
            | Event::ModelRemoved(_)
            | Event::Operator { .. }
            | Event::Deposed
            | Event::TermRaised(_) => return,
        };
        let Some(total) = self.models.get_mut(model) else {
            return;
        };
        let (done, failed) = if woke {
            &mut total.wakes
        } else {
            &mut total.sleeps
        };
        match outcome {
            Outcome::Done { .. } => *done += 1,
            Outcome::Failed(_) | Outcome::Unknown { .. } => *failed += 1,
        }
    }

    /// Starts to count for a model.
    pub fn know(&mut self, model: &ModelId) {
        self.models.entry(model.clone()).or_default();
    }

    /// Forgets a model.
    pub fn forget(&mut self, model: &ModelId) {
        self.models.remove(model);
        for seen in self.gates.values_mut() {
            seen.rows.remove(model);
        }
    }

    /// The counters of a model.
    pub fn of(&self, model: &ModelId) -> ModelTotals {
        self.models.get(model).cloned().unwrap_or_default()
    }
}

impl RowTotals {
    fn add_growth(&mut self, before: &Self, now: &Self) {
        for (outcome, &count) in &now.outcomes {
            let grown = growth(before.outcomes.get(outcome).copied().unwrap_or(0), count);
            if self.outcomes.len() < OUTCOMES || self.outcomes.contains_key(outcome) {
                *self.outcomes.entry(outcome.clone()).or_default() += grown;
            }
        }
        let buckets = greenthread_proto::WAIT_BUCKET_BOUNDS_MS.len() + 1;
        self.waits.resize(buckets, 0);
        for (bucket, total) in self.waits.iter_mut().enumerate() {
            let count = |row: &Self| row.waits.get(bucket).copied().unwrap_or(0);
            *total += growth(count(before), count(now));
        }
    }
}

/// A total that became smaller belongs to a gate that started again: all of it is growth.
fn growth(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(forwarded: u64) -> Vec<(ModelId, RowTotals)> {
        let outcomes = BTreeMap::from([("forwarded".to_owned(), forwarded)]);
        vec![(
            ModelId("m.1".into()),
            RowTotals {
                outcomes,
                waits: vec![forwarded],
            },
        )]
    }

    #[test]
    fn growth_of_all_gates_is_added_up_and_survives_them() {
        let (a, b) = (GateId("a".into()), GateId("b".into()));
        let model = ModelId("m.1".into());
        let mut totals = Totals::default();
        totals.know(&model);
        for (gate, count) in [(&a, 5), (&b, 2), (&a, 7), (&a, 7), (&b, 3)] {
            totals.gate_said(gate, said(count));
        }
        let requests = totals.of(&model).requests;
        assert_eq!(
            (requests.outcomes["forwarded"], requests.waits[0]),
            (10, 10)
        );
    }

    #[test]
    fn rows_of_no_model_are_not_counted() {
        let mut totals = Totals::default();
        totals.gate_said(&GateId("a".into()), said(5));
        assert_eq!(totals.of(&ModelId("m.1".into())), ModelTotals::default());
    }
}
