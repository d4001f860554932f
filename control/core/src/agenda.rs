//! Who wants a turn at which moment. Each model and each GPU has one moment, set again whenever it had its turn.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{GpuId, Millis, ModelId};

/// Who can have a turn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// One model.
    Model(ModelId),
    /// The queue of one GPU.
    Gpu(GpuId),
}

/// Moments by who, and who by moments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agenda {
    by_time: BTreeSet<(Millis, Turn)>,
    by_turn: BTreeMap<Turn, Millis>,
}

impl Agenda {
    /// Replaces the moment of a turn.
    pub(crate) fn set(&mut self, turn: Turn, at: Option<Millis>) {
        let old = match at {
            Some(at) if self.by_turn.get(&turn) == Some(&at) => return,
            Some(at) => self.by_turn.insert(turn.clone(), at),
            None => self.by_turn.remove(&turn),
        };
        let mut entry = (Millis(0), turn);
        if let Some(old) = old {
            entry.0 = old;
            self.by_time.remove(&entry);
        }
        if let Some(at) = at {
            entry.0 = at;
            self.by_time.insert(entry);
        }
    }

    /// Takes a turn whose moment has come.
    pub(crate) fn take_due(&mut self, now: Millis) -> Option<Turn> {
        let (at, _) = self.by_time.first()?;
        if *at > now {
            return None;
        }
        let (_, turn) = self.by_time.pop_first()?;
        self.by_turn.remove(&turn);
        Some(turn)
    }

    /// The first moment.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }
}
