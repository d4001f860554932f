//! The facade against engines that surprise: a double over HTTP that misbehaves on demand, and real small processes.

mod double;
mod memory;
mod processes;
mod surprises;
mod tiers;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use greenthread_core::{
    event::{Event, Outcome},
    ids::{Bytes, GpuId, Millis, ModelId},
    model::{Caps, Durations, ModelSpec, OnDrainTimeout, OnLeaseEnd, Sizes},
};
use tokio::{sync::mpsc, time::timeout};

use super::{Engines, Oracle, Settings};
use crate::config::{EngineKind, EngineSpec, Model};

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(20);

/// Engines, and what they report.
struct Bench {
    engines: Engines,
    events: mpsc::Receiver<Event>,
    state: PathBuf,
    oracle: Oracle,
}

impl Bench {
    /// A bench with a state folder of its own, with times that fit tests.
    fn new(name: &str) -> Self {
        Self::on(super::test_folder(name), |_| {})
    }

    /// Another life of control on the same state folder.
    fn again(&self) -> Self {
        let oracle = self.oracle.clone();
        Self::on(self.state.clone(), |settings| settings.oracle = oracle)
    }

    fn on(state: PathBuf, change: impl FnOnce(&mut Settings)) -> Self {
        let (sender, events) = mpsc::channel(64);
        let mut settings = Settings {
            state: state.clone(),
            oracle: Oracle::Declared,
            command: Duration::from_millis(500),
            observe: Duration::from_millis(500),
            start: Duration::from_secs(15),
            wake: Duration::from_secs(2),
        };
        change(&mut settings);
        let oracle = settings.oracle.clone();
        let engines = Engines::new(settings, sender);
        Self {
            engines,
            events,
            state,
            oracle,
        }
    }

    /// A bench that measures memory on the simulated GPU.
    fn simulated(name: &str) -> Self {
        let state = super::test_folder(name);
        let folder = state.join("gpu");
        Self::on(state, |settings| {
            settings.oracle = Oracle::Simulated { folder }
        })
    }

    /// The next event that `pick` takes; others are passed over.
    async fn next<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        let wanted = async {
            loop {
                if let Some(found) = pick(self.events.recv().await.expect("engines live")) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, wanted)
            .await
            .expect("the event comes in time")
    }

    /// The next outcome of a start, a wake or a sleep.
    async fn outcome(&mut self) -> Outcome {
        self.next(|event| {
            if let Event::Started { outcome, .. }
            | Event::Woke { outcome, .. }
            | Event::Slept { outcome, .. } = event
            {
                Some(outcome)
            } else {
                None
            }
        })
        .await
    }
}

impl Drop for Bench {
    /// A test that fails leaves nothing behind either.
    fn drop(&mut self) {
        super::end_all(&self.state);
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

/// The id of the one model of these tests.
fn id() -> ModelId {
    ModelId("llama.0123".into())
}

/// A model at this address, started by this command or attached to.
fn model(address: SocketAddr, command: Option<Vec<String>>) -> Model {
    let caps = Caps {
        counts: true,
        lossless: true,
        restartable: command.is_some(),
        disk: false,
    };
    let zero = Millis(0);
    let spec = ModelSpec {
        id: id(),
        gpus: vec![GpuId(0)],
        awake: Bytes::gib(16),
        asleep: Bytes::gib(1),
        conditioned: false,
        sizes: Sizes::default(),
        pinned: false,
        tier: None,
        popular: false,
        idle_timeout: None,
        drain_timeout: zero,
        on_drain_timeout: OnDrainTimeout::Freeze,
        max_freeze: zero,
        min_runtime: zero,
        max_wait: zero,
        on_lease_end: OnLeaseEnd::Flow,
        caps,
        guess: Durations {
            start: zero,
            wake: zero,
            sleep: zero,
            reload: zero,
        },
    };
    Model {
        name: "llama".into(),
        served: "tiny".into(),
        prefixes: vec!["llama".into()],
        engine: EngineSpec {
            kind: EngineKind::Vllm,
            address,
            command,
            env: BTreeMap::new(),
        },
        expose: Vec::new(),
        max_model_len: None,
        on_lease_end: None,
        spec,
        cluster: "gt-0".into(),
    }
}
