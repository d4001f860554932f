//! The engine: one scheduler and one executor behind all HTTP handlers. Handlers submit work and wait; sleeps and wakes change the
//! state and everything that waits on it goes on.
//!
//! As in vLLM, calls that reach the engine's core (`/sleep`, `/wake_up`, `/is_sleeping`, `/is_paused`) are taken one after the other:
//! while memory moves, `/is_sleeping` does not answer. `/health`, `/load` and `/metrics` always do.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};

use crate::{
    args::Args,
    faults::{Faults, Operation, Stats},
    gpu::{GpuError, Gpus},
    http::seen::{SEEN_MAX, Seen},
    state::{Part, PauseMode, State, WakePlan},
    text::Words,
};

/// Why a sleep or a wake failed; the client sees 500 with this text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The memory is not there.
    #[error(
        "Call to wake_up method failed: Worker failed with error '{0}', please check the stack trace above for the root cause"
    )]
    Memory(#[source] GpuError),
    /// Its weights are to be written where no memory is.
    #[error(
        "Call to collective_rpc method failed: CUDA error: an illegal memory access was encountered"
    )]
    NoWeights,
    /// A fault that was switched on.
    #[error("Call to {0} method failed: fault switched on")]
    Fault(&'static str),
}

/// The engine. Shared by all handlers.
#[derive(Debug)]
pub(crate) struct Engine {
    args: Args,
    gpu: Option<Gpus>,
    began: Instant,
    state: watch::Sender<State>,
    faults: watch::Sender<Faults>,
    stats: Mutex<Stats>,
    seen: Mutex<VecDeque<Seen>>,
    load: AtomicU64,
    /// Held while memory moves: one operation at a time, in order of arrival.
    core: tokio::sync::Mutex<()>,
}

impl Engine {
    /// An engine that is awake. `gpu` holds its memory already.
    pub(crate) fn new(args: Args, gpu: Option<Gpus>) -> Arc<Self> {
        Arc::new(Self {
            args,
            gpu,
            began: Instant::now(),
            state: watch::Sender::new(State::awake()),
            faults: watch::Sender::new(Faults::default()),
            stats: Mutex::new(Stats::default()),
            seen: Mutex::default(),
            load: AtomicU64::new(0),
            core: tokio::sync::Mutex::new(()),
        })
    }

    /// The command line.
    pub(crate) fn args(&self) -> &Args {
        &self.args
    }

    /// The state now, without waiting for an operation.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The state between two operations.
    pub(crate) async fn settled_state(&self) -> State {
        let _turn = self.core.lock().await;
        self.state()
    }

    /// The counts, to read or change.
    pub(crate) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a request, and forgets the oldest when there are too many.
    pub(crate) fn saw(&self, request: Seen) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == SEEN_MAX {
            seen.pop_front();
        }
        seen.push_back(request);
    }

    /// The requests that are remembered, oldest first.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().cloned().collect()
    }

    /// The faults that are switched on.
    pub(crate) fn faults(&self) -> Faults {
        self.faults.borrow().clone()
    }

    /// Switches faults on or off.
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    /// Returns when `fault` is no longer switched on.
    pub(crate) async fn until_off(&self, fault: impl Fn(&Faults) -> bool) {
        let mut faults = self.faults.subscribe();
        // The sender lives as long as the engine, so this cannot fail.
        let _ = faults.wait_for(|faults| !fault(faults)).await;
    }

    /// What `/load` says.
    pub(crate) fn load(&self) -> u64 {
        if self.args.enable_server_load_tracking {
            self.load.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// Counts one inference request until the returned value is dropped.
    pub(crate) fn arrived(self: &Arc<Self>) -> Loaded {
        let concurrent = self.load.fetch_add(1, Ordering::Relaxed) + 1;
        let serving = !self.state.borrow().is_sleeping();
        let mut stats = self.stats();
        stats.requests += 1;
        stats.requests_asleep += u64::from(!serving);
        stats.max_concurrent = stats.max_concurrent.max(concurrent);
        Loaded {
            engine: Arc::clone(self),
        }
    }

    /// Accepts a prompt; the answer is computed token by token.
    pub(crate) fn submit(self: &Arc<Self>, prompt: &str) -> Generation {
        let mut aborts = 0;
        self.change_quietly(|state| {
            state.queued += 1;
            aborts = state.aborts;
        });
        Generation {
            engine: Arc::clone(self),
            prompt: prompt.to_owned(),
            words: None,
            aborts,
            stage: Stage::Queued,
        }
    }

    /// Sleeps. Returns when the memory is free, or at once for level 0.
    pub(crate) async fn sleep(&self, level: u8, mode: PauseMode) -> Result<(), EngineError> {
        let began = Instant::now();
        let result = self.sleep_unrecorded(level, mode).await;
        self.record(
            "sleep",
            format!("level={level}&mode={mode:?}").to_lowercase(),
            began,
            result.is_ok(),
        );
        result
    }

    async fn sleep_unrecorded(&self, level: u8, mode: PauseMode) -> Result<(), EngineError> {
        let mut turn = self.core.lock().await;
        let faults = self.faults();
        if faults.sleep_500 {
            return Err(EngineError::Fault("sleep"));
        }
        self.until_off(|faults| faults.hang_sleep).await;
        if faults.lie_asleep {
            self.change(|state| state.pretends_sleep = true);
            return Ok(());
        }
        self.change(|state| state.pause(mode));
        if mode == PauseMode::Wait {
            // Others get their turn meanwhile: a wake can overtake a sleep that waits, as in vLLM.
            drop(turn);
            self.until(State::is_drained).await;
            turn = self.core.lock().await;
        }
        sleep(Duration::from_millis(faults.slow_sleep_ms)).await;
        if self.state.borrow().has_weights_to_free(level) {
            self.free(level, faults.keep_memory).await?;
        }
        self.change(|state| state.level_shown = Some(level));
        drop(turn);
        Ok(())
    }

    async fn free(&self, level: u8, keep_memory: bool) -> Result<(), EngineError> {
        if self.args.sleep_peak > 0 {
            self.hold(self.args.weights.saturating_add(self.args.sleep_peak))?;
        }
        sleep(self.args.sleep_time).await;
        self.change(|state| state.freed(level));
        if keep_memory {
            self.hold(self.args.weights)?;
        } else {
            self.hold(self.args.residual)?;
        }
        self.stats().sleeps += 1;
        Ok(())
    }

    /// Wakes the parts that the tags name (`None`: all). Says whether the engine is fully awake.
    pub(crate) async fn wake(&self, tags: Option<&[String]>) -> Result<bool, EngineError> {
        let began = Instant::now();
        let result = self.wake_unrecorded(tags).await;
        self.stats().wake_failures += u64::from(result.is_err());
        self.record(
            "wake",
            tags.unwrap_or_default().join(","),
            began,
            result.is_ok(),
        );
        result
    }

    async fn wake_unrecorded(&self, tags: Option<&[String]>) -> Result<bool, EngineError> {
        let _turn = self.core.lock().await;
        let faults = self.faults();
        if faults.crash_on_wake {
            crash();
        }
        if faults.wake_500 {
            return Err(EngineError::Fault("wake_up"));
        }
        self.until_off(|faults| faults.hang_wake).await;
        if faults.lie_awake {
            return Ok(true);
        }
        let parts = match self.state().plan_wake(tags) {
            WakePlan::Nothing => std::collections::BTreeSet::new(),
            WakePlan::Parts(parts) => parts,
        };
        sleep(Duration::from_millis(faults.slow_wake_ms)).await;
        if parts.contains(&Part::Weights) {
            self.hold(self.args.weights.saturating_add(self.args.wake_peak))?;
            // At level 2 there is nothing to copy: memory is mapped, and filled by another call.
            if self.state().level < 2 {
                sleep(self.args.wake_time).await;
            }
            if self.args.free_host_copy {
                self.change(|state| state.has_copy = false);
            }
            self.hold(self.args.weights)?;
        }
        let mut awake = false;
        self.change(|state| awake = state.woke(&parts));
        self.stats().wakes += u64::from(awake && !parts.is_empty());
        Ok(awake)
    }

    /// Pauses the scheduler alone.
    pub(crate) async fn pause(&self, mode: PauseMode) {
        let turn = self.core.lock().await;
        self.change(|state| state.pause(mode));
        drop(turn);
        if mode == PauseMode::Wait {
            self.until(State::is_drained).await;
        }
    }

    /// Lets the scheduler go on, even without memory.
    pub(crate) async fn resume(&self) {
        let _turn = self.core.lock().await;
        self.change(State::resume);
    }

    /// Loads the weights again, as after a sleep of level 2. Into memory that is away it fails.
    pub(crate) async fn reload_weights(&self) -> Result<(), EngineError> {
        let _turn = self.core.lock().await;
        if self.faults().reload_500 {
            return Err(EngineError::Fault("collective_rpc"));
        }
        if self.state().away.contains(&Part::Weights) {
            return Err(EngineError::NoWeights);
        }
        sleep(self.args.wake_from_disk).await;
        self.change(|state| state.weights_valid = true);
        Ok(())
    }

    /// Holds so much on each GPU, and the host RAM that the state asks for.
    fn hold(&self, bytes: u64) -> Result<(), EngineError> {
        let Some(gpu) = &self.gpu else {
            return Ok(());
        };
        let args = &self.args;
        let copy = args
            .host_copy
            .unwrap_or(args.weights.saturating_sub(args.residual));
        let host = if self.state.borrow().has_copy {
            copy
        } else {
            0
        };
        gpu.hold(bytes, host).map_err(EngineError::Memory)
    }

    fn record(&self, kind: &'static str, asked: String, began: Instant, ok: bool) {
        let since_start = |at: Instant| at.saturating_duration_since(self.began).as_millis() as u64;
        let operation = Operation {
            kind,
            asked,
            began_ms: since_start(began),
            ended_ms: since_start(Instant::now()),
            ok,
        };
        eprintln!(
            "INFO: {kind} {:?} took {} ms, ok: {ok}",
            operation.asked,
            operation.ended_ms - operation.began_ms
        );
        self.stats().record(operation);
    }

    /// Changes the state and tells everyone who waits for it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Changes counts that nobody waits for: with thousands of requests, telling each of each would take for ever.
    fn change_quietly(&self, change: impl FnOnce(&mut State)) {
        self.state.send_if_modified(|state| {
            change(state);
            false
        });
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        // The sender lives as long as the engine, so this cannot fail.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| condition(state))
            .await;
    }

    /// Frees the simulated memory; the process is about to end.
    pub(crate) fn shut_down(&self) {
        if let Some(gpu) = &self.gpu {
            gpu.release();
        }
    }
}

/// Ends the process as a crash does: nothing is tidied up.
pub(crate) fn crash() -> ! {
    eprintln!("ERROR: fault switched on: crash");
    std::process::exit(134)
}

/// One inference request, for `/load`: lives until its answer is sent or its client is gone.
#[derive(Debug)]
pub(crate) struct Loaded {
    engine: Arc<Engine>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.engine.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How the computing of one token ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The token's text.
    Token(String),
    /// The engine was paused with `mode=abort`: the answer ends here.
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Queued,
    Running,
    Over,
}

/// One answer while it is computed. Dropping it before [`Generation::complete`] is what a client that leaves does.
#[derive(Debug)]
pub(crate) struct Generation {
    engine: Arc<Engine>,
    prompt: String,
    words: Option<Words>,
    /// The number of aborts when it was accepted.
    aborts: u64,
    stage: Stage,
}

impl Generation {
    /// The next token. Waits while the engine sleeps or is paused.
    pub(crate) async fn step(&mut self) -> Step {
        while self.stage == Stage::Queued {
            self.until_aborted_or(State::may_start).await;
            self.try_start();
        }
        self.until_aborted_or(State::may_go_on).await;
        sleep(self.engine.args.token_time).await;
        loop {
            // The engine may have paused meanwhile: then the token comes after the pause.
            self.until_aborted_or(State::may_go_on).await;
            if let Some(step) = self.try_compute() {
                return step;
            }
        }
    }

    /// The answer is whole.
    pub(crate) fn complete(mut self) {
        self.end();
        self.engine.stats().completed += 1;
    }

    async fn until_aborted_or(&self, condition: impl Fn(&State) -> bool) {
        self.engine
            .until(|state| state.aborts != self.aborts || condition(state))
            .await;
    }

    /// Leaves the queue, if the scheduler starts requests. An aborted one leaves it too, to end with its first token.
    fn try_start(&mut self) {
        let mut started = false;
        self.engine.change_quietly(|state| {
            started = state.aborts != self.aborts || state.may_start();
            state.queued -= u64::from(started);
            state.running += u64::from(started);
        });
        if started {
            self.stage = Stage::Running;
        }
    }

    /// `None` when the scheduler stands still.
    fn try_compute(&mut self) -> Option<Step> {
        let mut seen = None;
        self.engine.change_quietly(|state| {
            if state.aborts == self.aborts && state.may_go_on() {
                state.stepped();
            }
            seen = Some(state.clone());
        });
        let state = seen?;
        if state.aborts != self.aborts {
            self.end();
            self.engine.stats().aborted += 1;
            return Some(Step::Aborted);
        }
        if !state.may_go_on() {
            return None;
        }
        let mut stats = self.engine.stats();
        stats.tokens += 1;
        stats.tokens_asleep += u64::from(!state.away.is_empty());
        drop(stats);
        let words = self.words.get_or_insert_with(|| {
            Words::answer(&self.engine.args.model, &self.prompt, !state.weights_valid)
        });
        Some(Step::Token(words.next().unwrap_or_default()))
    }

    /// Takes it out of the counts; nothing happens the second time.
    fn end(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        self.engine.state.send_if_modified(|state| {
            match stage {
                Stage::Queued => state.queued -= 1,
                Stage::Running => state.running -= 1,
                Stage::Over => return false,
            }
            // Even asleep: a request that arrives is not seen then, but one that leaves makes the scheduler look.
            state.stepped();
            stage == Stage::Running && state.is_drained()
        });
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.stage != Stage::Over {
            self.engine.stats().disconnected += 1;
            self.end();
        }
    }
}
