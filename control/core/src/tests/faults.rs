//! A small world around the core, in which everything is late: gates have inboxes, freeze, attach again, leave and are replaced;
//! engines take their time and lose answers; control is killed and starts again among what it left. `FAULTS_SEED=n` runs one history.

use std::collections::{BTreeSet, VecDeque};

use super::*;

mod engines;
mod gates;

use engines::{Kind, SimEngine};
use gates::SimGate;

const MODELS: [&str; 4] = ["a", "b", "c", "d"];
const FENCE: u64 = 9_000;

struct World {
    seed: u64,
    random: Random,
    core: Core,
    life: u64,
    term_since: u64,
    now: u64,
    engines: BTreeMap<ModelId, SimEngine>,
    gates: BTreeMap<GateId, SimGate>,
    names: u64,
    streams: u64,
    /// On their way to control, in order.
    mail: VecDeque<(u64, Event)>,
    newest: BTreeMap<ModelId, (Epoch, Admission)>,
    used: BTreeSet<Epoch>,
    /// Sleeps of this life whose outcome control was not told.
    unknown: BTreeSet<ModelId>,
    /// What is awake was found so, and may be too much.
    found: bool,
    /// Engines did what an earlier life told them until shortly before.
    adopted_until: u64,
    faults: bool,
    trace: VecDeque<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let engine = || SimEngine {
            state: EngineState::Asleep,
            jobs: VecDeque::new(),
            late: false,
        };
        let mut world = Self {
            seed,
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            core: Core::new(fleet(1), Millis(0)),
            life: 0,
            term_since: 0,
            now: 0,
            engines: MODELS.iter().map(|name| (id(name), engine())).collect(),
            gates: BTreeMap::new(),
            names: 0,
            streams: 0,
            mail: VecDeque::new(),
            newest: BTreeMap::new(),
            used: BTreeSet::new(),
            unknown: BTreeSet::new(),
            found: false,
            adopted_until: 0,
            faults: true,
            trace: VecDeque::new(),
        };
        world.begin_life();
        for _ in 0..3 {
            world.new_gate();
        }
        world
    }

    /// Control starts; the one before is gone with everything it knew and everything that was on its way to it.
    fn begin_life(&mut self) {
        self.life += 1;
        self.term_since = self.now;
        self.found = true;
        self.unknown.clear();
        self.mail.clear();
        self.core = Core::new(fleet(self.life), Millis(self.now));
        for gate in self.gates.values_mut() {
            (gate.open, gate.attached) = (false, false);
        }
        for name in MODELS {
            self.step(Event::ModelSet(Box::new(ModelSpec {
                on_lease_end: OnLeaseEnd::Hold,
                ..spec(name)
            })));
        }
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == 200 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>8} {line}", self.now));
    }

    #[track_caller]
    fn check(&self, holds: bool, what: &str) {
        if !holds {
            let trace: Vec<_> = self.trace.iter().map(String::as_str).collect();
            panic!("FAULTS_SEED={}: {what}\n{}", self.seed, trace.join("\n"));
        }
    }

    fn step(&mut self, event: Event) {
        if !matches!(
            event,
            Event::Tick | Event::Report { .. } | Event::Observed { .. }
        ) {
            self.note(format!("> {event:?}"));
        }
        if let Event::Slept { model, outcome, .. } = &event
            && !matches!(outcome, Outcome::Unknown { .. })
        {
            self.unknown.remove(model);
        }
        if let Event::EngineGone { model, .. } = &event {
            self.unknown.remove(model);
        }
        let mut effects = Vec::new();
        self.core.step(Millis(self.now), event, &mut effects);
        for effect in effects {
            self.perform(effect);
        }
        self.check_core();
    }

    fn check_core(&mut self) {
        let (reserved, capacity) = self.core.ledger()[0];
        let of_before = |engine: &SimEngine| engine.jobs.iter().any(|job| job.life != self.life);
        if self.engines.values().any(of_before) {
            self.adopted_until = self.now + 3_000;
            self.found = true;
        }
        self.found &=
            !(self.core.is_open() && self.now >= self.adopted_until && reserved <= capacity);
        self.check(
            self.found || reserved <= capacity,
            "the ledger is beyond capacity",
        );
        let moving = |view: &&crate::ModelView| matches!(view.phase, "Waking" | "Sleeping");
        let moving = self.core.view().iter().filter(moving).count();
        self.check(moving <= 1, "two transitions on one GPU");
    }

    fn perform(&mut self, effect: Effect) {
        match &effect {
            Effect::Observe { .. } | Effect::Heartbeat { .. } => {}
            Effect::Record(decision) => {
                self.note(format!("  {}: {}", decision.model, decision.sentence));
            }
            Effect::Publish(_)
            | Effect::SendSnapshot { .. }
            | Effect::CloseStream { .. }
            | Effect::Start { .. }
            | Effect::Wake { .. }
            | Effect::Sleep { .. }
            | Effect::Kill { .. }
            | Effect::Removed(_)
            | Effect::Dropped(_)
            | Effect::RaiseTerm { .. }
            | Effect::Footprint { .. } => {
                self.note(format!("< {effect:?}").chars().take(200).collect())
            }
        }
        match effect {
            Effect::Publish(ref row) => {
                self.check_row(row);
                for gate in self.gates.values_mut().filter(|gate| gate.attached) {
                    gate.inbox.push_back((gate.stream, effect.clone()));
                }
            }
            Effect::SendSnapshot {
                ref gate, stream, ..
            } => {
                let gate = gate.clone();
                self.tell(&gate, stream, effect);
                if let Some(gate) = self
                    .gates
                    .get_mut(&gate)
                    .filter(|gate| gate.stream == stream.0)
                {
                    gate.attached = true;
                }
            }
            Effect::Heartbeat {
                ref gate, stream, ..
            }
            | Effect::CloseStream { ref gate, stream } => {
                let gate = gate.clone();
                self.tell(&gate, stream, effect);
            }
            Effect::Observe { model, attempt } => self.look(model, attempt),
            Effect::Start { model, attempt } => self.tell_engine(&model, Kind::Start, attempt),
            Effect::Wake { model, attempt, .. } => {
                self.check(
                    !self.unknown.contains(&model),
                    "a wake overtakes a sleep of unknown outcome",
                );
                self.tell_engine(&model, Kind::Wake, attempt);
            }
            Effect::Sleep {
                model,
                attempt,
                mode,
                ..
            } => {
                self.check(mode == SleepMode::Keep, "requests were truncated");
                self.check(
                    self.now >= self.term_since + FENCE,
                    "a sleep within the leases of the one before",
                );
                self.unknown.insert(model.clone());
                self.tell_engine(&model, Kind::Sleep, attempt);
            }
            Effect::Kill { model, .. } => self.tell_engine(&model, Kind::Kill, Attempt(0)),
            Effect::Removed(_)
            | Effect::Dropped(_)
            | Effect::Record(_)
            | Effect::RaiseTerm { .. }
            | Effect::Footprint { .. } => {}
        }
    }

    fn check_row(&mut self, row: &crate::effect::PublishedRow) {
        let kind = |admission: Admission| match admission {
            Admission::Admit => 0,
            Admission::Hold { .. } => 1,
            Admission::Refuse { reason, .. } => 2 + reason as u8,
        };
        let fresh = self.used.insert(row.epoch);
        let last = self
            .newest
            .insert(row.model.clone(), (row.epoch, row.admission));
        if let Some((epoch, admission)) = last {
            self.check(row.epoch >= epoch, "an epoch shrank");
            self.check(
                row.epoch > epoch || kind(admission) == kind(row.admission),
                "an admission changed without a new epoch",
            );
            self.check(fresh || row.epoch == epoch, "an epoch was used twice");
        }
    }

    fn post(&mut self, delay: u64, event: Event) {
        let last = self.mail.back().map_or(0, |(due, _)| *due);
        self.mail.push_back((last.max(self.now + delay), event));
    }

    fn fault(&mut self) {
        let names: Vec<GateId> = self.gates.keys().cloned().collect();
        let name = names[self.random.below(names.len() as u64) as usize].clone();
        let model = id(MODELS[self.random.below(4) as usize]);
        match self.random.below(60) {
            0..=30 => self.traffic(&name, &model),
            31 if self.random.below(10) == 0 => {
                let until = self.now + self.random.below(25_000);
                self.gates.get_mut(&name).expect("known").frozen_until = until;
                self.note(format!("{name} freezes until {until}"));
            }
            34 if self.random.below(8) == 0 => {
                let gate = self.gates.get_mut(&name).expect("known");
                (gate.open, gate.attached) = (false, false);
            }
            37 => self.replace_gate(&name),
            38 if self.random.below(8) == 0 => {
                let engine = self.engines.get_mut(&model).expect("known");
                if engine.state != EngineState::Gone && engine.jobs.is_empty() {
                    engine.state = EngineState::Gone;
                    self.post(
                        5,
                        Event::EngineGone {
                            model,
                            cause: "it died".into(),
                        },
                    );
                }
            }
            39 if self.random.below(8) == 0 => {
                let verb = [
                    Operator::Wake,
                    Operator::Sleep,
                    Operator::Disable,
                    Operator::Enable,
                ][self.random.below(4) as usize];
                self.post(0, Event::Operator { model, verb });
            }
            41 if self.random.below(60) == 0 => {
                self.note("control is killed".into());
                self.begin_life();
            }
            42 if self.random.below(20) == 0 => {
                self.note("Envoy is killed".into());
                self.gates.remove(&name);
                self.new_gate();
            }
            _ => {}
        }
    }

    /// Lets so much time pass.
    fn run(&mut self, length: u64) {
        let end = self.now + length;
        while self.now < end {
            self.now += 1 + self.random.below(50);
            if self.faults {
                self.fault();
            }
            self.engines_work();
            while self.mail.front().is_some_and(|(due, _)| *due <= self.now) {
                let (_, event) = self.mail.pop_front().expect("looked");
                self.step(event);
            }
            if self.core.next_deadline().is_some_and(|at| at.0 <= self.now) {
                self.step(Event::Tick);
            }
            for name in self.gates.keys().cloned().collect::<Vec<_>>() {
                self.gate_turn(&name);
            }
        }
    }

    /// Faults stop, everybody is served in the end.
    fn end(&mut self) {
        self.faults = false;
        for model in MODELS.map(id) {
            for verb in [Operator::Enable, Operator::Wake] {
                self.post(
                    0,
                    Event::Operator {
                        model: model.clone(),
                        verb,
                    },
                );
            }
        }
        for gate in self.gates.values_mut() {
            gate.in_flight.clear();
        }
        for model in MODELS.map(id) {
            let mut waited = 0;
            let gate = self.gates.keys().next().expect("a gate").clone();
            let gate_of = |world: &mut Self| {
                world.gates.get_mut(&gate).map(|gate| {
                    gate.in_flight.clear();
                    gate.held.retain(|of, _| *of == model);
                    gate.held.insert(model.clone(), 1);
                })
            };
            gate_of(self);
            while !self.gates[&gate].in_flight.contains_key(&model)
                || self.gates[&gate].in_flight[&model] == 0
            {
                self.run(1_000);
                waited += 1;
                self.check(waited < 900, &format!("{model} waits for ever"));
            }
            self.gates.get_mut(&gate).expect("known").in_flight.clear();
        }
    }
}

fn fleet(term: u64) -> FleetSpec {
    FleetSpec {
        gpus: vec![Bytes(40 * GIB)],
        times: times(),
        term,
        ..FleetSpec::default()
    }
}

#[test]
fn whatever_is_late_nothing_is_forwarded_to_sleeping_engines_and_everybody_is_served() {
    let wanted = std::env::var_os("FAULTS_SEED");
    let seeds: Vec<u64> = match wanted.as_ref().and_then(|seed| seed.to_str()) {
        Some(seed) => vec![seed.parse().expect("a number")],
        None => (1..=40).collect(),
    };
    for seed in seeds {
        let mut world = World::new(seed);
        world.run(400_000);
        world.end();
    }
}
