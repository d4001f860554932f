//! What the file says for the ledger: hosts, sizes and their sources, tiers, policies.

use greenthread_core::{
    ids::{Bytes, Millis},
    model::{Size, Source},
    phase::Tier,
    policy::Policy,
};

use super::*;

const STARTED: &str = "  engine: {command: [x, \"{port}\", \"{gpus}\"], port: 7}\n";
const ATTACHED: &str = "  engine: {url: \"http://127.0.0.1:8000\"}\n";

fn size(gib: u64, source: Source) -> Size {
    Size {
        bytes: Bytes::gib(gib),
        source,
    }
}

#[test]
fn figures_say_where_they_come_from() {
    let spec = |memory: &str| {
        let text = with(
            "",
            &format!("  memory: {{awake: 17GiB{memory}}}\n{STARTED}"),
        );
        read(&text, &[]).expect("valid").models["a"].spec.clone()
    };
    let silent = spec("");
    assert_eq!(silent.asleep, Bytes::gib(1));
    let sizes = silent.sizes;
    assert_eq!(
        (sizes.awake, sizes.asleep),
        (Source::Declared, Source::Default)
    );
    let nothing = size(0, Source::Default);
    let weights = size(16, Source::Default);
    assert_eq!((sizes.waking, sizes.sleeping), (nothing, nothing));
    assert_eq!(sizes.starting, nothing);
    assert_eq!((sizes.host, sizes.disk), (weights, weights));
    let told = spec(", asleep: 2GiB, waking: 1GiB, sleeping: 3GiB, host: 20GiB, disk: 12GiB").sizes;
    let declared = |gib| size(gib, Source::Declared);
    assert_eq!(told.asleep, Source::Declared);
    assert_eq!((told.waking, told.sleeping), (declared(1), declared(3)));
    assert_eq!(told.starting, declared(1), "as was said of wakes");
    assert_eq!((told.host, told.disk), (declared(20), declared(12)));
}

#[test]
fn figures_that_no_gpu_can_give_are_refused() {
    let text = with(
        "",
        &format!("  memory: {{awake: 39GiB, waking: 2GiB, sleeping: 3GiB}}\n{STARTED}"),
    );
    let expected = [
        (
            "f.yaml:5: models[0].memory.waking: ",
            "2.0 GiB on top of 39.0 GiB is more than GPU 0 has (40.0 GiB); the model could never wake",
        ),
        ("f.yaml:5: models[0].memory.sleeping: ", "never sleep"),
    ];
    refused(&text, &[], &expected);
}

#[test]
fn hosts_and_their_gpus() {
    let fleet = read(SMALL, &[]).expect("valid");
    assert_eq!((fleet.hosts, fleet.host_of), (vec![], vec![0]));
    let gpus = |hosts: &str, gpus: &str| {
        SMALL.replace("gpus: [{memory: 40GiB}]", &format!("{hosts}gpus: {gpus}"))
    };
    let two = "hosts: [{memory: 64GiB}, {memory: 32GiB}]\n";
    let fleet = read(
        &gpus(two, "[{memory: 1TiB}, {memory: 40GiB, host: 1}]"),
        &[],
    )
    .expect("valid");
    assert_eq!(
        (fleet.hosts, fleet.host_of),
        (vec![64 << 30, 32 << 30], vec![0, 1])
    );
    let field = "f.yaml:2: gpus[0].host: ";
    refused(
        &gpus(two, "[{memory: 40GiB, host: 2}]"),
        &[],
        &[(field, "hosts has 2")],
    );
    refused(
        &gpus(two, "[{memory: 40GiB, host: x}]"),
        &[],
        &[(field, "no number of a host")],
    );
    refused(
        &gpus("", "[{memory: 40GiB, host: 1}]"),
        &[],
        &[("f.yaml:1: gpus[0].host: ", "list them")],
    );
    refused(
        &gpus("hosts: [{}]\n", "[{memory: 40GiB}]"),
        &[],
        &[("f.yaml:1: hosts[0]: ", "has no memory")],
    );
}

#[test]
fn tiers() {
    let spec = |sleep: &str, engine: &str| {
        let text = with(
            "hosts: [{memory: 8GiB}]\n",
            &format!("  memory: {{awake: 17GiB}}\n{sleep}{engine}"),
        );
        read(&text, &[]).map(|fleet| {
            let spec = &fleet.models["a"].spec;
            (spec.tier, spec.caps.disk)
        })
    };
    for (sleep, engine, expected) in [
        ("", STARTED, (None, true)),
        // A reload that fails loses an engine that nobody can start again.
        ("", ATTACHED, (None, false)),
        (
            "  sleep: {tier: disk}\n",
            ATTACHED,
            (Some(Tier::Disk), true),
        ),
        (
            "  sleep: {tier: stopped}\n",
            STARTED,
            (Some(Tier::Stopped), false),
        ),
        ("  sleep: {tier: auto}\n", STARTED, (None, true)),
    ] {
        assert_eq!(spec(sleep, engine), Ok(expected), "{sleep}{engine}");
    }
    let complaint = |sleep: &str, engine: &str| spec(sleep, engine).expect_err("refused").join("");
    let stopped = complaint("  sleep: {tier: stopped}\n", ATTACHED);
    assert!(
        stopped.starts_with("f.yaml:7: models[0].sleep.tier: control attaches"),
        "{stopped}"
    );
    let ram = complaint("  sleep: {tier: ram}\n", STARTED);
    assert!(
        ram.starts_with(
            "f.yaml:6: models[0].memory.host: its copy takes 16.0 GiB of host 0, which has 8.0 GiB"
        ),
        "{ram}"
    );
    let deep = complaint("  sleep: {tier: deep}\n", STARTED);
    assert!(deep.contains("ram, disk, stopped, or auto"), "{deep}");
}

#[test]
fn copies_that_can_sleep_nowhere_else_are_added_up() {
    let fleet = |host: &str, first: &str, second: &str| {
        let model = |name: &str, port: u16, rest: &str| {
            format!(
                "- name: {name}\n  model: {name}\n  memory: {{awake: 17GiB}}\n  engine: {{url: \"http://127.0.0.1:{port}\"}}\n{rest}"
            )
        };
        let text = format!(
            "gpus: [{{memory: 40GiB}}]\nhosts: [{{memory: {host}}}]\nmodels:\n{}{}",
            model("a", 8000, first),
            model("b", 8001, second)
        );
        read(&text, &[]).expect("valid").warnings
    };
    let disk = "  sleep: {tier: disk}\n";
    assert_eq!(fleet("32GiB", "", ""), []);
    assert_eq!(fleet("31GiB", disk, ""), []);
    assert_eq!(fleet("31GiB", "  fairness: {pinned: true}\n", ""), []);
    let warnings = fleet("31GiB", "", "");
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    let words = warning.to_string();
    for part in [
        "models[1].memory.host: ",
        "(a, b) take 32.0 GiB of host 0, which has 31.0 GiB",
        "hosts[0].memory",
        "sleep.tier",
    ] {
        assert!(words.contains(part), "{words}");
    }
}

#[test]
fn a_wake_from_disk_is_guessed_by_the_weights() {
    let guess = |memory: &str| {
        let text = with(
            "",
            &format!("  memory: {{awake: 17GiB{memory}}}\n{STARTED}"),
        );
        read(&text, &[]).expect("valid").models["a"]
            .spec
            .guess
            .reload
    };
    assert_eq!(guess(""), Millis::seconds(16));
    assert_eq!(guess(", disk: 4GiB"), Millis::seconds(10));
}

#[test]
fn behaviour_comes_from_the_defaults_too() {
    let text = format!("defaults: {{sleep: {{tier: disk}}, fairness: {{popular: true}}}}\n{SMALL}");
    let fleet = read(&text, &[]).expect("valid");
    let spec = &fleet.models["a"].spec;
    assert_eq!((spec.tier, spec.popular), (Some(Tier::Disk), true));
    assert!(!read(SMALL, &[]).expect("valid").models["a"].spec.popular);
}

#[test]
fn policies_and_tolerance() {
    let fleet = read(SMALL, &[]).expect("valid");
    assert_eq!(
        (fleet.policy, fleet.shadow, fleet.tolerance),
        (<&Policy>::default(), None, 512 << 20)
    );
    for policy in Policy::ALL {
        let fleet = read(&format!("policy: {}\n{SMALL}", policy.name), &[]).expect("valid");
        assert_eq!(fleet.policy, *policy);
    }
    refused(
        &format!("policy: fifo\n{SMALL}"),
        &[],
        &[("f.yaml:1: policy: ", "known: lru")],
    );
    refused(
        &format!("shadow: lru\ntolerance: 0\n{SMALL}"),
        &[],
        &[
            ("f.yaml:1: shadow: ", "lru decides already"),
            ("f.yaml:2: tolerance: ", "more than zero"),
        ],
    );
}

#[test]
fn every_gpu_of_a_model_can_be_named_in_its_command() {
    let text = with(
        "",
        &format!("  memory: {{awake: 1GiB}}\n  gpus: [0, 1]\n{STARTED}"),
    )
    .replace("[{memory: 40GiB}]", "[{memory: 40GiB}, {memory: 40GiB}]");
    let fleet = read(&text, &[]).expect("valid");
    let command = fleet.models["a"].engine.command.clone();
    assert_eq!(command.expect("a command"), ["x", "7", "0,1"]);
}
