//! An engine's own count in a drain: asked for when every gate has said zero, never cached, and asked for anew whenever a gate comes that
//! must be waited for again (rule 6). An engine is drained when it counts nothing; one that loses requests must say so twice.

use crate::{
    Core,
    effect::Effect,
    event::{EngineState, Observation},
    ids::{Epoch, Millis, ModelId},
    looks::BROKEN,
    phase::{Cause, Count, Phase},
    state::Resident,
};

/// The engine's count was not zero: ask again after this.
pub(crate) const COUNT_AGAIN: Millis = Millis(200);
/// A count that was not answered is asked for again after this.
const COUNT_TIMEOUT: Millis = Millis(3_000);
/// Clocks count in steps of this: what is asked for after the forward bound is asked for one later (rule 6).
const CLOCK_STEP: Millis = Millis(1);

impl Core {
    /// All gates are at zero: ask for the engine's own count, or go on without where it has none.
    pub(crate) fn go_by_count(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: Cause,
        deadline: Millis,
        count: Count,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let uncounted = !state.spec.caps.counts && state.spec.caps.lossless;
        if state.engine.resident != Resident::Awake
            || sabotage!(
                CountIgnored,
                true,
                sabotage!(CachedCount, state.engine.cached_count == Some(0), uncounted)
            )
        {
            self.drained(now, id, cause, effects);
            return;
        }
        if !state.spec.caps.counts {
            // An engine without any count and without a lossless sleep: what left its gates may still run. Only time tells.
            if now >= deadline.max(state.since + self.fleet.times.forward_bound) {
                self.drained(now, id, cause, effects);
            } else {
                self.wake_at(Some(deadline));
            }
            return;
        }
        let ask = |core: &mut Self, confirming, effects: &mut Vec<Effect>| {
            let attempt = core.ask(id, effects);
            core.set_count(
                id,
                Count::Asked {
                    attempt,
                    at: now,
                    confirming,
                },
            );
            core.wake_at(Some(now + COUNT_TIMEOUT));
        };
        match count {
            Count::NotYet => ask(self, false, effects),
            Count::AgainAt { at, confirming } if now >= at => ask(self, confirming, effects),
            Count::AgainAt { at, .. } => self.wake_at(Some(at)),
            Count::Asked { at, .. } if now < at + COUNT_TIMEOUT => {
                self.wake_at(Some(at + COUNT_TIMEOUT))
            }
            // Not asked again at the end of the drain, so that an engine that never answers does not prolong it for ever.
            Count::Asked { .. } if now >= deadline => {}
            Count::Asked { .. } => ask(self, false, effects),
        }
    }

    /// The answer to a drain's own question. All conditions are checked again in this step.
    pub(crate) fn count_answered(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let Phase::Draining {
            cause,
            epoch,
            count: Count::Asked { confirming, .. },
            deadline,
            ..
        } = state.phase.clone()
        else {
            return;
        };
        let lossless = state.spec.caps.lossless;
        let silence = self.blocks_for(state, &cause);
        // Removing an attached engine does nothing to it: when it has nothing to say any more, the gates' zeros are enough.
        let says_nothing = cause == Cause::Remove
            && !state.spec.caps.restartable
            && match seen.state {
                EngineState::Broken => true,
                EngineState::Unresponsive => now >= deadline,
                EngineState::Awake | EngineState::Asleep | EngineState::Gone => false,
            };
        let done_with = sabotage!(RemovedWithRequests, cause == Cause::Remove, says_nothing);
        match (seen.state, seen.count) {
            (_, _) if done_with => {
                self.counted_zero(now, id, &cause, (epoch, silence), true, effects)
            }
            (EngineState::Gone, _) => self.engine_gone(now, id, "it refuses connections", effects),
            (EngineState::Broken, _) => self.end_engine(now, id, BROKEN, effects),
            (EngineState::Awake, Some(0)) => self.counted_zero(
                now,
                id,
                &cause,
                (epoch, silence),
                sabotage!(CountedOnce, true, lossless || confirming),
                effects,
            ),
            // S6 holds for it too: its end is an event, and then it is asked again.
            (EngineState::Asleep, Some(0))
                if self.gpus_in_transition(id) || self.gpus_are_stopped(id) =>
            {
                self.set_count(id, Count::NotYet);
            }
            (EngineState::Asleep, Some(0)) => {
                // Somebody's late command did it already; asked again, it answers the same and the state is known.
                self.drained(now, id, cause, effects);
            }
            // … and froze what was in it.
            (EngineState::Asleep, Some(_)) => self.observed_in_service(now, id, seen, effects),
            (EngineState::Awake | EngineState::Unresponsive, _) | (EngineState::Asleep, None) => {
                let again = Count::AgainAt {
                    at: now + COUNT_AGAIN,
                    confirming: false,
                };
                self.set_count(id, again);
            }
        }
    }

    /// The engine counts nothing, asked after every gate said zero. `enough`: no second look is needed.
    fn counted_zero(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: &Cause,
        (epoch, silence): (Epoch, Millis),
        enough: bool,
        effects: &mut Vec<Effect>,
    ) {
        let waiting = self.waiting(now, id, epoch, silence);
        let clear = waiting.all_acknowledged && waiting.all_zero;
        let void = self.drain_is_void(now, id, cause).is_some();
        let early = now < self.sleeps_from();
        if !clear || void || early || self.gpus_in_transition(id) || self.gpus_are_stopped(id) {
            self.set_count(id, Count::NotYet);
        } else if enough {
            self.drained(now, id, cause.clone(), effects);
        } else {
            // A client that leaves ends its request for the gate before it ends for the engine.
            let at = now + self.fleet.times.forward_bound + CLOCK_STEP;
            self.set_count(
                id,
                Count::AgainAt {
                    at,
                    confirming: true,
                },
            );
        }
    }

    /// Until when it is waited for what the engine says: its answer is due, or it said zero and is asked once more. The beginning
    /// of time otherwise.
    pub(crate) fn answer_by(&self, id: &ModelId) -> Millis {
        match self.models.get(id).map(|state| &state.phase) {
            Some(Phase::Draining {
                count:
                    Count::Asked { at, .. }
                    | Count::AgainAt {
                        at,
                        confirming: true,
                    },
                ..
            }) => *at + COUNT_TIMEOUT,
            Some(_) | None => Millis(0),
        }
    }

    /// Notes how far a running drain is with the count; does nothing for a model that does not drain.
    pub(crate) fn set_count(&mut self, id: &ModelId, new: Count) {
        if let Some(Phase::Draining { count, .. }) =
            self.models.get_mut(id).map(|state| &mut state.phase)
        {
            *count = new;
        }
    }
}
