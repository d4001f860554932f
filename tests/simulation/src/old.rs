//! Outcomes of old attempts, told late or twice, with their result or another: none of them changes anything.

use greenthread_core::{
    event::{ActionError, EngineState, Event, Memory, Observation, Outcome},
    ids::{Attempt, ModelId},
};

use crate::{agenda::Order, fault::Fault, world::World};

impl World {
    /// An outcome is told again, as it was or with another result; and what is under way ends as another attempt than the running one.
    pub(crate) fn old_outcome(&mut self, life: usize) -> bool {
        if self.controls[life].told.is_empty() || self.controls[life].frozen_until > self.now {
            return false;
        }
        let at = self.random.index(self.controls[life].told.len());
        let event = self.controls[life].told[at].clone();
        let event = if self.random.chance(1, 2) {
            event
        } else {
            other_result(event)
        };
        let Some(model) = about(&event).cloned() else {
            return false;
        };
        self.settles(life, &model);
        if self.violation.is_some() || self.controls[life].deposed {
            return false;
        }
        self.changes_nothing(life, event);
        self.other_attempts(life);
        true
    }

    /// Whatever time alone brings about is done: a look that nobody asked for, which saw nothing, gives its model a turn.
    fn settles(&mut self, life: usize, model: &ModelId) {
        for _ in 0..8 {
            let nothing = looked(model, Attempt(u64::MAX), EngineState::Unresponsive, None);
            self.step(life, nothing);
        }
    }

    /// Every action that is under way, and every look, ends well, badly and unknown, by the attempts around the running one.
    fn other_attempts(&mut self, life: usize) {
        let control = &self.controls[life];
        let acts = control.under_way.iter();
        let acts = acts.map(|(row, (order, attempt))| (*row, Some(*order), *attempt));
        let looks = control.looks.iter().map(|(row, at)| (*row, None, *at));
        let running: Vec<(usize, Option<Order>, Attempt)> = acts.chain(looks).collect();
        for (row, order, attempt) in running {
            self.other_endings(life, row, order, attempt);
        }
    }

    /// An action has begun: now and then, and always where it is one of a first start, which is rare, it ends by other attempts too.
    pub(crate) fn others_end(&mut self, life: usize, row: usize) {
        let booting = matches!(self.controls[life].phases.get(&row), Some(("Booting", _)));
        let Some((order, attempt)) = self.controls[life].under_way.get(&row).copied() else {
            return;
        };
        let strikes = self.faults && self.plan.faults.contains(&Fault::OldOutcome);
        if strikes && (booting || attempt.0.is_multiple_of(8)) {
            self.other_endings(life, row, Some(order), attempt);
        }
    }

    fn other_endings(&mut self, life: usize, row: usize, order: Option<Order>, running: Attempt) {
        let model = self.engines[row].spec.id.clone();
        self.settles(life, &model);
        for other in [running.0.saturating_sub(1), running.0.saturating_add(1)] {
            // Two looks at one engine may be under way at once.
            if self.controls[life].account.asked(&model, Attempt(other)) {
                continue;
            }
            for event in endings(&model, order, Attempt(other)) {
                if self.violation.is_some() || self.controls[life].deposed {
                    return;
                }
                self.changes_nothing(life, event);
            }
        }
    }

    /// The core is told an outcome that is none of what it waits for.
    fn changes_nothing(&mut self, life: usize, event: Event) {
        self.note(|_| format!("control {life} < again {event:?}"));
        let before = self.fingerprint(life);
        let now = self.controls[life].local(self.now);
        let mut effects = Vec::new();
        let told = format!("{event:?}");
        self.controls[life].core.step(now, event, &mut effects);
        self.totals.core_steps += 1;
        self.totals.old_outcomes += 1;
        let after = self.fingerprint(life);
        self.check(effects.is_empty() && after == before, |_| {
            let both = before.bytes().zip(after.bytes());
            let from = both.take_while(|(a, b)| a == b).count().saturating_sub(200);
            let part = |text: &str| text.chars().skip(from).take(400).collect::<String>();
            format!(
                "an old attempt changes something: {told} led to {effects:?}\n{}\n{}",
                part(&before),
                part(&after)
            )
        });
    }

    /// Everything that the core knows, but when it wants to be called again.
    fn fingerprint(&self, life: usize) -> String {
        let text = format!("{:?}", self.controls[life].core);
        let known = text.rfind("agenda: ").unwrap_or(text.len());
        text[..known].to_owned()
    }
}

/// The model of which an outcome tells.
fn about(event: &Event) -> Option<&ModelId> {
    match event {
        Event::Observed { model, .. }
        | Event::Started { model, .. }
        | Event::Woke { model, .. }
        | Event::Slept { model, .. } => Some(model),
        _ => None,
    }
}

/// The same attempt with the opposite result.
fn other_result(event: Event) -> Event {
    let turned = |outcome: Outcome| match outcome {
        Outcome::Done { .. } => Outcome::Failed(ActionError {
            cause: "turned round".to_owned(),
            engine: EngineState::Awake,
            no_room: false,
        }),
        Outcome::Failed(_) | Outcome::Unknown { .. } => Outcome::Done {
            took: 1,
            memory: Memory::default(),
        },
    };
    match event {
        Event::Started {
            model,
            attempt,
            outcome,
        } => Event::Started {
            model,
            attempt,
            outcome: turned(outcome),
        },
        Event::Woke {
            model,
            attempt,
            outcome,
        } => Event::Woke {
            model,
            attempt,
            outcome: turned(outcome),
        },
        Event::Slept {
            model,
            attempt,
            outcome,
        } => Event::Slept {
            model,
            attempt,
            outcome: turned(outcome),
        },
        other => other,
    }
}

fn looked(model: &ModelId, attempt: Attempt, state: EngineState, count: Option<u64>) -> Event {
    Event::Observed {
        model: model.clone(),
        attempt,
        observation: Observation {
            state,
            count,
            memory: Memory::default(),
            tier: None,
        },
    }
}

/// All ways in which an attempt can end; of a look where there is no order.
fn endings(model: &ModelId, order: Option<Order>, attempt: Attempt) -> Vec<Event> {
    let Some(order) = order else {
        let states = [EngineState::Awake, EngineState::Asleep, EngineState::Gone];
        return states
            .map(|state| looked(model, attempt, state, Some(0)))
            .to_vec();
    };
    let failed = |engine| {
        Outcome::Failed(ActionError {
            cause: "an old attempt".to_owned(),
            engine,
            no_room: false,
        })
    };
    let well = Outcome::Done {
        took: 1,
        memory: Memory::default(),
    };
    let unknown = Outcome::Unknown {
        cause: "an old attempt".to_owned(),
    };
    let model = || model.clone();
    let ends = |outcome| match order {
        Order::Start => Event::Started {
            model: model(),
            attempt,
            outcome,
        },
        Order::Wake(_) => Event::Woke {
            model: model(),
            attempt,
            outcome,
        },
        Order::Sleep(_, _) => Event::Slept {
            model: model(),
            attempt,
            outcome,
        },
    };
    [well, failed(EngineState::Awake), unknown]
        .map(ends)
        .to_vec()
}
