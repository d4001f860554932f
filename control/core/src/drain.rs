//! A drain: barrier, acknowledgements, the engine's own count (see `count`), then sleep, freeze, or back. Safety rules S2 and S3 live here.

use crate::{
    Core, LOOK_AGAIN,
    count::COUNT_AGAIN,
    effect::Effect,
    ids::{Epoch, Millis, ModelId},
    model::{OnDrainTimeout, SleepMode},
    phase::{Boot, Cause, Count, Phase, Tier},
    silence::takes_what_follows,
    state::{ModelState, Resident},
    tiers::Berth,
    wishes::requests,
};

/// A drain that runs out again and again gets longer so often.
pub(crate) const LONGER_DRAINS: u32 = 6;
/// A removed model's row says 404 for so long.
const REMOVED_FOR: Millis = Millis(600_000);

impl Core {
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
    pub(crate) fn begin_drain(
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
                count: Count::NotYet,
            },
        );
        self.publish(effects);
        self.record(now, id, sentence, effects);
    }

    /// Lets a drain go on as far as it can now.
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
        if self.takes_back(now, id, &cause, effects) {
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
        let silence = self.blocks_for(state, &cause);
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
            self.go_by_count(now, id, cause, deadline, count, effects);
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

    /// Ends a drain that nobody wants any more. Returns whether it did.
    fn takes_back(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: &Cause,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if let Some(why) = self.drain_is_void(now, id, cause) {
            self.enter(now, id, Phase::Serving);
            let what = format!("drain taken back: {why}");
            self.made_no_room(now, id, &what);
            self.record(now, id, what, effects);
            return true;
        }
        let back = |state: &&ModelState| *cause == Cause::Remove && !state.operator.removing;
        let Some(state) = self.models.get(id).filter(back) else {
            return false;
        };
        let phase = if state.told.boot_ready {
            Phase::Asleep
        } else {
            Phase::Booting(Boot::Observing { asked: None })
        };
        self.enter(now, id, phase);
        self.record(now, id, "it is back in the fleet", effects);
        true
    }

    /// Why a running drain should be taken back to service, if it should.
    pub(crate) fn drain_is_void(&self, now: Millis, id: &ModelId, cause: &Cause) -> Option<String> {
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
                    waiter.phase.waits_for_room()
                        && (self.wanted(now, waiter) || !waiter.told.boot_ready)
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

    /// Whether an action is under way on one of the GPUs of a model that does nothing itself (S6).
    pub(crate) fn gpus_in_transition(&self, id: &ModelId) -> bool {
        let gpus = self.models.get(id).map(|state| &state.spec.gpus);
        let mut places = gpus
            .into_iter()
            .flatten()
            .filter_map(|gpu| self.places.gpu(*gpu));
        places.any(|place| sabotage!(TwoTransitions, false, !place.moving.is_empty()))
    }

    /// Nothing is in flight: sleep, or leave.
    pub(crate) fn drained(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: Cause,
        effects: &mut Vec<Effect>,
    ) {
        if cause == Cause::Remove {
            self.enter(
                now,
                id,
                Phase::Removed {
                    until: now + REMOVED_FOR,
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

    /// Its time is over and requests may still run: they are frozen, cut off, or it serves on, as its operator wants it.
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
                requests(running)
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
        state.learn_unfinished_drain(length, in_flight);
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
            state.learn_drain(now);
        }
        if let Cause::Preempt(waiter) = cause {
            self.wait_drained(now, waiter);
        }
    }

    /// Tells an engine to sleep, its weights going where they were given a berth.
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
