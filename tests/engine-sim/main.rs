//! engine-sim: behaves like `vllm serve` on the outside, without a GPU. See `--help` for its faults and counts.

mod args;
mod engine;
mod faults;
mod gpu;
mod http;
mod state;
mod text;

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{args::Args, engine::Engine, gpu::Gpus};

/// Requests that have not ended by then are cut off.
const GRACE: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;
    let gpu = open_gpu(&args)?;
    let engine = Engine::new(args, gpu);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let mut serving = tokio::spawn(http::serve(engine.clone(), stopped));
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    if ended.is_none() {
        // An error means that it has ended already.
        let _ = stop.send(());
        let _ = tokio::time::timeout(GRACE, serving).await;
    }
    engine.shut_down();
    ended.map_or(Ok(()), |ended| ended.context("the server panicked")?)
}

/// Takes the memory of an awake engine, as loading does.
fn open_gpu(args: &Args) -> anyhow::Result<Option<Gpus>> {
    let (Some(folder), Some(capacity)) = (&args.gpu_dir, args.gpu_memory) else {
        return Ok(None);
    };
    let gpu = Gpus::open(folder, &args.gpu, capacity)?;
    gpu.hold(args.weights, 0)
        .context("Engine core initialization failed")?;
    Ok(Some(gpu))
}
