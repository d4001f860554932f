//! Sleeps and wakes by level: 1 keeps the weights in host RAM, 2 drops them and reads them from disk again.
//!
//! A wake from level 2 has three steps, and an engine that skips the second one answers with garbage and 200: memory for the
//! weights, the weights, memory for the cache. Until the third step its scheduler stands still. Level 2 asked of an engine that
//! sleeps at level 1 does nothing, says 200, and its metric says level 2 from then on: so the depth of a sleep is remembered by
//! whoever ordered it, and the metric is only a second opinion.

use std::time::Duration;

use greenthread_core::{event::EngineState, model::SleepMode, phase::Tier};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::{QUESTION, Trouble, Vllm, called, sentence};
use crate::engine::{
    http::{Fault, Reply},
    reply,
};

/// Longest sleep: the first one of an engine pins host memory for all weights, at 0.8 GB/s where it is slow.
pub const SLEEP_LIMIT: Duration = Duration::from_secs(180);

/// How deep an engine sleeps whose process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Level 1: the weights are in host RAM.
    Ram,
    /// Level 2: the weights are on disk only.
    Disk,
}

impl Depth {
    fn level(self) -> u64 {
        match self {
            Self::Ram => 1,
            Self::Disk => 2,
        }
    }
}

impl From<Depth> for Tier {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::Ram => Self::Ram,
            Depth::Disk => Self::Disk,
        }
    }
}

impl Vllm {
    /// Puts an engine that is awake to sleep and waits until it says so. Idempotent at the same depth; one that sleeps already
    /// stays as deep as it is, and does not say so.
    pub async fn sleep(&self, mode: SleepMode, depth: Depth) -> Result<(), Trouble> {
        self.accepts().await?;
        let mode = match mode {
            SleepMode::Keep => "keep",
            SleepMode::Abort => "abort",
        };
        let query = format!("?level={}&mode={mode}", depth.level());
        let body = called(self.http.post("/sleep", &query, SLEEP_LIMIT).await)?;
        // What it does not say it may have done; what it says wrong it has not.
        if let Some(level) = reply::level(&body).filter(|level| *level != depth.level()) {
            return Err(Trouble::Definite(format!(
                "/sleep was asked for level {} and answered level {level}",
                depth.level()
            )));
        }
        self.settles(EngineState::Asleep, "/sleep").await
    }

    /// Wakes an engine that sleeps at this depth until it says so, within `limit`. Idempotent; a wake from disk loads the weights
    /// in any case, so it is right for an engine of unknown depth too. Says nothing about memory or results.
    pub async fn wake(&self, depth: Depth, limit: Duration) -> Result<(), Trouble> {
        self.accepts().await?;
        let end = Instant::now() + limit;
        match depth {
            Depth::Ram => self.wake_the_rest("", end).await,
            Depth::Disk => {
                // "awake" is no surprise here: of an engine that was only paused, or awake already.
                self.wake_up("?tags=weights", end).await?;
                self.reload(end).await?;
                self.wake_the_rest("?tags=kv_cache", end).await
            }
        }
    }

    /// How deep the engine sleeps by its own metric: the level that it was last asked for. `Some(None)`: its weights are where they
    /// were. `None`: it does not say.
    pub async fn sleeps_by_metric(&self) -> Option<Option<Depth>> {
        reply::depth(&self.http.get_ok("/metrics", self.command).await.ok()?)
    }

    /// Whether the call that loads weights exists. Asked with a method that it refuses, so that nothing is called.
    pub(super) async fn takes_calls(&self) -> Result<bool, Fault> {
        Ok(self.http.get("/collective_rpc", QUESTION).await?.status == 405)
    }

    /// Wakes what is left, until the engine is awake. Without tags: all of it; what a tag leaves out is tried once more without.
    async fn wake_the_rest(&self, query: &str, end: Instant) -> Result<(), Trouble> {
        for query in [query, ""] {
            if self.wake_up(query, end).await? {
                return self.settles(EngineState::Awake, "/wake_up").await;
            }
        }
        Err(Trouble::Definite(
            "/wake_up answered 200 twice and said each time that it still sleeps".into(),
        ))
    }

    /// One call; whether all of the engine is awake afterwards.
    async fn wake_up(&self, query: &str, end: Instant) -> Result<bool, Trouble> {
        let left = end.saturating_duration_since(Instant::now());
        let body = called(self.http.post("/wake_up", query, left).await)?;
        match reply::status(&body).as_deref() {
            Some("awake") => Ok(true),
            Some("sleeping") => Ok(false),
            Some(_) | None => Err(Trouble::Definite(format!(
                "/wake_up answered 200 and said {}",
                reply::words(&body)
            ))),
        }
    }

    /// Reads the weights from disk. Anything but success leaves weights that mean nothing: nobody must compute with them.
    async fn reload(&self, end: Instant) -> Result<(), Trouble> {
        let left = end.saturating_duration_since(Instant::now());
        let path = "/collective_rpc";
        let call = json!({"method": "reload_weights"});
        let why = match self.http.post_json(path, &call, left).await {
            Ok(Reply { status: 200, body }) if reply::has_results(&body) => return Ok(()),
            Ok(Reply { status, body }) => {
                let words = reply::words(&body);
                return Err(Trouble::NoReload(format!(
                    "its weights cannot be loaded again: it answered {status}: {words}"
                )));
            }
            Err(fault) => sentence(&fault),
        };
        Err(Trouble::Lost(format!(
            "its weights were not loaded again: {why}"
        )))
    }
}
