//! The fleet file: what an operator writes, parsed once into validated values. An error names the line, the field and the remedy.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use greenthread_core::model::{ModelSpec, OnLeaseEnd, Times};

/// The whole file, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// Envoy, when `up` runs it.
    pub gateway: Gateway,
    /// Addresses and token of control.
    pub control: Control,
    /// Folder for everything that outlives a process; locked by `serve`.
    pub state: PathBuf,
    /// What says how much memory an engine holds.
    pub oracle: OracleKind,
    /// Memory of each GPU that models may use, in bytes.
    pub gpus: Vec<u64>,
    /// Times of the protocol (also in [`ModelSpec`]s where they are per model).
    pub times: Times,
    /// Hold limits of a gateway.
    pub hold: Hold,
    /// Longest wait for one look at an engine, and for a first start.
    pub observe_timeout: Duration,
    /// Longest start of an engine's process.
    pub start_timeout: Duration,
    /// Longest wake; after it the outcome is a failure.
    pub wake_timeout: Duration,
    /// Models by name.
    pub models: BTreeMap<String, Model>,
}

/// Envoy as `up` runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Where clients come in.
    pub address: SocketAddr,
    /// Envoy's admin interface.
    pub admin: SocketAddr,
    /// Worker threads.
    pub concurrency: usize,
    /// Answer `/v1/models`, `/health`, `/liveness`, `/readiness` at the root.
    pub root: bool,
}

/// Addresses of control.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// gRPC for gates.
    pub grpc: SocketAddr,
    /// HTTP for operators.
    pub http: SocketAddr,
    /// Bearer token of gates and operators; required beyond loopback.
    pub token: Option<String>,
}

/// Hold limits of one gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// Requests.
    pub limit: u64,
    /// Requests for one model.
    pub per_model: u64,
    /// Bytes over all held requests.
    pub bytes: u64,
    /// Most bytes that one held request can have buffered.
    pub body_buffer: u64,
    /// Longest hold of one request.
    pub budget: Duration,
}

/// Who knows how much GPU memory an engine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OracleKind {
    /// Nobody: the engine's verified state and the declared figures stand in.
    Declared,
    /// The simulated GPU of engine-sim, in `<state>/gpu`.
    Simulated,
}

/// One model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Name, the default prefix.
    pub name: String,
    /// Upstream id (the Hugging Face id).
    pub served: String,
    /// Path prefixes without slashes at the ends.
    pub prefixes: Vec<String>,
    /// Engine.
    pub engine: EngineSpec,
    /// Engine documents that are let through (`/metrics`, `/docs` …).
    pub expose: Vec<String>,
    /// What the engine reports as `max_model_len`, for `/v1/models` before it was ever asked.
    pub max_model_len: Option<u64>,
    /// What gates do without a lease; `None`: by the driver.
    pub on_lease_end: Option<OnLeaseEnd>,
    /// The core's view of it.
    pub spec: ModelSpec,
    /// Envoy cluster: "gt-" and a hash of name and engine address.
    pub cluster: String,
}

/// Where the engine is and who starts it.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSpec {
    /// Kind of driver.
    pub kind: EngineKind,
    /// Address of its HTTP server (for `command`, 127.0.0.1 and `port`).
    pub address: SocketAddr,
    /// Program and arguments with `{port}` replaced; `None`: attach.
    pub command: Option<Vec<String>>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
}

/// Drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// vLLM ≥ 0.32, over HTTP, sleep level 1.
    Vllm,
}
