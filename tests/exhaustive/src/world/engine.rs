//! The engine, and calls to it: each is on its way, is carried out in one instant, and its answer is on its way back.

use greenthread_core::{
    event::{EngineState, Event, Memory, Observation, Outcome},
    ids::Attempt,
    phase::Tier,
};

use super::{Action, Life, Step, Where, World};
use crate::{
    row::{Row, Sabotage},
    shell,
};

/// The one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Engine {
    pub(crate) asleep: bool,
    /// What the last look saw; only for a sabotage.
    pub(crate) seen: Option<u8>,
}

/// What the engine is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CallKind {
    Sleep,
    Wake,
    Look,
}

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Answer {
    Done,
    Unknown,
    Seen { asleep: bool, count: u8 },
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    /// On its way. `orphan`: nobody waits for its answer.
    Travelling {
        orphan: bool,
    },
    Back(Answer),
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Call {
    pub(crate) control: usize,
    pub(crate) attempt: u64,
    pub(crate) kind: CallKind,
    pub(crate) stage: Stage,
    /// It is accepted by then or abandoned (rule 7).
    pub(crate) until: u64,
}

impl World {
    pub(super) fn call_actions(&self, row: &Row, actions: &mut Vec<Action>) {
        for (at, call) in (0_u8..).zip(&self.calls) {
            let waits = self.controls[call.control].is == Life::Running;
            let may_be_lost = self.left.lost_calls > 0 && call.kind != CallKind::Wake;
            match call.stage {
                Stage::Travelling { orphan } => {
                    if self.now <= call.until + self.lateness(row, call) {
                        actions.push(Action::Execute(at));
                    }
                    if orphan {
                        actions.push(Action::DropCall(at));
                    } else if may_be_lost {
                        actions.push(Action::LoseCall(at));
                    }
                }
                Stage::Back(answer) => {
                    if waits {
                        actions.push(Action::Answer(at));
                    }
                    if may_be_lost && answer != Answer::Unknown {
                        actions.push(Action::LoseCall(at));
                    }
                }
            }
        }
    }

    pub(super) fn execute(&mut self, at: usize, step: &mut Step<'_>) {
        let call = self.calls[at];
        let inside = self.requests.iter().flatten();
        let inside = inside
            .filter(|request| request.place == Where::Inside)
            .count();
        let count = u8::try_from(inside).unwrap_or(u8::MAX);
        let answer = match call.kind {
            CallKind::Sleep => {
                step.note(|| format!("the engine goes to sleep, told by control {}", call.control));
                self.check_asleep(step);
                self.engine.asleep = true;
                Answer::Done
            }
            CallKind::Wake => {
                step.note(|| format!("the engine wakes, told by control {}", call.control));
                self.engine.asleep = false;
                Answer::Done
            }
            CallKind::Look => {
                let mut seen = count;
                if step.row.is_sabotaged(Sabotage::CachedCount) {
                    seen = self.engine.seen.replace(count).unwrap_or(0);
                }
                step.note(|| format!("the engine is looked at: {seen} inside"));
                Answer::Seen {
                    asleep: self.engine.asleep,
                    count: seen,
                }
            }
        };
        if call.stage == (Stage::Travelling { orphan: true }) {
            self.calls.remove(at);
        } else {
            self.calls[at].stage = Stage::Back(answer);
            self.calls[at].until = 0;
            self.calls.sort_unstable();
        }
    }

    pub(super) fn lose_call(&mut self, at: usize, step: &mut Step<'_>) {
        self.left.lost_calls -= 1;
        let call = self.calls[at];
        step.note(|| {
            format!(
                "control {} never learns what came of its call",
                call.control
            )
        });
        if call.kind == CallKind::Look {
            self.calls.remove(at);
            return;
        }
        if call.stage == (Stage::Travelling { orphan: false }) {
            self.calls.push(Call {
                stage: Stage::Travelling { orphan: true },
                ..call
            });
        }
        self.calls[at].stage = Stage::Back(Answer::Unknown);
        self.calls[at].until = 0;
        self.calls.sort_unstable();
    }

    pub(super) fn answer(&mut self, at: usize, step: &mut Step<'_>) {
        let call = self.calls.remove(at);
        let Stage::Back(answer) = call.stage else {
            return;
        };
        step.note(|| {
            format!(
                "control {} hears of its {:?}: {answer:?}",
                call.control, call.kind
            )
        });
        let (model, attempt) = (shell::model(), Attempt(call.attempt));
        let outcome = || match answer {
            Answer::Done => Outcome::Done {
                took: shell::TOOK.0,
                memory: Memory::default(),
            },
            Answer::Unknown | Answer::Seen { .. } => Outcome::Unknown {
                cause: "it was lost".to_owned(),
            },
        };
        let event = match (call.kind, answer) {
            (CallKind::Sleep, _) => Event::Slept {
                model,
                attempt,
                outcome: outcome(),
            },
            (CallKind::Wake, _) => Event::Woke {
                model,
                attempt,
                outcome: outcome(),
            },
            (CallKind::Look, Answer::Seen { asleep, count }) => Event::Observed {
                model,
                attempt,
                observation: seen(asleep, count),
            },
            (CallKind::Look, Answer::Done | Answer::Unknown) => return,
        };
        self.control_step(call.control, event, step);
    }
}

fn seen(asleep: bool, count: u8) -> Observation {
    let state = if asleep {
        EngineState::Asleep
    } else {
        EngineState::Awake
    };
    Observation {
        state,
        count: Some(u64::from(count)),
        memory: Memory::default(),
        tier: asleep.then_some(Tier::Ram),
    }
}
