//! What engines really take, which need not be what was declared, and what control could know of it: an account of its own, kept from
//! the outcomes and looks that control was told.

use greenthread_core::{
    event::{EngineState, Event, Memory, Observation, Outcome},
    ids::{Attempt, Bytes, GpuId, ModelId},
    model::{ModelSpec, SleepMode, Source},
    phase::Tier,
};

pub use measured::{AllMeasured, Knows};

use crate::{
    agenda::Order,
    engine::{Engine, Process},
    plan::{CAPACITY, ModelPlan},
    random::Random,
    world::World,
};

mod measured;

/// What a GPU has for engines whose sizes were declared wrongly: what is beyond fails.
const PHYSICAL: Bytes = Bytes::gib(44);
/// After this long in service, whatever the oracle shows of an engine is what it holds (its lag is shorter).
const STEADY: u64 = 2_000;

/// What an engine takes on each of its GPUs, and in host RAM for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    /// While it is awake.
    pub awake: Bytes,
    /// While it sleeps.
    pub asleep: Bytes,
    /// Above `awake`, at the worst moment of a start.
    pub starting: Bytes,
    /// … of a wake.
    pub waking: Bytes,
    /// … of a sleep.
    pub sleeping: Bytes,
    /// Host RAM of its copy.
    pub host: Bytes,
}

impl Real {
    /// Exactly what was declared.
    pub fn as_declared(spec: &ModelSpec) -> Self {
        let sizes = &spec.sizes;
        Self {
            awake: spec.awake,
            asleep: spec.asleep,
            starting: sizes.starting.bytes,
            waking: sizes.waking.bytes,
            sleeping: sizes.sleeping.bytes,
            host: sizes.host.bytes,
        }
    }

    /// Some of it as declared, the rest smaller or larger.
    pub fn other_than(spec: &ModelSpec, random: &mut Random) -> Self {
        let declared = Self::as_declared(spec);
        let mut or = |declared: Bytes, others: &[u64]| {
            let other = Bytes::gib(random.pick(others));
            if random.chance(1, 2) { declared } else { other }
        };
        let awake = or(declared.awake, &[5, 9, 14, 20, 26, 32, 37]);
        let real = Self {
            awake,
            asleep: or(declared.asleep, &[0, 1, 2, 4]).min(awake),
            starting: or(declared.starting, &[0, 0, 1, 3]),
            waking: or(declared.waking, &[0, 1, 3]),
            sleeping: or(declared.sleeping, &[0, 1, 3]),
            host: or(declared.host, &[2, 8, 20]),
        };
        // What nobody may end, and could wake but never sleep again, would be stuck for ever.
        let most = real.starting.min(real.waking);
        Self {
            sleeping: if spec.caps.restartable {
                real.sleeping
            } else {
                real.sleeping.min(most)
            },
            ..real
        }
    }

    /// The most that it ever takes on a GPU.
    pub(crate) fn most(&self) -> Bytes {
        self.awake + self.starting.max(self.waking).max(self.sleeping)
    }

    /// The most while it does this.
    pub fn during(&self, order: Order) -> Bytes {
        let above = match order {
            Order::Start => self.starting,
            Order::Wake(_) => self.waking,
            Order::Sleep(_, _) => self.sleeping,
        };
        self.awake + above
    }
}

/// Nobody begins awake whom its GPUs have no room for.
pub fn begin_with_room(models: &mut [ModelPlan], gpus: usize) {
    let mut held = vec![Bytes(0); gpus];
    for model in models.iter() {
        for gpu in &model.spec.gpus {
            held[gpu.0] = held[gpu.0] + model.real.asleep;
        }
    }
    for model in models {
        let more = model.real.most().less(model.real.asleep);
        let on = |gpu: &GpuId| held[gpu.0] + more <= PHYSICAL;
        model.begins_awake &= model.spec.gpus.iter().all(on);
        for gpu in model.spec.gpus.iter().filter(|_| model.begins_awake) {
            held[gpu.0] = held[gpu.0] + more;
        }
    }
}

impl World {
    /// A model's spec as control hands it to its core: with what was measured before. Any other event as it is.
    pub(crate) fn with_measured(&self, life: usize, event: Event) -> Event {
        let Event::ModelSet(mut spec) = event else {
            return event;
        };
        let row = self.rows.get(&spec.id);
        let measured = row.and_then(|row| self.controls[life].knows.measured.get(row));
        spec.conditioned |= self.persisted.conditioned.contains(&spec.id);
        measured.copied().unwrap_or_default().apply(&mut spec);
        Event::ModelSet(spec)
    }

    /// What was measured of a model is kept for the next life.
    pub(crate) fn keep_footprint(&mut self, life: usize, model: ModelId) {
        let Some(row) = self.rows.get(&model) else {
            return;
        };
        let control = &self.controls[life];
        let measured = control.knows.measured.get(row).copied();
        self.persisted
            .measured
            .insert(*row, measured.unwrap_or_default());
        if control
            .core
            .spec(&model)
            .is_some_and(|spec| spec.conditioned)
        {
            self.persisted.conditioned.insert(model);
        }
    }

    /// Control is told how an action ended, and what the engine holds.
    pub(crate) fn told_of_action(
        &mut self,
        life: usize,
        model: &ModelId,
        attempt: Attempt,
        outcome: &Outcome,
    ) {
        let Some(row) = self.rows.get(model) else {
            return;
        };
        self.controls[life].knows.slept.remove(row);
        let Outcome::Done { memory, .. } = outcome else {
            self.controls[life].doubtful.insert(*row);
            return;
        };
        let declared = self.engines[*row].spec.awake;
        let control = &mut self.controls[life];
        let running = control.under_way.get(row).copied();
        let running = running.filter(|(_, known)| *known == attempt);
        control.knows.uncertain.remove(row);
        let Some((order, _)) = running else {
            // It was told that the engine is gone, and what it makes of this is its own affair.
            let memory = self.engines[*row].of_each(*memory);
            control.knows.uncertain.insert(*row);
            (control.knows).perhaps_learn(*row, declared, attempt, memory);
            return;
        };
        if matches!(order, Order::Sleep(_, _)) {
            let measured = control.knows.measured.get(row);
            let before = measured.and_then(|measured| measured.asleep);
            control.knows.stayed_before.insert(*row, before);
            control.knows.slept.insert(*row);
        }
        if !self.can_know(life, *row, order) {
            // It takes more than was thought, and nobody has room for that.
            for gpu in &self.engines[*row].spec.gpus {
                self.controls[life].roomy.remove(gpu);
            }
        }
        let control = &mut self.controls[life];
        let memory = self.engines[*row].of_each(*memory);
        (control.knows).learn(*row, |measured| measured.learn(declared, order, memory));
    }

    /// Control is told what an engine in service holds.
    pub(crate) fn told_of_look(
        &mut self,
        life: usize,
        model: &ModelId,
        attempt: Attempt,
        seen: &Observation,
    ) {
        let Some(row) = self.rows.get(model).copied() else {
            return;
        };
        let now = self.controls[life].local(self.now);
        let phase = self.controls[life].phases.get(&row);
        // Asked before it was told to move, and heard after: no look of what it does now.
        let moves = matches!(phase, Some(("Waking" | "Sleeping", _)));
        let steady = phase.filter(|(_, since)| now.since(*since).0 >= STEADY);
        let steady = steady.map(|(phase, _)| *phase);
        let known = &self.engines[row];
        let (declared, memory) = (known.spec.awake, known.of_each(seen.memory));
        // What is seen of an engine that is being ended does not count.
        let ends = known.ended_by.is_some_and(|(by, _)| by == life);
        let asked = self.controls[life].looks.get(&row) == Some(&attempt) && !ends;
        // An answer from before it kept more, or of an oracle that lags behind, does not show it.
        let shows = memory.gpu.is_some_and(|held| held >= known.holds);
        if asked && seen.state == EngineState::Asleep {
            self.controls[life].doubtful.remove(&row);
            self.engines[row].unseen &= moves || !shows;
        }
        let Some(held) = memory.gpu.filter(|_| asked) else {
            return;
        };
        let knows = &mut self.controls[life].knows;
        knows.learn(row, |measured| match (steady, seen.state) {
            (Some("Serving"), EngineState::Awake) if held.0 > 0 => {
                measured.is_awake(declared, held);
            }
            (Some("Asleep" | "Queued"), EngineState::Asleep) => measured.is_asleep(declared, held),
            (_, _) => {}
        });
    }

    /// Whether control can know all that an engine takes for this.
    pub(crate) fn can_know(&self, life: usize, engine: usize, order: Order) -> bool {
        let known = &self.engines[engine];
        let declared = Real::as_declared(&known.spec);
        let mut all = self.controls[life].knows.all(engine);
        all.all(|measured| measured.covers(&declared, &known.real, order))
    }

    /// Whether control can know what an engine's copy takes of host RAM.
    pub(crate) fn can_know_host(&self, engine: usize) -> bool {
        let latest = self.controls.last();
        let measured = latest.and_then(|control| control.knows.measured.get(&engine)?.host);
        let known = &self.engines[engine];
        measured.unwrap_or(known.spec.sizes.host.bytes) >= known.real.host
    }

    /// Whether an engine may hold more than control can know, since its sizes were declared wrongly and have changed or were never
    /// measured.
    pub(crate) fn is_unmeasured(&self, life: usize, engine: usize) -> bool {
        let known = &self.engines[engine];
        let order = known.executes().map(|command| command.order);
        let order = order.or(match known.process {
            Process::Starting => Some(Order::Start),
            // It broke in the middle of that, and holds what it took for it.
            Process::Up if known.broken && known.asleep && known.holds > known.real.asleep => {
                Some(Order::Wake(known.copy))
            }
            Process::Up if known.broken && !known.asleep && known.holds > known.real.awake => {
                Some(Order::Sleep(SleepMode::Keep, Tier::Ram))
            }
            Process::Up if !known.asleep => self.controls[life]
                .under_way
                .get(&engine)
                .map(|(order, _)| *order),
            Process::Gone | Process::Up => None,
        });
        match order {
            Some(order) => !self.can_know(life, engine, order),
            None if known.asleep => false,
            None => {
                let mut all = self.controls[life].knows.all(engine);
                all.any(|measured| measured.awake.unwrap_or(known.spec.awake) < known.real.awake)
            }
        }
    }

    /// Whether an engine could be awake beside the others, in real bytes.
    pub(crate) fn has_room(&self, engine: usize) -> bool {
        let known = &self.engines[engine];
        !self.plan.lies
            || known.spec.gpus.iter().all(|gpu| {
                let there = (self.engines.iter().enumerate())
                    .filter(|(at, other)| *at != engine && other.spec.gpus.contains(gpu));
                let held: Bytes = there
                    .map(|(_, other)| other.holds.max(other.real.asleep))
                    .sum();
                held + known.real.most() <= PHYSICAL
            })
    }

    /// An engine begins something. Returns whether its GPUs have what it needs for that.
    pub(crate) fn takes_memory(&mut self, engine: usize, order: Order) -> bool {
        let known = &self.engines[engine];
        let need = known.real.during(order);
        let fits = !self.plan.lies
            || known.spec.gpus.iter().all(|gpu| {
                let there = (self.engines.iter().enumerate())
                    .filter(|(at, other)| *at != engine && other.spec.gpus.contains(gpu));
                there.map(|(_, other)| other.holds).sum::<Bytes>() + need <= PHYSICAL
            });
        self.totals.unknown_sizes += u64::from(!fits);
        fits
    }

    /// S4: what is woken has room, in real bytes.
    pub(crate) fn check_room(&mut self, life: usize, engine: usize, order: Order, gpus: &[GpuId]) {
        for gpu in gpus {
            let there = |other: &usize| self.engines[*other].spec.gpus.contains(gpu);
            let on_gpu: Vec<usize> = (0..self.engines.len()).filter(there).collect();
            let sleep = Order::Sleep(SleepMode::Keep, Tier::Ram);
            let explained = !self.can_know(life, engine, order)
                || !self.can_know(life, engine, sleep)
                || on_gpu.iter().any(|other| {
                    let known = &self.engines[*other];
                    known.surprise
                        || self.is_excused(life, *other)
                        || known.runs() && !self.can_know(life, *other, sleep)
                });
            let on_gpu: Vec<&Engine> = on_gpu.iter().map(|at| &self.engines[*at]).collect();
            let all: Bytes = on_gpu.iter().map(|other| other.holds).sum();
            let held = all.less(self.engines[engine].holds);
            // … and for the moment at which whoever is awake then goes to sleep.
            let real = &self.engines[engine].real;
            let awake = on_gpu.iter().filter(|other| other.runs());
            let sleeping = awake.map(|other| other.real.sleeping).max();
            let own = real.during(order).max(real.awake + real.sleeping);
            let need = own.max(real.awake + sleeping.unwrap_or_default());
            self.check(explained || held + need <= CAPACITY, |_| {
                format!(
                    "S4: {need} are woken on GPU {} where others hold {held}",
                    gpu.0
                )
            });
        }
    }

    /// Figures say where they come from: measured is what was measured, and what was measured is believed.
    pub(crate) fn check_sources(&mut self, life: usize) {
        for (id, row) in self.rows.clone() {
            let Some(spec) = self.controls[life].core.spec(&id).cloned() else {
                continue;
            };
            if self.controls[life].knows.uncertain.contains(&row) {
                continue;
            }
            let measured = self.controls[life].knows.measured.get(&row);
            let measured = measured.copied().unwrap_or_default();
            let sizes = spec.sizes;
            let woken = measured.waking.or(measured.starting);
            let pairs = [
                ("awake", sizes.awake, measured.awake),
                ("asleep", sizes.asleep, measured.asleep),
                ("waking", sizes.waking.source, woken),
                ("starting", sizes.starting.source, measured.starting),
                ("sleeping", sizes.sleeping.source, measured.sleeping),
                ("host", sizes.host.source, measured.host),
            ];
            for (what, source, measured) in pairs {
                let says = source == Source::Measured;
                self.check(!says || measured.is_some(), |_| {
                    format!("{what} of {} counts as measured, and never was", id.0)
                });
            }
            let control = &self.controls[life];
            let rests = matches!(control.phases.get(&row), Some(("Asleep" | "Queued", _)));
            let sleeps = rests && control.knows.slept.contains(&row);
            if let Some(asleep) = measured.asleep.filter(|_| sleeps) {
                let says = (spec.asleep, sizes.asleep);
                self.check(says == (asleep, Source::Measured), |_| {
                    format!(
                        "asleep of {} was measured as {asleep}, and the ledger says {says:?}",
                        id.0
                    )
                });
            }
            if let Some(awake) = measured.awake {
                let says = (spec.awake, sizes.awake);
                self.check(says == (awake, Source::Measured), |_| {
                    format!(
                        "awake of {} was measured as {awake}, and the ledger says {says:?}",
                        id.0
                    )
                });
            }
        }
    }

    /// An engine takes more from here on: after a restart or a reload, or as it serves.
    pub(crate) fn grows(&mut self, engine: usize, one_in: u64) {
        if !self.plan.lies || !self.faults || !self.random.chance(1, one_in) {
            return;
        }
        let more = Bytes::gib(self.random.within(1, 3));
        let fits = self.really_fits(engine, more);
        let known = &mut self.engines[engine];
        if fits {
            known.real.awake = known.real.awake + more;
            self.totals.grown += 1;
            self.note(|world| {
                let known = &world.engines[engine];
                format!(
                    "{} takes {} from here on",
                    known.spec.id.0, known.real.awake
                )
            });
        }
    }

    /// An engine keeps more while it sleeps from here on, if nobody has to do without it for ever.
    pub(crate) fn keeps_more(&mut self, engine: usize, one_in: u64) {
        if !self.plan.lies || !self.faults || !self.random.chance(1, one_in) {
            return;
        }
        let before = self.engines[engine].real.asleep;
        let more = before + Bytes::gib(self.random.within(1, 3));
        self.engines[engine].real.asleep = more;
        let known = &self.engines[engine];
        let mut others = (0..self.engines.len()).filter(|other| *other != engine);
        let fits = known.may_be_stopped() || others.all(|other| self.really_fits(other, Bytes(0)));
        if !fits || more.0 > known.real.awake.0 / 2 {
            self.engines[engine].real.asleep = before;
            return;
        }
        self.totals.grown += 1;
        self.note(|world| format!("{} keeps {more}", world.engines[engine].spec.id.0));
    }

    /// Whether a GPU has memory that nobody takes, come what may.
    fn has_spare(&self, gpu: GpuId) -> bool {
        let there = self
            .engines
            .iter()
            .filter(|other| other.spec.gpus.contains(&gpu));
        let most = |other: &Engine| {
            if other.is_busy() || other.process == Process::Starting {
                other.real.most()
            } else {
                other.holds
            }
        };
        there.map(most).sum::<Bytes>() + Bytes::gib(3) <= PHYSICAL
    }

    /// An engine that serves or sleeps may take more as it goes on, where there is some.
    pub(crate) fn grows_at_rest(&mut self) {
        for engine in 0..self.engines.len() {
            let known = &self.engines[engine];
            let spare = known.spec.gpus.iter().all(|gpu| self.has_spare(*gpu));
            let rests = known.process == Process::Up && !known.is_busy() && !known.broken;
            if !spare || !rests {
                continue;
            }
            // Not between what an engine did and the word of it.
            let mut controls = self.controls.iter().filter(|control| control.alive);
            let told = controls.all(|control| !control.under_way.contains_key(&engine));
            if known.asleep && told && known.holds == known.real.asleep {
                self.keeps_more(engine, 60);
                let (now, asleep) = (self.now, self.engines[engine].real.asleep);
                self.engines[engine].unseen |= asleep > self.engines[engine].holds;
                self.engines[engine].hold(now, asleep);
            } else if known.runs() && known.holds == known.real.awake {
                self.grows(engine, 60);
                let (now, awake) = (self.now, self.engines[engine].real.awake);
                self.engines[engine].hold(now, awake);
            }
        }
    }

    /// Whether a model that takes so much more fits beside what the others can never give up, in real bytes: then it must be served.
    pub(crate) fn really_fits(&self, engine: usize, more: Bytes) -> bool {
        let known = &self.engines[engine];
        // Nobody puts to sleep what is in no fleet any more.
        let kept = |other: &Engine| match (other.spec.pinned, other.present) {
            (true, _) => other.real.most(),
            (false, true) => other.real.asleep,
            (false, false) => other.real.asleep.max(other.holds),
        };
        !self.plan.lies
            || known.spec.gpus.iter().all(|gpu| {
                let there = (self.engines.iter().enumerate())
                    .filter(|(at, other)| *at != engine && other.spec.gpus.contains(gpu));
                let kept: Bytes = there.map(|(_, other)| kept(other)).sum();
                kept + known.real.most() + more <= CAPACITY
            })
    }
}

impl Engine {
    /// Control may end it while it sleeps, for others.
    fn may_be_stopped(&self) -> bool {
        self.spec.caps.restartable && self.spec.tier != Some(Tier::Ram)
    }

    /// What an oracle says of all its GPUs, for each of them.
    pub(crate) fn of_each(&self, memory: Memory) -> Memory {
        let gpus = self.spec.gpus.len() as u64;
        let each = |bytes: Option<Bytes>| bytes.map(|bytes| Bytes(bytes.0 / gpus));
        Memory {
            gpu: each(memory.gpu),
            peak: each(memory.peak),
            host: each(memory.host),
        }
    }
}
