//! The driver of one engine in one life of control: one action at a time, verified before it is called done, as in
//! `control/src/engine/worker`.

use std::collections::VecDeque;

use greenthread_core::{
    event::{ActionError, EngineState, Event, Observation, Outcome},
    ids::{Attempt, ModelId},
    phase::Tier,
};

use crate::{
    agenda::{Command, Item, Order},
    engine::Process,
    fault::Fault,
    trouble::Place,
    world::World,
};

/// How long memory may take to come or go after the engine says that it did.
const MEMORY_SETTLES: u64 = 2_000;
/// Longest look at an engine.
const LOOK: u64 = 1_500;
/// Longest wake or sleep, longest start.
const LONGEST: u64 = 4_000;
const LONGEST_START: u64 = 15_000;

/// Longest end of a process.
pub(crate) const LONGEST_END: u64 = 300;

/// One job.
#[derive(Clone, Debug)]
struct Job {
    order: Order,
    attempt: Attempt,
    asked: u64,
}

/// One driver.
#[derive(Clone, Debug, Default)]
pub struct Driver {
    waiting: VecDeque<Job>,
    running: Option<Job>,
    /// It has served in this life of control: a closed port then means that it is ending.
    pub met: bool,
}

impl World {
    /// Control asks for an action.
    pub(crate) fn action(&mut self, life: usize, model: &ModelId, order: Order, attempt: Attempt) {
        let Some(engine) = self.rows.get(model).copied() else {
            return self.violated(format!("an action for {model:?}, which is not known"));
        };
        self.check_action(life, engine, order);
        self.controls[life]
            .under_way
            .insert(engine, (order, attempt));
        self.controls[life].begins = Some(engine);
        let driver = self.controls[life].drivers.entry(engine).or_default();
        driver.waiting.push_back(Job {
            order,
            attempt,
            asked: self.now,
        });
        self.next_job(life, engine);
    }

    fn next_job(&mut self, life: usize, engine: usize) {
        let Some(driver) = self.controls[life].drivers.get_mut(&engine) else {
            return;
        };
        if driver.running.is_some() {
            return;
        }
        let Some(job) = driver.waiting.pop_front() else {
            return;
        };
        driver.running = Some(job.clone());
        let Job {
            order,
            attempt,
            asked,
        } = job;
        let limit = self.plan.times.command.0;
        if self.now - asked > limit {
            let outcome = unknown("nothing was sent: the action before it took too long");
            return self.ends(life, engine, attempt, 0, outcome);
        }
        if self.sleeps_too_lightly(engine, order) {
            let outcome = failed("it sleeps in RAM already", EngineState::Asleep);
            return self.ends(life, engine, attempt, 1, outcome);
        }
        let way = if self.strikes(Fault::NetworkStalls, 30) {
            self.trouble(Place::Engine(engine), self.now + limit);
            self.random.below(limit * 2)
        } else {
            self.short_way()
        };
        if way >= limit {
            // Abandoned before it was accepted.
            let outcome = unknown("it was not accepted in time");
            return self.ends(life, engine, attempt, limit, outcome);
        }
        let command = Command {
            life,
            attempt,
            sent: self.now,
            order,
        };
        self.agenda
            .push(self.now + way, Item::Command { engine, command });
        let longest = match order {
            Order::Start => LONGEST_START,
            Order::Wake(_) | Order::Sleep(_, _) => LONGEST,
        };
        self.agenda.push(
            self.now + longest,
            Item::JobExpires {
                life,
                engine,
                attempt,
            },
        );
    }

    /// It would answer that it sleeps, and do nothing.
    fn sleeps_too_lightly(&self, engine: usize, order: Order) -> bool {
        let known = &self.engines[engine];
        let is_deep = matches!(order, Order::Sleep(_, Tier::Disk));
        is_deep && known.process == Process::Up && known.asleep && known.copy == Tier::Ram
    }

    /// The outcome of the running job, after a while.
    pub(crate) fn ends(
        &mut self,
        life: usize,
        engine: usize,
        attempt: Attempt,
        after: u64,
        outcome: Outcome,
    ) {
        let Some(order) = self.running(life, engine, attempt) else {
            return;
        };
        let model = self.engines[engine].spec.id.clone();
        let event = Box::new(match order {
            Order::Start => Event::Started {
                model,
                attempt,
                outcome,
            },
            Order::Wake(_) => Event::Woke {
                model,
                attempt,
                outcome,
            },
            Order::Sleep(_, _) => Event::Slept {
                model,
                attempt,
                outcome,
            },
        });
        self.agenda.push(
            self.now + after,
            Item::JobEnds {
                life,
                engine,
                attempt,
                event,
            },
        );
    }

    /// What the driver is doing, if it is this attempt.
    pub(crate) fn running(&self, life: usize, engine: usize, attempt: Attempt) -> Option<Order> {
        let driver = self.controls.get(life)?.drivers.get(&engine)?;
        let job = driver.running.as_ref()?;
        (job.attempt == attempt).then_some(job.order)
    }

    /// A call to an engine comes back, with what the core is told of it; not from one that was abandoned.
    pub(crate) fn job_ends(&mut self, life: usize, engine: usize, attempt: Attempt, event: Event) {
        let waits = Item::JobEnds {
            life,
            engine,
            attempt,
            event: Box::new(event.clone()),
        };
        if self.running(life, engine, attempt).is_none() || self.waits_for_control(life, waits) {
            return;
        }
        if let Some(driver) = self.controls[life].drivers.get_mut(&engine) {
            driver.running = None;
        }
        self.deliver_to_core(life, Box::new(event));
        self.next_job(life, engine);
    }

    /// The driver gives up: nobody knows.
    pub(crate) fn job_expires(&mut self, life: usize, engine: usize, attempt: Attempt) {
        let Some(order) = self.running(life, engine, attempt) else {
            return;
        };
        let (after, outcome) = match (order, self.engines[engine].process) {
            (Order::Start, _) => {
                // It is ended, and its end waited for.
                self.end_process(engine, None);
                let outcome = failed("it did not serve in time", EngineState::Gone);
                (LONGEST_END + 50, outcome)
            }
            (_, Process::Gone) => (0, failed("it is gone", EngineState::Gone)),
            (_, Process::Starting | Process::Up) => (0, unknown("no answer in time")),
        };
        self.ends(life, engine, attempt, after, outcome);
    }

    /// The engine has answered a command: the driver looks whether it is true.
    pub(crate) fn verify(&mut self, engine: usize, command: &Command, took: u64) {
        let Command {
            life,
            attempt,
            order,
            ..
        } = *command;
        if self.running(life, engine, attempt).is_none() {
            return;
        }
        if self.strikes(Fault::OutcomeLost, 12) {
            self.trouble(Place::Engine(engine), self.now);
            return self.ends(life, engine, attempt, 5, unknown("the connection broke"));
        }
        if let Some(driver) = self.controls[life].drivers.get_mut(&engine) {
            driver.met = true;
        }
        let state = self.state(engine);
        let wanted = match order {
            Order::Start | Order::Wake(_) => EngineState::Awake,
            Order::Sleep(_, _) => EngineState::Asleep,
        };
        if state != wanted {
            let after = self.short_way();
            let outcome = failed("it says so, and it is not true", state);
            return self.ends(life, engine, attempt, after, outcome);
        }
        let good = match order {
            Order::Start | Order::Wake(_) => self.engines[engine].real.awake,
            Order::Sleep(_, _) => self.engines[engine].real.asleep,
        };
        let settles = self.memory_shows(engine, good);
        let after = self.short_way();
        match settles {
            Some(at) if at <= self.now + MEMORY_SETTLES => {
                let memory = self.measures(engine, good, Some(order));
                let wait = at.saturating_sub(self.now) + after;
                let outcome = Outcome::Done { took, memory };
                self.ends(life, engine, attempt, wait, outcome);
            }
            Some(_) | None => {
                // The contract allows both: a driver that reports what it measured, and one that calls it a failure.
                let outcome = if self.random.chance(1, 2) {
                    failed("its memory did not change", state)
                } else {
                    Outcome::Done {
                        took,
                        memory: self.oracle(engine),
                    }
                };
                self.ends(life, engine, attempt, MEMORY_SETTLES, outcome);
            }
        }
    }

    /// Control asks for a look.
    pub(crate) fn observe(&mut self, life: usize, model: &ModelId, attempt: Attempt) {
        let Some(engine) = self.rows.get(model).copied() else {
            return;
        };
        self.check_first_look(life, false);
        let control = &mut self.controls[life];
        control.looks.insert(engine, attempt);
        let local = control.local(self.now);
        control.account.asks(local, model, attempt);
        let way = self.short_way();
        self.agenda.push(
            self.now + way,
            Item::Look {
                life,
                engine,
                attempt,
            },
        );
    }

    /// A look reaches the engine; what it saw is on its way.
    pub(crate) fn look(&mut self, life: usize, engine: usize, attempt: Attempt) {
        let driver = self.controls[life].drivers.entry(engine).or_default();
        let met = driver.met;
        let state = match self.state(engine) {
            EngineState::Gone if met && self.adopted(engine) => EngineState::Unresponsive,
            state => state,
        };
        let answers = matches!(state, EngineState::Awake | EngineState::Asleep);
        if answers && let Some(driver) = self.controls[life].drivers.get_mut(&engine) {
            driver.met = true;
        }
        let poor = self.plan.poor_looks && self.faults;
        let late = poor && self.random.chance(1, 4);
        // Its server may answer, and its count not.
        let counts = answers && !(poor && self.random.chance(1, 10));
        let known = &self.engines[engine];
        let counts = counts && known.spec.caps.counts;
        let count = counts.then_some(known.inside.len() as u64);
        let observation = Observation {
            state,
            count,
            memory: self.oracle(engine),
            tier: known.asleep.then_some(known.copy),
        };
        let after = match state {
            EngineState::Unresponsive => LOOK,
            _ if late => self.random.below(LOOK),
            _ => self.short_way(),
        };
        let known = &mut self.engines[engine];
        if late && !matches!(state, EngineState::Awake) {
            known.found_less_until = known.found_less_until.max(self.now + after);
        }
        let event = Event::Observed {
            model: known.spec.id.clone(),
            attempt,
            observation,
        };
        self.agenda.push(
            self.now + after,
            Item::ToCore {
                life,
                event: Box::new(event),
            },
        );
    }

    /// Control ends an engine's process, where it may.
    pub(crate) fn kill(&mut self, life: usize, model: &ModelId, attempt: Attempt) {
        let Some(engine) = self.rows.get(model).copied() else {
            return;
        };
        self.controls[life].under_way.remove(&engine);
        let twice = self.controls[life].fair.killed(model, attempt);
        self.check(!twice, |_| {
            format!("{} is ended while it is being ended", model.0)
        });
        self.check_kill(life, engine);
        self.check_leaves(life, engine);
        if !self.engines[engine].spec.caps.restartable {
            return;
        }
        self.end_process(engine, Some((life, attempt)));
    }

    /// The model has drained and goes; its process ends, and that is told.
    pub(crate) fn remove_engine(&mut self, life: usize, model: &ModelId, attempt: Attempt) {
        if let Some(engine) = self.rows.get(model).copied() {
            self.controls[life].fair.killed(model, attempt);
            self.check_removed(life, engine);
            if self.engines[engine].spec.caps.restartable {
                self.end_process(engine, Some((life, attempt)));
            } else {
                // Its operator stops it when it is not used any more.
                self.engines[engine].surprise = true;
                self.tell_removed(life, model, attempt);
                self.end_process(engine, None);
            }
        }
    }

    /// Control has a process of this engine that has not ended.
    fn adopted(&self, engine: usize) -> bool {
        let known = &self.engines[engine];
        known.spec.caps.restartable && known.process != Process::Gone
    }

    /// An attached engine is none of control's any more. That may be said so late that it is back.
    fn tell_removed(&mut self, life: usize, model: &ModelId, attempt: Attempt) {
        let late = self.strikes(Fault::OldOutcome, 2);
        let after = if late {
            self.random.below(20_000)
        } else {
            self.short_way()
        };
        let event = Box::new(Event::EngineGone {
            model: model.clone(),
            attempt: Some(attempt),
            cause: "it was removed from the fleet".to_owned(),
        });
        self.agenda
            .push(self.now + after, Item::ToCore { life, event });
    }

    /// Everybody who leads is told that an engine's process has ended; who ended it, by which attempt.
    pub(crate) fn tell_gone(&mut self, engine: usize, by: Option<(usize, Attempt)>, cause: &str) {
        let after = self.short_way();
        for life in 0..self.controls.len() {
            let attempt = by.filter(|(of, _)| *of == life);
            let event = Event::EngineGone {
                model: self.engines[engine].spec.id.clone(),
                attempt: attempt.map(|(_, attempt)| attempt),
                cause: cause.to_owned(),
            };
            self.tell_control(life, after, event);
        }
    }
}

/// Nobody knows.
pub(crate) fn unknown(cause: &str) -> Outcome {
    Outcome::Unknown {
        cause: cause.to_owned(),
    }
}

/// A definite failure for lack of room on a GPU.
pub(crate) fn starved(engine: EngineState) -> Outcome {
    Outcome::Failed(ActionError {
        cause: "CUDA out of memory".to_owned(),
        engine,
        no_room: true,
    })
}

/// A definite failure.
pub(crate) fn failed(cause: &str, engine: EngineState) -> Outcome {
    Outcome::Failed(ActionError {
        cause: cause.to_owned(),
        engine,
        no_room: false,
    })
}
