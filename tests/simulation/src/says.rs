//! What control says to its gates, against what it has heard: what heartbeats echo and tell, and on which streams anything is said.

use std::collections::{BTreeMap, BTreeSet};

use greenthread_core::ids::{GateId, ModelId, StreamId};

use crate::world::World;

/// Streams of one life, as its core knows them.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Those that have brought a table.
    tables: BTreeSet<StreamId>,
    /// Those that the core has closed, or knows to be closed.
    closed: BTreeSet<StreamId>,
}

impl Told {
    /// The core closes a stream, or is told that it is closed.
    pub fn closes(&mut self, stream: StreamId) {
        self.closed.insert(stream);
    }
}

impl World {
    /// A table goes out: not on a stream that was closed, and only once on each.
    pub(crate) fn check_table(&mut self, life: usize, stream: StreamId) {
        let told = &mut self.controls[life].says;
        let (fresh, closed) = (told.tables.insert(stream), told.closed.contains(&stream));
        self.check(fresh && !closed, |_| {
            format!("a table on stream {}, which has one or is closed", stream.0)
        });
    }

    /// Rule 2: a heartbeat stands behind the table of its stream, and echoes the newest message that control has processed.
    pub(crate) fn check_heartbeat(
        &mut self,
        life: usize,
        gate: &GateId,
        stream: StreamId,
        echoed: u64,
        elsewhere: Option<&[(ModelId, u64)]>,
    ) {
        let control = &self.controls[life];
        let (told, account) = (&control.says, &control.account);
        let there = told.tables.contains(&stream) && !told.closed.contains(&stream);
        let newest = account.newest(gate);
        let truth = account.elsewhere(gate);
        let said: Option<BTreeMap<ModelId, u64>> =
            elsewhere.map(|rows| rows.iter().cloned().collect());
        self.check(there, |_| {
            format!("rule 2: a heartbeat on stream {} without a table", stream.0)
        });
        self.check(newest == Some((stream, echoed)), |_| {
            format!(
                "rule 2: {echoed} is echoed on stream {}, and the newest is {newest:?}",
                stream.0
            )
        });
        self.check(said.as_ref().is_none_or(|said| *said == truth), |_| {
            format!("{gate:?} is told that others have {said:?} in flight, and it is {truth:?}")
        });
    }

    /// A model was used when gates, or operators, said so, and not later.
    pub(crate) fn check_uses(&mut self, life: usize) {
        let control = &self.controls[life];
        let late = control.core.view().into_iter().find(|view| {
            let heard = control.account.used_at_most(&view.id);
            view.last_used
                .is_some_and(|at| heard.is_none_or(|heard| at > heard))
        });
        let late = late.map(|view| (view.id, view.last_used));
        self.check(late.is_none(), |_| {
            format!("{late:?} was used, and nobody said so")
        });
    }
}
