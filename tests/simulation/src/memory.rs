//! Memory that is nobody's in the fleet, what the oracle reads on whole GPUs, and the operator who looks after both.

use greenthread_core::{
    event::Event,
    ids::{Bytes, GpuId},
};

use crate::{agenda::Item, world::World};

/// How often the oracle reads.
const EVERY: u64 = 1_000;

impl World {
    /// The oracle reads every GPU and tells one control.
    pub(crate) fn read_gpus(&mut self, life: usize) {
        if !self.controls[life].alive || self.controls[life].deposed {
            return;
        }
        self.agenda.push(self.now + EVERY, Item::ReadGpus { life });
        for gpu in 0..self.plan.gpus {
            let there = (0..self.engines.len())
                .filter(|engine| self.engines[*engine].spec.gpus.contains(&GpuId(gpu)));
            let held: Bytes = there.map(|engine| self.shown(engine)).sum();
            let event = Event::GpuRead {
                gpu: GpuId(gpu),
                used: held + self.foreign[gpu],
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
        self.agenda.push(goes, Item::ForeignGoes { gpu });
        if self.random.chance(1, 3) {
            let accepts = self.now + self.random.below(length);
            self.agenda.push(accepts, Item::Accept { gpu });
        }
        true
    }

    /// When faults are over, an operator accepts what has been different for a while.
    fn look_after(&mut self, life: usize) {
        let stopped = |view: &greenthread_core::GpuView| view.stopped.is_some();
        let views = self.controls[life].core.gpus();
        for view in views.into_iter().filter(stopped) {
            self.totals.stopped += 1;
            if !self.faults && self.random.chance(1, 6) {
                self.agenda.push(self.now, Item::Accept { gpu: view.gpu.0 });
            }
        }
    }
}
