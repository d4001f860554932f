//! The table that control sends, applied in the order of epochs and versions (rules 5, 12, 13).
//!
//! A row never moves back to an older epoch; a table that skips a version is an error.

use std::{collections::BTreeMap, sync::Arc};

use greenthread_proto::gate;
use prost::Message;

use crate::{
    path::Prefixes,
    row::{Row, RowId},
    time::Millis,
};

/// What is wrong with a message of control. Every one of them closes the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A row without an id.
    #[error("a row has no id")]
    NoId,
    /// A row that does not say what the gate needs.
    #[error("row `{row}`: {field} is missing or not known")]
    Field {
        /// Its id.
        row: String,
        /// Which field.
        field: &'static str,
    },
    /// A delta that does not follow the version in force.
    #[error("delta {got} does not follow version {have}")]
    Gap {
        /// Version in force.
        have: u64,
        /// Version of the delta.
        got: u64,
    },
    /// Chunks of two snapshots are mixed.
    #[error("chunks of different snapshots are mixed")]
    MixedChunks,
    /// The last chunk has no times, or times that make no sense.
    #[error("the times of the snapshot are missing or out of range")]
    Times,
}

/// Times of the protocol, as control last said them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Lease.
    pub lease: Millis,
    /// Report interval.
    pub heartbeat: Millis,
    /// How long `flow` rows go on.
    pub max_flow: Millis,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease: Millis::seconds(5),
            heartbeat: Millis::seconds(1),
            max_flow: Millis::seconds(600),
        }
    }
}

impl Times {
    fn validated(times: gate::Times) -> Option<Self> {
        const LONGEST: u64 = 24 * 3_600_000;
        let lengths = [times.lease_ms, times.heartbeat_ms];
        let sane = lengths.iter().all(|length| (1..=LONGEST).contains(length))
            && times.max_flow_ms <= LONGEST;
        sane.then_some(Self {
            lease: Millis(times.lease_ms),
            heartbeat: Millis(times.heartbeat_ms),
            max_flow: Millis(times.max_flow_ms),
        })
    }
}

/// Rows that took effect; those with a barrier have to be acknowledged.
pub type Applied = Vec<Arc<Row>>;

/// Chunks of a snapshot that is not complete.
#[derive(Clone, Debug)]
struct Staged {
    version: u64,
    rows: Vec<Row>,
}

/// All rows.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: BTreeMap<RowId, Arc<Row>>,
    prefixes: Prefixes<RowId>,
    version: u64,
    staged: Option<Staged>,
    times: Times,
    start_changed: bool,
}

impl Table {
    /// The row of a path, and the length of its prefix.
    pub fn find(&self, path: &[u8]) -> Option<(Arc<Row>, usize)> {
        let (id, length) = self.prefixes.longest(path)?;
        self.rows.get(id).map(|row| (Arc::clone(row), length))
    }

    /// The row with this id.
    pub fn row(&self, id: &RowId) -> Option<&Arc<Row>> {
        self.rows.get(id)
    }

    /// All rows, by id.
    pub fn rows(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.rows.values()
    }

    /// Version in force; 0 before the first snapshot.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Times in force.
    pub const fn times(&self) -> Times {
        self.times
    }

    /// Forgets the chunks of a stream that ended.
    pub fn drop_chunks(&mut self) {
        self.staged = None;
    }

    /// Takes a chunk. With the last one the table takes effect and the rows that were applied are returned.
    pub fn snapshot(&mut self, chunk: gate::Snapshot) -> Result<Option<Applied>, TableError> {
        let staged = self.staged.get_or_insert(Staged {
            version: chunk.version,
            rows: Vec::new(),
        });
        if staged.version != chunk.version {
            return Err(TableError::MixedChunks);
        }
        for row in chunk.rows {
            staged.rows.push(Row::validated(row)?);
        }
        if !chunk.last {
            return Ok(None);
        }
        self.times = chunk
            .times
            .and_then(Times::validated)
            .ok_or(TableError::Times)?;
        let Some(staged) = self.staged.take() else {
            return Ok(None);
        };
        let mut before = std::mem::take(&mut self.rows);
        let mut applied = Vec::new();
        for row in staged.rows {
            let old = before.remove(&row.id);
            self.apply(old, row, &mut applied);
        }
        self.version = staged.version;
        self.start_changed = true;
        self.index();
        Ok(Some(applied))
    }

    /// Applies changed rows; returns those that were applied.
    pub fn delta(&mut self, delta: gate::Delta) -> Result<Applied, TableError> {
        if delta.version != self.version.saturating_add(1) {
            return Err(TableError::Gap {
                have: self.version,
                got: delta.version,
            });
        }
        let rows = delta
            .rows
            .into_iter()
            .map(Row::validated)
            .collect::<Result<Vec<_>, _>>()?;
        let mut applied = Vec::new();
        for row in rows {
            let old = self.rows.remove(&row.id);
            self.start_changed |= old.as_ref().is_none_or(|old| !old.starts_like(&row));
            self.apply(old, row, &mut applied);
        }
        self.version = delta.version;
        self.index();
        Ok(applied)
    }

    /// A smaller epoch is ignored, an equal one applied again.
    fn apply(&mut self, old: Option<Arc<Row>>, row: Row, applied: &mut Applied) {
        let row = match old {
            Some(old) if sabotage!(OlderEpochApplied, false, old.epoch > row.epoch) => old,
            Some(_) | None => {
                let row = Arc::new(row);
                applied.push(Arc::clone(&row));
                row
            }
        };
        self.rows.insert(row.id.clone(), row);
    }

    /// A removed row gives way to a row that has taken its prefix; otherwise the smallest id wins.
    fn index(&mut self) {
        let mut rows: Vec<&Arc<Row>> = self.rows.values().collect();
        rows.sort_by_key(|row| !row.removed);
        let mut prefixes = Prefixes::default();
        let (removed, present) = rows.split_at(rows.partition_point(|row| row.removed));
        for row in removed.iter().rev().chain(present.iter().rev()) {
            for prefix in &row.prefixes {
                prefixes.insert(prefix, row.id.clone());
            }
        }
        self.prefixes = prefixes;
    }

    /// What a gate that starts later needs, when it changed since the last call.
    pub fn changed_start(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.start_changed) {
            return None;
        }
        let rows = self.rows.values().map(|row| row.as_start()).collect();
        Some(
            gate::Snapshot {
                rows,
                ..gate::Snapshot::default()
            }
            .encode_to_vec(),
        )
    }

    /// Starts with what another gate wrote: every row as Hold. Returns whether there was anything readable.
    pub fn start_with(&mut self, saved: &[u8]) -> bool {
        let Ok(snapshot) = gate::Snapshot::decode(saved) else {
            return false;
        };
        let Ok(rows) = snapshot
            .rows
            .into_iter()
            .map(Row::validated)
            .collect::<Result<Vec<_>, _>>()
        else {
            return false;
        };
        self.rows = rows
            .into_iter()
            .map(|row| (row.id.clone(), Arc::new(row)))
            .collect();
        self.index();
        true
    }
}
