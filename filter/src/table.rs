//! The table that control sends: rows validated once, applied in the order of epochs and versions (rules 5, 12, 13).
//!
//! Protobuf types stop here. A row never moves back to an older epoch; a table that skips a version is an error.

use std::{borrow::Borrow, collections::BTreeMap, fmt, sync::Arc};

use greenthread_proto::gate::{self, row};
use prost::Message;

use crate::{answers::Answer, path::Prefixes, time::Millis};

/// Id of a row; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(Arc<str>);

impl From<&str> for RowId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl Borrow<str> for RowId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Version of a row's admission, ordered by term, then counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    /// Term of the leader that set it.
    pub term: u64,
    /// One counter per term for all rows.
    pub counter: u64,
}

/// What the gate does with requests of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Forward them while the lease runs.
    Admit,
    /// Hold them; a request that arrives now will wait about this long (zero: unknown).
    Hold(Millis),
    /// Answer new ones at once.
    Refuse(Answer),
}

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

/// One model as this gate sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Id.
    pub id: RowId,
    /// Name for people.
    pub model: String,
    /// Prefixes without slashes at the ends.
    pub prefixes: Vec<String>,
    /// Envoy cluster of the engine.
    pub cluster: String,
    /// Version of the admission.
    pub epoch: Epoch,
    /// What to do.
    pub admission: Admission,
    /// Go on admitting for a while after the lease.
    pub flow: bool,
    /// Longest hold.
    pub hold_budget: Millis,
    /// Most held requests over all gates of the gateway.
    pub hold_limit: u64,
    /// Normalised paths that are refused.
    pub control_paths: Vec<String>,
    /// Documents of the engine that are let through.
    pub expose: Vec<String>,
    /// Bodies that are answered locally.
    pub documents: Documents,
    /// Answer 404.
    pub removed: bool,
}

/// Bodies that control rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// `/status` up to the number in flight.
    pub status_head: Vec<u8>,
    /// `/status` behind it.
    pub status_tail: Vec<u8>,
    /// `/v1/models`.
    pub models: Vec<u8>,
    /// `/health`.
    pub health: Vec<u8>,
    /// Status code of `/health`.
    pub health_status: u32,
}

impl Row {
    /// Checks a row of control.
    pub fn validated(row: gate::Row) -> Result<Self, TableError> {
        if row.id.is_empty() {
            return Err(TableError::NoId);
        }
        let wrong = |field| TableError::Field {
            row: row.id.clone(),
            field,
        };
        let epoch = row
            .epoch
            .map(|epoch| Epoch {
                term: epoch.term,
                counter: epoch.counter,
            })
            .ok_or_else(|| wrong("epoch"))?;
        let admission = row
            .admission
            .and_then(admission)
            .ok_or_else(|| wrong("admission"))?;
        let flow = match row.on_lease_end() {
            gate::OnLeaseEnd::Hold => false,
            gate::OnLeaseEnd::Flow => true,
            gate::OnLeaseEnd::Unspecified => return Err(wrong("on_lease_end")),
        };
        if row
            .prefixes
            .iter()
            .any(|prefix| prefix.split('/').any(str::is_empty))
        {
            return Err(wrong("prefixes"));
        }
        if row.cluster.is_empty() && !row.removed {
            return Err(wrong("cluster"));
        }
        Ok(Self {
            id: RowId::from(row.id.as_str()),
            epoch,
            admission,
            flow,
            hold_budget: Millis(row.hold_budget_ms),
            hold_limit: row.hold_limit,
            control_paths: row.control_paths,
            expose: row.expose,
            documents: Documents {
                status_head: row.status_head,
                status_tail: row.status_tail,
                models: row.models_document,
                health: row.health_document,
                health_status: if (200..600).contains(&row.health_status) {
                    row.health_status
                } else {
                    503
                },
            },
            model: row.model,
            prefixes: row.prefixes,
            cluster: row.cluster,
            removed: row.removed,
        })
    }

    /// Whether the barrier is up.
    pub const fn is_draining(&self) -> bool {
        matches!(self.admission, Admission::Refuse(Answer::Draining(_)))
    }

    /// Estimate of Retry-After for a request that is not forwarded now.
    pub fn estimate(&self) -> u32 {
        const UNKNOWN: u32 = 5;
        match self.admission {
            Admission::Admit => 1,
            Admission::Hold(Millis(0)) => UNKNOWN,
            Admission::Hold(wait) => wait.retry_after(),
            Admission::Refuse(answer) => answer.retry_after().unwrap_or(UNKNOWN),
        }
    }

    /// The row as another gate starts with it: everything but the admission, which is Hold under the smallest epoch.
    fn as_start(&self) -> gate::Row {
        gate::Row {
            id: self.id.to_string(),
            model: self.model.clone(),
            prefixes: self.prefixes.clone(),
            cluster: self.cluster.clone(),
            epoch: Some(gate::Epoch::default()),
            on_lease_end: if self.flow {
                gate::OnLeaseEnd::Flow
            } else {
                gate::OnLeaseEnd::Hold
            }
            .into(),
            hold_budget_ms: self.hold_budget.0,
            hold_limit: self.hold_limit,
            control_paths: self.control_paths.clone(),
            expose: self.expose.clone(),
            status_head: self.documents.status_head.clone(),
            status_tail: self.documents.status_tail.clone(),
            models_document: self.documents.models.clone(),
            health_document: self.documents.health.clone(),
            health_status: self.documents.health_status,
            removed: self.removed,
            admission: Some(row::Admission::Hold(gate::Hold {
                estimated_wait_ms: 0,
            })),
        }
    }

    /// Whether a gate that starts would be told something else about `other`.
    fn starts_like(&self, other: &Self) -> bool {
        (&self.prefixes, &self.cluster, self.removed)
            == (&other.prefixes, &other.cluster, other.removed)
    }
}

fn admission(admission: row::Admission) -> Option<Admission> {
    Some(match admission {
        row::Admission::Admit(gate::Admit {}) => Admission::Admit,
        row::Admission::Hold(gate::Hold { estimated_wait_ms }) => {
            Admission::Hold(Millis(estimated_wait_ms))
        }
        row::Admission::Refuse(refuse) => Admission::Refuse(refusal(refuse)?),
    })
}

fn refusal(refuse: gate::Refuse) -> Option<Answer> {
    let seconds = refuse.retry_after_s.clamp(1, 60);
    match gate::RefuseReason::try_from(refuse.reason).ok()? {
        gate::RefuseReason::Draining => Some(Answer::Draining(seconds)),
        gate::RefuseReason::Booting => Some(Answer::Booting(seconds)),
        gate::RefuseReason::WakeFailed => Some(Answer::WakeFailed(seconds)),
        gate::RefuseReason::Disabled => Some(Answer::Disabled(seconds)),
        gate::RefuseReason::NeverFits => Some(Answer::NeverFits),
        gate::RefuseReason::EngineFailed => Some(Answer::EngineFailed(seconds)),
        gate::RefuseReason::TooLong => Some(Answer::TooLong(seconds)),
        gate::RefuseReason::Unspecified => None,
    }
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
            Some(old) if old.epoch > row.epoch => old,
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
