//! The decisions of GreenThread: which model sleeps, which wakes, what gates may do, and why.
//!
//! Pure: no clock, no I/O, no async, no randomness, no logging, no hash-ordered iteration. One door:
//! [`Core::step`] takes an event and appends effects; [`Core::next_deadline`] says when it wants a tick.
//! The same core drives production, simulation and replay.

#[macro_use]
pub mod sabotage;

mod advance;
pub mod decision;
mod drain;
pub mod effect;
pub mod event;
mod failures;
mod gates;
pub mod ids;
mod intake;
mod looks;
pub mod model;
mod outcomes;
pub mod phase;
pub mod policy;
mod publish;
mod schedule;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;

pub use view::ModelView;

use decision::Decision;
use effect::Effect;
use event::Event;
use gates::Gates;
use ids::{Attempt, Millis, ModelId};
use model::{FleetSpec, ModelSpec};
use phase::{Boot, Cause, Phase};
use state::ModelState;

/// How often engines are looked at (rule 8 and S7 of the protocol: every second).
const OBSERVE_EVERY: Millis = Millis(1_000);
/// Looks are asked for together, at multiples of this: one round of decisions serves them all.
const LOOKS_TOGETHER: Millis = Millis(100);
/// A look that was not answered for so long is asked for again; also the time-out of the first look.
const OBSERVE_TIMEOUT: Millis = Millis(5_000);
/// A refused request is demand for so long: the longest Retry-After.
const REFUSED_IS_DEMAND: Millis = Millis(60_000);
/// Rounds in which models may follow from each other within one step; what is left goes on a millisecond later.
const ROUNDS: usize = 8;
/// A removed model's row says 404 for so long.
const REMOVED_FOR: Millis = Millis(600_000);

/// All decisions about one fleet.
#[derive(Debug)]
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
    models: BTreeMap<ModelId, ModelState>,
    deadline: Option<Millis>,
    /// The event may allow something: let every model have its turn.
    unsettled: bool,
    /// Rounds so far, for tests of their cost.
    #[cfg(test)]
    rounds: u64,
    /// A phase changed in this round of [`Self::settle`]: another round may allow more.
    changed: bool,
}

impl Core {
    /// An empty fleet that became leader at `now`. Models follow as [`Event::ModelSet`].
    pub fn new(fleet: FleetSpec, now: Millis) -> Self {
        Self {
            fleet,
            leader_since: now,
            term_since: now,
            open: false,
            deposed: false,
            counter: 0,
            attempts: 0,
            gates: Gates::default(),
            models: BTreeMap::new(),
            deadline: None,
            unsettled: true,
            #[cfg(test)]
            rounds: 0,
            changed: false,
        }
    }

    /// Takes one event at `now` (never smaller than before) and appends what has to be done.
    pub fn step(&mut self, now: Millis, event: Event, effects: &mut Vec<Effect>) {
        if self.deposed {
            return;
        }
        self.expire_gates(now, effects);
        let heartbeat_for = self.take(now, event, effects);
        let at = effects.len();
        if self.deposed {
            return;
        }
        if self.unsettled || self.deadline.is_none_or(|deadline| now >= deadline) {
            self.settle_all(now, effects);
        }
        self.serve_snapshots(effects);
        // Rule 3: a heartbeat stands behind every row change that was decided before it.
        if let Some((gate, sequence)) = heartbeat_for
            && let Some(stream) = self.gates.served(&gate)
        {
            let elsewhere = self.gates.elsewhere(&gate);
            let heartbeat = Effect::Heartbeat {
                gate,
                stream,
                echoed: sequence,
                elsewhere,
            };
            let at = sabotage!(HeartbeatOvertakes, at, effects.len().max(at));
            effects.insert(at, heartbeat);
        }
        self.wake_at(self.gates.next_fence(self.fence()));
    }

    /// When the core wants a [`Event::Tick`] at the latest; `None`: only events matter.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadline
    }

    /// The spec of a model, as last set, with what was measured since.
    pub fn spec(&self, model: &ModelId) -> Option<&ModelSpec> {
        self.models.get(model).map(|model| &model.spec)
    }

    fn expire_gates(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let times = self.fleet.times;
        let forget = self.flow_silence() + times.margin;
        let fenced = self.gates.expire(now, self.fence(), forget);
        self.unsettled |= !fenced.is_empty();
        effects.extend(
            fenced
                .into_iter()
                .map(|(gate, stream)| Effect::CloseStream { gate, stream }),
        );
    }

    /// Rounds until nothing follows any more, then what gates must know of it.
    fn settle_all(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        self.unsettled = false;
        for _ in 0..ROUNDS {
            #[cfg(test)]
            {
                self.rounds += 1;
            }
            (self.deadline, self.changed) = (None, false);
            self.settle(now, effects);
            if !self.changed {
                break;
            }
        }
        if self.changed {
            self.wake_at(Some(now + Millis(1)));
        }
        self.publish(effects);
    }

    /// Lets every model do what time and events allow, in an order that does not depend on chance: by name, then by queue.
    fn settle(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let ids: Vec<ModelId> = self.models.keys().cloned().collect();
        for id in &ids {
            self.look(now, id, effects);
        }
        self.open_when_observed(now);
        for id in &ids {
            self.advance(now, id, effects);
        }
        self.schedule(now, effects);
    }

    /// Asks for a look at the engine when one is due.
    fn look(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let first_look_from = self.leader_since + self.fleet.times.command + Millis(1);
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

    /// Snapshots are sent when every engine was looked at or timed out (rule 7).
    fn open_when_observed(&mut self, now: Millis) {
        let observing =
            |state: &ModelState| matches!(state.phase, Phase::Booting(Boot::Observing { .. }));
        if !self.open
            && now > self.leader_since + self.fleet.times.command
            && !self.models.values().any(observing)
        {
            self.open = true;
        }
    }

    /// Whether somebody wants the model now (rule 9: a level, nothing consumes it).
    fn wanted(&self, now: Millis, state: &ModelState) -> bool {
        if state.disabled || state.removing {
            return state.inside > 0;
        }
        let fulfilled = state.fulfilled_at;
        let refused = state.last_refused.is_some_and(|at| {
            now.since(at) < REFUSED_IS_DEMAND && fulfilled.is_none_or(|fulfilled| at > fulfilled)
        });
        let asked = self.gates.held(&state.spec.id) > 0 || state.inside > 0;
        asked || refused || state.operator_wants || (state.spec.pinned && !state.operator_sleeps)
    }

    /// Moves a model into a phase. Every change of phase passes here.
    fn enter(&mut self, now: Millis, id: &ModelId, phase: Phase) {
        let estimate = self.estimate(now, id, &phase);
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
            state.operator_wants = false;
            state.failures = 0;
            state.last_error = None;
            (state.inside, state.frozen_since, state.stuck) = (0, None, false);
        }
        if matches!(phase, Phase::Asleep) {
            // Who asks next begins to wait anew.
            state.stuck = false;
            state.boot_ready = true;
            state.operator_sleeps &= state.spec.pinned;
        }
        self.changed = true;
        state.phase = phase;
        state.since = now;
        state.estimate = estimate;
        // A look that is under way was asked for in another phase; its answer would be stale.
        (state.observing, state.observe_at, state.silent) = (None, next_look(now), 0);
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
        }));
    }

    fn wake_at(&mut self, at: Option<Millis>) {
        self.deadline = match (self.deadline, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// Silence after which a gate does not block a drain.
    fn fence(&self) -> Millis {
        let fence =
            self.fleet.times.lease + sabotage!(FenceAtTheLease, Millis(0), self.fleet.times.margin);
        sabotage!(MarginShort, fence.since(Millis(1)), fence)
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
            (Cause::Preempt(waiter), Some((last, times))) if waiter == last => 1 << (*times).min(6),
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

/// When an engine that was looked at now is looked at again.
fn next_look(now: Millis) -> Millis {
    let due = now + OBSERVE_EVERY;
    Millis(due.0 - due.0 % LOOKS_TOGETHER.0)
}
