//! The simulated GPUs of engine-sim: what fits, what is held at the worst moment, host RAM, other people's memory.

use std::{fs, path::PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, time::timeout};

use crate::{
    client::{PATIENCE, until},
    sim::Sim,
    simulation::fault,
};

const GIB: u64 = 1 << 30;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("engine-sim-contract-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// Flags of an engine of 16 GiB, 1 GiB asleep, on GPUs of 24 GiB.
    fn flags(&self, more: &[&str]) -> Vec<String> {
        let path = self.0.to_string_lossy();
        let common = [
            "--gpu-dir",
            &path,
            "--gpu-memory",
            "24GiB",
            "--weights",
            "16GiB",
            "--residual",
            "1GiB",
        ];
        common
            .iter()
            .chain(more)
            .map(|word| (*word).to_owned())
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to do about a folder that stays behind.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// GPU memory that files tell of.
fn held(folder: &Folder) -> u64 {
    told(folder, "bytes")
}

/// Sum of a figure over all files.
fn told(folder: &Folder, figure: &str) -> u64 {
    let entries = fs::read_dir(&folder.0).into_iter().flatten().flatten();
    let holdings = entries.filter(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "json")
    });
    holdings
        .filter_map(|entry| {
            serde_json::from_slice::<Value>(&fs::read(entry.path()).ok()?).ok()?[figure].as_u64()
        })
        .sum()
}

#[tokio::test]
async fn two_that_do_not_fit_are_never_awake_together() -> anyhow::Result<()> {
    let folder = Folder::new("fit");
    let path = folder.0.to_string_lossy().into_owned();
    let gpu = [
        "--gpu-dir",
        &path,
        "--gpu-memory",
        "24GiB",
        "--weights",
        "16GiB",
        "--residual",
        "1GiB",
    ];
    let gib = 1_u64 << 30;
    let mut first = Sim::start(&gpu).await?;
    ensure!(held(&folder) == 16 * gib);

    let mut command = Sim::command(&gpu);
    let mut refused = command.stderr(std::process::Stdio::piped()).spawn()?;
    let mut said = String::new();
    refused
        .stderr
        .take()
        .context("stderr")?
        .read_to_string(&mut said)
        .await?;
    ensure!(
        refused.wait().await?.code() == Some(1) && said.contains("CUDA out of memory"),
        "{said}"
    );

    first.client.sleep().await?;
    ensure!(held(&folder) == gib);
    let second = Sim::start(&gpu).await?;
    let refused = first.client.call("/wake_up").await?;
    let message = refused.body["error"]["message"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        refused.status == 500 && message.contains("CUDA out of memory"),
        "{refused:?}"
    );
    ensure!(
        first.client.state().await? == (true, true),
        "a wake that failed leaves it asleep"
    );
    fault(&second.client, json!({"keep_memory": true})).await?;
    second.client.sleep().await?;
    ensure!(
        first.client.call("/wake_up").await?.status == 500,
        "memory that was not freed"
    );
    second.client.delete("/sim/faults").await?;
    second.client.wake().await?;
    second.client.sleep().await?;
    first.client.wake().await?;
    ensure!(held(&folder) == 17 * gib);

    let pid = first.process.id().context("no process")?;
    tokio::process::Command::new("kill")
        .arg(pid.to_string())
        .status()
        .await?;
    ensure!(
        timeout(PATIENCE, first.process.wait()).await??.success(),
        "SIGTERM is a clean end"
    );
    ensure!(held(&folder) == gib);
    Ok(())
}

async fn start(folder: &Folder, more: &[&str]) -> anyhow::Result<Sim> {
    let flags = folder.flags(more);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Sim::start(&flags).await
}

#[tokio::test]
async fn the_worst_moments_are_held() -> anyhow::Result<()> {
    let folder = Folder::new("peak");
    let flags = folder.flags(&["--sleep-peak", "2GiB", "--wake-peak", "3GiB"]);
    // Slow enough to be seen.
    let slow = [
        "--port",
        "0",
        "--model",
        "tiny",
        "--cold-start",
        "0s",
        "--sleep-time",
        "400ms",
        "--wake-time",
        "400ms",
    ];
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_engine-sim"));
    command
        .args(slow)
        .args(flags)
        .env("VLLM_SERVER_DEV_MODE", "1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true);
    let sim = Sim::spawn(command).await?;
    for (path, peak, after) in [("/sleep?mode=keep", 18, 1), ("/wake_up", 19, 16)] {
        let moving = sim.client.start(path, json!({}));
        until("the peak is held", async || Ok(held(&folder) == peak * GIB)).await?;
        ensure!(moving.await??.status == 200);
        ensure!(held(&folder) == after * GIB);
    }
    // And they have to fit.
    let tight = Folder::new("tight");
    let sim = start(&tight, &["--wake-peak", "9GiB"]).await?;
    sim.client.sleep().await?;
    ensure!(sim.client.call("/wake_up").await?.status == 500);
    ensure!(sim.client.state().await? == (true, true) && held(&tight) == GIB);
    Ok(())
}

#[tokio::test]
async fn host_memory_is_told_and_kept_as_vllm_keeps_it() -> anyhow::Result<()> {
    let reload = json!({"method": "reload_weights"});
    for (flags, awake_again, deep) in [(&[][..], 15, 15), (&["--free-host-copy"][..], 0, 0)] {
        let folder = Folder::new("host");
        let sim = start(&folder, flags).await?;
        let client = &sim.client;
        let host = || told(&folder, "host") / GIB;
        client.call("/sleep?level=2&mode=keep").await?;
        ensure!(host() == 0, "level 2 keeps no copy");
        client.call("/wake_up?tags=weights").await?;
        client.post("/collective_rpc", &reload).await?;
        client.wake().await?;
        client.sleep().await?;
        ensure!(host() == 15);
        client.wake().await?;
        ensure!(host() == awake_again);
        client.call("/sleep?level=2&mode=keep").await?;
        ensure!(host() == deep);
    }
    Ok(())
}

#[tokio::test]
async fn memory_of_strangers_counts() -> anyhow::Result<()> {
    let folder = Folder::new("foreign");
    let sim = start(&folder, &[]).await?;
    sim.client.sleep().await?;
    let me = std::process::id();
    let stat = fs::read_to_string(format!("/proc/{me}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("stat")?;
    let start: u64 = fields
        .split_whitespace()
        .nth(19)
        .context("start")?
        .parse()?;
    let foreign = json!({"pid": me, "start": start, "gpu": 0, "bytes": 9 * GIB});
    fs::write(folder.0.join("foreign.json"), foreign.to_string())?;
    ensure!(sim.client.call("/wake_up").await?.status == 500);
    fs::remove_file(folder.0.join("foreign.json"))?;
    sim.client.wake().await
}

#[tokio::test]
async fn an_engine_on_two_gpus_holds_as_much_on_each() -> anyhow::Result<()> {
    let folder = Folder::new("two");
    let sim = start(&folder, &["--gpu", "0,1"]).await?;
    ensure!(held(&folder) == 32 * GIB);
    sim.client.sleep().await?;
    ensure!(held(&folder) == 2 * GIB && told(&folder, "host") == 30 * GIB);
    sim.client.wake().await
}
