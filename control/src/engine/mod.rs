//! Engines: the only part that talks to them. Runs one action at a time per engine and reports the outcome as a core event.

use std::{path::PathBuf, sync::Arc};

use greenthread_core::{event::Event, ids::{Attempt, ModelId}, model::SleepMode};
use tokio::sync::mpsc;

use crate::config::Model;

/// One thing to do with an engine.
#[derive(Clone, Debug)]
pub enum Action {
    /// `Event::Observed`.
    Observe(Attempt),
    /// `Event::Started`.
    Start(Attempt),
    /// `Event::Woke`.
    Wake(Attempt),
    /// `Event::Slept`.
    Sleep(Attempt, SleepMode),
    /// End its process; `Event::EngineGone` follows.
    Kill(String),
}

/// All engines of the fleet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engines {
    state: Arc<PathBuf>,
    events: mpsc::Sender<Event>,
}

impl Engines {
    /// Engines whose files live under `state` and whose outcomes go to `events`.
    pub fn new(state: PathBuf, events: mpsc::Sender<Event>) -> Self {
        Self { state: Arc::new(state), events }
    }

    /// Makes a model known (or replaces its settings). Adopts its process if `state/engines.json` names one that still runs.
    pub async fn set(&self, _model: Model) {
        let _ = &self.state;
    }

    /// Forgets a model and ends its process when control started it.
    pub async fn remove(&self, _model: &ModelId) {}

    /// Starts the action in the background.
    pub fn run(&self, _model: &ModelId, _action: Action) {
        let _ = &self.events;
    }
}
