//! Engines of the world of faults: one job after the other, each of which may fail or be lost.

use super::*;

/// What an engine was told and has not done yet; engines do one thing after the other.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) attempt: Attempt,
    pub(super) life: u64,
    pub(super) ends_at: u64,
    pub(super) outcome: Fate,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Start,
    Wake,
    Sleep,
    Kill,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    Works,
    Refuses,
    /// It does it, and nobody hears of it.
    Lost,
}

pub(super) struct SimEngine {
    pub(super) state: EngineState,
    pub(super) jobs: VecDeque<Job>,
    /// A sleep of an earlier life of control was carried out: rule 8, not a fault of this life.
    pub(super) late: bool,
}

impl World {
    pub(super) fn look(&mut self, model: ModelId, attempt: Attempt) {
        let engine = &self.engines[&model];
        let inside = self
            .gates
            .values()
            .filter_map(|gate| gate.in_flight.get(&model))
            .sum();
        let silent = self.faults && self.random.below(40) == 0;
        let observation = Observation {
            state: if silent {
                EngineState::Silent
            } else {
                engine.state
            },
            count: (!silent).then_some(inside),
            memory: Memory::default(),
            tier: None,
        };
        let delay = self.random.below(if self.faults { 300 } else { 20 });
        self.post(
            delay,
            Event::Observed {
                model,
                attempt,
                observation,
            },
        );
    }

    pub(super) fn tell_engine(&mut self, model: &ModelId, kind: Kind, attempt: Attempt) {
        let fate = match self.random.below(if self.faults { 12 } else { 1 }) {
            10 if kind != Kind::Kill => Fate::Refuses,
            11 if kind != Kind::Kill => Fate::Lost,
            _ => Fate::Works,
        };
        let takes = 1 + self.random.below(if self.faults { 6_000 } else { 600 });
        let life = self.life;
        let engine = self.engines.get_mut(model).expect("known");
        let after = engine
            .jobs
            .back()
            .map_or(self.now, |job| job.ends_at.max(self.now));
        if kind == Kind::Kill {
            engine.jobs.clear();
        }
        engine.jobs.push_back(Job {
            kind,
            attempt,
            life,
            ends_at: after + takes,
            outcome: fate,
        });
    }

    pub(super) fn engines_work(&mut self) {
        for name in MODELS {
            let model = id(name);
            let engine = self.engines.get_mut(&model).expect("known");
            let Some(job) = engine
                .jobs
                .front()
                .filter(|job| job.ends_at <= self.now)
                .cloned()
            else {
                continue;
            };
            engine.jobs.pop_front();
            let runs = engine.state != EngineState::Gone;
            match (job.kind, job.outcome) {
                (_, Fate::Refuses) => {}
                (Kind::Start, _) => engine.state = EngineState::Awake,
                (Kind::Wake, _) if runs => {
                    (engine.state, engine.late) = (EngineState::Awake, false)
                }
                (Kind::Sleep, _) if runs => {
                    engine.state = EngineState::Asleep;
                    engine.late = job.life != self.life;
                }
                (Kind::Kill, _) => engine.state = EngineState::Gone,
                (Kind::Wake | Kind::Sleep, _) => {}
            }
            let state = engine.state;
            if job.life == self.life {
                self.post(1, answer(model, &job, state));
            }
        }
    }
}

fn answer(model: ModelId, job: &Job, engine: EngineState) -> Event {
    let outcome = match job.outcome {
        Fate::Works if engine != EngineState::Gone || job.kind == Kind::Kill => Outcome::Done {
            took: 100,
            memory: Memory::default(),
        },
        Fate::Works | Fate::Refuses => Outcome::Failed(ActionError {
            cause: "refused".into(),
            engine,
        }),
        Fate::Lost => Outcome::Unknown {
            cause: "time-out".into(),
        },
    };
    let attempt = job.attempt;
    match job.kind {
        Kind::Start => Event::Started {
            model,
            attempt,
            outcome,
        },
        Kind::Wake => Event::Woke {
            model,
            attempt,
            outcome,
        },
        Kind::Sleep => Event::Slept {
            model,
            attempt,
            outcome,
        },
        Kind::Kill => Event::EngineGone {
            model,
            cause: "ended".into(),
        },
    }
}
