//! A policy of the core among equal places: the same choice as in production, of models that are never busy or pinned, take a second to
//! move either way, and are expected as often, and as soon, as the core would expect them.

use greenthread_core::{
    demand::Demand,
    forecast::Forecast,
    ids::{Bytes, GpuId, Millis, ModelId},
    policy::{self, Candidate, Need, Policy, Selection},
};

use super::{Arrival, Eviction};
use crate::simulate::trace::Trace;

/// What each model takes: one place.
const PLACE: Bytes = Bytes::gib(1);
/// How long each takes to sleep and to wake.
const MOVE: Millis = Millis::seconds(1);

/// Asks the core's policy.
#[derive(Clone, Debug)]
pub(crate) struct OfCore {
    policy: &'static Policy,
    models: Vec<Model>,
    forecast: Forecast,
}

/// What is known of a model.
#[derive(Clone, Debug)]
struct Model {
    id: ModelId,
    last_used: Millis,
    demand: Demand,
}

impl OfCore {
    /// The policy for the models of a trace.
    pub(crate) fn new(policy: &'static Policy, trace: &Trace) -> Self {
        let model = |name: &String| Model {
            id: ModelId(name.clone()),
            last_used: Millis(0),
            demand: Demand::default(),
        };
        Self {
            policy,
            models: trace.models.iter().map(model).collect(),
            forecast: Forecast::default(),
        }
    }

    fn resident(&self, model: usize) -> Candidate {
        let Model {
            id,
            last_used,
            demand,
        } = &self.models[model];
        Candidate {
            model: id.clone(),
            gpus: vec![GpuId(0)],
            frees: PLACE,
            pinned: false,
            busy: false,
            last_used: *last_used,
            not_before: Millis(0),
            spared_until: Millis(0),
            expected_until: Millis(0),
            sleep: MOVE,
            wake: MOVE,
            demand: *demand,
            next_use: self.forecast.next_use(id),
        }
    }
}

impl Eviction for OfCore {
    fn arrived(&mut self, arrival: Arrival) {
        let model = &mut self.models[arrival.model];
        model.last_used = arrival.at;
        model.demand.arrived(arrival.at, 1);
        self.forecast.arrived(&model.id, arrival.at, 1);
    }

    fn victim(&mut self, arrival: Arrival, residents: &[usize]) -> usize {
        let among = residents.iter().map(|model| &self.models[*model].id);
        self.forecast.chosen_among(among);
        let need = Need {
            missing: vec![(GpuId(0), PLACE)],
            busy_from: arrival.at,
            urgent: false,
        };
        let candidates: Vec<Candidate> = residents
            .iter()
            .map(|model| self.resident(*model))
            .collect();
        let chosen = match policy::choose(self.policy, &need, &candidates, arrival.at) {
            Selection::Victims(victims) => candidates
                .iter()
                .position(|candidate| victims.first() == Some(&candidate.model)),
            Selection::Wait(_) => None,
        };
        assert!(
            chosen.is_some(),
            "every resident may go, so a policy names one of them"
        );
        chosen.unwrap_or(0)
    }
}
