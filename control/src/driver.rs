//! The driver: one task that owns the core, the table and the gates' streams. Everybody else sends it messages.
//!
//! It is the only place that reads the clock, once per step. It never waits for anybody: queues of gates are tried, engines and
//! the disk work in tasks of their own and answer as inputs, so a deadline is never late because of a slow peer.

mod clock;
mod explain;
mod look;
#[cfg(test)]
mod tests;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use greenthread_core::{
    Core,
    effect::Effect,
    event::{Event, Operator},
    ids::{Attempt, ModelId},
    model::{FleetSpec, ModelSpec, Source},
};
use greenthread_proto::gate::Row;
use tokio::sync::mpsc;
use tonic::Status;

use clock::Clock;

use crate::{
    config::{Hold, Model},
    engine::{Action, Engines},
    input::{Input, Said, UnknownModel},
    journal::{Journal, unix_seconds},
    rows::Table,
    state::{StateDir, StateError},
    streams::Streams,
    totals::Totals,
};

/// Inputs that wait for the driver; who sends more waits.
pub const INPUTS: usize = 1_024;
/// Inputs taken before deadlines are looked at again: a request that came before a deadline wins, a flood does not delay it.
const BURST: usize = 64;

/// Clocks that jump apart by more were stopped, or set (rule 17).
const CLOCK_JUMP: Duration = Duration::from_secs(1);

/// What a driver is made of.
#[derive(Debug)]
pub struct Parts {
    /// For the core; its term is on the disk.
    pub fleet: FleetSpec,
    /// Hold limits of every row.
    pub hold: Hold,
    /// Gates that must have a table before this control calls itself ready.
    pub expected_gates: usize,
    /// Engines, which know every model already.
    pub engines: Engines,
    /// For a larger term.
    pub state: Arc<StateDir>,
    /// Where the driver's own helpers answer.
    pub inputs: mpsc::Sender<Input>,
    /// Told of every model that has gone: its cluster is not needed any more.
    pub gone: mpsc::UnboundedSender<ModelId>,
}

/// The owner of all decisions of one fleet.
#[derive(Debug)]
pub struct Driver {
    core: Core,
    table: Table,
    streams: Streams,
    journal: Journal,
    totals: Totals,
    clock: Clock,
    expected_gates: usize,
    engines: Engines,
    state: Arc<StateDir>,
    inputs: mpsc::Sender<Input>,
    gone: mpsc::UnboundedSender<ModelId>,
    /// [`Clock::apart`] when it was last looked at.
    apart: i128,
    /// The disk is asked for a larger term.
    taking_term: bool,
    /// The turn to write footprints.
    footprints: Arc<Mutex<()>>,
    /// Empty between steps; kept for its memory.
    effects: Vec<Effect>,
    /// Rows published in this step and not sent yet.
    rows: Vec<Row>,
}

impl Driver {
    /// A driver without models, whose clock starts now: call it right after the state directory was locked.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            fleet,
            hold,
            expected_gates,
            engines,
            state,
            inputs,
            gone,
        } = parts;
        let clock = Clock::start();
        let streams = Streams::new(fleet.times, fleet.term);
        Self {
            core: Core::new(fleet, clock.now()),
            table: Table::new(hold),
            streams,
            journal: Journal::new(),
            totals: Totals::default(),
            clock,
            expected_gates,
            engines,
            state,
            inputs,
            gone,
            apart: 0,
            taking_term: false,
            footprints: Arc::default(),
            effects: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// The decisions, for listeners.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Takes the models of the fleet and works until it is told to stop.
    ///
    /// # Errors
    /// When a larger term was met and could not be taken: another control may lead, so this one must not go on.
    pub async fn run(
        mut self,
        models: Vec<Model>,
        mut inputs: mpsc::Receiver<Input>,
        mut events: mpsc::Receiver<Event>,
    ) -> Result<(), StateError> {
        for model in models {
            self.set_model(model);
        }
        loop {
            let deadline = self.core.next_deadline().map(|at| self.clock.instant(at));
            let mut flow = tokio::select! {
                Some(input) = inputs.recv() => self.take(input),
                Some(event) = events.recv() => self.engine_said(event),
                () = at(deadline) => ControlFlow::Continue(()),
            };
            for _ in 1..BURST {
                if flow.is_break() {
                    break;
                }
                flow = if let Ok(event) = events.try_recv() {
                    self.engine_said(event)
                } else if let Ok(input) = inputs.try_recv() {
                    self.take(input)
                } else {
                    break;
                };
            }
            if let ControlFlow::Break(end) = flow {
                self.step(Event::Deposed);
                self.streams
                    .close_all(&Status::unavailable("control is stopping"));
                return end;
            }
            self.mind_the_clocks();
            if self
                .core
                .next_deadline()
                .is_some_and(|deadline| deadline <= self.clock.now())
            {
                self.step(Event::Tick);
            }
        }
    }

    fn take(&mut self, input: Input) -> ControlFlow<Result<(), StateError>> {
        match input {
            Input::Opened {
                gateway,
                outbound,
                hello,
            } => {
                self.streams
                    .open(hello.stream, hello.gate.clone(), gateway, outbound);
                self.gate_said(hello);
            }
            Input::Said(said) => self.gate_said(said),
            Input::Violated { stream, why } => self.streams.close(stream, why),
            // Who asked and left needs no answer.
            Input::Ask(reply) => drop(reply.send(self.overview())),
            Input::Operate { name, verb, reply } => drop(reply.send(self.operate(name, verb))),
            Input::Explain { name, last, reply } => drop(reply.send(self.explain(name, last))),
            Input::Choice { number, reply } => drop(reply.send(self.choice(number))),
            Input::WhyNot { name, reply } => drop(reply.send(self.why_not(name))),
            Input::AcceptGpu { gpu, reply } => drop(reply.send(self.accept_gpu(gpu))),
            Input::SetModel(model) => self.set_model(*model),
            Input::RemoveModel(model) => self.step(Event::ModelRemoved(model)),
            Input::TermTaken(Ok(term)) => {
                self.taking_term = false;
                self.streams.set_term(term);
                self.step(Event::TermRaised(term));
            }
            Input::TermTaken(Err(error)) => return ControlFlow::Break(Err(error)),
            Input::Stop => return ControlFlow::Break(Ok(())),
        }
        ControlFlow::Continue(())
    }

    /// Rule 17: a machine that was suspended slept through leases. A new term makes every gate attach again, and every drain wait as long
    /// as after a start.
    fn mind_the_clocks(&mut self) {
        let apart = self.clock.apart();
        let jump = apart - std::mem::replace(&mut self.apart, apart);
        if jump.unsigned_abs() > CLOCK_JUMP.as_millis() {
            tracing::warn!(jump_ms = %jump, "wall and monotonic clock jumped apart: was this machine suspended? Leases count as lost");
            self.take_term(self.streams.term());
        }
    }

    fn gate_said(&mut self, said: Said) {
        let Said {
            gate,
            stream,
            event,
            totals,
        } = said;
        if !totals.is_empty() {
            self.totals.gate_said(&gate, totals);
        }
        if matches!(event, Event::StreamClosed { .. }) {
            self.streams.close(stream, Status::ok("the gate closed it"));
        }
        self.step(event);
    }

    fn engine_said(&mut self, event: Event) -> ControlFlow<Result<(), StateError>> {
        self.totals.engine_said(&event);
        let about = about(&event).cloned();
        if let Event::ModelSet(spec) = event {
            self.set_spec(*spec);
        } else {
            self.step(event);
        }
        if let Some(model) = about
            && let Some(card) = self.engines.card(&model)
            && self.table.set_card(&model, card)
        {
            self.rows.extend(self.table.render(&model));
            self.send_rows();
        }
        ControlFlow::Continue(())
    }

    /// What an engine can do turned out to be more, or less, than was thought.
    fn set_spec(&mut self, spec: ModelSpec) {
        match self.table.model(&spec.id).cloned() {
            Some(model) => self.set_model(Model { spec, ..model }),
            // It was removed meanwhile.
            None => tracing::debug!(model = %spec.id, "settings of a model that is not known"),
        }
    }

    fn operate(&mut self, name: String, verb: Operator) -> Result<(), UnknownModel> {
        let Some(model) = self.table.named(&name).cloned() else {
            return Err(self.unknown(name));
        };
        self.step(Event::Operator { model, verb });
        Ok(())
    }

    fn set_model(&mut self, model: Model) {
        let (spec, changed) = self.table.set(model, unix_seconds());
        self.totals.know(&spec.id);
        // Rows that lost prefixes go out before the row that got them; same epoch, so their admission stays.
        let rows: Vec<Row> = changed
            .iter()
            .filter_map(|id| self.table.render(id))
            .collect();
        self.streams.delta(rows);
        self.step(Event::ModelSet(Box::new(spec)));
    }

    /// One step of the core, and its effects in their order.
    fn step(&mut self, event: Event) {
        let mut effects = std::mem::take(&mut self.effects);
        self.core.step(self.clock.now(), event, &mut effects);
        for effect in effects.drain(..) {
            self.perform(effect);
        }
        self.send_rows();
        self.effects = effects;
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Publish(row) => self.rows.extend(self.table.publish(row)),
            Effect::SendSnapshot {
                gate: _,
                stream,
                rows,
            } => {
                self.send_rows();
                let rows = rows
                    .into_iter()
                    .filter_map(|row| self.table.publish(row))
                    .collect();
                self.streams.snapshot(stream, rows);
            }
            Effect::Heartbeat {
                gate: _,
                stream,
                echoed,
                elsewhere,
            } => {
                self.send_rows();
                self.streams.heartbeat(stream, echoed, elsewhere);
            }
            Effect::CloseStream { gate: _, stream } => {
                self.send_rows();
                self.streams
                    .close(stream, Status::aborted("closed by control: attach again"));
            }
            Effect::Observe { model, attempt } => {
                self.engines.run(&model, Action::Observe(attempt))
            }
            Effect::Start { model, attempt } => self.engines.run(&model, Action::Start(attempt)),
            Effect::Wake {
                model,
                attempt,
                tier,
            } => self.engines.run(&model, Action::Wake(attempt, tier)),
            Effect::Sleep {
                model,
                attempt,
                mode,
                tier,
            } => self.engines.run(&model, Action::Sleep(attempt, mode, tier)),
            Effect::Kill {
                model,
                attempt,
                cause,
            } => self.engines.run(&model, Action::Kill(attempt, cause)),
            Effect::Removed { model, attempt } => self.end_engine(model, attempt),
            Effect::Dropped(model) => {
                self.table.forget(&model);
                self.totals.forget(&model);
                self.journal.forget(&model);
            }
            Effect::Record(decision) => self.journal.record(decision),
            Effect::RaiseTerm { at_least } => self.take_term(at_least),
            Effect::Footprint { model } => self.keep_footprint(model),
        }
    }

    /// Rows that were published one after the other go out as one delta, before anything else is sent.
    fn send_rows(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        self.streams.delta(rows);
    }

    fn end_engine(&self, model: ModelId, attempt: Attempt) {
        let (engines, gone) = (self.engines.clone(), self.gone.clone());
        tokio::spawn(async move {
            engines.remove(&model, attempt).await;
            // Nobody listens any more only when control ends.
            let _ = gone.send(model);
        });
    }

    fn keep_footprint(&self, model: ModelId) {
        let (engines, turn) = (self.engines.clone(), self.footprints.clone());
        let spec = self.core.spec(&model);
        let spec = spec.filter(|spec| spec.sizes.awake == Source::Measured);
        let awake = spec.map(|spec| spec.gpus.iter().map(|_| spec.awake).sum());
        tokio::task::spawn_blocking(move || {
            // One writer at a time; a writer that panicked left the file whole, since it is replaced and never edited.
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = engines.save_footprint(&model, awake) {
                tracing::warn!(%model, %error, "its footprint could not be kept; it is measured again after the next start");
            }
        });
    }

    fn take_term(&mut self, at_least: u64) {
        // One at a time: a gate that knows a still larger one attaches again and is asked about then.
        if std::mem::replace(&mut self.taking_term, true) {
            return;
        }
        let (state, inputs, own) = (self.state.clone(), self.inputs.clone(), self.streams.term());
        tokio::task::spawn_blocking(move || {
            let taken = state.next_term(at_least.max(own));
            // A driver that has ended needs no term.
            let _ = inputs.blocking_send(Input::TermTaken(taken));
        });
    }
}

/// Resolves at `deadline`; never without one.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The model whose engine an event is about.
fn about(event: &Event) -> Option<&ModelId> {
    match event {
        Event::Observed { model, .. }
        | Event::Started { model, .. }
        | Event::Woke { model, .. }
        | Event::Slept { model, .. }
        | Event::EngineGone { model, .. } => Some(model),
        Event::ModelSet(spec) => Some(&spec.id),
        Event::Tick
        | Event::Hello { .. }
        | Event::Report { .. }
        | Event::Ack { .. }
        | Event::Bye { .. }
        | Event::StreamClosed { .. }
        | Event::GpuRead { .. }
        | Event::GpuAccepted(_)
        | Event::ModelRemoved(_)
        | Event::Operator { .. }
        | Event::Deposed
        | Event::TermRaised(_) => None,
    }
}
