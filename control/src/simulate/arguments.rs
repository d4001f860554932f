//! What `greenthread simulate` is asked.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::policies;
use crate::config::units;

/// Most GPUs that can be asked about.
const GPUS_MAX: usize = 4_096;

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

const ABOUT: &str = "\
The trace is a CSV file, plain or compressed with gzip. Its first line names the columns, each further line is one request:
  time_s      when the request arrives, in seconds from the start of the trace
  model       which model it wants
  service_s   how long its engine works on it, in seconds
Other columns are ignored. Times should not decrease; where they do, the requests are put in order and that is said.

With --slots nothing but the choice of who leaves counts. Without it the trace runs through the core of production, in virtual time:
requests are held, wait for room, are frozen and go on, as they would be behind the gateway.

Examples:
  greenthread simulate --trace day.csv.gz --slots 2,4,8
  greenthread simulate --trace day.csv.gz --fleet greenthread.yaml --plot day.svg
  greenthread simulate --trace day.csv.gz --sweep-gpus 1..8 --places 4 --target-p99 5s";

/// What means something only where requests take time, and would be ignored with `--slots`.
const WITH_DURATIONS: [&str; 18] = [
    "fleet",
    "map",
    "skip_unknown",
    "gpus",
    "places",
    "place_size",
    "wake",
    "sleep",
    "start",
    "max_wait",
    "min_runtime",
    "drain_timeout",
    "idle_timeout",
    "concurrency",
    "retries",
    "vary",
    "seed",
    "target_p99",
];

fn about() -> String {
    format!("{}\n\n{ABOUT}", policies::explained())
}

/// Replay recorded traffic and compare policies: misses, waits, GPU hours, and how many GPUs it needs
#[derive(Debug, Args)]
#[command(after_help = about())]
pub struct Arguments {
    /// The trace: a CSV file `time_s,model,service_s`, or the same compressed with gzip; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,
    /// Policies, by commas or one option each; `all` for every one, which is also the default; see below
    #[arg(long = "policy", value_name = "NAME", value_delimiter = ',')]
    pub policies: Vec<String>,
    /// Strict caching on N equal places: no durations, every request at once and in order, a miss must load
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = places, conflicts_with_all = WITH_DURATIONS)]
    pub slots: Vec<usize>,
    /// Form of the report
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Draw which model was awake when; with several runs, one picture each, named after the run
    #[arg(long, value_name = "FILE.svg", conflicts_with = "slots")]
    pub plot: Option<PathBuf>,
    /// Replay on each of these numbers of GPUs and say how many are enough; with --slots, each GPU has N places
    #[arg(long, value_name = "FROM..TO", value_parser = range, conflicts_with = "gpus")]
    pub sweep_gpus: Option<RangeInclusive<usize>>,
    /// Enough GPUs: 99 of 100 requests wait no longer than this
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub target_p99: Duration,
    /// Enough GPUs, with --slots: at most this share of the requests has to load
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share_or_all, requires = "slots")]
    pub target_misses: f64,
    #[command(flatten)]
    /// What it is replayed on.
    pub world: World,
    #[command(flatten)]
    /// What is assumed without a fleet file.
    pub assumptions: Assumptions,
}

/// What it is replayed on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fleet and clients")]
pub struct World {
    /// A fleet file: GPUs, models, sizes and rules are its own, durations are those measured in its state folder
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,
    /// A model of the trace stands for a model of the fleet
    #[arg(long, value_name = "TRACE=FLEET", value_parser = pair, requires = "fleet")]
    pub map: Vec<(String, String)>,
    /// Leave out requests for models that the fleet does not have
    #[arg(long, requires = "fleet")]
    pub skip_unknown: bool,
    /// Replay with each of these instead of the fleet's `maxWait`, to see what grouping requests saves and costs
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = units::duration)]
    pub max_wait: Vec<Duration>,
    /// Instead of the fleet's `minRuntime`
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub min_runtime: Option<Duration>,
    /// Instead of the fleet's `drainTimeout`
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub drain_timeout: Option<Duration>,
    /// Instead of the fleet's `idleTimeout`: a time, or `never`, which is assumed without a fleet file
    #[arg(long, value_name = "TIME", value_parser = idle_timeout)]
    pub idle_timeout: Option<IdleTimeout>,
    /// Requests that an engine works on at a time; the default is all that there are
    #[arg(long, value_name = "N", value_parser = places)]
    pub concurrency: Option<usize>,
    /// How often a client asks again after a 503, each time after its Retry-After
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub retries: u8,
    /// Durations of engines differ by up to this share
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub vary: f64,
    /// Chance for --vary: the same seed gives the same run
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
}

/// After how long without a request a model sleeps; `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTimeout(pub Option<Duration>);

/// What is assumed without a fleet file.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Assumed without a fleet file")]
pub struct Assumptions {
    /// GPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = gpus, conflicts_with = "fleet")]
    pub gpus: usize,
    /// Models that are awake on one GPU at a time
    #[arg(long, value_name = "M", default_value_t = 4, value_parser = places, conflicts_with = "fleet")]
    pub places: usize,
    /// Bytes of a place, for the bytes moved
    #[arg(long, value_name = "SIZE", default_value = "16GiB", value_parser = units::positive_size, conflicts_with = "fleet")]
    pub place_size: u64,
    /// A wake takes
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::duration, conflicts_with = "fleet")]
    pub wake: Duration,
    /// A sleep takes
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration, conflicts_with = "fleet")]
    pub sleep: Duration,
    /// A start of an engine's process takes
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration, conflicts_with = "fleet")]
    pub start: Duration,
}

fn number(text: &str, most: usize) -> Result<usize, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("{text} is no number from 1 to {most}"))
}

fn places(text: &str) -> Result<usize, String> {
    number(text, 1_000_000)
}

fn gpus(text: &str) -> Result<usize, String> {
    number(text, GPUS_MAX)
}

fn range(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let (from, to) = (gpus(from)?, gpus(to.strip_prefix('=').unwrap_or(to))?);
    if from > to {
        return Err(format!("{from} is more than {to}; write {to}..{from}"));
    }
    Ok(from..=to)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (trace, fleet) = text
        .rsplit_once('=')
        .filter(|(trace, fleet)| !trace.is_empty() && !fleet.is_empty())
        .ok_or_else(|| format!("{text} is no pair of names; write NAME-IN-TRACE=NAME-IN-FLEET"))?;
    Ok((trace.to_owned(), fleet.to_owned()))
}

fn idle_timeout(text: &str) -> Result<IdleTimeout, String> {
    units::duration_or_never(text).map(IdleTimeout)
}

fn share_or_all(text: &str) -> Result<f64, String> {
    let share = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text} is no share from 0 to 1; write 0.1 for 10 %"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| format!("{text} is no share from 0 to less than 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_pairs() {
        assert_eq!(range("1..8"), Ok(1..=8));
        assert_eq!(range("3"), Ok(3..=3));
        assert_eq!(range("2..=4"), Ok(2..=4));
        assert_eq!(
            range("4..2"),
            Err("4 is more than 2; write 2..4".to_owned())
        );
        for text in ["", "0..2", "4..2", "1..", "1-8", "1..100000"] {
            assert!(range(text).is_err(), "{text}");
        }
        assert_eq!(pair("a=b=c"), Ok(("a=b".to_owned(), "c".to_owned())));
        assert!(pair("a").is_err() && pair("=b").is_err());
        assert_eq!(idle_timeout("never"), Ok(IdleTimeout(None)));
        assert!(idle_timeout("5m").is_ok() && idle_timeout("0s").is_err());
        assert!(share_or_all("1").is_ok() && share_or_all("0").is_ok());
        for text in ["nan", "-0.1", "1.1", "10%"] {
            assert!(share_or_all(text).is_err(), "{text}");
        }
        assert!(share("0.3").is_ok() && share("1").is_err() && share("nan").is_err());
    }
}
