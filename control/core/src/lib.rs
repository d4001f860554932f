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
//!    (`looks`) and does what its phase allows (`advance`, `drain`); a GPU serves its queue and makes room (`schedule`).
//! 4. `publish`: gates are told what became of it.
//!
//! The state is [`Core`] and, for each model, `state::ModelState`; a change of phase passes `Core::enter`. Rules ("rule 7") and
//! promises ("S4") that comments name are in `proto/rules.md`.

#[macro_use]
pub mod sabotage;

mod advance;
mod agenda;
mod audit;
mod candidates;
mod choices;
pub mod decision;
pub mod demand;
mod drain;
pub mod effect;
mod estimate;
pub mod event;
mod explain;
mod failures;
pub mod forecast;
mod gates;
pub mod ids;
mod intake;
pub mod learned;
mod ledger;
mod line;
mod looks;
pub mod model;
mod models;
mod outcomes;
pub mod phase;
mod places;
pub mod policy;
mod publish;
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

pub use view::{GpuView, HostView, ModelView, Takes};

use agenda::Agenda;
use audit::Audit;
use choices::Choices;
use decision::{Decision, Tally};
use effect::Effect;
use event::Event;
use forecast::Forecast;
use gates::Gates;
use ids::{Attempt, Bytes, Millis, ModelId};
use model::{FleetSpec, ModelSpec};
use models::Models;
use phase::{Cause, Failure, Phase};
use places::Places;
use state::ModelState;

/// A refused request is demand for so long: the longest Retry-After.
const REFUSED_IS_DEMAND: Millis = Millis(60_000);
/// A drain, and a queue, is looked at again after this, whatever happens: what it waits for may pass without an event.
const LOOK_AGAIN: Millis = Millis(1_000);
/// A drain that runs out again and again gets longer so often.
const LONGER_DRAINS: u32 = 6;
/// A removed model's row says 404 for so long.
const REMOVED_FOR: Millis = Millis(600_000);

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
    /// Of epochs in this term; see [`ids::Epoch`].
    counter: u64,
    /// Of actions on engines; see [`ids::Attempt`].
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

    /// Whether somebody wants the model now (rule 9: a level, nothing consumes it).
    fn wanted(&self, now: Millis, state: &ModelState) -> bool {
        state.room.restoring && !state.operator.disabled && !state.operator.removing
            || self.asked_for(now, state)
    }

    /// … for another reason than that it comes back into room that nobody wants.
    fn asked_for(&self, now: Millis, state: &ModelState) -> bool {
        if sabotage!(
            DisabledWakes,
            state.operator.removing,
            state.operator.disabled || state.operator.removing
        ) {
            return state.engine.inside > 0;
        }
        let fulfilled = state.asked.fulfilled_at;
        let refused = state.asked.last_refused.is_some_and(|at| {
            now.since(at) < REFUSED_IS_DEMAND && fulfilled.is_none_or(|fulfilled| at > fulfilled)
        });
        let asked = self.gates.held(state.slot) > 0 || state.engine.inside > 0;
        let always = state.spec.pinned && !state.operator.sleeps;
        asked || refused || state.operator.wants || always
    }

    /// Moves a model into a phase. Every change of phase passes here.
    fn enter(&mut self, now: Millis, id: &ModelId, phase: Phase) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        if matches!(phase, Phase::Serving) || matches!(state.phase, Phase::Serving) {
            // Who was refused before or while it served had their chance to come back.
            state.asked.fulfilled_at = Some(now);
        }
        if matches!(phase, Phase::Serving) {
            state.served_at = Some(now);
            state.told.boot_ready = true;
            (state.operator.wants, state.room.restoring) = (false, false);
            state.engine.failures = 0;
            state.engine.last_error = None;
            (state.engine.inside, state.engine.frozen_since) = (0, None);
            state.asked.held_since = None;
            (state.told.stuck, state.engine.crowded) = (false, false);
            state.settle();
        }
        if matches!(phase, Phase::Asleep) {
            // Who asks next begins to wait anew.
            (state.told.stuck, state.room.wait, state.room.restoring) = (false, None, false);
            state.told.boot_ready = true;
            state.operator.sleeps &= state.spec.pinned;
        }
        if let Phase::Failed { failure, .. } = state.phase
            && failure == Failure::NeverFits
        {
            state.engine.last_error = None;
        }
        if matches!(phase, Phase::Draining { .. }) {
            state.served_before = matches!(state.phase, Phase::Serving);
        }
        if !matches!(
            phase,
            Phase::Serving | Phase::Draining { .. } | Phase::Sleeping { .. }
        ) {
            // What it was found to hold is over with its service, whoever takes a drain back in between.
            state.engine.found = Bytes(0);
        }
        state.phase = phase;
        state.since = now;
        // A look that is under way was asked for in another phase; its answer would be stale.
        (
            state.engine.observing,
            state.engine.observe_at,
            state.engine.silent,
            state.engine.unsaid,
        ) = (None, now + self.fleet.times.observe, 0, 0);
        state.room.patient_until = None;
        // What it takes and gives counts from here on.
        self.refresh();
        self.make_estimate(now, id);
        match self.models.get(id).map(|state| &state.phase) {
            Some(Phase::Serving) => {
                self.wait_ends(now, id);
                self.came_back(now, id);
            }
            Some(Phase::Queued) => self.wait_begins(now, id),
            Some(_) | None => {}
        }
        self.renew_estimates_beside(now, id);
        self.refresh();
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

    /// How long the next drain may last. One for a waiter for whom it ran out before lasts twice as long as the last (S3).
    pub(crate) fn drain_lasts(&self, state: &ModelState, waiter: Option<&ModelId>) -> Millis {
        let doubled = match (waiter, &state.room.futile) {
            (Some(waiter), Some((last, times))) if waiter == last => {
                sabotage!(DrainNotDoubled, 1, 1 << (*times).min(LONGER_DRAINS))
            }
            (Some(_) | None, _) => 1,
        };
        Millis(state.spec.drain_timeout.0.saturating_mul(doubled))
    }

    /// The barrier goes up.
    fn begin_drain(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: Cause,
        sentence: String,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let waiter = match &cause {
            Cause::Preempt(waiter) => Some(waiter),
            Cause::Idle | Cause::Overcommit | Cause::Operator | Cause::Disable | Cause::Remove => {
                None
            }
        };
        let deadline = now + self.drain_lasts(state, waiter);
        let epoch = state.told.epoch;
        let in_flight = self.in_flight(id);
        if let Some(state) = self.models.get_mut(id) {
            state.room.drained_from = in_flight;
        }
        self.enter(
            now,
            id,
            Phase::Draining {
                cause,
                deadline,
                epoch,
                count: phase::Count::NotYet,
            },
        );
        self.publish(effects);
        self.record(now, id, sentence, effects);
    }
}
