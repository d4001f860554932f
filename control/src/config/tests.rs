//! The file as operators write it: text in, fleet or complaints out.

mod ledger;

use super::*;

const SMALL: &str = "\
gpus: [{memory: 40GiB}]
models:
- name: a
  model: org/a
  memory: {awake: 17GiB}
  engine: {url: \"http://127.0.0.1:8000\"}
";

fn read(text: &str, environment: &[(&str, &str)]) -> Result<Fleet, Vec<String>> {
    let around = Surroundings {
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        folder: PathBuf::from("/srv"),
        ..Surroundings::default()
    };
    parse(text, Path::new("f.yaml"), around)
        .map_err(|error| error.to_string().lines().map(str::to_owned).collect())
}

/// The file is refused with exactly these complaints, each given by its beginning and something that it contains.
fn refused(text: &str, environment: &[(&str, &str)], expected: &[(&str, &str)]) {
    let complaints = read(text, environment).expect_err("this file must be refused");
    assert_eq!(complaints.len(), expected.len(), "{complaints:#?}");
    for (complaint, (start, part)) in complaints.iter().zip(expected) {
        assert!(
            complaint.starts_with(start),
            "{complaint} should start with {start}"
        );
        assert!(
            complaint.contains(part),
            "{complaint} should contain {part}"
        );
    }
}

/// `SMALL` with its model's lines replaced by these, and more before it.
fn with(before: &str, model: &str) -> String {
    format!("{before}gpus: [{{memory: 40GiB}}]\nmodels:\n- name: a\n  model: org/a\n{model}")
}

#[test]
fn the_examples_are_valid() {
    for name in ["greenthread.yaml", "vllm.yaml"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../envoy/standalone")
            .join(name);
        let text = std::fs::read_to_string(&file).expect("the example");
        let fleet = read(&text, &[]).unwrap_or_else(|complaints| panic!("{complaints:#?}"));
        assert!(!fleet.models.is_empty());
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let fleet = read(SMALL, &[]).expect("valid");
    assert_eq!(
        (
            fleet.gateway.address.to_string(),
            fleet.gateway.admin.to_string()
        ),
        ("127.0.0.1:8080".into(), "127.0.0.1:9901".into())
    );
    assert_eq!(
        (
            fleet.control.grpc.port(),
            fleet.control.http.port(),
            fleet.state
        ),
        (50_051, 8_081, PathBuf::from("/srv/state"))
    );
    assert_eq!(
        (
            fleet.times.lease.0,
            fleet.times.margin.0,
            fleet.times.forward_bound.0
        ),
        (5_000, 4_000, 2_025)
    );
    let model = &fleet.models["a"];
    assert_eq!(
        (model.prefixes.as_slice(), model.spec.id.name()),
        (["a".to_owned()].as_slice(), "a")
    );
    assert_eq!(
        (model.spec.on_lease_end, model.spec.caps.restartable),
        (OnLeaseEnd::Flow, false)
    );
    assert!(
        model.cluster.starts_with("gt-") && model.cluster.len() == 15,
        "{}",
        model.cluster
    );
}

#[test]
fn another_engine_is_another_row_and_cluster() {
    let other = read(&SMALL.replace("8000", "8001"), &[]).expect("valid");
    let first = read(SMALL, &[]).expect("valid");
    let (first, other) = (&first.models["a"], &other.models["a"]);
    assert!(first.spec.id != other.spec.id && first.cluster != other.cluster);
}

#[test]
fn the_environment_wins_and_is_named_in_errors() {
    let fleet = read(
        SMALL,
        &[
            ("GREENTHREAD_TIMES_MAX_FLOW", "90s"),
            ("GREENTHREAD_STATE", "/tmp/x"),
            ("GREENTHREAD_DEFAULTS_SLEEP_IDLE_TIMEOUT", "never"),
        ],
    )
    .expect("valid");
    assert_eq!(
        (
            fleet.times.max_flow.0,
            fleet.state,
            fleet.models["a"].spec.idle_timeout
        ),
        (90_000, PathBuf::from("/tmp/x"), None)
    );
    let text = "f.yaml: environment variable GREENTHREAD_CONTROL_GRPC: control.grpc: ";
    refused(
        SMALL,
        &[("GREENTHREAD_CONTROL_GRPC", "0.0.0.0:1")],
        &[(text, "GREENTHREAD_TOKEN")],
    );
    let open = [
        ("GREENTHREAD_CONTROL_GRPC", "0.0.0.0:1"),
        ("GREENTHREAD_TOKEN", "12345678"),
    ];
    assert_eq!(
        read(SMALL, &open).expect("valid").control.token.as_deref(),
        Some("12345678")
    );
}

#[test]
fn commands_are_filled_in() {
    let text = with(
        "state: /s\n",
        "  memory: {awake: 1GiB}\n  engine: {command: [engine-sim, \"--port={port}\", \"{state}/{name}/{model}/{gpu}/{gpu-memory}\"], port: 7}\n",
    );
    let fleet = read(&text, &[]).expect("valid");
    let command = fleet.models["a"].engine.command.clone().expect("a command");
    assert_eq!(
        command,
        ["engine-sim", "--port=7", "/s/a/org/a/0/42949672960B"]
    );
    assert_eq!(fleet.models["a"].engine.address.to_string(), "127.0.0.1:7");
}

#[test]
fn all_errors_are_told_with_line_field_and_remedy() {
    let text = "gpu: []\ngpus: [{memory: 40}]\nmodels:\n- name: A\n  modell: x\n  memory: {awake: 17GiB}\n  engine: {}\n";
    let expected = [
        ("f.yaml:1: gpu: ", "did you mean gpus?"),
        ("f.yaml:2: gpus[0].memory: ", "40 is no size"),
        ("f.yaml:4: models[0].name: ", "is no name"),
        ("f.yaml:4: models[0]: ", "has no model"),
        ("f.yaml:5: models[0].modell: ", "did you mean model?"),
        ("f.yaml:7: models[0].engine: ", "has no engine"),
    ];
    refused(text, &[], &expected);
}

#[test]
fn what_is_not_yaml_or_given_twice_is_refused() {
    refused("gpus: [\n", &[], &[("f.yaml:", "")]);
    refused(
        &format!("{SMALL}gpus: []\n"),
        &[],
        &[("f.yaml:7: ", "gpus is given twice")],
    );
    refused(
        "",
        &[],
        &[
            ("f.yaml:1: gpus: ", "no GPUs"),
            ("f.yaml:1: models: ", "no models"),
        ],
    );
}

#[test]
fn engines() {
    let memory = "  memory: {awake: 1GiB}\n";
    let cases = [
        (
            "{url: \"http://127.0.0.1:1\", command: [x, \"{port}\"], port: 5}",
            "engine.url: ",
            "a url and a command",
        ),
        (
            "{url: \"http://127.0.0.1:1\", port: 5}",
            "engine.port: ",
            "leave it out",
        ),
        ("{url: \"https://127.0.0.1:1\"}", "engine.url: ", "http://"),
        ("{command: [x], port: 5}", "engine.command: ", "{port}"),
        (
            "{command: [x, \"{port}\"]}",
            "engine.port: ",
            "needs a port",
        ),
        ("{command: [], port: 5}", "engine.command: ", "empty"),
        (
            "{type: vlm, url: \"http://127.0.0.1:1\"}",
            "engine.type: ",
            "known is vllm",
        ),
    ];
    for (engine, field, part) in cases {
        refused(
            &with("", &format!("{memory}  engine: {engine}\n")),
            &[],
            &[(&format!("f.yaml:6: models[0].{field}"), part)],
        );
    }
}

#[test]
fn prefixes_and_names_differ() {
    let second = "- name: a\n  model: org/b\n  prefixes: [b, a/, a/v1]\n  memory: {awake: 1GiB}\n  engine: {url: \"http://127.0.0.1:8000\"}\n";
    let expected = [
        ("f.yaml:7: models[1].name: ", "names must differ"),
        ("f.yaml:9: models[1].prefixes[2]: ", "the segment v1"),
        ("f.yaml:9: models[1].prefixes[1]: ", "already leads to a"),
        (
            "f.yaml:11: models[1].engine.url: ",
            "already used by models[0].engine.url",
        ),
    ];
    refused(&format!("{SMALL}{second}"), &[], &expected);
    let nested = second
        .replace("name: a", "name: b")
        .replace("[b, a/, a/v1]", "[a/b, b]")
        .replace("8000", "8001");
    assert_eq!(
        read(&format!("{SMALL}{nested}"), &[])
            .expect("nested prefixes are allowed")
            .models
            .len(),
        2
    );
}

#[test]
fn memory_and_ports() {
    let engine = "  engine: {command: [x, \"{port}\"], port: 8080}\n";
    let text = with(
        "",
        &format!("  memory: {{awake: 41GiB, asleep: 42GiB}}\n  gpus: [0, 1]\n{engine}"),
    );
    let expected = [
        (
            "f.yaml:5: models[0].memory.awake: ",
            "more than GPU 0 has (40.0 GiB)",
        ),
        (
            "f.yaml:5: models[0].memory.asleep: ",
            "more than while awake",
        ),
        ("f.yaml:6: models[0].gpus[1]: ", "there is no GPU 1"),
        (
            "f.yaml:7: models[0].engine.port: ",
            "already used by gateway.address",
        ),
    ];
    refused(&text, &[], &expected);
    let pinned = |name: &str, port: u16| {
        format!(
            "- name: {name}\n  model: x\n  memory: {{awake: 21GiB}}\n  fairness: {{pinned: true}}\n  engine: {{url: \"http://127.0.0.1:{port}\"}}\n"
        )
    };
    let text = format!(
        "gpus: [{{memory: 40GiB}}]\nmodels:\n{}{}",
        pinned("a", 1),
        pinned("b", 2)
    );
    refused(
        &text,
        &[],
        &[("f.yaml:11: models[1].fairness.pinned: ", "need 42.0 GiB")],
    );
}

#[test]
fn the_margin_covers_clock_error_and_forwarding() {
    // (5 s + m) × 1 % + 2.025 s <= m
    let times = |margin: &str| read(&format!("times: {{margin: {margin}}}\n{SMALL}"), &[]);
    assert!(times("2.096s").is_ok());
    let complaints = times("2.095s").expect_err("too short");
    assert!(
        complaints.len() == 1
            && complaints[0].starts_with("f.yaml:1: times.margin: 2.0 s is too short"),
        "{complaints:?}"
    );
    refused(
        &format!("times: {{heartbeat: 3s}}\n{SMALL}"),
        &[],
        &[("f.yaml:1: times.heartbeat: ", "too long")],
    );
}

#[test]
fn hold_limits_agree() {
    let text = format!(
        "hold: {{limit: 10, perModel: 11, bytes: 1MiB, bodyBuffer: 2MiB, budget: 1h}}\n{SMALL}"
    );
    let expected = [
        ("f.yaml:1: hold.perModel: ", ""),
        ("f.yaml:1: hold.bodyBuffer: ", ""),
        ("f.yaml:1: hold.budget: ", "25m"),
    ];
    refused(&text, &[], &expected);
    assert_eq!(
        read(&format!("hold: {{limit: 10}}\n{SMALL}"), &[])
            .expect("valid")
            .hold
            .per_model,
        10
    );
}
