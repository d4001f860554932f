//! What engines report: looks, starts, wakes, sleeps, deaths. An outcome whose attempt is not the running one changes nothing.

use crate::{
    Core,
    effect::Effect,
    event::{ActionError, EngineState, Observation, Outcome},
    ids::{Attempt, Bytes, Millis, ModelId},
    model::SleepMode,
    phase::{Boot, Cause, Count, Failure, Phase},
    state::{ModelState, Resident},
};

/// First cool-down after a failed wake or start; doubles with each further failure.
const COOL_DOWN: Millis = Millis(10_000);
/// Longest cool-down.
const COOL_DOWN_MOST: Millis = Millis(300_000);
/// An engine may be restarted so often …
const RESTARTS: usize = 5;
/// … within this time.
const RESTARTS_WITHIN: Millis = Millis(600_000);
/// Pause before a sleep of unknown outcome is repeated.
const REPEAT_AFTER: Millis = Millis(1_000);
/// Repeats of a sleep before an engine that control may restart is ended.
const REPEATS: u32 = 5;
/// Looks without an answer before an engine counts as gone.
const SILENT_LOOKS: u32 = 5;

impl Core {
    /// A look at an engine.
    pub(crate) fn observed(
        &mut self,
        now: Millis,
        id: &ModelId,
        attempt: Attempt,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        if state.ending {
            return;
        }
        if let Phase::Booting(Boot::Observing {
            asked: Some((asked, _)),
        }) = state.phase
        {
            if asked == attempt {
                self.first_look(now, id, seen, effects);
            }
            return;
        }
        if let Phase::Draining {
            count: Count::Asked { attempt: asked, .. },
            ..
        } = state.phase
            && asked == attempt
        {
            self.counted(now, id, seen, effects);
            return;
        }
        if state.observing.is_none_or(|(asked, _)| asked != attempt) {
            return;
        }
        (state.observing, state.observe_at) = (None, now + crate::OBSERVE_EVERY);
        state.silent = if seen.state == EngineState::Silent {
            state.silent + 1
        } else {
            0
        };
        match &state.phase {
            Phase::Serving | Phase::Draining { .. } => {
                self.observed_in_service(now, id, seen, effects)
            }
            Phase::Asleep | Phase::Queued => self.observed_asleep(now, id, seen, effects),
            Phase::Failed { failure, .. } => {
                let failure = *failure;
                self.observed_failed(now, id, failure, seen, effects);
            }
            Phase::Booting(_)
            | Phase::Waking { .. }
            | Phase::Sleeping { .. }
            | Phase::Removed { .. } => {}
        }
    }

    /// The first look of this life decides where the model starts.
    fn first_look(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let restartable = state.spec.caps.restartable;
        match seen.state {
            EngineState::Awake => {
                state.resident = Resident::Awake;
                self.enter(now, id, Phase::Serving);
                self.record(now, id, "found awake, serving", effects);
            }
            EngineState::Asleep => {
                let left = seen.memory.unwrap_or(state.spec.asleep);
                state.resident = Resident::Asleep(left);
                state.inside = seen.count.unwrap_or(0);
                self.enter(now, id, Phase::Asleep);
                self.record(now, id, "found asleep", effects);
            }
            EngineState::Gone if restartable => {
                state.resident = Resident::Stopped;
                self.enter(now, id, Phase::Booting(Boot::Waiting));
            }
            EngineState::Broken | EngineState::Silent if restartable => {
                effects.push(Effect::Kill {
                    model: id.clone(),
                    cause: format!("found {:?} at first contact", seen.state),
                });
                (state.resident, state.ending) = (Resident::Awake, true);
                self.enter(now, id, Phase::Booting(Boot::Waiting));
            }
            EngineState::Gone | EngineState::Broken | EngineState::Silent => {
                let gone = seen.state == EngineState::Gone;
                state.resident = if gone {
                    Resident::Stopped
                } else {
                    Resident::Awake
                };
                let cause = if gone {
                    "the attached engine refuses connections; start it"
                } else {
                    "the attached engine does not answer as it should; restart it"
                };
                self.fail(now, id, Failure::Engine, None, cause, effects);
            }
        }
    }

    /// The first look got no answer.
    pub(crate) fn first_look_timed_out(
        &mut self,
        now: Millis,
        id: &ModelId,
        effects: &mut Vec<Effect>,
    ) {
        let seen = Observation {
            state: EngineState::Silent,
            count: None,
            memory: None,
        };
        self.first_look(now, id, &seen, effects);
    }

    fn observed_in_service(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match seen.state {
            EngineState::Awake => {}
            EngineState::Asleep => {
                // Rule 8: a late command put it to sleep. What is inside is demand; it is woken the normal way.
                state.resident = Resident::Asleep(seen.memory.unwrap_or(state.spec.asleep));
                let inside = seen.count.unwrap_or(0).max(self.gates.in_flight(id));
                self.note_inside(now, id, inside);
                self.enter(now, id, Phase::Asleep);
                self.record(
                    now,
                    id,
                    "found asleep while in service (a late command, or somebody else's); its requests wait and it is woken the normal way",
                    effects,
                );
            }
            EngineState::Gone => self.engine_gone(now, id, "it refuses connections", effects),
            EngineState::Broken => self.end_engine(
                now,
                id,
                "it says that it sleeps and is not paused: its memory is undefined",
                effects,
            ),
            EngineState::Silent if state.silent >= SILENT_LOOKS && state.spec.caps.restartable => {
                self.end_engine(now, id, "it has not answered for several looks", effects);
            }
            EngineState::Silent => {}
        }
    }

    fn observed_asleep(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match seen.state {
            EngineState::Asleep => {
                if let Some(memory) = seen.memory {
                    state.resident = Resident::Asleep(memory);
                }
                // S7: what is inside a sleeping engine is demand.
                let inside = seen.count.unwrap_or(state.inside);
                self.note_inside(now, id, inside);
            }
            EngineState::Awake => {
                state.resident = Resident::Awake;
                self.enter(now, id, Phase::Serving);
                self.record(
                    now,
                    id,
                    "found awake though it should sleep (somebody woke it); it serves, and makes room the normal way",
                    effects,
                );
            }
            EngineState::Gone if matches!(state.resident, Resident::Stopped) => {}
            EngineState::Gone => self.engine_gone(now, id, "it refuses connections", effects),
            EngineState::Broken => self.end_engine(
                now,
                id,
                "it says that it sleeps and is not paused: its memory is undefined",
                effects,
            ),
            EngineState::Silent if state.silent >= SILENT_LOOKS && state.spec.caps.restartable => {
                self.end_engine(now, id, "it has not answered for several looks", effects);
            }
            EngineState::Silent => {}
        }
    }

    fn observed_failed(
        &mut self,
        now: Millis,
        id: &ModelId,
        failure: Failure,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match seen.state {
            EngineState::Awake => state.resident = Resident::Awake,
            EngineState::Asleep => {
                state.resident = Resident::Asleep(seen.memory.unwrap_or(state.spec.asleep))
            }
            EngineState::Gone => state.resident = Resident::Stopped,
            EngineState::Broken | EngineState::Silent => return,
        }
        // A failed wake cools down whatever the engine says; an engine that was away is taken back when it answers.
        match (failure, seen.state) {
            (Failure::Engine, EngineState::Awake) => {
                self.enter(now, id, Phase::Serving);
                self.record(now, id, "the engine answers again, serving", effects);
            }
            (Failure::Engine, EngineState::Asleep) => {
                self.enter(now, id, Phase::Asleep);
                self.record(now, id, "the engine answers again, asleep", effects);
            }
            (
                Failure::Engine | Failure::Wake | Failure::Start | Failure::NeverFits,
                EngineState::Awake
                | EngineState::Asleep
                | EngineState::Gone
                | EngineState::Broken
                | EngineState::Silent,
            ) => {}
        }
    }

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
                ModelState::learn(&mut state.learned.start, took);
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
            Phase::Waking { attempt: running } if running == attempt => false,
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
                    let sentence = format!(
                        "measured: {awake} awake, {asleep} asleep, sleeps in {sleep}, wakes in {}",
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

    /// A wake or start failed: cool down, evict nobody meanwhile, tell the waiters once.
    fn wake_failed(
        &mut self,
        now: Millis,
        id: &ModelId,
        failure: Failure,
        error: ActionError,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        state.failures += 1;
        let cool_down = Millis((COOL_DOWN.0 << (state.failures - 1).min(5)).min(COOL_DOWN_MOST.0));
        state.operator_wants = false;
        state.resident = match error.engine {
            EngineState::Asleep => Resident::Asleep(state.spec.asleep),
            EngineState::Gone => Resident::Stopped,
            EngineState::Awake | EngineState::Broken | EngineState::Silent => Resident::Awake,
        };
        if state.resident == Resident::Awake && state.spec.caps.restartable {
            effects.push(Effect::Kill {
                model: id.clone(),
                cause: "a wake failed and left it in an unknown state".into(),
            });
            state.ending = true;
        }
        let cause = format!(
            "{}; the next try is in {cool_down} at the earliest",
            error.cause
        );
        self.fail(now, id, failure, Some(now + cool_down), &cause, effects);
    }

    /// Out of service.
    pub(crate) fn fail(
        &mut self,
        now: Millis,
        id: &ModelId,
        failure: Failure,
        retry_at: Option<Millis>,
        cause: &str,
        effects: &mut Vec<Effect>,
    ) {
        self.enter(now, id, Phase::Failed { failure, retry_at });
        if let Some(state) = self.models.get_mut(id) {
            state.last_error = Some(cause.to_owned());
        }
        let what = match failure {
            Failure::Wake => "could not be woken",
            Failure::Start => "could not be started",
            Failure::Engine => "engine out of service",
            Failure::NeverFits => "refused",
        };
        self.record(now, id, format!("{what}: {cause}"), effects);
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
            } if *running == attempt => {
                let (cause, mode, repeats) = (cause.clone(), *mode, *repeats);
                self.service_slept(now, id, cause, mode, repeats, outcome, effects);
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

    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of one phase and its outcome"
    )]
    fn service_slept(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: Cause,
        mode: SleepMode,
        repeats: u32,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let attempt_next = |repeats| Phase::Sleeping {
            attempt: Attempt(0),
            cause: cause.clone(),
            mode,
            again_at: Some(now + REPEAT_AFTER),
            repeats,
        };
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match outcome {
            Outcome::Done { took, memory } => {
                ModelState::learn(&mut state.learned.sleep, took);
                let left = memory.unwrap_or(state.spec.asleep);
                if left > allowed_after_sleep(state.spec.awake, state.spec.asleep)
                    && !state.memory_repeat
                {
                    state.memory_repeat = true;
                    self.enter(now, id, attempt_next(repeats + 1));
                    self.record(
                        now,
                        id,
                        format!("says it sleeps, but {left} are still held on its GPU: asked to sleep once more"),
                        effects,
                    );
                    return;
                }
                let kept = state.memory_repeat
                    && left > allowed_after_sleep(state.spec.awake, state.spec.asleep);
                state.memory_repeat = false;
                // S4: memory counts as free only when the oracle shows it.
                state.resident = Resident::Asleep(left);
                if kept && state.spec.caps.restartable {
                    self.end_engine(
                        now,
                        id,
                        &format!("it sleeps, but {left} were not freed"),
                        effects,
                    );
                    return;
                }
                self.fell_asleep(now, id, &cause, mode, took, effects);
            }
            Outcome::Failed(ActionError {
                cause: why,
                engine: EngineState::Asleep | EngineState::Silent,
            })
            | Outcome::Unknown { cause: why } => {
                // Rule 11: no reopening and no wake before the outcome is known.
                if repeats >= REPEATS && state.spec.caps.restartable {
                    self.end_engine(
                        now,
                        id,
                        &format!("it did not answer {repeats} times when told to sleep: {why}"),
                        effects,
                    );
                    return;
                }
                state.last_error = Some(why.clone());
                self.enter(now, id, attempt_next(repeats + 1));
                self.record(
                    now,
                    id,
                    format!("nobody knows whether it sleeps ({why}): asking again"),
                    effects,
                );
            }
            Outcome::Failed(ActionError {
                cause: why,
                engine: EngineState::Gone,
            }) => self.engine_gone(now, id, &why, effects),
            Outcome::Failed(ActionError {
                cause: why,
                engine: EngineState::Broken,
            }) => self.end_engine(now, id, &why, effects),
            Outcome::Failed(ActionError {
                cause: why,
                engine: EngineState::Awake,
            }) => self.refused_to_sleep(now, id, &why, effects),
        }
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
            format!(" with {inside} requests frozen, they go on after its wake")
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

    /// The engine's process ended, or an attached engine refuses connections.
    pub(crate) fn engine_gone(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        if matches!(state.phase, Phase::Removed { .. }) {
            return;
        }
        let was_stopped = state.resident == Resident::Stopped && !state.phase.in_transition();
        state.resident = Resident::Stopped;
        (state.inside, state.frozen_since) = (0, None);
        if std::mem::take(&mut state.ending) || was_stopped {
            return;
        }
        match &state.phase {
            Phase::Booting(Boot::Observing { .. } | Boot::Waiting) => {}
            // A failed model keeps its cool-down; only what it holds is known better now.
            Phase::Failed { .. } => {}
            Phase::Booting(
                Boot::Starting(_)
                | Boot::Started
                | Boot::Sleeping(_)
                | Boot::Slept
                | Boot::Waking(_),
            )
            | Phase::Waking { .. } => {
                let error = ActionError {
                    cause: format!("the engine died: {cause}"),
                    engine: EngineState::Gone,
                };
                self.wake_failed(now, id, Failure::Start, error, effects);
            }
            Phase::Asleep
            | Phase::Queued
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Sleeping { .. } => {
                self.died_in_service(now, id, cause, effects);
            }
            Phase::Removed { .. } => {}
        }
    }

    fn died_in_service(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let message = format!("the engine died: {cause}");
        state.last_error = Some(message.clone());
        if !state.spec.caps.restartable {
            self.fail(
                now,
                id,
                Failure::Engine,
                None,
                &format!("{message}; start it again"),
                effects,
            );
            return;
        }
        state.restarts.retain(|at| now.since(*at) < RESTARTS_WITHIN);
        state.restarts.push(now);
        if state.restarts.len() > RESTARTS {
            let cause = format!(
                "{message}; {RESTARTS} restarts in {RESTARTS_WITHIN} were not enough. See its log, then wake it by hand"
            );
            self.fail(now, id, Failure::Engine, None, &cause, effects);
            return;
        }
        self.enter(now, id, Phase::Asleep);
        self.record(
            now,
            id,
            format!("{message}; it is started again when somebody asks for it"),
            effects,
        );
    }

    /// Ends an engine that contradicts itself, where control may; otherwise takes it out of service.
    pub(crate) fn end_engine(
        &mut self,
        now: Millis,
        id: &ModelId,
        cause: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        state.resident = Resident::Awake;
        if state.spec.caps.restartable {
            effects.push(Effect::Kill {
                model: id.clone(),
                cause: cause.to_owned(),
            });
            self.died_in_service(now, id, cause, effects);
            if let Some(state) = self.models.get_mut(id) {
                // Its memory counts as held until it is gone.
                (state.resident, state.ending) = (Resident::Awake, true);
            }
        } else {
            self.fail(
                now,
                id,
                Failure::Engine,
                None,
                &format!("{cause}; restart it"),
                effects,
            );
        }
    }

    fn note_inside(&mut self, now: Millis, id: &ModelId, inside: u64) {
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
