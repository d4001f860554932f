//! A policy of the core among equal places: the same choice as in production, of models that are never busy or pinned, take a second to
//! move either way, and are expected as often, and as soon, as the core would expect them.

use greenthread_core::{
    demand::Demand,
    forecast::Forecast,
    ids::{Bytes, GpuId, Millis, ModelId},
    policy::{self, Candidate, Choice, Need, Policy},
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
    /// Only for a policy that asks for it: it is by far the dearest thing to know.
    forecast: Option<Forecast>,
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
            forecast: looks_ahead(policy).then(Forecast::default),
        }
    }

    fn resident(&self, model: usize) -> Candidate {
        let Model {
            id,
            last_used,
            demand,
        } = &self.models[model];
        let next_use = |forecast: &Forecast| forecast.next_use(id);
        Candidate {
            next_use: self.forecast.as_ref().map_or(1.0, next_use),
            ..resident(id.clone(), *last_used, *demand)
        }
    }
}

/// Whether a policy cares when a model will be used next: whether its price changes with nothing but that.
fn looks_ahead(policy: &Policy) -> bool {
    let now = Millis::seconds(7);
    let resident = |next_use| Candidate {
        next_use,
        ..resident(
            ModelId(String::new()),
            Millis::seconds(3),
            Demand::default(),
        )
    };
    let price = |next_use| (policy.price)(&resident(next_use), now);
    price(1.0).total_cmp(&price(1e9)).is_ne()
}

/// A model that is awake, of which no more is known.
fn resident(model: ModelId, last_used: Millis, demand: Demand) -> Candidate {
    Candidate {
        model,
        gpus: vec![GpuId(0)],
        frees: PLACE,
        pinned: false,
        busy: false,
        last_used,
        not_before: Millis(0),
        spared_until: Millis(0),
        sleep: MOVE,
        wake: MOVE,
        demand,
        next_use: 1.0,
    }
}

impl Eviction for OfCore {
    fn arrived(&mut self, arrival: Arrival) {
        let model = &mut self.models[arrival.model];
        model.last_used = arrival.at;
        model.demand.arrived(arrival.at, 1);
        if let Some(forecast) = &mut self.forecast {
            forecast.arrived(&model.id, arrival.at, 1);
        }
    }

    fn victim(&mut self, arrival: Arrival, residents: &[usize]) -> usize {
        let among = residents.iter().map(|model| &self.models[*model].id);
        if let Some(forecast) = &mut self.forecast {
            forecast.chosen_among(among);
        }
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
