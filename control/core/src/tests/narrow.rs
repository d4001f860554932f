//! Narrow cases: what a single wrong comparison, or one forgotten condition, would change.

use super::*;

fn engine<'a>(bench: &'a mut Bench, model: &str) -> &'a mut Engine {
    bench.engines.get_mut(&id(model)).expect("known")
}

fn operator(bench: &mut Bench, model: &str, verb: Operator) -> Vec<Effect> {
    let model = id(model);
    bench.event(Event::Operator { model, verb })
}

/// Serves with nobody in it.
fn serve(bench: &mut Bench, model: &str) {
    bench.figures("g1", model, 0, 1);
    bench.figures("g1", model, 0, 0);
    assert_eq!(bench.phase(model), "Serving", "{}", bench.sentences());
}

fn seen(model: ModelId, attempt: Attempt, state: EngineState, gib: u64) -> Event {
    let observation = Observation {
        state,
        count: Some(0),
        memory: Memory::on_gpus(Bytes(gib * GIB)),
        tier: None,
    };
    Event::Observed {
        model,
        attempt,
        observation,
    }
}

#[test]
fn the_last_byte_counts() {
    for (more, expected) in [(0, "wake b"), (1, "a refuse Draining")] {
        let mut large = spec("b");
        large.awake = Bytes(23 * GIB + more);
        large.asleep = Bytes(0);
        let mut first = spec("a");
        first.min_runtime = Millis(0);
        let mut bench = started(&[first, large]);
        serve(&mut bench, "a");
        bench.run(1_000);
        bench.obedient = false;
        let effects = names(&bench.figures("g1", "b", 0, 1));
        assert_eq!(effects[0], expected, "{}", bench.sentences());
    }
}

#[test]
fn what_an_awake_engine_that_nobody_may_stop_will_keep_is_nobodys() {
    let mut attached = spec("a");
    (attached.asleep, attached.caps.restartable) = (Bytes(5 * GIB), false);
    let large = ModelSpec {
        awake: Bytes(36 * GIB),
        ..spec("b")
    };
    let mut bench = started(&[attached, large]);
    serve(&mut bench, "a");
    let effects = bench.figures("g1", "b", 0, 1);
    assert_eq!(names(&effects), ["b refuse NeverFits"]);
}

#[test]
fn the_sleep_of_a_pinned_neighbour_needs_its_room() {
    for (peak, fits) in [(2, true), (4, false)] {
        let mut pinned = spec("a");
        pinned.pinned = true;
        pinned.sizes.sleeping.bytes = Bytes(peak * GIB);
        let large = ModelSpec {
            awake: Bytes(20 * GIB),
            ..spec("b")
        };
        let mut bench = started(&[pinned, large]);
        let effects = names(&bench.figures("g1", "b", 0, 1));
        let refused = effects.contains(&"b refuse NeverFits".to_owned());
        assert_eq!(!refused, fits, "{effects:?}");
    }
}

#[test]
fn nobody_knows_what_a_gpu_holds_while_a_process_is_being_ended() {
    let mut bench = settled(&[spec("a")]);
    serve(&mut bench, "a");
    bench.answering = false;
    engine(&mut bench, "a").state = EngineState::Broken;
    bench.run(1_500);
    let (model, attempt) = looks(&bench.log).pop().expect("looked at");
    bench.event(seen(model, attempt, EngineState::Broken, 17));
    assert!(
        names(&bench.log).contains(&"kill a".to_owned()),
        "{}",
        bench.sentences()
    );
    bench
        .core
        .models
        .get_mut(&id("a"))
        .expect("known")
        .resolve();
    for gib in [12, 6, 0, 0] {
        let (gpu, used) = (GpuId(0), Bytes(gib * GIB));
        bench.event(Event::GpuRead { gpu, used });
    }
    assert_eq!(bench.core.gpus()[0].stopped, None);
}

#[test]
fn nobody_goes_for_one_that_only_comes_back() {
    // Both come back in the same step, and there is room for one of them: a on one GPU, b on both.
    let popular = |name: &str, gpus: &[usize]| ModelSpec {
        gpus: gpus.iter().copied().map(GpuId).collect(),
        popular: true,
        awake: Bytes(30 * GIB),
        idle_timeout: None,
        min_runtime: Millis(0),
        ..spec(name)
    };
    let models = [popular("a", &[0]), popular("b", &[0, 1])];
    let mut bench = Bench::on(2, &models, EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    for model in ["a", "b"] {
        let known = bench.core.models.get_mut(&id(model)).expect("known");
        known.room.displaced = true;
    }
    bench.event(Event::Tick);
    bench.run(5_000);
    let phases = ["a", "b"].map(|model| bench.phase(model));
    assert!(
        [["Serving", "Asleep"], ["Asleep", "Serving"]].contains(&phases),
        "{phases:?}"
    );
    let drains = |effect: &Effect| matches!(effect, Effect::Publish(row) if row.barriered);
    assert!(!bench.log.iter().any(drains), "{}", bench.sentences());
}

#[test]
fn a_first_start_is_measured_though_somebody_waits() {
    let fresh = ModelSpec {
        conditioned: false,
        ..spec("a")
    };
    let mut bench = Bench::new(&[fresh], EngineState::Gone);
    bench.run(2_000);
    bench.hello("g1", 1);
    bench.figures("g1", "a", 0, 1);
    let effects = names(&bench.run(30_000));
    let acts = ["start a", "sleep a Keep", "wake a", "a admit"];
    let acted = effects.iter().filter(|name| acts.contains(&name.as_str()));
    assert_eq!(acted.collect::<Vec<_>>(), acts, "{effects:?}");
}

#[test]
fn who_is_out_of_service_and_would_not_drain_rests_before_the_next_try() {
    let mut lossy = spec("a");
    lossy.on_drain_timeout = OnDrainTimeout::Cancel;
    let mut bench = started(&[lossy]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    engine(&mut bench, "a").count = 1;
    operator(&mut bench, "a", Operator::Disable);
    assert_eq!(bench.phase("a"), "Draining");
    bench.run(31_000);
    assert_eq!(bench.phase("a"), "Serving", "{}", bench.sentences());
    bench.run(28_000);
    assert_eq!(bench.phase("a"), "Serving");
    bench.run(3_000);
    assert_eq!(bench.phase("a"), "Draining");
}

#[test]
fn frozen_requests_of_who_is_out_of_service_have_its_min_runtime_to_finish() {
    let mut bench = started(&[spec("a")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    engine(&mut bench, "a").count = 1;
    operator(&mut bench, "a", Operator::Disable);
    bench.run(31_000);
    assert_eq!(
        bench.phase("a"),
        "Serving",
        "frozen, and woken for it: {}",
        bench.sentences()
    );
    bench.run(8_000);
    assert_eq!(bench.phase("a"), "Serving");
    bench.run(3_000);
    assert_eq!(bench.phase("a"), "Draining");
}

#[test]
fn a_closed_port_does_not_end_a_process_that_is_being_ended() {
    let mut bench = settled(&[spec("a")]);
    serve(&mut bench, "a");
    bench.answering = false;
    bench.run(1_500);
    let (model, broken) = looks(&bench.log).pop().expect("looked at");
    bench.event(seen(model.clone(), broken, EngineState::Broken, 17));
    // It is looked at while it ends.
    bench.run(3_000);
    let closed = looks(&bench.log).pop().expect("looked at").1;
    assert_ne!(broken, closed);
    bench.event(seen(model, closed, EngineState::Gone, 0));
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(17 * GIB));
}

#[test]
fn an_attached_engine_that_never_says_how_its_sleep_ended_is_asked_without_end() {
    let mut attached = spec("a");
    attached.caps.restartable = false;
    let mut bench = started(&[attached]);
    serve(&mut bench, "a");
    let cause = "no answer".to_owned();
    engine(&mut bench, "a").sleep = Some(Outcome::Unknown { cause });
    operator(&mut bench, "a", Operator::Sleep);
    for _ in 0..60 {
        bench.run(1_000);
        assert_eq!(bench.phase("a"), "Sleeping", "{}", bench.sentences());
    }
    engine(&mut bench, "a").sleep = None;
    bench.run(5_000);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn only_a_larger_term_raises_ours() {
    for (largest_term, raises) in [(6, false), (7, false), (8, true)] {
        let mut bench = Bench::ready(&["a"]);
        let effects = bench.event(Event::Hello {
            gate: GateId("g9".into()),
            stream: StreamId(9),
            largest_term,
            sequence: 1,
            figures: vec![],
        });
        let raised = names(&effects).contains(&format!("raise {largest_term}"));
        assert_eq!(raised, raises, "{largest_term}");
    }
}

#[test]
fn a_look_from_before_a_sleep_says_nothing_of_what_sleeps() {
    let mut bench = started(&[spec("a")]);
    serve(&mut bench, "a");
    bench.answering = false;
    bench.log.clear();
    bench.run(1_500);
    let (model, attempt) = looks(&bench.log).pop().expect("looked at");
    bench.answering = true;
    operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
    bench.event(seen(model, attempt, EngineState::Awake, 17));
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn an_engine_that_is_found_asleep_does_not_end_while_gates_may_send_it_requests() {
    // Nobody drained it, so no gate has stopped: what is told to end rather than sleep waits until nothing can follow.
    let stopped = ModelSpec {
        tier: Some(crate::phase::Tier::Stopped),
        idle_timeout: None,
        ..spec("a")
    };
    let mut bench = settled(&[stopped]);
    serve(&mut bench, "a");
    engine(&mut bench, "a").state = EngineState::Asleep;
    engine(&mut bench, "a").memory = Bytes(GIB);
    let ended = |effects: &[Effect]| names(effects).contains(&"kill a".to_owned());
    assert!(!ended(&bench.run(600_000)), "{}", bench.sentences());
    assert_eq!(bench.phase("a"), "Asleep");
    // Nor does it where ledger and oracle differ.
    let gpu = GpuId(0);
    for _ in 0..3 {
        let used = Bytes(30 * GIB);
        bench.event(Event::GpuRead { gpu, used });
    }
    assert!(!ended(&bench.run(20_000)), "{}", bench.sentences());
    let used = Bytes(GIB);
    let agrees = bench.event(Event::GpuRead { gpu, used });
    assert!(
        ended(&agrees) || ended(&bench.run(2_000)),
        "{}",
        bench.sentences()
    );
}

#[test]
fn the_own_sleep_of_a_model_needs_its_room() {
    for (peak, fits) in [(20, true), (21, false)] {
        let mut model = ModelSpec {
            awake: Bytes(20 * GIB),
            ..spec("a")
        };
        model.sizes.sleeping.bytes = Bytes(peak * GIB);
        let mut bench = started(&[model]);
        let effects = names(&bench.figures("g1", "a", 0, 1));
        let refused = effects.contains(&"a refuse NeverFits".to_owned());
        assert_eq!(!refused, fits, "{effects:?}");
    }
}

#[test]
fn one_reading_that_differs_stops_nobody() {
    let mut bench = started(&[spec("a")]);
    serve(&mut bench, "a");
    let (gpu, used) = (GpuId(0), Bytes(30 * GIB));
    bench.event(Event::GpuRead { gpu, used });
    let effects = operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(names(&effects), ["a refuse Draining", "sleep a Keep"]);
}

#[test]
fn room_of_a_removed_model_is_waited_for_while_it_drains() {
    let mut rested = spec("b");
    rested.min_runtime = Millis(0);
    let mut bench = started(&[spec("a"), rested, spec("c")]);
    for model in ["a", "b"] {
        serve(&mut bench, model);
    }
    bench.figures("g1", "a", 1, 0);
    bench.event(Event::ModelRemoved(id("a")));
    bench.figures("g1", "c", 0, 1);
    let phases = ["a", "b", "c"].map(|model| bench.phase(model));
    assert_eq!(phases, ["Draining", "Serving", "Queued"]);
}

#[test]
fn only_the_look_that_was_asked_for_last_is_believed() {
    let mut bench = started(&[spec("a")]);
    serve(&mut bench, "a");
    bench.answering = false;
    bench.run(1_500);
    let (model, attempt) = looks(&bench.log).pop().expect("looked at");
    for other in [attempt.0 - 1, attempt.0 + 1] {
        bench.event(seen(model.clone(), Attempt(other), EngineState::Asleep, 1));
        assert_eq!(bench.phase("a"), "Serving");
    }
    bench.event(seen(model, attempt, EngineState::Asleep, 1));
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn what_is_in_an_engine_that_was_put_to_sleep_is_demand_while_it_is_there() {
    let mut bench = started(&[spec("a"), spec("b"), spec("c")]);
    for model in ["b", "c", "a"] {
        serve(&mut bench, model);
        bench.run(11_000);
    }
    assert_eq!(bench.phase("b"), "Asleep", "there is room for two");
    // A stranger puts it to sleep with what no gate knows of, and its room goes to another.
    bench.figures("g1", "c", 1, 0);
    (engine(&mut bench, "a").state, engine(&mut bench, "a").count) = (EngineState::Asleep, 2);
    engine(&mut bench, "a").memory = Bytes(GIB);
    engine(&mut bench, "a").wake = Some(Outcome::Failed(ActionError {
        cause: "CUDA error".into(),
        engine: EngineState::Asleep,
        no_room: false,
    }));
    bench.log.clear();
    bench.run(1_000);
    assert!(names(&bench.log).contains(&"wake a".to_owned()), "at once");
    assert_eq!(bench.phase("a"), "Failed");
    let frozen = |bench: &Bench| bench.core.view()[0].frozen;
    assert_eq!(frozen(&bench), 2);
    // Their clients leave: nobody wants it any more.
    engine(&mut bench, "a").count = 0;
    bench.run(12_000);
    assert_eq!((bench.phase("a"), frozen(&bench)), ("Asleep", 0));
}

#[test]
fn a_wake_that_failed_may_still_hold_what_it_held_until_it_can_no_longer_be_accepted() {
    let mut bench = started(&[spec("a")]);
    engine(&mut bench, "a").wake = Some(Outcome::Failed(ActionError {
        cause: "CUDA error".into(),
        engine: EngineState::Asleep,
        no_room: false,
    }));
    engine(&mut bench, "a").memory = Bytes(0);
    let reserved = |bench: &Bench| bench.core.gpus()[0].reserved;
    assert_eq!(reserved(&bench), Bytes(GIB));
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Failed");
    // Its call may be accepted for two seconds, and shows within two more.
    bench.run(3_900);
    assert_eq!(reserved(&bench), Bytes(GIB));
    bench.run(2_000);
    assert_eq!(reserved(&bench), Bytes(0));
}

#[test]
fn what_a_gpu_holds_beyond_its_capacity_is_missing_too() {
    let found = ["a", "b", "c"].map(spec);
    let mut bench = Bench::new(&found, EngineState::Awake);
    bench.add(&spec("d"), EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.figures("g1", "d", 0, 1);
    bench.answering = false;
    bench.run(7_000);
    let choice = bench.core.explain(&id("d"), 1).pop().expect("a choice");
    let missing: Vec<u64> = choice
        .need
        .iter()
        .map(|need| need.missing.0 / GIB)
        .collect();
    assert_eq!(
        missing,
        [28],
        "of 40, with 51 held by others and 17 wanted: {choice:?}"
    );
}

#[test]
fn whose_clients_leave_while_it_sleeps_is_wanted_by_nobody() {
    let mut bench = started(&[spec("a")]);
    serve(&mut bench, "a");
    // Nothing begins on its GPU, so it is not woken for what is in it.
    for _ in 0..3 {
        let (gpu, used) = (GpuId(0), Bytes(30 * GIB));
        bench.event(Event::GpuRead { gpu, used });
    }
    let known = engine(&mut bench, "a");
    (known.state, known.memory, known.count) = (EngineState::Asleep, Bytes(GIB), 2);
    bench.run(1_000);
    assert_eq!(
        (bench.phase("a"), bench.core.view()[0].frozen),
        ("Queued", 2)
    );
    engine(&mut bench, "a").count = 0;
    bench.run(1_000);
    assert_eq!(
        (bench.phase("a"), bench.core.view()[0].frozen),
        ("Asleep", 0)
    );
}

#[test]
fn who_came_back_later_than_another_was_used_goes_later() {
    let models = ["a", "b", "c"].map(|name| ModelSpec {
        min_runtime: Millis(0),
        ..spec(name)
    });
    let mut bench = started(&models);
    serve(&mut bench, "a");
    operator(&mut bench, "a", Operator::Sleep);
    bench.run(1_000);
    serve(&mut bench, "b");
    bench.run(1_000);
    // Somebody else wakes a.
    engine(&mut bench, "a").state = EngineState::Awake;
    engine(&mut bench, "a").memory = Bytes(17 * GIB);
    bench.run(2_000);
    assert_eq!(bench.phase("a"), "Serving");
    bench.figures("g1", "c", 0, 1);
    let phases = ["a", "b", "c"].map(|model| bench.phase(model));
    assert_eq!(phases, ["Serving", "Asleep", "Serving"]);
}
