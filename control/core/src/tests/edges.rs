//! Bounds, and what is easily forgotten: the last that still counts and the first that does not, and what must not be left over.

use super::*;

/// The oracle reads the first GPU.
fn read(bench: &mut Bench, used: Bytes) -> bool {
    let gpu = GpuId(0);
    bench.event(Event::GpuRead { gpu, used });
    bench.core.gpus()[0].stopped.is_some()
}

fn engine<'a>(bench: &'a mut Bench, model: &str) -> &'a mut Engine {
    bench.engines.get_mut(&id(model)).expect("known")
}

fn failed(engine: EngineState) -> Outcome {
    Outcome::Failed(ActionError {
        cause: "CUDA error".into(),
        engine,
        no_room: false,
    })
}

fn operator(bench: &mut Bench, model: &str, verb: Operator) -> Vec<Effect> {
    let model = id(model);
    bench.event(Event::Operator { model, verb })
}

fn held(bench: &Bench, model: &str) -> (u64, u64) {
    let views = bench.core.view().into_iter();
    let known = views.filter(|view| view.id == id(model));
    known
        .map(|view| (view.in_flight, view.held))
        .next()
        .expect("known")
}

#[test]
fn the_third_reading_in_a_row_that_differs_stops_a_gpu() {
    let mut bench = Bench::ready(&["a"]);
    bench.core.fleet.tolerance = Bytes(512);
    for differs in [true, true, false, true, true] {
        let off = if differs { 513 } else { 512 };
        assert!(!read(&mut bench, Bytes(GIB + off)));
    }
    assert!(read(&mut bench, Bytes(GIB + 513)));
    assert!(!read(&mut bench, Bytes(GIB + 512)), "they agree again");
    for last in [false, false, true] {
        assert_eq!(read(&mut bench, Bytes(GIB - 513)), last, "less is as bad");
    }
}

#[test]
fn a_stopped_gpu_stays_so_while_something_moves() {
    let mut bench = Bench::ready(&["a"]);
    for _ in 0..3 {
        read(&mut bench, Bytes(9 * GIB));
    }
    bench.answering = false;
    engine(&mut bench, "a").state = EngineState::Broken;
    bench.answering = true;
    let killed = bench.run(1_100);
    assert!(names(&killed).contains(&"kill a".to_owned()));
    bench.answering = false;
    for _ in 0..4 {
        read(&mut bench, Bytes(9 * GIB));
    }
    assert!(bench.core.gpus()[0].stopped.is_some());
}

#[test]
fn what_was_accepted_is_expected_and_nobody_elses() {
    let mut bench = started(&[
        spec("a"),
        ModelSpec {
            awake: Bytes(33 * GIB),
            ..spec("large")
        },
    ]);
    read(&mut bench, Bytes(10 * GIB));
    bench.event(Event::GpuAccepted(GpuId(0)));
    assert_eq!(bench.core.gpus()[0].foreign, Bytes(8 * GIB));
    for _ in 0..5 {
        assert!(!read(&mut bench, Bytes(10 * GIB)));
    }
    let refused = names(&bench.figures("g1", "large", 0, 1));
    assert_eq!(refused, ["large refuse NeverFits"]);
}

#[test]
fn what_was_accepted_as_missing_is_not_expected() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    read(&mut bench, Bytes(9 * GIB));
    bench.event(Event::GpuAccepted(GpuId(0)));
    for _ in 0..5 {
        assert!(!read(&mut bench, Bytes(9 * GIB)));
    }
}

#[test]
fn a_reading_of_before_is_not_accepted_as_what_is_there_now() {
    let mut bench = Bench::ready(&["a"]);
    read(&mut bench, Bytes(GIB));
    bench.figures("g1", "a", 0, 1);
    bench.event(Event::GpuAccepted(GpuId(0)));
    assert!(bench.core.gpus()[0].accepting);
    for _ in 0..5 {
        assert!(!read(&mut bench, Bytes(17 * GIB)));
    }
}

#[test]
fn what_just_fits_fits() {
    let whole = ModelSpec {
        awake: Bytes(40 * GIB),
        ..spec("a")
    };
    let mut bench = started(&[whole]);
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Serving");
    let beside = ModelSpec {
        awake: Bytes(39 * GIB),
        ..spec("a")
    };
    let mut bench = started(&[beside, spec("b")]);
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Serving", "b keeps one GiB");
}

#[test]
fn only_an_engine_that_does_not_answer_again_and_again_is_ended() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    let ended = |bench: &Bench| names(&bench.log).contains(&"kill a".to_owned());
    for _ in 0..4 {
        engine(&mut bench, "a").state = EngineState::Unresponsive;
        bench.run(10_000);
        engine(&mut bench, "a").state = EngineState::Awake;
        bench.run(3_000);
    }
    assert!(!ended(&bench));
    engine(&mut bench, "a").state = EngineState::Unresponsive;
    bench.run(13_000);
    assert!(!ended(&bench));
    bench.run(7_000);
    assert!(ended(&bench));
}

#[test]
fn an_engine_that_never_says_whether_it_sleeps_is_ended() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    engine(&mut bench, "a").sleep = Some(Outcome::Unknown {
        cause: "time-out".into(),
    });
    operator(&mut bench, "a", Operator::Sleep);
    let effects = bench.run(60_000);
    let told = names(&effects);
    let sleeps = told.iter().filter(|name| *name == "sleep a Keep").count();
    assert_eq!(sleeps, 5, "{told:?}");
    assert!(told.contains(&"kill a".to_owned()));
}

#[test]
fn an_engine_that_dies_as_it_is_told_to_sleep_admits_nobody() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    engine(&mut bench, "a").sleep = Some(failed(EngineState::Gone));
    let effects = operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(names(&effects), ["a refuse Draining", "sleep a Keep"]);
    assert_eq!(bench.phase("a"), "Asleep");
    engine(&mut bench, "a").sleep = None;
    engine(&mut bench, "a").state = EngineState::Gone;
    let effects = bench.figures("g1", "a", 0, 1);
    assert_eq!(names(&effects), ["start a", "a admit"]);
}

#[test]
fn an_engine_that_refuses_to_sleep_serves_on_and_is_left_alone() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    engine(&mut bench, "a").sleep = Some(failed(EngineState::Awake));
    operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(bench.phase("a"), "Serving");
    assert_eq!(names(&bench.run(60_000)), ["a admit"; 0]);
}

#[test]
fn an_attached_engine_that_died_is_refused_until_it_is_back() {
    let mut attached = spec("a");
    attached.caps.restartable = false;
    let mut bench = started(&[attached]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    engine(&mut bench, "a").state = EngineState::Gone;
    let effects = bench.run(1_100);
    assert_eq!(names(&effects), ["a refuse EngineFailed"]);
    bench.figures("g1", "a", 0, 1);
    bench.run(5_000);
    assert_eq!(bench.phase("a"), "Failed");
    engine(&mut bench, "a").state = EngineState::Asleep;
    let effects = bench.run(1_100);
    assert_eq!(names(&effects), ["wake a", "a admit"]);
}

#[test]
fn an_attached_engine_that_dies_in_every_wake_displaces_nobody_again_at_once() {
    let mut attached = spec("a");
    attached.caps.restartable = false;
    let mut bench = started(&[attached]);
    let dies = |bench: &mut Bench| {
        engine(bench, "a").wake = Some(failed(EngineState::Gone));
        engine(bench, "a").state = EngineState::Gone;
    };
    dies(&mut bench);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    assert_eq!(bench.phase("a"), "Failed");
    for cool_down in [10_000, 20_000] {
        // Its operator's restart loop has it back within a second, asleep, and somebody asks.
        engine(&mut bench, "a").state = EngineState::Asleep;
        bench.figures("g1", "a", 0, 1);
        let effects = bench.run(cool_down - 2_000);
        assert_eq!(names(&effects)[0], "a refuse WakeFailed");
        assert!(!names(&effects).contains(&"wake a".into()), "{effects:?}");
        dies(&mut bench);
        let effects = bench.run(3_000);
        assert!(names(&effects).contains(&"wake a".into()), "{effects:?}");
        assert_eq!(bench.phase("a"), "Failed");
    }
    // Where it comes back awake it serves at once.
    engine(&mut bench, "a").state = EngineState::Awake;
    bench.run(2_000);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn a_model_is_measured_once() {
    let new = ModelSpec {
        conditioned: false,
        ..spec("a")
    };
    let mut bench = Bench::new(&[new], EngineState::Gone);
    bench.run(60_000);
    let told = names(&bench.log);
    let of = |verb: &str| told.iter().filter(|name| name.starts_with(verb)).count();
    assert_eq!(
        (of("start"), of("sleep"), of("wake")),
        (1, 2, 1),
        "{told:?}"
    );
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn what_a_hello_leaves_out_is_zero() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 2, 3);
    assert_eq!(held(&bench, "a"), (2, 3));
    let gate = GateId("g1".into());
    bench.gates.get_mut(&gate).expect("known").2.clear();
    bench.hello("g1", 2);
    assert_eq!(held(&bench, "a"), (0, 0));
}

#[test]
fn a_message_that_comes_twice_counts_once() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    let (stream, sequence, _) = bench.gates[&GateId("g1".into())].clone();
    let again = |sequence, in_flight| Event::Report {
        gate: GateId("g1".into()),
        stream,
        sequence,
        table_version: 1,
        figures: vec![(
            id("a"),
            Figures {
                in_flight,
                ..Figures::default()
            },
        )],
    };
    for older in [sequence, sequence - 1, 0] {
        assert_eq!(bench.event(again(older, 9)), []);
    }
    assert_eq!(held(&bench, "a"), (1, 0));
}

#[test]
fn what_a_gate_held_before_it_was_fenced_is_no_demand_when_it_speaks_again() {
    let mut bench = Bench::ready(&["a"]);
    bench.answering = false;
    bench.figures("g1", "a", 0, 3);
    let gate = GateId("g1".into());
    let known = bench.gates.remove(&gate).expect("known");
    bench.run(10_000);
    assert_eq!(held(&bench, "a"), (0, 0));
    bench.gates.insert(gate.clone(), known);
    bench.gates.get_mut(&gate).expect("known").2.clear();
    bench.report("g1");
    assert_eq!(held(&bench, "a"), (0, 0));
}

#[test]
fn a_gate_that_was_silent_for_long_is_forgotten() {
    let mut bench = Bench::ready(&["a"]);
    bench.hello("g77", 2);
    bench.gates.remove(&GateId("g77".into()));
    let knows = |bench: &Bench| format!("{:?}", bench.core).contains("g77");
    bench.run(600_000);
    assert!(knows(&bench));
    bench.run(30_000);
    assert!(!knows(&bench));
}

#[test]
fn what_was_said_of_a_removed_model_is_not_of_the_next() {
    let mut bench = settled(&[spec("a")]);
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(bench.phase("a"), "Removed");
    bench.figures("g1", "a", 0, 2);
    let gone = Event::EngineGone {
        model: id("a"),
        attempt: bench.removed_by(),
        cause: "removed".into(),
    };
    bench.event(gone);
    let gate = GateId("g1".into());
    bench.run(599_000);
    bench.gates.get_mut(&gate).expect("known").2.clear();
    assert!(names(&bench.run(5_000)).contains(&"dropped a".to_owned()));
    bench.add(&spec("next"), EngineState::Asleep);
    bench.run(10_000);
    assert_eq!(
        (held(&bench, "next"), bench.phase("next")),
        ((0, 0), "Asleep")
    );
    bench.figures("g1", "next", 0, 1);
    assert_eq!(held(&bench, "next"), (0, 1));
    assert_eq!(bench.core.explain(&id("a"), 1), []);
}

#[test]
fn who_is_frozen_for_too_long_goes_before_the_others_and_waits_for_nobodys_min_runtime() {
    let stays = |name| ModelSpec {
        min_runtime: Millis(200_000),
        ..spec(name)
    };
    let mut bench = started(&[spec("a"), stays("b"), stays("c")]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        engine(&mut bench, model).count = 1;
    }
    bench.run(11_000);
    bench.figures("g1", "c", 0, 1);
    while bench.phase("c") != "Serving" {
        bench.run(100);
    }
    let frozen_at = bench.now;
    bench.figures("g1", "c", 0, 0);
    engine(&mut bench, "b").count = 0;
    bench.figures("g1", "b", 0, 0);
    bench.run(119_000);
    assert_eq!(bench.phase("a"), "Queued", "not before max_freeze is over");
    bench.run(frozen_at + 121_000 - bench.now);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn every_victim_is_counted() {
    let mut bench = started(&[
        spec("a"),
        spec("b"),
        ModelSpec {
            awake: Bytes(36 * GIB),
            ..spec("large")
        },
    ]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    bench.run(11_000);
    bench.figures("g1", "large", 0, 1);
    bench.run(5_000);
    assert_eq!(bench.phase("large"), "Serving");
    assert_eq!(bench.core.tally().evictions, 2);
}

#[test]
fn nobody_moves_before_a_new_model_was_looked_at() {
    let mut bench = Bench::ready(&["a"]);
    bench.answering = false;
    bench.add(&spec("new"), EngineState::Awake);
    bench.figures("g1", "a", 0, 1);
    bench.run(1_000);
    assert!(!names(&bench.log).contains(&"wake a".to_owned()));
    // It does not answer; after five seconds that is known too.
    bench.run(5_000);
    assert!(names(&bench.log).contains(&"wake a".to_owned()));
}

#[test]
fn an_operator_whose_wake_failed_or_was_taken_back_is_not_obeyed_for_ever() {
    let mut bench = Bench::ready(&["a"]);
    engine(&mut bench, "a").wake = Some(failed(EngineState::Asleep));
    operator(&mut bench, "a", Operator::Wake);
    assert_eq!(bench.phase("a"), "Failed");
    engine(&mut bench, "a").wake = None;
    bench.run(60_000);
    assert_eq!(bench.phase("a"), "Asleep");
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
    }
    operator(&mut bench, "c", Operator::Wake);
    assert_eq!(bench.phase("c"), "Queued");
    operator(&mut bench, "c", Operator::Disable);
    operator(&mut bench, "c", Operator::Enable);
    bench.run(1_000);
    assert_eq!(bench.phase("c"), "Asleep");
}

#[test]
fn a_popular_model_that_nobody_displaced_stays_asleep() {
    let popular = ModelSpec {
        popular: true,
        ..spec("a")
    };
    let mut bench = started(&[popular]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    operator(&mut bench, "a", Operator::Sleep);
    bench.run(60_000);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn requests_in_an_engine_that_died_are_nobodys_wish() {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    bench.run(36_000);
    assert_eq!(bench.phase("a"), "Queued");
    let known = bench.gates.get_mut(&GateId("g1".into())).expect("known");
    known.2.remove(&id("a"));
    bench.figures("g1", "a", 0, 0);
    engine(&mut bench, "a").state = EngineState::Gone;
    bench.event(Event::EngineGone {
        model: id("a"),
        attempt: None,
        cause: "signal 9".into(),
    });
    assert_eq!(bench.phase("a"), "Asleep");
    bench.figures("g1", "b", 0, 0);
    engine(&mut bench, "b").count = 0;
    bench.run(30_000);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn what_ends_while_another_end_is_awaited_counts() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.answering = false;
    bench.event(Event::EngineGone {
        model: id("a"),
        attempt: Some(Attempt(77)),
        cause: "of a former life".into(),
    });
    assert_eq!(bench.phase("a"), "Serving");
    bench.event(Event::EngineGone {
        model: id("a"),
        attempt: None,
        cause: "signal 9".into(),
    });
    assert_eq!(bench.phase("a"), "Waking");
}

#[test]
fn a_reload_keeps_what_was_measured_and_mends_what_failed() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    engine(&mut bench, "a").memory = Bytes(20 * GIB);
    bench.run(5_000);
    assert_eq!(
        bench.core.spec(&id("a")).expect("known").awake,
        Bytes(20 * GIB)
    );
    bench.event(Event::ModelSet(Box::new(spec("a"))));
    assert_eq!(
        bench.core.spec(&id("a")).expect("known").awake,
        Bytes(20 * GIB)
    );
    let mut bench = Bench::ready(&["a"]);
    engine(&mut bench, "a").wake = Some(failed(EngineState::Asleep));
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Failed");
    engine(&mut bench, "a").wake = None;
    bench.event(Event::ModelSet(Box::new(spec("a"))));
    bench.run(100);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn a_model_that_moves_to_another_gpu_is_there() {
    let mut bench = Bench::on(2, &[spec("a"), spec("b"), spec("c")], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench.event(Event::ModelSet(Box::new(ModelSpec {
        gpus: vec![GpuId(1)],
        ..spec("c")
    })));
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(2 * GIB));
    assert_eq!(bench.core.gpus()[1].reserved, Bytes(GIB));
    for model in ["a", "b", "c"] {
        bench.figures("g1", model, 0, 1);
        assert_eq!(bench.phase(model), "Serving");
    }
}

#[test]
fn an_older_term_raises_nothing() {
    let mut bench = Bench::ready(&["a"]);
    for term in [6, 7] {
        assert_eq!(bench.event(Event::TermRaised(term)), []);
    }
    let effects = bench.figures("g1", "a", 0, 1);
    let of = |effect: &Effect| {
        if let Effect::Publish(row) = effect {
            Some(row.epoch.term)
        } else {
            None
        }
    };
    assert!(effects.iter().filter_map(of).all(|term| term == 7));
}
