//! Starts, wakes and sleeps of one engine, each verified: by the reply, by the state, by the memory, by a token.

use std::{sync::Arc, time::Duration};

use greenthread_core::{
    event::{ActionError, EngineState, Event, Outcome},
    ids::{Attempt, Bytes, ModelId},
    model::{ModelSpec, SleepMode},
    phase::Tier,
};
use tokio::{
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{Worker, launch};
use crate::engine::{
    footprint,
    process::{self, Running},
    vllm::{Depth, Trouble, named, sentence},
};

/// How long memory may take to come or go after the engine says that it did.
const MEMORY_SETTLES: Duration = Duration::from_secs(2);

/// Between two looks at the memory.
const MEMORY_POLL: Duration = Duration::from_millis(10);

/// What an engine may hold above its figure: allocators round.
pub(super) const TOLERANCE: u64 = 64 << 20;

/// Between two looks at an engine that starts.
const START_POLL: Duration = Duration::from_millis(100);

/// How long the process of a start that failed may take to end by itself before it is ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a process may take to end after its port is closed; vLLM's server outlives its engine by 4 s.
pub(super) const ENDING: Duration = Duration::from_secs(6);

/// How often a start is reported.
const PROGRESS: Duration = Duration::from_secs(10);

/// What changes an engine, one at a time.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) enum Transition {
    /// From nothing to serving.
    Start,
    /// From asleep to serving, from this tier as far as the core knows.
    Wake(Tier),
    /// From serving to asleep, into this tier.
    Sleep(SleepMode, Tier),
}

/// A queued transition, its number, and when it was asked for.
#[derive(Debug)]
pub(in crate::engine) struct Job {
    action: Transition,
    attempt: Attempt,
    asked: Instant,
}

impl Job {
    /// Asked for now.
    pub(in crate::engine) fn new(action: Transition, attempt: Attempt) -> Self {
        let asked = Instant::now();
        Self {
            action,
            attempt,
            asked,
        }
    }

    /// The event for a job that was never begun.
    pub(in crate::engine) fn refused(self, model: ModelId, why: &str) -> Event {
        self.ended(model, unsent(why))
    }

    fn ended(self, model: ModelId, outcome: Outcome) -> Event {
        let attempt = self.attempt;
        match self.action {
            Transition::Start => Event::Started {
                model,
                attempt,
                outcome,
            },
            Transition::Wake(_) => Event::Woke {
                model,
                attempt,
                outcome,
            },
            Transition::Sleep(..) => Event::Slept {
                model,
                attempt,
                outcome,
            },
        }
    }
}

impl Worker {
    /// Performs one action and reports how it ended.
    pub(super) async fn perform(self: &Arc<Self>, job: Job) {
        let began = Instant::now();
        // The core made sure that it may command the engine when it asked, not for long after.
        let outcome = if job.asked.elapsed() > self.settings.command {
            unsent("the action before it took too long")
        } else {
            self.lock().is_acting = true;
            let outcome = self.watched(job.action, self.act(job.action, began)).await;
            self.lock().is_acting = false;
            outcome
        };
        self.send(job.ended(self.id.clone(), outcome)).await;
    }

    async fn act(self: &Arc<Self>, action: Transition, began: Instant) -> Outcome {
        match action {
            Transition::Start => self.start(began).await,
            Transition::Wake(Tier::Stopped) if !self.is_there() => self.start(began).await,
            Transition::Wake(Tier::Ram | Tier::Disk | Tier::Stopped) => self.wake(began).await,
            Transition::Sleep(mode, Tier::Ram) => self.sleep(began, mode, Depth::Ram).await,
            Transition::Sleep(mode, Tier::Disk) => self.sleep(began, mode, Depth::Disk).await,
            Transition::Sleep(mode, Tier::Stopped) => self.stop(began, mode).await,
        }
    }

    /// Whether there may be an engine to wake: one that runs, or one that somebody else runs.
    fn is_there(&self) -> bool {
        let known = self.lock();
        known.running.is_some() || known.model.engine.command.is_none()
    }

    async fn start(self: &Arc<Self>, began: Instant) -> Outcome {
        self.lock().is_starting = true;
        let result = self.boot(began).await;
        let outcome = match result {
            Ok(()) => {
                let took = elapsed(began);
                self.lock().footprint.start_ms = Some(took);
                self.awake(took)
            }
            Err(cause) => failure(self.end_half_started(cause).await, EngineState::Gone),
        };
        self.lock().is_starting = false;
        outcome
    }

    /// Half an engine is of no use, and it holds memory. Returns the cause with the engine's last words.
    async fn end_half_started(&self, cause: String) -> String {
        let Some(running) = self.lock().running.clone() else {
            return cause;
        };
        // A call that breaks is the first sign of a process that ends by itself; its own end says more.
        if let Ok(end) = timeout(LAST_WORDS, running.ended()).await {
            self.lock().told_of = Some(running.pid);
            return if cause == end {
                end
            } else {
                format!("{cause}; {end}")
            };
        }
        let cause = self.with_log(cause);
        process::end(self.registry.groups(&self.id.0)).await;
        running.ended().await;
        self.lock().told_of = Some(running.pid);
        cause
    }

    /// The cause with the last lines of the engine's log, where control has one.
    fn with_log(&self, cause: String) -> String {
        let launch = launch(&self.settings, &self.lock().model);
        launch.map_or(cause.clone(), |launch| {
            process::with_tail(&cause, &launch.log)
        })
    }

    /// From nothing, or from a process that was adopted while it started, to an engine that has generated a token.
    async fn boot(self: &Arc<Self>, began: Instant) -> Result<(), String> {
        let running = self
            .lock()
            .running
            .clone()
            .filter(|running| running.end().is_none());
        let running = match running {
            Some(running) => running,
            None => self.launch().await?,
        };
        let end = began + self.settings.start;
        self.until_healthy(&running, end).await?;
        self.contact().await?;
        let left = || end.saturating_duration_since(Instant::now());
        let look = self.driver().observe(self.settings.observe).await;
        if look.state == EngineState::Asleep {
            let depth = self.wakes_from().await;
            let woken = self.driver().wake(depth, left()).await;
            if let Err(trouble @ Trouble::NoReload(_)) = &woken {
                self.cannot_reload(trouble).await;
            }
            woken.map_err(|trouble| trouble.to_string())?;
        }
        self.driver()
            .canary(self.canary(), None, left())
            .await
            .map_err(|trouble| trouble.to_string())
    }

    async fn launch(self: &Arc<Self>) -> Result<Running, String> {
        let (launch, address) = {
            let known = self.lock();
            (
                launch(&self.settings, &known.model),
                known.model.engine.address,
            )
        };
        let launch =
            launch.ok_or("control attaches to this engine and has no command to start it")?;
        // A life of control that was killed between starting an engine and recording it leaves an unrecorded one.
        process::end(self.registry.groups(&self.id.0)).await;
        if timeout(self.settings.command, TcpStream::connect(address))
            .await
            .is_ok_and(|connection| connection.is_ok())
        {
            return Err(format!(
                "port {} is in use by a process that control did not start: end that process, or give {} another port",
                launch.port, self.id
            ));
        }
        let running = process::start(&launch, &self.registry).map_err(|error| sentence(&error))?;
        tracing::info!(model = %self.id, pid = running.pid, log = %launch.log.display(), "starts its engine");
        self.watch(running.clone());
        Ok(running)
    }

    async fn until_healthy(&self, running: &Running, end: Instant) -> Result<(), String> {
        let began = Instant::now();
        let mut report = began + PROGRESS;
        let log = process::log_path(&self.settings.state, self.id.name());
        loop {
            if let Some(cause) = running.end() {
                return Err(cause);
            }
            if self.driver().is_healthy(self.settings.observe).await {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(format!("it did not serve within {:?}", self.settings.start));
            }
            if Instant::now() >= report {
                report += PROGRESS;
                tracing::info!(
                    "{}: starting, {} s, last log line: {}",
                    self.id,
                    began.elapsed().as_secs(),
                    process::tail(&log)
                        .pop()
                        .unwrap_or_else(|| "(none)".to_owned())
                );
            }
            sleep(START_POLL).await;
        }
    }

    async fn wake(self: &Arc<Self>, began: Instant) -> Outcome {
        match self.woken(began).await {
            Outcome::Failed(ActionError { cause, engine, .. }) => {
                let cause = self.with_log(cause);
                failure(cause, engine)
            }
            Outcome::Unknown { cause } => Outcome::Unknown {
                cause: self.with_log(cause),
            },
            done @ Outcome::Done { .. } => done,
        }
    }

    async fn woken(self: &Arc<Self>, began: Instant) -> Outcome {
        if let Err(trouble) = self.meet().await {
            return self.failed(trouble).await;
        }
        let driver = self.driver();
        let (depth, tokens) = tokio::join!(self.wakes_from(), driver.generated_tokens());
        let end = began + self.settings.wake;
        match self.wake_verified(depth, tokens, end).await {
            Ok(()) => {
                let took = elapsed(began);
                self.lock().keep_wake(depth, took);
                self.awake(took)
            }
            Err(trouble @ Trouble::NoReload(_)) => {
                self.cannot_reload(&trouble).await;
                self.failed(trouble).await
            }
            Err(trouble @ (Trouble::NotSent(_) | Trouble::Lost(_))) => self.failed(trouble).await,
            Err(trouble @ (Trouble::Definite(_) | Trouble::Unknown(_))) => {
                self.lay_back(trouble, depth).await
            }
        }
    }

    async fn wake_verified(
        &self,
        depth: Depth,
        tokens: Option<u64>,
        end: Instant,
    ) -> Result<(), Trouble> {
        let left = || end.saturating_duration_since(Instant::now());
        self.driver().wake(depth, left()).await?;
        let floor = self.awake_floor();
        self.memory_settles("its memory did not come back", |bytes| bytes >= floor)
            .await?;
        self.driver().canary(self.canary(), tokens, left()).await
    }

    /// A wake failed half-way: asleep again, its memory is known, unless the engine is past that.
    async fn lay_back(&self, trouble: Trouble, depth: Depth) -> Outcome {
        let state = self.state_now().await;
        let result = match state {
            // Who does not even answer will not sleep either, and whoever waits for it should know soon.
            EngineState::Gone | EngineState::Broken | EngineState::Unresponsive => {
                Err(trouble.clone())
            }
            EngineState::Awake | EngineState::Asleep => {
                self.tells(depth);
                self.driver().sleep(SleepMode::Keep, depth).await
            }
        };
        if result.is_ok() {
            self.lock().is_asleep();
        }
        match result {
            Ok(()) => self.failed(Trouble::Definite(trouble.to_string())).await,
            Err(_) => self.failed(Trouble::Unknown(trouble.to_string())).await,
        }
    }

    /// It never sleeps so deep again: not with this version of its engine.
    async fn cannot_reload(&self, trouble: &Trouble) {
        tracing::warn!(model = %self.id, cause = %trouble, "sleeps in RAM only from now on");
        {
            let mut known = self.lock();
            known.footprint.no_reload = Some(known.version.clone());
        }
        let (state, id, footprint) = (
            self.settings.state.clone(),
            self.id.0.clone(),
            self.footprint(),
        );
        let saved = spawn_blocking(move || footprint::save(&state, &id, footprint));
        if let Ok(Err(error)) = saved.await {
            tracing::error!(%error, "cannot write footprints.json: it is tried again in the next life of control");
        }
        self.send(Event::ModelSet(Box::new(self.spec()))).await;
    }

    pub(super) async fn memory_settles(
        &self,
        complaint: &str,
        is_good: impl Fn(Bytes) -> bool,
    ) -> Result<(), Trouble> {
        let end = Instant::now() + MEMORY_SETTLES;
        loop {
            let memory = self.held(&self.lock());
            match memory {
                Some(bytes) if !is_good(bytes) => {
                    if Instant::now() >= end {
                        return Err(Trouble::Definite(format!(
                            "{complaint}: {bytes} after {MEMORY_SETTLES:?}"
                        )));
                    }
                }
                // Nobody measures: the engine's verified state stands in.
                Some(_) | None => return Ok(()),
            }
            sleep(MEMORY_POLL).await;
        }
    }

    /// Least memory of an engine that is back: near what was measured before, or at least more than asleep.
    fn awake_floor(&self) -> Bytes {
        let known = self.lock();
        match known.footprint.awake {
            Some(awake) => Bytes(awake / 10 * 9),
            None => Bytes(total(known.model.spec.asleep, &known.model.spec).0 + 1),
        }
    }

    /// The outcome of a failure, with the engine's state looked at now.
    pub(super) async fn failed(&self, trouble: Trouble) -> Outcome {
        let engine = self.state_now().await;
        let cause = format!("{trouble}; the engine is {}", named(&engine));
        match (trouble, &engine) {
            // A dead or broken engine does nothing late.
            (_, EngineState::Gone | EngineState::Broken) => failure(cause, engine),
            // It answers, and must not be used: that ends only with its process.
            (Trouble::Lost(_) | Trouble::NoReload(_), _) => failure(cause, EngineState::Broken),
            // It has answered why it did not.
            (Trouble::Unknown(why), EngineState::Awake) if says_no_room(&why) => {
                failure(cause, engine)
            }
            (Trouble::Unknown(_), _) | (_, EngineState::Unresponsive) => Outcome::Unknown { cause },
            (
                Trouble::NotSent(_) | Trouble::Definite(_),
                EngineState::Awake | EngineState::Asleep,
            ) => failure(cause, engine),
        }
    }

    /// The engine's state; one that is ending gets time to have ended.
    async fn state_now(&self) -> EngineState {
        let answered = self.driver().observe(self.settings.observe).await.state;
        let running = self.lock().running.clone();
        if answered == EngineState::Gone
            && let Some(running) = running
            && timeout(ENDING, running.ended()).await.is_ok()
        {
            return EngineState::Gone;
        }
        self.lock().judge(answered)
    }

    fn awake(self: &Arc<Self>, took: u64) -> Outcome {
        let memory = {
            let mut known = self.lock();
            known.is_awake();
            let memory = self.memory(&known);
            known.footprint.awake = memory.gpu.map(|bytes| bytes.0).or(known.footprint.awake);
            memory
        };
        self.get_to_know(&EngineState::Awake);
        Outcome::Done { took, memory }
    }
}

/// A definite failure.
fn failure(cause: String, engine: EngineState) -> Outcome {
    let no_room = says_no_room(&cause);
    Outcome::Failed(ActionError {
        cause,
        engine,
        no_room,
    })
}

/// Whether an engine's words mean that a GPU had no room for it (PyTorch's, and those of vLLM as it starts).
fn says_no_room(words: &str) -> bool {
    let words = words.to_lowercase();
    [
        "out of memory",
        "less than desired gpu memory utilization",
        "no available memory for the cache blocks",
    ]
    .iter()
    .any(|known| words.contains(known))
}

fn unsent(why: &str) -> Outcome {
    Outcome::Unknown {
        cause: format!("nothing was sent: {why}"),
    }
}

pub(super) fn total(per_gpu: Bytes, spec: &ModelSpec) -> Bytes {
    spec.gpus.iter().map(|_| per_gpu).sum()
}

pub(super) fn elapsed(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_says_when_a_gpu_had_no_room() {
        for words in [
            "it answered 500: CUDA out of memory. Tried to allocate 2.00 GiB",
            "ValueError: Free memory on device (3.1/44.5 GiB) on startup is less than desired GPU memory utilization (0.4, 17.8 GiB).",
            "ValueError: No available memory for the cache blocks.",
        ] {
            let outcome = failure(words.to_owned(), EngineState::Awake);
            let says = matches!(outcome, Outcome::Failed(ActionError { no_room: true, .. }));
            assert!(says, "{words}");
        }
        assert!(!says_no_room("it answered 500: bad weights"));
    }
}
