//! What is seen of engines without touching them: when they are looked at (the first look of a life, and every second from then on:
//! rule 8 and S7), and what follows from it.

use crate::{
    Core,
    effect::Effect,
    event::{EngineState, Memory, Observation},
    ids::{Attempt, Bytes, Millis, ModelId},
    ledger::SHOWS_WITHIN,
    phase::{Boot, Count, Failure, Phase, Tier},
    state::{ModelState, Resident},
};

/// A look that was not answered for so long is asked for again; also the time-out of the first look.
pub(crate) const OBSERVE_TIMEOUT: Millis = Millis(5_000);
/// Looks without an answer, three quarters of a minute by default, before an engine that control may restart is ended: a server that is only
/// overloaded still has requests in it.
pub(crate) const UNANSWERED_LOOKS: u32 = 15;
/// The longest wake by default. An engine that an earlier life left without an answer may take so long to end what it was told.
pub(crate) const LONGEST_WAKE: Millis = Millis(120_000);
/// Why a broken engine is ended.
pub(crate) const BROKEN: &str =
    "it says that it is dead, or that it sleeps and computes: its memory is undefined";

impl Core {
    /// Asks for a look at the engine when one is due.
    pub(crate) fn look(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
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
            | Phase::Failed { .. } => self.look_again(now, id, effects),
            Phase::Booting(_)
            | Phase::Waking { .. }
            | Phase::Sleeping { .. }
            | Phase::Removed { .. } => {}
        }
    }

    /// Every second, or once a look that was asked for is overdue.
    fn look_again(&mut self, now: Millis, id: &ModelId, effects: &mut Vec<Effect>) {
        let due = |state: &ModelState| match state.engine.observing {
            Some((_, at)) => at + OBSERVE_TIMEOUT,
            None => state.engine.observe_at,
        };
        if self.models.get(id).is_some_and(|state| now >= due(state)) {
            let attempt = self.ask(id, effects);
            if let Some(state) = self.models.get_mut(id) {
                state.engine.observing = Some((attempt, now));
            }
            // What others did meanwhile changes what a request would have to wait for.
            self.update_estimate(now, id);
        }
        let next = self.models.get(id).map(due);
        self.wake_at(next);
    }

    /// Asks for a look at the engine. Returns its attempt.
    pub(crate) fn ask(&mut self, id: &ModelId, effects: &mut Vec<Effect>) -> Attempt {
        let attempt = self.next_attempt();
        effects.push(Effect::Observe {
            model: id.clone(),
            attempt,
        });
        attempt
    }

    /// The answer to a look. One that shows nothing new changes nothing but when the next is due.
    pub(crate) fn looked(
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
        if state.engine.ending.is_some() {
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
            && sabotage!(AnyLookCounts, true, asked == attempt)
        {
            self.count_answered(now, id, seen, effects);
            return;
        }
        if state
            .engine
            .observing
            .is_none_or(|(asked, _)| asked != attempt)
        {
            return;
        }
        self.looked_again(now, id, seen, effects);
    }

    /// The answer to one of the looks of every second.
    fn looked_again(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        #[cfg(feature = "sabotage")]
        {
            state.engine.cached_count = seen.count;
        }
        (state.engine.observing, state.engine.observe_at) = (None, now + self.fleet.times.observe);
        if state.is_resolved_by(now, seen, self.fleet.times.command) {
            state.resolve();
        }
        state.seen_in_host(seen);
        self.seen_at_rest(now, id, seen, effects);
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        state.engine.unanswered = if seen.state == EngineState::Unresponsive {
            state.engine.unanswered + 1
        } else {
            0
        };
        let says = seen.count.is_some() && seen.state != EngineState::Unresponsive;
        state.engine.unsaid = if says { 0 } else { state.engine.unsaid + 1 };
        match &state.phase {
            Phase::Serving | Phase::Draining { .. } => {
                self.observed_in_service(now, id, seen, effects)
            }
            Phase::Asleep | Phase::Queued => self.observed_asleep(now, id, seen, effects),
            Phase::Booting(Boot::Unanswered) => self.first_look(now, id, seen, effects),
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

    /// What an engine holds that has served, or slept, for a while is what it takes then, whatever was declared or measured before: it
    /// may have been found so, or have grown.
    fn seen_at_rest(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let tolerance = self.fleet.tolerance;
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        if now < state.since + SHOWS_WITHIN || state.engine.in_doubt.is_some() {
            return;
        }
        let (awake, asleep) = (state.spec.awake, state.spec.asleep);
        let new = match (&state.phase, seen.state) {
            (Phase::Serving, EngineState::Awake) => {
                // Where nobody measures it now, what was found is all that is known.
                if seen.memory.gpu.is_some() {
                    state.engine.found_awake = Bytes(0);
                }
                let new = state.seen_awake(seen.memory, tolerance);
                new.map(|new| (new, "while awake", awake))
            }
            (Phase::Asleep | Phase::Queued, EngineState::Asleep) => {
                let new = state.seen_left(seen.memory, tolerance);
                new.map(|new| (new, "while it sleeps", asleep))
            }
            _ => None,
        };
        if let Some((holds, when, before)) = new {
            let sentence = format!("holds {holds} {when}, not {before}: corrected");
            effects.push(Effect::Footprint { model: id.clone() });
            self.record(now, id, sentence, effects);
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
        state.seen_in_host(seen);
        state.engine.adopted = matches!(seen.state, EngineState::Awake | EngineState::Asleep);
        state.engine.ready_earlier = state.engine.adopted || state.spec.conditioned;
        let restartable = state.spec.caps.restartable;
        match seen.state {
            EngineState::Unresponsive if now.since(self.leader_since) < LONGEST_WAKE => {
                if state.phase != Phase::Booting(Boot::Unanswered) {
                    state.engine.resident = Resident::Awake;
                    self.enter(now, id, Phase::Booting(Boot::Unanswered));
                    self.record(
                        now,
                        id,
                        "does not answer yet: it may still do what it was told before this control started",
                        effects,
                    );
                }
            }
            EngineState::Awake => {
                self.found_awake(now, id, seen, effects);
            }
            EngineState::Asleep => {
                let left = seen.memory.gpu.unwrap_or(state.spec.asleep);
                state.engine.resident = Resident::Asleep(left);
                state.engine.copy = seen.tier.unwrap_or(Tier::Ram);
                self.note_inside(now, id, seen.count.unwrap_or(0));
                self.enter(now, id, Phase::Asleep);
                self.record(now, id, "found asleep", effects);
            }
            EngineState::Gone if restartable => {
                state.engine.resident = Resident::Stopped;
                self.enter(now, id, Phase::Booting(Boot::Waiting));
            }
            EngineState::Broken | EngineState::Unresponsive if restartable => {
                state.engine.resident = Resident::Awake;
                let cause = format!("found {:?} at first contact", seen.state);
                self.kill(id, cause, effects);
                self.enter(now, id, Phase::Booting(Boot::Waiting));
            }
            EngineState::Gone | EngineState::Broken | EngineState::Unresponsive => {
                let gone = seen.state == EngineState::Gone;
                state.engine.resident = if gone {
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

    /// It serves, and what it holds is not free (S4): that is reserved at once where it is more than is known, though it may be the rest of a
    /// peak and counts as what it takes only when it was seen at rest.
    fn found_awake(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        let tolerance = self.fleet.tolerance;
        if let Some(state) = self.models.get_mut(id) {
            state.engine.resident = Resident::Awake;
        }
        self.enter(now, id, Phase::Serving);
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        // It has been awake since before this life: its min_runtime is not begun again.
        state.served_at = Some(Millis(now.since(state.spec.min_runtime).0));
        let (found, known) = (seen.memory.gpu.unwrap_or_default(), state.spec.awake);
        state.engine.found_awake = found;
        let more = if found.less(known) > tolerance {
            format!("; it holds {found}, not {known}: that much is reserved")
        } else {
            String::new()
        };
        self.record(now, id, format!("found awake, serving{more}"), effects);
    }

    /// The first look got no answer.
    pub(crate) fn first_look_timed_out(
        &mut self,
        now: Millis,
        id: &ModelId,
        effects: &mut Vec<Effect>,
    ) {
        let seen = Observation {
            state: EngineState::Unresponsive,
            count: None,
            memory: Memory::default(),
            tier: None,
        };
        self.first_look(now, id, &seen, effects);
    }

    /// What a look shows of an engine that serves or drains.
    pub(crate) fn observed_in_service(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: &Observation,
        effects: &mut Vec<Effect>,
    ) {
        // It sleeps without a drain, and no gate was waited for.
        let sends_for = self.models.get(id).map(|state| self.sends_for(state));
        let follows_until = now + sends_for.unwrap_or_default();
        let inside = seen.count.unwrap_or(0).max(self.in_flight(id));
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        let slept = matches!(state.engine.resident, Resident::Asleep(_));
        match seen.state {
            EngineState::Awake => {}
            EngineState::Asleep if sabotage!(FoundAsleepStays, true, false) => {}
            // It slept when its removal began.
            EngineState::Asleep if slept && inside == 0 => {}
            EngineState::Asleep => {
                // Rule 8: a late command put it to sleep. What is inside is demand; it is woken the normal way.
                state.seen_asleep(seen.memory);
                state.engine.copy = seen.tier.unwrap_or(Tier::Ram);
                state.engine.follows_until = follows_until;
                self.note_inside(now, id, inside);
                self.enter(now, id, Phase::Asleep);
                self.record(
                    now,
                    id,
                    "found asleep while in service (a late command, or somebody else's); its requests wait and it is woken the normal way",
                    effects,
                );
            }
            EngineState::Gone | EngineState::Broken | EngineState::Unresponsive => {
                self.observed_lost(now, id, seen.state, effects);
            }
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
                state.seen_asleep(seen.memory);
                state.engine.copy = seen.tier.unwrap_or(state.engine.copy);
                // S7: what is inside a sleeping engine is demand. Of one without a count only gates know, and it keeps what it has.
                let (slot, caps) = (state.slot, state.spec.caps);
                let inside = match seen.count {
                    Some(count) => count,
                    None if caps.lossless && !caps.counts => self.gates.in_flight(slot),
                    None => state.engine.inside,
                };
                self.note_inside(now, id, inside);
            }
            EngineState::Awake => {
                state.engine.resident = Resident::Awake;
                self.enter(now, id, Phase::Serving);
                self.record(
                    now,
                    id,
                    "found awake though it should sleep (somebody woke it); it serves, and makes room the normal way",
                    effects,
                );
            }
            EngineState::Gone | EngineState::Broken | EngineState::Unresponsive => {
                self.observed_lost(now, id, seen.state, effects);
            }
        }
    }

    /// An engine that should answer does not, or contradicts itself.
    fn observed_lost(
        &mut self,
        now: Millis,
        id: &ModelId,
        seen: EngineState,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.models.get(id) else {
            return;
        };
        let patience = sabotage!(UnansweredOnceIsDead, 1, UNANSWERED_LOOKS);
        let given_up = state.engine.unanswered >= patience && state.spec.caps.restartable;
        match seen {
            EngineState::Gone => self.engine_gone(now, id, "it refuses connections", effects),
            EngineState::Broken => self.end_engine(now, id, BROKEN, effects),
            EngineState::Unresponsive if given_up => {
                self.end_engine(now, id, "it has not answered for several looks", effects);
            }
            EngineState::Unresponsive | EngineState::Awake | EngineState::Asleep => {}
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
        let cools_until = state.engine.cools_until;
        match seen.state {
            EngineState::Awake => state.engine.resident = Resident::Awake,
            EngineState::Asleep => state.seen_asleep(seen.memory),
            EngineState::Gone => state.engine.resident = Resident::Stopped,
            EngineState::Broken | EngineState::Unresponsive => return,
        }
        if seen.state == EngineState::Asleep {
            let inside = seen.count.unwrap_or(state.engine.inside);
            self.note_inside(now, id, inside);
        }
        // A failed wake cools down whatever the engine says; an engine that was away is taken back when it answers.
        match (failure, seen.state) {
            (Failure::Engine, EngineState::Awake) => {
                self.enter(now, id, Phase::Serving);
                self.record(now, id, "the engine answers again, serving", effects);
            }
            // Somebody woke what never fits: as out of service it would hold its memory for ever.
            (Failure::NeverFits, EngineState::Awake) => {
                self.enter(now, id, Phase::Serving);
                self.record(
                    now,
                    id,
                    "found awake though it never fits (somebody woke it); it serves, and makes room the normal way",
                    effects,
                );
            }
            (Failure::Engine, EngineState::Asleep) if now < cools_until => {
                let retry_at = Some(cools_until);
                let failure = Failure::Wake;
                self.enter(now, id, Phase::Failed { failure, retry_at });
                let sentence = format!(
                    "the engine answers again, asleep; it died in its last wake, and the next try is in {} at the earliest",
                    cools_until.since(now)
                );
                self.record(now, id, sentence, effects);
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
                | EngineState::Unresponsive,
            ) => {}
        }
    }
}
