//! What a trace is replayed on: GPUs, models with their bytes and durations, and the limits of a gateway. Either a fleet file, with what
//! earlier lives measured, or equal places for every model of the trace. What is assumed is said in sentences.

use std::{cmp::Reverse, collections::BTreeMap, path::Path};

use greenthread_core::{
    ids::{Bytes, GpuId, Millis, ModelId},
    model::{Caps, Durations, ModelSpec, OnDrainTimeout, OnLeaseEnd, Sizes},
};

use super::{arguments::Assumptions, gate::HoldLimits, trace::Trace};
use crate::{
    config::{Fleet, Model},
    engine,
};

/// One model as it is replayed.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    /// Name.
    pub(super) name: String,
    /// For the core; its id is of the name.
    pub(super) spec: ModelSpec,
    /// How long its engine really takes.
    pub(super) takes: Durations,
}

/// The world of a replay.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// Bytes of each GPU that models may use.
    pub(super) gpus: Vec<Bytes>,
    /// Host RAM that sleeping copies may take, by NUMA node; empty where nothing limits it.
    pub(super) hosts: Vec<Bytes>,
    /// Node of each GPU.
    pub(super) host_of: Vec<usize>,
    /// By the numbers of the trace.
    pub(super) models: Vec<Actor>,
    /// Of the gateway.
    pub(super) hold: HoldLimits,
    /// Sentences about what nobody measured.
    pub(super) assumptions: Vec<String>,
}

/// A trace names models that the fleet does not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}:{line}: model: `{name}` is not in {}{}; add it there, say which of its models stands in (`--map {name}=NAME`; it has {}), or leave such requests out (`--skip-unknown`)",
    trace.display(),
    fleet.display(),
    match others { 0 => String::new(), others => format!(" (and {others} other models of the trace)") },
    known.join(", ")
)]
pub struct UnknownModel {
    trace: std::path::PathBuf,
    line: u64,
    name: String,
    fleet: std::path::PathBuf,
    others: usize,
    known: Vec<String>,
}

/// What a fleet and a trace are called, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Files<'a> {
    /// The trace.
    pub(super) trace: &'a Path,
    /// The fleet file.
    pub(super) fleet: &'a Path,
}

/// Translates a trace into the models of a fleet, which are numbered by name. Returns it with the number of requests left out.
///
/// # Errors
/// A model that is neither in the fleet nor mapped, unless such requests are to be left out.
pub(super) fn translate(
    trace: &Trace,
    fleet: &Fleet,
    map: &BTreeMap<String, String>,
    skip_unknown: bool,
    files: Files<'_>,
) -> Result<(Trace, u64), UnknownModel> {
    let names: Vec<&String> = fleet.models.keys().collect();
    let number = |name: &String| {
        let name = map.get(name).unwrap_or(name);
        names.iter().position(|known| *known == name)
    };
    let numbers: Vec<Option<usize>> = trace.models.iter().map(number).collect();
    let mut unknown = (0..numbers.len()).filter(|model| numbers[*model].is_none());
    if let Some(first) = unknown.next().filter(|_| !skip_unknown) {
        let shown = names.iter().take(10).map(|name| (*name).clone());
        let more = (names.len() > 10).then(|| "…".to_owned());
        return Err(UnknownModel {
            trace: files.trace.to_owned(),
            line: trace.lines.get(first).copied().unwrap_or(0),
            name: trace.models[first].clone(),
            fleet: files.fleet.to_owned(),
            others: unknown.count(),
            known: shown.chain(more).collect(),
        });
    }
    let requests: Vec<_> = trace
        .requests
        .iter()
        .filter_map(|request| {
            let model = numbers[request.model]?;
            Some(super::trace::Request { model, ..*request })
        })
        .collect();
    let left_out = (trace.requests.len() - requests.len()) as u64;
    let translated = Trace {
        models: names.into_iter().cloned().collect(),
        lines: vec![0; numbers.len()],
        requests,
        out_of_order: trace.out_of_order,
    };
    Ok((translated, left_out))
}

/// The world of a fleet file, with what was measured in its state folder.
pub(super) fn of_fleet(fleet: &Fleet) -> Setting {
    let known: Vec<(&Model, ModelSpec, bool)> = fleet
        .models
        .values()
        .map(|model| {
            let (spec, measured) = engine::measured(fleet, model);
            (model, spec, measured)
        })
        .collect();
    let unmeasured: Vec<_> = known.iter().filter(|(_, _, measured)| !measured).collect();
    let names: Vec<&str> = unmeasured
        .iter()
        .map(|(model, _, _)| model.name.as_str())
        .collect();
    let sentence = |(_, spec, _): &&(&Model, ModelSpec, bool)| {
        let Durations {
            start,
            wake,
            reload: _,
            sleep,
        } = spec.guess;
        format!(
            "not measured yet, so bytes are as declared and a start takes {start}, a wake {wake}, a sleep {sleep}: {}",
            some(&names)
        )
    };
    let assumptions = unmeasured.first().map(sentence).into_iter().collect();
    let models = known
        .iter()
        .map(|(model, spec, _)| Actor {
            name: model.name.clone(),
            takes: spec.guess,
            spec: ready(spec.clone()),
        })
        .collect();
    Setting {
        gpus: fleet.gpus.iter().copied().map(Bytes).collect(),
        hosts: fleet.hosts.iter().copied().map(Bytes).collect(),
        host_of: fleet.host_of.clone(),
        models,
        hold: HoldLimits {
            budget: millis(fleet.hold.budget),
            limit: usize::try_from(fleet.hold.limit).unwrap_or(usize::MAX),
            per_model: usize::try_from(fleet.hold.per_model).unwrap_or(usize::MAX),
        },
        assumptions,
    }
}

/// Equal places on equal GPUs for every model of a trace.
pub(super) fn assumed(trace: &Trace, gpus: usize, assumed: &Assumptions) -> Setting {
    let takes = Durations {
        start: millis(assumed.start),
        wake: millis(assumed.wake),
        reload: millis(assumed.start),
        sleep: millis(assumed.sleep),
    };
    let place = Bytes(assumed.place_size);
    let actor = |name: &String| Actor {
        name: name.clone(),
        takes,
        spec: ready(ModelSpec {
            id: ModelId(name.clone()),
            gpus: vec![GpuId(0)],
            awake: place,
            asleep: Bytes(0),
            sizes: Sizes::default(),
            tier: None,
            conditioned: true,
            pinned: false,
            popular: false,
            idle_timeout: None,
            drain_timeout: Millis::seconds(30),
            on_drain_timeout: OnDrainTimeout::Freeze,
            max_freeze: Millis::seconds(120),
            min_runtime: Millis::seconds(10),
            max_wait: Millis::seconds(5),
            on_lease_end: OnLeaseEnd::Flow,
            caps: Caps {
                counts: true,
                lossless: true,
                restartable: true,
                disk: false,
            },
            guess: takes,
        }),
    };
    let mut setting = Setting {
        gpus: vec![Bytes(place.0.saturating_mul(assumed.places as u64)); gpus],
        hosts: Vec::new(),
        host_of: Vec::new(),
        models: trace.models.iter().map(actor).collect(),
        hold: HoldLimits {
            budget: Millis::seconds(120),
            limit: 10_000,
            per_model: 5_000,
        },
        assumptions: vec![format!(
            "every model takes one place of {place}, a GPU has {}, wakes in {} and sleeps in {}",
            assumed.places, takes.wake, takes.sleep
        )],
    };
    setting.spread(trace, gpus);
    setting
}

impl Setting {
    /// Puts the models on another number of GPUs, as large as the first one: the busiest first, each on the GPUs with the least work.
    pub(super) fn spread(&mut self, trace: &Trace, gpus: usize) {
        let size = self.gpus.first().copied().unwrap_or_default();
        self.gpus = vec![size; gpus];
        let mut busy = vec![0_u64; self.models.len()];
        for request in &trace.requests {
            busy[request.model] = busy[request.model].saturating_add(request.service.0);
        }
        let mut order: Vec<usize> = (0..self.models.len()).collect();
        order.sort_by_key(|model| (Reverse(busy[*model]), *model));
        let mut load = vec![(0_u64, 0_u64); gpus];
        for model in order {
            let spec = &mut self.models[model].spec;
            let mut by_load: Vec<usize> = (0..gpus).collect();
            // Models that nobody asks for take no time, but each leaves something on its GPU while it sleeps.
            by_load.sort_by_key(|gpu| match busy[model] {
                0 => (load[*gpu].1, load[*gpu].0, *gpu),
                _ => (load[*gpu].0, load[*gpu].1, *gpu),
            });
            let mut chosen: Vec<usize> = by_load.into_iter().take(spec.gpus.len()).collect();
            chosen.sort_unstable();
            for gpu in &chosen {
                load[*gpu].0 = load[*gpu].0.saturating_add(busy[model]);
                load[*gpu].1 += 1;
            }
            spec.gpus = chosen.into_iter().map(GpuId).collect();
        }
        let sentence = "models are spread over the GPUs by how busy they are in this trace";
        if gpus > 1 && !self.assumptions.iter().any(|known| known == sentence) {
            self.assumptions.push(sentence.to_owned());
        }
    }

    /// The first model that spans more GPUs than there are.
    pub(super) fn too_wide(&self, gpus: usize) -> Option<&Actor> {
        self.models
            .iter()
            .find(|actor| actor.spec.gpus.len() > gpus)
    }
}

/// A model that has been measured: it needs no conditioning cycle, and what its engine says of its requests is true.
fn ready(spec: ModelSpec) -> ModelSpec {
    ModelSpec {
        conditioned: true,
        ..spec
    }
}

pub(super) fn millis(duration: std::time::Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A few names of many.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
