//! The configurations that are checked. Together they let everything happen that a [`Budget`] knows, each alone and the pairs that meet
//! in a drain; each is small enough to be explored to its end.

use greenthread_core::model::OnLeaseEnd;

use crate::{
    row::{Budget, Row},
    ticks,
};

/// Something that may happen once; what may happen twice is named twice.
#[derive(Clone, Copy, Debug)]
enum May {
    Request,
    Leave,
    Sleep,
    Wake,
    Delay,
    Break,
    LoseCall,
    CrashGate,
    FreezeGate,
    CrashControl,
    FreezeControl,
    Depose,
    Jump,
}
use May::{
    Break, CrashControl, CrashGate, Delay, Depose, FreezeControl, FreezeGate, Jump, Leave,
    LoseCall, Request, Sleep, Wake,
};

/// A row without requests checks in every state all the same whether a gate would forward one.
fn row(name: &'static str, clock: u64, may: &[May]) -> Row {
    let mut budget = Budget::default();
    for may in may {
        *match may {
            Request => &mut budget.requests,
            Leave => &mut budget.leaves,
            Sleep => &mut budget.sleeps,
            Wake => &mut budget.wakes,
            Delay => &mut budget.delays,
            Break => &mut budget.breaks,
            LoseCall => &mut budget.lost_calls,
            CrashGate => &mut budget.gate_crashes,
            FreezeGate => &mut budget.gate_freezes,
            CrashControl => &mut budget.control_crashes,
            FreezeControl => &mut budget.control_freezes,
            Depose => &mut budget.depositions,
            Jump => &mut budget.jumps,
        } += 1;
    }
    Row::new(name, clock, budget)
}

/// An engine that loses what is inside when it falls asleep.
fn lossy(row: Row) -> Row {
    Row {
        lossless: false,
        ..row
    }
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
    row("one request, one drain", 2, &[Request, Sleep])
}

/// About a minute on two cores.
pub fn short() -> Vec<Row> {
    [controls(), messages(), gates(), others()].concat()
}

/// The rows of [`short`] that can go on for another tick, and threes of faults: several minutes, several gigabytes.
pub fn long() -> Vec<Row> {
    let most_states = 12_000_000;
    let longer = short().into_iter().map(|row| Row {
        clock: row.clock + 1,
        most_states,
        ..row
    });
    let threes = [
        row(
            "control crashes, a stream breaks, a message is late",
            3,
            &[Sleep, Delay, Break, CrashControl],
        ),
        row(
            "a gate freezes, a message is late, a call is lost",
            3,
            &[Sleep, Delay, LoseCall, FreezeGate],
        ),
    ];
    let threes = threes.map(|row| Row { most_states, ..row });
    longer.chain(threes).collect()
}

/// Controls of different terms.
fn controls() -> Vec<Row> {
    vec![
        row("control crashes", 3, &[Request, Sleep, CrashControl]),
        row(
            "control crashes, a call is late",
            6,
            &[Sleep, LoseCall, CrashControl],
        ),
        row(
            "control crashes, a stream breaks",
            3,
            &[Sleep, Break, CrashControl],
        ),
        row(
            "control crashes, a message is late",
            3,
            &[Sleep, Delay, CrashControl],
        ),
        row(
            "control crashes, two drains",
            7,
            &[Sleep, Sleep, CrashControl],
        ),
        lossy(row(
            "control crashes, the engine loses",
            3,
            &[Request, Sleep, CrashControl],
        )),
        flow(row(
            "control crashes, rows flow",
            3,
            &[Request, Sleep, CrashControl],
        )),
        row("control freezes", 3, &[Request, Sleep, FreezeControl]),
        row(
            "control freezes, a message is late",
            3,
            &[Sleep, Delay, FreezeControl],
        ),
        row(
            "control freezes, two drains",
            8,
            &[Sleep, Sleep, FreezeControl],
        ),
        row(
            "control freezes, a call is lost",
            7,
            &[Sleep, LoseCall, FreezeControl],
        ),
        row("control is deposed, two drains", 8, &[Sleep, Sleep, Depose]),
        row("control is deposed", 5, &[Request, Sleep, Depose]),
        row(
            "control is deposed, a call is lost",
            6,
            &[Sleep, LoseCall, Depose],
        ),
        row(
            "control is deposed, a stream breaks",
            5,
            &[Sleep, Break, Depose],
        ),
        row("the term jumps", 3, &[Request, Sleep, Jump]),
        row("the term jumps twice", 4, &[Sleep, Jump, Jump]),
        row(
            "the term jumps, control crashes",
            3,
            &[Sleep, CrashControl, Jump],
        ),
    ]
}

/// Messages and streams.
fn messages() -> Vec<Row> {
    vec![
        row("a stream breaks", 3, &[Request, Sleep, Break]),
        row("two streams break", 3, &[Sleep, Break, Break]),
        row("a message is late", 3, &[Request, Sleep, Delay]),
        row("a lease is short", 4, &[Request, Delay, Break]),
        row("two messages are late", 4, &[Sleep, Delay, Delay]),
        row(
            "a message is late, a stream breaks",
            4,
            &[Sleep, Delay, Break],
        ),
        flow(row(
            "a stream breaks, rows flow",
            3,
            &[Request, Sleep, Break],
        )),
    ]
}

/// Gates.
fn gates() -> Vec<Row> {
    vec![
        row("a gate crashes", 5, &[Request, Sleep, CrashGate]),
        lossy(row(
            "a gate crashes, the engine loses",
            5,
            &[Request, Sleep, CrashGate],
        )),
        flow(row(
            "a gate crashes, rows flow",
            5,
            &[Request, Sleep, CrashGate],
        )),
        flow(lossy(row(
            "a gate crashes, rows flow, the engine loses",
            6,
            &[Request, Sleep, CrashGate],
        ))),
        freezes(row(
            "a gate crashes, requests are frozen",
            4,
            &[Request, Sleep, CrashGate],
        )),
        row("a gate freezes", 3, &[Request, Sleep, FreezeGate]),
        lossy(row(
            "a gate freezes, the engine loses",
            4,
            &[Request, Sleep, FreezeGate],
        )),
        row(
            "a gate freezes, control crashes",
            3,
            &[Sleep, FreezeGate, CrashControl],
        ),
        row(
            "a gate freezes, a stream breaks",
            2,
            &[Sleep, Break, FreezeGate],
        ),
    ]
}

/// The engine, clients, operators.
fn others() -> Vec<Row> {
    vec![
        row("a call is lost", 5, &[Request, Sleep, LoseCall]),
        row("two calls are lost", 7, &[Sleep, LoseCall, LoseCall]),
        lossy(row(
            "a client leaves, the engine loses",
            5,
            &[Request, Leave, Sleep],
        )),
        row("two requests", 4, &[Request, Request, Sleep]),
        row(
            "operators change their mind",
            5,
            &[Request, Sleep, Sleep, Wake],
        ),
        freezes(row("requests are frozen", 5, &[Request, Request, Sleep])),
        idle(row("idle", 6, &[Request, Request])),
        idle(row("idle, the term jumps", 4, &[Request, Sleep, Jump])),
        idle(row(
            "idle, a gate freezes",
            4,
            &[Request, Sleep, FreezeGate],
        )),
    ]
}
