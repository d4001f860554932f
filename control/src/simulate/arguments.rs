//! What `greenthread simulate` is asked.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people
    Text,
    /// A list with one object per run
    Json,
    /// One line per run
    Csv,
}

const ABOUT_TRACES: &str = "\
The trace is a CSV file, plain or compressed with gzip. Its first line names the columns, each further line is one request:
  time_s      when the request arrives, in seconds from the start of the trace
  model       which model it wants
  service_s   how long its engine works on it, in seconds
Other columns are ignored. Times should not decrease; where they do, the requests are put in order and that is said.";

/// Replay recorded traffic and compare policies: misses, waits, GPU hours, and how many GPUs it needs
#[derive(Debug, Args)]
#[command(after_help = ABOUT_TRACES)]
pub struct Arguments {
    /// The trace: a CSV file `time_s,model,service_s`, or the same compressed with gzip
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,
    /// Policies, by commas or one option each; `all` for every one
    #[arg(long = "policy", value_name = "NAME", value_delimiter = ',')]
    pub policies: Vec<String>,
    /// Strict caching on so many equal places: no durations, every request at once and in order, a miss must load
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub slots: Vec<u64>,
    /// Form of the report
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}
