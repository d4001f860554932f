//! The fleet file: what an operator writes, parsed once into validated values. An error names the line, the field and the remedy, and all
//! errors are told at once. The schema, with every default, is the commented example `envoy/standalone/greenthread.yaml`.

mod behaviour;
mod check;
mod fleet;
mod model;
mod prefix;
mod reader;
mod sizes;
mod tree;
pub(crate) mod units;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use greenthread_core::{
    model::{ModelSpec, OnLeaseEnd, Times},
    policy::Policy,
};

pub use reader::{Origin, Place, Problem};

/// How long a connection to an engine may take to open (Envoy's `connect_timeout`).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often Envoy tries again when a connection fails or breaks before the request was sent.
pub const CONNECT_RETRIES: u32 = 1;
/// Longest pause before such a retry.
pub const RETRY_BACK_OFF: Duration = Duration::from_millis(25);

/// Why there is no fleet.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Everything that is wrong in it, one line each, in the order of the file.
    #[error("{}", Listed(file, problems))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// At least one.
        problems: Vec<Problem>,
    },
}

struct Listed<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.0.display();
        for (index, problem) in self.1.iter().enumerate() {
            write!(f, "{}{file}:{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// What the file does not say: where we are and which variables are set.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Every `GREENTHREAD_*` variable.
    pub environment: BTreeMap<String, String>,
    /// Folder that relative paths start from: the current one.
    pub folder: PathBuf,
    /// The simulated engine, when it lies beside this program.
    pub engine_sim: Option<PathBuf>,
    /// `state`, made absolute; filled in while the file is read.
    state: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        let engine_sim = std::env::current_exe()
            .ok()
            .map(|program| program.with_file_name("engine-sim"))
            .filter(|program| program.is_file());
        let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let name = name
                .into_string()
                .ok()
                .filter(|name| name.starts_with("GREENTHREAD_"))?;
            Some((name, value.into_string().ok()?))
        };
        Self {
            environment: std::env::vars_os().filter_map(ours).collect(),
            folder: std::env::current_dir().unwrap_or_default(),
            engine_sim,
            state: PathBuf::new(),
        }
    }
}

/// Reads and validates a fleet file; relative paths and variables are those of this process.
///
/// # Errors
/// The file cannot be read, or something in it is wrong.
pub fn load(file: &Path) -> Result<Fleet, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    parse(&text, file, Surroundings::of_this_process())
}

/// Validates the text of a fleet file. Pure.
///
/// # Errors
/// Everything that is wrong in it; `file` only names it.
pub fn parse(text: &str, file: &Path, around: Surroundings) -> Result<Fleet, ConfigError> {
    fleet::read(text, around).map_err(|problems| ConfigError::Invalid {
        file: file.to_owned(),
        problems,
    })
}

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
    /// Host RAM that sleeping copies may take, by NUMA node, in bytes; empty: nobody said, and nothing is limited by it.
    pub hosts: Vec<u64>,
    /// Node of each GPU: an index of `hosts`.
    pub host_of: Vec<usize>,
    /// How far ledger and oracle may differ on a GPU, in bytes.
    pub tolerance: u64,
    /// How victims are chosen.
    pub policy: &'static Policy,
    /// A second policy that decides beside the first without acting.
    pub shadow: Option<&'static Policy>,
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
    /// What is allowed and may not be meant, in words for the operator.
    pub warnings: Vec<Problem>,
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
    /// vLLM ≥ 0.32, over HTTP, sleep levels 1 and 2.
    Vllm,
}

#[cfg(test)]
mod tests;
