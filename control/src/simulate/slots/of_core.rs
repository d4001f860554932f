//! A policy of the core among equal places: the same choice as in production, of models that are never busy or pinned, take a second to
//! move either way, and are asked for as often as the core would expect.

use greenthread_core::{
    demand::Demand,
    ids::{Bytes, GpuId, Millis, ModelId},
    policy::{self, Choice, Need, Policy, Resident},
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
        }
    }

    fn resident(&self, now: Millis, model: usize) -> Resident {
        let Model {
            id,
            last_used,
            demand,
        } = &self.models[model];
        let rate = demand.rate(now);
        Resident {
            model: id.clone(),
            gpus: vec![GpuId(0)],
            frees: PLACE,
            pinned: false,
            busy: false,
            last_used: *last_used,
            not_before: Millis(0),
            spared_until: Millis(0),
            sleep: MOVE,
            wake: MOVE,
            demand: rate,
            next_use: 1_000.0 / rate,
        }
    }
}

impl Eviction for OfCore {
    fn arrived(&mut self, arrival: Arrival) {
        let model = &mut self.models[arrival.model];
        model.last_used = arrival.at;
        model.demand.arrived(arrival.at, 1);
    }

    fn victim(&mut self, arrival: Arrival, residents: &[usize]) -> usize {
        let need = Need {
            missing: vec![(GpuId(0), PLACE)],
            busy_from: arrival.at,
            urgent: false,
        };
        let candidates: Vec<Resident> = residents
            .iter()
            .map(|model| self.resident(arrival.at, *model))
            .collect();
        let chosen = match policy::choose(self.policy, &need, &candidates, arrival.at) {
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
