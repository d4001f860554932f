//! The `greenthread` program.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use greenthread_control::cli::{Cli, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let level =
        EnvFilter::try_from_env("GREENTHREAD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .init();
    run(Cli::parse())
}
