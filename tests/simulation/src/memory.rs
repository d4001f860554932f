//! Memory that is nobody's in the fleet, what the oracle reads on whole GPUs, and the operator who looks after both.

use greenthread_core::{
    GpuView,
    event::{Event, Memory},
    ids::{Bytes, GpuId},
};

use crate::{
    agenda::{Item, Order},
    course::READINGS,
    engine::Process,
    trouble::Place,
    world::World,
};

/// How often the oracle reads.
const EVERY: u64 = 1_000;

impl World {
    /// The oracle reads every GPU and tells one control.
    pub(crate) fn read_gpus(&mut self, life: usize) {
        if !self.controls[life].alive || self.controls[life].deposed {
            return;
        }
        self.agenda.push(self.now + EVERY, Item::ReadGpus { life });
        self.grows_at_rest();
        for gpu in 0..self.plan.gpus {
            let there = (0..self.engines.len())
                .filter(|engine| self.engines[*engine].spec.gpus.contains(&GpuId(gpu)));
            let held: Bytes = there.map(|engine| self.shown(engine)).sum();
            if self.now >= self.readings_until {
                self.readings[gpu] = held + self.foreign[gpu];
            }
            let used = self.readings[gpu];
            let event = Event::GpuRead {
                gpu: GpuId(gpu),
                used,
            };
            self.deliver_to_core(life, Box::new(event));
        }
        self.look_after(life);
    }

    /// Somebody else takes memory on a GPU, for a while; an operator may accept that.
    pub(crate) fn foreign_comes(&mut self) -> bool {
        let gpu = self.random.index(self.plan.gpus);
        if !self.plan.measured || self.foreign[gpu] > Bytes(0) {
            return false;
        }
        self.foreign[gpu] = self
            .random
            .pick(&[Bytes(200 << 20), Bytes::gib(1), Bytes::gib(4)]);
        let length = self.random.pick(&[2_000, 8_000, 20_000]);
        let goes = self.now + self.random.below(length);
        self.trouble(Place::Gpu(gpu), goes);
        self.agenda.push(goes, Item::ForeignGoes { gpu });
        if self.random.chance(1, 3) {
            let accepts = self.now + self.random.below(length);
            self.agenda.push(accepts, Item::Accept { gpu });
        }
        true
    }

    /// When faults are over, an operator accepts what has been different for a while.
    fn look_after(&mut self, life: usize) {
        let stopped = |view: &GpuView| view.stopped.is_some();
        let views = self.controls[life].core.gpus();
        for view in views.into_iter().filter(stopped) {
            self.totals.stopped += 1;
            if !self.faults && self.random.chance(1, 6) {
                self.agenda.push(self.now, Item::Accept { gpu: view.gpu.0 });
            }
        }
    }

    /// What counts as somebody else's changes as an operator says; by itself it only falls, to no less than is shown, and soon.
    pub(crate) fn check_foreign(&mut self, life: usize, gpus: &[GpuView]) {
        let reading = self.controls[life].fair.reading.take();
        for view in gpus {
            let fair = &mut self.controls[life].fair;
            let before = fair.foreign.insert(view.gpu, view.foreign);
            let before = before.unwrap_or_default();
            let accepted = fair.accepts.contains(&view.gpu);
            if !view.accepting {
                fair.accepts.remove(&view.gpu);
            }
            let shown = reading.filter(|(read, _)| *read == view.gpu);
            let fell =
                view.foreign < before && shown.is_some_and(|(_, beside)| view.foreign >= beside);
            self.totals.given_back += u64::from(fell && !accepted);
            let given_back = self.controls[life].fair.given_back.get(&view.gpu).copied();
            self.check(accepted || fell || view.foreign == before, |_| {
                format!("{before} were accepted as somebody else's, and now {view:?}")
            });
            let late = given_back.is_some_and(|(readings, _)| readings > READINGS);
            self.check(!late, |_| {
                format!("what was accepted has long been given back, and counts still: {view:?}")
            });
        }
    }

    /// What the oracle says of an engine, over all its GPUs.
    pub(crate) fn oracle(&self, engine: usize) -> Memory {
        let known = &self.engines[engine];
        let is_old = self.now < known.changed_at + self.plan.oracle_lag;
        let each = if is_old && known.process != Process::Gone {
            known.held_before
        } else {
            known.holds
        };
        self.measures(engine, each, None)
    }

    /// What the oracle on one of its GPUs shows of it.
    pub(crate) fn shown(&self, engine: usize) -> Bytes {
        let known = &self.engines[engine];
        let is_old = self.now < known.changed_at + self.plan.oracle_lag;
        if is_old {
            known.held_before
        } else {
            known.holds
        }
    }

    /// What is measured when it holds so much on each GPU, after this action.
    pub(crate) fn measures(&self, engine: usize, each: Bytes, after: Option<Order>) -> Memory {
        if !self.plan.measured {
            return Memory::default();
        }
        let known = &self.engines[engine];
        let all = |bytes: Bytes| Bytes(bytes.0 * known.spec.gpus.len() as u64);
        // Of an action that had nothing to do there was no worst moment.
        let peak = after.filter(|_| known.moved);
        let peak = peak.map(|order| known.real.during(order));
        Memory {
            gpu: Some(all(each)),
            peak: peak.map(all),
            host: Some(all(known.host)),
        }
    }

    /// When the oracle shows these bytes per GPU, if it will; at once where nobody measures.
    pub(crate) fn memory_shows(&self, engine: usize, bytes: Bytes) -> Option<u64> {
        let known = &self.engines[engine];
        let shows_at = (known.changed_at + self.plan.oracle_lag).max(self.now);
        (!self.plan.measured || known.holds == bytes).then_some(if self.plan.measured {
            shows_at
        } else {
            self.now
        })
    }
}
