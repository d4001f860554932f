//! How starts, wakes and sleeps ended, and what follows. An outcome whose attempt is not the running one changes nothing. Those that failed
//! go on in `failures`; what looks show is in `looks`.

use crate::{
    Core,
    effect::Effect,
    event::{ActionError, EngineState, Memory, Outcome},
    failures::COOL_DOWN,
    ids::{Attempt, Bytes, Millis, ModelId},
    model::SleepMode,
    phase::{Boot, Cause, Failure, Phase, Tier},
    sizes::{allowed_after_sleep, raise},
    state::{InDoubt, ModelState, Resident},
    wishes::requests,
};

/// Pause before a sleep of unknown outcome is repeated.
const REPEAT_AFTER: Millis = Millis(1_000);
/// Repeats of a sleep before an engine that control may restart is ended.
const REPEATS: u32 = 5;

/// The sleep that an engine was told.
struct Order {
    cause: Cause,
    mode: SleepMode,
    repeats: u32,
}

impl Core {
    /// A start ended.
    pub(crate) fn started(
        &mut self,
        now: Millis,
        id: &ModelId,
        attempt: Attempt,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let (booting, running) = match state.phase {
            Phase::Booting(Boot::Starting(running)) => (true, running),
            Phase::Waking { attempt: running } => (false, running),
            Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Sleeping { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => return,
        };
        if sabotage!(AnyStartCounts, false, running != attempt) {
            return;
        }
        match outcome.verified() {
            Ok((took, memory)) => {
                state.learn_start(now, took);
                state.engine.resident = Resident::Awake;
                state.measured_awake(memory);
                // A start that takes little says nothing of wakes; what it takes more is reserved for both.
                let above = memory.peak.unwrap_or_default().less(state.spec.awake);
                let measured = memory.peak.map(|_| above);
                state.engine.start_peak = state.engine.start_peak.max(measured);
                let waking = &mut state.spec.sizes.waking;
                if above > waking.bytes {
                    raise(waking, memory.peak, state.spec.awake);
                }
                if booting {
                    self.enter(now, id, Phase::Booting(Boot::Started));
                    self.record(now, id, format!("started in {}", Millis(took)), effects);
                } else {
                    self.serve(
                        now,
                        id,
                        format!("awake after a start of {}", Millis(took)),
                        effects,
                    );
                }
            }
            Err(error) => self.wake_failed(now, id, Failure::Start, error, effects),
        }
    }

    /// A wake ended.
    pub(crate) fn woke(
        &mut self,
        now: Millis,
        id: &ModelId,
        attempt: Attempt,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let conditioning = match state.phase {
            Phase::Waking { attempt: running }
                if sabotage!(OldAttemptCounts, true, running == attempt) =>
            {
                false
            }
            Phase::Booting(Boot::Waking(running))
                if sabotage!(AnyStartCounts, true, running == attempt) =>
            {
                true
            }
            Phase::Waking { .. }
            | Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Sleeping { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => return,
        };
        match outcome.verified() {
            Ok((took, memory)) => {
                state.learn_wake(now, took);
                state.engine.resident = Resident::Awake;
                state.measured_awake(memory);
                let waking = &mut state.spec.sizes.waking;
                raise(waking, memory.peak, state.spec.awake);
                waking.bytes = waking
                    .bytes
                    .max(state.engine.start_peak.unwrap_or_default());
                if conditioning {
                    state.spec.conditioned = true;
                    let (awake, asleep) = (state.spec.awake, state.spec.asleep);
                    let sleep = state.learned.sleep.median();
                    effects.push(Effect::Footprint { model: id.clone() });
                    let declared = if memory.gpu.is_some() {
                        ""
                    } else {
                        " (as declared)"
                    };
                    let sentence = format!(
                        "measured: {awake} awake, {asleep} asleep{declared}, sleeps in {sleep}, wakes in {}",
                        Millis(took)
                    );
                    self.enter(now, id, Phase::Booting(Boot::Started));
                    self.record(now, id, sentence, effects);
                } else {
                    self.serve(now, id, format!("awake after {}", Millis(took)), effects);
                }
            }
            Err(error) => self.wake_failed(now, id, Failure::Wake, error, effects),
        }
    }

    fn serve(&mut self, now: Millis, id: &ModelId, sentence: String, effects: &mut Vec<Effect>) {
        if let Some(state) = self.models.get_mut(id)
            && state.engine.inside > 0
        {
            // Frozen requests go on now; it is no victim before they had a chance to finish.
            state.room.spare_until = now + state.spec.min_runtime;
        }
        let number = self.choices.latest(id);
        self.followed(now, number, id, &sentence);
        self.enter(now, id, Phase::Serving);
        self.record(now, id, sentence, effects);
    }

    /// A sleep ended.
    pub(crate) fn slept(
        &mut self,
        now: Millis,
        id: &ModelId,
        attempt: Attempt,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match &state.phase {
            Phase::Booting(Boot::Sleeping(running)) if *running == attempt => {
                self.boot_slept(now, id, outcome, effects)
            }
            Phase::Sleeping {
                attempt: running,
                cause,
                mode,
                again_at: None,
                repeats,
            } if sabotage!(OldAttemptCounts, true, *running == attempt) => {
                let order = Order {
                    cause: cause.clone(),
                    mode: *mode,
                    repeats: *repeats,
                };
                self.service_slept(now, id, order, outcome, effects);
            }
            Phase::Sleeping { .. }
            | Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Waking { .. }
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => {}
        }
    }

    fn boot_slept(
        &mut self,
        now: Millis,
        id: &ModelId,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match outcome.verified() {
            Ok((took, memory)) => {
                state.learn_sleep(now, took);
                if let Some(left) = memory.gpu.filter(|left| state.keeps(*left)) {
                    let error = ActionError {
                        cause: format!("it sleeps, but {left} were not freed"),
                        engine: EngineState::Awake,
                        no_room: false,
                    };
                    self.boot_sleep_failed(now, id, error, effects);
                    return;
                }
                state.measured_asleep(memory, false);
                state.engine.resident = Resident::Asleep(state.spec.asleep);
                if state.spec.conditioned {
                    self.enter(now, id, Phase::Asleep);
                    self.record(
                        now,
                        id,
                        format!(
                            "ready: asleep after {}, wakes in about {}",
                            Millis(took),
                            self.wake_takes(id)
                        ),
                        effects,
                    );
                } else {
                    self.enter(now, id, Phase::Booting(Boot::Slept));
                }
            }
            Err(error) => self.boot_sleep_failed(now, id, error, effects),
        }
    }

    /// Nobody uses it yet: end it and start again after a pause.
    fn boot_sleep_failed(
        &mut self,
        now: Millis,
        id: &ModelId,
        error: ActionError,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(state) = self.models.get_mut(id) {
            state.engine.resident = Resident::Awake;
        }
        let error = ActionError {
            engine: EngineState::Unresponsive,
            ..error
        };
        self.wake_failed(now, id, Failure::Start, error, effects);
    }

    fn service_slept(
        &mut self,
        now: Millis,
        id: &ModelId,
        order: Order,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        match outcome {
            Outcome::Done { took, memory } => {
                self.says_it_sleeps(now, id, order, took, memory, effects);
            }
            Outcome::Unknown { .. } if sabotage!(WakesDuringPendingSleep, true, false) => {
                self.says_it_sleeps(now, id, order, 1, Memory::default(), effects);
            }
            Outcome::Unknown { cause } => self.may_sleep(now, id, order, cause, effects),
            Outcome::Failed(_) if sabotage!(TrustsTheReply, true, false) => {
                self.says_it_sleeps(now, id, order, 1, Memory::default(), effects);
            }
            Outcome::Failed(ActionError {
                cause,
                engine,
                no_room,
            }) => match engine {
                EngineState::Asleep | EngineState::Unresponsive => {
                    // One that somebody put to sleep in RAM cannot drop its weights any more: there it stays.
                    if engine == EngineState::Asleep
                        && let Some(state) = self.models.get_mut(id)
                    {
                        state.engine.copy = Tier::Ram;
                    }
                    self.may_sleep(now, id, order, cause, effects);
                }
                EngineState::Gone => self.engine_gone(now, id, &cause, effects),
                EngineState::Broken => self.end_engine(now, id, &cause, effects),
                EngineState::Awake => self.refused_to_sleep(now, id, &cause, no_room, effects),
            },
        }
    }

    /// The sleep was verified but for the memory: that counts as free only when the oracle shows it (S4).
    fn says_it_sleeps(
        &mut self,
        now: Millis,
        id: &ModelId,
        order: Order,
        took: u64,
        memory: Memory,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        state.learn_sleep(now, took);
        let left = sabotage!(FreesBeforeTheOracle, None, memory.gpu).unwrap_or(state.spec.asleep);
        let (awake, asleep) = (state.spec.awake, state.spec.asleep);
        let more = left > allowed_after_sleep(awake, asleep);
        let repeated = std::mem::replace(&mut state.engine.sleep_repeated, more);
        // What was only declared may be wrong: what stays twice, and was not freed like the rest, is its residual.
        let kept = more && (!repeated || state.keeps(left));
        state.measured_asleep(memory, kept);
        if kept && !repeated {
            let sentence = format!(
                "says it sleeps, but {left} are still held on its GPU: asked to sleep once more"
            );
            self.sleep_again(now, id, order, REPEAT_AFTER);
            self.record(now, id, sentence, effects);
            return;
        }
        state.engine.sleep_repeated = false;
        state.engine.resident = Resident::Asleep(left);
        if kept && state.spec.caps.restartable {
            let why = format!("it sleeps, but {left} were not freed");
            self.end_engine(now, id, &why, effects);
            return;
        }
        self.fell_asleep(now, id, &order.cause, order.mode, took, effects);
    }

    /// Rule 11: no reopening and no wake before the outcome of a sleep is known; it is asked for again until it is.
    fn may_sleep(
        &mut self,
        now: Millis,
        id: &ModelId,
        order: Order,
        why: String,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let repeats = order.repeats;
        if repeats >= REPEATS && state.spec.caps.restartable {
            let why = format!("it did not answer {repeats} times when told to sleep: {why}");
            self.end_engine(now, id, &why, effects);
            return;
        }
        let sentence = format!("nobody knows whether it sleeps ({why}): asking again");
        state.engine.last_error = Some(why);
        // Rule 7: until it is abandoned the first call may still be accepted, after the answer to the second, and after a wake.
        let pause = REPEAT_AFTER.max(self.fleet.times.command + Millis(1));
        self.sleep_again(now, id, order, pause);
        self.record(now, id, sentence, effects);
    }

    fn sleep_again(&mut self, now: Millis, id: &ModelId, order: Order, pause: Millis) {
        let Order {
            cause,
            mode,
            repeats,
        } = order;
        let again = Phase::Sleeping {
            attempt: Attempt(0),
            cause,
            mode,
            again_at: Some(now + pause),
            repeats: repeats + 1,
        };
        self.enter(now, id, again);
    }

    fn fell_asleep(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: &Cause,
        mode: SleepMode,
        took: u64,
        effects: &mut Vec<Effect>,
    ) {
        let number = self.left_its_gpus(now, id, cause, mode);
        let Some(state) = self.models.get(id) else {
            return;
        };
        let frozen = if state.engine.inside > 0 {
            format!(
                " with {} frozen, to go on after its wake",
                requests(state.engine.inside)
            )
        } else {
            String::new()
        };
        let for_whom = match cause {
            Cause::Preempt(waiter) => format!(" for {waiter}"),
            Cause::Idle | Cause::Overcommit | Cause::Operator | Cause::Disable | Cause::Remove => {
                String::new()
            }
        };
        let deeper = match state.engine.copy {
            Tier::Disk => ", its weights on disk",
            Tier::Ram | Tier::Stopped => "",
        };
        let what = format!("asleep{for_whom} after {}{frozen}{deeper}", Millis(took));
        self.followed(now, number, id, &what);
        self.record(now, id, what, effects);
    }

    /// A model has given up its GPUs. Returns the choice by which it did.
    pub(crate) fn left_its_gpus(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: &Cause,
        mode: SleepMode,
    ) -> Option<u64> {
        let inside = self.in_flight(id);
        let state = self.models.get_mut(id)?;
        (state.room.futile, state.engine.lacked_room) = (None, false);
        state.room.would_drain_in = Millis(0);
        let made_room = match cause {
            Cause::Preempt(_) => state.room.making_room.take(),
            Cause::Idle | Cause::Overcommit | Cause::Operator | Cause::Disable | Cause::Remove => {
                None
            }
        };
        state.room.displaced = made_room.is_some();
        state.room.evicted = made_room.map(|number| (number, now));
        let inside = if mode == SleepMode::Keep {
            inside.max(state.engine.inside)
        } else {
            0
        };
        self.note_inside(now, id, inside);
        self.enter(now, id, Phase::Asleep);
        made_room.or_else(|| self.choices.latest(id))
    }

    /// The engine refused to sleep and is awake: it goes on serving.
    fn refused_to_sleep(
        &mut self,
        now: Millis,
        id: &ModelId,
        why: &str,
        no_room: bool,
        effects: &mut Vec<Effect>,
    ) {
        let cause = format!("could not be put to sleep, serving on: {why}");
        self.made_no_room(now, id, &cause);
        let host = self.models.get(id).map(ModelState::host_reserved);
        self.enter(now, id, Phase::Serving);
        if let Some(state) = self.models.get_mut(id) {
            // A sleep of unknown end before this one may have left its copy there; the next look tells.
            state.engine.in_doubt = Some(InDoubt {
                above: Bytes(0),
                host: host.unwrap_or_default(),
                since: now,
            });
            state.room.spare_until = now + COOL_DOWN;
            (state.operator.sleeps, state.engine.lacked_room) = (false, no_room);
            state.engine.last_error = Some(cause.clone());
        }
        self.record(now, id, cause, effects);
    }

    /// So many requests are inside an engine that is not awake. They wait from now on, unless some did before.
    pub(crate) fn note_inside(&mut self, now: Millis, id: &ModelId, inside: u64) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        state.engine.inside = inside;
        state.engine.frozen_since = match (inside, state.engine.frozen_since) {
            (0, _) => None,
            (_, Some(since)) => Some(since),
            (_, None) => Some(now),
        };
    }

    fn wake_takes(&self, id: &ModelId) -> Millis {
        self.models
            .get(id)
            .map_or(Millis(0), ModelState::wake_takes)
    }
}
