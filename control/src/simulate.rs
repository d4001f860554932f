//! `greenthread simulate`: replays recorded traffic, so that policies, fleets and numbers of GPUs can be compared before they are bought.

pub mod arguments;
mod bound;
mod dice;
mod engine;
mod gate;
mod meter;
mod plot;
mod policies;
mod progress;
mod replay;
mod replay_report;
mod runs;
mod setting;
mod slots;
mod slots_report;
mod table;
mod trace;
mod waits;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use arguments::Arguments;
use policies::{LRU, OPT, Policy, UnknownPolicy};
use progress::Progress;
use setting::UnknownModel;
use slots_report::Row;
use trace::{Trace, TraceError};

use crate::config::ConfigError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A policy does not exist.
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
    /// The fleet file is wrong.
    #[error(transparent)]
    Fleet(#[from] ConfigError),
    /// A model of the trace is not in the fleet.
    #[error(transparent)]
    Unknown(#[from] UnknownModel),
    /// `--map` names a model that is not in the fleet.
    #[error("--map: `{name}` is not in {}; it has {known}", fleet.display())]
    Map {
        /// The name.
        name: String,
        /// The fleet file.
        fleet: PathBuf,
        /// Names that exist.
        known: String,
    },
    /// No request is for a model of the fleet.
    #[error("no request of {} is for a model of {}; see --map", trace.display(), fleet.display())]
    NothingLeft {
        /// The trace.
        trace: PathBuf,
        /// The fleet file.
        fleet: PathBuf,
    },
    /// A picture cannot be written.
    #[error("cannot write the picture {}", file.display())]
    Plot {
        /// Where.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The report cannot be written.
    #[error("cannot write the report")]
    Write(#[source] io::Error),
}

/// Does what the command line says and prints the report.
///
/// # Errors
/// Something that it needs is wrong; nothing was printed then.
pub fn simulate(arguments: &Arguments) -> Result<(), SimulateError> {
    let policies = policies::named(&arguments.policies)?;
    let mut progress = Progress::to_stderr();
    let trace = trace::read(&arguments.trace, &mut progress)?;
    progress.clear();
    let report = if arguments.slots.is_empty() {
        let done = runs::run(arguments, &trace, &policies, &mut progress)?;
        replay_report::report(&done.runs, &done.notes, &done.answers, arguments.output)
    } else {
        slots_report::report(&rows(&trace, &arguments.slots, &policies), arguments.output)
    };
    progress.clear();
    if trace.out_of_order > 0 {
        eprintln!(
            "note: {} of {} requests stood behind a later one; they were put in order",
            trace.out_of_order,
            trace.requests.len()
        );
    }
    match io::stdout().write_all(report.as_bytes()) {
        // Who reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(SimulateError::Write),
    }
}

/// One row per number of places and policy. The ends of the gap are replayed whether they are asked for or not.
fn rows(trace: &Trace, slots: &[usize], policies: &[Policy]) -> Vec<Row> {
    let mut rows = Vec::new();
    for places in slots {
        let run = |policy: &Policy| slots::replay(trace, *places, &mut *policy.eviction(trace));
        let mut tallies: Vec<(Policy, slots::Tally)> = policies::all()
            .into_iter()
            .filter(|policy| {
                let asked = policies.iter().any(|asked| asked.name() == policy.name());
                asked || policy.name() == LRU || policy.name() == OPT
            })
            .map(|policy| (policy, run(&policy)))
            .collect();
        let misses = |name: &str| {
            let of = tallies.iter().find(|(policy, _)| policy.name() == name);
            of.map_or(0, |(_, tally)| tally.misses)
        };
        let gap = (misses(LRU), misses(OPT));
        tallies.retain(|(policy, _)| policies.iter().any(|asked| asked.name() == policy.name()));
        rows.extend(
            tallies
                .iter()
                .map(|(policy, tally)| Row::of(*policy, *places, tally, gap)),
        );
    }
    rows
}
