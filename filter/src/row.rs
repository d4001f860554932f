//! One row of the table, validated: what control says about one model. Protobuf types stop here.

use std::{borrow::Borrow, fmt, sync::Arc};

use greenthread_proto::gate::{self, row};

use crate::{answers::Answer, table::TableError, time::Millis};

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
    pub(crate) fn as_start(&self) -> gate::Row {
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
    pub(crate) fn starts_like(&self, other: &Self) -> bool {
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
