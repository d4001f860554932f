//! Envoy's bootstrap: the one listener with the filter and the one route that sends a request where the filter says. Pure.

use std::path::Path;

use serde_json::{Value, json};

use super::clusters::{CONTROL_CLUSTER, of_control, socket};
use crate::config::{CONNECT_RETRIES, Fleet, RETRY_BACK_OFF};

/// The header in which the filter names the upstream; it never leaves Envoy.
const UPSTREAM_HEADER: &str = "x-greenthread-cluster";
/// Longest silence of a request, hold and generation together.
const STREAM_IDLE: &str = "1800s";
/// Above held requests and everything in flight; without a limit one client can take every descriptor.
const MOST_CONNECTIONS: u32 = 50_000;
/// HTTP/2 windows: without the first a held body is not limited at all; the second keeps held streams from blocking a connection's others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Files that the bootstrap names, as absolute paths.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The filter.
    pub module: &'a Path,
    /// Its digest, lower-case hexadecimal.
    pub module_sha256: &'a str,
    /// What Envoy's CDS watches.
    pub clusters: &'a Path,
    /// One JSON object per request.
    pub access_log: &'a Path,
}

/// The whole bootstrap.
pub fn render(fleet: &Fleet, files: &Files<'_>) -> Value {
    json!({
        "node": { "id": "greenthread-gateway", "cluster": "greenthread" },
        "admin": { "address": socket(fleet.gateway.admin) },
        "static_resources": {
            "listeners": [listener(fleet, files)],
            "clusters": [of_control(fleet.control.grpc)],
        },
        "dynamic_resources": {
            "cds_config": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": files.clusters,
                    "watched_directory": { "path": files.clusters.parent() },
                },
            },
        },
        "overload_manager": {
            "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": MOST_CONNECTIONS,
                },
            }],
        },
    })
}

fn listener(fleet: &Fleet, files: &Files<'_>) -> Value {
    json!({
        "name": "gateway",
        "address": socket(fleet.gateway.address),
        "per_connection_buffer_limit_bytes": fleet.hold.body_buffer,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": connection_manager(fleet, files),
        }] }],
    })
}

fn connection_manager(fleet: &Fleet, files: &Files<'_>) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "server_name": "greenthread",
        "use_remote_address": true,
        "stream_idle_timeout": STREAM_IDLE,
        "request_headers_timeout": "30s",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        // nginx in front speaks HTTP/1.0 to its upstreams unless it is told otherwise.
        "http_protocol_options": { "accept_http_10": true, "default_host_for_http_10": "greenthread" },
        "http2_protocol_options": {
            "initial_stream_window_size": STREAM_WINDOW,
            "initial_connection_window_size": CONNECTION_WINDOW,
            // A held request cannot be noticed to have lost its client otherwise.
            "connection_keepalive": { "interval": "30s", "timeout": "10s" },
        },
        "early_header_mutation_extensions": [early_header_mutation()],
        "access_log": [access_log(files.access_log)],
        "local_reply_config": local_replies(),
        "http_filters": [
            { "name": "greenthread", "typed_config": filter(fleet, files) },
            { "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                // An answer has the engine's headers, and the engine gets the client's.
                "suppress_envoy_headers": true,
            } },
        ],
        "route_config": { "name": "gateway", "virtual_hosts": [{ "name": "gateway", "domains": ["*"], "routes": routes() }] },
    })
}

/// A client's copies of our headers, and of those that steer Envoy's router, go before any route or filter sees them.
fn early_header_mutation() -> Value {
    let remove =
        |prefix: &str| json!({ "remove_on_match": { "key_matcher": { "prefix": prefix } } });
    json!({
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [remove("x-greenthread-"), remove("x-envoy-")],
        },
    })
}

fn filter(fleet: &Fleet, files: &Files<'_>) -> Value {
    let mut control = json!({ "cluster": CONTROL_CLUSTER });
    if let Some(token) = &fleet.control.token {
        control["token"] = json!(token);
    }
    let plugin = json!({
        "control": control,
        "gateway": fleet.gateway.address.to_string(),
        "module_sha256": files.module_sha256,
        "rewrite": "filter",
        "root": fleet.gateway.root,
        "hosts": [],
        "hold": { "limit": fleet.hold.limit, "bytes": fleet.hold.bytes, "body_buffer": fleet.hold.body_buffer },
    });
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "greenthread",
            "root_id": "greenthread",
            "failure_policy": "FAIL_RELOAD",
            "configuration": { "@type": "type.googleapis.com/google.protobuf.StringValue", "value": plugin.to_string() },
            "vm_config": {
                "vm_id": "greenthread",
                "runtime": "envoy.wasm.runtime.v8",
                "code": { "local": { "filename": files.module } },
            },
        },
    })
}

fn routes() -> Value {
    let back_off = format!("{}s", RETRY_BACK_OFF.as_secs_f64());
    json!([
        {
            "name": "model",
            "match": { "prefix": "/", "headers": [{ "name": UPSTREAM_HEADER, "present_match": true }] },
            "request_headers_to_remove": [UPSTREAM_HEADER],
            "route": {
                "cluster_header": UPSTREAM_HEADER,
                // A generation takes as long as it takes.
                "timeout": "0s",
                "idle_timeout": STREAM_IDLE,
                "retry_policy": {
                    "retry_on": "connect-failure,reset-before-request",
                    "num_retries": CONNECT_RETRIES,
                    "retry_back_off": { "base_interval": back_off, "max_interval": back_off },
                },
            },
        },
        {
            "name": "unknown",
            "match": { "prefix": "/" },
            "response_headers_to_add": [set("content-type", "application/json"), set("x-greenthread-reason", "unknown_path")],
            "direct_response": { "status": 404, "body": { "inline_string": openai_error(
                "No model is served under this path: each has its own, /<name>/v1/… GET /v1/models lists the ids of all.", "invalid_request_error", "unknown_path",
            ) } },
        },
    ])
}

fn set(name: &str, value: &str) -> Value {
    json!({ "header": { "key": name, "value": value }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" })
}

fn openai_error(message: &str, kind: &str, code: &str) -> String {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
        .to_string()
}

/// Envoy's own 503, when an engine cannot be reached or breaks off, becomes the 502 that clients of this API expect.
fn local_replies() -> Value {
    let message = "The engine of this model failed; try again in a few seconds.";
    let anthropic =
        json!({ "type": "error", "error": { "type": "api_error", "message": message } })
            .to_string();
    let failed =
        json!({ "response_flag_filter": { "flags": ["UF", "UC", "UH", "UO", "UR", "LR", "NC"] } });
    let messages = json!({ "header_filter": { "header": { "name": ":path", "string_match": { "contains": "/v1/messages" } } } });
    json!({ "mappers": [
        engine_failed(&json!({ "and_filter": { "filters": [failed, messages] } }), &anthropic),
        engine_failed(&failed, &openai_error(message, "server_error", "engine_failed")),
    ] })
}

fn engine_failed(filter: &Value, body: &str) -> Value {
    json!({
        "filter": filter,
        "status_code": 502,
        "headers_to_add": [set("retry-after", "5"), set("x-greenthread-reason", "engine_failed")],
        "body": { "inline_string": body },
        "body_format_override": {
            "text_format_source": { "inline_string": "%LOCAL_REPLY_BODY%" },
            "content_type": "application/json",
        },
    })
}

fn access_log(file: &Path) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": file,
            "log_format": { "json_format": {
                "time": "%START_TIME%",
                "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
                "method": "%REQ(:METHOD)%",
                // Without the query, which can carry secrets; of a forwarded request the prefix is gone, `model` names it.
                "path": "%PATH(NQ:PATH)%",
                "model": "%UPSTREAM_CLUSTER%",
                "status": "%RESPONSE_CODE%",
                "reason": "%RESP(X-GREENTHREAD-REASON)%",
                "flags": "%RESPONSE_FLAGS%",
                "details": "%RESPONSE_CODE_DETAILS%",
                "duration_ms": "%DURATION%",
                "before_engine_ms": "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:ms)%",
                "first_byte_ms": "%RESPONSE_DURATION%",
                "bytes_in": "%BYTES_RECEIVED%",
                "bytes_out": "%BYTES_SENT%",
                "request_id": "%REQ(X-REQUEST-ID)%",
            } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Surroundings, parse},
        standalone::clusters::discovery,
    };

    const FLEET: &str = "\
control: {token: a-secret}
gpus: [{memory: 40GiB}]
models:
- name: a
  model: org/a
  memory: {awake: 17GiB}
  engine: {url: \"http://127.0.0.1:8000\"}
- name: b
  model: org/b
  memory: {awake: 17GiB}
  engine: {url: \"http://[::1]:8000\"}
";

    /// Compares with the committed file, or writes it when UPDATE_GOLDEN is set.
    fn golden(name: &str, rendered: &Value) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/standalone/golden")
            .join(name);
        let text = format!(
            "{}\n",
            serde_json::to_string_pretty(rendered).expect("JSON")
        );
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &text).expect("write");
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            expected == text,
            "{} differs; run with UPDATE_GOLDEN=1 and look at the difference",
            file.display()
        );
    }

    #[test]
    fn bootstrap_and_clusters_are_what_was_reviewed() {
        let fleet = parse(FLEET, Path::new("f"), Surroundings::default()).expect("valid");
        let files = Files {
            module: Path::new("/state/envoy/filter.wasm"),
            module_sha256: "00ff",
            clusters: Path::new("/state/envoy/clusters.json"),
            access_log: Path::new("/state/logs/access.log"),
        };
        golden("bootstrap.json", &render(&fleet, &files));
        golden("clusters.json", &discovery(fleet.models.values()));
    }
}
