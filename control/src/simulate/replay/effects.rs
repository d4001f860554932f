//! What the core asks for, done in virtual time: rows go to the gate, commands to engines, looks are answered at once.

use greenthread_core::{
    effect::{Effect, PublishedRow},
    event::{Event, Memory, Observation},
    ids::{Attempt, Millis, ModelId},
    model::SleepMode,
    phase::Tier,
};

use super::{Action, Happening, Replay, STREAM};
use crate::simulate::gate::Settled;

impl Replay<'_> {
    pub(super) fn perform(&mut self, now: Millis, effect: Effect) {
        match effect {
            Effect::Publish(row) => self.published(now, &row),
            Effect::SendSnapshot { rows, .. } => {
                for row in &rows {
                    self.published(now, row);
                }
            }
            Effect::Observe { model, attempt } => self.look(model, attempt),
            Effect::Start { model, attempt } => {
                self.begin_action(now, &model, attempt, Action::Start)
            }
            Effect::Wake {
                model,
                attempt,
                tier,
            } => self.begin_action(now, &model, attempt, Action::Wake(tier)),
            Effect::Sleep {
                model,
                attempt,
                mode,
                tier: _,
            } => {
                self.go_to_sleep(now, &model, mode);
                self.begin_action(now, &model, attempt, Action::Sleep);
            }
            Effect::Kill {
                model,
                attempt,
                cause,
            } => self.kill(now, model, attempt, cause),
            Effect::Heartbeat { .. }
            | Effect::CloseStream { .. }
            | Effect::Removed { .. }
            | Effect::Dropped(_)
            | Effect::Record(_)
            | Effect::RaiseTerm { .. }
            | Effect::Footprint { .. } => {}
        }
    }

    fn published(&mut self, now: Millis, row: &PublishedRow) {
        let Some(model) = self.numbers.get(&row.model).copied() else {
            return;
        };
        self.meter.published(now, model, row);
        let Settled {
            released,
            refused,
            barrier,
        } = self.gate.publish(now, model, row);
        if let Some(epoch) = barrier {
            let ack = Event::Ack {
                gate: self.gate_id.clone(),
                stream: STREAM,
                sequence: self.next_sequence(),
                model: row.model.clone(),
                epoch,
                in_flight: self.gate.in_flight(model),
            };
            self.last_said = now;
            self.said.push_back(ack);
        }
        let changed = !released.is_empty() || !refused.is_empty();
        for request in released {
            self.forward(now, request);
        }
        for (request, refusal, seconds) in refused {
            self.refuse(now, request, refusal, seconds);
        }
        if changed {
            self.report(now, Some(model));
        }
    }

    fn look(&mut self, model: ModelId, attempt: Attempt) {
        let Some(engine) = self
            .numbers
            .get(&model)
            .map(|number| &self.engines[*number])
        else {
            return;
        };
        let observation = Observation {
            state: engine.state(),
            count: Some(engine.inside() as u64),
            memory: Memory::default(),
            tier: None,
        };
        self.said.push_back(Event::Observed {
            model,
            attempt,
            observation,
        });
    }

    fn begin_action(&mut self, now: Millis, model: &ModelId, attempt: Attempt, action: Action) {
        let Some(model) = self.numbers.get(model).copied() else {
            return;
        };
        let takes = self.setting.models[model].takes;
        let took = self.vary(match action {
            Action::Start => takes.start,
            Action::Wake(Tier::Ram) => takes.wake,
            Action::Wake(Tier::Disk) => takes.reload,
            Action::Wake(Tier::Stopped) => takes.start,
            Action::Sleep => takes.sleep,
        });
        let done = Happening::Done {
            model,
            attempt,
            action,
            took: took.0,
        };
        self.later(now + took, done);
    }

    fn go_to_sleep(&mut self, now: Millis, model: &ModelId, mode: SleepMode) {
        let Some(model) = self.numbers.get(model).copied() else {
            return;
        };
        match mode {
            SleepMode::Keep => self.engines[model].freeze(now),
            SleepMode::Abort => {
                for request in self.engines[model].abort(now) {
                    self.cut_off(now, model, request);
                }
            }
        }
        self.meter.busy(now, model, false);
    }

    fn kill(&mut self, now: Millis, id: ModelId, attempt: Attempt, cause: String) {
        if let Some(model) = self.numbers.get(&id).copied() {
            for request in self.engines[model].gone(now) {
                self.cut_off(now, model, request);
            }
            self.meter.busy(now, model, false);
            self.said.push_back(Event::EngineGone {
                model: id,
                attempt: Some(attempt),
                cause,
            });
        }
    }

    pub(super) fn cut_off(&mut self, now: Millis, model: usize, request: usize) {
        self.meter.cut += 1;
        self.close(request);
        self.gate.end(now, model);
        self.report(now, Some(model));
    }

    /// A duration with its deviation.
    fn vary(&mut self, duration: Millis) -> Millis {
        if self.habits.vary <= 0.0 {
            return duration;
        }
        let chance = self.dice.below(2_000_001) as f64 / 1_000_000.0 - 1.0;
        let varied = duration.0 as f64 * (1.0 + chance * self.habits.vary);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a duration, never below zero"
        )]
        Millis(varied.max(0.0).round() as u64)
    }
}
