//! An independent account of what a gate may do, kept from the messages that it sent and got: the rules of leases, terms and epochs,
//! written a second time. A gate may do less than this allows, never more.

use std::collections::BTreeMap;

use prost::Message;

use greenthread_proto::gate::{
    self, ControlMessage, GateMessage, OnLeaseEnd, RefuseReason, RowFigures, control_message::Body,
    gate_message, row,
};

/// A row as a gate must see it.
#[derive(Clone, Debug)]
pub struct Row {
    /// (term, counter).
    pub epoch: (u64, u64),
    /// The row admits.
    pub admits: bool,
    /// It holds, and a request that comes now waits so long, in ms.
    pub holds_for: Option<u64>,
    /// The barrier is up.
    pub draining: bool,
    /// It goes on after the lease.
    pub flow: bool,
    /// It answers 404.
    pub removed: bool,
    /// Its prefix.
    pub prefix: Option<String>,
}

/// What one gate may do.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    rows: BTreeMap<String, Row>,
    sent: BTreeMap<u64, u64>,
    sequence: u64,
    hello: u64,
    has_snapshot: bool,
    staged: Vec<gate::Row>,
    lease_until: Option<u64>,
    lease: u64,
    max_flow: u64,
    largest_term: u64,
    version: u64,
    has_left: bool,
    /// Both clocks at the last tick, and the moment at which they moved apart.
    clocks: Option<(u64, u64)>,
    void_before: u64,
}

/// What must follow from a message in the same call.
#[derive(Clone, Debug, Default)]
pub struct Owed {
    /// The stream must be closed: the message is of an older term.
    pub closes: bool,
    /// Barriers that must be acknowledged: row and epoch.
    pub acknowledgements: Vec<(String, (u64, u64))>,
}

impl Reference {
    /// A gate that begins with what another gate of its Envoy has shared: it knows paths, and admits nothing.
    pub fn start(saved: Option<&[u8]>) -> Self {
        let rows = saved.and_then(|saved| gate::Snapshot::decode(saved).ok());
        let mut reference = Self::default();
        reference.apply(&rows.unwrap_or_default().rows);
        reference
    }

    /// The end of the lease, on the gate's clock.
    pub fn lease_until(&self) -> Option<u64> {
        self.lease_until
    }

    /// Largest term that was obeyed.
    pub fn largest_term(&self) -> u64 {
        self.largest_term
    }

    /// Number of the last message that it sent.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Version of its table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether its open stream has brought a snapshot.
    pub fn has_snapshot(&self) -> bool {
        self.has_snapshot
    }

    /// A row that does not admit now, as it might have been under an older epoch.
    pub fn old_row(&self) -> Option<gate::Row> {
        let (id, row) = (self.rows.iter()).find(|(_, row)| !row.admits && row.epoch.1 > 1)?;
        let prefixes = row.prefix.clone().into_iter().collect();
        self.has_snapshot.then(|| gate::Row {
            id: id.clone(),
            model: id.clone(),
            prefixes,
            cluster: format!("gt-{id}"),
            epoch: Some(gate::Epoch {
                term: row.epoch.0,
                counter: row.epoch.1 - 1,
            }),
            admission: Some(row::Admission::Admit(gate::Admit {})),
            on_lease_end: if row.flow {
                OnLeaseEnd::Flow
            } else {
                OnLeaseEnd::Hold
            }
            .into(),
            hold_budget_ms: 1_000,
            hold_limit: 1_000,
            health_status: 200,
            ..gate::Row::default()
        })
    }

    /// Whether it has said Bye.
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    /// Whether the gate has this row.
    pub fn knows(&self, row: &str) -> bool {
        self.rows.contains_key(row)
    }

    /// Whether a row may be admitted at this moment of the gate's clock: by the lease, or because it flows.
    pub fn admits(&self, now: u64, row: &str) -> bool {
        self.leased(now, row) || self.flows(now, row)
    }

    /// Whether a row admits inside the lease.
    pub fn leased(&self, now: u64, row: &str) -> bool {
        let admits = self
            .rows
            .get(row)
            .is_some_and(|row| row.admits && !row.removed);
        admits && !self.has_left && self.lease_until.is_some_and(|until| now < until)
    }

    /// Whether a row flows on after the lease.
    pub fn flows(&self, now: u64, row: &str) -> bool {
        let flows = self
            .rows
            .get(row)
            .is_some_and(|row| row.admits && !row.removed && row.flow);
        flows
            && !self.has_left
            && self
                .lease_until
                .is_some_and(|until| now >= until && now < until + self.max_flow)
    }

    /// What a row that holds said of the wait of a request that comes now, in ms.
    pub fn holds_for(&self, row: &str) -> Option<u64> {
        self.rows.get(row)?.holds_for
    }

    /// Whether a row neither admits nor holds; `None` of one that is removed.
    pub fn refuses(&self, row: &str) -> Option<bool> {
        let row = self.rows.get(row).filter(|row| !row.removed)?;
        Some(!row.admits && row.holds_for.is_none())
    }

    /// The row of a path prefix: one that is not removed goes first.
    pub fn find(&self, prefix: &str) -> Option<&str> {
        let owns = |row: &&Row| row.prefix.as_deref() == Some(prefix);
        let of = |removed: bool| {
            let mut rows = self.rows.iter();
            rows.find(|(_, row)| owns(row) && row.removed == removed)
        };
        of(false).or_else(|| of(true)).map(|(id, _)| id.as_str())
    }

    /// Rule 17: where wall and monotonic clock move apart by more than a second, the lease is lost, and with it what was sent before.
    pub fn clocks(&mut self, now: u64, wall: u64) {
        if let Some((last, wall_then)) = self.clocks.replace((now, wall)) {
            let apart = (wall.wrapping_sub(wall_then)).wrapping_sub(now - last) as i64;
            if apart.unsigned_abs() > 1_000 {
                self.lease_until = self.lease_until.map(|until| until.min(now));
                self.void_before = now;
            }
        }
    }

    /// Takes what the gate sends; returns its figures, to be compared with the truth, or what is wrong with it.
    pub fn sends<'a>(
        &mut self,
        now: u64,
        message: &'a GateMessage,
    ) -> Result<&'a [RowFigures], String> {
        if message.sequence != self.sequence + 1 {
            return Err(format!(
                "a gate numbers {} after {}",
                message.sequence, self.sequence
            ));
        }
        self.sequence = message.sequence;
        self.sent.insert(message.sequence, now);
        match &message.body {
            Some(gate_message::Body::Hello(hello)) => {
                (self.hello, self.has_snapshot) = (message.sequence, false);
                self.staged.clear();
                if hello.largest_term != self.largest_term {
                    return Err("a Hello names another term than the largest".to_owned());
                }
                Ok(&hello.rows)
            }
            Some(gate_message::Body::Report(report)) => Ok(&report.rows),
            Some(gate_message::Body::Bye(_)) => {
                self.has_left = true;
                Ok(&[])
            }
            Some(gate_message::Body::BarrierAck(_)) | None => Ok(&[]),
        }
    }

    /// Takes what the gate reads on its open stream.
    pub fn reads(&mut self, message: &ControlMessage) -> Owed {
        if message.term < self.largest_term {
            return Owed {
                closes: true,
                ..Owed::default()
            };
        }
        self.largest_term = message.term;
        match &message.body {
            Some(Body::Snapshot(chunk)) => {
                self.staged.extend(chunk.rows.iter().cloned());
                if !chunk.last {
                    return Owed::default();
                }
                let times = chunk.times.unwrap_or_default();
                (self.lease, self.max_flow) = (times.lease_ms, times.max_flow_ms);
                self.version = chunk.version;
                self.has_snapshot = true;
                let before = std::mem::take(&mut self.rows);
                let staged = std::mem::take(&mut self.staged);
                for row in &staged {
                    if let Some(old) = before.get(&row.id) {
                        self.rows.insert(row.id.clone(), old.clone());
                    }
                }
                self.apply(&staged)
            }
            // What skips a version closes the stream, and nothing of it is applied.
            Some(Body::Delta(delta)) if delta.version != self.version + 1 => Owed {
                closes: true,
                ..Owed::default()
            },
            Some(Body::Delta(delta)) => {
                self.version = delta.version;
                self.apply(&delta.rows)
            }
            // Rule 16: what was never sent closes the stream.
            Some(Body::Heartbeat(heartbeat)) if heartbeat.echoed_sequence > self.sequence => Owed {
                closes: true,
                ..Owed::default()
            },
            Some(Body::Heartbeat(heartbeat)) => {
                let echoed = heartbeat.echoed_sequence;
                if self.has_snapshot
                    && echoed >= self.hello
                    && let Some(sent) = self.sent.get(&echoed)
                {
                    if *sent >= self.void_before {
                        self.lease_until = self.lease_until.max(Some(sent + self.lease));
                    }
                    self.sent = self.sent.split_off(&echoed);
                }
                Owed::default()
            }
            None => Owed::default(),
        }
    }

    fn apply(&mut self, rows: &[gate::Row]) -> Owed {
        let mut owed = Owed::default();
        for row in rows {
            let epoch = row
                .epoch
                .map_or((0, 0), |epoch| (epoch.term, epoch.counter));
            if self
                .rows
                .get(&row.id)
                .is_some_and(|known| known.epoch > epoch)
            {
                continue;
            }
            let draining = matches!(&row.admission, Some(row::Admission::Refuse(refuse)) if refuse.reason() == RefuseReason::Draining);
            if draining {
                owed.acknowledgements.push((row.id.clone(), epoch));
            }
            let known = Row {
                epoch,
                admits: matches!(row.admission, Some(row::Admission::Admit(_))),
                holds_for: match &row.admission {
                    Some(row::Admission::Hold(hold)) => Some(hold.estimated_wait_ms),
                    Some(row::Admission::Admit(_) | row::Admission::Refuse(_)) | None => None,
                },
                draining,
                flow: row.on_lease_end() == OnLeaseEnd::Flow,
                removed: row.removed,
                prefix: row.prefixes.first().cloned(),
            };
            self.rows.insert(row.id.clone(), known);
        }
        owed
    }
}
