//! The sections of the file beside `models`, and the whole put together.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use greenthread_core::{ids::Millis, model::Times, policy::Policy};

use super::{
    CONNECT_RETRIES, CONNECT_TIMEOUT, Control, Fleet, Gateway, Hold, OracleKind, Place, Problem,
    RETRY_BACK_OFF, Surroundings, behaviour,
    check::{self, millis},
    model::{self, Draft},
    reader::{Origin, Read, Reader, Section},
    tree, units,
};

/// Longest hold that the timers on the way (Envoy's `stream_idle_timeout`) leave room for.
const LONGEST_BUDGET: Duration = Duration::from_secs(1_500);

/// Difference of ledger and oracle on a GPU that is nothing to stop for: allocators round, contexts grow a little.
const TOLERANCE: u64 = 512 << 20;

/// The fleet, or everything that is wrong.
pub(super) fn read(text: &str, around: Surroundings) -> Result<Fleet, Vec<Problem>> {
    let tree = tree::parse(text).map_err(|malformed| {
        let place = Place {
            origin: Origin::Line(malformed.line),
            field: String::new(),
        };
        vec![Problem {
            place,
            cause: malformed.cause,
        }]
    })?;
    let environment = around.environment.clone();
    let reader = Reader::new(
        environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect(),
    );
    let fleet = sections(&Section::root(&reader, &tree), around, &reader);
    if reader.has_problems() {
        Err(reader.into_problems())
    } else {
        Ok(fleet)
    }
}

fn sections(root: &Section<'_>, mut around: Surroundings, reader: &Reader<'_>) -> Fleet {
    let state = root
        .read_or("state", PathBuf::from("state"), |text| {
            Ok(PathBuf::from(text))
        })
        .value;
    around.state = around.folder.join(state);
    let (gateway, mut listeners) = gateway(&root.section("gateway"));
    let (control, control_listeners) = control(&root.section("control"), reader);
    listeners.extend(control_listeners);
    let oracle = root.read_or("oracle", OracleKind::Declared, oracle).value;
    let hosts = hosts(root, reader);
    let (gpus, host_of) = gpus(root, hosts.len(), reader);
    let tolerance = root
        .read_or("tolerance", TOLERANCE, units::positive_size)
        .value;
    let (policy, shadow) = policies(root, reader);
    let times_section = root.section("times");
    let times = times(&times_section, reader);
    let wait = |key, default| {
        times_section
            .read_or(key, Duration::from_secs(default), units::positive_duration)
            .value
    };
    let (observe_timeout, start_timeout, wake_timeout) =
        (wait("observe", 2), wait("start", 600), wait("wake", 120));
    times_section.finish();
    let hold = hold(&root.section("hold"), reader);
    let defaults_section = root.section("defaults");
    let defaults = behaviour::read(&defaults_section, behaviour::Behaviour::default());
    defaults_section.finish();
    let drafts: Vec<Draft> = root
        .list("models")
        .iter()
        .filter_map(|item| model::draft(item, defaults, &gpus, &around, reader))
        .collect();
    if !root.has("models") {
        reader.wrong(
            &root.place_of("models"),
            "there are no models; list at least one under `models:`",
        );
    }
    root.finish();
    check::duplicates(&drafts, reader);
    check::ports(&listeners, &drafts, reader);
    check::memory(&drafts, &gpus, reader);
    check::tiers(&drafts, &hosts, &host_of, reader);
    let models: BTreeMap<_, _> = drafts
        .into_iter()
        .map(|draft| (draft.model.name.clone(), draft.model))
        .collect();
    Fleet {
        gateway,
        control,
        state: around.state,
        oracle,
        gpus,
        hosts,
        host_of,
        tolerance,
        policy,
        shadow,
        times,
        hold,
        observe_timeout,
        start_timeout,
        wake_timeout,
        models,
        warnings: reader.warnings(),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn gateway(section: &Section<'_>) -> (Gateway, Vec<Read<SocketAddr>>) {
    let address = section.read_or("address", loopback(8080), units::address);
    let admin = section.read_or("admin", loopback(9901), |text| {
        let address = units::address(text)?;
        let remedy = "Envoy's admin interface has no password; it stays on 127.0.0.1";
        if address.ip().is_loopback() {
            Ok(address)
        } else {
            Err(format!("{text} is reachable from other machines; {remedy}"))
        }
    });
    let gateway = Gateway {
        address: address.value,
        admin: admin.value,
        concurrency: section.read_or("concurrency", 2, concurrency).value,
        root: section.read_or("root", true, units::switch).value,
    };
    section.finish();
    (gateway, vec![address, admin])
}

fn concurrency(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|workers| (1..=256).contains(workers))
        .ok_or_else(|| format!("{text} is no number of worker threads; write 1 to 256"))
}

fn control(section: &Section<'_>, reader: &Reader<'_>) -> (Control, Vec<Read<SocketAddr>>) {
    let grpc = section.read_or("grpc", loopback(50_051), units::address);
    let http = section.read_or("http", loopback(8081), units::address);
    let token = section.read("token", token).map(|read| read.value);
    check::token(&[&grpc, &http], token.as_deref(), reader);
    let control = Control {
        grpc: grpc.value,
        http: http.value,
        token,
    };
    section.finish();
    (control, vec![grpc, http])
}

fn token(text: &str) -> Result<String, String> {
    // It travels in a header.
    if text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a token has at least 8 characters, printable and without spaces".to_owned())
    }
}

fn oracle(text: &str) -> Result<OracleKind, String> {
    match text {
        "declared" => Ok(OracleKind::Declared),
        "simulated" => Ok(OracleKind::Simulated),
        other => Err(format!(
            "{other} is no memory oracle; write declared, or simulated for engine-sim"
        )),
    }
}

/// Host RAM by NUMA node; none when the file does not say.
fn hosts(root: &Section<'_>, reader: &Reader<'_>) -> Vec<u64> {
    let one = |item: &Read<&tree::Node>| {
        let section = Section::item(reader, item);
        let memory = section.read("memory", units::positive_size);
        if memory.is_none() && !section.has("memory") {
            let cause = "the host has no memory; write `memory: 64GiB`, what sleeping models may take of its RAM";
            reader.wrong(&section.place, cause);
        }
        section.finish();
        // One of unknown size is reported already; nothing may seem too big for it.
        memory.map_or(u64::MAX, |read| read.value)
    };
    root.list("hosts").iter().map(one).collect()
}

/// Memory of each GPU, and the host that it belongs to.
fn gpus(root: &Section<'_>, hosts: usize, reader: &Reader<'_>) -> (Vec<u64>, Vec<usize>) {
    let items = root.list("gpus");
    if items.is_empty() {
        reader.wrong(&root.place_of("gpus"), "there are no GPUs; write `gpus: [{memory: 40GiB}]`, one item per GPU, with the memory that models may use");
    }
    let one = |item: &Read<&tree::Node>| {
        let section = Section::item(reader, item);
        let memory = section.read("memory", units::positive_size);
        if memory.is_none() && !section.has("memory") {
            reader.wrong(
                &section.place,
                "the GPU has no memory; write `memory: 40GiB`",
            );
        }
        let host = section.read_or("host", 0, |text| host(text, hosts));
        section.finish();
        // A GPU of unknown size is reported already; nothing may seem too big for it.
        (memory.map_or(u64::MAX, |read| read.value), host.value)
    };
    items.iter().map(one).unzip()
}

fn host(text: &str, hosts: usize) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(host) if host < hosts => Ok(host),
        Ok(_) if hosts == 0 => Err(format!(
            "there is no host {text}; list them, like `hosts: [{{memory: 64GiB}}]`, or leave this out"
        )),
        Ok(_) => Err(format!(
            "there is no host {text}; hosts has {hosts} (numbers start at 0)"
        )),
        Err(_) => Err(format!(
            "{text} is no number of a host; the first of hosts is 0"
        )),
    }
}

/// The policy that decides, and the one that decides beside it.
fn policies(root: &Section<'_>, reader: &Reader<'_>) -> (&'static Policy, Option<&'static Policy>) {
    let policy = root
        .read_or("policy", <&Policy>::default(), policy_name)
        .value;
    let shadow = root.read("shadow", policy_name);
    if let Some(shadow) = &shadow
        && shadow.value == policy
    {
        let cause = format!(
            "{} decides already; name another policy, or leave this out",
            policy.name
        );
        reader.wrong(&shadow.place, cause);
    }
    (policy, shadow.map(|read| read.value))
}

fn policy_name(text: &str) -> Result<&'static Policy, String> {
    let known = || {
        Policy::ALL
            .iter()
            .map(|policy| policy.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    Policy::named(text).ok_or_else(|| format!("{text} is no policy; known: {}", known()))
}

fn times(section: &Section<'_>, reader: &Reader<'_>) -> Times {
    let read = |key, default: u64| {
        millis(
            section
                .read_or(key, Duration::from_secs(default), units::positive_duration)
                .value,
        )
    };
    let attempts = u64::from(CONNECT_RETRIES) + 1;
    let forward_bound =
        Millis(millis(CONNECT_TIMEOUT).0.saturating_mul(attempts)) + millis(RETRY_BACK_OFF);
    let times = Times {
        lease: read("lease", 5),
        margin: read("margin", 4),
        heartbeat: read("heartbeat", 1),
        command: read("command", 2),
        max_flow: read("maxFlow", 600),
        forward_bound,
        observe: Millis::seconds(1),
    };
    check::times(&times, |key| section.place_of(key), reader);
    times
}

fn hold(section: &Section<'_>, reader: &Reader<'_>) -> Hold {
    let limit = section.read_or("limit", 10_000, units::count);
    let per_model = section.read_or("perModel", limit.value.min(5_000), units::count);
    let bytes = section.read_or("bytes", 256 << 20, units::positive_size);
    let body_buffer = section.read_or("bodyBuffer", 1 << 20, body_buffer);
    let budget = section.read_or("budget", Duration::from_secs(120), units::duration);
    if per_model.value > limit.value {
        reader.wrong(
            &per_model.place,
            format!(
                "one model may hold {} requests, but all together only {}",
                per_model.value, limit.value
            ),
        );
    }
    if body_buffer.value > bytes.value {
        reader.wrong(&body_buffer.place, "one held body may be larger than hold.bytes, so that such a request could never be held; make it smaller");
    }
    if budget.value > LONGEST_BUDGET {
        reader.wrong(
            &budget.place,
            "a hold may last 25m at most: Envoy ends requests that are silent for 30m",
        );
    }
    section.finish();
    Hold {
        limit: limit.value,
        per_model: per_model.value,
        bytes: bytes.value,
        body_buffer: body_buffer.value,
        budget: budget.value,
    }
}

fn body_buffer(text: &str) -> Result<u64, String> {
    let bytes = units::size(text)?;
    // Envoy's limit is a 32-bit number; below an HTTP/2 frame it would stall connections.
    if (16_384..=1 << 30).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("{text} is not between 16KiB and 1GiB"))
    }
}
