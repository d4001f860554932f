//! A client of one engine: plain HTTP, nothing retried, every wait bounded.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Longest wait for anything that must happen; a real engine on a busy machine computes a few tens of tokens per second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing may happen before it counts as standing still.
const STILL: Duration = Duration::from_millis(400);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Tokens of an answer that is still being computed when the next call arrives.
pub(crate) const LONG: u64 = 950;

/// One engine.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Where it is, without a slash at the end.
    pub(crate) url: String,
    /// Model id.
    pub(crate) model: String,
}

/// Status and JSON body (null when there is none).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// A request whose answer is read in the background.
pub(crate) type Pending = tokio::task::JoinHandle<anyhow::Result<Reply>>;

impl Client {
    /// Every call gets a connection of its own: vLLM closes one after a 500 without a word, and after five idle seconds.
    pub(crate) fn new(url: &str, model: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .build()?;
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self {
            http,
            url,
            model: model.to_owned(),
        })
    }

    /// A GET.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(self.http.get(self.at(path)), path).await
    }

    /// A POST with a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.send(self.http.post(self.at(path)).json(body), path)
            .await
    }

    /// A POST without a body.
    pub(crate) async fn call(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(self.http.post(self.at(path)), path).await
    }

    /// A DELETE.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(self.http.delete(self.at(path)), path).await
    }

    /// Status and text of an answer.
    pub(crate) async fn text(&self, path: &str, body: &Value) -> anyhow::Result<(u16, String)> {
        let response = self
            .http
            .post(self.at(path))
            .json(body)
            .timeout(PATIENCE)
            .send()
            .await
            .context(path.to_owned())?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> anyhow::Result<Reply> {
        let response = request
            .timeout(PATIENCE)
            .send()
            .await
            .with_context(|| path.to_owned())?;
        let status = response.status().as_u16();
        let text = response.text().await.with_context(|| path.to_owned())?;
        Ok(Reply {
            status,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
        })
    }

    /// A connection without a request.
    pub(crate) async fn connect(&self) -> anyhow::Result<TcpStream> {
        let address = self.url.trim_start_matches("http://");
        TcpStream::connect(address)
            .await
            .with_context(|| address.to_owned())
    }

    /// A POST whose answer is waited for later. Aborting it closes the connection, as a client that leaves does.
    pub(crate) fn start(&self, path: &'static str, body: Value) -> Pending {
        let client = self.clone();
        tokio::spawn(async move { client.post(path, &body).await })
    }

    /// A stream whose headers have arrived.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> anyhow::Result<Stream> {
        let request = self.http.post(self.at(path)).json(body).timeout(PATIENCE);
        let response = request.send().await.with_context(|| path.to_owned())?;
        ensure!(response.status() == 200, "{path}: {}", response.status());
        Ok(Stream {
            response,
            text: String::new(),
        })
    }

    /// A completion of `tokens` tokens, the same every time.
    pub(crate) fn completion(&self, tokens: u64) -> Value {
        json!({"model": self.model, "prompt": "once upon a time", "max_tokens": tokens, "temperature": 0, "ignore_eos": true})
    }

    /// The same as a stream that tells its tokens at the end.
    pub(crate) fn streamed(&self, tokens: u64) -> Value {
        let mut body = self.completion(tokens);
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        body
    }

    /// Awake, idle, nobody waiting.
    pub(crate) async fn reset(&self) -> anyhow::Result<()> {
        let woken = self.call("/wake_up").await?;
        ensure!(woken.body["status"] == "awake", "{woken:?}");
        self.call("/resume").await?;
        self.until_load(0).await
    }

    /// Sleeps with `mode=keep`.
    pub(crate) async fn sleep(&self) -> anyhow::Result<()> {
        let slept = self.call("/sleep?level=1&mode=keep").await?;
        ensure!(
            slept.status == 200 && slept.body == json!({"status": "sleeping", "level": 1}),
            "{slept:?}"
        );
        Ok(())
    }

    /// Wakes in full.
    pub(crate) async fn wake(&self) -> anyhow::Result<()> {
        let woken = self.call("/wake_up").await?;
        ensure!(
            woken.status == 200 && woken.body == json!({"status": "awake", "tags": null}),
            "{woken:?}"
        );
        Ok(())
    }

    /// `(is_sleeping, is_paused)`.
    pub(crate) async fn state(&self) -> anyhow::Result<(bool, bool)> {
        let sleeping = self.get("/is_sleeping").await?.body["is_sleeping"]
            .as_bool()
            .context("is_sleeping")?;
        let paused = self.get("/is_paused").await?.body["is_paused"]
            .as_bool()
            .context("is_paused")?;
        Ok((sleeping, paused))
    }

    /// What `/load` says.
    pub(crate) async fn load(&self) -> anyhow::Result<u64> {
        self.get("/load").await?.body["server_load"]
            .as_u64()
            .context("server_load")
    }

    /// Waits until `/load` says so.
    pub(crate) async fn until_load(&self, expected: u64) -> anyhow::Result<()> {
        until(&format!("/load says {expected}"), async || {
            Ok(self.load().await? == expected)
        })
        .await
    }

    /// Sum of the samples of a metric whose labels contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let text = self
            .http
            .get(self.at("/metrics"))
            .timeout(PATIENCE)
            .send()
            .await?
            .text()
            .await?;
        let sample = |line: &str| -> Option<f64> {
            let rest = line.strip_prefix(name)?.strip_prefix('{')?;
            let (labels, value) = rest.split_once('}')?;
            labels.contains(label).then(|| value.trim().parse().ok())?
        };
        let samples: Vec<f64> = text.lines().filter_map(sample).collect();
        ensure!(!samples.is_empty(), "no metric {name} with {label}");
        Ok(samples.iter().sum())
    }

    /// The gauges `(running, waiting)`.
    pub(crate) async fn gauges(&self) -> anyhow::Result<(f64, f64)> {
        Ok((
            self.metric("vllm:num_requests_running", "").await?,
            self.metric("vllm:num_requests_waiting", "").await?,
        ))
    }
}

/// Waits for a condition.
pub(crate) async fn until(
    what: &str,
    condition: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await? {
        if Instant::now() > deadline {
            bail!("not within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// A stream under way. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    /// Reads until `events` events with data have arrived since the start.
    pub(crate) async fn read_events(&mut self, events: usize) -> anyhow::Result<()> {
        while self.text.matches("data: ").count() < events {
            let chunk = self
                .response
                .chunk()
                .await?
                .context("the stream ended early")?;
            self.text.push_str(std::str::from_utf8(&chunk)?);
        }
        Ok(())
    }

    /// Reads what is under way, until nothing comes for a while. An error when the stream ends.
    pub(crate) async fn until_still(&mut self) -> anyhow::Result<()> {
        loop {
            match tokio::time::timeout(STILL, self.response.chunk()).await {
                Err(_still) => return Ok(()),
                Ok(chunk) => {
                    let chunk = chunk?.context("the stream ended instead of standing still")?;
                    self.text.push_str(std::str::from_utf8(&chunk)?);
                }
            }
        }
    }

    /// Whether anything has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Reads to the end.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Finished> {
        while let Some(chunk) = self.response.chunk().await? {
            self.text.push_str(std::str::from_utf8(&chunk)?);
        }
        Finished::parse(&self.text)
    }
}

/// A stream that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finished {
    /// The text of all its events.
    pub(crate) text: String,
    /// By the usage at its end.
    pub(crate) tokens: u64,
    /// Why it ended.
    pub(crate) reason: String,
    /// Whether `[DONE]` came last.
    pub(crate) done: bool,
}

impl Finished {
    fn parse(stream: &str) -> anyhow::Result<Self> {
        let mut finished = Self {
            text: String::new(),
            tokens: 0,
            reason: String::new(),
            done: false,
        };
        for data in stream
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
        {
            ensure!(!finished.done, "something comes after [DONE]");
            if data == "[DONE]" {
                finished.done = true;
                continue;
            }
            let event: Value = serde_json::from_str(data).with_context(|| data.to_owned())?;
            let choice = &event["choices"][0];
            finished
                .text
                .push_str(choice["text"].as_str().unwrap_or_default());
            if let Some(reason) = choice["finish_reason"].as_str() {
                finished.reason = reason.to_owned();
            }
            if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
                finished.tokens = tokens;
            }
        }
        Ok(finished)
    }
}
