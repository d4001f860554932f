//! What the driver answers to operators who ask why, and what it does when they decide about a GPU's memory.

use greenthread_core::{event::Event, ids::GpuId};

use super::Driver;
use crate::{
    choice::{Choice, Wall, WhyNot},
    input::{NotAccepted, UnknownModel},
    journal::unix_millis,
    overview::Gpu,
};

impl Driver {
    /// The latest choices about a model, oldest first.
    pub(super) fn explain(&self, name: String, last: usize) -> Result<Vec<Choice>, UnknownModel> {
        let Some(model) = self.table.named(&name) else {
            return Err(self.unknown(name));
        };
        let (choices, wall) = (self.core.explain(model, last), self.wall());
        Ok(choices
            .iter()
            .map(|choice| Choice::of(choice, wall))
            .collect())
    }

    /// One choice, as long as it is kept.
    pub(super) fn choice(&self, number: u64) -> Option<Choice> {
        self.core
            .choice(number)
            .map(|choice| Choice::of(choice, self.wall()))
    }

    /// Why a model is not awake.
    pub(super) fn why_not(&self, name: String) -> Result<WhyNot, UnknownModel> {
        let why = self
            .table
            .named(&name)
            .and_then(|model| self.core.why_not(self.clock.now(), model));
        match why {
            Some(why) => Ok(WhyNot::of(why)),
            None => Err(self.unknown(name)),
        }
    }

    /// Takes what a GPU holds beyond the ledger for somebody else's, and tells what is known of the GPU then.
    pub(super) fn accept_gpu(&mut self, gpu: usize) -> Result<Gpu, NotAccepted> {
        let gpus = self.gpus();
        let Some(before) = gpus.get(gpu) else {
            return Err(NotAccepted::UnknownGpu {
                gpu,
                gpus: gpus.len(),
            });
        };
        if before.used_bytes.is_none() {
            return Err(NotAccepted::Unmeasured { gpu });
        }
        self.step(Event::GpuAccepted(GpuId(gpu)));
        let after = self.gpus().into_iter().nth(gpu);
        Ok(after.expect("a step takes no GPU out of the fleet"))
    }

    /// The answer for a name that no model has.
    pub(super) fn unknown(&self, name: String) -> UnknownModel {
        UnknownModel {
            name,
            known: self.table.names(),
        }
    }

    fn wall(&self) -> Wall {
        Wall {
            now: self.clock.now(),
            unix_ms: unix_millis(),
        }
    }
}
