//! The client side of the HTTP API: what `status`, `explain`, `why-not`, `wake`, `sleep`, `disable`, `enable` and `accept-gpu` do.

use std::time::{Duration, Instant};

use greenthread_core::event::Operator;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    choice::{Choice, WhyNot},
    explain::brief,
    overview::{Gpu, Model, Overview, Problem},
};

/// Pause between two looks while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Who waits so long is told why.
const EXPLAINED_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for one answer of control.
const ANSWER: Duration = Duration::from_secs(10);

/// Why a verb did not end as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "control does not answer at {base}: is `greenthread up` or `greenthread serve` running, and is --control right?"
    )]
    Unreachable {
        /// Address tried.
        base: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// The address is none.
    #[error(
        "--control (or GREENTHREAD_CONTROL): {base} is no address; write one like http://127.0.0.1:8081"
    )]
    NoAddress {
        /// What was given.
        base: String,
    },
    /// Control says no.
    #[error("{}; {}", .0.message, .0.remedy)]
    Refused(Problem),
    /// The answer is none of ours.
    #[error(
        "{base} answered {status} with something else than control would: is another program on that address?"
    )]
    Foreign {
        /// Address asked.
        base: String,
        /// Its status.
        status: StatusCode,
    },
    /// The model will not get there without help.
    #[error("{model} did not {verb}: {reason}")]
    Failed {
        /// Which model.
        model: String,
        /// What was asked.
        verb: &'static str,
        /// Why not.
        reason: String,
    },
    /// The model is still on its way.
    #[error(
        "{model} did not {verb} within {waited:?}; it is {state} and goes on: see `greenthread status {model}`"
    )]
    Late {
        /// Which model.
        model: String,
        /// What was asked.
        verb: &'static str,
        /// How long was waited.
        waited: Duration,
        /// Its state.
        state: String,
    },
}

/// One control service.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Refused {
    error: Problem,
}

impl Client {
    /// A client of the control at `base` ("http://127.0.0.1:8081").
    pub fn new(base: &str, token: Option<String>) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: base.trim_end_matches('/').to_owned(),
            token,
        }
    }

    /// Everything.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn status(&self) -> Result<Overview, ClientError> {
        self.call(Method::GET, "/api/v1/status").await
    }

    /// One model.
    ///
    /// # Errors
    /// No answer, or no such model.
    pub async fn model(&self, name: &str) -> Result<Model, ClientError> {
        self.call(Method::GET, &format!("/api/v1/models/{}", encoded(name)))
            .await
    }

    /// The latest choices about a model, `last` at most, oldest first.
    ///
    /// # Errors
    /// No answer, or no such model.
    pub async fn explain(&self, name: &str, last: usize) -> Result<Vec<Choice>, ClientError> {
        let path = format!("/api/v1/models/{}/explain?last={last}", encoded(name));
        self.call(Method::GET, &path).await
    }

    /// One choice by its number.
    ///
    /// # Errors
    /// No answer, or it is not kept.
    pub async fn choice(&self, number: u64) -> Result<Choice, ClientError> {
        self.call(Method::GET, &format!("/api/v1/choices/{number}"))
            .await
    }

    /// Why a model is not awake.
    ///
    /// # Errors
    /// No answer, or no such model.
    pub async fn why_not(&self, name: &str) -> Result<WhyNot, ClientError> {
        let path = format!("/api/v1/models/{}/why-not", encoded(name));
        self.call(Method::GET, &path).await
    }

    /// Says that what a GPU holds beyond the ledger is somebody else's; returns what is known of the GPU then.
    ///
    /// # Errors
    /// No answer, no such GPU, or nobody measures it.
    pub async fn accept_gpu(&self, gpu: usize) -> Result<Gpu, ClientError> {
        self.call(Method::POST, &format!("/api/v1/gpus/{gpu}/accept"))
            .await
    }

    /// Asks for a verb; returns when control has taken it.
    ///
    /// # Errors
    /// No answer, or no such model.
    pub async fn operate(&self, name: &str, verb: Operator) -> Result<(), ClientError> {
        let path = format!("/api/v1/models/{}/{}", encoded(name), word(verb));
        self.call::<serde_json::Value>(Method::POST, &path)
            .await
            .map(|_| ())
    }

    /// Asks for a verb and waits until the model is where it was wanted, showing what is decided meanwhile.
    ///
    /// # Errors
    /// It failed, or it takes longer than `patience`.
    pub async fn operate_and_wait(
        &self,
        name: &str,
        verb: Operator,
        patience: Duration,
        mut show: impl FnMut(&str),
    ) -> Result<Model, ClientError> {
        let mut shown = self.model(name).await?.decisions;
        self.operate(name, verb).await?;
        let started = Instant::now();
        let (mut moved, mut explained) = (false, false);
        loop {
            let model = self.model(name).await?;
            for entry in model
                .decisions
                .iter()
                .filter(|entry| !shown.contains(entry))
            {
                show(&entry.line());
            }
            shown.clone_from(&model.decisions);
            match progress(&model, verb, moved) {
                Progress::There => return Ok(model),
                Progress::Failed(reason) => {
                    return Err(ClientError::Failed {
                        model: model.name,
                        verb: word(verb),
                        reason,
                    });
                }
                Progress::OnTheWay => moved = true,
                Progress::NotBegun => {}
            }
            // Once, and only where it does not go by itself.
            if !explained && verb == Operator::Wake && started.elapsed() >= EXPLAINED_AFTER {
                explained = true;
                for reason in self.why_not(name).await?.reasons {
                    show(&format!("{name} waits: {}", brief(&reason)));
                }
            }
            if started.elapsed() >= patience {
                return Err(ClientError::Late {
                    model: model.name,
                    verb: word(verb),
                    waited: patience,
                    state: model.state,
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .timeout(ANSWER);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let unreachable = |source: reqwest::Error| {
            let base = self.base.clone();
            if source.is_builder() {
                ClientError::NoAddress { base }
            } else {
                ClientError::Unreachable { base, source }
            }
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unreachable)?;
        let foreign = |_| ClientError::Foreign {
            base: self.base.clone(),
            status,
        };
        if status.is_success() {
            serde_json::from_slice(&body).map_err(foreign)
        } else {
            Err(ClientError::Refused(
                serde_json::from_slice::<Refused>(&body)
                    .map_err(foreign)?
                    .error,
            ))
        }
    }
}

/// How far a model is on the way that a verb asked for.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    There,
    OnTheWay,
    NotBegun,
    Failed(String),
}

/// `moved`: it was seen on its way before.
fn progress(model: &Model, verb: Operator, moved: bool) -> Progress {
    let state = model.state.as_str();
    let failed = || {
        Progress::Failed(
            model
                .last_error
                .clone()
                .unwrap_or_else(|| model.refused_because.clone().unwrap_or_default()),
        )
    };
    let last = || {
        model.last_decision().map_or_else(
            || format!("it is {state} again"),
            |entry| entry.sentence.clone(),
        )
    };
    match verb {
        Operator::Wake => match (state, model.refused_because.as_deref()) {
            ("serving", _) => Progress::There,
            (_, Some("disabled")) => Progress::Failed(format!(
                "an operator took it out of service; `greenthread enable {}` puts it back",
                model.name
            )),
            (_, Some("wake_failed" | "engine_failed" | "never_fits")) => failed(),
            ("sleeping", _) if moved => Progress::Failed(last()),
            ("sleeping", _) => Progress::NotBegun,
            (_, _) => Progress::OnTheWay,
        },
        Operator::Sleep | Operator::Disable => match state {
            "sleeping" => Progress::There,
            "serving" if moved && verb == Operator::Sleep => Progress::Failed(format!(
                "{}; `greenthread disable` keeps it asleep whoever asks for it",
                last()
            )),
            "serving" if moved => Progress::Failed(last()),
            "serving" => Progress::NotBegun,
            _ => Progress::OnTheWay,
        },
        Operator::Enable => Progress::There,
    }
}

/// The verb in paths and on the command line.
pub fn word(verb: Operator) -> &'static str {
    match verb {
        Operator::Wake => "wake",
        Operator::Sleep => "sleep",
        Operator::Disable => "disable",
        Operator::Enable => "enable",
    }
}

/// A name as one segment of a path.
fn encoded(name: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    name.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn an_address_that_is_none_is_told_from_one_that_does_not_answer() {
        for base in ["control", "127.0.0.1:8081"] {
            let error = Client::new(base, None)
                .status()
                .await
                .unwrap_err()
                .to_string();
            let expected = format!("{base} is no address; write one like http://");
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn names_are_one_segment() {
        assert_eq!(encoded("team-a/whisper ü"), "team-a%2Fwhisper%20%C3%BC");
    }

    #[test]
    fn progress_knows_ends_and_failures() {
        let check = |verb, state: &str, refused: Option<&str>, moved, expected: Progress| {
            let model = Model {
                state: state.into(),
                refused_because: refused.map(Into::into),
                last_error: Some("why".into()),
                ..testing::model_overview("m")
            };
            assert_eq!(
                progress(&model, verb, moved),
                expected,
                "{verb:?} {state} {refused:?} {moved}"
            );
        };
        check(Operator::Wake, "serving", None, false, Progress::There);
        check(Operator::Wake, "sleeping", None, false, Progress::NotBegun);
        check(Operator::Wake, "waking", None, false, Progress::OnTheWay);
        check(
            Operator::Wake,
            "sleeping",
            Some("wake_failed"),
            false,
            Progress::Failed("why".into()),
        );
        let enable = "an operator took it out of service; `greenthread enable m` puts it back";
        check(
            Operator::Wake,
            "sleeping",
            Some("disabled"),
            false,
            Progress::Failed(enable.into()),
        );
        check(Operator::Sleep, "serving", None, false, Progress::NotBegun);
        check(
            Operator::Sleep,
            "deactivating",
            None,
            false,
            Progress::OnTheWay,
        );
        check(
            Operator::Sleep,
            "serving",
            None,
            true,
            Progress::Failed(
                "it is serving again; `greenthread disable` keeps it asleep whoever asks for it"
                    .into(),
            ),
        );
        check(Operator::Sleep, "sleeping", None, true, Progress::There);
    }
}
