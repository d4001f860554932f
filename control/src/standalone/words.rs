//! What `up` tells people. Pure.

use std::{fmt::Write, net::SocketAddr, path::Path};

use greenthread_core::ids::Bytes;

use crate::{
    config::{Fleet, OracleKind},
    explain::counted,
};

/// Where everything is and what to type, once all is ready.
pub(super) fn ready(fleet: &Fleet, program: &str, folder: &Path) -> String {
    let gateway = format!("http://{}", reachable(fleet.gateway.address));
    let gpus: Vec<String> = fleet
        .gpus
        .iter()
        .map(|bytes| Bytes(*bytes).to_string())
        .collect();
    let simulated = match fleet.oracle {
        OracleKind::Simulated => "simulated ",
        OracleKind::Declared => "",
    };
    let mut text = format!(
        "\nReady: {} on {simulated}GPU memory of {}.\n\n",
        counted(fleet.models.len(), "model"),
        gpus.join(" + ")
    );
    let width = |column: fn(&crate::config::Model) -> &str| {
        fleet
            .models
            .values()
            .map(|model| column(model).len())
            .max()
            .unwrap_or(0)
    };
    let (names, served) = (width(|model| &model.name), width(|model| &model.served));
    for model in fleet.models.values() {
        for prefix in &model.prefixes {
            line(
                &mut text,
                format_args!(
                    "  {:names$}  {:served$}  {gateway}/{prefix}/v1",
                    model.name, model.served
                ),
            );
        }
    }
    if let Some((model, prefix)) = fleet
        .models
        .values()
        .find_map(|model| Some((model, model.prefixes.first()?)))
    {
        line(&mut text, format_args!("\nTry, in another terminal:\n"));
        line(&mut text, format_args!("  curl {gateway}/{prefix}/status"));
        line(
            &mut text,
            format_args!(
                "  curl {gateway}/{prefix}/v1/chat/completions -H 'Content-Type: application/json' \\"
            ),
        );
        line(
            &mut text,
            format_args!(
                "    -d '{{\"model\": \"{}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'",
                model.served
            ),
        );
        line(
            &mut text,
            format_args!("  {}{program} status", variable(fleet)),
        );
    }
    let state = fleet
        .state
        .strip_prefix(folder)
        .unwrap_or(&fleet.state)
        .display();
    line(
        &mut text,
        format_args!(
            "\nLogs: {state}/logs (access.log, envoy.log, one per model). Envoy: http://{}. Control: http://{}.",
            fleet.gateway.admin,
            reachable(fleet.control.http)
        ),
    );
    line(
        &mut text,
        format_args!(
            "Models are reread when the file is saved. Ctrl-C drains and stops; a second one stops at once."
        ),
    );
    text
}

/// Client verbs look for control at its default address.
fn variable(fleet: &Fleet) -> String {
    if fleet.control.http.port() == 8081 && fleet.control.http.ip().is_loopback() {
        String::new()
    } else {
        format!(
            "GREENTHREAD_CONTROL=http://{} ",
            reachable(fleet.control.http)
        )
    }
}

/// An address that can be typed: a listener on all addresses is reached by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let loopback = if address.is_ipv4() {
        std::net::Ipv4Addr::LOCALHOST.into()
    } else {
        std::net::Ipv6Addr::LOCALHOST.into()
    };
    SocketAddr::new(loopback, address.port())
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{arguments}");
}
