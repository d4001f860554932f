//! What control's vLLM driver relies on, asked through the driver itself: of engine-sim, and of the real vLLM.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::BoxStream};
use greenthread_control::engine::{
    http::Http,
    reply::Canary,
    vllm::{Depth, Look, Vllm},
};
use greenthread_core::{event::EngineState, model::SleepMode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::PATIENCE;

/// Tokens of an answer that is frozen: enough to be surprised in the middle, even by a look that takes its time on a busy machine. The
/// engine's longest context is 1,024.
const TOKENS: u64 = 900;

/// How often an engine may be done before it could be surprised, on a busy machine.
const ATTEMPTS: usize = 5;

/// Without a word for so long, and with the request in the count of a sleeping engine: frozen.
const SILENCE: Duration = Duration::from_secs(1);

/// Longest look at the engine.
const LOOK: Duration = Duration::from_secs(2);

/// The engine under test.
struct Subject {
    driver: Vllm,
    url: String,
    model: String,
}

/// Asks everything of an engine that is awake, idle and used by nobody else. Panics where it behaves differently.
pub(crate) async fn check(url: &str, model: &str) {
    let url = url.trim_end_matches('/').to_owned();
    let model = model.to_owned();
    let address: SocketAddr = url
        .trim_start_matches("http://")
        .parse()
        .expect("the engine's URL is http://<ip>:<port>");
    let http = Http::new(address, Duration::from_secs(2));
    let driver = Vllm::new(http, model.clone(), Duration::from_secs(2));
    let subject = Subject { driver, url, model };

    subject.introduces_itself().await;
    subject.load_tracking_is_provable().await;
    subject.sleeping_and_waking_twice_is_harmless().await;
    subject
        .the_metric_tells_how_deep_it_was_told_to_sleep()
        .await;
    subject
        .a_frozen_stream_goes_on_after_the_wake(Depth::Ram)
        .await;
    subject
        .a_frozen_stream_goes_on_after_the_wake(Depth::Disk)
        .await;
    subject.a_frozen_answer_is_complete_after_the_wake().await;
    subject
        .a_request_that_meets_a_sleeping_engine_waits_and_counts()
        .await;
    subject
        .a_client_that_leaves_a_sleeping_engine_is_not_counted()
        .await;
    subject.abort_truncates().await;
}

impl Subject {
    async fn introduces_itself(&self) {
        let preflight = self.driver.preflight().await.expect("preflight");
        assert!(preflight.card.created > 0);
        assert_eq!(preflight.canary, Canary::Completion);
        assert!(preflight.reloads, "it takes the call that loads weights");
        self.until(EngineState::Awake, 0).await;
        let canary = self.driver.canary(preflight.canary, None, PATIENCE);
        canary.await.expect("one token");
        eprintln!("kept   the driver: it introduces itself and generates a token");
    }

    async fn load_tracking_is_provable(&self) {
        let is_proven = self.driver.proves_counts().await.expect("a stream");
        assert!(is_proven, "start it with --enable-server-load-tracking");
        self.until(EngineState::Awake, 0).await;
        eprintln!("kept   the driver: load tracking is provable");
    }

    async fn sleeping_and_waking_twice_is_harmless(&self) {
        for _ in 0..2 {
            self.fall_asleep().await;
            self.until(EngineState::Asleep, 0).await;
            assert!(
                self.driver.is_healthy(LOOK).await,
                "/health has to be 200 asleep"
            );
        }
        for _ in 0..2 {
            self.wake().await;
            self.until(EngineState::Awake, 0).await;
        }
        eprintln!("kept   the driver: sleeping and waking twice is harmless");
    }

    async fn the_metric_tells_how_deep_it_was_told_to_sleep(&self) {
        assert_eq!(self.driver.sleeps_by_metric().await, Some(None));
        for depth in [Depth::Ram, Depth::Disk] {
            for _ in 0..2 {
                self.fall_to(depth).await;
                self.until(EngineState::Asleep, 0).await;
                assert_eq!(self.driver.sleeps_by_metric().await, Some(Some(depth)));
            }
            for _ in 0..2 {
                self.wake_from(depth).await;
                self.until(EngineState::Awake, 0).await;
                assert_eq!(self.driver.sleeps_by_metric().await, Some(None));
            }
        }
        eprintln!("kept   the driver: it sleeps in RAM and to disk, twice, and its metric tells");
    }

    async fn a_frozen_stream_goes_on_after_the_wake(&self, depth: Depth) {
        let mut stream = self.frozen_stream(depth).await;
        let frozen_at = stream.tokens();
        assert!(frozen_at < TOKENS, "frozen at {frozen_at}");
        self.until(EngineState::Asleep, 1).await;
        self.wake_from(depth).await;
        stream.until_done().await;
        let end = (stream.finish_reason(), stream.usage());
        assert_eq!(end, (Some("length".to_owned()), Some(TOKENS)));
        self.until(EngineState::Awake, 0).await;
        eprintln!(
            "kept   the driver: a stream frozen at {frozen_at} of {TOKENS} tokens goes on after the wake from {depth:?}"
        );
    }

    async fn a_frozen_answer_is_complete_after_the_wake(&self) {
        let answer = self.frozen_answer().await;
        self.until(EngineState::Asleep, 1).await;
        self.wake().await;
        let answer = timeout(PATIENCE, answer)
            .await
            .expect("in time")
            .expect("a task");
        assert_eq!(
            answer.pointer("/usage/completion_tokens"),
            Some(&json!(TOKENS))
        );
        self.until(EngineState::Awake, 0).await;
        eprintln!("kept   the driver: a frozen answer is complete after the wake");
    }

    async fn a_request_that_meets_a_sleeping_engine_waits_and_counts(&self) {
        self.fall_asleep().await;
        let answers: Vec<_> = (0..3).map(|_| tokio::spawn(self.request(4))).collect();
        self.until(EngineState::Asleep, 3).await;
        assert!(answers.iter().all(|answer| !answer.is_finished()));
        self.wake().await;
        for answer in answers {
            let answer = timeout(PATIENCE, answer)
                .await
                .expect("in time")
                .expect("a task");
            assert_eq!(answer.pointer("/usage/completion_tokens"), Some(&json!(4)));
        }
        self.until(EngineState::Awake, 0).await;
        eprintln!("kept   the driver: requests that meet a sleeping engine wait and count");
    }

    async fn a_client_that_leaves_a_sleeping_engine_is_not_counted(&self) {
        self.fall_asleep().await;
        let client = tokio::spawn(self.request(4));
        self.until(EngineState::Asleep, 1).await;
        client.abort();
        self.until(EngineState::Asleep, 0).await;
        self.wake().await;
        self.until(EngineState::Awake, 0).await;
        eprintln!("kept   the driver: a client that leaves a sleeping engine is not counted");
    }

    async fn abort_truncates(&self) {
        let mut stream = self.aborted_stream().await;
        if stream.finish_reason().as_deref() == Some("length") {
            // It was over before it could be aborted, on a busy machine.
            self.wake().await;
            stream = self.aborted_stream().await;
        }
        assert_eq!(stream.finish_reason().as_deref(), Some("abort"));
        assert!(stream.tokens() < TOKENS);
        self.until(EngineState::Asleep, 0).await;
        self.wake().await;
        self.until(EngineState::Awake, 0).await;
        eprintln!("kept   the driver: abort truncates, with 200");
    }

    async fn aborted_stream(&self) -> Stream {
        let mut stream = self.open_stream().await;
        self.driver
            .sleep(SleepMode::Abort, Depth::Ram)
            .await
            .expect("sleep");
        stream.until_done().await;
        stream
    }

    /// A stream that the engine was surprised in.
    async fn frozen_stream(&self, depth: Depth) -> Stream {
        for _ in 0..ATTEMPTS {
            let mut stream = self.open_stream().await;
            self.fall_to(depth).await;
            // What was on its way before the engine slept may still arrive; then there is silence.
            while !stream.is_done() && timeout(SILENCE, stream.next_text()).await.is_ok() {}
            if self.driver.observe(LOOK).await.load == Some(1) {
                return stream;
            }
            stream.until_done().await;
            self.wake_from(depth).await;
        }
        panic!("in {ATTEMPTS} attempts the engine was done before it slept");
    }

    /// An answer that the engine was surprised in.
    async fn frozen_answer(&self) -> tokio::task::JoinHandle<Value> {
        for _ in 0..ATTEMPTS {
            let mut answer = tokio::spawn(self.request(TOKENS));
            while !answer.is_finished() && self.driver.observe(LOOK).await.load != Some(1) {}
            self.fall_asleep().await;
            if timeout(SILENCE, &mut answer).await.is_err() {
                return answer;
            }
            self.wake().await;
        }
        panic!("in {ATTEMPTS} attempts the engine was done before it slept");
    }

    async fn fall_asleep(&self) {
        self.fall_to(Depth::Ram).await;
    }

    async fn fall_to(&self, depth: Depth) {
        let slept = self.driver.sleep(SleepMode::Keep, depth).await;
        slept.expect("sleep");
    }

    async fn wake(&self) {
        self.wake_from(Depth::Ram).await;
    }

    async fn wake_from(&self, depth: Depth) {
        let tokens = self.driver.generated_tokens().await;
        self.driver.wake(depth, PATIENCE).await.expect("wake");
        let canary = self.driver.canary(Canary::Completion, tokens, PATIENCE);
        canary.await.expect("a token after the wake");
    }

    /// Looks until the engine is in this state with this count: requests come and go a little later than their clients.
    async fn until(&self, state: EngineState, count: u64) {
        let wanted = Look {
            state,
            load: Some(count),
        };
        let end = Instant::now() + PATIENCE;
        let mut look = self.driver.observe(LOOK).await;
        while look != wanted {
            assert!(
                Instant::now() < end,
                "wanted {wanted:?}, last seen {look:?}"
            );
            sleep(Duration::from_millis(20)).await;
            look = self.driver.observe(LOOK).await;
        }
    }

    /// A stream in the middle of which the engine is surprised.
    async fn open_stream(&self) -> Stream {
        let mut body = self.body(TOKENS);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let response = self.post(&body).await.expect("a stream");
        assert_eq!(response.status(), 200);
        let bytes = response
            .bytes_stream()
            .map(|bytes| bytes.map(Into::into))
            .boxed();
        let mut stream = Stream {
            bytes,
            text: String::new(),
        };
        while stream.tokens() == 0 {
            stream.next_text().await;
        }
        stream
    }

    /// The whole answer to a request of exactly `tokens` tokens. Owns what it needs, so that it can be spawned.
    fn request(&self, tokens: u64) -> impl Future<Output = Value> + Send + use<> {
        let sent = self.post(&self.body(tokens));
        async move {
            let response = sent.await.expect("an answer");
            assert_eq!(response.status(), 200);
            response.json().await.expect("JSON")
        }
    }

    fn body(&self, tokens: u64) -> Value {
        json!({"model": self.model, "prompt": "once upon", "max_tokens": tokens, "ignore_eos": true, "temperature": 0})
    }

    fn post(
        &self,
        body: &Value,
    ) -> impl Future<Output = reqwest::Result<reqwest::Response>> + Send + use<> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client");
        client
            .post(format!("{}/v1/completions", self.url))
            .json(body)
            .timeout(PATIENCE)
            .send()
    }
}

/// A stream of server-sent events and what came of it so far.
struct Stream {
    bytes: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    text: String,
}

impl Stream {
    /// Waits for more text; for ever when the engine sleeps. Panics at the end of the stream.
    async fn next_text(&mut self) {
        let bytes = self
            .bytes
            .next()
            .await
            .expect("the stream goes on")
            .expect("the stream is whole");
        self.text
            .push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
    }

    async fn until_done(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.is_done() {
            timeout_at(end, self.next_text())
                .await
                .expect("the stream ends in time");
        }
    }

    fn is_done(&self) -> bool {
        self.text.contains("data: [DONE]")
    }

    fn events(&self) -> impl Iterator<Item = Value> {
        self.text
            .lines()
            .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
    }

    /// Chunks with a choice: one per token, or several tokens in one when the server is behind.
    fn tokens(&self) -> u64 {
        self.events()
            .filter(|event| event.pointer("/choices/0").is_some())
            .map(|_| 1)
            .sum()
    }

    fn finish_reason(&self) -> Option<String> {
        self.events()
            .filter_map(|event| {
                Some(
                    event
                        .pointer("/choices/0/finish_reason")?
                        .as_str()?
                        .to_owned(),
                )
            })
            .last()
    }

    fn usage(&self) -> Option<u64> {
        self.events()
            .filter_map(|event| event.pointer("/usage/completion_tokens")?.as_u64())
            .last()
    }
}
