//! The command line: the few flags of `vllm serve` that the product uses, and the figures of the simulation. An unknown flag is an
//! error, so that a typing mistake in a fleet file does not pass unnoticed.

use std::{net::IpAddr, num::ParseIntError, path::PathBuf, time::Duration};

use clap::Parser;

const AFTER_HELP: &str = "\
Sleep endpoints (/sleep, /wake_up, /is_sleeping, /pause, /resume, /is_paused, /collective_rpc, /reset_prefix_cache) exist only with
VLLM_SERVER_DEV_MODE=1 in the environment, as in vLLM.

Faults, switched at run time:
  POST   /sim/faults   JSON object; only the fields it names change. Fields and their values without faults:
    slow_wake_ms: 0        added to each wake             slow_sleep_ms: 0      added to each sleep
    hang_wake: false       wake never returns             hang_sleep: false     sleep never returns (until switched off)
    wake_500: false        wake fails                     sleep_500: false      sleep fails; nothing has changed
    lie_awake: false       says awake, stays asleep       lie_asleep: false     says asleep, runs on and keeps its memory
    keep_memory: false     sleeps, but frees nothing      crash_on_wake: false  exits when told to wake
    reload_500: false      the weights cannot be loaded again after a sleep of level 2
    refuse: false          every request gets 500         silent: false         requests are accepted and never answered
    crash: false           exits at once, like a killed process
  GET    /sim/faults   what is switched on
  DELETE /sim/faults   no faults
Counts, for tests:
  GET    /sim/stats    sleeps, wakes, requests, requests_asleep (arrived while not serving), tokens_asleep (computed without memory:
                       on a GPU an illegal access), max_concurrent, completed, aborted, disconnected, body_bytes, operations
  DELETE /sim/stats    counts from zero
  GET    /sim/requests the last requests: method, target, headers
The simulated GPUs: --gpu-dir has one file NAME.json for everything that a process holds on a GPU,
  {\"pid\": 1234, \"start\": 5678, \"gpu\": 0, \"bytes\": 17179869184, \"host\": 0}
  start is field 22 of /proc/PID/stat; the file counts while that process lives. A file that somebody else puts there is memory that
  somebody else holds. host, which may be left out, is host RAM for a sleeping copy.";

/// A vLLM-shaped engine for machines without a GPU.
#[derive(Clone, Debug, Parser)]
#[command(name = "engine-sim", version, about, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one and prints it.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Model id that requests name.
    #[arg(long)]
    pub model: String,
    /// GPU memory while awake, on each GPU.
    #[arg(long, default_value = "16GiB", value_parser = parse_bytes)]
    pub weights: u64,
    /// GPU memory while asleep, on each GPU.
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes)]
    pub residual: u64,
    /// Folder of the simulated GPUs, shared by all engines of a machine; without it memory is not simulated.
    #[arg(long, requires = "gpu_memory")]
    pub gpu_dir: Option<PathBuf>,
    /// GPU memory that a sleep takes on top of --weights, until it is over.
    #[arg(long, default_value = "0", value_parser = parse_bytes)]
    pub sleep_peak: u64,
    /// GPU memory that a wake takes on top of --weights, until it is over.
    #[arg(long, default_value = "0", value_parser = parse_bytes)]
    pub wake_peak: u64,
    /// Host RAM, for each GPU, of the copy that a sleep of level 1 keeps; told in --gpu-dir, not really held. As in vLLM it is given
    /// back only when the process ends [default: --weights without --residual].
    #[arg(long, value_parser = parse_bytes)]
    pub host_copy: Option<u64>,
    /// Give the host RAM of the copy back with each wake, which vLLM does not.
    #[arg(long)]
    pub free_host_copy: bool,
    /// Which simulated GPU; several with commas.
    #[arg(long, default_value = "0", value_delimiter = ',')]
    pub gpu: Vec<u32>,
    /// Memory of each of these GPUs.
    #[arg(long, value_parser = parse_bytes)]
    pub gpu_memory: Option<u64>,
    /// From the start of the process to the first answer.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub cold_start: Duration,
    /// Duration of a sleep.
    #[arg(long, default_value = "90ms", value_parser = parse_duration)]
    pub sleep_time: Duration,
    /// Duration of a wake from RAM (level 1).
    #[arg(long, default_value = "600ms", value_parser = parse_duration)]
    pub wake_time: Duration,
    /// Duration of loading the weights again, after a sleep of level 2.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub wake_from_disk: Duration,
    /// Time per generated token.
    #[arg(long, default_value = "20ms", value_parser = parse_duration)]
    pub token_time: Duration,
    /// Longest prompt and answer together, in tokens (four bytes of a prompt, a word of an answer).
    #[arg(long, default_value_t = 1 << 20)]
    pub max_model_len: u64,
    /// Makes `/load` count requests; without it `/load` says 0, as in vLLM.
    #[arg(long)]
    pub enable_server_load_tracking: bool,
}

/// Why a figure on the command line is not understood.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum FigureError {
    /// The part before the unit.
    #[error("not a whole number: {text:?}")]
    Number {
        /// What was there.
        text: String,
        /// Why it is none.
        source: ParseIntError,
    },
    /// The part after the number.
    #[error("unknown unit {unit:?}; known: {known}")]
    Unit {
        /// What was there.
        unit: String,
        /// What could have been.
        known: &'static str,
    },
    /// Larger than 64 bits.
    #[error("too large")]
    TooLarge,
}

/// Reads `90ms`, `5s`, `2m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, FigureError> {
    let (number, unit) = split(text)?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        other => {
            return Err(FigureError::Unit {
                unit: other.to_owned(),
                known: "ms, s, m",
            });
        }
    };
    number
        .checked_mul(millis_per_unit)
        .map(Duration::from_millis)
        .ok_or(FigureError::TooLarge)
}

/// Reads `16GiB`, `512MiB`, `4KiB`, `16000000000`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, FigureError> {
    let (number, unit) = split(text)?;
    let bytes_per_unit = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        other => {
            return Err(FigureError::Unit {
                unit: other.to_owned(),
                known: "B, KiB, MiB, GiB, TiB",
            });
        }
    };
    number
        .checked_mul(bytes_per_unit)
        .ok_or(FigureError::TooLarge)
}

fn split(text: &str) -> Result<(u64, &str), FigureError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|source| FigureError::Number {
        text: text.to_owned(),
        source,
    })?;
    Ok((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90ms"), Ok(Duration::from_millis(90)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(matches!(parse_duration("5"), Err(FigureError::Unit { .. })));
        assert!(matches!(
            parse_duration("fast"),
            Err(FigureError::Number { .. })
        ));
        assert_eq!(
            parse_duration("18446744073709551615m"),
            Err(FigureError::TooLarge)
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("16GiB"), Ok(16 << 30));
        assert_eq!(parse_bytes("1000"), Ok(1000));
        assert!(matches!(parse_bytes("16GB"), Err(FigureError::Unit { .. })));
        assert!(matches!(parse_bytes("-1"), Err(FigureError::Number { .. })));
    }
}
