//! One engine: its process if control started it, its driver, and what is known of it. Actions come one at a time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greenthread_core::{
    event::{EngineState, Event, Observation},
    ids::{Attempt, ModelId},
    model::ModelSpec,
    phase::Tier,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Settings,
    footprint::{self, Footprint},
    http::Http,
    proc::Groups,
    process::{self, Launch, Running},
    registry::{Record, Registry},
    reply::{Canary, ModelCard},
    vllm::{Trouble, Vllm, sentence},
};
use crate::config::Model;

mod depth;
mod memory;
mod sleep;
mod transition;

use depth::Told;
pub(super) use transition::{Job, Transition};

/// Between two attempts to get to know an engine.
const CONTACT_EVERY: Duration = Duration::from_secs(30);

/// One engine.
#[derive(Debug)]
pub(super) struct Worker {
    id: ModelId,
    settings: Arc<Settings>,
    registry: Arc<Registry>,
    groups: Arc<Groups>,
    events: mpsc::Sender<Event>,
    known: Mutex<Known>,
}

/// What is known of an engine. Locked only to copy values in and out, never across an await.
#[derive(Debug)]
struct Known {
    model: Model,
    driver: Vllm,
    running: Option<Running>,
    is_starting: bool,
    is_removed: bool,
    /// Its process is being ended: by which attempt of the core, if by one, and why.
    killed_for: Option<(Option<Attempt>, String)>,
    /// The process whose end an outcome has told.
    told_of: Option<u32>,
    counts_proven: bool,
    next_contact: Instant,
    next_proof: Instant,
    canary: Option<Canary>,
    card: Option<ModelCard>,
    /// An action is under way.
    is_acting: bool,
    /// The last sleep.
    told: Told,
    /// Host RAM before the first sleep of this life, in bytes.
    host_before: Option<u64>,
    /// It takes the call that a wake from disk needs.
    reloads: bool,
    /// Its own word for its version.
    version: String,
    footprint: Footprint,
}

impl Worker {
    pub(super) fn new(
        settings: Arc<Settings>,
        registry: Arc<Registry>,
        groups: Arc<Groups>,
        events: mpsc::Sender<Event>,
        model: Model,
    ) -> Arc<Self> {
        let id = model.spec.id.clone();
        let footprint = footprint::load(&settings.state, &id.0, &fingerprint(&settings, &model));
        let known = Known {
            driver: driver(&settings, &model),
            model,
            running: None,
            is_starting: false,
            is_removed: false,
            killed_for: None,
            told_of: None,
            counts_proven: false,
            next_contact: Instant::now(),
            next_proof: Instant::now(),
            canary: None,
            card: None,
            is_acting: false,
            told: Told::default(),
            host_before: None,
            reloads: false,
            version: String::new(),
            footprint,
        };
        Arc::new(Self {
            id,
            settings,
            registry,
            groups,
            events,
            known: Mutex::new(known),
        })
    }

    /// Performs jobs one after the other until the queue is closed.
    pub(super) async fn serve(self: Arc<Self>, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            self.perform(job).await;
        }
    }

    /// Its row.
    pub(super) fn id(&self) -> &ModelId {
        &self.id
    }

    /// The spec for the core, with what was measured and proven.
    pub(super) fn spec(&self) -> ModelSpec {
        let known = self.lock();
        let mut spec = known.footprint.apply(known.model.spec.clone());
        spec.caps.counts &= self.is_counted(&known);
        spec.caps.disk &= known.can_reload();
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
        let command = |model| launch(&self.settings, model).map(|launch| launch.fingerprint());
        let is_other_command = {
            let mut known = self.lock();
            let is_other_command = command(&known.model) != command(&model);
            let settings = fingerprint(&self.settings, &model);
            if settings != fingerprint(&self.settings, &known.model) {
                known.footprint = footprint::load(&self.settings.state, &self.id.0, &settings);
                known.driver = driver(&self.settings, &model);
                known.canary = None;
            }
            known.model = model;
            is_other_command && known.running.is_some()
        };
        if is_other_command {
            self.kill(None, "its command in the fleet file changed".to_owned())
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
            {
                let mut known = self.lock();
                known.told = Told::before(&record);
                known.host_before = record.host_before;
            }
            self.watch(process::adopt(&record, launch.log));
            return;
        }
        tracing::info!(model = %self.id, pid = record.pid, "ends what an earlier life left: it has ended, or its command changed");
        process::end(self.registry.groups(&self.id.0)).await;
        self.forget_record(record.pid);
    }

    /// Looks at the engine and reports it.
    pub(super) async fn observe(self: Arc<Self>, attempt: Attempt) {
        let look = self.driver().observe(self.settings.observe).await;
        let (state, count, memory, is_blind_now) = {
            let mut known = self.lock();
            let answered = known.judge(look.state);
            let state = known.judge_sleep(answered);
            let is_blind_now = state == EngineState::Gone && known.forget_life();
            let count = look.load.filter(|_| self.is_counted(&known));
            (state, count, self.memory(&known), is_blind_now)
        };
        if is_blind_now {
            self.send(Event::ModelSet(Box::new(self.spec()))).await;
        }
        self.get_to_know(&state);
        let tier = match state {
            EngineState::Asleep => self.depth().await.map(Tier::from),
            EngineState::Awake
            | EngineState::Gone
            | EngineState::Broken
            | EngineState::Unresponsive => None,
        };
        let observation = Observation {
            state,
            count,
            memory,
            tier,
        };
        let model = self.id.clone();
        self.send(Event::Observed {
            model,
            attempt,
            observation,
        })
        .await;
    }

    /// Ends the engine's process and whatever it left; `Event::EngineGone` follows when it is gone, with the attempt of the core by which
    /// it was ended.
    pub(super) async fn kill(self: &Arc<Self>, attempt: Option<Attempt>, cause: String) {
        let (is_running, can_end) = {
            let mut known = self.lock();
            let is_running = known.running.is_some();
            if is_running {
                known.killed_for = Some((attempt, cause.clone()));
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
                attempt,
                cause,
            })
            .await;
        }
    }

    /// Ends the process for good, without an event of its own.
    pub(super) async fn remove(&self) {
        self.lock().is_removed = true;
        let record = self.registry.get(&self.id.0);
        process::end(self.registry.groups(&self.id.0)).await;
        if let Some(record) = record {
            self.forget_record(record.pid);
        }
    }

    /// Gets to know the engine, which may be asleep: whether it can be driven, its model's card, its canary.
    async fn contact(&self) -> Result<(), String> {
        let preflight = self
            .driver()
            .preflight()
            .await
            .map_err(|unfit| sentence(&unfit))?;
        let before = self.spec().caps;
        {
            let mut known = self.lock();
            known.card = Some(preflight.card);
            known.canary = Some(preflight.canary);
            known.reloads = preflight.reloads;
            known.version = preflight.version;
        }
        let spec = self.spec();
        if spec.caps != before {
            self.send(Event::ModelSet(Box::new(spec))).await;
        }
        Ok(())
    }

    /// Makes sure that the engine is known, before something is asked of it.
    async fn meet(&self) -> Result<(), Trouble> {
        let is_known = self.lock().canary.is_some();
        if is_known {
            return Ok(());
        }
        self.contact().await.map_err(Trouble::NotSent)
    }

    /// Beside the actions: gets to know an engine that was never met, and proves its counts where they are not known to
    /// be right. Not an action itself: it changes nothing, so that a sleep may overtake it.
    fn get_to_know(self: &Arc<Self>, state: &EngineState) {
        let now = Instant::now();
        let mut known = self.lock();
        let answers = matches!(state, EngineState::Awake | EngineState::Asleep);
        let meets = answers && known.canary.is_none() && now >= known.next_contact;
        let proves =
            *state == EngineState::Awake && !self.is_counted(&known) && now >= known.next_proof;
        if meets {
            known.next_contact = now + CONTACT_EVERY;
        }
        if proves {
            known.next_proof = now + CONTACT_EVERY;
        }
        drop(known);
        if !meets && !proves {
            return;
        }
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            if meets && let Err(cause) = worker.contact().await {
                tracing::warn!(model = %worker.id, cause, "its engine cannot be driven");
                return;
            }
            if proves {
                worker.prove_counts().await;
            }
        });
    }

    async fn prove_counts(&self) {
        match self.driver().proves_counts().await {
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
            worker.forget_record(running.pid);
            if let Some(event) = worker.process_ended(running.pid, cause) {
                worker.send(event).await;
            }
        });
    }

    /// Forgets the process; the event for it, unless something else tells of it.
    fn process_ended(&self, pid: u32, cause: String) -> Option<Event> {
        let mut known = self.lock();
        // The next process may have been started already.
        if known
            .running
            .as_ref()
            .is_some_and(|running| running.pid == pid)
        {
            known.running = None;
            known.forget_life();
        }
        let killed_for = known.killed_for.take();
        let is_told_by_start = known.is_starting || known.told_of == Some(pid);
        if known.is_removed || (is_told_by_start && killed_for.is_none()) {
            return None;
        }
        let (attempt, cause) = match killed_for {
            Some((attempt, reason)) => (attempt, format!("ended by control: {reason}")),
            None => (None, cause),
        };
        Some(Event::EngineGone {
            model: self.id.clone(),
            attempt,
            cause,
        })
    }

    fn forget_record(&self, pid: u32) {
        if let Err(error) = self.registry.remove(&self.id.0, pid) {
            tracing::error!(%error, "cannot write engines.json");
        }
    }

    fn note(&self, pid: u32, change: impl FnOnce(&mut Record)) {
        if let Err(error) = self.registry.note(&self.id.0, pid, change) {
            tracing::error!(%error, "cannot write engines.json");
        }
    }

    fn canary(&self) -> Canary {
        self.lock().canary.unwrap_or(Canary::Completion)
    }

    fn driver(&self) -> Vllm {
        self.lock().driver.clone()
    }

    async fn send(&self, event: Event) {
        // The receiver is gone only when control ends.
        let _ = self.events.send(event).await;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// What an engine's answers mean beside what is known of its process.
    fn judge(&self, answered: EngineState) -> EngineState {
        match (&self.running, answered) {
            // Whoever answers at the port of an engine that control starts and that does not run is a stranger.
            (None, _) if self.model.engine.command.is_some() => EngineState::Gone,
            // It served and its port is closed: it is ending, and holds its memory until its process has ended.
            (Some(_), EngineState::Gone) if self.canary.is_some() => EngineState::Unresponsive,
            (None | Some(_), answered) => answered,
        }
    }

    /// Whether a sleep to disk has a way back, as far as is known.
    fn can_reload(&self) -> bool {
        self.reloads && self.footprint.no_reload.as_ref() != Some(&self.version)
    }

    /// The engine has ended: what was learned of this life of it holds no longer. Returns whether a proof was lost.
    fn forget_life(&mut self) -> bool {
        self.canary = None;
        self.told = Told::default();
        self.host_before = None;
        self.next_contact = Instant::now();
        self.next_proof = Instant::now();
        std::mem::take(&mut self.counts_proven)
    }
}

fn driver(settings: &Settings, model: &Model) -> Vllm {
    let http = Http::new(model.engine.address, settings.command);
    Vllm::new(http, model.served.clone(), settings.command)
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
pub(super) fn fingerprint(settings: &Settings, model: &Model) -> String {
    let command = launch(settings, model)
        .map(|launch| launch.fingerprint())
        .unwrap_or_default();
    format!(
        "{command} {} {} {}",
        model.served, model.spec.awake.0, model.spec.asleep.0
    )
}
