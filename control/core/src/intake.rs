//! What an event means: gates are heard, engines' outcomes passed on, wishes of operators noted. Time passes elsewhere.

use crate::{
    Core,
    effect::Effect,
    event::{Event, Figures, Observation, Operator, Outcome},
    figures::News,
    ids::{Attempt, GateId, Millis, ModelId, StreamId},
    model::{ModelSpec, Source},
    models::Slot,
    phase::{Boot, Count, Failure, Phase},
    state::ModelState,
};

/// Who was told when to come back may be so late.
const COMES_BACK_WITHIN: Millis = Millis(2_000);

/// What the end of an action means for its model.
type Meaning = fn(&mut Core, Millis, &ModelId, Attempt, Outcome, &mut Vec<Effect>);

impl Core {
    /// What an event means. Returns the gate that is owed a heartbeat, with the sequence number to echo.
    pub(crate) fn take(
        &mut self,
        now: Millis,
        event: Event,
        effects: &mut Vec<Effect>,
    ) -> Option<(GateId, u64)> {
        let sender = self.heard(now, &event, effects);
        match event {
            Event::Tick
            | Event::Hello { .. }
            | Event::Report { .. }
            | Event::Ack { .. }
            | Event::Bye { .. }
            | Event::StreamClosed { .. } => {}
            Event::Observed {
                model,
                attempt,
                observation,
            } => {
                let seen = Observation {
                    memory: self.per_gpu(&model, observation.memory),
                    ..observation
                };
                self.looked(now, &model, attempt, &seen, effects);
            }
            Event::Started {
                model,
                attempt,
                outcome,
            } => self.ended(now, &model, attempt, outcome, Self::started, effects),
            Event::Woke {
                model,
                attempt,
                outcome,
            } => self.ended(now, &model, attempt, outcome, Self::woke, effects),
            Event::Slept {
                model,
                attempt,
                outcome,
            } => self.ended(now, &model, attempt, outcome, Self::slept, effects),
            Event::EngineGone {
                model,
                attempt,
                cause,
            } => {
                // The end of a former life, or of a process that was ended before, says nothing of the one that runs now.
                let ending = self
                    .models
                    .get(&model)
                    .and_then(|state| state.engine.ending);
                let counts = attempt.is_none() || attempt == ending;
                if sabotage!(OldEndCounts, true, counts) {
                    self.engine_gone(now, &model, &cause, effects);
                }
            }
            Event::GpuRead { gpu, used } => self.gpu_read(now, gpu, used, effects),
            Event::GpuAccepted(gpu) => self.gpu_accepted(now, gpu, effects),
            Event::ModelSet(spec) => self.set_model(now, *spec),
            Event::ModelRemoved(model) => {
                if let Some(state) = self.models.get_mut(&model) {
                    state.operator.removing = true;
                }
            }
            Event::Operator { model, verb } => self.operator(now, &model, verb, effects),
            Event::Deposed => sabotage!(DeposedGoesOn, (), self.depose(effects)),
            Event::TermRaised(term) => self.raise_term(now, term, effects),
        }
        sender
    }

    /// An action on an engine ended: what it took of memory counts for each of its GPUs, and is kept where it is new.
    fn ended(
        &mut self,
        now: Millis,
        id: &ModelId,
        attempt: Attempt,
        outcome: Outcome,
        means: Meaning,
        effects: &mut Vec<Effect>,
    ) {
        let (outcome, before) = self.outcome_per_gpu(id, outcome);
        means(self, now, id, attempt, outcome, effects);
        self.keep_sizes(id, before, effects);
    }

    /// What gates say. Returns the gate whose message counts and is to be echoed.
    fn heard(
        &mut self,
        now: Millis,
        event: &Event,
        effects: &mut Vec<Effect>,
    ) -> Option<(GateId, u64)> {
        let (gate, stream, sequence) = event.sender()?;
        if let Event::Hello {
            largest_term,
            figures,
            ..
        } = event
        {
            let gate = (gate, stream, sequence);
            self.greeted(now, gate, *largest_term, figures, effects);
            return None;
        }
        if let Event::StreamClosed { .. } = event {
            self.gates.closed(gate, stream);
            return None;
        }
        let was_fenced = self.gates.is_fenced(gate);
        if !self.gates.accepts(now, gate, stream, sequence) {
            sabotage!(OlderAcknowledgementCounts, self.acknowledged(event));
            return None;
        }
        if was_fenced {
            self.waits_again_for(gate);
        }
        if let Event::Report {
            table_version,
            figures,
            ..
        } = event
        {
            let figures = self.by_slot(figures);
            let changed = self.gates.report(now, gate, *table_version, &figures);
            changed.iter().for_each(|slot| self.models.touch(*slot));
            self.take_moments(now, gate, &figures);
        }
        self.acknowledged(event);
        if let Event::Bye { .. } = event {
            let known = self.gates.known_to(gate);
            self.gates.bye(gate);
            known.iter().for_each(|slot| self.models.touch(*slot));
            self.touch_draining();
            return None;
        }
        Some((gate.clone(), sequence))
    }

    /// A gate begins a stream: with what it has and holds, and with the largest term that it has met.
    fn greeted(
        &mut self,
        now: Millis,
        (gate, stream, sequence): (&GateId, StreamId, u64),
        largest_term: u64,
        figures: &[(ModelId, Figures)],
        effects: &mut Vec<Effect>,
    ) {
        let figures = self.by_slot(figures);
        let (known, alive) = (self.gates.known_to(gate), self.gates.any_alive());
        let to_close = self.gates.hello(now, gate, stream, sequence, &figures);
        let listed = figures.iter().map(|(slot, _)| slot);
        known
            .iter()
            .chain(listed)
            .for_each(|slot| self.models.touch(*slot));
        self.touch_draining();
        if !alive {
            // The first gate: idleness can be seen from here on.
            self.models.touch_all();
        }
        effects.extend(to_close.map(|stream| Effect::CloseStream {
            gate: gate.clone(),
            stream,
        }));
        if to_close == Some(stream) {
            return;
        }
        self.take_moments(now, gate, &figures);
        self.take_waits(now, &figures);
        if largest_term > self.fleet.term {
            // Rule 12: raise our own by a write under the lock, or exit; until then nothing is said to this gate.
            effects.push(Effect::RaiseTerm {
                at_least: largest_term,
            });
            effects.push(Effect::CloseStream {
                gate: gate.clone(),
                stream,
            });
            self.gates.closed(gate, stream);
        }
    }

    /// The gate has applied a barrier. Whether it is the running one is asked later.
    fn acknowledged(&mut self, event: &Event) {
        if let Event::Ack {
            gate,
            model,
            epoch,
            in_flight,
            ..
        } = event
        {
            let slot = self.slot_for(model);
            self.gates.acknowledge(gate, slot, *epoch, *in_flight);
            self.models.touch(slot);
        }
    }

    /// The slot of a row that a gate names. What is known of another may have to be forgotten for it.
    fn slot_for(&mut self, id: &ModelId) -> Slot {
        let (slot, forgotten) = self.models.slot_for(id);
        if let Some(forgotten) = forgotten {
            self.gates.forget_model(forgotten);
        }
        slot
    }

    fn by_slot<'a>(&mut self, figures: &'a [(ModelId, Figures)]) -> Vec<(Slot, &'a Figures)> {
        let figures = figures.iter();
        figures
            .map(|(id, figures)| (self.slot_for(id), figures))
            .collect()
    }

    fn depose(&mut self, effects: &mut Vec<Effect>) {
        // Rule 10: stop transitions, then heartbeats, close every stream.
        self.deposed = true;
        let open = self.gates.close_all().into_iter();
        effects.extend(open.map(|(gate, stream)| Effect::CloseStream { gate, stream }));
    }

    fn set_model(&mut self, now: Millis, spec: ModelSpec) {
        match self.models.get_mut(&spec.id) {
            Some(state) if !matches!(state.phase, Phase::Removed { .. }) => {
                // What was measured stays until something else is declared; the operator's settings are the new ones.
                let conditioned = state.spec.conditioned;
                let declared = (spec.awake, spec.asleep);
                let (awake, asleep) = if conditioned && declared == state.declared {
                    (state.spec.awake, state.spec.asleep)
                } else {
                    declared
                };
                // A reload may have mended what failed; a word about what the engine can do has not.
                let mended = state.spec.caps == spec.caps && spec.caps.restartable;
                if let Phase::Failed {
                    failure: Failure::Wake | Failure::Start | Failure::Engine,
                    retry_at,
                } = &mut state.phase
                    && mended
                {
                    *retry_at = Some(now);
                }
                state.declared = declared;
                // What wakes were measured to take says nothing of starts.
                if spec.sizes.waking.source != Source::Measured {
                    state.engine.start_peak_guess = spec.sizes.waking.bytes;
                }
                state.spec = ModelSpec {
                    conditioned: conditioned || spec.conditioned,
                    awake,
                    asleep,
                    ..spec
                };
                state.operator.removing = false;
                state.settings += 1;
            }
            Some(left) => {
                // What is left of its former life holds its memory until it has ended.
                let mut state = ModelState::new(spec, now);
                if left.engine.ending.is_some() {
                    (state.engine.resident, state.engine.ending) =
                        (left.engine.resident, left.engine.ending);
                    (state.engine.copy, state.engine.host_kept) =
                        (left.engine.copy, left.engine.host_kept);
                    state.phase = Phase::Booting(Boot::Waiting);
                }
                self.models.insert(state);
            }
            None => self.models.insert(ModelState::new(spec, now)),
        }
    }

    fn operator(&mut self, now: Millis, id: &ModelId, verb: Operator, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match verb {
            Operator::Wake => {
                // Where it serves already the wish is fulfilled, and counts as use; it must not keep the model awake for ever. Out of
                // service it cannot be, and is told so; whoever enables it later did not ask for it.
                let serves = matches!(state.phase, Phase::Serving);
                let disabled = state.operator.disabled;
                (state.operator.wants, state.operator.sleeps) = (!serves && !disabled, false);
                state.asked.last_used = state.asked.last_used.max(Some(now));
                if let Phase::Failed {
                    failure: Failure::Wake | Failure::Start | Failure::Engine,
                    retry_at,
                } = &mut state.phase
                {
                    *retry_at = Some(now);
                }
                let sentence = if disabled {
                    "an operator asked for it to wake, which it does not while it is out of service"
                } else {
                    "an operator asked for it to wake"
                };
                self.record(now, id, sentence, effects);
            }
            Operator::Sleep => {
                // Where it sleeps already the wish is fulfilled; it must not meet the next request for the model. A pinned model would
                // wake again by itself: for it the wish holds until somebody asks.
                let sleeps = matches!(state.phase, Phase::Asleep | Phase::Queued);
                (state.operator.wants, state.operator.sleeps) =
                    (false, !sleeps || state.spec.pinned);
                self.record(now, id, "an operator asked for it to sleep", effects);
            }
            Operator::Disable => {
                (state.operator.wants, state.operator.disabled) = (false, true);
                self.record(now, id, "taken out of service by an operator; requests get 503 `disabled` until it is enabled", effects);
            }
            Operator::Enable => {
                state.operator.disabled = false;
                self.record(now, id, "back in service by an operator", effects);
            }
        }
    }

    fn raise_term(&mut self, now: Millis, term: u64, effects: &mut Vec<Effect>) {
        if term <= self.fleet.term {
            return;
        }
        (self.fleet.term, self.counter, self.term_since) = (term, 0, now);
        let ids: Vec<ModelId> = self
            .models
            .values()
            .map(|state| state.spec.id.clone())
            .collect();
        for id in ids {
            let Some(state) = self.models.get_mut(&id) else {
                continue;
            };
            // Every epoch is of the new term; running barriers are acknowledged again under theirs, and engines counted after that.
            state.told.published = None;
            if let Phase::Draining { count, .. } = &mut state.phase {
                *count = Count::NotYet;
            }
        }
        // The successor's wait begins anew, for every queue too.
        self.places.mark_all();
        effects.extend(
            self.gates
                .close_all()
                .into_iter()
                .map(|(gate, stream)| Effect::CloseStream { gate, stream }),
        );
    }

    /// Use and refused wishes, as a gate reported them.
    fn take_moments(&mut self, now: Millis, gate: &GateId, figures: &[(Slot, &Figures)]) {
        for (slot, _) in figures {
            let News {
                used,
                refused,
                asked,
            } = self.gates.take_news(gate, *slot);
            let newer = |state: &ModelState| {
                used > state.asked.last_used || refused > state.asked.last_refused
            };
            let known = self.models.at(*slot);
            if !known.is_some_and(|state| asked > 0 || newer(state)) {
                continue;
            }
            if let Some(state) = self.models.at_mut(*slot) {
                if asked > 0 {
                    let at = used.max(refused).unwrap_or(now);
                    state.asked.demand.arrived(at, asked);
                    self.forecast.arrived(&state.spec.id, at, asked);
                }
                if let Some(at) = refused.filter(|_| refused > state.asked.last_refused) {
                    let told = Millis::seconds(u64::from(state.asked.retry_after));
                    state.asked.back_by = state.asked.back_by.max(at + told + COMES_BACK_WITHIN);
                }
                state.asked.last_used = state.asked.last_used.max(used);
                state.asked.last_refused = state.asked.last_refused.max(refused);
            }
        }
    }

    /// A gate that begins a stream tells how long it has held requests: after a restart of control who waited before it is first. Not once a
    /// model has served in this life, which lets everybody go who waited until then.
    fn take_waits(&mut self, now: Millis, figures: &[(Slot, &Figures)]) {
        for (slot, figures) in figures.iter().filter(|(_, figures)| figures.held > 0) {
            let known = self.models.at(*slot);
            if known.is_some_and(|state| state.served_at.is_none())
                && let Some(state) = self.models.at_mut(*slot)
            {
                let since = now.since(Millis(figures.oldest_age));
                let before = state.asked.held_since.unwrap_or(since);
                state.asked.held_since = Some(before.min(since));
            }
        }
    }
}
