//! The world: everything that exists in one run, and the loop that lets one thing happen after the other.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use greenthread_core::{
    event::{Event, Operator},
    ids::{Bytes, GpuId, ModelId},
};

use crate::{
    agenda::{Agenda, Item},
    check::Epochs,
    control::{Control, Leadership, Persisted},
    engine::Engine,
    fault::Fault,
    gate::GateNode,
    plan::Plan,
    random::Random,
    request::Request,
    stream::Stream,
    totals::Totals,
    trace::Trace,
    trouble::Troubles,
};

/// Data that the gates of one Envoy share.
pub type Shared = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

/// One Envoy.
#[derive(Debug, Default)]
pub struct Gateway {
    /// What its gates share.
    pub shared: Shared,
    /// It runs.
    pub alive: bool,
    /// Between its gates and control nothing moves before.
    pub stalled_until: u64,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: u64,
    pub(crate) agenda: Agenda,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) gates: Vec<GateNode>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) controls: Vec<Control>,
    pub(crate) persisted: Persisted,
    pub(crate) leadership: Leadership,
    pub(crate) engines: Vec<Engine>,
    pub(crate) rows: BTreeMap<ModelId, usize>,
    /// Memory on each GPU that is nobody's in the fleet.
    pub(crate) foreign: Vec<Bytes>,
    /// What the oracle read last on each GPU, and until when it reads nothing new.
    pub(crate) readings: Vec<Bytes>,
    pub(crate) readings_until: u64,
    pub(crate) requests: Vec<Request>,
    pub(crate) open: u64,
    pub(crate) faults: bool,
    pub(crate) load: bool,
    pub(crate) calm_since: Option<u64>,
    pub(crate) totals: Totals,
    pub(crate) troubles: Troubles,
    pub(crate) epochs: Epochs,
    pub(crate) violation: Option<String>,
    pub(crate) trace: Trace,
}

impl World {
    /// A world before anything happened.
    pub fn new(plan: Plan, trace: Trace) -> Self {
        let random = Random::new(plan.seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let engines: Vec<Engine> = plan.models.iter().map(Engine::new).collect();
        let rows = (engines.iter().enumerate())
            .map(|(at, engine)| (engine.spec.id.clone(), at))
            .collect();
        let mut world = Self {
            random,
            now: 0,
            agenda: Agenda::default(),
            gateways: Vec::new(),
            gates: Vec::new(),
            streams: Vec::new(),
            controls: Vec::new(),
            persisted: Persisted::default(),
            leadership: Leadership::default(),
            engines,
            rows,
            foreign: vec![Bytes(0); plan.gpus],
            readings: vec![Bytes(0); plan.gpus],
            readings_until: 0,
            requests: Vec::new(),
            open: 0,
            faults: true,
            load: true,
            calm_since: None,
            totals: Totals::default(),
            troubles: Troubles::default(),
            epochs: Epochs::default(),
            violation: None,
            trace,
            plan,
        };
        world.note(|world| format!("{:?}", world.plan));
        for gateway in 0..world.plan.gateways.len() {
            world.gateways.push(Gateway::default());
            world.start_gateway(gateway);
        }
        world.begin_life();
        world.agenda.push(0, Item::NextRequest);
        let first = world.random.pause(world.plan.fault_every);
        world.agenda.push(first, Item::NextFault);
        world
    }

    /// The whole history: faults, their end, traffic without faults.
    pub fn run(&mut self) {
        let length = self.plan.length;
        self.run_until(length);
        if self.violation.is_none() {
            self.end();
        }
    }

    /// Lets everything happen that is due by then.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            let Some((at, item)) = self.agenda.pop(end) else {
                self.totals.virtual_ms += end.saturating_sub(self.now);
                self.now = end;
                return;
            };
            self.totals.virtual_ms += at - self.now;
            self.now = at;
            self.happens(item);
        }
    }

    fn happens(&mut self, item: Item) {
        match item {
            Item::GateTick { gate, at } => self.gate_timer(gate, at),
            Item::ToGate { stream } => self.read_by_gate(stream),
            Item::ToControl { stream } => self.read_by_control(stream),
            Item::ControlTick { life, at } => self.control_timer(life, at),
            Item::ToCore { life, event } => self.deliver_to_core(life, event),
            Item::WouldReturn {
                gate,
                name,
                told_at,
                stale,
            } => self.would_return(gate, &name, told_at, stale),
            Item::Operate { engine, verb } => self.operate(engine, verb),
            Item::TermTaken { life, term } => self.term_taken(life, term),
            Item::Renew { life } => self.renew(life),
            Item::Renewed { life, sent } => self.renewed(life, sent),
            Item::Elect => self.elect(),
            Item::ControlStarts => self.control_starts(),
            Item::GatewayStarts { gateway } => self.start_gateway(gateway),
            Item::Arrives { request } => self.arrives(request),
            Item::WorkDone { engine, generation } => self.work_done(engine, generation),
            Item::Command { engine, command } => self.command_arrives(engine, command),
            Item::CommandEnds { engine, generation } => self.command_ends(engine, generation),
            Item::JobExpires {
                life,
                engine,
                attempt,
            } => self.job_expires(life, engine, attempt),
            Item::JobEnds {
                life,
                engine,
                attempt,
                event,
            } => self.job_ends(life, engine, attempt, *event),
            Item::Look {
                life,
                engine,
                attempt,
            } => self.look(life, engine, attempt),
            Item::ProcessUp { engine, generation } => self.process_up(engine, generation),
            Item::ProcessEnds { engine, generation } => self.process_ends(engine, generation),
            Item::StartedByHand { engine } => self.started_by_hand(engine),
            Item::Answered { request } => self.answered(request),
            Item::Failed { request } => self.failed(request),
            Item::Dropped { request } => self.dropped(request),
            Item::ClientLeaves { request } => self.client_leaves(request),
            Item::NextRequest => self.next_request(),
            Item::Request { gate, model, slow } => {
                self.arrive(gate, model, slow);
            }
            Item::ReadGpus { life } => self.read_gpus(life),
            Item::ForeignGoes { gpu } => self.foreign[gpu] = Bytes(0),
            Item::Accept { gpu } => self.tell_controls(0, &Event::GpuAccepted(GpuId(gpu))),
            Item::NextFault => self.next_fault(),
        }
    }

    /// The first thing that must never happen ends the run.
    #[cold]
    pub(crate) fn violated(&mut self, what: impl Into<String>) {
        if self.violation.is_none() {
            let what = what.into();
            self.note(|_| format!("VIOLATION: {what}"));
            self.violation = Some(what);
        }
    }

    /// Ends the run unless it holds.
    pub(crate) fn check(&mut self, holds: bool, what: impl FnOnce(&Self) -> String) {
        if !holds {
            let what = what(self);
            self.violated(what);
        }
    }

    /// Writes a line of the trace, when there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_kept() {
            let line = line(self);
            self.trace.note(self.now, &line);
        }
    }

    /// Counts a fault that happened.
    pub(crate) fn faulted(&mut self, fault: Fault) {
        *self.totals.faults.entry(fault).or_default() += 1;
    }

    /// Whether a fault of this kind happens here, once in so many times.
    pub(crate) fn strikes(&mut self, fault: Fault, one_in: u64) -> bool {
        let strikes =
            self.faults && self.plan.faults.contains(&fault) && self.random.chance(1, one_in);
        if strikes {
            self.faulted(fault);
        }
        strikes
    }

    /// Tells every control that runs.
    pub(crate) fn tell_controls(&mut self, delay: u64, event: &Event) {
        for life in 0..self.controls.len() {
            self.tell_control(life, delay, event.clone());
        }
    }

    /// Tells one control, if it runs.
    pub(crate) fn tell_control(&mut self, life: usize, delay: u64, event: Event) {
        if self.controls[life].alive {
            let event = Box::new(event);
            self.agenda
                .push(self.now + delay, Item::ToCore { life, event });
        }
    }

    /// An operator asks for something.
    pub(crate) fn operate(&mut self, engine: usize, verb: Operator) {
        let model = self.engines[engine].spec.id.clone();
        match verb {
            Operator::Disable => self.engines[engine].disabled = true,
            Operator::Enable => self.engines[engine].disabled = false,
            Operator::Wake | Operator::Sleep => {}
        }
        self.tell_controls(0, &Event::Operator { model, verb });
    }

    /// An ordinary way through the network, sometimes none at all.
    pub(crate) fn short_way(&mut self) -> u64 {
        self.random.below(self.plan.way + 1)
    }
}
