//! Failed wakes and starts, engines that die, engines that must be ended: who waits, who is told, and when it is tried again.

use crate::{
    Core,
    effect::Effect,
    event::{ActionError, EngineState},
    ids::{Bytes, Millis, ModelId},
    phase::{Boot, Failure, Phase},
    state::{Engine, Resident},
};

/// First cool-down after a failed wake or start; doubles with each further failure.
pub(crate) const COOL_DOWN: Millis = Millis(10_000);
/// Longest cool-down.
const COOL_DOWN_MOST: Millis = Millis(300_000);
/// An engine may be restarted so often …
const RESTARTS: usize = 5;
/// … within this time.
const RESTARTS_WITHIN: Millis = Millis(600_000);

impl Engine {
    /// One more wake or start failed: how long nothing is tried.
    fn failed_again(&mut self) -> Millis {
        self.failures += 1;
        let doubled = COOL_DOWN.0 << (self.failures - 1).min(5);
        Millis(doubled.min(COOL_DOWN_MOST.0))
    }
}

impl Core {
    /// A wake or start failed: cool down, evict nobody meanwhile, tell the waiters once.
    pub(crate) fn wake_failed(
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
        if failure == Failure::Wake
            && error.engine == EngineState::Gone
            && matches!(state.phase, Phase::Waking { .. })
        {
            // It died rather than failed; who waits for it is held while it is started again.
            (
                state.engine.resident,
                state.engine.inside,
                state.engine.frozen_since,
            ) = (Resident::Stopped, 0, None);
            let what = format!("died while it woke: {}", error.cause);
            self.followed(now, self.choices.latest(id), id, &what);
            self.died_in_service(now, id, &error.cause, effects);
            return;
        }
        let cool_down = state.engine.failed_again();
        state.engine.lacked_room |= error.no_room;
        let was_in_doubt = state.engine.in_doubt.is_some();
        state.leave_in_doubt(now);
        state.operator.wants = false;
        state.engine.resident = match error.engine {
            // What it kept when it fell asleep it still holds; the next look says it anew.
            EngineState::Asleep => match state.engine.resident {
                Resident::Asleep(left) => Resident::Asleep(left.max(state.spec.asleep)),
                // What it kept after the try before this one nobody has seen.
                Resident::Awake if was_in_doubt => Resident::Awake,
                Resident::Stopped | Resident::Awake => Resident::Asleep(state.spec.asleep),
            },
            EngineState::Gone => Resident::Stopped,
            EngineState::Awake | EngineState::Broken | EngineState::Unresponsive => Resident::Awake,
        };
        let unknown = error.engine != EngineState::Asleep;
        if unknown && state.engine.resident == Resident::Awake && state.spec.caps.restartable {
            let cause = "a wake failed and left it in an unknown state".to_owned();
            self.kill(id, cause, effects);
        }
        let cause = format!(
            "{}; the next try is in {cool_down} at the earliest",
            error.cause
        );
        let what = format!(
            "did not come, the next try is in {cool_down} at the earliest: {}",
            error.cause
        );
        self.followed(now, self.choices.latest(id), id, &what);
        let retry_at = sabotage!(NoCoolDown, now, now + cool_down);
        self.fail(now, id, failure, Some(retry_at), &cause, effects);
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
            state.engine.last_error = Some(cause.to_owned());
        }
        let what = match failure {
            Failure::Wake => "could not be woken",
            Failure::Start => "could not be started",
            Failure::Engine => "engine out of service",
            Failure::NeverFits => "refused",
        };
        self.record(now, id, format!("{what}: {cause}"), effects);
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
        state.resolve();
        if matches!(state.phase, Phase::Removed { .. }) {
            (state.engine.resident, state.engine.ending) = (Resident::Stopped, None);
            return;
        }
        // Nothing ran that is known of, or its successor is being started, whose own outcome tells how that went.
        let was_stopped = state.engine.resident == Resident::Stopped;
        (state.engine.resident, state.engine.host_kept) = (Resident::Stopped, Bytes(0));
        (state.engine.inside, state.engine.frozen_since) = (0, None);
        // The answer to a look that is under way would be that of a process that is gone.
        state.engine.observing = None;
        let ended = state.engine.ending.take().is_some();
        // Room may have become free for whoever wants to sleep there.
        self.touch_draining();
        if ended || was_stopped {
            return;
        }
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match &state.phase {
            Phase::Booting(Boot::Observing { .. } | Boot::Waiting) => {}
            Phase::Booting(Boot::Unanswered) => {
                self.enter(now, id, Phase::Booting(Boot::Observing { asked: None }))
            }
            // A failed model keeps its cool-down; only what it holds is known better now.
            Phase::Failed { .. } => {}
            Phase::Booting(
                Boot::Starting(_)
                | Boot::Started
                | Boot::Sleeping(_)
                | Boot::Slept
                | Boot::Waking(_),
            ) => {
                let error = ActionError {
                    cause: format!("the engine died: {cause}"),
                    engine: EngineState::Gone,
                    no_room: false,
                };
                self.wake_failed(now, id, Failure::Start, error, effects);
            }
            Phase::Asleep
            | Phase::Queued
            | Phase::Waking { .. }
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
        state.engine.last_error = Some(message.clone());
        let cause = if state.spec.caps.restartable {
            state
                .engine
                .restarts
                .retain(|at| now.since(*at) < RESTARTS_WITHIN);
            state.engine.restarts.push(now);
            (state.engine.restarts.len() > RESTARTS).then(|| {
                format!(
                    "{message}; {RESTARTS} restarts in {RESTARTS_WITHIN} were not enough. See its log, then wake it by hand"
                )
            })
        } else {
            Some(format!("{message}; start it again"))
        };
        if let Some(cause) = cause {
            // Whoever starts it again must not have it displace others anew for every wake in which it dies.
            if matches!(state.phase, Phase::Waking { .. }) {
                state.engine.cools_until = now + state.engine.failed_again();
            }
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
        state.leave_in_doubt(now);
        state.engine.resident = Resident::Awake;
        if state.spec.caps.restartable {
            self.kill(id, cause.to_owned(), effects);
            self.died_in_service(now, id, cause, effects);
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

    /// Ends an engine's process. Its memory counts as held until it is gone.
    pub(crate) fn kill(&mut self, id: &ModelId, cause: String, effects: &mut Vec<Effect>) {
        let attempt = self.next_attempt();
        effects.push(Effect::Kill {
            model: id.clone(),
            attempt,
            cause,
        });
        if let Some(state) = self.models.get_mut(id) {
            state.engine.ending = Some(attempt);
        }
    }
}
