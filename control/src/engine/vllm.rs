//! The driver of vLLM 0.32 and later, over HTTP, sleep levels 1 and 2. It changes and verifies one engine; it decides nothing
//! about memory and knows nothing about other engines.
//!
//! Surprises it is built around (all seen on the real engine): a 200 from `/wake_up` can say "sleeping"; `/health` is
//! 200 asleep; the Prometheus gauges stand still asleep, `/load` does not; a request that meets a sleeping engine waits.

mod levels;

use std::time::Duration;

use greenthread_core::event::EngineState;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    http::{Fault, Http, Reply},
    reply::{self, Canary, CanaryVerdict, ModelCard},
};

pub use levels::{Depth, SLEEP_LIMIT};

/// How long an engine's state may lag behind its reply.
const SETTLE: Duration = Duration::from_secs(2);

/// How long it may say nothing at all meanwhile: a server can be busy for seconds with the requests that it was woken with.
const BUSY: Duration = Duration::from_secs(10);

/// Between two looks while something settles.
const POLL: Duration = Duration::from_millis(20);

/// Between two looks at engines that compute.
const SLOW_POLL: Duration = Duration::from_millis(200);

/// Between two readings of an engine that contradicts itself.
const SECOND_READING: Duration = Duration::from_millis(100);

/// Longest of the small questions (version, models, openapi, metrics).
const QUESTION: Duration = Duration::from_secs(5);

/// Longest stream of a proof of load tracking, and how many streams are tried.
const PROOF: Duration = Duration::from_secs(20);
const PROOFS: usize = 3;

/// Between two questions for the load during a proof.
const QUICK_POLL: Duration = Duration::from_millis(2);

/// Why an engine cannot be driven at all.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// A question was not answered.
    #[error("preflight: {0}")]
    Fault(#[from] Fault),
    /// Older than what is safe to drive.
    #[error("it is vLLM {found}, older than {}.{}: upgrade it", reply::OLDEST.0, reply::OLDEST.1)]
    TooOld {
        /// What it says.
        found: String,
    },
    /// Its sleep endpoints are missing.
    #[error(
        "it has no sleep endpoints: start it with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode"
    )]
    NoSleep,
    /// It serves other models.
    #[error(
        "it serves {found:?}, not `{wanted}`: set --served-model-name to the model's upstream id, or correct the fleet file"
    )]
    OtherModel {
        /// What the fleet file says.
        wanted: String,
        /// What the engine says.
        found: Vec<String>,
    },
}

/// Why an action failed. The sentences are for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The engine was not asked to do anything, and will not do it later.
    #[error("{0}")]
    NotSent(String),
    /// The engine said or showed that it did not do it.
    #[error("{0}")]
    Definite(String),
    /// It may have done it, or may do it yet.
    #[error("{0}")]
    Unknown(String),
    /// Whatever it says of itself, it must not serve any more: its weights are not there.
    #[error("{0}")]
    Lost(String),
    /// As lost, and the next attempt would end in the same way: it cannot load weights again.
    #[error("{0}")]
    NoReload(String),
}

/// What preflight found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// The served model.
    pub card: ModelCard,
    /// The request that proves a wake.
    pub canary: Canary,
    /// It takes the call that a wake from disk needs. Whether its model can be loaded again shows only then.
    pub reloads: bool,
    /// Its own word for its version.
    pub version: String,
}

/// What was seen without changing anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// State.
    pub state: EngineState,
    /// Requests in the engine by `/load`; trusted only once load tracking is proven.
    pub load: Option<u64>,
}

/// One vLLM. Cheap to clone; callers see to it that only one action runs at a time.
#[derive(Clone, Debug)]
pub struct Vllm {
    http: Http,
    served: String,
    command: Duration,
}

impl Vllm {
    /// The driver of an engine that serves `served`. A command that is not accepted within `command` is abandoned.
    pub fn new(http: Http, served: String, command: Duration) -> Self {
        Self {
            http,
            served,
            command,
        }
    }

    /// Whether the engine can be driven, and what there is to know of it. Changes nothing.
    pub async fn preflight(&self) -> Result<Preflight, Unfit> {
        let version = self.http.get_ok("/version", QUESTION).await?;
        match reply::version(&version) {
            Some(found) if found >= reply::OLDEST => {}
            Some(_) | None => {
                return Err(Unfit::TooOld {
                    found: reply::words(&version),
                });
            }
        }
        for (path, key) in [("/is_sleeping", "is_sleeping"), ("/is_paused", "is_paused")] {
            let answer = self.http.get(path, QUESTION).await?;
            if answer.status == 404 {
                return Err(Unfit::NoSleep);
            }
            let body = answer.ok(path)?;
            reply::flag(&body, key).ok_or_else(|| senseless(path, &body))?;
        }
        let models = self.http.get_ok("/v1/models", QUESTION).await?;
        let card = reply::card(&models, &self.served).map_err(|found| Unfit::OtherModel {
            wanted: self.served.clone(),
            found,
        })?;
        let openapi = self.http.get("/openapi.json", QUESTION).await?;
        Ok(Preflight {
            card,
            canary: reply::canary(&openapi.body),
            reloads: self.takes_calls().await?,
            version: reply::words(&version),
        })
    }

    /// Whether the HTTP server answers and the engine behind it lives. True while asleep too.
    pub async fn is_healthy(&self, limit: Duration) -> bool {
        self.http
            .get("/health", limit)
            .await
            .is_ok_and(|answer| answer.status == 200)
    }

    /// State and number of requests, asked for now, within `limit`. Never changes anything.
    pub async fn observe(&self, limit: Duration) -> Look {
        let state = async {
            tokio::time::timeout(limit, self.state(limit))
                .await
                .unwrap_or(EngineState::Unresponsive)
        };
        let (state, load) = tokio::join!(state, self.load(limit));
        Look { state, load }
    }

    /// Proves within `limit` that the engine computes: one token, or the tokens of requests that it already has. The
    /// latter because a canary queues behind frozen requests and those can take minutes. Counts in `/load` meanwhile.
    pub async fn canary(
        &self,
        canary: Canary,
        tokens_before: Option<u64>,
        limit: Duration,
    ) -> Result<(), Trouble> {
        tokio::select! {
            answer = self.ask(canary, limit) => answer,
            () = self.generates(tokens_before) => Ok(()),
        }
    }

    /// Tokens generated so far, by the engine's counter, which stands still while it sleeps.
    pub async fn generated_tokens(&self) -> Option<u64> {
        reply::generated_tokens(&self.http.get_ok("/metrics", QUESTION).await.ok()?)
    }

    /// Proves that `/load` counts: while a stream runs, the count must not stay 0. The engine must be awake. `false`: it
    /// does not count, or it serves no completions to prove it with.
    pub async fn proves_counts(&self) -> Result<bool, Fault> {
        // A small model can be done with a stream before a busy server answers the question for its load.
        for _ in 0..PROOFS {
            let is_served = tokio::select! {
                () = self.until_counted() => return Ok(true),
                is_served = self.stream_to_its_end() => is_served?,
            };
            if !is_served {
                break;
            }
        }
        Ok(false)
    }

    /// Somebody else's request proves that the engine counts as well as our own.
    async fn until_counted(&self) {
        while self.load(QUESTION).await.is_none_or(|load| load == 0) {
            sleep(QUICK_POLL).await;
        }
    }

    /// Whether the engine streamed a completion. Dropped half-way, it is aborted by the engine: its length costs nothing.
    async fn stream_to_its_end(&self) -> Result<bool, Fault> {
        let path = "/v1/completions";
        let body = json!({"model": self.served, "prompt": "a", "max_tokens": 512, "ignore_eos": true, "stream": true});
        let mut response = self.http.stream(path, &body, PROOF).await?;
        if response.status().as_u16() != 200 {
            return Ok(false);
        }
        let broke = |source| Fault::Broke { path, source };
        while response.chunk().await.map_err(broke)?.is_some() {}
        Ok(true)
    }

    /// The server takes commands now: asked right before one, so that a command is sent to a stopped process only if it
    /// stops in between. Nothing in HTTP says that a command was accepted before it has been carried out.
    async fn accepts(&self) -> Result<(), Trouble> {
        match self.http.get("/health", self.command).await {
            Ok(Reply { status: 200, .. }) => Ok(()),
            Ok(Reply { status, body }) => Err(Trouble::NotSent(format!(
                "nothing was sent: /health answered {status}: {}",
                reply::words(&body)
            ))),
            Err(fault) => Err(Trouble::NotSent(format!(
                "nothing was sent: {}",
                sentence(&fault)
            ))),
        }
    }

    async fn settles(&self, wanted: EngineState, path: &str) -> Result<(), Trouble> {
        let began = Instant::now();
        loop {
            let left = BUSY.saturating_sub(began.elapsed());
            let state = tokio::time::timeout(left, self.state(left))
                .await
                .unwrap_or(EngineState::Unresponsive);
            if state == wanted {
                return Ok(());
            }
            let patience = match state {
                EngineState::Unresponsive => BUSY,
                EngineState::Awake | EngineState::Asleep | EngineState::Gone => SETTLE,
                EngineState::Broken => Duration::ZERO,
            };
            if began.elapsed() >= patience {
                let claim = format!(
                    "{path} answered 200, and {:?} later the engine is {}",
                    began.elapsed(),
                    named(&state)
                );
                return Err(if state == EngineState::Unresponsive {
                    Trouble::Unknown(claim)
                } else {
                    Trouble::Definite(claim)
                });
            }
            sleep(POLL).await;
        }
    }

    async fn state(&self, limit: Duration) -> EngineState {
        for attempt in 0.. {
            let state = match self.flags(limit).await {
                Ok((is_sleeping, is_paused)) => reply::state(is_sleeping, is_paused),
                Err(fault) => return self.state_behind(&fault, limit).await,
            };
            // The two answers are not of one moment: during a transition they contradict each other for a while.
            if state != EngineState::Broken || attempt >= 2 {
                return state;
            }
            sleep(SECOND_READING).await;
        }
        EngineState::Broken
    }

    async fn flags(&self, limit: Duration) -> Result<(bool, bool), Fault> {
        let mut flags = [false; 2];
        for (flag, (path, key)) in flags
            .iter_mut()
            .zip([("/is_sleeping", "is_sleeping"), ("/is_paused", "is_paused")])
        {
            let body = self.http.get_ok(path, limit).await?;
            *flag = reply::flag(&body, key).ok_or_else(|| senseless(path, &body))?;
        }
        Ok((flags[0], flags[1]))
    }

    async fn state_behind(&self, fault: &Fault, limit: Duration) -> EngineState {
        match fault {
            Fault::Refused { .. } => EngineState::Gone,
            Fault::TimedOut { .. } | Fault::Broke { .. } | Fault::Senseless { .. } => {
                EngineState::Unresponsive
            }
            Fault::Status { status, .. } => match (status, self.http.get("/health", limit).await) {
                // It never slept, having no way to.
                (404, Ok(Reply { status: 200, .. })) => EngineState::Awake,
                // vLLM's server says so for the few seconds that it outlives its engine.
                (_, Ok(Reply { status: 503, .. })) => EngineState::Broken,
                (_, Err(Fault::Refused { .. })) => EngineState::Gone,
                (_, _) => EngineState::Unresponsive,
            },
        }
    }

    async fn load(&self, limit: Duration) -> Option<u64> {
        reply::load(&self.http.get_ok("/load", limit).await.ok()?)
    }

    async fn ask(&self, canary: Canary, limit: Duration) -> Result<(), Trouble> {
        let (path, body) = match canary {
            Canary::Completion => (
                "/v1/completions",
                json!({"model": self.served, "prompt": "a", "max_tokens": 1, "temperature": 0}),
            ),
            Canary::Embedding => (
                "/v1/embeddings",
                json!({"model": self.served, "input": "a"}),
            ),
            Canary::Nothing => return Ok(()),
        };
        let answer = self.http.post_json(path, &body, limit).await;
        let answer = answer
            .map_err(|fault| Trouble::Definite(format!("no canary token: {}", sentence(&fault))))?;
        match reply::canary_verdict(canary, answer.status, &answer.body) {
            CanaryVerdict::Alive | CanaryVerdict::NotServed => Ok(()),
            CanaryVerdict::Wrong(words) => {
                Err(Trouble::Definite(format!("no canary token: {words}")))
            }
        }
    }

    /// Ends when the counter of generated tokens has grown twice; never when there is none. Twice, because the counter
    /// lags: its first step can still be of tokens from before the sleep.
    async fn generates(&self, before: Option<u64>) {
        let mut last = before;
        let mut steps = 0;
        while steps < 2 {
            sleep(SLOW_POLL).await;
            let now = self.generated_tokens().await;
            if last.is_some() && now > last {
                steps += 1;
            }
            last = now.or(last);
        }
    }
}

/// What a call that changes the engine came to: the body of a 200, or why not.
fn called(answer: Result<Reply, Fault>) -> Result<String, Trouble> {
    let answer = answer.map_err(|fault| match fault {
        Fault::Refused { .. } => Trouble::NotSent(sentence(&fault)),
        Fault::TimedOut { .. }
        | Fault::Broke { .. }
        | Fault::Status { .. }
        | Fault::Senseless { .. } => Trouble::Unknown(sentence(&fault)),
    })?;
    let words = reply::words(&answer.body);
    match answer.status {
        200 => Ok(answer.body),
        404 => Err(Trouble::Definite(Unfit::NoSleep.to_string())),
        status @ 500.. => Err(Trouble::Unknown(format!("it answered {status}: {words}"))),
        status => Err(Trouble::Definite(format!("it answered {status}: {words}"))),
    }
}

/// An error and its causes in one line.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The word for a state in sentences for people.
pub fn named(state: &EngineState) -> &'static str {
    match state {
        EngineState::Awake => "awake",
        EngineState::Asleep => "asleep",
        EngineState::Gone => "gone",
        EngineState::Broken => "broken",
        EngineState::Unresponsive => "unresponsive",
    }
}

fn senseless(path: &'static str, body: &str) -> Fault {
    Fault::Senseless {
        path,
        words: reply::words(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_definite_only_when_the_engine_says_so() {
        let check = |status, body: &str, expected: Result<String, Trouble>| {
            assert_eq!(
                called(Ok(Reply {
                    status,
                    body: body.into()
                })),
                expected
            );
        };
        check(200, "{}", Ok("{}".into()));
        check(
            500,
            r#"{"error":{"message":"out of memory"}}"#,
            Err(Trouble::Unknown("it answered 500: out of memory".into())),
        );
        check(
            400,
            r#"{"error":"bad level"}"#,
            Err(Trouble::Definite("it answered 400: bad level".into())),
        );
        check(404, "", Err(Trouble::Definite(Unfit::NoSleep.to_string())));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(matches!(
            called(Err(Fault::Refused { address })),
            Err(Trouble::NotSent(_))
        ));
        let late = Fault::TimedOut {
            path: "/sleep",
            limit: SETTLE,
        };
        assert!(matches!(called(Err(late)), Err(Trouble::Unknown(_))));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(
            Unfit::NoSleep
                .to_string()
                .contains("VLLM_SERVER_DEV_MODE=1")
        );
        assert!(Unfit::NoSleep.to_string().contains("--enable-sleep-mode"));
    }
}
