//! Where weights go, when an engine may end, and what a host that holds too much does about it.

use super::*;
use crate::{phase::Tier, policy::Policy};

/// From when on no gate of a predecessor flows any more.
const STRANGERS: u64 = 609_000;

/// A model whose copy takes 40 of 64 GiB of host RAM, and which sleeps only when it is told to.
fn copied(name: &str) -> ModelSpec {
    let mut copied = spec(name);
    copied.sizes.host.bytes = Bytes(40 * GIB);
    copied.idle_timeout = None;
    copied
}

/// As [`copied`]; no gate sends anything for it without a lease.
fn holding(name: &str) -> ModelSpec {
    ModelSpec {
        on_lease_end: OnLeaseEnd::Hold,
        ..copied(name)
    }
}

/// These models at the first look, one gate, past the successor's wait.
fn found(mut bench: Bench, models: &[(ModelSpec, EngineState)]) -> Bench {
    for (model, state) in models {
        bench.add(model, *state);
    }
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench
}

fn operator(bench: &mut Bench, name: &str, verb: Operator) -> Vec<Effect> {
    let model = id(name);
    bench.event(Event::Operator { model, verb })
}

/// An operator asks for sleep. Returns what was done in so many ms.
pub(super) fn sleeps(bench: &mut Bench, name: &str, within: u64) -> Vec<String> {
    let effects = operator(bench, name, Operator::Sleep);
    acts(&[effects, bench.run(within)].concat())
}

fn in_hosts(bench: &Bench) -> Vec<Bytes> {
    let hosts = bench.core.hosts().into_iter();
    hosts.map(|host| host.reserved).collect()
}

pub(super) fn engine<'a>(bench: &'a mut Bench, name: &str) -> &'a mut Engine {
    bench.engines.get_mut(&id(name)).expect("known")
}

/// Somebody asked for a model so often.
pub(super) fn popular(bench: &mut Bench, name: &str, requests: u64) {
    let now = Millis(bench.now);
    let state = bench.core.models.get_mut(&id(name)).expect("known");
    state.asked.demand.arrived(now, requests);
}

#[test]
fn a_copy_that_was_found_stays_while_gates_that_nobody_heard_of_may_send_requests_to_it() {
    let models = [
        (copied("a"), EngineState::Asleep),
        (copied("b"), EngineState::Awake),
    ];
    let mut bench = found(with_host_ram(), &models);
    let wait = STRANGERS - bench.now;
    assert_eq!(sleeps(&mut bench, "b", wait), ["b admit"]);
    assert_eq!(
        sleeps(&mut bench, "b", 1_000),
        ["kill a", "sleep b Keep"],
        "{}",
        bench.sentences()
    );
}

#[test]
fn a_copy_that_was_found_leaves_as_soon_as_no_lease_can_run_where_gates_hold() {
    let models = [
        (holding("a"), EngineState::Asleep),
        (holding("b"), EngineState::Awake),
    ];
    let mut bench = found(with_host_ram(), &models);
    assert_eq!(
        sleeps(&mut bench, "b", 1_000),
        ["kill a", "sleep b Keep"],
        "{}",
        bench.sentences()
    );
}

#[test]
fn a_copy_of_an_engine_that_this_control_started_is_no_predecessors() {
    let models = [
        (copied("a"), EngineState::Gone),
        (holding("b"), EngineState::Awake),
    ];
    let mut bench = found(with_host_ram(), &models);
    bench.run(20_000);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
    assert_eq!(sleeps(&mut bench, "b", 1_000), ["kill a", "sleep b Keep"]);
}

#[test]
fn who_can_sleep_nowhere_is_not_asked_again_and_again_by_who_waits_urgently() {
    let stays = ModelSpec {
        tier: Some(Tier::Ram),
        awake: Bytes(GIB),
        ..holding("r")
    };
    let awake = ModelSpec {
        awake: Bytes(25 * GIB),
        tier: Some(Tier::Ram),
        ..holding("b")
    };
    let mut frozen = ModelSpec {
        awake: Bytes(25 * GIB),
        max_freeze: Millis(1_000),
        ..holding("a")
    };
    frozen.sizes.host.bytes = Bytes(20 * GIB);
    let mut bench = with_host_ram();
    bench.add(&stays, EngineState::Asleep);
    bench.add(&awake, EngineState::Awake);
    bench.add(&frozen, EngineState::Asleep);
    bench.engines.get_mut(&id("a")).expect("known").count = 1;
    bench.hello("g1", 1);
    bench.run(20_000);
    assert_eq!(bench.phase("a"), "Queued", "{}", bench.sentences());
    assert_eq!(bench.phase("b"), "Serving");
    let said = bench.sentences();
    let asked = said.matches("b: cannot be put to sleep").count();
    assert!((1..=3).contains(&asked), "{said}");
}

#[test]
fn a_copy_that_has_just_come_is_waited_for_until_it_was_looked_at() {
    let mut deep = holding("b");
    deep.caps.disk = true;
    let models = [
        (holding("a"), EngineState::Awake),
        (deep, EngineState::Awake),
    ];
    let mut bench = found(with_host_ram(), &models);
    popular(&mut bench, "b", 100);
    assert_eq!(sleeps(&mut bench, "a", 1), ["sleep a Keep"]);
    assert_eq!(
        sleeps(&mut bench, "b", 900),
        Vec::<String>::new(),
        "nobody has looked at the other one yet"
    );
    assert_eq!(bench.phase("b"), "Draining");
    assert_eq!(acts(&bench.run(1_000)), ["kill a", "sleep b Keep"]);
    assert_eq!(in_hosts(&bench), [Bytes(40 * GIB)]);
}

/// `a` sleeps with a request frozen in it, and waits for room on its GPU; `b` serves on another.
fn with_a_frozen_request(b: ModelSpec) -> Bench {
    let on_the_other = |model: ModelSpec| ModelSpec {
        gpus: vec![GpuId(1)],
        ..model
    };
    let mut large = on_the_other(spec("c"));
    large.awake = Bytes(30 * GIB);
    let models = [
        (on_the_other(holding("a")), EngineState::Awake),
        (b, EngineState::Awake),
        (large, EngineState::Asleep),
    ];
    let mut bench = found(with_hosts(&[0, 0]), &models);
    popular(&mut bench, "b", 100);
    assert_eq!(sleeps(&mut bench, "a", 1), ["sleep a Keep"]);
    engine(&mut bench, "a").count = 1;
    bench.figures("g1", "c", 0, 1);
    bench.figures("g1", "c", 1, 0);
    assert_eq!(bench.phase("c"), "Serving", "{}", bench.sentences());
    bench
}

#[test]
fn a_copy_that_turns_out_to_have_requests_frozen_in_it_stays() {
    let mut deep = holding("b");
    deep.caps.disk = true;
    let mut bench = with_a_frozen_request(deep);
    assert_eq!(sleeps(&mut bench, "b", 900), Vec::<String>::new());
    assert_eq!(acts(&bench.run(1_000)), ["sleep b Keep"]);
    assert_eq!(bench.phase("a"), "Queued");
    let tier = bench
        .core
        .models
        .get(&id("b"))
        .map(|state| state.engine.copy);
    assert_eq!(tier, Some(Tier::Disk));
    let mut bench = with_a_frozen_request(ModelSpec {
        tier: Some(Tier::Ram),
        ..holding("b")
    });
    bench.run(2_000);
    assert_eq!(sleeps(&mut bench, "b", 1_000), ["b admit"], "nowhere else");
}

#[test]
fn nobody_waits_for_ever_for_looks_at_copies_that_come_one_after_the_other() {
    let mut deep = holding("b");
    deep.caps.disk = true;
    let models = [
        (holding("a"), EngineState::Asleep),
        (deep, EngineState::Awake),
    ];
    let mut bench = found(with_host_ram(), &models);
    popular(&mut bench, "b", 100);
    let mut effects = Vec::new();
    // As if another copy had come each time.
    for round in 0..200 {
        let now = Millis(bench.now);
        let state = bench.core.models.get_mut(&id("a")).expect("known");
        (state.since, state.engine.observe_at) = (now, now + Millis(1_000));
        if round == 0 {
            effects.extend(operator(&mut bench, "b", Operator::Sleep));
        }
        effects.extend(bench.run(100));
    }
    assert_eq!(acts(&effects), ["sleep b Keep"], "{}", bench.sentences());
    let tier = bench
        .core
        .models
        .get(&id("b"))
        .map(|state| state.engine.copy);
    assert_eq!(tier, Some(Tier::Disk));
}

#[test]
fn a_look_without_an_answer_shows_nobody_that_an_engine_is_empty() {
    let models = [
        (holding("a"), EngineState::Awake),
        (holding("b"), EngineState::Awake),
    ];
    let mut bench = found(with_host_ram(), &models);
    sleeps(&mut bench, "a", 1);
    engine(&mut bench, "a").state = EngineState::Unresponsive;
    let acts = sleeps(&mut bench, "b", 10_000);
    assert!(!acts.contains(&"kill a".to_owned()), "{acts:?}");
}

#[test]
fn a_removed_model_with_frozen_requests_cools_down_like_any_other() {
    let mut bench = settled(&[spec("a")]);
    engine(&mut bench, "a").count = 2;
    engine(&mut bench, "a").wake = Some(Outcome::Failed(ActionError {
        cause: "CUDA out of memory".into(),
        engine: EngineState::Asleep,
        no_room: false,
    }));
    while bench.phase("a") != "Failed" {
        bench.run(100);
    }
    engine(&mut bench, "a").wake = None;
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(acts(&bench.run(9_800)), Vec::<String>::new());
    assert_eq!(bench.phase("a"), "Failed");
    let effects = bench.run(1_000);
    assert_eq!(acts(&effects)[..1], ["wake a"], "{}", bench.sentences());
    // They have ended: now it goes.
    engine(&mut bench, "a").count = 0;
    bench.run(3_000);
    assert_eq!(bench.phase("a"), "Removed", "{}", bench.sentences());
}

#[test]
fn a_removed_engine_that_was_found_stays_while_gates_that_nobody_heard_of_may_flow_to_it() {
    for state in [EngineState::Asleep, EngineState::Awake] {
        let mut bench = found(with_host_ram(), &[(copied("a"), state)]);
        bench.event(Event::ModelRemoved(id("a")));
        let wait = STRANGERS - bench.now;
        assert_eq!(acts(&bench.run(wait - 1)), Vec::<String>::new());
        assert_eq!(acts(&bench.run(1_000)), ["removed a"]);
        assert!(bench.sentences().contains("draining, for 596.0 s at least"));
    }
}

#[test]
fn a_removed_engine_goes_at_once_where_nobody_flows_or_nothing_runs() {
    let mut bench = found(with_host_ram(), &[(holding("a"), EngineState::Asleep)]);
    let effects = bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(acts(&effects), ["removed a"]);
    // One that died since has nothing to lose.
    let mut bench = found(with_host_ram(), &[(copied("a"), EngineState::Asleep)]);
    engine(&mut bench, "a").state = EngineState::Gone;
    bench.run(2_000);
    let effects = bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(acts(&effects), ["removed a"], "{}", bench.sentences());
}

#[test]
fn a_model_that_is_to_be_stopped_ends_when_a_silent_gate_has_stopped_flowing_and_not_before() {
    let mut stopped = spec("a");
    stopped.tier = Some(Tier::Stopped);
    let mut bench = settled(&[stopped]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.hello("g2", 2);
    bench.gates.remove(&GateId("g2".into()));
    bench.obedient = false;
    bench.run(9_000);
    bench.obedient = true;
    assert_eq!(sleeps(&mut bench, "a", 1_000), ["sleep a Keep"]);
    assert_eq!(acts(&bench.run(607_000)), Vec::<String>::new());
    assert_eq!(acts(&bench.run(2_000)), ["kill a"]);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn a_model_that_is_to_be_stopped_ends_when_no_gate_of_a_predecessor_flows_and_not_before() {
    let mut stopped = spec("a");
    (stopped.tier, stopped.idle_timeout) = (Some(Tier::Stopped), None);
    let mut bench = found(with_host_ram(), &[(stopped, EngineState::Awake)]);
    assert_eq!(sleeps(&mut bench, "a", 1_000), ["sleep a Keep"]);
    let wait = STRANGERS - bench.now;
    assert_eq!(acts(&bench.run(wait - 1)), Vec::<String>::new());
    assert_eq!(acts(&bench.run(1)), ["kill a"]);
}

#[test]
fn too_many_copies_in_host_ram_are_relieved_by_the_one_that_is_worth_least() {
    let models = [
        (holding("a"), EngineState::Asleep),
        (holding("b"), EngineState::Asleep),
    ];
    let mut bench = with_host_ram();
    for (model, state) in &models {
        bench.add(model, *state);
    }
    popular(&mut bench, "a", 10);
    bench.run(2_500);
    assert_eq!(in_hosts(&bench), [Bytes(80 * GIB)]);
    assert_eq!(acts(&bench.run(6_400)), Vec::<String>::new(), "leases run");
    // Nothing happens but that time passes.
    assert_eq!(acts(&bench.run(2_000)), ["kill b"]);
    assert_eq!(in_hosts(&bench), [Bytes(40 * GIB)]);
}

#[test]
fn copies_that_are_too_many_leave_even_where_others_cannot() {
    let stays = ModelSpec {
        tier: Some(Tier::Ram),
        ..holding("a")
    };
    let mut larger = stays.clone();
    (larger.id, larger.sizes.host.bytes) = (id("b"), Bytes(30 * GIB));
    let models = [stays, larger, holding("c")].map(|model| (model, EngineState::Asleep));
    let mut bench = found(with_host_ram(), &models);
    bench.run(2_000);
    assert_eq!(in_hosts(&bench), [Bytes(70 * GIB)], "{}", bench.sentences());
    assert_eq!(engine(&mut bench, "c").state, EngineState::Gone);
}

#[test]
fn too_much_that_was_found_awake_is_relieved_as_soon_as_sleep_is_allowed() {
    let large = |name: &str| ModelSpec {
        awake: Bytes(25 * GIB),
        idle_timeout: None,
        ..spec(name)
    };
    let mut bench = Bench::new(&[large("a"), large("b")], EngineState::Awake);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.figures("g1", "a", 0, 0);
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(50 * GIB));
    assert_eq!(acts(&bench.run(5_900)), Vec::<String>::new());
    let effects = acts(&bench.run(2_000));
    assert_eq!(effects, ["sleep a Keep"]);
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(26 * GIB));
    assert_eq!(acts(&bench.run(20_000)), Vec::<String>::new());
}

#[test]
fn copies_take_host_ram_where_their_gpus_are() {
    let at = |mut model: ModelSpec, gpus: &[usize]| {
        model.gpus = gpus.iter().copied().map(GpuId).collect();
        model
    };
    let models = [
        (at(holding("a"), &[0]), EngineState::Asleep),
        (at(holding("b"), &[1]), EngineState::Asleep),
        (at(holding("c"), &[1]), EngineState::Awake),
    ];
    let mut bench = found(with_hosts(&[0, 1]), &models);
    assert_eq!(in_hosts(&bench), [Bytes(40 * GIB); 2]);
    popular(&mut bench, "b", 10);
    popular(&mut bench, "c", 20);
    assert_eq!(
        sleeps(&mut bench, "c", 1_000),
        ["kill b", "sleep c Keep"],
        "the copy at the other node is no help"
    );
    let mut wide = at(holding("d"), &[0, 1]);
    wide.sizes.host.bytes = Bytes(20 * GIB);
    let models = [
        (at(holding("a"), &[0]), EngineState::Asleep),
        (wide, EngineState::Asleep),
    ];
    let bench = found(with_hosts(&[0, 1]), &models);
    assert_eq!(in_hosts(&bench), [Bytes(60 * GIB), Bytes(20 * GIB)]);
}

#[test]
fn only_copies_that_help_leave() {
    let at = |mut model: ModelSpec, gpus: &[usize]| {
        model.gpus = gpus.iter().copied().map(GpuId).collect();
        model
    };
    let models = [
        (at(holding("a"), &[0]), EngineState::Asleep),
        (at(holding("b"), &[1]), EngineState::Asleep),
        (at(holding("c"), &[0, 1]), EngineState::Asleep),
        (at(holding("d"), &[0, 1]), EngineState::Awake),
    ];
    let mut models = models;
    models[0].0.sizes.host.bytes = Bytes(10 * GIB);
    models[1].0.sizes.host.bytes = Bytes(20 * GIB);
    models[2].0.sizes.host.bytes = Bytes(30 * GIB);
    models[3].0.sizes.host.bytes = Bytes(34 * GIB);
    let mut bench = found(with_hosts(&[0, 1]), &models);
    for (name, requests) in [("a", 1), ("c", 2), ("b", 3), ("d", 100)] {
        popular(&mut bench, name, requests);
    }
    // 10 GiB are missing at the first node, 20 at the second: `c` alone would do for both after `a` has gone for the first.
    let acts = sleeps(&mut bench, "d", 1_000);
    assert_eq!(acts, ["kill a", "kill c", "sleep d Keep"]);
}

#[test]
fn the_answer_to_a_look_at_a_process_that_has_ended_since_says_nothing() {
    let mut bench = found(with_host_ram(), &[(holding("a"), EngineState::Asleep)]);
    bench.answering = false;
    let mut asked = looks(&bench.run(1_500));
    let (model, attempt) = asked.pop().expect("looked at");
    bench.event(Event::EngineGone {
        model: model.clone(),
        attempt: None,
        cause: "it was killed".into(),
    });
    let observation = Observation {
        state: EngineState::Asleep,
        count: Some(0),
        memory: Memory::on_gpus(Bytes(GIB)),
        tier: Some(Tier::Ram),
    };
    bench.event(Event::Observed {
        model,
        attempt,
        observation,
    });
    assert_eq!(
        bench.core.gpus()[0].reserved,
        Bytes(0),
        "{}",
        bench.sentences()
    );
}

#[test]
fn the_price_of_a_return_is_that_of_the_tier_where_a_model_then_really_goes() {
    let cases = [
        // Nothing else is in host RAM; GiB of its copy; it can sleep without one; where its operator wants it; where it goes.
        (true, 20, false, None, Tier::Ram),
        (true, 20, false, Some(Tier::Stopped), Tier::Stopped),
        (true, 20, true, Some(Tier::Disk), Tier::Disk),
        (true, 20, false, Some(Tier::Disk), Tier::Ram),
        (false, 40, false, None, Tier::Stopped),
        (false, 40, true, None, Tier::Disk),
        (false, 40, true, Some(Tier::Stopped), Tier::Stopped),
        (false, 20, false, None, Tier::Ram),
    ];
    for (room, copy, disk, tier, goes) in cases {
        let mut victim = ModelSpec {
            tier,
            ..holding("a")
        };
        (victim.sizes.host.bytes, victim.caps.disk) = (Bytes(copy * GIB), disk);
        let mut models = vec![(victim, EngineState::Awake)];
        if !room {
            let stays = ModelSpec {
                tier: Some(Tier::Ram),
                ..holding("r")
            };
            models.push((stays, EngineState::Asleep));
        }
        let mut bench = found(with_host_ram(), &models);
        let state = bench.core.models.get(&id("a")).expect("known");
        let told = bench.core.candidate(Millis(bench.now), state).wake;
        let takes = match goes {
            Tier::Ram => Millis(600),
            Tier::Disk => Millis(2_000),
            Tier::Stopped => Millis(5_000),
        };
        assert_eq!(told, takes, "{room} {copy} {disk} {tier:?}");
        sleeps(&mut bench, "a", 1_000);
        let state = bench.core.models.get(&id("a")).expect("known");
        assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
        assert_eq!(state.tier(), goes, "{room} {copy} {disk} {tier:?}");
    }
}

#[test]
fn who_would_have_to_be_started_again_costs_more_than_who_only_wakes() {
    let mut bench = with_host_ram();
    let fleet = FleetSpec {
        policy: Policy::named("cost").expect("known"),
        ..bench.core.fleet.clone()
    };
    bench.core = Core::new(fleet, Millis(0));
    let mut wakes = holding("b");
    wakes.sizes.host.bytes = Bytes(20 * GIB);
    let mut waiter = holding("c");
    waiter.sizes.host.bytes = Bytes(GIB);
    let models = [
        (
            ModelSpec {
                tier: Some(Tier::Ram),
                ..holding("r")
            },
            EngineState::Asleep,
        ),
        (holding("a"), EngineState::Awake),
        (wakes, EngineState::Awake),
        (waiter, EngineState::Asleep),
    ];
    let mut bench = found(bench, &models);
    for name in ["a", "b"] {
        popular(&mut bench, name, 5);
    }
    let effects = bench.figures("g1", "c", 0, 1);
    assert_eq!(
        acts(&effects)[..1],
        ["sleep b Keep"],
        "{}",
        bench.sentences()
    );
    let choices = bench.core.explain(&id("c"), 1);
    let choice = choices.first().expect("a choice");
    let price = |name: &str| {
        let mut weighed = choice.weighed.iter();
        weighed
            .find(|one| one.model == id(name))
            .map(|one| one.price)
    };
    // 5.09 s there and back against 0.69 s.
    let ratio = price("a").expect("weighed") / price("b").expect("weighed");
    assert!((7.3..7.5).contains(&ratio), "{ratio}");
}
