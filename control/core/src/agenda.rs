//! Who wants a turn at which moment. Each model and each GPU has one moment, set again whenever it had its turn.

use std::collections::BTreeSet;

use crate::{
    ids::{GpuId, Millis},
    models::Slot,
};

/// Who can have a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// One model.
    Model(Slot),
    /// The queue of one GPU.
    Gpu(GpuId),
}

/// Moments by who, and who by moments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agenda {
    by_time: BTreeSet<(Millis, Turn)>,
    models: Vec<Option<Millis>>,
    gpus: Vec<Option<Millis>>,
}

impl Agenda {
    /// Replaces the moment of a turn.
    pub(crate) fn set(&mut self, turn: Turn, at: Option<Millis>) {
        let old = self.replace(turn, at);
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.by_time.remove(&(old, turn));
        }
        if let Some(at) = at {
            self.by_time.insert((at, turn));
        }
    }

    /// Takes a turn whose moment has come.
    pub(crate) fn take_due(&mut self, now: Millis) -> Option<Turn> {
        let (at, _) = self.by_time.first()?;
        if *at > now {
            return None;
        }
        let (_, turn) = self.by_time.pop_first()?;
        self.replace(turn, None);
        Some(turn)
    }

    /// The first moment.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    fn replace(&mut self, turn: Turn, at: Option<Millis>) -> Option<Millis> {
        let (moments, index) = match turn {
            Turn::Model(slot) => (&mut self.models, slot.index()),
            Turn::Gpu(gpu) => (&mut self.gpus, gpu.0),
        };
        if moments.len() <= index {
            moments.resize(index + 1, None);
        }
        let place = moments.get_mut(index)?;
        std::mem::replace(place, at)
    }
}
