//! Processes of engines: how they start, end, and what ends with them.

use super::*;

impl World {
    pub(crate) fn start_process(&mut self, engine: usize, command: Option<Command>) {
        let now = self.now;
        self.grows(engine, 6);
        let fits = self.takes_memory(engine, Order::Start);
        let known = &mut self.engines[engine];
        (known.starved, known.moved) = (!fits, true);
        known.process = Process::Starting;
        known.started_at = now;
        known.asleep = false;
        known.host = Bytes(0);
        let takes = known.real.during(Order::Start);
        known.hold(now, if fits { takes } else { Bytes(0) });
        known.executes = command;
        known.process_generation += 1;
        let generation = known.process_generation;
        let takes = known.takes.0 + std::mem::take(&mut known.slower);
        self.agenda
            .push(now + takes, Item::ProcessUp { engine, generation });
    }

    pub(crate) fn process_up(&mut self, engine: usize, generation: u64) {
        let known = &mut self.engines[engine];
        if known.process_generation != generation || known.process != Process::Starting {
            return;
        }
        if known.lie.take() == Some(Lie::Refuses) || known.starved {
            self.trouble(Place::Engine(engine), self.now);
            self.process_ends(engine, generation);
            self.engines[engine].starved = false;
            return;
        }
        let known = &mut self.engines[engine];
        known.process = Process::Up;
        let command = known.executes.take();
        self.fall_awake(engine);
        if let Some(command) = command {
            let took = self.now - command.sent;
            self.verify(engine, &command, took);
        }
    }

    /// Somebody ends the process; it takes a moment. `by`: the life of control that does, and its attempt.
    pub(crate) fn end_process(&mut self, engine: usize, by: Option<(usize, Attempt)>) {
        let generation = self.engines[engine].process_generation;
        let after = self.random.within(1, LONGEST_END);
        if self.engines[engine].process == Process::Gone {
            return self.tell_gone(engine, by, "it was gone already");
        }
        self.engines[engine].ended_by = by;
        self.agenda
            .push(self.now + after, Item::ProcessEnds { engine, generation });
    }

    /// The process is gone, with everything in it.
    pub(crate) fn process_ends(&mut self, engine: usize, generation: u64) {
        let now = self.now;
        let known = &mut self.engines[engine];
        if known.process_generation != generation || known.process == Process::Gone {
            return;
        }
        known.process = Process::Gone;
        known.asleep = true;
        known.hold(now, Bytes(0));
        known.host = Bytes(0);
        known.process_generation += 1;
        known.generation += 1;
        known.work_generation += 1;
        (known.stray, known.strange, known.told_to_sleep, known.lie) = (false, false, false, None);
        known.broken = false;
        self.note(|world| format!("{} is gone", world.engines[engine].spec.id.0));
        self.lose_all(engine, "it died", EngineState::Gone);
        if self.engines[engine].spec.caps.restartable {
            let by = self.engines[engine].ended_by.take();
            self.tell_gone(engine, by, "it died");
        } else if self.engines[engine].present {
            let after = 2_000 + self.random.below(5_000);
            self.agenda
                .push(self.now + after, Item::StartedByHand { engine });
        }
    }

    /// Its requests fail, and so do its commands.
    fn lose_all(&mut self, engine: usize, why: &str, state: EngineState) {
        let known = &mut self.engines[engine];
        let commands: Vec<Command> = known
            .executes
            .take()
            .into_iter()
            .chain(known.queue.drain(..))
            .collect();
        let inside = std::mem::take(&mut known.inside);
        for request in inside.into_keys() {
            self.requests[request as usize].stage = self.back(request);
            let after = self.short_way();
            self.agenda.push(self.now + after, Item::Failed { request });
        }
        for command in commands {
            let after = self.random.below(50);
            let outcome = if self.engines[engine].starved {
                starved(state)
            } else {
                failed(why, state)
            };
            self.ends(command.life, engine, command.attempt, after, outcome);
        }
    }

    /// The engine inside the server dies: the server goes on, and so does what it holds. Who may not be ended by control is restarted by
    /// hand.
    pub(crate) fn breaks(&mut self, engine: usize) {
        let now = self.now;
        let known = &mut self.engines[engine];
        known.work(now);
        known.broken = true;
        known.generation += 1;
        known.work_generation += 1;
        let generation = known.process_generation;
        let attached = !known.spec.caps.restartable;
        self.note(|world| format!("{} is broken", world.engines[engine].spec.id.0));
        self.lose_all(engine, "it is dead", EngineState::Broken);
        if attached {
            let after = 2_000 + self.random.below(8_000);
            self.agenda
                .push(now + after, Item::ProcessEnds { engine, generation });
        }
    }

    /// Somebody starts an attached engine again.
    pub(crate) fn started_by_hand(&mut self, engine: usize) {
        if self.engines[engine].process == Process::Gone && self.engines[engine].present {
            self.engines[engine].surprise = true;
            self.start_process(engine, None);
        }
    }
}
