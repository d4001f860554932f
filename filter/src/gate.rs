//! One gate: what happens to each request, by the table, the lease and the time.
//!
//! Pure: every method takes `now`, outputs are the returned [`Verdict`] and the [`Effect`]s pushed. Three parts:
//! requests on arrival, messages of control, and ticks, the only place where held requests go on.
//!
//! Invariant: a request is forwarded only by [`Gate::admits`], checked in the step that forwards it (S1), and it is counted
//! in flight in that same step.

mod control;
mod request;
mod tick;

use std::collections::BTreeMap;

use greenthread_proto::gate::GateMessage;

use crate::{
    answers::{Answer, Reply},
    config::Config,
    figures::AllFigures,
    hold::{Hold, RequestId},
    lease::Lease,
    link::Link,
    row::{Admission, Row, RowId},
    shared::Sharing,
    table::Table,
    time::Millis,
};

/// Header in which the route finds the cluster of the engine.
pub const CLUSTER_HEADER: &str = "x-greenthread-cluster";
/// A report that is wanted early goes out at most this often.
const EARLY_REPORTS: Millis = Millis(20);
/// Pause between two batches of held requests.
const NEXT_BATCH: Millis = Millis(2);

/// What happens to a request now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: it goes on untouched.
    Pass,
    /// It goes to its engine with these request headers set.
    Forward(Forward),
    /// It waits; an effect of a later tick ends the wait.
    Hold,
    /// It is answered.
    Answer(Reply),
}

/// Request headers to set before a request goes on.
pub type Forward = Vec<(&'static str, Vec<u8>)>;

/// Something to do. Nothing is returned; outcomes come back through the methods of the gate.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Open a stream with this number; when that fails: [`Gate::on_stream_closed`].
    Open {
        /// Number for later calls.
        stream: u64,
    },
    /// Send on the open stream.
    Send(GateMessage),
    /// Reset the open stream; no closing is reported.
    Close,
    /// End our side of the open stream after what was sent.
    Finish,
    /// Set the headers and let the held request go on. Only from ticks.
    Resume {
        /// Which.
        request: RequestId,
        /// Headers to set.
        headers: Forward,
    },
    /// Answer a held request. Only from ticks.
    Reply {
        /// Which.
        request: RequestId,
        /// With what.
        reply: Reply,
    },
    /// Write into the data that the gates of the process share.
    Share {
        /// Key.
        key: String,
        /// Value.
        value: Vec<u8>,
    },
    /// Tell the operator of Envoy.
    Warn(String),
    /// The gate has said Bye and can be destroyed.
    Done,
}

/// A request at the moment of its decision.
struct Arrival {
    id: RequestId,
    since: Millis,
    has_body: bool,
}

/// A request in flight.
#[derive(Clone, Debug)]
struct InFlight {
    row: RowId,
    uses: bool,
}

/// How far a gate that is being replaced has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    Waiting,
    SaidBye { at: Millis },
    Done,
}

/// One gate.
#[derive(Clone, Debug)]
pub struct Gate {
    id: String,
    config: Config,
    created: Millis,
    table: Table,
    /// A snapshot took effect in this gate.
    complete: bool,
    /// Paths are known, from control or from another gate.
    started: bool,
    lease: Lease,
    link: Link,
    hold: Hold,
    figures: AllFigures,
    in_flight: BTreeMap<RequestId, InFlight>,
    elsewhere: BTreeMap<RowId, u64>,
    sharing: Sharing,
    /// Held requests may go on or be answered: look at them in the next tick.
    unsettled: bool,
    turn: Option<RowId>,
    next_report: Millis,
    last_report: Millis,
    leaving: Leaving,
}

impl Gate {
    /// A gate that begins now. `id` is random; `saved` is what another gate of the process last shared under
    /// [`crate::shared::TABLE_KEY`].
    pub fn new(config: Config, id: String, now: Millis, saved: Option<&[u8]>) -> Self {
        let mut table = Table::default();
        let started = saved.is_some_and(|saved| table.start_with(saved));
        let jitter = id.bytes().fold(0_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        Self {
            sharing: Sharing::new(id.clone()),
            id,
            config,
            created: now,
            table,
            complete: false,
            started,
            lease: Lease::default(),
            link: Link::new(jitter),
            hold: Hold::default(),
            figures: AllFigures::default(),
            in_flight: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            unsettled: false,
            turn: None,
            next_report: now,
            last_report: now,
            leaving: Leaving::No,
        }
    }

    /// Configuration in force.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether this request is held.
    pub fn is_held(&self, id: RequestId) -> bool {
        self.hold.contains(id)
    }

    /// Numbers of requests (in flight, held), for tests and the simulation.
    pub fn occupancy(&self) -> (u64, u64) {
        (self.in_flight.len() as u64, self.hold.len())
    }

    /// Whether the gate has said Bye: control counts on it to admit no more (rule 4).
    const fn has_left(&self) -> bool {
        matches!(self.leaving, Leaving::SaidBye { .. } | Leaving::Done)
    }

    /// Whether a row admits at this moment.
    fn admits(&self, now: Millis, row: &Row) -> bool {
        let flow = row.flow.then_some(self.table.times().max_flow);
        let left = sabotage!(AdmitsAfterBye, false, self.has_left());
        !left && !row.removed && row.admission == Admission::Admit && self.lease.allows(now, flow)
    }

    fn count_refusal(&mut self, now: Millis, row: &RowId, answer: Answer) {
        let figures = self.figures.of(row);
        figures.count(answer.reason());
        if answer.is_demand() {
            figures.refused(now);
            self.hurry(now);
        }
    }

    /// Brings the next report forward.
    fn hurry(&mut self, now: Millis) {
        sabotage!(NoEarlyReport, return);
        self.next_report = self
            .next_report
            .min(now.max(self.last_report.plus(EARLY_REPORTS)));
    }

    fn hurry_when_none_is_held(&mut self, now: Millis, row: &RowId) {
        if self.hold.of(row).0 == 0 {
            self.hurry(now);
        }
    }
}
