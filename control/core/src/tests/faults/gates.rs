//! Gates of the world of faults: what they read, hold, forward and say.

use super::*;

/// One gate: what it was told and has not read yet, and what it goes by.
#[derive(Default)]
pub(super) struct SimGate {
    pub(super) stream: u64,
    pub(super) open: bool,
    pub(super) attached: bool,
    pub(super) complete: bool,
    pub(super) sequence: u64,
    pub(super) hello: u64,
    pub(super) sent: BTreeMap<u64, u64>,
    pub(super) lease_until: u64,
    pub(super) alive: u64,
    pub(super) reported: u64,
    pub(super) frozen_until: u64,
    pub(super) inbox: VecDeque<(u64, Effect)>,
    pub(super) rows: BTreeMap<ModelId, (Epoch, Admission)>,
    pub(super) in_flight: BTreeMap<ModelId, u64>,
    pub(super) held: BTreeMap<ModelId, u64>,
    pub(super) refused_at: BTreeMap<ModelId, u64>,
}

impl SimGate {
    pub(super) fn admits(&self, now: u64, model: &ModelId) -> bool {
        now < self.lease_until
            && self
                .rows
                .get(model)
                .is_some_and(|(_, admission)| *admission == Admission::Admit)
    }

    pub(super) fn number(&mut self, now: u64) -> u64 {
        self.sequence += 1;
        self.sent.insert(self.sequence, now);
        self.sequence
    }

    pub(super) fn figures(&self, now: u64) -> Vec<(ModelId, Figures)> {
        let of =
            |map: &BTreeMap<ModelId, u64>, model: &ModelId| map.get(model).copied().unwrap_or(0);
        MODELS
            .iter()
            .map(|name| {
                let model = id(name);
                let figures = Figures {
                    in_flight: of(&self.in_flight, &model),
                    held: of(&self.held, &model),
                    last_refused_age: self.refused_at.get(&model).map(|at| now - at),
                    ..Figures::default()
                };
                (model, figures)
            })
            .collect()
    }
}

impl World {
    pub(super) fn new_gate(&mut self) {
        self.names += 1;
        self.gates
            .insert(GateId(format!("g{}", self.names)), SimGate::default());
    }

    pub(super) fn tell(&mut self, gate: &GateId, stream: StreamId, effect: Effect) {
        if let Some(gate) = self.gates.get_mut(gate) {
            gate.inbox.push_back((stream.0, effect));
        }
    }

    /// A gate reads what it was told, in order, and does what a gate does.
    pub(super) fn gate_turn(&mut self, name: &GateId) {
        let Some(mut gate) = self.gates.remove(name) else {
            return;
        };
        if self.now >= gate.frozen_until {
            while let Some((stream, effect)) = gate.inbox.pop_front() {
                if gate.open && stream == gate.stream {
                    self.gate_reads(name, &mut gate, effect);
                }
            }
            if gate.open && self.now >= gate.alive + 5_000 {
                (gate.open, gate.attached) = (false, false);
            }
            if !gate.open {
                self.attach(name, &mut gate);
            }
            for model in MODELS.map(id) {
                if gate.admits(self.now, &model) {
                    let held = std::mem::take(gate.held.entry(model.clone()).or_default());
                    *gate.in_flight.entry(model.clone()).or_default() += held;
                    let engine = &self.engines[&model];
                    let told = self.unknown.contains(&model) || engine.state == EngineState::Asleep;
                    self.check(
                        !told || engine.late,
                        &format!("{name} forwards to {model}, which was told to sleep"),
                    );
                }
            }
            if gate.open && self.now >= gate.reported + 1_000 {
                self.report(name, &mut gate);
            }
        }
        self.gates.insert(name.clone(), gate);
    }

    pub(super) fn gate_reads(&mut self, name: &GateId, gate: &mut SimGate, effect: Effect) {
        match effect {
            Effect::SendSnapshot { rows, .. } => {
                gate.complete = true;
                for row in rows {
                    self.apply(name, gate, row);
                }
            }
            Effect::Publish(row) => self.apply(name, gate, row),
            Effect::Heartbeat { echoed, .. } if gate.complete && echoed >= gate.hello => {
                let sent = gate.sent[&echoed];
                gate.lease_until = gate.lease_until.max(sent + 5_000);
                gate.alive = self.now;
            }
            Effect::CloseStream { .. } => (gate.open, gate.attached) = (false, false),
            Effect::Heartbeat { .. }
            | Effect::Observe { .. }
            | Effect::Start { .. }
            | Effect::Wake { .. }
            | Effect::Sleep { .. }
            | Effect::Kill { .. }
            | Effect::Removed(_)
            | Effect::Dropped(_)
            | Effect::Record(_)
            | Effect::RaiseTerm { .. }
            | Effect::Footprint { .. } => {}
        }
    }

    pub(super) fn apply(
        &mut self,
        name: &GateId,
        gate: &mut SimGate,
        row: crate::effect::PublishedRow,
    ) {
        if gate
            .rows
            .get(&row.model)
            .is_some_and(|(epoch, _)| *epoch > row.epoch)
        {
            return;
        }
        gate.rows
            .insert(row.model.clone(), (row.epoch, row.admission));
        let draining = matches!(
            row.admission,
            Admission::Refuse {
                reason: RefuseReason::Draining,
                ..
            }
        );
        if draining {
            let in_flight = gate.in_flight.get(&row.model).copied().unwrap_or(0);
            let (stream, sequence) = (StreamId(gate.stream), gate.number(self.now));
            let delay = self.random.below(100);
            self.post(
                delay,
                Event::Ack {
                    gate: name.clone(),
                    stream,
                    sequence,
                    model: row.model,
                    epoch: row.epoch,
                    in_flight,
                },
            );
        }
    }

    pub(super) fn attach(&mut self, name: &GateId, gate: &mut SimGate) {
        self.streams += 1;
        (gate.stream, gate.open, gate.complete) = (self.streams, true, false);
        gate.hello = gate.number(self.now);
        (gate.alive, gate.reported) = (self.now, self.now);
        let event = Event::Hello {
            gate: name.clone(),
            stream: StreamId(gate.stream),
            gateway: "envoy".into(),
            largest_term: 0,
            sequence: gate.hello,
            figures: gate.figures(self.now),
        };
        let delay = self.random.below(200);
        self.post(delay, event);
    }

    pub(super) fn report(&mut self, name: &GateId, gate: &mut SimGate) {
        gate.reported = self.now;
        let (stream, sequence) = (StreamId(gate.stream), gate.number(self.now));
        let figures = gate.figures(self.now);
        let delay = self.random.below(100);
        self.post(
            delay,
            Event::Report {
                gate: name.clone(),
                stream,
                sequence,
                table_version: 1,
                figures,
            },
        );
    }

    /// A request for `model` arrives at, or ends in, a gate.
    pub(super) fn traffic(&mut self, name: &GateId, model: &ModelId) {
        let (now, ends) = (self.now, self.random.below(2) == 0);
        let Some(gate) = self
            .gates
            .get_mut(name)
            .filter(|gate| now >= gate.frozen_until)
        else {
            return;
        };
        if ends {
            let in_flight = gate.in_flight.entry(model.clone()).or_default();
            *in_flight = in_flight.saturating_sub(1);
        } else if gate.admits(now, model) {
            *gate.in_flight.entry(model.clone()).or_default() += 1;
        } else if matches!(gate.rows.get(model), Some((_, Admission::Refuse { .. }))) {
            gate.refused_at.insert(model.clone(), now);
        } else {
            *gate.held.entry(model.clone()).or_default() += 1;
        }
    }

    /// A gate that has nothing in flight and nothing held says Bye; another one takes its place.
    pub(super) fn replace_gate(&mut self, name: &GateId) {
        let now = self.now;
        let Some(gate) = self.gates.get_mut(name) else {
            return;
        };
        let idle = gate
            .in_flight
            .values()
            .chain(gate.held.values())
            .all(|n| *n == 0);
        if idle && gate.open && now >= gate.frozen_until {
            let (stream, sequence) = (StreamId(gate.stream), gate.number(now));
            self.post(
                10,
                Event::Bye {
                    gate: name.clone(),
                    stream,
                    sequence,
                },
            );
            self.gates.remove(name);
            self.new_gate();
        }
    }
}
