//! One engine: its process if control started it, its driver, and what is known of it. Actions come one at a time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greenthread_core::{
    event::{ActionError, EngineState, Event, Observation, Outcome},
    ids::{Attempt, Bytes, ModelId},
    model::{ModelSpec, SleepMode},
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    Action, Settings,
    footprint::{self, Footprint},
    http::Http,
    process::{self, Launch, Running},
    registry::Registry,
    reply::{Canary, ModelCard},
    vllm::{Trouble, Vllm, named, sentence},
};
use crate::config::Model;

/// How long memory may take to come or go after the engine says that it did.
const MEMORY_SETTLES: Duration = Duration::from_secs(2);

/// Between two looks at the memory.
const MEMORY_POLL: Duration = Duration::from_millis(10);

/// What an engine may hold above its figure: allocators round.
const TOLERANCE: u64 = 64 << 20;

/// Between two looks at an engine that starts.
const START_POLL: Duration = Duration::from_millis(100);

/// How often a start is reported.
const PROGRESS: Duration = Duration::from_secs(10);

/// Between two attempts to get to know an engine.
const CONTACT_EVERY: Duration = Duration::from_secs(30);

/// A queued action and when it was asked for.
#[derive(Debug)]
pub(super) struct Job {
    action: Action,
    asked: Instant,
}

impl Job {
    /// Asked for now.
    pub(super) fn new(action: Action) -> Self {
        Self {
            action,
            asked: Instant::now(),
        }
    }
}

/// One engine.
#[derive(Debug)]
pub(super) struct Worker {
    id: ModelId,
    settings: Arc<Settings>,
    registry: Arc<Registry>,
    events: mpsc::Sender<Event>,
    driver: Vllm,
    known: Mutex<Known>,
}

/// What is known of an engine. Locked only to copy values in and out, never across an await.
#[derive(Debug)]
struct Known {
    model: Model,
    running: Option<Running>,
    is_starting: bool,
    is_removed: bool,
    killed_for: Option<String>,
    counts_proven: bool,
    contact_at: Option<Instant>,
    canary: Option<Canary>,
    card: Option<ModelCard>,
    footprint: Footprint,
}

impl Worker {
    pub(super) fn new(
        settings: Arc<Settings>,
        registry: Arc<Registry>,
        events: mpsc::Sender<Event>,
        model: Model,
    ) -> Arc<Self> {
        let http = Http::new(model.engine.address, settings.command);
        let id = model.spec.id.clone();
        let footprint = footprint::load(&settings.state, &id.0, &fingerprint(&settings, &model));
        let driver = Vllm::new(http, model.served.clone(), settings.command);
        let known = Known {
            model,
            running: None,
            is_starting: false,
            is_removed: false,
            killed_for: None,
            counts_proven: false,
            contact_at: None,
            canary: None,
            card: None,
            footprint,
        };
        Arc::new(Self {
            id,
            settings,
            registry,
            events,
            driver,
            known: Mutex::new(known),
        })
    }

    /// Performs jobs one after the other until the queue is closed.
    pub(super) async fn serve(self: Arc<Self>, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            self.perform(job).await;
        }
    }

    /// The spec for the core, with what was measured and proven.
    pub(super) fn spec(&self) -> ModelSpec {
        let known = self.lock();
        let mut spec = known.footprint.apply(known.model.spec.clone());
        spec.caps.counts &= self.is_counted(&known);
        spec
    }

    /// What the engine says about its model.
    pub(super) fn card(&self) -> Option<ModelCard> {
        self.lock().card.clone()
    }

    /// What was measured.
    pub(super) fn footprint(&self) -> Footprint {
        let known = self.lock();
        Footprint {
            measured: self.settings.oracle.name().to_owned(),
            settings: fingerprint(&self.settings, &known.model),
            ..known.footprint.clone()
        }
    }

    /// Takes new settings; a process with another command is ended (and reported as gone).
    pub(super) async fn replace(self: &Arc<Self>, model: Model) {
        let is_other_command = {
            let mut known = self.lock();
            let before = launch(&self.settings, &known.model).map(|launch| launch.fingerprint());
            known.model = model;
            before != launch(&self.settings, &known.model).map(|launch| launch.fingerprint())
                && known.running.is_some()
        };
        if is_other_command {
            self.kill("its command in the fleet file changed".to_owned())
                .await;
        }
    }

    /// Takes over the process that an earlier life of control recorded, or ends it when it is not what is wanted now.
    pub(super) async fn adopt(self: &Arc<Self>) {
        let Some(record) = self.registry.get(&self.id.0) else {
            return;
        };
        let launch = launch(&self.settings, &self.lock().model);
        if let Some(launch) =
            launch.filter(|launch| record.lives() && record.command == launch.fingerprint())
        {
            tracing::info!(model = %self.id, pid = record.pid, "adopts its engine, which kept running");
            self.watch(process::adopt(&record, launch.log));
            return;
        }
        tracing::info!(model = %self.id, pid = record.pid, "ends what an earlier life left: it has ended, or its command changed");
        process::end(self.registry.groups(&self.id.0)).await;
        self.forget_record();
    }

    /// Looks at the engine and reports it.
    pub(super) async fn observe(self: Arc<Self>, attempt: Attempt) {
        let look = self.driver.observe(self.settings.observe).await;
        let (state, count, memory) = {
            let mut known = self.lock();
            let is_ours_and_dead = known.model.engine.command.is_some() && known.running.is_none();
            // Whoever answers at the port of an engine that control starts and that does not run is a stranger.
            let state = if is_ours_and_dead {
                EngineState::Gone
            } else {
                look.state
            };
            if state == EngineState::Gone {
                known.counts_proven = false;
            }
            let count = look.load.filter(|_| self.is_counted(&known));
            (state, count, self.memory(&known))
        };
        if state == EngineState::Awake {
            self.contact_in_background();
        }
        let observation = Observation {
            state,
            count,
            memory,
        };
        self.send(Event::Observed {
            model: self.id.clone(),
            attempt,
            observation,
        })
        .await;
    }

    /// Ends the engine's process and whatever it left; `Event::EngineGone` follows when it is gone.
    pub(super) async fn kill(self: &Arc<Self>, cause: String) {
        let (is_running, can_end) = {
            let mut known = self.lock();
            let is_running = known.running.is_some();
            if is_running {
                known.killed_for = Some(cause.clone());
            }
            (is_running, known.model.engine.command.is_some())
        };
        if !can_end && !is_running {
            tracing::error!(model = %self.id, cause, "is to be ended, but control did not start it: restart it by hand");
            return;
        }
        process::end(self.registry.groups(&self.id.0)).await;
        if !is_running {
            self.send(Event::EngineGone {
                model: self.id.clone(),
                cause,
            })
            .await;
        }
    }

    /// Ends the process for good, without an event.
    pub(super) async fn remove(&self) {
        self.lock().is_removed = true;
        process::end(self.registry.groups(&self.id.0)).await;
        self.forget_record();
    }

    async fn perform(self: &Arc<Self>, job: Job) {
        let began = Instant::now();
        let model = self.id.clone();
        // The core made sure that it may command the engine when it asked, not for long after.
        let is_late = job.asked.elapsed() > self.settings.command;
        let late = || Outcome::Unknown {
            cause: "nothing was sent: the action before it took too long".to_owned(),
        };
        let event = match job.action {
            Action::Start(attempt) => {
                let outcome = self.start(began).await;
                Event::Started {
                    model,
                    attempt,
                    outcome,
                }
            }
            Action::Wake(attempt) => {
                let outcome = if is_late {
                    late()
                } else {
                    self.wake(began).await
                };
                Event::Woke {
                    model,
                    attempt,
                    outcome,
                }
            }
            Action::Sleep(attempt, mode) => {
                let outcome = if is_late {
                    late()
                } else {
                    self.sleep(began, mode).await
                };
                Event::Slept {
                    model,
                    attempt,
                    outcome,
                }
            }
            Action::Observe(_) | Action::Kill(_) => unreachable!("these are no queued actions"),
        };
        self.send(event).await;
    }

    async fn start(self: &Arc<Self>, began: Instant) -> Outcome {
        self.lock().is_starting = true;
        let result = self.boot(began).await;
        if result.is_err() {
            // Half an engine is of no use, and it holds memory.
            process::end(self.registry.groups(&self.id.0)).await;
        }
        self.lock().is_starting = false;
        match result {
            Ok(()) => {
                let took = elapsed(began);
                self.lock().footprint.start_ms = Some(took);
                self.awake(took)
            }
            Err(cause) => Outcome::Failed(ActionError {
                cause,
                engine: EngineState::Gone,
            }),
        }
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
        let look = self.driver.observe(self.settings.observe).await;
        if look.state == EngineState::Asleep {
            self.driver
                .wake(left())
                .await
                .map_err(|trouble| trouble.to_string())?;
        }
        self.driver
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
            if self.driver.is_healthy(self.settings.observe).await {
                return Ok(());
            }
            let last = || {
                process::tail(&log)
                    .pop()
                    .unwrap_or_else(|| "(nothing)".to_owned())
            };
            if Instant::now() >= end {
                return Err(format!(
                    "it did not serve within {:?}; last log line: {}",
                    self.settings.start,
                    last()
                ));
            }
            if Instant::now() >= report {
                report += PROGRESS;
                tracing::info!(
                    "{}: starting, {} s, last log line: {}",
                    self.id,
                    began.elapsed().as_secs(),
                    last()
                );
            }
            sleep(START_POLL).await;
        }
    }

    async fn wake(self: &Arc<Self>, began: Instant) -> Outcome {
        match self.wake_verified(began + self.settings.wake).await {
            Ok(()) => {
                let took = elapsed(began);
                self.lock().footprint.wake_ms = Some(took);
                self.awake(took)
            }
            Err(trouble @ Trouble::NotSent(_)) => self.failed(trouble).await,
            Err(trouble) => self.lay_back(trouble).await,
        }
    }

    async fn wake_verified(self: &Arc<Self>, end: Instant) -> Result<(), Trouble> {
        if self.lock().canary.is_none() {
            self.contact().await.map_err(Trouble::NotSent)?;
        }
        let tokens = self.driver.generated_tokens().await;
        let left = || end.saturating_duration_since(Instant::now());
        self.driver.wake(left()).await?;
        let floor = self.awake_floor();
        self.memory_settles("its memory did not come back", |bytes| bytes >= floor)
            .await?;
        self.driver.canary(self.canary(), tokens, left()).await
    }

    /// A wake failed half-way: asleep again, its memory is known, unless the engine is past that.
    async fn lay_back(&self, trouble: Trouble) -> Outcome {
        let state = self.driver.observe(self.settings.observe).await.state;
        let result = match state {
            EngineState::Gone | EngineState::Broken => Err(trouble.clone()),
            EngineState::Awake | EngineState::Asleep | EngineState::Silent => {
                self.driver.sleep(SleepMode::Keep).await
            }
        };
        match result {
            Ok(()) => self.failed(Trouble::Definite(trouble.to_string())).await,
            Err(_) => self.failed(Trouble::Unknown(trouble.to_string())).await,
        }
    }

    async fn sleep(&self, began: Instant, mode: SleepMode) -> Outcome {
        match self.sleep_verified(mode).await {
            Ok(()) => {
                let took = elapsed(began);
                let mut known = self.lock();
                let memory = self.memory(&known);
                known.footprint.sleep_ms = Some(took);
                known.footprint.asleep = memory.map(|bytes| bytes.0).or(known.footprint.asleep);
                Outcome::Done { took, memory }
            }
            Err(trouble) => self.failed(trouble).await,
        }
    }

    async fn sleep_verified(&self, mode: SleepMode) -> Result<(), Trouble> {
        self.driver.sleep(mode).await?;
        let spec = self.spec();
        let ceiling = Bytes(total(spec.asleep, &spec).0 + TOLERANCE);
        self.memory_settles("it says that it sleeps and keeps its memory", |bytes| {
            bytes <= ceiling
        })
        .await
    }

    async fn memory_settles(
        &self,
        complaint: &str,
        is_good: impl Fn(Bytes) -> bool,
    ) -> Result<(), Trouble> {
        let end = Instant::now() + MEMORY_SETTLES;
        loop {
            let memory = self.memory(&self.lock());
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
    async fn failed(&self, trouble: Trouble) -> Outcome {
        let engine = self.driver.observe(self.settings.observe).await.state;
        let cause = format!("{trouble}; the engine is {}", named(&engine));
        match (trouble, &engine) {
            // A dead or broken engine does nothing late.
            (_, EngineState::Gone | EngineState::Broken) => {
                Outcome::Failed(ActionError { cause, engine })
            }
            (Trouble::Unknown(_), _) | (_, EngineState::Silent) => Outcome::Unknown { cause },
            (
                Trouble::NotSent(_) | Trouble::Definite(_),
                EngineState::Awake | EngineState::Asleep,
            ) => Outcome::Failed(ActionError { cause, engine }),
        }
    }

    fn awake(self: &Arc<Self>, took: u64) -> Outcome {
        let memory = {
            let mut known = self.lock();
            let memory = self.memory(&known);
            known.footprint.awake = memory.map(|bytes| bytes.0).or(known.footprint.awake);
            memory
        };
        self.contact_in_background();
        Outcome::Done { took, memory }
    }

    /// Gets to know the engine, which may be asleep: whether it can be driven, its model's card, its canary.
    async fn contact(&self) -> Result<(), String> {
        let preflight = self
            .driver
            .preflight()
            .await
            .map_err(|unfit| sentence(&unfit))?;
        let mut known = self.lock();
        known.card = Some(preflight.card);
        known.canary = Some(preflight.canary);
        Ok(())
    }

    /// Gets to know an engine that is awake, and proves its counts where they are not known to be right. Not an action:
    /// it changes nothing, so that a sleep may overtake it.
    fn contact_in_background(self: &Arc<Self>) {
        let mut known = self.lock();
        let is_known = known.canary.is_some() && self.is_counted(&known);
        let is_early = known.contact_at.is_some_and(|at| Instant::now() < at);
        if is_known || is_early {
            return;
        }
        known.contact_at = Some(Instant::now() + CONTACT_EVERY);
        drop(known);
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(cause) = worker.contact().await {
                tracing::warn!(model = %worker.id, cause, "its engine cannot be driven");
                return;
            }
            worker.prove_counts().await;
        });
    }

    async fn prove_counts(&self) {
        if self.is_counted(&self.lock()) {
            return;
        }
        match self.driver.proves_counts().await {
            Ok(true) => {
                self.lock().counts_proven = true;
                self.send(Event::ModelSet(Box::new(self.spec()))).await;
            }
            Ok(false) => tracing::warn!(
                model = %self.id,
                "degraded: blind: its engine does not count requests: start it with {}", process::LOAD_TRACKING
            ),
            Err(fault) => {
                tracing::warn!(model = %self.id, cause = sentence(&fault), "its counts cannot be proved now")
            }
        }
    }

    /// Whether the engine's own count is right: by the flag that control gave it, or by proof.
    fn is_counted(&self, known: &Known) -> bool {
        known.counts_proven
            || launch(&self.settings, &known.model).is_some_and(|launch| launch.tracks_load())
    }

    fn watch(self: &Arc<Self>, running: Running) {
        self.lock().running = Some(running.clone());
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            let cause = running.ended().await;
            worker.forget_record();
            let event = {
                let mut known = worker.lock();
                known.running = None;
                known.counts_proven = false;
                let killed_for = known.killed_for.take();
                // While it starts, the outcome of the start tells.
                let is_told = known.is_removed || (known.is_starting && killed_for.is_none());
                let cause =
                    killed_for.map_or(cause, |reason| format!("ended by control: {reason}"));
                (!is_told).then(|| Event::EngineGone {
                    model: worker.id.clone(),
                    cause,
                })
            };
            if let Some(event) = event {
                worker.send(event).await;
            }
        });
    }

    fn forget_record(&self) {
        if let Err(error) = self.registry.remove(&self.id.0) {
            tracing::error!(%error, "cannot write engines.json");
        }
    }

    fn memory(&self, known: &Known) -> Option<Bytes> {
        self.settings
            .oracle
            .memory(known.running.as_ref().map(|running| running.pid))
    }

    fn canary(&self) -> Canary {
        self.lock().canary.unwrap_or(Canary::Completion)
    }

    async fn send(&self, event: Event) {
        // The receiver is gone only when control ends.
        let _ = self.events.send(event).await;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How control starts this engine; `None` when it only attaches.
fn launch(settings: &Settings, model: &Model) -> Option<Launch> {
    let command = model.engine.command.clone()?;
    Some(Launch {
        id: model.spec.id.0.clone(),
        command: process::with_load_tracking(command),
        env: model.engine.env.clone(),
        port: model.engine.address.port(),
        log: process::log_path(&settings.state, &model.name),
    })
}

/// Names what a footprint was measured of.
fn fingerprint(settings: &Settings, model: &Model) -> String {
    let command = launch(settings, model)
        .map(|launch| launch.fingerprint())
        .unwrap_or_default();
    format!(
        "{command} {} {} {}",
        model.served, model.spec.awake.0, model.spec.asleep.0
    )
}

fn total(per_gpu: Bytes, spec: &ModelSpec) -> Bytes {
    spec.gpus.iter().map(|_| per_gpu).sum()
}

fn elapsed(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
