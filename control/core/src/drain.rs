//! A drain: barrier, acknowledgements, the engine's own count, then sleep, freeze, or back. Safety rules S2 and S3 live here.

use crate::{
    Core, LOOK_AGAIN,
    effect::Effect,
    event::{EngineState, Observation},
    ids::{Epoch, Millis, ModelId},
    looks::BROKEN,
    model::{OnDrainTimeout, SleepMode},
    phase::{Boot, Cause, Count, Phase, Tier},
    schedule::counted,
    state::{ModelState, Resident},
    tiers::Berth,
};

/// The engine's count was not zero: ask again after this.
const COUNT_AGAIN: Millis = Millis(200);
/// A count that was not answered is asked for again after this.
const COUNT_TIMEOUT: Millis = Millis(3_000);
/// A drain that took longer had requests to wait for.
const BUSY_DRAIN: Millis = Millis(200);
/// Clocks count in steps of this: what is asked for after the forward bound is asked for one later (rule 6).
const CLOCK_STEP: Millis = Millis(1);

impl Core {
    #[allow(clippy::too_many_arguments, reason = "the fields of one phase")]
    pub(crate) fn advance_drain(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: Cause,
        deadline: Millis,
        epoch: Epoch,
        count: Count,
        effects: &mut Vec<Effect>,
    ) {
        // 1. Is the drain still wanted? It can be taken back only before the engine was told (rule 11).
        if let Some(why) = self.drain_is_void(now, id, &cause) {
            self.enter(now, id, Phase::Serving);
            let what = format!("drain taken back: {why}");
            self.made_no_room(now, id, &what);
            self.record(now, id, what, effects);
            return;
        }
        let back = |state: &ModelState| cause == Cause::Remove && !state.operator.removing;
        if let Some(state) = self.models.get(id).filter(|state| back(state)) {
            let phase = if state.told.boot_ready {
                Phase::Asleep
            } else {
                Phase::Booting(Boot::Observing { asked: None })
            };
            self.enter(now, id, phase);
            self.record(now, id, "it is back in the fleet", effects);
            return;
        }
        self.wake_at(Some(now + LOOK_AGAIN));
        self.update_estimate(now, id);
        let Some(state) = self.models.get(id) else {
            return;
        };
        // 2. Nobody sleeps before a predecessor's leases have ended.
        let from = self.drains_from(state, &cause);
        if now < from {
            self.wake_at(Some(from));
            return;
        }
        let caps = state.spec.caps;
        let silence = self.silence(state, &cause);
        let waiting = self.waiting(now, id, epoch, silence);
        // 3. Every gate said zero under this barrier: ask the engine itself, freshly, then sleep. A gate that comes meanwhile makes every
        // earlier count worthless, though nobody may be asked now.
        let clear = waiting.all_acknowledged && waiting.all_zero;
        let unseen = waiting.fenced_in_flight && !takes_what_follows(state, &cause);
        let askable = clear && (caps.counts || !unseen);
        if !askable && count != Count::NotYet {
            self.set_count(id, Count::NotYet);
        }
        // S6: somebody else is on the way on one of its GPUs; its end is an event.
        if self.gpus_in_transition(id) || self.gpus_are_stopped(id) {
            return;
        }
        if askable {
            self.drain_by_count(now, id, cause, deadline, count, effects);
            if !matches!(
                self.models.get(id).map(|state| &state.phase),
                Some(Phase::Draining { .. })
            ) {
                return;
            }
        }
        // 4. The drain ran out, perhaps while nobody was allowed to sleep: an answer that is due may still say that nothing is left.
        let end = deadline.max(self.answer_by(id)).max(self.arrived_by(id));
        if now >= end {
            self.drain_ran_out(now, id, waiting.all_acknowledged, effects);
        } else {
            self.wake_at(Some(end));
        }
    }

    /// Until when it is waited for what the engine says: its answer is due, or it said zero and is asked once more. The beginning
    /// of time otherwise.
    fn answer_by(&self, id: &ModelId) -> Millis {
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

    /// Until when what was admitted before the barrier may still be on its way to an engine that nobody can ask. The beginning of time
    /// otherwise.
    fn arrived_by(&self, id: &ModelId) -> Millis {
        let state = self
            .models
            .get(id)
            .filter(|state| !state.spec.caps.counts && !state.spec.caps.lossless);
        state.map_or(Millis(0), |state| {
            state.since + self.fleet.times.forward_bound
        })
    }

    /// How long a silent gate blocks (rule 14): a `flow` row is forwarded without a lease, which only an engine that keeps what it
    /// receives while asleep can take; one whose server goes away, or that loses requests, waits until flowing has ended.
    pub(crate) fn silence(&self, state: &ModelState, cause: &Cause) -> Millis {
        if takes_what_follows(state, cause) {
            self.fence()
        } else {
            self.sends_for(state)
        }
    }

    /// No drain ends before: gates of which this control never heard may send requests by leases of a predecessor, and after those where
    /// they flow (rule 14). What is sent to a process that is not there is lost already.
    pub(crate) fn drains_from(&self, state: &ModelState, cause: &Cause) -> Millis {
        let runs = state.engine.resident != Resident::Stopped;
        let strangers =
            (runs && !takes_what_follows(state, cause)).then(|| self.strangers_until(state));
        let flows = sabotage!(
            SuccessorWaitsNothing,
            None,
            sabotage!(SuccessorWaitsOneLease, None, strangers)
        );
        self.sleeps_from().max(flows.unwrap_or_default())
    }

    /// Why a running drain should be taken back, if it should.
    fn drain_is_void(&self, now: Millis, id: &ModelId, cause: &Cause) -> Option<String> {
        let state = self.models.get(id)?;
        // What sleeps, is being ended, or was not open cannot serve again as it is.
        let open = state.served_before && state.engine.resident == Resident::Awake;
        if !open || state.engine.ending.is_some() {
            return None;
        }
        match cause {
            Cause::Idle => {
                let refused = state.asked.last_refused.is_some_and(|at| at >= state.since);
                // A request that a gate admitted just before the barrier came was first.
                let asked = self.gates.held(state.slot) > 0 || self.gates.in_flight(state.slot) > 0;
                (refused || asked || state.operator.wants)
                    .then(|| "it is asked for again".to_owned())
            }
            Cause::Preempt(waiter) => {
                let waits = self.models.get(waiter).is_some_and(|waiter| {
                    matches!(
                        waiter.phase,
                        Phase::Queued | Phase::Booting(Boot::Waiting | Boot::Slept)
                    ) && (self.wanted(now, waiter) || !waiter.told.boot_ready)
                });
                (!waits).then(|| format!("{waiter} no longer waits for room"))
            }
            Cause::Disable => (!state.operator.disabled).then(|| "it is enabled again".to_owned()),
            Cause::Operator => {
                (!state.operator.sleeps).then(|| "an operator wants it awake".to_owned())
            }
            Cause::Remove => {
                (!state.operator.removing).then(|| "it is back in the fleet".to_owned())
            }
            Cause::Overcommit => None,
        }
    }

    /// All gates are at zero: ask for the engine's own count, or go on without where it has none.
    fn drain_by_count(
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
    pub(crate) fn counted(
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
        let silence = self.silence(state, &cause);
        // Removing an attached engine does nothing to it: when it has nothing to say any more, the gates' zeros are enough.
        let says_nothing = cause == Cause::Remove
            && !state.spec.caps.restartable
            && match seen.state {
                EngineState::Broken => true,
                EngineState::Silent => now >= deadline,
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
            (EngineState::Awake | EngineState::Silent, _) | (EngineState::Asleep, None) => self
                .set_count(
                    id,
                    Count::AgainAt {
                        at: now + COUNT_AGAIN,
                        confirming: false,
                    },
                ),
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

    /// Whether an action is under way on one of the GPUs of a model that does nothing itself (S6).
    pub(crate) fn gpus_in_transition(&self, id: &ModelId) -> bool {
        let gpus = self.models.get(id).map(|state| &state.spec.gpus);
        let mut places = gpus
            .into_iter()
            .flatten()
            .filter_map(|gpu| self.places.gpu(*gpu));
        places.any(|place| sabotage!(TwoTransitions, false, !place.moving.is_empty()))
    }

    fn set_count(&mut self, id: &ModelId, new: Count) {
        if let Some(Phase::Draining { count, .. }) =
            self.models.get_mut(id).map(|state| &mut state.phase)
        {
            *count = new;
        }
    }

    /// Nothing is in flight: sleep, or leave.
    fn drained(&mut self, now: Millis, id: &ModelId, cause: Cause, effects: &mut Vec<Effect>) {
        if cause == Cause::Remove {
            self.enter(
                now,
                id,
                Phase::Removed {
                    until: now + crate::REMOVED_FOR,
                },
            );
            self.record(
                now,
                id,
                "drained and removed; its path answers 404 from now on",
                effects,
            );
            let attempt = self.next_attempt();
            if let Some(state) = self.models.get_mut(id) {
                // An attached engine goes on without us; one of ours holds its memory until it has ended.
                if !state.spec.caps.restartable {
                    state.engine.resident = Resident::Stopped;
                }
                state.engine.ending =
                    (state.engine.resident != Resident::Stopped).then_some(attempt);
            }
            effects.push(Effect::Removed {
                model: id.clone(),
                attempt,
            });
            return;
        }
        self.go_to_sleep(now, id, cause, SleepMode::Keep, true, effects);
    }

    fn drain_ran_out(
        &mut self,
        now: Millis,
        id: &ModelId,
        all_acknowledged: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let Phase::Draining { cause, .. } = state.phase.clone() else {
            return;
        };
        // An operator's own wish never truncates either; a removed model is waited for.
        if cause == Cause::Remove {
            return;
        }
        if !all_acknowledged {
            // A gate that has not seen the barrier may still admit: it answers or is fenced, within lease + margin.
            return;
        }
        let in_flight = self.in_flight(id);
        let cut = |how: &str| match in_flight {
            0 => format!(
                "its engine has not said by the end of its drain that nothing runs in it: what may is {how}"
            ),
            running => format!(
                "still busy at the end of its drain: {} {how}",
                counted(running)
            ),
        };
        match state.spec.on_drain_timeout {
            OnDrainTimeout::Freeze if state.spec.caps.lossless => {
                self.record(now, id, cut("frozen in the engine"), effects);
                self.go_to_sleep(now, id, cause, SleepMode::Keep, false, effects);
            }
            OnDrainTimeout::Abort => {
                self.record(now, id, cut("cut off, as configured"), effects);
                self.go_to_sleep(now, id, cause, SleepMode::Abort, true, effects);
            }
            OnDrainTimeout::Freeze | OnDrainTimeout::Cancel => {
                self.cancel_drain(now, id, cause, effects)
            }
        }
    }

    /// Reopens a victim that could not be drained; the next drain for the same waiter is twice as long.
    fn cancel_drain(&mut self, now: Millis, id: &ModelId, cause: Cause, effects: &mut Vec<Effect>) {
        let in_flight = self.in_flight(id);
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let length = now.since(state.since);
        state.drain_ran_out(length, in_flight);
        // A shorter drain for another cause does not end the rest after a longer one.
        let rests = state.room.spare_until.max(now + length);
        state.room.spare_until = sabotage!(GoesAgainAtOnce, now, rests);
        state.operator.sleeps = false;
        if let Cause::Preempt(waiter) = &cause {
            let times = state
                .room
                .futile
                .take()
                .filter(|(last, _)| last == waiter)
                .map_or(0, |(_, times)| times);
            state.room.futile = Some((waiter.clone(), times + 1));
        }
        self.enter(now, id, Phase::Serving);
        let sentence = format!(
            "still busy ({in_flight} in flight) after a drain of {length}: reopened; its engine cannot freeze requests without loss"
        );
        self.made_no_room(now, id, &sentence);
        self.record(now, id, sentence, effects);
        if let Cause::Preempt(waiter) = cause {
            let sentence = format!("{id} would not drain in {length}: waiting for another chance");
            if let Some(waiting) = self.models.get_mut(&waiter) {
                waiting.told.stuck = true;
            }
            self.make_estimate(now, &waiter);
            self.record(now, &waiter, sentence, effects);
        }
    }

    /// Everything is clear: where do its weights go?
    fn go_to_sleep(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: Cause,
        mode: SleepMode,
        empty: bool,
        effects: &mut Vec<Effect>,
    ) {
        let empty = self.may_end(now, id) && empty;
        match self.berth(now, id, empty, effects) {
            Berth::Wait => {
                let again = Count::AgainAt {
                    at: now + COUNT_AGAIN,
                    confirming: false,
                };
                self.set_count(id, again);
                self.wake_at(Some(now + COUNT_AGAIN));
            }
            Berth::Nowhere(why) => self.has_no_berth(now, id, cause, &why, effects),
            Berth::In(tier) => {
                self.note_drained(now, id, &cause);
                self.sleeps_in(id, tier);
                if tier == Tier::Stopped {
                    let number = self.left_its_gpus(now, id, &cause, SleepMode::Abort);
                    self.followed(now, number, id, "its engine is stopped");
                    self.stop_engine(now, id, effects);
                    return;
                }
                if let Some(state) = self.models.get_mut(id) {
                    state.engine.copy = tier;
                }
                self.send_sleep(now, id, cause, mode, 0, effects);
            }
        }
    }

    /// What its drain took is learned, and whoever waits for its room is that much further.
    fn note_drained(&mut self, now: Millis, id: &ModelId, cause: &Cause) {
        if let Some(state) = self.models.get_mut(id) {
            let took = now.since(state.since);
            if took > BUSY_DRAIN {
                state.learned.drain.push(took);
            }
        }
        if let Cause::Preempt(waiter) = cause {
            self.wait_drained(now, waiter);
        }
    }

    pub(crate) fn send_sleep(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: Cause,
        mode: SleepMode,
        repeats: u32,
        effects: &mut Vec<Effect>,
    ) {
        let Some(tier) = self.models.get(id).map(|state| state.engine.copy) else {
            return;
        };
        let attempt = self.next_attempt();
        effects.push(Effect::Sleep {
            model: id.clone(),
            attempt,
            mode,
            tier,
        });
        self.enter(
            now,
            id,
            Phase::Sleeping {
                attempt,
                cause,
                mode,
                again_at: None,
                repeats,
            },
        );
    }
}

/// Whether requests that reach an engine after it was drained are answered all the same: it keeps them, and stays.
fn takes_what_follows(state: &ModelState, cause: &Cause) -> bool {
    *cause != Cause::Remove && state.spec.caps.lossless
}
