//! What one model does as time passes, in every phase but the drain (see `drain`).

use crate::{
    Core, LOOK_AGAIN,
    decision::{Taken, Trigger},
    effect::Effect,
    ids::{Millis, ModelId},
    model::SleepMode,
    phase::{Boot, Cause, Failure, Phase, Tier},
    state::ModelState,
    tiers::Berth,
};

impl Core {
    /// Lets one model do what its phase and the time allow.
    pub(crate) fn advance(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let (slot, phase) = (state.slot, state.phase.clone());
        if state.asked.held_since.is_some()
            && self.gates.held(slot) == 0
            && let Some(state) = self.models.at_mut(slot)
        {
            state.asked.held_since = None;
        }
        match phase {
            Phase::Booting(boot) => self.advance_boot(now, id, boot, effects),
            Phase::Asleep => self.advance_asleep(now, id, effects),
            Phase::Queued => self.advance_queued(now, id, effects),
            Phase::Serving => self.advance_serving(now, id, effects),
            Phase::Draining {
                cause,
                deadline,
                epoch,
                count,
            } => self.advance_drain(now, id, cause, deadline, epoch, count, effects),
            Phase::Sleeping {
                cause,
                mode,
                again_at: Some(at),
                repeats,
                ..
            } => {
                if now >= at {
                    self.send_sleep(now, id, cause, mode, repeats, effects);
                } else {
                    self.wake_at(Some(at));
                }
            }
            Phase::Failed { failure, retry_at } => {
                // Neighbours and declarations change: what never fitted may fit now.
                let fits = failure == Failure::NeverFits && self.never_fits(id).is_none();
                let retry_at = if fits { Some(now) } else { retry_at };
                self.advance_failed(now, id, failure, retry_at, effects);
            }
            Phase::Removed { until } => {
                if now >= until {
                    if let Some(slot) = self.models.remove(id) {
                        self.gates.forget_model(slot);
                    }
                    self.choices.forget(id);
                    self.forecast.forget(id);
                    effects.push(Effect::Dropped(id.clone()));
                } else {
                    self.wake_at(Some(until));
                }
            }
            Phase::Waking { .. } | Phase::Sleeping { again_at: None, .. } => {}
        }
    }

    fn advance_boot(&mut self, now: Millis, id: &ModelId, boot: Boot, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        match boot {
            Boot::Started => {
                if state.operator.removing {
                    self.begin_removal(now, id, effects);
                } else if state.spec.conditioned && self.wanted(now, state) {
                    self.enter(now, id, Phase::Serving);
                    self.record(now, id, "ready and wanted: serving", effects);
                } else if self.gpus_in_transition(id) || self.gpus_are_stopped(id) {
                    // Its turn comes when the other action ends.
                } else if self.would_lose(now, state) {
                    self.wake_at(Some(now + LOOK_AGAIN));
                } else if now >= self.first_sleep_from(state) {
                    self.first_sleep(now, id, effects);
                } else {
                    self.wake_at(Some(self.first_sleep_from(state)));
                }
            }
            Boot::Waiting | Boot::Slept if state.operator.removing => {
                self.begin_removal(now, id, effects)
            }
            Boot::Observing { .. }
            | Boot::Unanswered
            | Boot::Waiting
            | Boot::Starting(_)
            | Boot::Sleeping(_)
            | Boot::Slept
            | Boot::Waking(_) => {}
        }
    }

    /// Gates have requests in a started engine, by a predecessor's table, that would be lost if it slept, or had some when they fell silent.
    fn would_lose(&self, now: Millis, state: &ModelState) -> bool {
        let waiting = self.waiting(now, &state.spec.id, state.told.epoch, self.sends_for(state));
        let in_flight = self.gates.in_flight(state.slot) > 0 || waiting.fenced_in_flight;
        in_flight && !state.spec.caps.lossless
    }

    /// An engine that was only started to be ready sleeps, as deep as there is room for.
    fn first_sleep(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let tier = match self.berth(now, id, true, effects) {
            Berth::In(tier @ (Tier::Ram | Tier::Disk)) => tier,
            Berth::In(Tier::Stopped) => {
                self.stop_engine(now, id, effects);
                return;
            }
            Berth::Wait | Berth::Nowhere(_) => {
                self.wake_at(Some(now + Millis::seconds(1)));
                return;
            }
        };
        let attempt = self.next_attempt();
        effects.push(Effect::Sleep {
            model: id.clone(),
            attempt,
            mode: SleepMode::Keep,
            tier,
        });
        if let Some(state) = self.models.get_mut(id) {
            state.engine.copy = tier;
        }
        self.enter(now, id, Phase::Booting(Boot::Sleeping(attempt)));
    }

    fn advance_asleep(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        if state.engine.ending.is_some() {
            return;
        }
        if state.operator.removing && state.is_surely_empty(self.fleet.times.observe) {
            self.begin_removal(now, id, effects);
        } else if self.wanted(now, state) {
            self.enter(now, id, Phase::Queued);
            self.wanted_back(now, id, effects);
        } else {
            self.wake_at(state.refused_wish_ends(now));
            self.ends_at_last(now, id, effects);
        }
    }

    fn advance_queued(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        if !self.wanted(now, state) {
            // Nobody waits any more: the demand is withdrawn before anything was done for it.
            self.enter(now, id, Phase::Asleep);
            self.record(now, id, "nobody waits for it any more", effects);
        } else if state.asked.last_refused.is_some() && self.gates.held(state.slot) == 0 {
            self.wake_at(state.refused_wish_ends(now));
        }
    }

    fn advance_serving(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let cause = if state.operator.removing {
            Some((Cause::Remove, self.why_removed(now, state)))
        } else if state.operator.disabled && now >= state.room.spare_until {
            Some((Cause::Disable, "taken out of service: draining".to_owned()))
        } else if self.gpus_are_stopped(id) {
            // Nothing begins on its GPU: a barrier would refuse requests for nothing.
            None
        } else if sabotage!(OperatorSleepIgnored, false, state.operator.sleeps) {
            Some((
                Cause::Operator,
                "an operator put it to sleep: draining".to_owned(),
            ))
        } else {
            self.idle_since(now, id).map(|idle| {
                (
                    Cause::Idle,
                    format!("nobody asked for it for {idle}: going to sleep"),
                )
            })
        };
        if let Some((cause, sentence)) = cause {
            let trigger = match cause {
                Cause::Idle => Trigger::Idle,
                Cause::Operator => Trigger::Operator,
                Cause::Overcommit => Trigger::Overcommit,
                Cause::Disable | Cause::Remove | Cause::Preempt(_) => Trigger::Withdrawn,
            };
            self.choose_alone(now, id, trigger, Taken::Sleep(Tier::Ram));
            self.begin_drain(now, id, cause, sentence, effects);
        }
    }

    /// How long a model has been idle, when that is longer than its time-out. Needs positive evidence: a live gate, nothing in
    /// flight or held anywhere, no other wish.
    fn idle_since(&mut self, now: Millis, id: &ModelId) -> Option<Millis> {
        let state = self.models.get(id)?;
        let declared = state.spec.idle_timeout?;
        let timeout = sabotage!(IdleTooEarly, Millis(declared.0 / 10), declared);
        let quiet = self.gates.any_alive()
            && sabotage!(IdleWhileBusy, true, self.gates.in_flight(state.slot) == 0)
            && !self.wanted(now, state);
        if !quiet || !self.open {
            return None;
        }
        let since = state
            .asked
            .last_used
            .max(state.served_at)
            .unwrap_or(state.since)
            .max(state.room.spare_until);
        // Whoever was told to come back must not meet the next barrier.
        let back_by = state.asked.back_by;
        if now < back_by {
            self.wake_at(Some(back_by));
            return None;
        }
        if sabotage!(
            NeverIdle,
            false,
            now.since(since) >= timeout && now >= since
        ) {
            return Some(now.since(since));
        }
        let at = since + timeout;
        self.wake_at(Some(at));
        None
    }

    fn advance_failed(
        &mut self,
        now: Millis,
        id: &ModelId,
        failure: Failure,
        retry_at: Option<Millis>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        // Nobody can wake it now for the requests that are frozen in it: it stays until they are gone, there is room, or it has cooled
        // down.
        let keeps =
            matches!(failure, Failure::NeverFits | Failure::Wake) && state.engine.inside > 0;
        if state.operator.removing && !keeps {
            self.begin_removal(now, id, effects);
            return;
        }
        let Some(at) = retry_at else { return };
        if now < at {
            self.wake_at(Some(at));
        } else if state.engine.ending.is_some() {
        } else if state.told.boot_ready {
            // Whatever the engine is now, the next wish wakes and verifies it again.
            self.enter(now, id, Phase::Asleep);
        } else if state.spec.caps.restartable {
            self.enter(now, id, Phase::Booting(Boot::Waiting));
        } else {
            self.enter(now, id, Phase::Booting(Boot::Observing { asked: None }));
        }
    }

    /// A removed model refuses and drains whatever it was doing; gates count its requests to zero.
    fn begin_removal(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        if let Some(state) = self.models.get(id) {
            let sentence = self.why_removed(now, state);
            self.begin_drain(now, id, Cause::Remove, sentence, effects);
        }
    }

    fn why_removed(&self, now: Millis, state: &ModelState) -> String {
        let from = self.drains_from(state, &Cause::Remove);
        let wait = if now < from {
            format!(
                ", for {} at least: gateways of which this control has not heard may still send it requests",
                from.since(now)
            )
        } else {
            String::new()
        };
        format!("it was removed from the fleet: draining{wait}")
    }
}
