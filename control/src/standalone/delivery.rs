//! Brings clusters to Envoy through the file that it watches, and finds out whether they have arrived.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{clusters::discovery, files};
use crate::config::{Fleet, Model};

/// How often Envoy is asked.
const POLL: Duration = Duration::from_millis(50);
/// Longest wait for one answer of Envoy's admin interface.
const ANSWER: Duration = Duration::from_secs(2);

/// Why Envoy does not have a cluster.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The file cannot be written.
    #[error("cannot write {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Envoy runs and has not taken it over in time.
    #[error("Envoy does not know the cluster {cluster} after {} s; its log says why", waited.as_secs())]
    Unknown {
        /// Its name.
        cluster: String,
        /// How long.
        waited: Duration,
    },
}

/// Envoy's clusters on one machine.
#[derive(Clone, Debug)]
pub struct Clusters {
    file: PathBuf,
    admin: SocketAddr,
    client: reqwest::Client,
}

impl Clusters {
    /// Those of the Envoy that `greenthread up` runs for this fleet.
    pub fn of(fleet: &Fleet) -> Self {
        Self {
            file: files::clusters(&fleet.state),
            admin: fleet.gateway.admin,
            client: reqwest::Client::new(),
        }
    }

    /// Gives Envoy the clusters of these models, and takes away all others. The file is replaced as a whole. To be called when control
    /// starts, too: the file may have changed while it was away.
    ///
    /// # Errors
    /// The file cannot be written; Envoy goes on with the old one.
    pub async fn write(
        &self,
        models: impl IntoIterator<Item = &Model>,
    ) -> Result<(), DeliveryError> {
        let content = discovery(models).to_string();
        let file = self.file.clone();
        let written =
            tokio::task::spawn_blocking(move || files::replace(&file, content.as_bytes())).await;
        written
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|source| DeliveryError::Write {
                file: self.file.clone(),
                source,
            })
    }

    /// Waits until Envoy has the cluster. An Envoy that does not run reads the file when it starts, so there is nothing to wait for.
    ///
    /// # Errors
    /// Envoy runs and does not have it after `timeout`.
    pub async fn wait_until_known(
        &self,
        cluster: &str,
        timeout: Duration,
    ) -> Result<(), DeliveryError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.names().await {
                Seen::NoEnvoy => return Ok(()),
                Seen::Clusters(names) if names.iter().any(|name| name == cluster) => return Ok(()),
                Seen::Clusters(_) | Seen::NoAnswer => {}
            }
            if Instant::now() >= deadline {
                return Err(DeliveryError::Unknown {
                    cluster: cluster.to_owned(),
                    waited: timeout,
                });
            }
            sleep(POLL).await;
        }
    }

    async fn names(&self) -> Seen {
        let url = format!("http://{}/clusters?format=json", self.admin);
        let answer = async {
            self.client
                .get(url)
                .timeout(ANSWER)
                .send()
                .await?
                .json::<Value>()
                .await
        };
        match answer.await {
            Ok(statuses) => {
                let names = statuses["cluster_statuses"]
                    .as_array()
                    .into_iter()
                    .flatten();
                Seen::Clusters(
                    names
                        .filter_map(|status| Some(status["name"].as_str()?.to_owned()))
                        .collect(),
                )
            }
            Err(error) if error.is_connect() => Seen::NoEnvoy,
            Err(_) => Seen::NoAnswer,
        }
    }
}

enum Seen {
    NoEnvoy,
    NoAnswer,
    Clusters(Vec<String>),
}
