//! What a model takes, learned from what its engine was seen to hold. Each figure says where it comes from.

use crate::{
    Core,
    effect::Effect,
    event::{Memory, Outcome},
    ids::{Bytes, ModelId},
    model::{Size, Source},
    phase::Tier,
    state::ModelState,
};

/// What may be held after a sleep: the residual and a tenth of what should have been freed.
pub(crate) fn allowed_after_sleep(awake: Bytes, asleep: Bytes) -> Bytes {
    asleep + Bytes(awake.less(asleep).0 / 10)
}

impl Core {
    /// Oracles measure engines; the ledger keeps what each of an engine's GPUs carries.
    pub(crate) fn per_gpu(&self, id: &ModelId, memory: Memory) -> Memory {
        let gpus = self.models.get(id).map_or(1, |state| state.spec.gpus.len());
        let gpus = u64::try_from(gpus).unwrap_or(1).max(1);
        let share = |bytes: Option<Bytes>| bytes.map(|bytes| Bytes(bytes.0.div_ceil(gpus)));
        let Memory { gpu, peak, host } = memory;
        Memory {
            gpu: share(gpu),
            peak: share(peak),
            host: share(host),
        }
    }

    /// An outcome with its memory for each GPU, and the sizes of the model as they were known before it.
    pub(crate) fn outcome_per_gpu(
        &self,
        id: &ModelId,
        outcome: Outcome,
    ) -> (Outcome, Option<[Size; 6]>) {
        let outcome = match outcome {
            Outcome::Done { took, memory } => Outcome::Done {
                took,
                memory: self.per_gpu(id, memory),
            },
            Outcome::Failed(_) | Outcome::Unknown { .. } => outcome,
        };
        (outcome, self.sizes(id))
    }

    /// What is known of the sizes of a model that was measured for a whole cycle.
    fn sizes(&self, id: &ModelId) -> Option<[Size; 6]> {
        let spec = &self.models.get(id)?.spec;
        let of = |bytes, source| Size { bytes, source };
        let sizes = &spec.sizes;
        let all = [
            of(spec.awake, sizes.awake),
            of(spec.asleep, sizes.asleep),
            sizes.waking,
            sizes.starting,
            sizes.sleeping,
            sizes.host,
        ];
        spec.conditioned.then_some(all)
    }

    /// What was measured is persisted for the next life of control, where it says something new.
    pub(crate) fn keep_sizes(
        &self,
        id: &ModelId,
        before: Option<[Size; 6]>,
        effects: &mut Vec<Effect>,
    ) {
        let (Some(before), Some(after)) = (before, self.sizes(id)) else {
            return;
        };
        let is_new = |(old, new): (&Size, &Size)| {
            let differs = new.bytes.less(old.bytes).max(old.bytes.less(new.bytes));
            differs > self.fleet.tolerance || new.source != old.source
        };
        if before.iter().zip(&after).any(is_new) {
            effects.push(Effect::Footprint { model: id.clone() });
        }
    }
}

impl ModelState {
    /// What an engine was seen to hold when it had just become awake.
    pub(crate) fn measured_awake(&mut self, memory: Memory) {
        if let Some(awake) = memory.gpu.filter(|bytes| bytes.0 > 0) {
            self.takes_awake(awake);
        }
        self.engine.host_kept = memory.host.unwrap_or(self.engine.host_kept);
    }

    /// An engine that has served for a while was seen to hold this. Returns what it takes from now on, if that is something else.
    pub(crate) fn seen_awake(&mut self, memory: Memory, tolerance: Bytes) -> Option<Bytes> {
        let seen = memory.gpu.filter(|bytes| bytes.0 > 0)?;
        let before = self.spec.awake;
        let differs = seen.less(before).max(before.less(seen)) > tolerance;
        if differs || self.spec.sizes.awake != Source::Measured {
            self.takes_awake(seen);
        }
        differs.then_some(seen)
    }

    /// Measured: it takes this while it is awake. A peak that was measured above what was only declared stays where it was.
    fn takes_awake(&mut self, awake: Bytes) {
        let declared = self.spec.sizes.awake != Source::Measured;
        let takes = sabotage!(NothingLearned, self.spec.awake, awake);
        let before = std::mem::replace(&mut self.spec.awake, takes);
        let sizes = &mut self.spec.sizes;
        sizes.awake = Source::Measured;
        for size in [&mut sizes.waking, &mut sizes.starting, &mut sizes.sleeping] {
            if declared && size.source == Source::Measured {
                size.bytes = (before + size.bytes).less(awake);
            }
        }
    }

    /// A sleep that left so much freed nothing that is worth it: that is no residual, however large residuals are or have become.
    pub(crate) fn keeps(&self, left: Bytes) -> bool {
        let Bytes(awake) = self.spec.awake;
        let most = Bytes(awake - awake / 10);
        left > most.max(allowed_after_sleep(self.spec.awake, self.spec.asleep))
    }

    /// An engine that has slept for a while was seen to hold this. Returns what it keeps from now on, if that is something else.
    pub(crate) fn seen_left(&mut self, memory: Memory, tolerance: Bytes) -> Option<Bytes> {
        let seen = memory
            .gpu
            .filter(|bytes| bytes.0 > 0 && !self.keeps(*bytes))?;
        let before = self.spec.asleep;
        let differs = seen.less(before).max(before.less(seen)) > tolerance;
        if differs || self.spec.sizes.asleep != Source::Measured {
            (self.spec.asleep, self.spec.sizes.asleep) = (seen, Source::Measured);
        }
        differs.then_some(seen)
    }

    /// What an engine was seen to hold when it had just fallen asleep; `kept`: it is not what it holds when it has.
    pub(crate) fn measured_asleep(&mut self, memory: Memory, kept: bool) {
        if let Some(asleep) = memory.gpu.filter(|bytes| bytes.0 > 0 && !kept) {
            (self.spec.asleep, self.spec.sizes.asleep) = (asleep, Source::Measured);
        }
        let awake = self.spec.awake;
        raise(&mut self.spec.sizes.sleeping, memory.peak, awake);
        if let (Some(bytes), Tier::Ram) = (memory.host.filter(|b| b.0 > 0), self.engine.copy) {
            self.spec.sizes.host = Size {
                bytes,
                source: Source::Measured,
            };
        }
    }
}

/// A peak above `awake` was measured: what was declared or guessed gives way, what was measured only grows.
pub(crate) fn raise(size: &mut Size, peak: Option<Bytes>, awake: Bytes) {
    let Some(above) = peak.map(|peak| peak.less(awake)) else {
        return;
    };
    let known = if size.source == Source::Measured {
        size.bytes
    } else {
        Bytes(0)
    };
    *size = Size {
        bytes: above.max(known),
        source: Source::Measured,
    };
}
