//! Scenarios of the core: events in, effects compared. Engines answer at once unless a test says otherwise; no clock but `now`.

use std::collections::BTreeMap;

use crate::{
    Core,
    effect::{Admission, Effect, RefuseReason},
    event::{ActionError, EngineState, Event, Figures, Memory, Observation, Operator, Outcome},
    ids::{Attempt, Bytes, Epoch, GateId, GpuId, Millis, ModelId, StreamId},
    model::{
        Caps, Durations, FleetSpec, ModelSpec, OnDrainTimeout, OnLeaseEnd, Sizes, SleepMode, Times,
    },
};

mod again;
mod audit;
mod barrier;
mod edges;
mod engines;
mod explain;
mod found;
mod fuzz;
mod liveness;
mod narrow;
mod races;
mod remembered;
mod residuals;
mod rows;
mod scale;
mod scenarios;
mod sharing;
mod sizes;
mod table;
mod takes;
mod tiers;
mod waits;

const GIB: u64 = 1 << 30;

fn times() -> Times {
    Times {
        lease: Millis(5_000),
        margin: Millis(4_000),
        heartbeat: Millis(1_000),
        command: Millis(2_000),
        max_flow: Millis(600_000),
        forward_bound: Millis(3_000),
        observe: Millis(1_000),
    }
}

fn spec(name: &str) -> ModelSpec {
    ModelSpec {
        id: id(name),
        gpus: vec![GpuId(0)],
        awake: Bytes(17 * GIB),
        asleep: Bytes(GIB),
        conditioned: true,
        sizes: Sizes::default(),
        tier: None,
        pinned: false,
        popular: false,
        idle_timeout: Some(Millis(300_000)),
        drain_timeout: Millis(30_000),
        on_drain_timeout: OnDrainTimeout::Freeze,
        max_freeze: Millis(120_000),
        min_runtime: Millis(10_000),
        max_wait: Millis(5_000),
        on_lease_end: OnLeaseEnd::Flow,
        caps: Caps {
            counts: true,
            lossless: true,
            restartable: true,
            disk: false,
        },
        guess: Durations {
            start: Millis(5_000),
            wake: Millis(600),
            sleep: Millis(90),
            reload: Millis(2_000),
        },
    }
}

fn id(name: &str) -> ModelId {
    ModelId(format!("{name}.0"))
}

/// One engine of the bench: what it would answer.
#[derive(Clone, Debug)]
struct Engine {
    state: EngineState,
    count: u64,
    memory: Bytes,
    wake: Option<Outcome>,
    sleep: Option<Outcome>,
}

/// A core, engines that answer at once, and gates that acknowledge when told to.
struct Bench {
    core: Core,
    now: u64,
    engines: BTreeMap<ModelId, Engine>,
    gates: BTreeMap<GateId, (StreamId, u64, BTreeMap<ModelId, Figures>)>,
    /// Gates acknowledge barriers at once.
    obedient: bool,
    /// Engines answer at once.
    answering: bool,
    /// Somebody measures memory.
    measured: bool,
    /// Engines count their requests.
    counted: bool,
    log: Vec<Effect>,
}

impl Bench {
    fn new(models: &[ModelSpec], state: EngineState) -> Self {
        Self::on(1, models, state)
    }

    /// As [`Self::new`], on so many GPUs of 40 GiB.
    fn on(gpus: usize, models: &[ModelSpec], state: EngineState) -> Self {
        let fleet = FleetSpec {
            gpus: vec![Bytes(40 * GIB); gpus],
            times: times(),
            term: 7,
            ..FleetSpec::default()
        };
        let mut bench = Self {
            core: Core::new(fleet, Millis(0)),
            now: 0,
            engines: BTreeMap::new(),
            gates: BTreeMap::new(),
            obedient: true,
            answering: true,
            measured: true,
            counted: true,
            log: Vec::new(),
        };
        for spec in models {
            bench.add(spec, state);
        }
        bench
    }

    /// A model more, and its engine.
    fn add(&mut self, spec: &ModelSpec, state: EngineState) {
        let memory = if state == EngineState::Asleep {
            spec.asleep
        } else {
            Bytes(0)
        };
        let engine = Engine {
            state,
            count: 0,
            memory,
            wake: None,
            sleep: None,
        };
        self.engines.insert(spec.id.clone(), engine);
        self.event(Event::ModelSet(Box::new(spec.clone())));
    }

    /// Engines asleep, one gate, past the successor's wait.
    fn ready(names: &[&str]) -> Self {
        started(&names.iter().map(|name| spec(name)).collect::<Vec<_>>())
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.step(Millis(self.now), event, &mut effects);
        self.log.extend(effects.clone());
        let mut all = effects.clone();
        for effect in effects {
            for answer in self.answers(&effect) {
                all.extend(self.event(answer));
            }
        }
        all
    }

    fn answers(&mut self, effect: &Effect) -> Vec<Event> {
        match effect {
            Effect::Publish(row) if self.obedient => {
                let barrier = matches!(
                    row.admission,
                    Admission::Refuse {
                        reason: RefuseReason::Draining,
                        ..
                    }
                );
                if barrier {
                    self.gates
                        .keys()
                        .cloned()
                        .collect::<Vec<_>>()
                        .iter()
                        .map(|gate| self.ack(gate, &row.model, row.epoch))
                        .collect()
                } else {
                    vec![]
                }
            }
            Effect::Observe { model, attempt } if self.answering => {
                let engine = &self.engines[model];
                let observation = Observation {
                    state: engine.state,
                    count: self.counted.then_some(engine.count),
                    memory: if self.measured {
                        Memory::on_gpus(engine.memory)
                    } else {
                        Memory::default()
                    },
                    tier: None,
                };
                vec![Event::Observed {
                    model: model.clone(),
                    attempt: *attempt,
                    observation,
                }]
            }
            Effect::Start { model, attempt } if self.answering => {
                let outcome = self.moved(model, EngineState::Awake, 5_000);
                vec![Event::Started {
                    model: model.clone(),
                    attempt: *attempt,
                    outcome,
                }]
            }
            Effect::Wake { model, attempt, .. } if self.answering => {
                let outcome = self.engines[model]
                    .wake
                    .clone()
                    .unwrap_or_else(|| self.moved(model, EngineState::Awake, 600));
                vec![Event::Woke {
                    model: model.clone(),
                    attempt: *attempt,
                    outcome,
                }]
            }
            Effect::Sleep { model, attempt, .. } if self.answering => {
                let outcome = self.engines[model]
                    .sleep
                    .clone()
                    .unwrap_or_else(|| self.moved(model, EngineState::Asleep, 90));
                vec![Event::Slept {
                    model: model.clone(),
                    attempt: *attempt,
                    outcome,
                }]
            }
            Effect::Kill { model, attempt, .. } if self.answering => {
                self.engines.get_mut(model).expect("known").state = EngineState::Gone;
                vec![Event::EngineGone {
                    model: model.clone(),
                    attempt: Some(*attempt),
                    cause: "ended".into(),
                }]
            }
            Effect::Publish(_)
            | Effect::SendSnapshot { .. }
            | Effect::Heartbeat { .. }
            | Effect::CloseStream { .. }
            | Effect::Observe { .. }
            | Effect::Start { .. }
            | Effect::Wake { .. }
            | Effect::Sleep { .. }
            | Effect::Kill { .. }
            | Effect::Removed { .. }
            | Effect::Dropped(_)
            | Effect::Record(_)
            | Effect::RaiseTerm { .. }
            | Effect::Footprint { .. } => vec![],
        }
    }

    fn moved(&mut self, model: &ModelId, state: EngineState, took: u64) -> Outcome {
        let spec = self.core.spec(model).expect("known");
        let memory = if state == EngineState::Awake {
            spec.awake
        } else {
            spec.asleep
        };
        let engine = self.engines.get_mut(model).expect("known");
        (engine.state, engine.memory) = (state, memory);
        Outcome::Done {
            took,
            memory: Memory::on_gpus(memory),
        }
    }

    /// Lets time pass, with a tick at every deadline and a report of every gate each second.
    fn run(&mut self, length: u64) -> Vec<Effect> {
        let (end, mut all) = (self.now + length, Vec::new());
        while self.now < end {
            let heartbeat = (self.now / 1_000 + 1) * 1_000;
            let deadline = self
                .core
                .next_deadline()
                .map_or(u64::MAX, |at| at.0.max(self.now + 1));
            self.now = heartbeat.min(deadline).min(end);
            all.extend(self.event(Event::Tick));
            if self.now == heartbeat {
                for gate in self.gates.keys().cloned().collect::<Vec<_>>() {
                    all.extend(self.report(&gate.0));
                }
            }
        }
        all
    }

    fn hello(&mut self, gate: &str, stream: u64) -> Vec<Effect> {
        let sequence = self
            .gates
            .get(&GateId(gate.into()))
            .map_or(1, |(_, sequence, _)| sequence + 1);
        let figures = self
            .gates
            .get(&GateId(gate.into()))
            .map(|(_, _, figures)| figures.clone())
            .unwrap_or_default();
        self.gates.insert(
            GateId(gate.into()),
            (StreamId(stream), sequence, figures.clone()),
        );
        let figures = figures.into_iter().collect();
        self.event(Event::Hello {
            gate: GateId(gate.into()),
            stream: StreamId(stream),
            largest_term: 0,
            sequence,
            figures,
        })
    }

    fn next(&mut self, gate: &GateId) -> (StreamId, u64) {
        let (stream, sequence, _) = self.gates.get_mut(gate).expect("a gate that said Hello");
        *sequence += 1;
        (*stream, *sequence)
    }

    fn ack(&mut self, gate: &GateId, model: &ModelId, epoch: Epoch) -> Event {
        let (stream, sequence) = self.next(gate);
        let in_flight = self.gates[gate]
            .2
            .get(model)
            .map_or(0, |figures| figures.in_flight);
        Event::Ack {
            gate: gate.clone(),
            stream,
            sequence,
            model: model.clone(),
            epoch,
            in_flight,
        }
    }

    fn report(&mut self, gate: &str) -> Vec<Effect> {
        let gate = GateId(gate.into());
        let (stream, sequence) = self.next(&gate);
        let figures = self.gates[&gate].2.clone().into_iter().collect();
        self.event(Event::Report {
            gate,
            stream,
            sequence,
            table_version: 1,
            figures,
        })
    }

    /// Sets a row's figures at a gate and reports them.
    fn figures(&mut self, gate: &str, model: &str, in_flight: u64, held: u64) -> Vec<Effect> {
        let figures = Figures {
            in_flight,
            held,
            last_used_age: (in_flight + held > 0).then_some(0),
            ..Figures::default()
        };
        self.gates
            .get_mut(&GateId(gate.into()))
            .expect("said Hello")
            .2
            .insert(id(model), figures);
        self.report(gate)
    }

    /// The attempt by which a model was removed last.
    fn removed_by(&self) -> Option<Attempt> {
        self.log.iter().rev().find_map(|effect| {
            if let Effect::Removed { attempt, .. } = effect {
                Some(*attempt)
            } else {
                None
            }
        })
    }

    fn phase(&self, model: &str) -> &'static str {
        self.core
            .view()
            .into_iter()
            .find(|view| view.id == id(model))
            .map_or("-", |view| view.phase)
    }

    fn sentences(&self) -> String {
        let sentence = |effect: &Effect| {
            if let Effect::Record(decision) = effect {
                Some(format!("{}: {}", decision.about, decision.sentence))
            } else {
                None
            }
        };
        self.log
            .iter()
            .filter_map(sentence)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Short names of effects that change something outside, for comparisons. Rows that hold are left out: holding is what a gate
/// does with everything that is neither admitted nor refused.
fn names(effects: &[Effect]) -> Vec<String> {
    let name = |effect: &Effect| match effect {
        Effect::Publish(row) => match row.admission {
            Admission::Admit => Some(format!("{} admit", row.model)),
            Admission::Hold { .. } => None,
            Admission::Refuse { reason, .. } => Some(format!("{} refuse {reason:?}", row.model)),
        },
        Effect::Start { model, .. } => Some(format!("start {model}")),
        Effect::Wake { model, .. } => Some(format!("wake {model}")),
        Effect::Sleep { model, mode, .. } => Some(format!("sleep {model} {mode:?}")),
        Effect::Kill { model, .. } => Some(format!("kill {model}")),
        Effect::Removed { model, .. } => Some(format!("removed {model}")),
        Effect::Dropped(model) => Some(format!("dropped {model}")),
        Effect::CloseStream { gate, .. } => Some(format!("close {gate}")),
        Effect::RaiseTerm { at_least } => Some(format!("raise {at_least}")),
        Effect::Observe { .. }
        | Effect::Record(_)
        | Effect::Heartbeat { .. }
        | Effect::SendSnapshot { .. }
        | Effect::Footprint { .. } => None,
    };
    effects.iter().filter_map(name).collect()
}

/// As [`names`], without rows that refuse: a drain that lasts tells whoever comes to come back later.
fn acts(effects: &[Effect]) -> Vec<String> {
    let mut names = names(effects);
    names.retain(|name| !name.contains(" refuse "));
    names
}

/// Looks that were asked for: at which engine, and with which number.
fn looks(effects: &[Effect]) -> Vec<(ModelId, Attempt)> {
    let look = |effect: &Effect| {
        if let Effect::Observe { model, attempt } = effect {
            Some((model.clone(), *attempt))
        } else {
            None
        }
    };
    effects.iter().filter_map(look).collect()
}

/// Engines of these models asleep, one gate, past the successor's wait.
fn started(models: &[ModelSpec]) -> Bench {
    let mut bench = Bench::new(models, EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench
}

/// As [`started`], and no gate of a predecessor sends requests any more, not even where rows flow: engines may end.
fn settled(models: &[ModelSpec]) -> Bench {
    let mut bench = started(models);
    bench.run(610_000);
    bench
}

/// A bench without models, whose sleeping copies may take 64 GiB of host RAM.
fn with_host_ram() -> Bench {
    with_hosts(&[0])
}

/// As [`with_host_ram`], with a GPU at each of these NUMA nodes and 64 GiB at every node.
fn with_hosts(host_of: &[usize]) -> Bench {
    let mut bench = Bench::on(host_of.len(), &[], EngineState::Asleep);
    let nodes = host_of.iter().max().map_or(0, |last| last + 1);
    let fleet = FleetSpec {
        hosts: vec![Bytes(64 * GIB); nodes],
        host_of: host_of.to_vec(),
        ..bench.core.fleet.clone()
    };
    bench.core = Core::new(fleet, Millis(0));
    bench
}

/// a and b serve with streams in flight; c is wanted.
fn busy() -> Bench {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        bench.engines.get_mut(&id(model)).expect("known").count = 1;
    }
    bench.run(11_000);
    bench
}

/// A seeded sequence (xorshift): the same seed, the same history.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
