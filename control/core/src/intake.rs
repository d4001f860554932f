//! What an event means: gates are heard, engines' outcomes passed on, wishes of operators noted. Time passes elsewhere.

use crate::{
    Core,
    effect::Effect,
    event::{Event, Operator},
    ids::{GateId, Millis, ModelId},
    model::ModelSpec,
    phase::{Failure, Phase},
    state::ModelState,
};

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
            } => self.observed(now, &model, attempt, &observation, effects),
            Event::Started {
                model,
                attempt,
                outcome,
            } => self.started(now, &model, attempt, outcome, effects),
            Event::Woke {
                model,
                attempt,
                outcome,
            } => self.woke(now, &model, attempt, outcome, effects),
            Event::Slept {
                model,
                attempt,
                outcome,
            } => self.slept(now, &model, attempt, outcome, effects),
            Event::EngineGone { model, cause } => self.engine_gone(now, &model, &cause, effects),
            Event::ModelSet(spec) => self.set_model(now, *spec),
            Event::ModelRemoved(model) => {
                if let Some(state) = self.models.get_mut(&model) {
                    state.removing = true;
                }
            }
            Event::Operator { model, verb } => self.operator(now, &model, verb, effects),
            Event::Deposed => self.depose(effects),
            Event::TermRaised(term) => self.raise_term(now, term, effects),
        }
        sender
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
            self.gates.hello(now, gate, stream, sequence, figures);
            self.take_moments();
            if *largest_term > self.fleet.term {
                // Rule 12: raise our own by a write under the lock, or exit; until then nothing is said to this gate.
                effects.push(Effect::RaiseTerm {
                    at_least: *largest_term,
                });
                effects.push(Effect::CloseStream {
                    gate: gate.clone(),
                    stream,
                });
                self.gates.closed(gate, stream);
            }
            return None;
        }
        if let Event::StreamClosed { .. } = event {
            self.gates.closed(gate, stream);
            return None;
        }
        if !self.gates.accepts(now, gate, stream, sequence) {
            return None;
        }
        if let Event::Report {
            table_version,
            figures,
            ..
        } = event
        {
            self.gates.report(now, gate, *table_version, figures);
            self.take_moments();
        }
        if let Event::Ack {
            model,
            epoch,
            in_flight,
            ..
        } = event
        {
            self.gates.acknowledge(gate, model, *epoch, *in_flight);
        }
        if let Event::Bye { .. } = event {
            self.gates.bye(gate);
            return None;
        }
        Some((gate.clone(), sequence))
    }

    fn depose(&mut self, effects: &mut Vec<Effect>) {
        // Rule 10: stop transitions, then heartbeats, close every stream.
        self.deposed = true;
        self.deadline = None;
        let open = self.gates.close_all().into_iter();
        effects.extend(open.map(|(gate, stream)| Effect::CloseStream { gate, stream }));
    }

    fn set_model(&mut self, now: Millis, spec: ModelSpec) {
        match self.models.get_mut(&spec.id) {
            Some(state) if !matches!(state.phase, Phase::Removed { .. }) => {
                // What was measured stays; the operator's settings are the new ones.
                let conditioned = state.spec.conditioned;
                let (awake, asleep) = if conditioned {
                    (state.spec.awake, state.spec.asleep)
                } else {
                    (spec.awake, spec.asleep)
                };
                state.spec = ModelSpec {
                    conditioned: conditioned || spec.conditioned,
                    awake,
                    asleep,
                    ..spec
                };
                state.removing = false;
            }
            Some(_) | None => {
                self.models
                    .insert(spec.id.clone(), ModelState::new(spec, now));
            }
        }
    }

    fn operator(&mut self, now: Millis, id: &ModelId, verb: Operator, effects: &mut Vec<Effect>) {
        let Some(state) = self.models.get_mut(id) else {
            return;
        };
        match verb {
            Operator::Wake => {
                (state.operator_wants, state.operator_sleeps) = (true, false);
                if let Phase::Failed {
                    failure: Failure::Wake | Failure::Start | Failure::Engine,
                    retry_at,
                } = &mut state.phase
                {
                    *retry_at = Some(now);
                }
                self.record(now, id, "an operator asked for it to wake", effects);
            }
            Operator::Sleep => {
                // Where it sleeps already the wish is fulfilled; it must not meet the next request for the model.
                let sleeps = matches!(state.phase, Phase::Asleep | Phase::Queued);
                (state.operator_wants, state.operator_sleeps) = (false, !sleeps);
                self.record(now, id, "an operator asked for it to sleep", effects);
            }
            Operator::Disable => {
                (state.operator_wants, state.disabled) = (false, true);
                self.record(now, id, "taken out of service by an operator; requests get 503 `disabled` until it is enabled", effects);
            }
            Operator::Enable => {
                state.disabled = false;
                self.record(now, id, "back in service by an operator", effects);
            }
        }
    }

    fn raise_term(&mut self, now: Millis, term: u64, effects: &mut Vec<Effect>) {
        if term <= self.fleet.term {
            return;
        }
        (self.fleet.term, self.counter, self.term_since) = (term, 0, now);
        for state in self.models.values_mut() {
            // Every epoch is of the new term; running barriers are acknowledged again under theirs.
            state.published = None;
        }
        effects.extend(
            self.gates
                .close_all()
                .into_iter()
                .map(|(gate, stream)| Effect::CloseStream { gate, stream }),
        );
    }

    /// Use and refused wishes, as the gates reported them.
    fn take_moments(&mut self) {
        for (id, state) in &mut self.models {
            let (used, refused) = self.gates.moments(id);
            state.last_used = state.last_used.max(used);
            state.last_refused = state.last_refused.max(refused);
        }
    }
}
