//! The decisions of GreenThread: which model sleeps, which wakes, what gates may do, and why.
//!
//! Pure: no clock, no I/O, no async, no randomness, no logging, no hash-ordered iteration. One door:
//! [`Core::step`] takes an event and appends effects; [`Core::next_deadline`] says when it wants a tick.
//! The same core drives production, simulation and replay.

#[macro_use]
pub mod sabotage;

mod advance;
mod agenda;
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
mod sizes;
mod state;
#[cfg(test)]
mod tests;
mod tiers;
mod view;

pub use view::{GpuView, HostView, ModelView, Takes};

use agenda::Agenda;
use choices::Choices;
use decision::{Decision, Tally};
use effect::Effect;
use event::Event;
use forecast::Forecast;
use gates::Gates;
use ids::{Attempt, Millis, ModelId};
use ledger::Audit;
use model::{FleetSpec, ModelSpec};
use models::Models;
use phase::{Boot, Cause, Phase};
use places::Places;
use state::ModelState;

/// A look that was not answered for so long is asked for again; also the time-out of the first look.
const OBSERVE_TIMEOUT: Millis = Millis(5_000);
/// A refused request is demand for so long: the longest Retry-After.
const REFUSED_IS_DEMAND: Millis = Millis(60_000);
/// A removed model's row says 404 for so long.
const REMOVED_FOR: Millis = Millis(600_000);

/// All decisions about one fleet.
#[derive(Clone, Debug)]
pub struct Core {
    fleet: FleetSpec,
    leader_since: Millis,
    term_since: Millis,
    /// Snapshots may be sent: every engine was looked at or timed out.
    open: bool,
    deposed: bool,
    counter: u64,
    attempts: u64,
    gates: Gates,
    models: Models,
    places: Places,
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
        let at = effects.len();
        if self.deposed {
            return;
        }
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

    fn expire_gates(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let expired = self.gates.expire(now, self.fence(), self.forget());
        if expired.any {
            expired
                .models
                .iter()
                .for_each(|slot| self.models.touch(*slot));
            self.touch_draining();
        }
        let close = |(gate, stream)| Effect::CloseStream { gate, stream };
        effects.extend(expired.to_close.into_iter().map(close));
    }

    /// Who drains waits for gates: something changed about one.
    fn touch_draining(&mut self) {
        let draining = self.places.draining().iter();
        draining.for_each(|slot| self.models.touch(*slot));
    }

    /// Snapshots are not sent before: what was seen within `command` of getting the lock may still be changed by a predecessor's call.
    fn opens_from(&self) -> Millis {
        let wait = self.fleet.times.command + Millis(1);
        self.leader_since + sabotage!(LooksAtOnce, Millis(0), wait)
    }

    /// Asks for a look at the engine when one is due.
    fn look(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let first_look_from = self.opens_from();
        let Some(state) = self.models.get(id) else {
            return;
        };
        match &state.phase {
            Phase::Booting(Boot::Observing { asked: None }) => {
                // Rule 7: what was seen within `command` of getting the lock may still be changed by a predecessor's call.
                if now < first_look_from {
                    self.wake_at(Some(first_look_from));
                    return;
                }
                let attempt = self.ask(id, effects);
                if let Some(state) = self.models.get_mut(id) {
                    state.phase = Phase::Booting(Boot::Observing {
                        asked: Some((attempt, now)),
                    });
                }
                self.wake_at(Some(now + OBSERVE_TIMEOUT));
            }
            Phase::Booting(Boot::Observing {
                asked: Some((_, at)),
            }) => {
                let (until, id) = (*at + OBSERVE_TIMEOUT, id.clone());
                if now >= until {
                    self.first_look_timed_out(now, &id, effects)
                } else {
                    self.wake_at(Some(until))
                }
            }
            Phase::Booting(Boot::Unanswered)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Failed { .. } => {
                let overdue = state
                    .observing
                    .is_some_and(|(_, at)| now >= at + OBSERVE_TIMEOUT);
                let due = state.observing.is_none() && now >= state.observe_at;
                if due || overdue {
                    let attempt = self.ask(id, effects);
                    if let Some(state) = self.models.get_mut(id) {
                        state.observing = Some((attempt, now));
                    }
                    // What others did meanwhile changes what a request would have to wait for.
                    self.update_estimate(now, id);
                }
                let Some(state) = self.models.get(id) else {
                    return;
                };
                let next = state
                    .observing
                    .map_or(state.observe_at, |(_, at)| at + OBSERVE_TIMEOUT);
                self.wake_at(Some(next));
            }
            Phase::Booting(_)
            | Phase::Waking { .. }
            | Phase::Sleeping { .. }
            | Phase::Removed { .. } => {}
        }
    }

    /// Whether somebody wants the model now (rule 9: a level, nothing consumes it).
    fn wanted(&self, now: Millis, state: &ModelState) -> bool {
        state.restoring && !state.disabled && !state.removing || self.asked_for(now, state)
    }

    /// … for another reason than that it comes back into room that nobody wants.
    fn asked_for(&self, now: Millis, state: &ModelState) -> bool {
        if sabotage!(
            DisabledWakes,
            state.removing,
            state.disabled || state.removing
        ) {
            return state.inside > 0;
        }
        let fulfilled = state.fulfilled_at;
        let refused = state.last_refused.is_some_and(|at| {
            now.since(at) < REFUSED_IS_DEMAND && fulfilled.is_none_or(|fulfilled| at > fulfilled)
        });
        let asked = self.gates.held(state.slot) > 0 || state.inside > 0;
        let always = state.spec.pinned && !state.operator_sleeps;
        asked || refused || state.operator_wants || always
    }

    /// Moves a model into a phase. Every change of phase passes here.
    fn enter(&mut self, now: Millis, id: &ModelId, phase: Phase) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        if matches!(phase, Phase::Serving) || matches!(state.phase, Phase::Serving) {
            // Who was refused before or while it served had their chance to come back.
            state.fulfilled_at = Some(now);
        }
        if matches!(phase, Phase::Serving) {
            state.served_at = Some(now);
            state.boot_ready = true;
            (state.operator_wants, state.restoring) = (false, false);
            state.failures = 0;
            state.last_error = None;
            (state.inside, state.frozen_since) = (0, None);
            (state.stuck, state.crowded) = (false, false);
            state.settle();
        }
        if matches!(phase, Phase::Asleep) {
            // Who asks next begins to wait anew.
            (state.stuck, state.wait, state.restoring) = (false, None, false);
            state.boot_ready = true;
            state.operator_sleeps &= state.spec.pinned;
        }
        if matches!(phase, Phase::Draining { .. }) {
            state.served_before = matches!(state.phase, Phase::Serving);
        }
        state.phase = phase;
        state.since = now;
        // A look that is under way was asked for in another phase; its answer would be stale.
        (state.observing, state.observe_at, state.silent) =
            (None, now + self.fleet.times.observe, 0);
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
        self.refresh();
    }

    fn ask(&mut self, id: &ModelId, effects: &mut Vec<Effect>) -> Attempt {
        let attempt = self.next_attempt();
        effects.push(Effect::Observe {
            model: id.clone(),
            attempt,
        });
        attempt
    }

    fn next_attempt(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt(self.attempts)
    }

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

    fn wake_at(&mut self, at: Option<Millis>) {
        self.turn_at = self.turn_at.into_iter().chain(at).min();
    }

    /// Silence after which a gate does not block a drain.
    fn fence(&self) -> Millis {
        let fence =
            self.fleet.times.lease + sabotage!(FenceAtTheLease, Millis(0), self.fleet.times.margin);
        sabotage!(MarginShort, fence.since(Millis(1)), fence)
    }

    /// Silence after which nothing is known of a gate any more.
    fn forget(&self) -> Millis {
        self.flow_silence() + self.fleet.times.margin
    }

    /// Silence after which a gate forwards nothing, `flow` rows included (rule 14).
    fn flow_silence(&self) -> Millis {
        self.fence() + self.fleet.times.max_flow
    }

    /// No engine is put to sleep before: a predecessor's gates may still hold its leases.
    fn sleeps_from(&self) -> Millis {
        sabotage!(
            SuccessorWaitsNothing,
            Millis(0),
            self.term_since
                + sabotage!(SuccessorWaitsOneLease, self.fleet.times.lease, self.fence())
        )
    }

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
        let doubled = match (&cause, &state.futile) {
            (Cause::Preempt(waiter), Some((last, times))) if waiter == last => {
                sabotage!(DrainNotDoubled, 1, 1 << (*times).min(6))
            }
            (
                Cause::Preempt(_)
                | Cause::Idle
                | Cause::Overcommit
                | Cause::Operator
                | Cause::Disable
                | Cause::Remove,
                _,
            ) => 1,
        };
        let deadline = now + Millis(state.spec.drain_timeout.0.saturating_mul(doubled));
        let epoch = state.epoch;
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
