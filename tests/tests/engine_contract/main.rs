//! What GreenThread relies on in vLLM's HTTP API, and what surprises in it: one table of behaviours, and the same through control's
//! driver. Asked of engine-sim always, and of a real engine when `GREENTHREAD_VLLM_URL` and `GREENTHREAD_VLLM_MODEL` name one (an engine
//! that nobody else uses, in development mode, with `--enable-server-load-tracking`). The shapes of answers are compared with those that
//! a real vLLM gave.

mod behaviours;
mod client;
mod driver;
mod in_flight;
mod levels;
mod memory;
mod shapes;
mod sim;
mod simulation;

use anyhow::Context;

use crate::{client::Client, sim::Sim};

/// One thing that is true of an engine. Starts from an engine that is awake and idle.
pub(crate) struct Behaviour {
    name: &'static str,
    check: fn(Client) -> Checked,
}

/// A check under way.
pub(crate) type Checked = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// Makes a behaviour out of an async function that has its name.
macro_rules! table {
    ($($name:ident),* $(,)?) => {
        &[$(crate::Behaviour { name: stringify!($name), check: |client| Box::pin($name(client)) }),*]
    };
}
pub(crate) use table;

#[tokio::test]
async fn engine_sim_keeps_the_contract() -> anyhow::Result<()> {
    let sim = Sim::start(&[]).await?;
    check_all(&sim.client).await
}

#[tokio::test]
async fn engine_sim_keeps_the_contract_of_the_driver() -> anyhow::Result<()> {
    let sim = Sim::start(&[]).await?;
    driver::check(&sim.client.url, &sim.client.model).await;
    Ok(())
}

#[tokio::test]
async fn engine_sim_answers_in_the_shapes_of_vllm() -> anyhow::Result<()> {
    let sim = Sim::start(&[]).await?;
    shapes::check(&sim.client).await
}

#[tokio::test]
async fn vllm_keeps_the_contract() -> anyhow::Result<()> {
    let (Ok(url), Ok(model)) = (
        std::env::var("GREENTHREAD_VLLM_URL"),
        std::env::var("GREENTHREAD_VLLM_MODEL"),
    ) else {
        eprintln!(
            "no engine: set GREENTHREAD_VLLM_URL and GREENTHREAD_VLLM_MODEL (`make test-vllm` does)"
        );
        return Ok(());
    };
    let client = Client::new(&url, &model)?;
    // One after the other: the behaviours change the engine's state.
    shapes::update(&client).await?;
    check_all(&client).await?;
    shapes::check(&client).await?;
    driver::check(&url, &model).await;
    Ok(())
}

async fn check_all(client: &Client) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    let all = [behaviours::ALL, in_flight::ALL, levels::ALL];
    for behaviour in all.into_iter().flatten() {
        client
            .reset()
            .await
            .with_context(|| format!("before {}", behaviour.name))?;
        let result = (behaviour.check)(client.clone()).await;
        eprintln!(
            "{} {}",
            if result.is_ok() { "kept  " } else { "BROKEN" },
            behaviour.name
        );
        if let Err(error) = result {
            broken.push(format!("{}: {error:#}", behaviour.name));
        }
    }
    client.reset().await.context("at the end")?;
    anyhow::ensure!(broken.is_empty(), "broken:\n{}", broken.join("\n"));
    Ok(())
}
