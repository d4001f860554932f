//! `greenthread simulate`: replays recorded traffic, so that policies, fleets and numbers of GPUs can be compared before they are bought.

pub mod arguments;
mod bound;
mod dice;
mod engine;
mod enough;
mod gate;
mod meter;
mod plot;
mod policies;
mod progress;
mod promises;
mod replay;
mod replay_report;
mod runs;
mod setting;
mod slots;
mod slots_report;
mod strict;
mod table;
mod trace;
mod waits;
mod world;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use arguments::{Arguments, Output};
use policies::UnknownPolicy;
use progress::Progress;
use setting::UnknownModel;
use trace::TraceError;

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
    #[error("--plot: cannot write {}", file.display())]
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
    let mut notes = Vec::new();
    if trace.out_of_order > 0 {
        notes.push(format!(
            "{} of {} requests stood behind a later one; they were put in order",
            trace.out_of_order,
            trace.requests.len()
        ));
    }
    let report = if arguments.slots.is_empty() {
        let done = runs::run(arguments, &trace, &policies, &mut progress)?;
        notes.extend(done.notes);
        let wanted = format!("at most {}", setting::millis(arguments.target_p99));
        let tried = replay_report::tried(&done.runs);
        let answers = arguments.sweep_gpus.as_ref();
        let answers = answers.map_or_else(Vec::new, |_| enough::answers(&tried, &wanted));
        replay_report::report(&done.runs, &notes, &answers, arguments.output)
    } else {
        let rows = strict::rows(arguments, &trace, &policies);
        let wanted = format!("at most {} %", arguments.target_misses * 100.0);
        let answers = enough::answers(&slots_report::tried(&rows), &wanted);
        slots_report::report(&rows, &answers, arguments.output)
    };
    progress.clear();
    // What programs read has no place for it; strict caching has nothing else to say.
    if arguments.output != Output::Text || !arguments.slots.is_empty() {
        notes.iter().for_each(|note| eprintln!("note: {note}"));
    }
    match io::stdout().write_all(report.as_bytes()) {
        // Who reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(SimulateError::Write),
    }
}
