//! What an engine's replies mean. Pure: text in, verdict out; no I/O and no clock.
//!
//! A 200 proves only that an endpoint returned. Every verdict here needs the words of the body.

use greenthread_core::event::EngineState;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::vllm::Depth;

/// The oldest vLLM that can be driven: older ones crash on requests that meet a sleeping engine.
pub const OLDEST: (u64, u64) = (0, 32);

/// Longest excerpt of an engine's own words in an error, in characters.
const EXCERPT: usize = 300;

/// What `/v1/models` says about the served model; enough to answer for it while it sleeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Seconds since 1970, by the engine.
    pub created: u64,
    /// Where the weights come from, by the engine.
    pub root: Option<String>,
    /// Longest context in tokens.
    pub max_model_len: Option<u64>,
}

/// The request that proves that a woken engine computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// One token by `/v1/completions`.
    Completion,
    /// One vector by `/v1/embeddings`.
    Embedding,
    /// Neither API is served (a transcription model): state and memory have to do.
    Nothing,
}

/// What the canary showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanaryVerdict {
    /// The model computed.
    Alive,
    /// The engine does not serve this API, which says nothing about the model.
    NotServed,
    /// It answered, and not with a result; the engine's own words.
    Wrong(String),
}

/// Major and minor of the body of `GET /version`; `None` when it has neither.
pub fn version(body: &str) -> Option<(u64, u64)> {
    let text = string(body, "version")?;
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The boolean `key` of a body, e.g. `is_sleeping`.
pub fn flag(body: &str, key: &str) -> Option<bool> {
    serde_json::from_str::<Value>(body)
        .ok()?
        .get(key)?
        .as_bool()
}

/// Requests in the engine, from the body of `GET /load`.
pub fn load(body: &str) -> Option<u64> {
    serde_json::from_str::<Value>(body)
        .ok()?
        .get("server_load")?
        .as_u64()
}

/// The `status` of a reply to `/sleep` or `/wake_up`.
pub fn status(body: &str) -> Option<String> {
    string(body, "status")
}

/// The `level` of a reply to `/sleep`.
pub fn level(body: &str) -> Option<u64> {
    serde_json::from_str::<Value>(body)
        .ok()?
        .get("level")?
        .as_u64()
}

/// Whether a reply of `/collective_rpc` has a result of every worker that was called, and one at least.
pub fn has_results(body: &str) -> bool {
    serde_json::from_str::<Value>(body)
        .ok()
        .and_then(|body| Some(!body.get("results")?.as_array()?.is_empty()))
        .unwrap_or(false)
}

/// How deep the engine sleeps, from `GET /metrics`: the level that it was last asked for, which is not the level that it sleeps at
/// when it slept already. `Some(None)`: its weights are where they were, it is awake or only paused. `None`: the metric is not there,
/// or its replicas disagree.
pub fn depth(metrics: &str) -> Option<Option<Depth>> {
    let samples = |state: &str| -> Vec<bool> {
        let label = format!("sleep_state=\"{state}\"");
        metrics
            .lines()
            .filter(|line| line.starts_with("vllm:engine_sleep_state{") && line.contains(&label))
            .map(|line| line.ends_with(" 1.0") || line.ends_with(" 1"))
            .collect()
    };
    let (ram, disk) = (samples("weights_offloaded"), samples("discard_all"));
    let all = |samples: &[bool], is_on| {
        !samples.is_empty() && samples.iter().all(|sample| *sample == is_on)
    };
    if all(&ram, true) && all(&disk, false) {
        Some(Some(Depth::Ram))
    } else if all(&disk, true) && all(&ram, false) {
        Some(Some(Depth::Disk))
    } else if all(&disk, false) && all(&ram, false) {
        Some(None)
    } else {
        None
    }
}

/// State of an engine that answers. Asleep without being paused means that its scheduler can run on memory that is not there.
pub fn state(is_sleeping: bool, is_paused: bool) -> EngineState {
    match (is_sleeping, is_paused) {
        (false, false) => EngineState::Awake,
        // A paused scheduler alone holds requests back all the same.
        (true | false, true) => EngineState::Asleep,
        (true, false) => EngineState::Broken,
    }
}

/// The card of `served` from the body of `GET /v1/models`, or the ids that the engine serves instead.
pub fn card(body: &str, served: &str) -> Result<ModelCard, Vec<String>> {
    let document: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let models = document
        .get("data")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let id = |model: &Value| {
        model
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let Some(model) = models.iter().find(|model| id(model) == served) else {
        return Err(models.iter().map(id).collect());
    };
    Ok(ModelCard {
        created: model
            .get("created")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
        root: model.get("root").and_then(Value::as_str).map(str::to_owned),
        max_model_len: model.get("max_model_len").and_then(Value::as_u64),
    })
}

/// The canary for an engine whose `GET /openapi.json` is `body`. Without a readable document the commonest API is tried.
pub fn canary(body: &str) -> Canary {
    let document: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let Some(paths) = document.get("paths").and_then(Value::as_object) else {
        return Canary::Completion;
    };
    if paths.contains_key("/v1/completions") {
        Canary::Completion
    } else if paths.contains_key("/v1/embeddings") {
        Canary::Embedding
    } else {
        Canary::Nothing
    }
}

/// What a canary's reply shows. That the model is known was checked before (`card`), so a 404 is a missing route.
pub fn canary_verdict(canary: Canary, status: u16, body: &str) -> CanaryVerdict {
    let result = match canary {
        Canary::Completion => "choices",
        Canary::Embedding => "data",
        Canary::Nothing => return CanaryVerdict::NotServed,
    };
    match status {
        404 | 405 | 501 => return CanaryVerdict::NotServed,
        200 => {}
        _ => return CanaryVerdict::Wrong(format!("{status}: {}", words(body))),
    }
    let document: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    match document
        .get(result)
        .and_then(Value::as_array)
        .and_then(|all| all.first())
    {
        // An engine that is put to sleep with `abort` ends requests with 200 and this reason.
        Some(first) if first.get("finish_reason").and_then(Value::as_str) == Some("abort") => {
            CanaryVerdict::Wrong("it was aborted".into())
        }
        Some(_) => CanaryVerdict::Alive,
        None => CanaryVerdict::Wrong(words(body)),
    }
}

/// Tokens that the engine ever generated, over its replicas, from `GET /metrics`; `None` when the counter is not there.
pub fn generated_tokens(metrics: &str) -> Option<u64> {
    let samples: Vec<f64> = metrics
        .lines()
        .filter(|line| line.starts_with("vllm:generation_tokens_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    // Counters are whole numbers far below 2^53.
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() as u64)
}

/// The engine's own words: the message of a JSON error, else the start of the body, on one line.
pub fn words(body: &str) -> String {
    let document: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let message = [
        document.pointer("/error/message"),
        document.get("error"),
        document.get("detail"),
        document.get("message"),
    ]
    .into_iter()
    .flatten()
    .find_map(Value::as_str)
    .unwrap_or(body);
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        "(empty body)".into()
    } else {
        line.chars().take(EXCERPT).collect()
    }
}

fn string(body: &str, key: &str) -> Option<String> {
    serde_json::from_str::<Value>(body)
        .ok()?
        .get(key)?
        .as_str()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded from vLLM 0.32.0 on CPU, shortened.
    const MODELS: &str = r#"{"object":"list","data":[{"id":"tiny","object":"model","created":1795256311,"owned_by":"vllm","root":"/models/tiny","parent":null,"max_model_len":1024}]}"#;
    const COMPLETION: &str = r#"{"id":"cmpl-8b13","object":"text_completion","created":1795256311,"model":"tiny","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}}"#;
    const METRICS: &str = "# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{engine=\"0\",model_name=\"tiny\"} 347.0\nvllm:generation_tokens_total{engine=\"1\",model_name=\"tiny\"} 3.0\nvllm:generation_tokens_created{engine=\"0\"} 1.79e+09\n";

    #[test]
    fn versions() {
        for (text, expected) in [
            ("0.32.0", Some((0, 32))),
            ("0.33.1rc2.dev5+gabc", Some((0, 33))),
            ("1.0", Some((1, 0))),
            ("unknown", None),
        ] {
            assert_eq!(
                version(&format!(r#"{{"version":"{text}"}}"#)),
                expected,
                "{text}"
            );
        }
        assert_eq!(version("<html>"), None);
    }

    #[test]
    fn states() {
        assert_eq!(state(false, false), EngineState::Awake);
        assert_eq!(state(true, true), EngineState::Asleep);
        assert_eq!(state(false, true), EngineState::Asleep);
        assert_eq!(state(true, false), EngineState::Broken);
    }

    #[test]
    fn flags_counts_and_statuses_need_the_right_type() {
        assert_eq!(flag(r#"{"is_sleeping":true}"#, "is_sleeping"), Some(true));
        assert_eq!(flag(r#"{"is_sleeping":"true"}"#, "is_sleeping"), None);
        assert_eq!(load(r#"{"server_load":3}"#), Some(3));
        assert_eq!(load(r#"{"server_load":-1}"#), None);
        assert_eq!(
            status(r#"{"status":"awake","tags":null}"#).as_deref(),
            Some("awake")
        );
        assert_eq!(status("Internal Server Error"), None);
    }

    #[test]
    fn cards() {
        let expected = ModelCard {
            created: 1_795_256_311,
            root: Some("/models/tiny".into()),
            max_model_len: Some(1024),
        };
        assert_eq!(card(MODELS, "tiny"), Ok(expected));
        assert_eq!(card(MODELS, "other"), Err(vec!["tiny".to_owned()]));
        assert_eq!(card("nonsense", "tiny"), Err(vec![]));
    }

    #[test]
    fn canary_follows_the_served_paths() {
        assert_eq!(
            canary(r#"{"paths":{"/v1/completions":{},"/v1/embeddings":{}}}"#),
            Canary::Completion
        );
        assert_eq!(
            canary(r#"{"paths":{"/v1/embeddings":{}}}"#),
            Canary::Embedding
        );
        assert_eq!(
            canary(r#"{"paths":{"/v1/audio/transcriptions":{}}}"#),
            Canary::Nothing
        );
        assert_eq!(canary(r#"{"detail":"Not Found"}"#), Canary::Completion);
    }

    #[test]
    fn canary_verdicts() {
        use CanaryVerdict::{Alive, NotServed, Wrong};
        let check = |status, body: &str, expected| {
            assert_eq!(canary_verdict(Canary::Completion, status, body), expected)
        };
        check(200, COMPLETION, Alive);
        check(
            200,
            &COMPLETION.replace("length", "abort"),
            Wrong("it was aborted".into()),
        );
        check(200, "{}", Wrong("{}".into()));
        check(404, r#"{"detail":"Not Found"}"#, NotServed);
        check(
            500,
            r#"{"error":{"message":"EngineCore encountered an issue","code":500}}"#,
            Wrong("500: EngineCore encountered an issue".into()),
        );
        assert_eq!(
            canary_verdict(Canary::Embedding, 200, r#"{"data":[{"embedding":[0.1]}]}"#),
            Alive
        );
        assert_eq!(canary_verdict(Canary::Nothing, 200, COMPLETION), NotServed);
    }

    #[test]
    fn tokens_are_summed_over_replicas() {
        assert_eq!(generated_tokens(METRICS), Some(350));
        assert_eq!(generated_tokens("up 1\n"), None);
    }

    #[test]
    fn depths() {
        let metrics = |samples: &[(&str, &str)]| {
            let line = |(state, value): &(&str, &str)| {
                format!(
                    "vllm:engine_sleep_state{{engine=\"0\",model_name=\"tiny\",sleep_state=\"{state}\"}} {value}\n"
                )
            };
            samples.iter().map(line).collect::<String>()
        };
        let (ram, disk) = ("weights_offloaded", "discard_all");
        let (asleep, awake) = (("awake", "0.0"), ("awake", "1.0"));
        for (samples, expected) in [
            (&[awake, (ram, "0.0"), (disk, "0.0")][..], Some(None)),
            // Level 0.
            (&[asleep, (ram, "0.0"), (disk, "0.0")], Some(None)),
            (
                &[asleep, (ram, "1.0"), (disk, "0.0")],
                Some(Some(Depth::Ram)),
            ),
            (
                &[asleep, (ram, "0.0"), (disk, "1.0")],
                Some(Some(Depth::Disk)),
            ),
            // Two replicas that are not alike.
            (
                &[(ram, "1.0"), (disk, "0.0"), (ram, "0.0"), (disk, "1.0")],
                None,
            ),
            (
                &[(ram, "1.0"), (disk, "0.0"), (ram, "0.0"), (disk, "0.0")],
                None,
            ),
            (&[], None),
        ] {
            assert_eq!(depth(&metrics(samples)), expected, "{samples:?}");
        }
    }

    #[test]
    fn levels_and_results() {
        assert_eq!(level(r#"{"status":"sleeping","level":2}"#), Some(2));
        assert_eq!(level(r#"{"status":"sleeping"}"#), None);
        for (body, expected) in [
            (r#"{"results":[null]}"#, true),
            (r#"{"results":[]}"#, false),
            ("", false),
            (r#"{"results":"fine"}"#, false),
        ] {
            assert_eq!(has_results(body), expected, "{body}");
        }
    }

    #[test]
    fn words_are_one_short_line() {
        assert_eq!(words("a\n b"), "a b");
        assert_eq!(words(""), "(empty body)");
        assert_eq!(words(r#"{"detail":"Not Found"}"#), "Not Found");
        assert_eq!(words(&"x".repeat(1_000)).len(), EXCERPT);
    }
}
