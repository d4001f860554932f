//! One configuration that is checked: times, what the engine can do, how much may go wrong, and, to see the checker fail, a sabotage.

use greenthread_core::{
    ids::Millis,
    model::{OnLeaseEnd, Times},
};

use crate::ticks;

/// How often each kind of thing may happen. The state space is finite because these are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Requests that arrive.
    pub requests: u8,
    /// Clients that leave before their answer.
    pub leaves: u8,
    /// The operator wants the model to sleep.
    pub sleeps: u8,
    /// The operator wants it awake.
    pub wakes: u8,
    /// Queues that are not emptied before the clock moves on; each costs one per tick.
    pub delays: u8,
    /// Streams that break; both ends notice it on their own, or not at all.
    pub breaks: u8,
    /// Calls to the engine whose outcome control never learns.
    pub lost_calls: u8,
    /// Gates that end without a word.
    pub gate_crashes: u8,
    /// Gates that stop and go on later, with what was in their buffers.
    pub gate_freezes: u8,
    /// Controls that die; the successor may begin at once.
    pub control_crashes: u8,
    /// Controls that stop, lose leadership meanwhile, and may go on.
    pub control_freezes: u8,
    /// Controls that cannot renew their leader lease any more, but run on.
    pub depositions: u8,
    /// Terms that are raised in the middle of everything (rule 12, and rule 17: clocks that jumped apart).
    pub jumps: u8,
}

/// One wrong thing in what stands around the core and the gates: the checker must find what follows from it. Two are not caught within
/// the bounds: a heartbeat that overtakes, since the lease that it renews counts from a message that control has heard, and the fence
/// counts from that as well; and the cached count. Both are among what the simulation catches in the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Control's margin is nothing: gates are fenced when their lease ends.
    FenceAtTheLease,
    /// A successor waits one lease only.
    SuccessorWaitsOneLease,
    /// A successor waits for nobody's lease.
    SuccessorWaitsNothing,
    /// A successor believes what it sees of the engine at once.
    SuccessorBelievesAtOnce,
    /// A heartbeat overtakes row changes in the queue.
    HeartbeatOvertakes,
    /// An acknowledgement of any epoch counts for the running one.
    AnyEpochCounts,
    /// A gate is not waited for any more when its stream closes.
    ForgottenWhenClosed,
    /// The engine's count is the one of the look before.
    CachedCount,
    /// A control that lost leadership goes on.
    DeposedGoesOn,
    /// A call of a control that died is carried out long after `command`.
    LateCall,
    /// A full queue drops the oldest row change instead of closing the stream.
    RowDropped,
}

/// One configuration.
#[derive(Clone, Debug)]
pub struct Row {
    /// For people.
    pub name: &'static str,
    /// Clock ticks after the beginning; nothing later is looked at.
    pub clock: u64,
    /// What may happen, how often.
    pub budget: Budget,
    /// Times of the protocol.
    pub times: Times,
    /// The engine's sleep is lossless.
    pub lossless: bool,
    /// What gates do without a lease.
    pub on_lease_end: OnLeaseEnd,
    /// Idle for this long: sleep.
    pub idle: Option<Millis>,
    /// End of a drain, after which requests are frozen in a lossless engine; `None`: later than the clock.
    pub drain: Option<Millis>,
    /// Most states that are kept before the checker gives up.
    pub most_states: usize,
    /// One in so many states is compared with those that were taken for the same.
    pub audited: u128,
    /// What is wrong.
    pub sabotage: Option<Sabotage>,
}

/// Leader lease where controls are deposed rather than killed.
pub(crate) const LEADER_LEASE: u64 = 3;

impl Row {
    /// Lease 2 ticks, margin 1 tick (a request is on its way for at most 1 tick, and here all clocks run alike, so that this is the
    /// smallest safe margin), one heartbeat per tick, a call is accepted within 1 tick or abandoned.
    pub fn new(name: &'static str, clock: u64, budget: Budget) -> Self {
        Self {
            name,
            clock,
            budget,
            times: Times {
                lease: ticks(2),
                margin: ticks(1),
                heartbeat: ticks(1),
                command: ticks(1),
                max_flow: ticks(2),
                forward_bound: ticks(1),
                observe: ticks(1_000),
            },
            lossless: true,
            on_lease_end: OnLeaseEnd::Hold,
            idle: None,
            drain: None,
            most_states: 2_000_000,
            audited: 4,
            sabotage: None,
        }
    }

    /// Whether this is what is wrong.
    pub(crate) fn is_sabotaged(&self, by: Sabotage) -> bool {
        self.sabotage == Some(by)
    }

    /// Silence after which nobody forwards by a lease any more.
    pub(crate) fn fence(&self) -> Millis {
        self.times.lease + self.times.margin
    }

    /// Whether gates forward without a lease for a while.
    pub(crate) fn flows(&self) -> bool {
        self.on_lease_end == OnLeaseEnd::Flow
    }

    /// Whether this gate, or a stream of it, may fail. Gates are alike: where only one failure is to be had, it is always the same one's.
    pub(crate) fn may_fail(&self, gate: usize) -> bool {
        let Budget {
            breaks,
            gate_crashes,
            gate_freezes,
            ..
        } = self.budget;
        breaks + gate_crashes + gate_freezes > 1 || gate > 0
    }
}
