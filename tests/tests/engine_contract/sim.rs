//! Starts engine-sim for a test and ends it with the test.

use std::process::Stdio;

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::client::{Client, PATIENCE};

/// Model id of every engine-sim here, and of the tiny model that a real vLLM serves in tests.
const MODEL: &str = "tiny";

/// A running engine-sim. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Sim {
    /// To talk to it.
    pub(crate) client: Client,
    /// The process.
    pub(crate) process: Child,
}

impl Sim {
    /// The command line that all share: quick, in development mode, counting requests, on a free port.
    pub(crate) fn command(more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_engine-sim"));
        command
            .args([
                "--port",
                "0",
                "--model",
                MODEL,
                "--cold-start",
                "0s",
                "--sleep-time",
                "20ms",
                "--wake-time",
                "50ms",
            ])
            .args([
                "--wake-from-disk",
                "100ms",
                "--token-time",
                "2ms",
                "--max-model-len",
                "1024",
                "--enable-server-load-tracking",
            ])
            .args(more)
            .env("VLLM_SERVER_DEV_MODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts one with further flags.
    pub(crate) async fn start(more: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(Self::command(more)).await
    }

    /// Starts a command made by [`Sim::command`]. Returns when it serves.
    pub(crate) async fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let mut process = command.spawn().context("engine-sim")?;
        let stdout = process.stdout.take().context("no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(PATIENCE, lines.next_line())
            .await??
            .context("engine-sim ended at once")?;
        let url = line.rsplit(' ').next().context("no address")?;
        Ok(Self {
            client: Client::new(url, MODEL)?,
            process,
        })
    }
}
