//! One state of the world, and what can happen next in it.
//!
//! Everything is a value: a state is cloned for each thing that can happen, and parts that did not change are shared.

mod act;
mod control;
mod engine;
mod faults;
mod gate;
mod link;

use std::panic::{AssertUnwindSafe, catch_unwind};

use greenthread_core::ids::Millis;

use crate::{
    BEGINNING, TICK,
    memo::Memo,
    row::{Budget, Row, Sabotage},
};

pub(crate) use control::ControlSide;
pub(crate) use engine::{Answer, Call, CallKind, Stage};
pub(crate) use gate::{GateEffect, GateSide, Request, Told, Where};
pub(crate) use link::{Down, Link, Up};

/// Gates, by index.
pub(crate) const GATES: usize = 2;

/// Whether somebody takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Running,
    /// Stopped; what is sent to it waits.
    Frozen,
    Gone,
}

/// One state.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) gates: Vec<GateSide>,
    /// The first, and its successor once there is one.
    pub(crate) controls: Vec<ControlSide>,
    /// Streams, by gate, older ones first.
    pub(crate) links: Vec<Link>,
    pub(crate) engine: engine::Engine,
    /// Calls to the engine and their answers, in an order that does not depend on history.
    pub(crate) calls: Vec<Call>,
    /// Requests by slot.
    pub(crate) requests: Vec<Option<Request>>,
    /// What may still happen.
    pub(crate) left: Budget,
    /// Since when a successor may begin.
    pub(crate) vacant_since: Option<u64>,
    /// Largest term that was written down.
    pub(crate) term: u64,
}

/// Something that can happen. The same action in the same state has the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The clock moves on, and whoever runs has its tick.
    Tick,
    /// A gate has another tick before the clock moves on.
    GateTick(u8),
    /// The next message of a gate is heard by control.
    Up(u8),
    /// A stream that nobody answered yet is answered by this control, which hears its Hello.
    Attach(u8, u8),
    /// The next message of control is read by the gate.
    Down(u8),
    /// A gate learns that its stream has ended.
    GateLoses(u8),
    /// Control learns that a stream has ended.
    ControlLoses(u8),
    /// A stream breaks; neither end knows yet.
    Break(u8),
    /// A request arrives at this gate.
    Arrive(u8),
    /// A forwarded request reaches the engine.
    Reach(u8),
    /// The engine answers a request.
    Finish(u8),
    /// A gate that stood still sees that a request was answered.
    Tell(u8),
    /// The client of a request leaves; the engine may still have it.
    Leave(u8),
    /// The engine is done with a request whose client has left.
    Vanish(u8),
    /// The engine does what it was called for.
    Execute(u8),
    /// The answer arrives at control.
    Answer(u8),
    /// Control never learns what came of a call, which may still be carried out.
    LoseCall(u8),
    /// A call that nobody waits for any more is never carried out.
    DropCall(u8),
    /// An operator asks for sleep.
    WishSleep,
    /// An operator asks for a wake.
    WishWake,
    /// A gate ends without a word.
    CrashGate(u8),
    /// A gate stands still, with what it has.
    FreezeGate(u8),
    /// … and goes on.
    ThawGate(u8),
    /// A control ends without a word.
    CrashControl(u8),
    /// A control stands still.
    FreezeControl(u8),
    /// … and goes on.
    ThawControl(u8),
    /// A control will not be able to renew its leadership again.
    Depose(u8),
    /// A successor begins.
    Succeed,
    /// A control takes a larger term of its own accord.
    Jump(u8),
    /// A control takes a larger term than one that it has met.
    TakeTerm(u8),
}

/// What goes on while one action is carried out.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) row: &'a Row,
    pub(crate) memo: &'a Memo,
    /// Sentences for a trace, when one is wanted.
    pub(crate) notes: Option<Vec<String>>,
    /// The first rule that was broken.
    pub(crate) broken: Option<String>,
}

impl<'a> Step<'a> {
    /// Nothing has happened in it; `notes`: sentences are wanted.
    pub(crate) fn new(row: &'a Row, memo: &'a Memo, notes: bool) -> Self {
        Self {
            row,
            memo,
            notes: notes.then(Vec::new),
            broken: None,
        }
    }

    /// Notes a sentence, where any are wanted.
    pub(crate) fn note(&mut self, sentence: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(sentence());
        }
    }

    /// A rule was broken; the first one is kept.
    pub(crate) fn breaks(&mut self, rule: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(rule());
        }
    }
}

impl World {
    /// Two gates and a control that has just begun, with an engine that is awake.
    pub(crate) fn new(row: &Row) -> Self {
        let mut world = Self {
            now: BEGINNING,
            gates: (0..GATES).map(|index| GateSide::new(index, row)).collect(),
            controls: Vec::new(),
            links: Vec::new(),
            engine: engine::Engine::default(),
            calls: Vec::new(),
            requests: vec![None; usize::from(row.budget.requests)],
            left: Budget::default(),
            vacant_since: None,
            term: 0,
        };
        world.succeed(&mut Step::new(row, &Memo::default(), false));
        world
    }

    /// The clock.
    pub(crate) fn moment(&self) -> Millis {
        Millis(self.now)
    }

    /// Everything that can happen. The clock's end is not looked at here.
    pub(crate) fn actions(&self, row: &Row) -> Vec<Action> {
        let mut actions = Vec::with_capacity(24);
        self.gate_actions(&mut actions);
        self.link_actions(row, &mut actions);
        self.request_actions(&mut actions);
        self.call_actions(row, &mut actions);
        self.fault_actions(row, &mut actions);
        if self.may_tick(row) {
            actions.push(Action::Tick);
        }
        actions
    }

    /// Whether nothing has to happen before the clock moves on, and queues that wait can be paid for.
    fn may_tick(&self, row: &Row) -> bool {
        let urgent_request = |request: &Request| {
            let on_its_way = matches!(request.place, Where::OnItsWay { by } if by <= self.now);
            let told =
                request.place == Where::Ended && self.gates[request.gate].is == Life::Running;
            on_its_way || told || request.left_by.is_some_and(|by| by <= self.now)
        };
        let urgent_call = |call: &Call| {
            let until = call.until + self.lateness(row, call);
            matches!(call.stage, Stage::Travelling { .. }) && until <= self.now
        };
        !self.requests.iter().flatten().any(urgent_request)
            && !self.calls.iter().any(urgent_call)
            && self.vacant_since.is_none_or(|since| self.now <= since)
            && self.delays() <= usize::from(self.left.delays)
    }

    /// Queues that somebody who runs could empty.
    fn delays(&self) -> usize {
        let answers = |call: &&Call| {
            matches!(call.stage, Stage::Back(_)) && self.controls[call.control].is == Life::Running
        };
        let queues: usize = self.links.iter().map(|link| self.waiting(link)).sum();
        queues + self.calls.iter().filter(answers).count()
    }

    /// How much later than agreed a call may be carried out.
    pub(crate) fn lateness(&self, row: &Row, call: &Call) -> u64 {
        let orphan = matches!(call.stage, Stage::Travelling { orphan: true });
        if orphan && row.is_sabotaged(Sabotage::LateCall) {
            6 * TICK.0
        } else {
            0
        }
    }

    /// The state after an action, with what it broke; a panic breaks a rule as well.
    pub(crate) fn after(&self, action: Action, step: &mut Step<'_>) -> Self {
        let act = AssertUnwindSafe(|| self.carried_out(action, step));
        catch_unwind(act).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
            step.breaks(|| format!("it panics: {}", said.unwrap_or_default()));
            self.clone()
        })
    }

    fn carried_out(&self, action: Action, step: &mut Step<'_>) -> Self {
        let mut world = self.clone();
        world.act(action, step);
        self.read_at_once(&mut world, step);
        if !world.may_succeed() {
            world.vacant_since = None;
        } else if world.vacant_since.is_none() {
            world.vacant_since = Some(world.now);
        }
        world.check_engine(step);
        world
    }
}
