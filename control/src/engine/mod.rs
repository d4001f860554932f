//! Engines: the only part that talks to them. Runs one action at a time per engine and reports the outcome as a core event.
//!
//! Looking is no action: an observation never waits behind a long wake, and neither does the end of a process.

mod footprint;
pub mod http;
pub mod oracle;
mod paths;
pub(crate) mod proc;
mod process;
pub mod registry;
pub mod reply;
#[cfg(test)]
mod tests;
pub mod vllm;
mod worker;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greenthread_core::{
    event::Event,
    ids::{Attempt, Bytes, GpuId, ModelId},
    model::{ModelSpec, SleepMode},
    phase::Tier,
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::MissedTickBehavior,
};

use crate::config::{EngineKind, Fleet, Model, OracleKind};

pub use oracle::Oracle;
use proc::Groups;
pub(crate) use process::LAST_LINES;
use registry::Registry;
pub use registry::end_all;
pub use reply::ModelCard;
use worker::{Job, Transition, Worker};

/// Between two readings of whole GPUs.
const GPUS_EVERY: Duration = Duration::from_secs(1);

/// Most actions that wait for one engine. The core has one under way at a time; more is a fault.
const QUEUE: usize = 8;

/// One thing to do with an engine.
#[derive(Clone, Debug)]
pub enum Action {
    /// `Event::Observed`.
    Observe(Attempt),
    /// `Event::Started`.
    Start(Attempt),
    /// `Event::Woke`. The engine is woken from where it really sleeps; a tier other than [`Tier::Stopped`] is only the core's belief.
    Wake(Attempt, Tier),
    /// `Event::Slept`. Into [`Tier::Stopped`]: its process is ended, and no `Event::EngineGone` tells so.
    Sleep(Attempt, SleepMode, Tier),
    /// End its process; `Event::EngineGone` of this attempt follows.
    Kill(Attempt, String),
}

/// What engines need to know of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Folder for `engines.json`, `footprints.json` and `logs/`.
    pub state: PathBuf,
    /// Who knows how much GPU memory an engine holds.
    pub oracle: Oracle,
    /// A call that was not accepted after this is abandoned.
    pub command: Duration,
    /// Longest look at an engine.
    pub observe: Duration,
    /// Longest start of a process.
    pub start: Duration,
    /// Longest wake.
    pub wake: Duration,
}

/// All engines of the fleet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engines {
    settings: Arc<Settings>,
    registry: Arc<Registry>,
    groups: Arc<Groups>,
    events: mpsc::Sender<Event>,
    engines: Arc<Mutex<BTreeMap<ModelId, Entry>>>,
}

/// An engine and the queue of its actions, which ends with the entry.
#[derive(Clone, Debug)]
struct Entry {
    worker: Arc<Worker>,
    queue: mpsc::Sender<Job>,
}

impl Settings {
    /// The part of a fleet file that concerns engines.
    pub fn of(fleet: &Fleet) -> Self {
        let oracle = match fleet.oracle {
            OracleKind::Declared => Oracle::Declared,
            OracleKind::Simulated => Oracle::Simulated {
                folder: fleet.state.join("gpu"),
            },
        };
        Self {
            state: fleet.state.clone(),
            oracle,
            command: Duration::from_millis(fleet.times.command.0),
            observe: fleet.observe_timeout,
            start: fleet.start_timeout,
            wake: fleet.wake_timeout,
        }
    }
}

/// What earlier lives measured of a model, in the state folder of its fleet: bytes, and how long it starts, wakes and sleeps. The spec as
/// declared where nothing was measured, and whether anything was. Only reads.
pub fn measured(fleet: &Fleet, model: &Model) -> (ModelSpec, bool) {
    let settings = Settings::of(fleet);
    let footprint = footprint::load(
        &settings.state,
        &model.spec.id.0,
        &worker::fingerprint(&settings, model),
    );
    let known = footprint != footprint::Footprint::default();
    (footprint.apply(model.spec.clone()), known)
}

/// Paths of a kind of engine that gates answer with 403: normalised; one that ends in "/" covers everything below it.
pub fn control_paths(kind: EngineKind) -> &'static [&'static str] {
    match kind {
        EngineKind::Vllm => paths::VLLM,
    }
}

impl Engines {
    /// Engines whose outcomes go to `events`. Reads what an earlier life of control left behind.
    pub fn new(settings: Settings, events: mpsc::Sender<Event>) -> Self {
        let registry = Arc::new(Registry::load(&settings.state));
        Self {
            settings: Arc::new(settings),
            registry,
            groups: Arc::default(),
            events,
            engines: Arc::default(),
        }
    }

    /// Makes a model known (or replaces its settings). Adopts its process if `state/engines.json` names one that still
    /// runs with the same command; ends it if the command is another. Returns the spec for the core: with measured
    /// figures where there are some, and without `caps.counts` until the engine's counts are proven
    /// (`Event::ModelSet` follows by itself when that changes).
    pub async fn set(&self, model: Model) -> ModelSpec {
        let known = self.lock().get(&model.spec.id).cloned();
        let worker = if let Some(entry) = known {
            entry.worker.replace(model).await;
            entry.worker
        } else {
            self.add(model).await
        };
        worker.spec()
    }

    /// Forgets a model and ends its process when control started it; returns when that is gone. `Event::EngineGone` of this attempt says so
    /// too: its memory is free only then.
    pub async fn remove(&self, model: &ModelId, attempt: Attempt) {
        let entry = self.lock().remove(model);
        if let Some(Entry { worker, queue }) = entry {
            drop(queue);
            worker.remove().await;
            let gone = Event::EngineGone {
                model: model.clone(),
                attempt: Some(attempt),
                cause: "it was removed from the fleet".to_owned(),
            };
            // The receiver is gone only when control ends.
            let _ = self.events.send(gone).await;
        }
    }

    /// Ends recorded processes of models that nobody made known: of a fleet file that has changed since. Call it once,
    /// after the first `set` of every model.
    pub async fn end_unknown(&self) {
        for (id, record) in self.registry.all() {
            if self.lock().contains_key(&ModelId(id.clone())) {
                continue;
            }
            tracing::info!(
                model = id,
                "ends an engine that the fleet file does not name any more"
            );
            process::end(self.registry.groups(&id)).await;
            if let Err(error) = self.registry.remove(&id, record.pid) {
                tracing::error!(%error, "cannot write engines.json");
            }
        }
    }

    /// Starts the action in the background. Needs a runtime.
    pub fn run(&self, model: &ModelId, action: Action) {
        let Some(entry) = self.lock().get(model).cloned() else {
            tracing::error!(%model, ?action, "an action for a model that is not known");
            return;
        };
        let worker = Arc::clone(&entry.worker);
        match action {
            Action::Observe(attempt) => {
                drop(tokio::spawn(async move { worker.observe(attempt).await }))
            }
            Action::Kill(attempt, cause) => {
                drop(tokio::spawn(async move {
                    worker.kill(Some(attempt), cause).await;
                }));
            }
            Action::Start(attempt) => self.queue(&entry, Job::new(Transition::Start, attempt)),
            Action::Wake(attempt, tier) => {
                self.queue(&entry, Job::new(Transition::Wake(tier), attempt));
            }
            Action::Sleep(attempt, mode, tier) => {
                self.queue(&entry, Job::new(Transition::Sleep(mode, tier), attempt));
            }
        }
    }

    /// Reads all memory in use on each of `gpus` GPUs about every second, and tells it as `Event::GpuRead`; never where the oracle
    /// cannot tell. Ends with whoever receives events. Needs a runtime.
    pub fn read_gpus(&self, gpus: usize) {
        let (oracle, events) = (self.settings.oracle.clone(), self.events.clone());
        if oracle.in_use().is_none() {
            return;
        }
        tokio::spawn(async move {
            let mut every = tokio::time::interval(GPUS_EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !events.is_closed() {
                every.tick().await;
                let in_use = oracle.in_use().unwrap_or_default();
                for gpu in (0..gpus).map(GpuId) {
                    let used = in_use.get(&gpu).copied().unwrap_or_default();
                    // The receiver is gone only when control ends.
                    let _ = events.send(Event::GpuRead { gpu, used }).await;
                }
            }
        });
    }

    /// What `/v1/models` of the engine last said about its model; `None` before it was ever asked.
    pub fn card(&self, model: &ModelId) -> Option<ModelCard> {
        self.lock().get(model)?.worker.card()
    }

    /// The word for where figures of memory come from.
    pub fn memory_source(&self) -> &'static str {
        self.settings.oracle.name()
    }

    /// Persists what was measured of a model (`Effect::Footprint`); `awake`: what it holds on all its GPUs while it serves, where that was
    /// measured. Blocks for a small write; one caller at a time.
    pub fn save_footprint(&self, model: &ModelId, awake: Option<Bytes>) -> io::Result<()> {
        match self.lock().get(model).cloned() {
            Some(entry) => {
                entry.worker.holds_awake(awake);
                footprint::save(&self.settings.state, &model.0, entry.worker.footprint())
            }
            None => Ok(()),
        }
    }

    fn queue(&self, entry: &Entry, job: Job) {
        if let Err(TrySendError::Full(job) | TrySendError::Closed(job)) = entry.queue.try_send(job)
        {
            let event = job.refused(
                entry.worker.id().clone(),
                "too many actions wait for this engine",
            );
            let events = self.events.clone();
            tokio::spawn(async move { events.send(event).await });
        }
    }

    async fn add(&self, model: Model) -> Arc<Worker> {
        let id = model.spec.id.clone();
        let worker = Worker::new(
            Arc::clone(&self.settings),
            Arc::clone(&self.registry),
            Arc::clone(&self.groups),
            self.events.clone(),
            model,
        );
        worker.adopt().await;
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(Arc::clone(&worker).serve(jobs));
        self.lock().insert(
            id,
            Entry {
                worker: Arc::clone(&worker),
                queue,
            },
        );
        worker
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelId, Entry>> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An empty folder of its own for one test.
#[cfg(test)]
fn test_folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("greenthread-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    folder
}
