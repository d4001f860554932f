//! Gates and engines around a core, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use greenthread_core::{
    Core,
    effect::{Admission, Effect, RefuseReason},
    event::{EngineState, Event, Figures, Memory, Observation, Outcome},
    ids::{Bytes, GateId, GpuId, Millis, ModelId, StreamId},
    model::{Caps, Durations, FleetSpec, ModelSpec, OnDrainTimeout, OnLeaseEnd, Sizes, Times},
};

/// How large the fleet is and how much is asked of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) models: usize,
    pub(crate) gpus: usize,
    pub(crate) gates: usize,
    pub(crate) observe_ms: u64,
    pub(crate) requests_per_second: u64,
}

/// Everything around the core.
pub(crate) struct World {
    core: Core,
    size: Size,
    now: u64,
    random: u64,
    /// What happens when; the number keeps the order of what happens at once.
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happens: Vec<Option<Happening>>,
    free: Vec<usize>,
    numbers: u64,
    awake: Vec<bool>,
    admits: Vec<bool>,
    gates: Vec<Gate>,
    effects: Vec<Effect>,
    between_requests: u64,
    /// Durations of steps, in their order, with the kind of event.
    pub(crate) times: Vec<(&'static str, Duration)>,
    pub(crate) wakes: u64,
    pub(crate) sleeps: u64,
}

#[derive(Clone, Default)]
struct Gate {
    sequence: u64,
    figures: BTreeMap<usize, Figures>,
}

enum Happening {
    Event(Event),
    Heartbeat(usize),
    Request,
    Ends { gate: usize, model: usize },
}

impl World {
    pub(crate) fn new(size: Size) -> Self {
        let fleet = FleetSpec {
            gpus: vec![Bytes::gib(40); size.gpus],
            times: Times {
                lease: Millis(5_000),
                margin: Millis(4_000),
                heartbeat: Millis(1_000),
                command: Millis(2_000),
                max_flow: Millis(600_000),
                forward_bound: Millis(3_000),
                observe: Millis(size.observe_ms),
            },
            term: 1,
            ..FleetSpec::default()
        };
        let mut world = Self {
            core: Core::new(fleet, Millis(0)),
            size,
            now: 0,
            random: 0x9E37_79B9_7F4A_7C15,
            due: BinaryHeap::new(),
            happens: Vec::new(),
            free: Vec::new(),
            numbers: 0,
            awake: vec![false; size.models],
            admits: vec![false; size.models],
            gates: vec![Gate::default(); size.gates],
            effects: Vec::new(),
            between_requests: u64::MAX,
            times: Vec::new(),
            wakes: 0,
            sleeps: 0,
        };
        for model in 0..size.models {
            world.step(Event::ModelSet(Box::new(spec(model, size.gpus))));
        }
        for gate in 0..size.gates {
            world.gates[gate].sequence = 1;
            world.step(Event::Hello {
                gate: gate_id(gate),
                stream: StreamId(1),
                largest_term: 0,
                sequence: 1,
                figures: Vec::new(),
            });
            world.after(1_000 + gate as u64, Happening::Heartbeat(gate));
        }
        if let Some(between) = 1_000_u64.checked_div(size.requests_per_second) {
            world.between_requests = between.max(1);
            world.after(5_000, Happening::Request);
        }
        world
    }

    /// From here on so many requests an hour, at random models.
    pub(crate) fn requests_per_hour(&mut self, requests: u64) {
        let first = self.between_requests == u64::MAX;
        self.between_requests = 3_600_000 / requests;
        if first {
            self.after(1_000, Happening::Request);
        }
    }

    /// Lets so many milliseconds pass.
    pub(crate) fn run(&mut self, length: u64) {
        let end = self.now + length;
        loop {
            let deadline = self.core.next_deadline().map_or(u64::MAX, |at| at.0);
            let next = self.due.peek().map_or(u64::MAX, |Reverse((at, _, _))| *at);
            let at = next.min(deadline.max(self.now));
            if at > end {
                self.now = end;
                return;
            }
            self.now = at.max(self.now);
            if next <= at {
                self.next_happening();
            } else {
                self.step(Event::Tick);
            }
        }
    }

    fn next_happening(&mut self) {
        let Some(Reverse((_, _, slot))) = self.due.pop() else {
            return;
        };
        self.free.push(slot);
        match self.happens[slot].take() {
            Some(Happening::Event(event)) => self.step(event),
            Some(Happening::Heartbeat(gate)) => {
                self.report(gate, Vec::new());
                self.after(1_000, Happening::Heartbeat(gate));
            }
            Some(Happening::Request) => {
                self.request();
                self.after(self.between_requests, Happening::Request);
            }
            Some(Happening::Ends { gate, model }) => self.ends(gate, model),
            None => {}
        }
    }

    fn request(&mut self) {
        // A few models get most of the requests.
        let draw = self.below(self.size.models as u64);
        let popular = self.below(4) > 0;
        let model = if popular { draw / 20 } else { draw } as usize;
        let gate = self.below(self.size.gates as u64) as usize;
        let admits = self.admits[model];
        let figures = self.gates[gate].figures.entry(model).or_default();
        figures.asked += 1;
        figures.last_used_age = Some(0);
        if admits {
            figures.in_flight += 1;
        } else {
            figures.held += 1;
        }
        let waits = figures.held == 1;
        if admits {
            let takes = 200 + self.below(2_000);
            self.after(takes, Happening::Ends { gate, model });
        } else if waits {
            self.report(gate, vec![model]);
        }
    }

    fn ends(&mut self, gate: usize, model: usize) {
        let figures = self.gates[gate].figures.entry(model).or_default();
        figures.in_flight = figures.in_flight.saturating_sub(1);
        if figures.in_flight == 0 {
            self.report(gate, vec![model]);
        }
    }

    /// What a gate says; with no rows named, everything that is not zero.
    fn report(&mut self, gate: usize, rows: Vec<usize>) {
        let state = &mut self.gates[gate];
        state.sequence += 1;
        let figures = if rows.is_empty() {
            let busy = |f: &Figures| f.in_flight + f.held > 0 || f.last_used_age.is_some();
            let mut said = Vec::new();
            for (model, figures) in state.figures.iter_mut().filter(|(_, f)| busy(f)) {
                said.push((model_id(*model), figures.clone()));
                figures.last_used_age = None;
            }
            said
        } else {
            let figures = |model: usize| state.figures.get(&model).cloned().unwrap_or_default();
            rows.into_iter()
                .map(|model| (model_id(model), figures(model)))
                .collect()
        };
        let event = Event::Report {
            gate: gate_id(gate),
            stream: StreamId(1),
            sequence: state.sequence,
            table_version: 1,
            figures,
        };
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        let kind = kind(&event);
        let mut effects = std::mem::take(&mut self.effects);
        let began = Instant::now();
        self.core.step(Millis(self.now), event, &mut effects);
        self.times.push((kind, began.elapsed()));
        for effect in effects.drain(..) {
            self.perform(effect);
        }
        self.effects = effects;
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Observe { model, attempt } => {
                let awake = self.awake[number(&model)];
                let observation = Observation {
                    state: if awake {
                        EngineState::Awake
                    } else {
                        EngineState::Asleep
                    },
                    count: Some(0),
                    memory: Memory::default(),
                    tier: None,
                };
                let takes = 1 + self.below(8);
                self.after(
                    takes,
                    Happening::Event(Event::Observed {
                        model,
                        attempt,
                        observation,
                    }),
                );
            }
            Effect::Wake { model, attempt, .. } => {
                self.wakes += 1;
                self.awake[number(&model)] = true;
                let takes = 400 + self.below(400);
                let outcome = done(takes);
                self.after(
                    takes,
                    Happening::Event(Event::Woke {
                        model,
                        attempt,
                        outcome,
                    }),
                );
            }
            Effect::Sleep { model, attempt, .. } => {
                self.sleeps += 1;
                self.awake[number(&model)] = false;
                let takes = 50 + self.below(100);
                let outcome = done(takes);
                self.after(
                    takes,
                    Happening::Event(Event::Slept {
                        model,
                        attempt,
                        outcome,
                    }),
                );
            }
            Effect::Publish(row) => self.publish(&row.model, row.epoch, row.admission),
            Effect::SendSnapshot { rows, .. } => {
                for row in rows {
                    self.admits[number(&row.model)] = row.admission == Admission::Admit;
                }
            }
            Effect::Start { .. }
            | Effect::Kill { .. }
            | Effect::Heartbeat { .. }
            | Effect::CloseStream { .. }
            | Effect::Removed { .. }
            | Effect::Dropped(_)
            | Effect::Record(_)
            | Effect::RaiseTerm { .. }
            | Effect::Footprint { .. } => {}
        }
    }

    fn publish(&mut self, id: &ModelId, epoch: greenthread_core::ids::Epoch, admission: Admission) {
        let model = number(id);
        self.admits[model] = admission == Admission::Admit;
        let draining = matches!(
            admission,
            Admission::Refuse {
                reason: RefuseReason::Draining,
                ..
            }
        );
        for gate in 0..self.gates.len() {
            let figures = self.gates[gate].figures.entry(model).or_default();
            let (in_flight, held) = (figures.in_flight, figures.held);
            if admission == Admission::Admit && held > 0 {
                (figures.in_flight, figures.held) = (in_flight + held, 0);
                for _ in 0..held {
                    let takes = 200 + self.below(2_000);
                    self.after(takes, Happening::Ends { gate, model });
                }
            }
            if draining {
                self.gates[gate].sequence += 1;
                let event = Event::Ack {
                    gate: gate_id(gate),
                    stream: StreamId(1),
                    sequence: self.gates[gate].sequence,
                    model: id.clone(),
                    epoch,
                    in_flight,
                };
                self.after(0, Happening::Event(event));
            }
        }
    }

    fn after(&mut self, delay: u64, happening: Happening) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.happens.push(None);
            self.happens.len() - 1
        });
        self.happens[slot] = Some(happening);
        self.numbers += 1;
        self.due
            .push(Reverse((self.now + delay, self.numbers, slot)));
    }

    /// A number below `limit` (xorshift).
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }
}

fn done(took: u64) -> Outcome {
    Outcome::Done {
        took,
        memory: Memory::default(),
    }
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Tick => "tick",
        Event::Hello { .. } => "hello",
        Event::Report { .. } => "report",
        Event::Ack { .. } => "ack",
        Event::Observed { .. } => "observed",
        Event::Woke { .. } | Event::Started { .. } => "woke",
        Event::Slept { .. } => "slept",
        Event::ModelSet(_) | Event::ModelRemoved(_) => "model",
        Event::Bye { .. }
        | Event::StreamClosed { .. }
        | Event::EngineGone { .. }
        | Event::GpuRead { .. }
        | Event::GpuAccepted(_)
        | Event::Operator { .. }
        | Event::Deposed
        | Event::TermRaised(_) => "other",
    }
}

fn gate_id(gate: usize) -> GateId {
    GateId(format!("gate-{gate:03}"))
}

fn model_id(model: usize) -> ModelId {
    ModelId(format!("m{model:05}.0"))
}

fn number(id: &ModelId) -> usize {
    id.0.get(1..6)
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn spec(model: usize, gpus: usize) -> ModelSpec {
    ModelSpec {
        id: model_id(model),
        gpus: vec![GpuId(model % gpus)],
        awake: Bytes::gib(17),
        asleep: Bytes(1 << 28),
        sizes: Sizes::default(),
        tier: None,
        conditioned: true,
        pinned: false,
        popular: false,
        idle_timeout: Some(Millis(300_000)),
        drain_timeout: Millis(30_000),
        on_drain_timeout: OnDrainTimeout::Freeze,
        max_freeze: Millis(120_000),
        min_runtime: Millis(2_000),
        max_wait: Millis(1_000),
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
