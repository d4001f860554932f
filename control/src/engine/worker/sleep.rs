//! Sleeps of one engine, into RAM, to disk, or out of existence; each verified.

use std::collections::BTreeMap;

use greenthread_core::{
    event::{EngineState, Memory, Outcome},
    ids::Bytes,
    model::SleepMode,
};
use tokio::time::{Instant, timeout};

use super::{
    Worker,
    transition::{ENDING, TOLERANCE, elapsed, total},
};
use crate::engine::{
    process,
    vllm::{Depth, Trouble},
};

impl Worker {
    /// Puts the engine to sleep so deep, and verifies it.
    pub(super) async fn sleep(&self, began: Instant, mode: SleepMode, depth: Depth) -> Outcome {
        match self.sleep_verified(began, mode, depth).await {
            Ok(depth) => {
                let took = elapsed(began);
                let mut known = self.lock();
                known.is_asleep();
                let memory = self.memory(&known);
                known.keep_sleep(depth, took, memory);
                Outcome::Done { took, memory }
            }
            Err(trouble) => self.failed(trouble).await,
        }
    }

    /// Returns how deep it sleeps: deeper than it was to, where it did so already.
    async fn sleep_verified(
        &self,
        began: Instant,
        mode: SleepMode,
        depth: Depth,
    ) -> Result<Depth, Trouble> {
        // A command is sent in time or not at all: looking must not make it late.
        let left = || self.settings.command.saturating_sub(began.elapsed());
        let before = match self.driver().observe(left()).await.state {
            EngineState::Asleep => self.depth().await,
            EngineState::Awake
            | EngineState::Gone
            | EngineState::Broken
            | EngineState::Unresponsive => None,
        };
        let depth = match (before, depth) {
            (Some(Depth::Ram), Depth::Disk) => {
                // It would answer 200 and do nothing.
                return Err(Trouble::NotSent(
                    "nothing was sent: it sleeps in RAM already, and only an engine that is awake can drop its weights: wake it first"
                        .to_owned(),
                ));
            }
            (Some(Depth::Disk), Depth::Ram) => Depth::Disk,
            (Some(Depth::Ram | Depth::Disk) | None, depth) => depth,
        };
        if depth == Depth::Disk && before.is_none() {
            self.meet().await?;
            if !self.lock().can_reload() {
                return Err(Trouble::NotSent(
                    "nothing was sent: its engine cannot load weights again".to_owned(),
                ));
            }
        }
        if left().is_zero() {
            return Err(Trouble::NotSent(
                "nothing was sent: it took too long to look at".to_owned(),
            ));
        }
        if before.is_none() {
            self.notes_host();
            self.tells(depth);
        }
        let held = self.held(&self.lock());
        self.driver().sleep(mode, depth).await?;
        let spec = self.spec();
        let ceiling = Bytes(total(spec.asleep, &spec).0 + TOLERANCE);
        let complaint = "it says that it sleeps and keeps its memory";
        let settled = self
            .memory_settles(complaint, |bytes| bytes <= ceiling)
            .await;
        match settled {
            Err(trouble) if !self.freed_some(held) => Err(trouble),
            Ok(()) | Err(_) => Ok(depth),
        }
    }

    /// Whether a sleep freed something worth it, where nobody has measured yet how much stays: then this is it.
    fn freed_some(&self, before: Option<Bytes>) -> bool {
        let known = self.lock();
        let left = self.held(&known).zip(before);
        let freed = left.is_some_and(|(left, before)| left.0 <= before.0 / 10 * 9);
        known.footprint.asleep.is_none() && freed
    }

    /// The deepest sleep: no process, and nothing of it left anywhere.
    pub(super) async fn stop(&self, began: Instant, mode: SleepMode) -> Outcome {
        if self.lock().model.engine.command.is_none() {
            let cause = "nothing was sent: control attaches to this engine and cannot stop it";
            return self.failed(Trouble::NotSent(cause.to_owned())).await;
        }
        let Some(running) = self.lock().running.clone() else {
            return self.stopped(elapsed(began), None);
        };
        // A process keeps nothing of what is inside it.
        let inside = match mode {
            SleepMode::Keep => self.driver().observe(self.settings.command).await.load,
            SleepMode::Abort => None,
        };
        let is_counted = self.is_counted(&self.lock());
        if let Some(inside) = inside.filter(|inside| is_counted && *inside > 0) {
            let cause =
                format!("nothing was done: {inside} requests are in it, and a stop would cut them");
            return self.failed(Trouble::NotSent(cause)).await;
        }
        self.lock().told_of = Some(running.pid);
        process::end(self.registry.groups(&self.id.0)).await;
        match timeout(ENDING, running.ended()).await {
            Ok(_) => self.stopped(elapsed(began), Some(running.pid)),
            Err(_) => {
                self.lock().told_of = None;
                Outcome::Unknown {
                    cause: format!("its process has not ended {ENDING:?} after it was killed"),
                }
            }
        }
    }

    fn stopped(&self, took: u64, pid: Option<u32>) -> Outcome {
        let oracle = &self.settings.oracle;
        // Nothing is left of what is not there; of what was, the oracle has the last word.
        let left = match pid {
            Some(_) => oracle.held(pid),
            None => oracle.in_use().map(|_| BTreeMap::new()),
        };
        let memory = Memory {
            gpu: left.map(|by_gpu| by_gpu.into_values().sum()),
            peak: None,
            host: Some(Bytes(0)),
        };
        Outcome::Done { took, memory }
    }
}
