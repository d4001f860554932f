//! Processes of engines: how they start, end, and what ends with them.

use super::*;

impl World {
    pub(crate) fn start_process(&mut self, engine: usize, command: Option<Command>) {
        let now = self.now;
        let known = &mut self.engines[engine];
        known.process = Process::Starting;
        known.started_at = now;
        known.asleep = false;
        known.host = Bytes(0);
        known.hold(now, known.spec.awake + known.spec.sizes.waking.bytes);
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
        if known.lie.take() == Some(Lie::Refuses) {
            return self.process_ends(engine, generation);
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
        let commands: Vec<Command> = known
            .executes
            .take()
            .into_iter()
            .chain(known.queue.drain(..))
            .collect();
        let inside = std::mem::take(&mut known.inside);
        self.note(|world| format!("{} is gone", world.engines[engine].spec.id.0));
        for request in inside.into_keys() {
            self.requests[request as usize].stage = self.back(request);
            let after = self.short_way();
            self.agenda.push(self.now + after, Item::Failed { request });
        }
        for command in commands {
            let after = self.random.below(50);
            let outcome = failed("it died", EngineState::Gone);
            self.ends(command.life, engine, command.attempt, after, outcome);
        }
        if self.engines[engine].spec.caps.restartable {
            let by = self.engines[engine].ended_by.take();
            self.tell_gone(engine, by, "it died");
        } else if self.engines[engine].present {
            let after = 2_000 + self.random.below(5_000);
            self.agenda
                .push(self.now + after, Item::StartedByHand { engine });
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
