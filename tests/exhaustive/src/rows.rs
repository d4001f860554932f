//! The configurations that are checked. Together they let everything happen that a [`Budget`] knows, each alone and the pairs that meet
//! in a drain; each is small enough to be explored to its end.

use greenthread_core::model::OnLeaseEnd;

use crate::{
    row::{Budget, Row},
    ticks,
};

/// One request and one wish that the model sleeps: the least in which a drain can go wrong.
const ONE: Budget = Budget {
    requests: 1,
    sleeps: 1,
    ..NONE
};

/// A drain that meets no request. Whether a gate would forward one is checked in every state all the same.
const BARE: Budget = Budget {
    sleeps: 1,
    ..NONE
};

const NONE: Budget = Budget {
    requests: 0,
    leaves: 0,
    sleeps: 0,
    wakes: 0,
    delays: 0,
    breaks: 0,
    lost_calls: 0,
    gate_crashes: 0,
    gate_freezes: 0,
    control_crashes: 0,
    control_freezes: 0,
    depositions: 0,
    jumps: 0,
};

/// An engine that loses what is inside when it falls asleep.
fn lossy(row: Row) -> Row {
    Row { lossless: false, ..row }
}

/// Rows that gates go on admitting for two ticks after their lease; engines are looked at every two ticks, for what they keep.
fn flow(row: Row) -> Row {
    let mut row = Row {
        on_lease_end: OnLeaseEnd::Flow,
        ..row
    };
    row.times.observe = ticks(2);
    row
}

/// Nobody has to ask for the sleep: two ticks without use will do.
fn idle(row: Row) -> Row {
    let mut row = Row {
        idle: Some(ticks(2)),
        ..row
    };
    row.budget.sleeps = 0;
    row
}

/// A drain that ends after one tick, with requests frozen in the engine.
fn freezes(row: Row) -> Row {
    Row {
        drain: Some(ticks(1)),
        ..row
    }
}

/// The smallest one, for a build that is not optimised.
pub fn tiny() -> Row {
    Row::new("tiny: one request, one drain", 2, ONE)
}

/// About a minute on two cores.
pub fn short() -> Vec<Row> {
    let row = Row::new;
    vec![
        // Controls of different terms.
        row("control crashes", 4, Budget { control_crashes: 1, ..ONE }),
        row("control crashes, a call is late", 6, Budget { control_crashes: 1, lost_calls: 1, ..BARE }),
        row("control crashes, a stream breaks", 4, Budget { control_crashes: 1, breaks: 1, ..BARE }),
        row("control crashes, a message is late", 4, Budget { control_crashes: 1, delays: 1, ..BARE }),
        row("control crashes, two drains", 7, Budget { control_crashes: 1, sleeps: 2, ..NONE }),
        lossy(row("control crashes, the engine loses", 4, Budget { control_crashes: 1, ..ONE })),
        flow(row("control crashes, rows flow", 4, Budget { control_crashes: 1, ..ONE })),
        row("control freezes", 4, Budget { control_freezes: 1, ..ONE }),
        row("control freezes, a message is late", 4, Budget { control_freezes: 1, delays: 1, ..BARE }),
        row("control freezes, two drains", 8, Budget { control_freezes: 1, sleeps: 2, ..NONE }),
        row("control freezes, a call is lost", 7, Budget { control_freezes: 1, lost_calls: 1, ..BARE }),
        row("control is deposed, two drains", 8, Budget { depositions: 1, sleeps: 2, ..NONE }),
        row("control is deposed", 5, Budget { depositions: 1, ..ONE }),
        row("control is deposed, a call is lost", 6, Budget { depositions: 1, lost_calls: 1, ..BARE }),
        row("control is deposed, a stream breaks", 5, Budget { depositions: 1, breaks: 1, ..BARE }),
        row("the term jumps", 4, Budget { jumps: 1, ..ONE }),
        row("the term jumps twice", 5, Budget { jumps: 2, ..BARE }),
        row("the term jumps, control crashes", 4, Budget { jumps: 1, control_crashes: 1, ..BARE }),
        // Messages and streams.
        row("a stream breaks", 3, Budget { breaks: 1, ..ONE }),
        row("two streams break", 4, Budget { breaks: 2, ..BARE }),
        row("a message is late", 3, Budget { delays: 1, ..ONE }),
        row("two messages are late", 4, Budget { delays: 2, ..BARE }),
        row("a message is late, a stream breaks", 4, Budget { delays: 1, breaks: 1, ..BARE }),
        flow(row("a stream breaks, rows flow", 4, Budget { breaks: 1, ..ONE })),
        // Gates.
        row("a gate crashes", 5, Budget { gate_crashes: 1, ..ONE }),
        lossy(row("a gate crashes, the engine loses", 5, Budget { gate_crashes: 1, ..ONE })),
        flow(row("a gate crashes, rows flow", 5, Budget { gate_crashes: 1, ..ONE })),
        flow(lossy(row("a gate crashes, rows flow, the engine loses", 6, Budget { gate_crashes: 1, ..ONE }))),
        freezes(row("a gate crashes, requests are frozen", 4, Budget { gate_crashes: 1, ..ONE })),
        row("a gate freezes", 4, Budget { gate_freezes: 1, ..ONE }),
        row("a gate freezes, control crashes", 4, Budget { gate_freezes: 1, control_crashes: 1, ..BARE }),
        row("a gate freezes, a stream breaks", 3, Budget { gate_freezes: 1, breaks: 1, ..BARE }),
        // The engine, clients, operators.
        row("a call is lost", 5, Budget { lost_calls: 1, ..ONE }),
        row("two calls are lost", 7, Budget { lost_calls: 2, ..BARE }),
        lossy(row("a client leaves, the engine loses", 5, Budget { leaves: 1, ..ONE })),
        row("two requests", 4, Budget { requests: 2, ..ONE }),
        row("operators change their mind", 5, Budget { requests: 1, sleeps: 2, wakes: 1, ..NONE }),
        freezes(row("requests are frozen", 5, Budget { requests: 2, ..ONE })),
        idle(row("idle", 6, Budget { requests: 2, ..NONE })),
        idle(row("idle, the term jumps", 4, Budget { jumps: 1, ..ONE })),
        idle(row("idle, a gate freezes", 4, Budget { gate_freezes: 1, ..ONE })),
    ]
}

/// Several minutes and several gigabytes.
pub fn long() -> Vec<Row> {
    Vec::new()
}
