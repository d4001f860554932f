//! What engines report: looks, starts, wakes, sleeps, deaths. An outcome whose attempt is not the running one changes nothing.

use crate::{
    Core,
    effect::Effect,
    event::{ActionError, EngineState, Outcome},
    failures::COOL_DOWN,
    ids::{Attempt, Bytes, Millis, ModelId},
    model::SleepMode,
    phase::{Boot, Cause, Failure, Phase},
    schedule::counted,
    state::{ModelState, Resident},
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
        if running != attempt {
            return;
        }
        match outcome {
            Outcome::Done { took, memory } => {
                if booting {
                    // The first measurement is worth more than any guess.
                    state.learned.start = Millis(took);
                } else {
                    ModelState::learn(&mut state.learned.start, took);
                }
                state.resident = Resident::Awake;
                measured(&mut state.spec.awake, memory);
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
            Outcome::Failed(error) => self.wake_failed(now, id, Failure::Start, error, effects),
            Outcome::Unknown { cause } => {
                self.wake_failed(
                    now,
                    id,
                    Failure::Start,
                    ActionError {
                        cause,
                        engine: EngineState::Silent,
                    },
                    effects,
                );
            }
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
            Phase::Booting(Boot::Waking(running)) if running == attempt => true,
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
        match outcome {
            Outcome::Done { took, memory } => {
                state.resident = Resident::Awake;
                measured(&mut state.spec.awake, memory);
                if conditioning {
                    state.learned.wake = Millis(took);
                    state.spec.conditioned = true;
                    let (awake, asleep, sleep) =
                        (state.spec.awake, state.spec.asleep, state.learned.sleep);
                    effects.push(Effect::Footprint { model: id.clone() });
                    let declared = if memory.is_some() {
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
                    ModelState::learn(&mut state.learned.wake, took);
                    self.serve(now, id, format!("awake after {}", Millis(took)), effects);
                }
            }
            Outcome::Failed(error) => self.wake_failed(now, id, Failure::Wake, error, effects),
            Outcome::Unknown { cause } => {
                self.wake_failed(
                    now,
                    id,
                    Failure::Wake,
                    ActionError {
                        cause,
                        engine: EngineState::Silent,
                    },
                    effects,
                );
            }
        }
    }

    fn serve(&mut self, now: Millis, id: &ModelId, sentence: String, effects: &mut Vec<Effect>) {
        if let Some(state) = self.models.get_mut(id)
            && state.inside > 0
        {
            // Frozen requests go on now; it is no victim before they had a chance to finish.
            state.spare_until = now + state.spec.min_runtime;
        }
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
        match outcome {
            Outcome::Done { took, memory } => {
                state.learned.sleep = Millis(took);
                measured(&mut state.spec.asleep, memory);
                state.resident = Resident::Asleep(state.spec.asleep);
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
            Outcome::Failed(ActionError { cause, .. }) | Outcome::Unknown { cause } => {
                // Nobody uses it yet: end it and start again after a pause.
                state.resident = Resident::Awake;
                self.wake_failed(
                    now,
                    id,
                    Failure::Start,
                    ActionError {
                        cause,
                        engine: EngineState::Silent,
                    },
                    effects,
                );
            }
        }
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
                self.says_it_sleeps(now, id, order, 1, None, effects);
            }
            Outcome::Unknown { cause } => self.may_sleep(now, id, order, cause, effects),
            Outcome::Failed(_) if sabotage!(TrustsTheReply, true, false) => {
                self.says_it_sleeps(now, id, order, 1, None, effects);
            }
            Outcome::Failed(ActionError { cause, engine }) => match engine {
                EngineState::Asleep | EngineState::Silent => {
                    self.may_sleep(now, id, order, cause, effects);
                }
                EngineState::Gone => self.engine_gone(now, id, &cause, effects),
                EngineState::Broken => self.end_engine(now, id, &cause, effects),
                EngineState::Awake => self.refused_to_sleep(now, id, &cause, effects),
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
        memory: Option<Bytes>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        ModelState::learn(&mut state.learned.sleep, took);
        let left = sabotage!(FreesBeforeTheOracle, None, memory).unwrap_or(state.spec.asleep);
        let kept = left > allowed_after_sleep(state.spec.awake, state.spec.asleep);
        let repeated = std::mem::replace(&mut state.memory_repeat, kept);
        if kept && !repeated {
            let sentence = format!(
                "says it sleeps, but {left} are still held on its GPU: asked to sleep once more"
            );
            self.sleep_again(now, id, order);
            self.record(now, id, sentence, effects);
            return;
        }
        state.memory_repeat = false;
        state.resident = Resident::Asleep(left);
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
        state.last_error = Some(why);
        self.sleep_again(now, id, order);
        self.record(now, id, sentence, effects);
    }

    fn sleep_again(&mut self, now: Millis, id: &ModelId, order: Order) {
        let Order {
            cause,
            mode,
            repeats,
        } = order;
        let again = Phase::Sleeping {
            attempt: Attempt(0),
            cause,
            mode,
            again_at: Some(now + REPEAT_AFTER),
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
        let inside = self.gates.in_flight(id);
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        state.futile = None;
        let inside = if mode == SleepMode::Keep {
            inside.max(state.inside)
        } else {
            0
        };
        self.note_inside(now, id, inside);
        self.enter(now, id, Phase::Asleep);
        let frozen = if inside > 0 {
            format!(" with {} frozen, to go on after its wake", counted(inside))
        } else {
            String::new()
        };
        let for_whom = match cause {
            Cause::Preempt(waiter) => format!(" for {waiter}"),
            Cause::Idle | Cause::Overcommit | Cause::Operator | Cause::Disable | Cause::Remove => {
                String::new()
            }
        };
        self.record(
            now,
            id,
            format!("asleep{for_whom} after {}{frozen}", Millis(took)),
            effects,
        );
    }

    /// The engine refused to sleep and is awake: it goes on serving.
    fn refused_to_sleep(
        &mut self,
        now: Millis,
        id: &ModelId,
        why: &str,
        effects: &mut Vec<Effect>,
    ) {
        let cause = format!("could not be put to sleep, serving on: {why}");
        self.enter(now, id, Phase::Serving);
        if let Some(state) = self.models.get_mut(id) {
            state.spare_until = now + COOL_DOWN;
            state.operator_sleeps = false;
            state.last_error = Some(cause.clone());
        }
        self.record(now, id, cause, effects);
    }

    pub(crate) fn note_inside(&mut self, now: Millis, id: &ModelId, inside: u64) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        state.inside = inside;
        state.frozen_since = match (inside, state.frozen_since) {
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

/// What may be held after a sleep: the residual and a tenth of what should have been freed.
fn allowed_after_sleep(awake: Bytes, asleep: Bytes) -> Bytes {
    asleep + Bytes(awake.less(asleep).0 / 10)
}

/// Takes a measured figure over a declared one.
fn measured(figure: &mut Bytes, memory: Option<Bytes>) {
    if let Some(memory) = memory.filter(|memory| memory.0 > 0) {
        *figure = memory;
    }
}
