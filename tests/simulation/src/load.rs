//! What is done to the world by chance: requests, and faults.

use greenthread_core::{
    event::{Event, Operator},
    ids::{Millis, ModelId},
    model::SleepMode,
    phase::Tier,
};

use crate::{
    agenda::Item,
    engine::{Engine, Lie, Process},
    fault::Fault,
    plan::ModelPlan,
    request::Outcome as Ended,
    stream::Arrival,
    trouble::Place,
    wire,
    world::World,
};

impl World {
    /// A gate that takes new requests.
    fn any_gate(&mut self) -> Option<usize> {
        let takes = |gate: &usize| {
            let node = &self.gates[*gate];
            node.alive && !node.replaced && self.gateways[node.gateway].alive
        };
        let gates: Vec<usize> = (0..self.gates.len()).filter(takes).collect();
        (!gates.is_empty()).then(|| self.random.pick(&gates))
    }

    /// A client sends a request, and the next is planned.
    pub(crate) fn next_request(&mut self) {
        if !self.load {
            return;
        }
        let pause = 1 + self.random.pause(self.plan.request_every);
        self.agenda.push(self.now + pause, Item::NextRequest);
        let (gate, number) = (self.any_gate(), self.plan.models.len());
        // Connections of clients that were there before end later than the configuration.
        let old = |gate: &usize| self.gates[*gate].alive && self.gates[*gate].replaced;
        let old: Vec<usize> = (0..self.gates.len()).filter(old).collect();
        let gate = if !old.is_empty() && self.faults && self.random.chance(1, 10) {
            Some(self.random.pick(&old))
        } else {
            gate
        };
        // Some models are asked for more often than others.
        let model = self.random.index(number).min(self.random.index(number));
        let Some(request) = gate.and_then(|gate| self.arrive(gate, model, false)) else {
            return;
        };
        let leaves = self.faults && self.plan.faults.contains(&Fault::ClientLeaves);
        if leaves && self.random.chance(1, 8) {
            let after = self.random.below(self.plan.service * 2);
            self.agenda
                .push(self.now + after, Item::ClientLeaves { request });
        }
    }

    /// One of the faults of this plan happens where it can, and the next is planned.
    pub(crate) fn next_fault(&mut self) {
        if !self.faults || self.plan.faults.is_empty() {
            return;
        }
        let pause = 1 + self.random.pause(self.plan.fault_every);
        self.agenda.push(self.now + pause, Item::NextFault);
        let fault = self.random.pick(&self.plan.faults.clone());
        if self.happened(fault) {
            self.note(|_| format!("fault: {}", fault.name()));
            self.faulted(fault);
        }
    }

    /// Lets a fault happen. Returns whether it could.
    fn happened(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::ControlCrash
            | Fault::ControlFreeze
            | Fault::ApiAway
            | Fault::StateLost
            | Fault::TermJump
            | Fault::OldOutcome => self.control_fault(fault),
            Fault::GateFreeze
            | Fault::GatewayCrash
            | Fault::GateReplaced
            | Fault::StreamLost
            | Fault::NetworkStalls
            | Fault::LastMoment
            | Fault::ClockSet
            | Fault::Burst => self.gate_fault(fault),
            Fault::StreamStalls
            | Fault::OldTermSpeaks
            | Fault::OldRowSpeaks
            | Fault::EarlyHeartbeat
            | Fault::FalseEcho => self.stream_fault(fault),
            Fault::EngineCrash
            | Fault::EngineBreaks
            | Fault::EngineHang
            | Fault::EngineRefuses
            | Fault::LiesAsleep
            | Fault::LiesAwake
            | Fault::KeepsMemory
            | Fault::StrangerSleeps
            | Fault::StrangerWakes => self.engine_fault(fault),
            Fault::OperatorVerb
            | Fault::ModelChanged
            | Fault::ModelRemoved
            | Fault::ModelReplaced => self.operator_fault(fault),
            Fault::ForeignMemory => self.foreign_comes(),
            Fault::StaleReadings => {
                let length = self.random.pick(&[1_500, 4_000, 12_000]);
                self.readings_until = self.now + self.random.below(length);
                self.trouble(Place::Everywhere, self.readings_until);
                self.plan.measured
            }
            // These strike where their moment comes.
            Fault::Succession
            | Fault::SlowForward
            | Fault::ClientLeaves
            | Fault::EngineSlow
            | Fault::OutcomeLost => false,
        }
    }

    fn control_fault(&mut self, fault: Fault) -> bool {
        let leads = |life: &usize| self.controls[*life].alive && !self.controls[*life].deposed;
        let Some(life) = (0..self.controls.len()).rfind(leads) else {
            return false;
        };
        // Rare, since each ends what would have happened next.
        let rare = self.random.chance(1, 4);
        match fault {
            Fault::ControlCrash if rare => self.crash_control(life),
            Fault::ControlFreeze if rare => {
                let length = self.random.pick(&[500, 5_000, 15_000]);
                let until = self.now + self.random.below(length);
                let frozen_until = &mut self.controls[life].frozen_until;
                *frozen_until = until.max(*frozen_until);
                self.trouble(Place::Everywhere, until);
            }
            Fault::ApiAway if self.plan.leader_lease > 0 => {
                self.leadership.away_until =
                    self.now + self.random.below(self.plan.leader_lease * 2);
            }
            Fault::StateLost if self.plan.leader_lease == 0 => {
                let Some(term) = self.persisted.before_jump else {
                    return false;
                };
                self.persisted.term = term;
                self.persisted.measured.clear();
                self.persisted.conditioned.clear();
                self.crash_control(life);
            }
            Fault::TermJump if rare => {
                let near_the_end = u64::MAX - 100_000 + 100 * self.totals.lives;
                let far = self.random.pick(&[1_000_000_000_000, near_the_end]);
                if self.persisted.term > far || self.persisted.before_jump.is_some() {
                    return false;
                }
                self.persisted.before_jump = Some(self.persisted.term);
                self.persisted.term = far;
                self.crash_control(life);
            }
            Fault::OldOutcome => return self.old_outcome(life),
            _ => return false,
        }
        true
    }

    /// One life of control ends and another begins in the same moment.
    fn replace_control(&mut self) {
        let lives = |life: &usize| self.controls[*life].alive;
        if let Some(life) = (0..self.controls.len()).rfind(lives) {
            self.kill_control(life);
            self.agenda.push(self.now, Item::ControlStarts);
        }
    }

    fn crash_control(&mut self, life: usize) {
        self.kill_control(life);
        let after = self.random.pick(&[1, 300, 3_000, 20_000]);
        let after = self.random.below(after);
        self.agenda.push(self.now + after, Item::ControlStarts);
    }

    fn gate_fault(&mut self, fault: Fault) -> bool {
        let Some(gate) = self.any_gate() else {
            return false;
        };
        let fence = self.plan.times.lease.0 + self.plan.times.margin.0;
        match fault {
            Fault::GateFreeze => {
                let length = self.random.below(fence * 2);
                let frozen_until = &mut self.gates[gate].frozen_until;
                *frozen_until = (self.now + length).max(*frozen_until);
                self.trouble(Place::Everywhere, self.now + length);
            }
            Fault::GatewayCrash => {
                if !self.random.chance(1, 4) {
                    return false;
                }
                self.crash_gateway(self.gates[gate].gateway);
            }
            Fault::GateReplaced => {
                self.trouble(Place::Everywhere, self.now);
                self.new_gate(self.gates[gate].gateway);
                self.gates[gate].replaced = true;
                if self.gates[gate].gate.on_replaced() {
                    self.gates[gate].alive = false;
                }
                self.after_gate(gate);
            }
            Fault::StreamLost => {
                let Some(stream) = self.gates[gate].stream else {
                    return false;
                };
                self.trouble(Place::Everywhere, self.now);
                self.stream_breaks(stream);
            }
            Fault::NetworkStalls => {
                let length = self.random.below(fence * 2);
                let gateway = self.gates[gate].gateway;
                self.gateways[gateway].stalled_until = self.now + length;
                self.trouble(Place::Everywhere, self.now + length);
            }
            Fault::LastMoment => return self.last_moment(gate),
            Fault::ClockSet => {
                self.trouble(Place::Everywhere, self.now);
                let jump = self.random.pick(&[1_100, 5_000, 3_600_000]);
                let wall = &mut self.gates[gate].wall;
                *wall = if self.random.chance(1, 2) {
                    *wall + jump
                } else {
                    *wall - jump
                };
            }
            Fault::Burst => {
                let model = self.random.index(self.plan.models.len());
                for _ in 0..self.random.within(5, 80) {
                    self.arrive(gate, model, false);
                }
            }
            _ => return false,
        }
        true
    }

    fn stream_fault(&mut self, fault: Fault) -> bool {
        let Some(gate) = self.any_gate() else {
            return false;
        };
        let Some(stream) = self.gates[gate].stream else {
            return false;
        };
        let reference = &self.gates[gate].reference;
        let (term, sequence) = (reference.largest_term(), reference.sequence());
        let message = match fault {
            Fault::StreamStalls => {
                let length = self.random.below(self.plan.times.lease.0 * 3);
                self.streams[stream].stalled_until = self.now + length;
                self.trouble(Place::Everywhere, self.now + length);
                return true;
            }
            Fault::OldTermSpeaks if term > 0 => wire::heartbeat(term - 1, sequence, None),
            Fault::OldRowSpeaks => {
                let Some(row) = reference.old_row() else {
                    return false;
                };
                wire::delta(term, reference.version() + 1, vec![row])
            }
            Fault::EarlyHeartbeat if !reference.has_snapshot() && sequence > 0 => {
                wire::heartbeat(term, sequence, None)
            }
            Fault::FalseEcho if term > 0 => wire::heartbeat(term, sequence + 1_000, None),
            _ => return false,
        };
        self.trouble(Place::Everywhere, self.now);
        // In front of everything that is on its way.
        let arrival = Arrival::Message(message);
        self.streams[stream]
            .down
            .wire
            .push_front((self.now, arrival));
        self.agenda.push(self.now, Item::ToGate { stream });
        true
    }

    fn crash_gateway(&mut self, gateway: usize) {
        self.gateways[gateway].alive = false;
        let told = self.random.chance(2, 3).then_some(1);
        for gate in 0..self.gates.len() {
            if self.gates[gate].gateway != gateway || !self.gates[gate].alive {
                continue;
            }
            self.gates[gate].alive = false;
            if let Some(stream) = self.gates[gate].stream {
                self.gate_closes(stream, told);
            }
            for request in std::mem::take(&mut self.gates[gate].requests) {
                self.abandon(request, Ended::GatewayDied);
            }
        }
        let after = 1 + self.random.below(3_000);
        self.trouble(Place::Everywhere, self.now + after);
        self.agenda
            .push(self.now + after, Item::GatewayStarts { gateway });
    }

    /// A gate is cut off, an operator puts a model to sleep, and in the last millisecond of the gate's lease a request comes that takes
    /// the longest way.
    fn last_moment(&mut self, gate: usize) -> bool {
        let node = &self.gates[gate];
        let local = node.local(self.now);
        let admitted = |model: &usize| {
            let row = node.reference.find(&self.plan.models[*model].name);
            row.is_some_and(|row| node.reference.leased(local, row))
        };
        let models: Vec<usize> = (0..self.plan.models.len()).filter(admitted).collect();
        let Some(until) = node.reference.lease_until().filter(|_| !models.is_empty()) else {
            return false;
        };
        let last = node.real(until).saturating_sub(1);
        let model = self.random.pick(&models);
        if last <= self.now {
            return false;
        }
        let fence = self.plan.times.lease.0 + self.plan.times.margin.0;
        let gateway = self.gates[gate].gateway;
        self.gateways[gateway].stalled_until = self.now + fence * 2;
        self.trouble(Place::Everywhere, self.now + fence * 2);
        self.agenda.push(
            last,
            Item::Request {
                gate,
                model,
                slow: true,
            },
        );
        let name = &self.plan.models[model].name;
        let row = self.gates[gate].reference.find(name).map(str::to_owned);
        if let Some(engine) = row.and_then(|row| self.row_named(&row)) {
            let verb = Operator::Sleep;
            if self.plan.leader_lease == 0 && self.random.chance(1, 2) {
                // … and meanwhile control is replaced by another life.
                self.replace_control();
                let seen = self.now + self.plan.times.command.0 + 200;
                self.agenda.push(seen, Item::Operate { engine, verb });
            } else {
                self.operate(engine, verb);
            }
        }
        true
    }

    fn engine_fault(&mut self, fault: Fault) -> bool {
        let engine = self.random.index(self.engines.len());
        // A lie is felt when it is told.
        if !matches!(
            fault,
            Fault::EngineRefuses | Fault::LiesAsleep | Fault::LiesAwake | Fault::KeepsMemory
        ) {
            self.trouble(Place::Engine(engine), self.now);
        }
        let known = &mut self.engines[engine];
        let rare = self.random.chance(1, 3);
        match fault {
            Fault::EngineCrash if rare && known.process != Process::Gone => {
                let generation = known.generation_of_process();
                self.process_ends(engine, generation);
            }
            Fault::EngineBreaks if rare && known.process == Process::Up && !known.broken => {
                self.breaks(engine);
            }
            Fault::EngineHang => {
                let length = self.random.pick(&[300, 3_000, 12_000]);
                known.hangs_until = self.now + self.random.below(length);
                let until = known.hangs_until;
                self.trouble(Place::Engine(engine), until);
            }
            Fault::EngineRefuses => known.lie = Some(Lie::Refuses),
            Fault::LiesAsleep if known.runs() => known.lie = Some(Lie::DoesNothing),
            Fault::LiesAwake if !known.runs() => known.lie = Some(Lie::DoesNothing),
            Fault::KeepsMemory => known.lie = Some(Lie::KeepsMemory),
            Fault::StrangerSleeps if known.runs() && !known.is_busy() && known.present => {
                known.host_surprise = true;
                self.fall_asleep(engine, (SleepMode::Keep, Tier::Ram), true, false);
            }
            Fault::StrangerWakes
                if known.process == Process::Up && known.asleep && !known.broken =>
            {
                if known.is_busy() {
                    return false;
                }
                if !self.has_room(engine) {
                    return false;
                }
                let known = &mut self.engines[engine];
                (known.surprise, known.strange) = (true, true);
                self.fall_awake(engine);
            }
            _ => return false,
        }
        true
    }

    fn operator_fault(&mut self, fault: Fault) -> bool {
        let engine = self.random.index(self.engines.len());
        self.trouble(Place::Engine(engine), self.now);
        match fault {
            Fault::OperatorVerb => {
                let verb = self.random.pick(&[
                    Operator::Wake,
                    Operator::Sleep,
                    Operator::Sleep,
                    Operator::Disable,
                    Operator::Enable,
                    Operator::Enable,
                ]);
                self.operate(engine, verb);
            }
            Fault::ModelChanged if self.engines[engine].present => {
                let length = Millis(self.random.pick(&[200, 1_000, 5_000]));
                let spec = &mut self.engines[engine].spec;
                match self.random.below(4) {
                    0 => spec.min_runtime = length,
                    1 => spec.idle_timeout = self.random.chance(1, 2).then_some(length),
                    2 => spec.drain_timeout = length,
                    _ => spec.max_wait = length,
                }
                self.set_model(engine);
            }
            Fault::ModelRemoved => {
                let model = self.engines[engine].spec.id.clone();
                if !self.engines[engine].has_prefix {
                    return false;
                }
                let is_present = !self.engines[engine].present;
                self.engines[engine].present = is_present;
                if is_present {
                    self.set_model(engine);
                } else {
                    self.tell_controls(0, &Event::ModelRemoved(model));
                }
            }
            Fault::ModelReplaced => return self.replace_model(engine),
            _ => return false,
        }
        true
    }

    /// The fleet file says this of a model now.
    pub(crate) fn set_model(&mut self, engine: usize) {
        if !self.engines[engine].spec.caps.restartable {
            self.agenda
                .push(self.now + 1_000, Item::StartedByHand { engine });
        }
        let spec = self.engines[engine].spec.clone();
        self.tell_controls(0, &Event::ModelSet(Box::new(spec)));
    }

    /// Another engine under the same name is another row.
    fn replace_model(&mut self, engine: usize) -> bool {
        let old = &mut self.engines[engine];
        if self.rows.len() >= self.plan.models.len() + 3 || !old.present || !old.has_prefix {
            return false;
        }
        let number = self.rows.len();
        let plan = ModelPlan {
            spec: greenthread_core::model::ModelSpec {
                id: ModelId(format!("{}.{number}", old.name)),
                ..old.spec.clone()
            },
            name: old.name.clone(),
            begins_awake: false,
            takes: old.takes(),
            real: old.real,
        };
        (old.present, old.has_prefix) = (false, false);
        let gone = old.spec.id.clone();
        let new = self.engines.len();
        self.engines.push(Engine::new(&plan));
        self.rows.insert(plan.spec.id, new);
        self.set_model(new);
        self.tell_controls(0, &Event::ModelRemoved(gone));
        true
    }
}
