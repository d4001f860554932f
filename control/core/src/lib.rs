//! The decisions of GreenThread: which model sleeps, which wakes, what gates may do, and why.
//!
//! Pure: no clock, no I/O, no async, no randomness, no logging, no hash-ordered iteration. One door:
//! [`Core::step`] takes an event and appends effects; [`Core::next_deadline`] says when it wants a tick.
//! The same core drives production, simulation and replay.
//!
//! # The way of a step
//!
//! 1. `silence`: gates that said nothing for too long are fenced.
//! 2. `intake`: what the event means for the state. Gates are heard in `gates`, engines in `looks` and `outcomes`.
//! 3. `settle`: everybody for whom that, or the time, changed something has a turn, until nothing follows. A model looks at its engine
//!    (`looks`) and does what its phase allows (`advance`, `drain`, `count`); a GPU serves its queue (`queue`) and makes room (`schedule`).
//! 4. `publish`: gates are told what became of it.
//!
//! The state is [`Core`] and, for each model, `state::ModelState`; a change of phase passes `Core::enter`, in `enter`. Rules ("rule 7") and
//! promises ("S4") that comments name are in `proto/rules.md`.

#[macro_use]
pub mod sabotage;

mod advance;
mod agenda;
mod audit;
mod candidates;
mod choices;
mod count;
pub mod decision;
pub mod demand;
mod drain;
pub mod effect;
mod enter;
mod estimate;
pub mod event;
mod explain;
mod failures;
mod figures;
pub mod forecast;
mod gates;
pub mod ids;
mod intake;
pub mod learned;
mod ledger;
mod looks;
pub mod model;
mod models;
mod outcomes;
pub mod phase;
mod places;
mod playout;
pub mod policy;
mod publish;
mod queue;
mod schedule;
mod settle;
mod silence;
mod sizes;
mod sleepers;
mod state;
#[cfg(test)]
mod tests;
mod tiers;
mod view;
mod waits;
mod wishes;

pub use view::{GpuView, HostView, ModelView, Takes};

use agenda::Agenda;
use audit::Audit;
use choices::Choices;
use decision::{Decision, Tally};
use effect::Effect;
use event::Event;
use forecast::Forecast;
use gates::Gates;
use ids::{Attempt, Millis, ModelId};
use model::{FleetSpec, ModelSpec};
use models::Models;
use places::Places;

/// A drain, and a queue, is looked at again after this, whatever happens: what it waits for may pass without an event.
const LOOK_AGAIN: Millis = Millis(1_000);

/// All decisions about one fleet: its state, and the door.
#[derive(Clone, Debug)]
pub struct Core {
    fleet: FleetSpec,
    /// Start of this life of control.
    leader_since: Millis,
    /// Start of the term: of this life, or when a larger one was met.
    term_since: Millis,
    /// Snapshots may be sent: every engine was looked at or timed out.
    open: bool,
    /// Another control leads: nothing is done any more.
    deposed: bool,
    /// That of the latest epoch of this term; see [`ids::Epoch`].
    counter: u64,
    /// Number of the latest action on an engine; see [`ids::Attempt`].
    attempts: u64,
    gates: Gates,
    models: Models,
    /// What follows from `models` for each GPU, kept up to date by `refresh`.
    places: Places,
    /// By GPU.
    audits: Vec<Audit>,
    choices: Choices,
    forecast: Forecast,
    tally: Tally,
    agenda: Agenda,
    /// When the model or GPU whose turn it is wants its next one.
    turn_at: Option<Millis>,
    /// Time of the step that runs.
    now: Millis,
    /// Turns so far, for tests of their cost.
    #[cfg(test)]
    turns: u64,
}

impl Core {
    /// An empty fleet that became leader at `now`. Models follow as [`Event::ModelSet`].
    pub fn new(fleet: FleetSpec, now: Millis) -> Self {
        Self {
            places: Places::new(fleet.gpus.len(), fleet.hosts.len()),
            audits: vec![Audit::default(); fleet.gpus.len()],
            choices: Choices::default(),
            forecast: Forecast::default(),
            tally: Tally::default(),
            fleet,
            leader_since: now,
            term_since: now,
            open: false,
            deposed: false,
            counter: 0,
            attempts: 0,
            gates: Gates::default(),
            models: Models::default(),
            agenda: Agenda::default(),
            turn_at: None,
            now,
            #[cfg(test)]
            turns: 0,
        }
    }

    /// Takes one event at `now` (never smaller than before) and appends what has to be done.
    pub fn step(&mut self, now: Millis, event: Event, effects: &mut Vec<Effect>) {
        if self.deposed {
            return;
        }
        self.now = now;
        self.expire_gates(now, effects);
        let heartbeat_for = self.take(now, event, effects);
        if self.deposed {
            return;
        }
        let at = effects.len();
        self.settle(now, effects);
        self.publish(effects);
        self.serve_snapshots(effects);
        // Rule 3: a heartbeat stands behind every row change that was decided before it.
        if let Some((gate, sequence)) = heartbeat_for
            && let Some(stream) = self.gates.served(&gate)
        {
            let elsewhere = self.elsewhere(&gate, false);
            let heartbeat = Effect::Heartbeat {
                gate,
                stream,
                echoed: sequence,
                elsewhere,
            };
            let at = sabotage!(HeartbeatOvertakes, at, effects.len().max(at));
            effects.insert(at, heartbeat);
        }
    }

    /// When the core wants a [`Event::Tick`] at the latest; `None`: only events matter.
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.deposed {
            return None;
        }
        let gates = self.gates.next_expiry(self.fence(), self.forget());
        let opens = (!self.open).then_some(self.opens_from());
        let opens = opens.filter(|at| *at > self.now);
        let all = [self.agenda.next(), gates, opens];
        all.into_iter().flatten().min()
    }

    /// The spec of a model, as last set, with what was measured since.
    pub fn spec(&self, model: &ModelId) -> Option<&ModelSpec> {
        self.models.get(model).map(|model| &model.spec)
    }

    /// Who drains waits for gates: something changed about one.
    fn touch_draining(&mut self) {
        let draining = self.places.draining().iter();
        draining.for_each(|slot| self.models.touch(*slot));
    }

    fn next_attempt(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt(self.attempts)
    }

    /// A sentence about a model for the log and for `status`, with the choice behind it.
    fn record(
        &self,
        now: Millis,
        id: &ModelId,
        sentence: impl Into<String>,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Record(Decision {
            at: now,
            model: id.clone(),
            sentence: sentence.into(),
            choice: self.choices.made_at(now, id),
        }));
    }

    /// Whoever has its turn wants another one then, at the latest.
    fn wake_at(&mut self, at: Option<Millis>) {
        self.turn_at = self.turn_at.into_iter().chain(at).min();
    }
}
