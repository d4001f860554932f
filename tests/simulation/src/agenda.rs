//! What will happen when, in one order: by time, then by class, then by the order in which it was put in.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use greenthread_core::{
    event::{Event, Operator},
    ids::Attempt,
    model::SleepMode,
    phase::Tier,
};

/// One thing that will happen. Numbers are indices of the world's lists; a life is the index of a control.
#[derive(Clone, Debug)]
#[allow(
    missing_docs,
    reason = "the fields are named after what they are; each variant says what it means"
)]
pub enum Item {
    /// A gate's timer, if it still stands at this time.
    GateTick { gate: usize, at: u64 },
    /// Something on a stream may be read by its gate.
    ToGate { stream: usize },
    /// … by control.
    ToControl { stream: usize },
    /// Control's timer, if it still stands at this time.
    ControlTick { life: usize, at: u64 },
    /// An engine's outcome, an operator's wish, a change of the fleet.
    ToCore { life: usize, event: Box<Event> },
    /// A request that was refused then would come back.
    WouldReturn {
        gate: usize,
        name: String,
        told_at: u64,
        /// Its gate had no lease then.
        stale: bool,
    },
    /// An operator asks for something.
    Operate { engine: usize, verb: Operator },
    /// The state directory has given out a larger term.
    TermTaken { life: usize, term: u64 },
    /// The leader renews its lease.
    Renew { life: usize },
    /// The answer to a renewal that was sent then.
    Renewed { life: usize, sent: u64 },
    /// The standby looks at the lease.
    Elect,
    /// Control starts after a crash.
    ControlStarts,
    /// Envoy starts after a crash.
    GatewayStarts { gateway: usize },
    /// A forwarded request reaches its engine.
    Arrives { request: u32 },
    /// The engine has done a request, if nothing changed since.
    WorkDone { engine: usize, generation: u64 },
    /// A command reaches an engine.
    Command { engine: usize, command: Command },
    /// The engine ends what it was told.
    CommandEnds { engine: usize, generation: u64 },
    /// The driver gives up on a job.
    JobExpires {
        life: usize,
        engine: usize,
        attempt: Attempt,
    },
    /// The driver has an outcome for its job.
    JobEnds {
        life: usize,
        engine: usize,
        attempt: Attempt,
        event: Box<Event>,
    },
    /// A look reaches an engine.
    Look {
        life: usize,
        engine: usize,
        attempt: Attempt,
    },
    /// The engine's process serves.
    ProcessUp { engine: usize, generation: u64 },
    /// The engine's process ends.
    ProcessEnds { engine: usize, generation: u64 },
    /// An attached engine is started again by hand.
    StartedByHand { engine: usize },
    /// The engine's answer is back at the gate.
    Answered { request: u32 },
    /// The engine failed under the request; its gate learns of it.
    Failed { request: u32 },
    /// The engine learns that the client has left.
    Dropped { request: u32 },
    /// A client leaves.
    ClientLeaves { request: u32 },
    /// A request of the load.
    NextRequest,
    /// A request that a fault wants at this moment.
    Request {
        gate: usize,
        model: usize,
        slow: bool,
    },
    /// The oracle reads every GPU, for this life of control.
    ReadGpus { life: usize },
    /// Memory of somebody else on a GPU goes away.
    ForeignGoes { gpu: usize },
    /// An operator accepts what the oracle sees on a GPU.
    Accept { gpu: usize },
    /// The next fault.
    NextFault,
}

/// What control tells an engine.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Who says it.
    pub life: usize,
    /// Number of the attempt.
    pub attempt: Attempt,
    /// When it was sent.
    pub sent: u64,
    /// What.
    pub order: Order,
}

/// Kinds of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start the process.
    Start,
    /// Wake up, from this tier.
    Wake(Tier),
    /// Go to sleep, into this tier.
    Sleep(SleepMode, Tier),
}

#[derive(Debug)]
struct Entry {
    key: (u64, u8, u64),
    item: Item,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

/// Everything that will happen.
#[derive(Debug, Default)]
pub struct Agenda {
    items: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl Agenda {
    /// Puts an item in. Requests reach engines behind everything else of the same millisecond: the worst case.
    pub fn push(&mut self, at: u64, item: Item) {
        let class = u8::from(matches!(item, Item::Arrives { .. }));
        self.number += 1;
        let key = (at, class, self.number);
        self.items.push(Reverse(Entry { key, item }));
    }

    /// The next item that is due by then.
    pub fn pop(&mut self, by: u64) -> Option<(u64, Item)> {
        if self
            .items
            .peek()
            .is_none_or(|Reverse(entry)| entry.key.0 > by)
        {
            return None;
        }
        let Reverse(entry) = self.items.pop()?;
        Some((entry.key.0, entry.item))
    }
}
