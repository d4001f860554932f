//! One scenario per rule.

use super::*;
use crate::decision::Taken;

#[test]
fn first_boot_measures_and_sleeps() {
    let mut new = spec("a");
    new.conditioned = false;
    let mut bench = Bench::new(&[new], EngineState::Gone);
    let effects = bench.run(20_000);
    assert_eq!(
        names(&effects)
            .iter()
            .filter(|name| !name.contains("refuse"))
            .collect::<Vec<_>>(),
        ["start a", "sleep a Keep", "wake a", "sleep a Keep"]
    );
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Footprint { .. }))
    );
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn nothing_is_believed_within_command_of_the_lock_and_nothing_sleeps_within_lease_and_margin() {
    let mut bench = Bench::new(&[spec("a")], EngineState::Gone);
    assert_eq!(names(&bench.run(2_000)), Vec::<String>::new());
    let effects = bench.run(6_999);
    assert!(names(&effects).contains(&"start a".to_owned()));
    assert!(
        !names(&effects).contains(&"sleep a Keep".to_owned()),
        "a predecessor's leases may still run"
    );
    assert!(names(&bench.run(1)).contains(&"sleep a Keep".to_owned()));
}

#[test]
fn a_held_request_wakes_its_model_once() {
    let mut bench = Bench::ready(&["a"]);
    let effects = bench.figures("g1", "a", 0, 200);
    assert_eq!(names(&effects), ["wake a", "a admit"]);
    assert_eq!(
        names(&bench.figures("g1", "a", 200, 0)),
        Vec::<String>::new()
    );
}

#[test]
fn heartbeats_stand_behind_row_changes() {
    let mut bench = Bench::ready(&["a"]);
    bench.answering = false;
    let effects = bench.figures("g1", "a", 0, 1);
    let at = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted).expect("sent");
    assert!(
        at(|effect| matches!(effect, Effect::Publish(_)))
            < at(|effect| matches!(effect, Effect::Heartbeat { .. }))
    );
}

#[test]
fn least_recently_used_makes_room() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.run(1_000);
    bench.figures("g1", "b", 0, 1);
    bench.figures("g1", "b", 0, 0);
    bench.run(20_000);
    let effects = bench.figures("g1", "c", 0, 1);
    assert_eq!(
        names(&effects),
        ["a refuse Draining", "sleep a Keep", "wake c", "c admit"]
    );
    assert!(bench.sentences().contains("a: making room for c: idle for"));
    // One thing to explain, from who was weighed to what came of it.
    let [choice] = &bench.core.explain(&id("c"), 10)[..] else {
        panic!("{:?}", bench.core.explain(&id("c"), 10));
    };
    assert_eq!(choice.taken, Taken::Evict(vec![id("a")]));
    let followed = choice.followed.iter();
    let followed: Vec<(&str, &str)> = followed
        .map(|step| (step.model.name(), step.what.as_str()))
        .collect();
    assert_eq!(
        followed,
        [
            ("a", "asleep for c after 90 ms"),
            ("c", "awake after 600 ms")
        ]
    );
}

#[test]
fn min_runtime_is_respected() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    assert!(
        !names(&bench.figures("g1", "c", 0, 1))
            .iter()
            .any(|name| name.starts_with("sleep"))
    );
    let effects = bench.run(10_000);
    assert!(
        names(&effects).contains(&"c admit".to_owned()),
        "{:?}",
        names(&effects)
    );
}

#[test]
fn a_busy_victim_is_frozen_after_its_drain_and_comes_back() {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    assert_eq!(
        names(&bench.run(4_900)),
        Vec::<String>::new(),
        "busy before max_wait has passed"
    );
    assert_eq!(names(&bench.run(200)), ["a refuse Draining"]);
    let effects = bench.run(30_000);
    assert_eq!(acts(&effects), ["sleep a Keep", "wake c", "c admit"]);
    bench.figures("g1", "c", 0, 0);
    // The frozen request is demand: c is idle and past its min_runtime, so it makes room again.
    let effects = bench.run(15_000);
    assert!(
        names(&effects).contains(&"a admit".to_owned()),
        "{:?}",
        names(&effects)
    );
    assert_eq!(bench.phase("c"), "Asleep");
}

#[test]
fn an_engine_that_cannot_freeze_is_reopened_and_drained_for_longer_next_time() {
    let mut models = [spec("a"), spec("b"), spec("c")];
    for model in &mut models {
        (model.caps.lossless, model.on_lease_end) = (false, OnLeaseEnd::Hold);
    }
    let mut bench = Bench::new(&models, EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        bench.engines.get_mut(&id(model)).expect("known").count = 1;
    }
    bench.run(11_000);
    bench.figures("g1", "c", 0, 1);
    let effects = bench.run(36_000);
    assert!(
        names(&effects).contains(&"a admit".to_owned()),
        "{:?}",
        names(&effects)
    );
    assert!(
        !names(&effects).iter().any(|name| name.starts_with("sleep")),
        "never truncate"
    );
}

#[test]
fn every_gate_must_acknowledge_and_a_silent_one_is_fenced() {
    let mut bench = Bench::ready(&["a"]);
    bench.hello("g2", 2);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.obedient = false;
    bench.gates.remove(&GateId("g2".into()));
    let silent_from = bench.now;
    let effects = bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    let Some(Effect::Publish(row)) = effects
        .iter()
        .find(|effect| matches!(effect, Effect::Publish(_)))
    else {
        panic!("no barrier")
    };
    // Another epoch is no acknowledgement.
    let old = bench.ack(
        &GateId("g1".into()),
        &id("a"),
        Epoch {
            term: 7,
            counter: row.epoch.counter - 1,
        },
    );
    assert_eq!(names(&bench.event(old)), Vec::<String>::new());
    let right = bench.ack(&GateId("g1".into()), &id("a"), row.epoch);
    assert_eq!(
        names(&bench.event(right)),
        Vec::<String>::new(),
        "g2 has not answered"
    );
    bench.run(silent_from + 8_999 - bench.now);
    assert_eq!(bench.phase("a"), "Draining");
    assert_eq!(acts(&bench.run(1)), ["close g2", "sleep a Keep"]);
}

#[test]
fn the_count_is_asked_for_after_the_last_zero() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 1;
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.run(2_000);
    assert_eq!(bench.phase("a"), "Draining");
    // The gate is at zero, the engine is not: a client left, and its request still runs.
    bench.figures("g1", "a", 0, 0);
    bench.run(2_000);
    assert_eq!(bench.phase("a"), "Draining");
    bench.engines.get_mut(&id("a")).expect("known").count = 0;
    assert_eq!(names(&bench.run(500)), ["sleep a Keep"]);
}

#[test]
fn a_drain_that_ends_while_nobody_may_sleep_still_asks_whether_anything_is_left() {
    let mut model = spec("a");
    model.drain_timeout = Millis(2_000);
    model.on_drain_timeout = OnDrainTimeout::Cancel;
    (model.caps.lossless, model.on_lease_end) = (false, OnLeaseEnd::Hold);
    let mut bench = Bench::new(&[model], EngineState::Awake);
    bench.run(2_500);
    bench.hello("g1", 1);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    // A predecessor's leases may run until lease + margin; the drain has ended by then.
    bench.run(6_000);
    assert_eq!(bench.phase("a"), "Draining");
    bench.run(4_000);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
    assert!(
        !bench.sentences().contains("still busy"),
        "{}",
        bench.sentences()
    );
}

#[test]
fn an_engine_that_never_says_its_count_does_not_prolong_a_drain_for_ever() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    assert_eq!(
        bench.phase("a"),
        "Asleep",
        "an engine that answers sleeps at once"
    );
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Wake,
    });
    bench.run(1_000);
    bench.answering = false;
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.run(29_000);
    assert_eq!(bench.phase("a"), "Draining");
    assert!(names(&bench.run(5_000)).contains(&"sleep a Keep".to_owned()));
}

#[test]
fn idle_models_sleep_and_demand_takes_an_idle_drain_back() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.obedient = false;
    assert!(names(&bench.run(300_001)).contains(&"a refuse Draining".to_owned()));
    let refused = Figures {
        last_refused_age: Some(0),
        ..Figures::default()
    };
    bench
        .gates
        .get_mut(&GateId("g1".into()))
        .expect("known")
        .2
        .insert(id("a"), refused);
    assert_eq!(names(&bench.report("g1")), ["a admit"]);
}

#[test]
fn without_a_live_gate_there_is_no_evidence_of_idleness() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.gates.clear();
    bench.run(400_000);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn a_refusal_that_was_followed_by_service_wakes_nobody() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    // A gate refused once more before it heard that the row admits.
    let refused = Figures {
        last_refused_age: Some(0),
        ..Figures::default()
    };
    let gate = GateId("g1".into());
    bench
        .gates
        .get_mut(&gate)
        .expect("known")
        .2
        .insert(id("a"), refused);
    bench.run(1_000);
    bench.gates.get_mut(&gate).expect("known").2.clear();
    let asleep = bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    assert_eq!(names(&asleep), ["a refuse Draining", "sleep a Keep"]);
    assert_eq!(names(&bench.run(5_000)), Vec::<String>::new());
}

#[test]
fn who_asks_after_a_wait_was_given_up_is_held_again() {
    let mut models = [spec("a"), spec("b"), spec("c")];
    for model in &mut models {
        (model.caps.lossless, model.on_lease_end) = (false, OnLeaseEnd::Hold);
    }
    // Only `a` could make room, and it will not drain.
    models[1].pinned = true;
    let mut bench = Bench::new(&models, EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        bench.engines.get_mut(&id(model)).expect("known").count = 1;
    }
    bench.run(11_000);
    bench.figures("g1", "c", 0, 1);
    let refused = names(&bench.run(36_000));
    assert!(
        refused.contains(&"c refuse TooLong".to_owned()),
        "{refused:?}"
    );
    bench.figures("g1", "c", 0, 0);
    assert_eq!(bench.phase("c"), "Asleep");
    let effects = bench.figures("g1", "c", 0, 1);
    assert!(
        !names(&effects).contains(&"c refuse TooLong".to_owned()),
        "{:?}",
        names(&effects)
    );
    let row = bench
        .core
        .view()
        .into_iter()
        .find(|view| view.id == id("c"));
    assert!(matches!(
        row.expect("known").admission,
        Admission::Hold { .. }
    ));
}
