//! Follows the fleet file while control serves: carries out the steps of a reload, one after the other.
//!
//! Promises that a file with an error, or one that needs a new start, changes nothing. Knows no decisions: the core drains.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    time::Duration,
};

use greenthread_core::ids::ModelId;
use tokio::sync::mpsc;

use crate::{
    config::{Fleet, Model},
    engine::Engines,
    input::Input,
    standalone::{
        delivery::{Clusters, DeliveryError},
        reload::{Step, plan},
        watch::Watch,
    },
};

/// How long an Envoy that runs may take to know a new cluster.
const CLUSTER_KNOWN: Duration = Duration::from_secs(30);

/// Who carries out a reload.
#[derive(Debug)]
pub(crate) struct Follower {
    clusters: Clusters,
    engines: Engines,
    inputs: mpsc::Sender<Input>,
    gone: mpsc::UnboundedReceiver<ModelId>,
}

/// Why a reload stopped.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("the clusters of Envoy could not be changed")]
    Delivery(#[from] DeliveryError),
    #[error("control is stopping")]
    Stopping,
}

impl Follower {
    /// A follower that is told on `gone` of every model whose engine has ended for good.
    pub(crate) fn new(
        fleet: &Fleet,
        engines: Engines,
        inputs: mpsc::Sender<Input>,
        gone: mpsc::UnboundedReceiver<ModelId>,
    ) -> Self {
        Self {
            clusters: Clusters::of(fleet),
            engines,
            inputs,
            gone,
        }
    }

    /// Gives Envoy the clusters of the fleet as it is: the file may have changed while control was away.
    pub(crate) async fn begin(&self, fleet: &Fleet) {
        warn(fleet);
        if let Err(error) = self.clusters.write(fleet.models.values()).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "Envoy keeps its old clusters"
            );
        }
    }

    /// Follows the file, whose content is `fleet` now, until control stops.
    pub(crate) async fn run(mut self, mut watch: Watch, mut fleet: Fleet) {
        loop {
            let new = match watch.next().await {
                Ok(new) => new,
                Err(error) => {
                    say(&format!(
                        "fleet file not taken over, the old one stays in force:\n{error}"
                    ));
                    continue;
                }
            };
            let steps = match plan(&fleet, &new) {
                Ok(steps) => steps,
                Err(refused) => {
                    say(&format!("fleet file not taken over: {refused}"));
                    continue;
                }
            };
            if steps.is_empty() {
                say("fleet file read again: it says what is in force already");
                continue;
            }
            say(&format!("fleet file taken over: {}", summary(&steps)));
            warn(&new);
            // What was carried out is in force even when a later step failed: the next plan starts from the new file.
            fleet = new;
            for step in steps {
                match self.carry_out(step).await {
                    Ok(()) => {}
                    Err(FollowError::Stopping) => return,
                    Err(error @ FollowError::Delivery(_)) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "a step of the reload failed"
                        );
                    }
                }
            }
        }
    }

    async fn carry_out(&mut self, step: Step) -> Result<(), FollowError> {
        match step {
            Step::Clusters(models) => {
                self.clusters.write(&models).await?;
                for model in &models {
                    self.clusters
                        .wait_until_known(&model.cluster, CLUSTER_KNOWN)
                        .await?;
                }
                Ok(())
            }
            Step::Set(model) => {
                let spec = self.engines.set((*model).clone()).await;
                self.tell(Input::SetModel(Box::new(Model { spec, ..*model })))
                    .await
            }
            Step::Remove(ids) => {
                for id in ids {
                    self.tell(Input::RemoveModel(id)).await?;
                }
                Ok(())
            }
            Step::AwaitRemoved(ids) => {
                let mut awaited: BTreeSet<ModelId> = ids.into_iter().collect();
                while !awaited.is_empty() {
                    awaited.remove(&self.gone.recv().await.ok_or(FollowError::Stopping)?);
                }
                Ok(())
            }
        }
    }

    async fn tell(&self, input: Input) -> Result<(), FollowError> {
        self.inputs
            .send(input)
            .await
            .map_err(|_| FollowError::Stopping)
    }
}

/// Says something to the operator, in the same place as decisions.
fn say(line: &str) {
    // A closed stdout is no reason to stop.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Says what the file allows and may not mean.
fn warn(fleet: &Fleet) {
    for warning in &fleet.warnings {
        say(&format!("warning: fleet file:{warning}"));
    }
}

fn summary(steps: &[Step]) -> String {
    let mut parts = Vec::new();
    for step in steps {
        match step {
            Step::Set(model) => parts.push(format!("{} set", model.name)),
            Step::Remove(ids) => parts.extend(ids.iter().map(|id| format!("{id} drains and goes"))),
            Step::Clusters(_) | Step::AwaitRemoved(_) => {}
        }
    }
    parts.join(", ")
}
