//! A policy of the core among equal places: the same function that production asks, with models that are never busy or pinned.

use greenthread_core::{
    ids::{Bytes, GpuId, Millis, ModelId},
    policy::{Choice, Need, Resident},
};

use super::{Arrival, Eviction};
use crate::simulate::trace::Trace;

/// What each model takes: one place.
const PLACE: Bytes = Bytes(1);

/// The function of a policy of the core.
pub(crate) type Choose = fn(&Need, &[Resident], Millis) -> Choice;

/// Asks the core's policy.
#[derive(Clone, Debug)]
pub(crate) struct OfCore {
    choose: Choose,
    models: Vec<ModelId>,
    last_used: Vec<Millis>,
}

impl OfCore {
    /// The policy for the models of a trace.
    pub(crate) fn new(choose: Choose, trace: &Trace) -> Self {
        Self {
            choose,
            models: trace.models.iter().cloned().map(ModelId).collect(),
            last_used: vec![Millis(0); trace.models.len()],
        }
    }

    fn resident(&self, model: usize) -> Resident {
        Resident {
            model: self.models[model].clone(),
            gpus: vec![GpuId(0)],
            frees: PLACE,
            pinned: false,
            busy: false,
            last_used: self.last_used[model],
            not_before: Millis(0),
        }
    }
}

impl Eviction for OfCore {
    fn arrived(&mut self, arrival: Arrival) {
        self.last_used[arrival.model] = arrival.at;
    }

    fn victim(&mut self, arrival: Arrival, residents: &[usize]) -> usize {
        let need = Need {
            missing: vec![(GpuId(0), PLACE)],
            busy_from: arrival.at,
            urgent: false,
        };
        let candidates: Vec<Resident> = residents
            .iter()
            .map(|model| self.resident(*model))
            .collect();
        let chosen = match (self.choose)(&need, &candidates, arrival.at) {
            Choice::Victims(victims) => candidates
                .iter()
                .position(|candidate| victims.first() == Some(&candidate.model)),
            Choice::Wait(_) => None,
        };
        assert!(
            chosen.is_some(),
            "every resident may go, so a policy names one of them"
        );
        chosen.unwrap_or(0)
    }
}
