//! The `greenthread` program.

use std::{io, process::ExitCode};

use clap::Parser;
use greenthread_control::cli::{Cli, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let level =
        EnvFilter::try_from_env("GREENTHREAD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(io::stderr)
        .init();
    run(Cli::parse())
}
