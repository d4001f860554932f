//! The deterministic simulation: the production core and the production gates, with a virtual clock, fake engines, a network, and every
//! kind of fault that is known. One seed is one history, byte for byte.
//!
//! What is checked after every step stands in [`check`], independently of how core and gates come to their decisions; what must be
//! true in the end stands in [`end`].
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "of thirty kinds of faults and events each place minds one or two"
)]

pub mod agenda;
pub mod check;
pub mod control;
pub mod course;
pub mod driver;
pub mod end;
pub mod engine;
pub mod fair;
pub mod fault;
pub mod figures;
pub mod gate;
pub mod heard;
pub mod holds;
pub mod leadership;
pub mod load;
pub mod memory;
pub mod old;
pub mod plan;
pub mod quiet;
pub mod random;
pub mod reference;
pub mod request;
#[cfg(feature = "sabotage")]
pub mod sabotage;
pub mod says;
pub mod score;
pub mod sizes;
pub mod stream;
pub mod tiers;
pub mod totals;
pub mod trace;
pub mod trouble;
mod turns;
pub mod wire;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::Plan;
use totals::Totals;
use trace::Trace;
use world::World;

/// How one run ended.
#[derive(Debug)]
pub struct Run {
    /// What happened.
    pub totals: Totals,
    /// What must never happen, if it did.
    pub violation: Option<String>,
    /// The last lines of the trace, where one was wanted.
    pub tail: Vec<String>,
    /// Digest of the whole trace, where one was wanted.
    pub digest: u64,
}

/// Runs one seed; keeps the last `lines` of its trace.
pub fn run(seed: u64, lines: usize) -> Run {
    run_plan(Plan::of(seed), lines)
}

/// Runs a plan.
pub fn run_plan(plan: Plan, lines: usize) -> Run {
    let trace = if lines == 0 {
        Trace::none()
    } else {
        Trace::tail(lines)
    };
    let mut world = World::new(plan, trace);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    let violation = world.violation.take().or_else(|| {
        panicked.map(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("a panic: {}", text.unwrap_or_default())
        })
    });
    world.totals.seeds = 1;
    Run {
        totals: world.totals.clone(),
        violation,
        tail: world.trace.lines().map(str::to_owned).collect(),
        digest: world.trace.digest(),
    }
}

/// Seeds that failed once; they run first.
pub fn corpus() -> Vec<u64> {
    include_str!("../corpus.txt")
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

/// Runs a seed once more with its trace: the message of a failure.
pub fn explain(seed: u64) -> String {
    let run = run(seed, 400);
    let what = run.violation.unwrap_or_else(|| "nothing".to_owned());
    format!("SIM_SEED={seed}: {what}\n{}", run.tail.join("\n"))
}
