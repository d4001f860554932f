//! `greenthread simulate` as a user calls it, on a trace that is made here.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// A folder of one test, with a trace in it.
struct Bench(PathBuf);

impl Bench {
    /// Four models, one request every 20 s; the last one is wanted once in ten times only.
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!(
            "greenthread-simulate-{name}-{}",
            std::process::id()
        ));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut trace = "time_s,model,service_s\n".to_owned();
        for request in 0..200 {
            let model = if request % 10 == 9 {
                3
            } else {
                request * 7 / 3 % 3
            };
            writeln!(trace, "{}.5,model-{model},2", request * 20).unwrap();
        }
        fs::write(folder.join("trace.csv"), trace).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_greenthread"));
        command
            .current_dir(&self.0)
            .args(["simulate", "--trace", "trace.csv"])
            .args(arguments);
        command.output().unwrap()
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.text(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    fn check_refused(&self, arguments: &[&str], expected: &str) {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{arguments:?}"
        );
        assert!(error.contains(expected), "{error}");
    }

    fn fleet(&self, models: &[&str]) -> PathBuf {
        let mut text = "oracle: declared\ngpus:\n- memory: 40GiB\nmodels:\n".to_owned();
        for (name, port) in models.iter().zip(9001..) {
            writeln!(
                text,
                "- name: {name}\n  model: org/{name}\n  memory: {{awake: 17GiB, asleep: 1GiB}}\n  engine: {{type: vllm, url: \"http://127.0.0.1:{port}\"}}"
            )
            .unwrap();
        }
        fs::write(self.path("fleet.yaml"), text).unwrap();
        self.path("fleet.yaml")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn number(object: &Value, field: &str) -> u64 {
    object[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} in {object}"))
}

#[test]
fn a_trace_may_come_from_a_pipe() {
    let bench = Bench::new("pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_greenthread"));
    command
        .args([
            "simulate", "--trace", "-", "--slots", "2", "--policy", "lru",
        ])
        .args(["--output", "json"])
        .stdin(fs::File::open(bench.path("trace.csv")).unwrap());
    let output = command.output().unwrap();
    let piped: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(piped, bench.json(&["--slots", "2", "--policy", "lru"]));
}

#[test]
fn every_object_names_policy_requests_and_misses() {
    let bench = Bench::new("objects");
    for arguments in [["--slots", "2"], ["--places", "2"]] {
        let runs = bench.json(&arguments);
        let policies: Vec<&str> = runs
            .iter()
            .map(|run| run["policy"].as_str().unwrap())
            .collect();
        for policy in greenthread_core::policy::Policy::ALL {
            assert!(policies.contains(&policy.name), "{policies:?}");
        }
        for run in &runs {
            assert!(number(run, "misses") <= number(run, "requests"), "{run}");
        }
    }
}

#[test]
fn strict_caching_has_one_object_per_policy_and_number_of_places() {
    let bench = Bench::new("strict");
    let runs = bench.json(&["--slots", "1,2,4"]);
    let policies: Vec<&str> = runs
        .iter()
        .map(|run| run["policy"].as_str().unwrap())
        .collect();
    assert_eq!((policies[0], policies[policies.len() - 1]), ("lru", "opt"));
    assert!(runs.iter().all(|run| number(run, "requests") == 200));
    for places in [1, 2, 4] {
        let misses = |policy: &str| {
            let run = runs
                .iter()
                .find(|run| run["policy"] == policy && run["slots"] == places);
            number(run.unwrap(), "misses")
        };
        assert!(misses("opt") <= misses("lru"), "{places} places");
    }
    // Everybody has a place: each is loaded once, and there is no gap to close.
    let last = runs.last().unwrap();
    assert_eq!(
        (number(last, "misses"), &last["gap_closed"]),
        (4, &Value::Null)
    );
    let only = bench.json(&["--slots", "2", "--policy", "opt"]);
    assert_eq!((only.len(), &only[0]["gap_closed"]), (1, &Value::from(1.0)));
}

#[test]
fn a_replay_counts_waits_and_draws() {
    let bench = Bench::new("replay");
    let runs = bench.json(&[
        "--places",
        "2",
        "--policy",
        "lru",
        "--policy",
        "opt",
        "--plot",
        "picture.svg",
    ]);
    let policies: Vec<&Value> = runs.iter().map(|run| &run["policy"]).collect();
    assert_eq!(policies, ["lru", "opt", "opt-idle", "opt-grouped"]);
    let (lru, opt) = (&runs[0], &runs[1]);
    assert_eq!((number(lru, "requests"), number(lru, "served")), (200, 200));
    assert!(
        number(lru, "misses") >= number(lru, "wakes")
            && number(lru, "wakes") >= number(opt, "wakes")
    );
    // Never longer than a sleep and a wake: requests are far apart.
    assert_eq!(
        (
            lru["wait_max_s"].as_f64(),
            lru["wait_p50_s"].as_f64().is_some()
        ),
        (Some(3.0), true)
    );
    assert!(
        lru["worst_models"]
            .as_array()
            .is_some_and(|models| !models.is_empty())
    );
    let hours = |field: &str| lru[field].as_f64().unwrap();
    let whole = hours("gpu_hours_awake") + hours("gpu_hours_moving") + hours("gpu_hours_free");
    assert!(
        (whole - hours("gpu_hours")).abs() < 1e-6
            && hours("gpu_hours_idle") <= hours("gpu_hours_awake")
    );
    let picture = fs::read_to_string(bench.path("picture.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("model-3"));
    let csv = bench.text(&["--places", "2", "--policy", "lru", "--output", "csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("policy,") && lines[1].starts_with("lru,"),
        "{csv}"
    );
}

#[test]
fn a_replay_says_what_was_waited_for_and_how_good_estimates_were() {
    let bench = Bench::new("reasons");
    let runs = bench.json(&["--places", "2", "--policy", "lru,forecast"]);
    for run in &runs {
        let figure = |field: &str| run[field].as_f64().unwrap_or_else(|| panic!("{field}"));
        // Requests are far apart: a sleep of another, the own wake, and no turn to wait for.
        let reasons = ["wait_turn_s", "wait_drain_s", "wait_sleep_s", "wait_wake_s"].map(figure);
        assert!(
            reasons[0] + reasons[1] < 0.1 && reasons[2] > 0.9 && reasons[3] == 2.0,
            "{reasons:?}"
        );
        assert!(figure("estimates_kept") >= 0.9 && figure("estimates_off_s") < 0.5);
        assert!(figure("held_kept") >= 0.9 && figure("held_off_p95_s") < 1.0);
        assert!(figure("worst_mean_s") <= figure("worst_p99_s"));
        assert!(run["retry_kept"].is_null(), "nobody was refused");
        assert!(number(run, "idle_opt") >= number(run, "strict_opt"));
        let (wakes, opt) = (figure("wakes"), figure("idle_opt"));
        let lru = runs[0]["wakes"].as_f64().unwrap();
        let closed = figure("gap_closed");
        assert!((closed - (lru - wakes) / (lru - opt)).abs() < 1e-9);
    }
    // There is no gap without its other end.
    let alone = bench.json(&["--places", "2", "--policy", "forecast"]);
    assert!(alone[0]["gap_closed"].is_null());
    let text = bench.text(&["--places", "2", "--policy", "lru"]);
    for column in [
        "TURN",
        "ESTIMATED",
        "RETRY",
        "OPT IDLE",
        "GAP CLOSED",
        "WORST P99",
    ] {
        assert!(text.contains(column), "{column} in {text}");
    }
    let csv = bench.text(&["--places", "2", "--policy", "lru", "--output", "csv"]);
    let head: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    for field in ["wait_turn_s", "held_kept", "retry_off_p95_s", "idle_opt"] {
        assert!(head.contains(&field), "{field} in {head:?}");
    }
}

#[test]
fn times_of_the_fleet_can_be_others() {
    let bench = Bench::new("times");
    let run = |more: &[&str]| {
        let arguments = [&["--places", "2", "--policy", "lru"], more].concat();
        bench.json(&arguments).remove(0)
    };
    let said = |run: &Value| run["assumptions"].to_string();
    let never = run(&[]);
    assert!(said(&never).contains("nobody sleeps but to make room"));
    let soon = run(&["--idle-timeout", "30s"]);
    assert!(said(&soon).contains("who was not asked for in 30.0 s sleeps, as asked for"));
    assert!(number(&soon, "sleeps") > number(&soon, "evictions"));
    assert_eq!(number(&never, "sleeps"), number(&never, "evictions"));
    let hours = |run: &Value| run["gpu_hours_awake"].as_f64().unwrap();
    assert!(hours(&soon) < hours(&never));
    // Who just came stays for so long.
    let long = run(&["--min-runtime", "90s", "--drain-timeout", "5s"]);
    let longest = |run: &Value| run["wait_max_s"].as_f64().unwrap();
    assert!(longest(&long) > longest(&never) + 10.0);
    assert!(said(&long).contains("minRuntime 90.0 s, as asked for"));
    bench.check_refused(&["--idle-timeout", "0s"], "longer than zero, or never");
}

#[test]
fn a_sweep_says_how_many_gpus_are_enough() {
    let bench = Bench::new("sweep");
    let text = bench.text(&[
        "--places",
        "1",
        "--policy",
        "lru",
        "--sweep-gpus",
        "1..4",
        "--target-p99",
        "2s",
    ]);
    assert!(
        text.contains("lru: 4 GPUs are enough: 99 of 100 requests wait at most"),
        "{text}"
    );
    let text = bench.text(&[
        "--slots",
        "1",
        "--policy",
        "lru",
        "--sweep-gpus",
        "1..4",
        "--target-misses",
        "0.02",
    ]);
    assert!(
        text.contains(
            "lru with 1 place a GPU: 4 GPUs are enough: 2.0 % of the requests have to load"
        ),
        "{text}"
    );
}

#[test]
fn a_fleet_file_gives_sizes_and_rules() {
    let bench = Bench::new("fleet");
    let fleet = bench.fleet(&["model-0", "model-1", "model-2", "other"]);
    let fleet = fleet.to_str().unwrap();
    bench.check_refused(
        &["--fleet", fleet],
        "trace.csv:11: model: `model-3` is not in",
    );
    bench.check_refused(&["--fleet", fleet], "--map model-3=NAME");
    bench.check_refused(
        &["--fleet", fleet, "--map", "model-3=nobody"],
        "--map: `nobody` is not in",
    );
    let runs = bench.json(&[
        "--fleet",
        fleet,
        "--map",
        "model-3=other",
        "--policy",
        "lru",
    ]);
    assert_eq!(number(&runs[0], "requests"), 200);
    assert!(
        runs[0]["assumptions"][0]
            .as_str()
            .unwrap()
            .contains("not measured yet")
    );
    let runs = bench.json(&["--fleet", fleet, "--skip-unknown", "--policy", "lru"]);
    assert_eq!(number(&runs[0], "requests"), 180);
}

#[test]
fn mistakes_are_answered_before_anything_is_printed() {
    let bench = Bench::new("mistakes");
    bench.check_refused(
        &["--slots", "2", "--policy", "fifo"],
        "there is no policy `fifo`; known are lru, ",
    );
    bench.check_refused(&["--slots", "0"], "0 is no number from 1 to");
    bench.check_refused(&["--sweep-gpus", "3..1"], "3 is more than 1; write 1..3");
    bench.check_refused(
        &["--slots", "2", "--target-misses", "NaN"],
        "NaN is no share from 0 to 1; write 0.1 for 10 %",
    );
    // What would be ignored is refused.
    bench.check_refused(
        &["--slots", "2", "--wake", "5s"],
        "'--slots <N>' cannot be used with '--wake <TIME>'",
    );
    bench.check_refused(
        &["--gpus", "2", "--sweep-gpus", "1..2"],
        "'--gpus <N>' cannot be used with '--sweep-gpus <FROM..TO>'",
    );
    // Before the replay, not after it.
    bench.check_refused(
        &["--plot", "nowhere/day.svg"],
        "--plot: cannot write nowhere/day-lru-1.svg: ",
    );
    bench.check_refused(&["--fleet", "nowhere.yaml"], "cannot read nowhere.yaml");
    fs::write(bench.path("trace.csv"), "time_s,model,service_s\n1,,1\n").unwrap();
    bench.check_refused(
        &["--slots", "2"],
        "trace.csv:2: model: it is empty; write the model's name",
    );
    fs::remove_file(bench.path("trace.csv")).unwrap();
    bench.check_refused(&["--slots", "2"], "cannot read trace.csv: ");
    assert!(!Path::new("picture.svg").exists());
}
