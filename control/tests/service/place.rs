//! A control service of its own for each test: own ports, own state folder, one sleeping engine.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use greenthread_control::{
    config::{Surroundings, parse},
    serve::{Listeners, ServeError, run},
    standalone::watch::Watch,
    state::StateDir,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::Instant};

use crate::engine::Engine;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A control that runs.
pub(crate) struct Place {
    pub(crate) grpc: SocketAddr,
    pub(crate) engine: Engine,
    http: String,
    token: Option<String>,
    folder: PathBuf,
    text: String,
    file: String,
    client: reqwest::Client,
    stop: oneshot::Sender<()>,
    service: JoinHandle<Result<(), ServeError>>,
}

impl Place {
    /// Starts one; `control` is what the fleet file says under `control`.
    pub(crate) async fn new(name: &str, control: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("greenthread-service-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        let engine = Engine::start().await;
        let control = if control.is_empty() {
            String::new()
        } else {
            format!("control:\n  {control}\n")
        };
        let text = format!(
            "{control}state: {}\noracle: declared\ngpus: [{{memory: 40GiB}}]\ntimes: {{command: 500ms}}\nmodels:\n{}",
            folder.display(),
            model("tiny", engine.address)
        );
        Self::start(folder, text, engine).await
    }

    async fn start(folder: PathBuf, text: String, engine: Engine) -> Self {
        let file = folder.join("fleet.yaml");
        std::fs::write(&file, &text).expect("a fleet file");
        let fleet =
            parse(&text, &file, Surroundings::default()).unwrap_or_else(|error| panic!("{error}"));
        let state = StateDir::lock(&fleet.state).expect("nobody else uses the folder");
        let token = fleet.control.token.clone();
        let free = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let listeners = Listeners {
            grpc: free().await,
            http: free().await,
        };
        let grpc = listeners.grpc.local_addr().expect("its address");
        let http = format!(
            "http://{}",
            listeners.http.local_addr().expect("its address")
        );
        let watch = Watch::new(&file).expect("signals can be caught");
        let (stop, stopped) = oneshot::channel();
        let service = tokio::spawn(run(watch, fleet, state, listeners, async {
            drop(stopped.await)
        }));
        let file = file.display().to_string();
        Self {
            grpc,
            engine,
            http,
            token,
            folder,
            text,
            file,
            client: reqwest::Client::new(),
            stop,
            service,
        }
    }

    /// Stops control and starts it again on the same state and with the same engine.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            engine,
            folder,
            text,
            stop,
            service,
            ..
        } = self;
        finish(stop, service).await;
        Self::start(folder, text, engine).await
    }

    /// Stops control in good order and cleans up.
    pub(crate) async fn end(self) {
        let Self {
            stop,
            service,
            folder,
            ..
        } = self;
        finish(stop, service).await;
        std::fs::remove_dir_all(folder).expect("the folder goes");
    }

    /// Replaces the fleet file.
    pub(crate) fn write(&self, text: &str) {
        std::fs::write(&self.file, text).expect("the fleet file can be written");
    }

    /// The fleet file that it started with, and one more model.
    pub(crate) fn with_model(&self, name: &str, engine: SocketAddr) -> String {
        format!("{}{}", self.text, model(name, engine))
    }

    /// What Envoy's cluster discovery reads.
    pub(crate) fn clusters(&self) -> String {
        std::fs::read_to_string(self.folder.join("envoy/cds.json")).unwrap_or_default()
    }

    /// Address of the HTTP API.
    pub(crate) fn address(&self) -> &str {
        &self.http
    }

    /// The fleet file.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn request(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.http))
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.get_as(self.token.as_deref(), path).await
    }

    pub(crate) async fn get_as(&self, token: Option<&str>, path: &str) -> reqwest::Response {
        let request = self.request(path);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.expect("control answers")
    }

    pub(crate) async fn post(&self, path: &str) -> reqwest::Response {
        self.client
            .post(format!("{}{path}", self.http))
            .send()
            .await
            .expect("control answers")
    }

    /// Asks until the answer is there.
    pub(crate) async fn until<T: Answer>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> T,
    ) -> T::Value {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = ask().await.value() {
                return value;
            }
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One model of the fleet file.
fn model(name: &str, engine: SocketAddr) -> String {
    format!(
        "- name: {name}\n  model: org/tiny\n  memory: {{awake: 16GiB, asleep: 1GiB}}\n  engine: {{url: \"http://{engine}\"}}\n"
    )
}

/// What can be waited for.
pub(crate) trait Answer {
    type Value;
    fn value(self) -> Option<Self::Value>;
}

impl Answer for bool {
    type Value = ();
    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Answer for Option<T> {
    type Value = T;
    fn value(self) -> Self {
        self
    }
}

async fn finish(stop: oneshot::Sender<()>, service: JoinHandle<Result<(), ServeError>>) {
    stop.send(()).expect("control still runs");
    let ended = tokio::time::timeout(PATIENCE, service)
        .await
        .expect("control stops in time");
    ended.expect("no panic").expect("no error");
}
