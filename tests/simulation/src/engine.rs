//! Fake engines: they hold memory and requests, freeze them while they sleep, do one command after the other, and lie when told to.

mod process;

use std::collections::{BTreeMap, VecDeque};

use greenthread_core::{
    event::EngineState,
    ids::{Attempt, Bytes},
    model::{ModelSpec, OnDrainTimeout, SleepMode},
    phase::Tier,
};

use crate::{
    agenda::{Command, Item, Order},
    driver::{LONGEST_END, failed, starved, unknown},
    fault::Fault,
    plan::ModelPlan,
    request::{Outcome, Stage},
    sizes::Real,
    trouble::Place,
    world::World,
};

/// Whether an engine's process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// There is none.
    Gone,
    /// It loads; its port is closed.
    Starting,
    /// It serves.
    Up,
}

/// How an engine will cheat at its next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It says that it did it, and did nothing.
    DoesNothing,
    /// It sleeps and keeps its memory.
    KeepsMemory,
    /// It refuses.
    Refuses,
}

/// One engine, which is one row.
#[derive(Clone, Debug)]
pub struct Engine {
    /// As declared now.
    pub spec: ModelSpec,
    /// What it really takes.
    pub real: Real,
    /// Name of its model.
    pub name: String,
    /// It is in the fleet.
    pub present: bool,
    /// Its row owns the prefix.
    pub has_prefix: bool,
    /// An operator took it out of service.
    pub disabled: bool,
    /// Its process.
    pub process: Process,
    /// It sleeps.
    pub asleep: bool,
    /// Bytes per GPU that it really holds.
    pub holds: Bytes,
    /// Where its weights are while it sleeps.
    pub copy: Tier,
    /// Host RAM that its copy really takes, for each of its GPUs.
    pub host: Bytes,
    /// It may take host RAM of which control does not know.
    pub host_surprise: bool,
    pub(crate) held_before: Bytes,
    pub(crate) changed_at: u64,
    /// Requests in it, with what is left of their service in ms.
    pub inside: BTreeMap<u32, u64>,
    worked_until: u64,
    work_generation: u64,
    takes: (u64, u64, u64, u64),
    queue: VecDeque<Command>,
    executes: Option<Command>,
    /// How it cheats at what it executes.
    cheats: Option<Lie>,
    generation: u64,
    process_generation: u64,
    /// Its server says that it is dead.
    pub broken: bool,
    /// It does not answer before.
    pub hangs_until: u64,
    /// Its next command takes so much longer, in ms.
    pub slower: u64,
    /// How it cheats next.
    pub lie: Option<Lie>,
    /// What it does will come to nothing: a GPU has no room for it.
    starved: bool,
    /// What it was told last changed what it holds.
    pub(crate) moved: bool,
    /// It may hold more than control knows, through no fault of control.
    pub surprise: bool,
    /// Somebody else woke it, and control has not seen it yet.
    pub strange: bool,
    /// A look that found it asleep or gone is on its way to control, and late, until then.
    pub found_less_until: u64,
    /// It keeps more while it sleeps than control has seen.
    pub unseen: bool,
    /// A control that goes by its rules told it to sleep, and nobody has published since that it admits.
    pub told_to_sleep: bool,
    /// It sleeps because somebody else, or an earlier life, said so: rule 8.
    pub stray: bool,
    /// Its sleep may cut answers: the operator chose so.
    pub may_cut: bool,
    /// When its process was started last.
    pub started_at: u64,
    /// Life of control that ends its process, and the attempt by which it does.
    pub(crate) ended_by: Option<(usize, Attempt)>,
}

impl Engine {
    /// As it is when the first control starts.
    pub fn new(plan: &ModelPlan) -> Self {
        let attached = !plan.spec.caps.restartable;
        let up = attached || plan.begins_awake;
        let (process, holds) = match (up, plan.begins_awake) {
            (false, _) => (Process::Gone, Bytes(0)),
            (true, true) => (Process::Up, plan.real.awake),
            (true, false) => (Process::Up, plan.real.asleep),
        };
        Self {
            spec: plan.spec.clone(),
            real: plan.real,
            name: plan.name.clone(),
            present: true,
            has_prefix: true,
            disabled: false,
            process,
            asleep: !plan.begins_awake,
            holds,
            copy: Tier::Ram,
            host: if up && !plan.begins_awake {
                plan.real.host
            } else {
                Bytes(0)
            },
            host_surprise: true,
            held_before: holds,
            changed_at: 0,
            inside: BTreeMap::new(),
            worked_until: 0,
            work_generation: 0,
            takes: plan.takes,
            queue: VecDeque::new(),
            executes: None,
            cheats: None,
            generation: 0,
            process_generation: 0,
            broken: false,
            hangs_until: 0,
            slower: 0,
            lie: None,
            starved: false,
            moved: false,
            surprise: true,
            strange: false,
            found_less_until: 0,
            unseen: false,
            told_to_sleep: false,
            stray: false,
            may_cut: false,
            started_at: 0,
            ended_by: None,
        }
    }

    /// What it holds on each of its GPUs, from now on.
    pub(crate) fn hold(&mut self, now: u64, bytes: Bytes) {
        if bytes != self.holds {
            (self.held_before, self.holds, self.changed_at) = (self.holds, bytes, now);
        }
    }

    /// Host RAM per GPU that its copy takes while it sleeps.
    fn copy_in_ram(&self) -> Bytes {
        match self.copy {
            Tier::Ram => self.real.host,
            Tier::Disk | Tier::Stopped => Bytes(0),
        }
    }

    /// Whether it computes.
    pub fn runs(&self) -> bool {
        self.process == Process::Up && !self.asleep && !self.broken
    }

    /// What it is doing, if it was told.
    pub(crate) fn executes(&self) -> Option<&Command> {
        self.executes.as_ref()
    }

    /// Whether a command is being carried out, or waits.
    pub fn is_busy(&self) -> bool {
        self.executes.is_some() || !self.queue.is_empty()
    }

    /// How long its actions take in ms: start, wake, sleep, reload.
    pub fn takes(&self) -> (u64, u64, u64, u64) {
        self.takes
    }

    /// Number of its process.
    pub fn generation_of_process(&self) -> u64 {
        self.process_generation
    }

    /// Whether it still does what another life of control told it.
    pub fn is_foreign(&self, life: usize) -> bool {
        let mut commands = self.executes.iter().chain(&self.queue);
        commands.any(|command| command.life != life)
    }

    /// Time passes for the requests in it.
    fn work(&mut self, now: u64) {
        let passed = now.saturating_sub(self.worked_until);
        if self.runs() {
            for left in self.inside.values_mut() {
                *left = left.saturating_sub(passed);
            }
        }
        self.worked_until = now;
    }
}

impl World {
    /// What the engine's server says.
    pub(crate) fn state(&self, engine: usize) -> EngineState {
        let engine = &self.engines[engine];
        match engine.process {
            Process::Gone | Process::Starting => EngineState::Gone,
            Process::Up if engine.hangs_until > self.now => EngineState::Unresponsive,
            Process::Up if engine.broken => EngineState::Broken,
            Process::Up if engine.asleep => EngineState::Asleep,
            Process::Up => EngineState::Awake,
        }
    }

    /// A command reaches the engine.
    pub(crate) fn command_arrives(&mut self, engine: usize, command: Command) {
        let lease = self.plan.leader_lease > 0;
        let is_leaders = !lease || self.leadership.holder == Some(command.life);
        self.check(is_leaders, |_| {
            "rule 7: a command of a deposed leader is accepted after another leads".to_owned()
        });
        let known = &self.engines[engine];
        if command.order == Order::Start {
            return match known.process {
                Process::Gone => self.start_process(engine, Some(command)),
                Process::Starting => self.engines[engine].executes = Some(command),
                Process::Up => {
                    self.engines[engine].queue.push_back(command);
                    self.next_command(engine);
                }
            };
        }
        if known.process != Process::Up {
            let outcome = failed("its port is closed", EngineState::Gone);
            let after = self.short_way();
            return self.ends(command.life, engine, command.attempt, after, outcome);
        }
        self.engines[engine].queue.push_back(command);
        self.next_command(engine);
    }

    fn next_command(&mut self, engine: usize) {
        let known = &self.engines[engine];
        if known.executes.is_some() || known.process != Process::Up {
            return;
        }
        let Some(command) = known.queue.front().copied() else {
            return;
        };
        if known.hangs_until > self.now {
            let (at, generation) = (known.hangs_until, known.generation);
            return self
                .agenda
                .push(at, Item::CommandEnds { engine, generation });
        }
        self.engines[engine].queue.pop_front();
        // Who sent it has given up by now: it is not carried out any more.
        if self.now - command.sent > self.plan.times.command.0 {
            let outcome = unknown("it was not accepted in time");
            self.ends(command.life, engine, command.attempt, 0, outcome);
            return self.next_command(engine);
        }
        if self.engines[engine].broken {
            let outcome = failed("it is dead", EngineState::Broken);
            self.ends(command.life, engine, command.attempt, 1, outcome);
            return self.next_command(engine);
        }
        self.begin_command(engine, command);
    }

    fn begin_command(&mut self, engine: usize, command: Command) {
        if self.strikes(Fault::EngineSlow, 10) {
            self.engines[engine].slower = self.random.below(9_000);
            self.trouble(
                Place::Engine(engine),
                self.now + self.engines[engine].slower,
            );
        }
        let known = &mut self.engines[engine];
        if matches!(command.order, Order::Sleep(_, tier) if known.asleep && tier != known.copy) {
            // Somebody else put it to sleep while the command was on its way: only the next look tells where its weights are.
            self.controls[command.life].doubtful.insert(engine);
        }
        let known = &mut self.engines[engine];
        let (start, wake, sleep, reload) = known.takes;
        let takes = match command.order {
            Order::Start => start,
            Order::Wake(_) if known.asleep && known.copy == Tier::Disk => reload,
            Order::Wake(_) if known.asleep => wake,
            Order::Sleep(_, _) if !known.asleep => sleep,
            Order::Wake(_) | Order::Sleep(_, _) => 1,
        } + std::mem::take(&mut known.slower);
        let id = known.spec.id.0.clone();
        known.executes = Some(command);
        known.generation += 1;
        let generation = known.generation;
        known.cheats = known.lie.take();
        let refuses = matches!(known.cheats, Some(Lie::Refuses | Lie::DoesNothing));
        let sleeps = matches!(command.order, Order::Sleep(_, _)) && !known.asleep;
        let wakes = matches!(command.order, Order::Wake(_)) && known.asleep;
        let reloads = wakes && known.copy == Tier::Disk && !refuses;
        if reloads {
            self.grows(engine, 8);
        }
        if sleeps && !refuses {
            self.keeps_more(engine, 8);
        }
        let moves = (sleeps || wakes) && !refuses;
        let fits = !moves || self.takes_memory(engine, command.order);
        let known = &mut self.engines[engine];
        known.starved = !fits;
        if !fits {
            known.cheats = Some(Lie::Refuses);
        }
        let refuses = refuses || !fits;
        known.moved = moves;
        let cheats = known.cheats;
        if cheats.is_some() {
            self.trouble(Place::Engine(engine), self.now + takes);
        }
        let known = &mut self.engines[engine];
        if sleeps && !refuses {
            known.hold(self.now, known.real.during(command.order));
        }
        let known = &mut self.engines[engine];
        if wakes && !refuses {
            // The memory comes first.
            known.hold(self.now, known.real.during(command.order));
            let leads = self.is_latest(command.life);
            self.engines[engine].surprise |= !leads;
        }
        self.note(|_| format!("{id} begins {command:?}, {cheats:?}, {takes} ms"));
        self.agenda
            .push(self.now + takes, Item::CommandEnds { engine, generation });
        if command.order != Order::Start && self.strikes(Fault::OutcomeLost, 12) {
            // The call is lost, and the engine goes on with it.
            self.trouble(Place::Engine(engine), self.now + takes);
            let after = self.random.below(takes);
            let outcome = unknown("the connection broke");
            self.ends(command.life, engine, command.attempt, after, outcome);
        }
    }

    /// The engine has done what it was told, or not.
    pub(crate) fn command_ends(&mut self, engine: usize, generation: u64) {
        if self.engines[engine].generation != generation {
            return;
        }
        let Some(command) = self.engines[engine].executes.take() else {
            return self.next_command(engine);
        };
        let took = self.now - command.sent;
        let lie = self.engines[engine].cheats.take();
        match (lie, command.order) {
            (Some(Lie::Refuses), _) => {
                let state = self.state(engine);
                let outcome = if self.engines[engine].starved {
                    starved(state)
                } else {
                    failed("it refuses", state)
                };
                self.ends(command.life, engine, command.attempt, 1, outcome);
                return self.next_command(engine);
            }
            (Some(Lie::DoesNothing), _) => {}
            (_, Order::Wake(_) | Order::Start) => self.fall_awake(engine),
            (lie, Order::Sleep(mode, tier)) => {
                let keeps = lie == Some(Lie::KeepsMemory);
                let stray = !self.is_latest(command.life);
                self.fall_asleep(engine, (mode, tier), stray, keeps);
            }
        }
        self.verify(engine, &command, took);
        self.next_command(engine);
    }

    /// Whether this life of control leads, as far as it knows, and no later one has begun: it stands still, perhaps.
    fn is_latest(&self, life: usize) -> bool {
        let control = &self.controls[life];
        control.alive && !control.deposed && life + 1 == self.controls.len()
    }

    /// It is awake from here on; frozen requests go on.
    pub(crate) fn fall_awake(&mut self, engine: usize) {
        let (now, keeps_host) = (self.now, self.plan.keeps_host);
        let known = &mut self.engines[engine];
        known.work(now);
        known.asleep = false;
        if !keeps_host {
            known.host = Bytes(0);
        }
        known.hold(now, known.real.awake);
        (known.stray, known.may_cut, known.unseen) = (false, false, false);
        self.totals.wakes += 1;
        self.note(|world| format!("{} is awake", world.engines[engine].spec.id.0));
        self.next_work(engine);
    }

    /// It sleeps from here on. What is inside is frozen, or lost.
    pub(crate) fn fall_asleep(
        &mut self,
        engine: usize,
        (mode, tier): (SleepMode, Tier),
        stray: bool,
        keeps: bool,
    ) {
        let now = self.now;
        let (measured, keeps_host) = (self.plan.measured, self.plan.keeps_host);
        let host_unknown = !self.can_know_host(engine);
        let known = &mut self.engines[engine];
        known.work(now);
        let stray = stray || (known.asleep && known.stray);
        known.host_surprise |= stray || host_unknown;
        if !known.asleep {
            // One that sleeps already sleeps no deeper.
            known.copy = tier;
            let kept = if keeps_host { known.host } else { Bytes(0) };
            known.host = known.copy_in_ram().max(kept);
        }
        known.asleep = true;
        let left = if keeps {
            known.holds.min(known.real.awake)
        } else {
            known.real.asleep
        };
        known.hold(now, left);
        known.surprise |= keeps && !measured;
        known.stray = stray;
        known.strange = false;
        known.may_cut =
            mode == SleepMode::Abort && known.spec.on_drain_timeout == OnDrainTimeout::Abort;
        known.work_generation += 1;
        self.totals.sleeps += 1;
        self.note(|world| format!("{} sleeps", world.engines[engine].spec.id.0));
        let inside: Vec<u32> = self.engines[engine].inside.keys().copied().collect();
        let known = &self.engines[engine];
        let loses = !known.spec.caps.lossless || mode == SleepMode::Abort;
        let explained = known.may_cut || stray;
        for request in inside {
            if !loses {
                self.totals.frozen += 1;
                continue;
            }
            self.engines[engine].inside.remove(&request);
            if self.weighs(request) {
                let unseen = self.requests[request as usize].unseen;
                self.check(explained || unseen, |_| {
                    format!("S3: request {request} is cut off by a sleep")
                });
                self.cut(request);
            }
        }
    }

    /// Its answer is truncated.
    fn cut(&mut self, request: u32) {
        self.over(request, Outcome::Cut);
        self.end_at_gate(request);
    }

    fn next_work(&mut self, engine: usize) {
        let known = &mut self.engines[engine];
        known.work_generation += 1;
        if !known.runs() {
            return;
        }
        if let Some(left) = known.inside.values().min() {
            let (at, generation) = (self.now + left, known.work_generation);
            self.agenda.push(at, Item::WorkDone { engine, generation });
        }
    }

    /// Requests in an engine have ended by now; what an earlier pace of its work foresaw does not count.
    pub(crate) fn work_done(&mut self, engine: usize, generation: u64) {
        let now = self.now;
        let known = &mut self.engines[engine];
        if known.work_generation != generation {
            return;
        }
        known.work(now);
        let done: Vec<u32> = (known.inside.iter())
            .filter(|(_, left)| **left == 0)
            .map(|(request, _)| *request)
            .collect();
        for request in done {
            self.engines[engine].inside.remove(&request);
            self.requests[request as usize].stage = self.back(request);
            let after = self.short_way();
            self.agenda
                .push(self.now + after, Item::Answered { request });
        }
        self.next_work(engine);
    }

    fn back(&self, request: u32) -> Stage {
        match self.requests[request as usize].stage {
            over @ Stage::Over(_) => over,
            Stage::Held | Stage::OnItsWay | Stage::Inside | Stage::ComesBack => Stage::ComesBack,
        }
    }

    /// A request reaches its engine.
    pub(crate) fn arrives(&mut self, request: u32) {
        let known = &self.requests[request as usize];
        let (Some(engine), service) = (known.row, known.service) else {
            return;
        };
        if known.abandoned && known.stage == Stage::Over(Outcome::GatewayDied) {
            return;
        }
        if self.engines[engine].process != Process::Up || self.engines[engine].broken {
            self.requests[request as usize].stage = self.back(request);
            return self.agenda.push(self.now, Item::Failed { request });
        }
        self.check_arrival(engine, request);
        let now = self.now;
        let known = &mut self.engines[engine];
        if known.asleep && !known.spec.caps.lossless {
            // It was lost; whether that is anybody's fault was checked.
            if self.weighs(request) {
                self.requests[request as usize].stage = Stage::ComesBack;
                self.agenda.push(self.now, Item::Failed { request });
            }
            return;
        }
        known.work(now);
        known.inside.insert(request, service);
        if !matches!(self.requests[request as usize].stage, Stage::Over(_)) {
            self.requests[request as usize].stage = Stage::Inside;
        }
        self.next_work(engine);
    }

    /// The client is gone: the engine forgets the request.
    pub(crate) fn dropped(&mut self, request: u32) {
        if let Some(engine) = self.requests[request as usize].row {
            let now = self.now;
            self.engines[engine].work(now);
            self.engines[engine].inside.remove(&request);
            self.next_work(engine);
        }
    }
}
