//! `greenthread serve`: the control service, put together and taken down in order.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use greenthread_core::{ids::Bytes, model::FleetSpec};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::transport::server::TcpIncoming;

use crate::{
    auth::Guard,
    config::{self, ConfigError, Fleet, Model},
    driver::{Driver, INPUTS, Parts},
    engine::{Engines, Settings},
    follow::Follower,
    gates::Gates,
    http::{self, Api},
    input::Input,
    modules::{ModuleError, Modules},
    standalone::watch::Watch,
    state::{StateDir, StateError},
};

/// Pings on a gate's connection, and how long an answer may take. They free the connections of dead peers; leases do not depend on them.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long listeners may take to end once the driver has.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why control did not start or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The fleet file.
    #[error(transparent)]
    Fleet(#[from] ConfigError),
    /// Bound beyond loopback, where a forged gate could block every sleep.
    #[error(
        "{what} is bound to {address}, beyond loopback, and control.token is not set: set a token, or bind to 127.0.0.1"
    )]
    Exposed {
        /// gRPC or HTTP.
        what: &'static str,
        /// Its address.
        address: SocketAddr,
    },
    /// The state folder.
    #[error("the state folder cannot be used")]
    State(#[from] StateError),
    /// The filter module.
    #[error("the filter module cannot be served")]
    Module(#[from] ModuleError),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} for {what}: is another control running, or the port taken?"
    )]
    Listen {
        /// gRPC or HTTP.
        what: &'static str,
        /// Its address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Signals cannot be caught.
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
}

/// Open sockets, so that who asked for port 0 can know what he got.
#[derive(Debug)]
pub struct Listeners {
    /// For gates.
    pub grpc: TcpListener,
    /// For operators.
    pub http: TcpListener,
}

impl Listeners {
    /// Opens what the fleet names.
    ///
    /// # Errors
    /// When an address is taken, or would be reachable from elsewhere without a token.
    pub async fn bind(fleet: &Fleet) -> Result<Self, ServeError> {
        let control = &fleet.control;
        let listen = async |what, address: SocketAddr| {
            if control.token.is_none() && !address.ip().is_loopback() {
                return Err(ServeError::Exposed { what, address });
            }
            TcpListener::bind(address)
                .await
                .map_err(|source| ServeError::Listen {
                    what,
                    address,
                    source,
                })
        };
        Ok(Self {
            grpc: listen("gRPC", control.grpc).await?,
            http: listen("HTTP", control.http).await?,
        })
    }
}

/// Reads the fleet file and follows it, locks the state folder, listens, and serves until a signal to stop (SIGTERM or SIGINT). Engines go on running.
///
/// # Errors
/// When something needed is not there, or when another control has taken over.
pub async fn serve(file: &Path) -> Result<(), ServeError> {
    // Before the file is read: a change in between is seen later, and an early SIGHUP does not end us.
    let watch = Watch::new(file).map_err(ServeError::Signals)?;
    let fleet = config::load(file)?;
    let state = StateDir::lock(&fleet.state)?;
    let listeners = Listeners::bind(&fleet).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run(watch, fleet, state, listeners, shutdown).await
}

/// Serves until `shutdown`: takes a term, makes engines known, then lets gates and operators in.
///
/// # Errors
/// As [`serve`].
pub async fn run(
    watch: Watch,
    fleet: Fleet,
    state: StateDir,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let state = Arc::new(state);
    let term = state.next_term(0)?;
    let modules = Modules::load(state.root())?;
    let (inputs, incoming) = mpsc::channel(INPUTS);
    let (outcomes, events) = mpsc::channel(INPUTS);
    let (gone, gone_models) = mpsc::unbounded_channel();
    let engines = Engines::new(Settings::of(&fleet), outcomes);
    let driver = Driver::new(Parts {
        fleet: FleetSpec {
            gpus: fleet.gpus.iter().copied().map(Bytes).collect(),
            hosts: fleet.hosts.iter().copied().map(Bytes).collect(),
            host_of: fleet.host_of.clone(),
            tolerance: Bytes(fleet.tolerance),
            policy: fleet.policy,
            shadow: fleet.shadow,
            times: fleet.times,
            term,
        },
        hold: fleet.hold.clone(),
        // One gate per worker and one on the main thread.
        expected_gates: fleet.gateway.concurrency + 1,
        engines: engines.clone(),
        state,
        inputs: inputs.clone(),
        gone,
    });
    announce(&fleet, &listeners, term, &modules);

    let guard = Guard::new(fleet.control.http, fleet.control.token.clone());
    let api = Api {
        inputs: inputs.clone(),
        feed: driver.journal().feed(),
        modules,
        guard,
    };
    let (stop, stopped) = watch::channel(());
    let gates = Gates::service(fleet.control.token.clone(), inputs.clone());
    let gates = tokio::spawn(serve_gates(listeners.grpc, gates, stopped.clone()));
    let operators =
        axum::serve(listeners.http, http::router(api)).with_graceful_shutdown(ended(stopped));
    let operators = tokio::spawn(operators.into_future());
    // Gates that attach meanwhile wait: a table that lacks a model would let its requests through to nowhere.
    let models = introduce(&fleet, &engines).await;
    engines.read_gpus(fleet.gpus.len());
    let driver = tokio::spawn(driver.run(models, incoming, events));
    let follower = Follower::new(&fleet, engines, inputs.clone(), gone_models);
    follower.begin(&fleet).await;
    let follower = tokio::spawn(async move { follower.run(watch, fleet).await });

    let result = until_the_end(driver, shutdown, inputs).await;
    follower.abort();
    drop(stop);
    let farewell = async { (gates.await, operators.await) };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::debug!("a peer holds its connection; it is cut");
    }
    Ok(result?)
}

/// Waits for the driver's end, which `shutdown` asks for.
async fn until_the_end(
    driver: JoinHandle<Result<(), StateError>>,
    shutdown: impl Future<Output = ()>,
    inputs: mpsc::Sender<Input>,
) -> Result<(), StateError> {
    let mut driver = std::pin::pin!(driver);
    let ended = tokio::select! {
        ended = &mut driver => ended,
        () = shutdown => {
            tracing::info!("stopping; engines go on running");
            // A driver that has ended already has left its result.
            let _ = inputs.send(Input::Stop).await;
            driver.await
        }
    };
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Makes every model known to engines; returns them as the driver should know them. Ends engines of models that are not in the file.
async fn introduce(fleet: &Fleet, engines: &Engines) -> Vec<Model> {
    let known = fleet.models.values().map(async |model| {
        let spec = engines.set(model.clone()).await;
        Model {
            spec,
            ..model.clone()
        }
    });
    let known = futures_util::future::join_all(known).await;
    let engines = engines.clone();
    tokio::spawn(async move { engines.end_unknown().await });
    known
}

async fn serve_gates(
    listener: TcpListener,
    service: greenthread_proto::gate::gate_control_server::GateControlServer<Gates>,
    stopped: watch::Receiver<()>,
) {
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            ended(stopped),
        )
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gate service ended");
    }
}

/// Resolves when the sender is dropped.
async fn ended(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

fn announce(fleet: &Fleet, listeners: &Listeners, term: u64, modules: &Modules) {
    let address = |listener: &TcpListener| {
        listener
            .local_addr()
            .map_or("?".to_owned(), |address| address.to_string())
    };
    tracing::info!(
        term,
        grpc = address(&listeners.grpc),
        http = address(&listeners.http),
        state = %fleet.state.display(),
        models = fleet.models.len(),
        module = modules.current().unwrap_or("none"),
        "control serves"
    );
}
