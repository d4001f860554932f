//! Envoy's clusters as JSON: one per engine, delivered through a file that Envoy watches, and the one of control.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::{CONNECT_TIMEOUT, Model};

/// Name of control's cluster in the bootstrap.
pub const CONTROL_CLUSTER: &str = "greenthread-control";

/// Above anything that is held: Envoy's defaults (1,024) refused 952 of 3,000 requests that were released at once.
const UNLIMITED: u32 = 100_000;

/// vLLM closes idle connections after 5 s; Envoy must be first, or a request meets a closing connection.
const UPSTREAM_IDLE: &str = "4s";

/// The file that Envoy's CDS reads: every cluster of these models, in the order of their names.
pub fn discovery<'a>(models: impl IntoIterator<Item = &'a Model>) -> Value {
    let mut clusters: Vec<Value> = models.into_iter().map(of_model).collect();
    clusters.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    clusters.dedup();
    let version: String = Sha256::digest(Value::from(clusters.clone()).to_string())
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({ "version_info": version, "resources": clusters })
}

fn of_model(model: &Model) -> Value {
    let mut cluster = cluster(&model.cluster, model.engine.address);
    cluster["@type"] = json!("type.googleapis.com/envoy.config.cluster.v3.Cluster");
    // Operators look for the model's name in statistics and access logs; only the cluster's own name is a hash.
    cluster["alt_stat_name"] = json!(model.name);
    cluster["typed_extension_protocol_options"] = http_options(&json!({
        "common_http_protocol_options": { "idle_timeout": UPSTREAM_IDLE },
        "explicit_http_config": { "http_protocol_options": {} },
    }));
    cluster
}

/// Control's gRPC service: HTTP/2, with pings, without which a frozen control is never noticed.
pub(super) fn of_control(address: SocketAddr) -> Value {
    let mut cluster = cluster(CONTROL_CLUSTER, address);
    cluster["typed_extension_protocol_options"] = http_options(&json!({
        "explicit_http_config": {
            "http2_protocol_options": { "connection_keepalive": { "interval": "2s", "timeout": "2s" } },
        },
    }));
    cluster
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": format!("{}s", CONNECT_TIMEOUT.as_secs_f64()),
        "circuit_breakers": { "thresholds": [{
            "max_connections": UNLIMITED,
            "max_pending_requests": UNLIMITED,
            "max_requests": UNLIMITED,
            "max_retries": UNLIMITED,
        }] },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(address) } }] }],
        },
    })
}

fn http_options(options: &Value) -> Value {
    let mut typed = options.clone();
    typed["@type"] =
        json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
    json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed })
}

/// An address as Envoy writes it.
pub(super) fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
