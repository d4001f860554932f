//! What a control was told of what its engines take, and what it can know by that.

use std::collections::{BTreeMap, BTreeSet};

use greenthread_core::{
    event::Memory,
    ids::{Attempt, Bytes},
    model::{ModelSpec, Size, Source},
    phase::Tier,
};

use super::Real;
use crate::agenda::Order;

/// What one engine was measured to take; `None`: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    pub(super) awake: Option<Bytes>,
    pub(super) asleep: Option<Bytes>,
    pub(super) starting: Option<Bytes>,
    pub(super) waking: Option<Bytes>,
    pub(super) sleeping: Option<Bytes>,
    pub(super) host: Option<Bytes>,
}

impl Measured {
    /// An action has ended and was measured.
    pub(super) fn learn(&mut self, declared: Bytes, order: Order, memory: Memory) {
        let Some(gpu) = memory.gpu else {
            return;
        };
        let above = |awake: Bytes| memory.peak.map(|peak| peak.less(awake));
        match order {
            Order::Start => {
                self.is_awake(declared, gpu);
                self.starting = self.starting.max(above(gpu));
            }
            Order::Wake(_) => {
                self.is_awake(declared, gpu);
                self.waking = self.waking.max(above(gpu));
            }
            Order::Sleep(_, tier) => {
                self.is_asleep(declared, gpu);
                self.sleeping = self.sleeping.max(above(self.awake.unwrap_or(declared)));
                if tier == Tier::Ram {
                    self.host = self.host.max(memory.host.filter(|host| host.0 > 0));
                }
            }
        }
    }

    /// It holds so much while it is awake. A peak that was measured above what was only declared stands above this now.
    pub(super) fn is_awake(&mut self, declared: Bytes, awake: Bytes) {
        if self.awake.replace(awake).is_none() {
            let peak = self.sleeping.map(|above| declared + above);
            self.sleeping = peak.map(|peak| peak.less(awake));
        }
    }

    /// It keeps so much while it sleeps; what keeps nearly all that it has when it is awake was not freed.
    pub(super) fn is_asleep(&mut self, declared: Bytes, asleep: Bytes) {
        let awake = self.awake.unwrap_or(declared).0;
        if asleep.0 > 0 && asleep.0 <= awake - awake / 10 {
            self.asleep = Some(asleep);
        }
    }

    /// A spec with what was measured in place of what was declared, as `state/footprints.json` has it.
    pub(super) fn apply(&self, spec: &mut ModelSpec) {
        let measured = |bytes| Size {
            bytes,
            source: Source::Measured,
        };
        let sizes = &mut spec.sizes;
        if let Some(awake) = self.awake {
            (spec.awake, sizes.awake) = (awake, Source::Measured);
        }
        if let Some(asleep) = self.asleep {
            (spec.asleep, sizes.asleep) = (asleep, Source::Measured);
        }
        sizes.waking = self.waking.map_or(sizes.waking, measured);
        sizes.starting = self.starting.map_or(sizes.starting, measured);
        let starts = self.starting.filter(|above| *above > sizes.waking.bytes);
        sizes.waking = starts.map_or(sizes.waking, measured);
        sizes.sleeping = self.sleeping.map_or(sizes.sleeping, measured);
        sizes.host = self.host.map_or(sizes.host, measured);
    }

    /// Whether this, or what was declared where nothing was measured, covers what the engine takes for it.
    pub(super) fn covers(&self, declared: &Real, real: &Real, order: Order) -> bool {
        let known = Real {
            awake: self.awake.unwrap_or(declared.awake),
            asleep: self.asleep.unwrap_or(declared.asleep),
            starting: self.starting.unwrap_or(declared.starting),
            waking: self.waking.unwrap_or(declared.waking),
            sleeping: self.sleeping.unwrap_or(declared.sleeping),
            host: self.host.unwrap_or(declared.host),
        };
        known.awake >= real.awake && known.during(order) >= real.during(order)
    }
}

/// What was measured of each engine, by row.
pub type AllMeasured = BTreeMap<usize, Measured>;

/// What one life of control was told of what its engines take.
#[derive(Clone, Debug, Default)]
pub struct Knows {
    /// What was measured of each row.
    pub measured: AllMeasured,
    /// … if what was told of actions that were cut short counts too, which is for the core to say.
    pub perhaps: AllMeasured,
    /// Actions that were under way when it was told that their engine is gone, by row: their outcomes may still come.
    pub cut_short: BTreeMap<usize, (Order, Attempt)>,
    /// Rows of which an outcome was told that ended nothing any more.
    pub uncertain: BTreeSet<usize>,
    /// Rows whose last action was a sleep, of which the end was told.
    pub slept: BTreeSet<usize>,
    /// What was measured to stay of each row before its last sleep.
    pub stayed_before: BTreeMap<usize, Option<Bytes>>,
}

impl Knows {
    /// A life begins with what was measured before it.
    pub fn since(measured: &AllMeasured) -> Self {
        Self {
            measured: measured.clone(),
            ..Self::default()
        }
    }

    /// What was measured of a row; all that it may have been.
    pub(super) fn all(&self, row: usize) -> impl Iterator<Item = Measured> {
        let measured = self.measured.get(&row).copied().unwrap_or_default();
        std::iter::once(measured).chain(self.perhaps.get(&row).copied())
    }

    /// Something was measured of a row.
    pub(super) fn learn(&mut self, row: usize, learn: impl Fn(&mut Measured)) {
        learn(self.measured.entry(row).or_default());
        self.perhaps.entry(row).and_modify(learn);
    }

    /// An engine is told to sleep once more: where it had said that it does, it kept what is no residual.
    pub(crate) fn sleeps_again(&mut self, row: usize) {
        if self.slept.contains(&row)
            && let Some(before) = self.stayed_before.remove(&row)
        {
            self.learn(row, |measured| measured.asleep = before);
        }
    }

    /// An action that was cut short ended all the same. Others are of another life, or were told before.
    pub(super) fn perhaps_learn(
        &mut self,
        row: usize,
        declared: Bytes,
        attempt: Attempt,
        memory: Memory,
    ) {
        let cut_short = self.cut_short.get(&row);
        let its = cut_short.filter(|(_, known)| *known == attempt);
        if let Some((order, _)) = its {
            let measured = self.measured.get(&row).copied().unwrap_or_default();
            let perhaps = self.perhaps.entry(row).or_insert(measured);
            perhaps.learn(declared, *order, memory);
        }
    }
}
