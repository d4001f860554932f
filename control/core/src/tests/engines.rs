//! Scenarios of engines that fail, lie, die or were moved by somebody else, and of terms and fleets that change.

use super::*;

#[test]
fn a_failed_wake_cools_down_and_evicts_nobody() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    bench.run(11_000);
    let error = ActionError {
        cause: "CUDA error".into(),
        engine: EngineState::Asleep,
        no_room: false,
    };
    bench.engines.get_mut(&id("c")).expect("known").wake = Some(Outcome::Failed(error));
    let effects = bench.figures("g1", "c", 0, 1);
    assert_eq!(
        names(&effects).last().map(String::as_str),
        Some("c refuse WakeFailed")
    );
    let effects = bench.run(9_900);
    assert!(
        !names(&effects)
            .iter()
            .any(|name| name.starts_with("wake") || name.starts_with("sleep")),
        "{:?}",
        names(&effects)
    );
    bench.engines.get_mut(&id("c")).expect("known").wake = None;
    assert!(names(&bench.run(200)).contains(&"c admit".to_owned()));
}

#[test]
fn an_unknown_sleep_is_repeated_and_never_overtaken_by_a_wake() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.engines.get_mut(&id("a")).expect("known").sleep = Some(Outcome::Unknown {
        cause: "time-out".into(),
    });
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.figures("g1", "a", 0, 1);
    // Until `command` has passed the first call may still be accepted: a repeat, and a wake after it, must not come before.
    assert_eq!(names(&bench.run(2_000)), ["sleep a Keep"; 0]);
    let effects = bench.run(3_000);
    assert_eq!(names(&effects), ["sleep a Keep", "sleep a Keep"]);
    bench.engines.get_mut(&id("a")).expect("known").sleep = None;
    assert_eq!(
        names(&bench.run(2_000)),
        ["sleep a Keep", "wake a", "a admit"]
    );
}

#[test]
fn memory_counts_as_free_only_when_the_oracle_shows_it() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    bench.run(11_000);
    bench.engines.get_mut(&id("a")).expect("known").sleep = Some(Outcome::Done {
        took: 90,
        memory: Memory::on_gpus(Bytes(17 * GIB)),
    });
    let effects = bench.figures("g1", "c", 0, 1);
    assert!(
        !names(&effects).contains(&"wake c".to_owned()),
        "a 200 frees nothing"
    );
    let effects = bench.run(2_000);
    // Asked once more, then ended: the waiter gets its room.
    assert_eq!(
        names(&effects),
        ["sleep a Keep", "kill a", "wake c", "c admit"]
    );
}

#[test]
fn an_engine_found_asleep_is_held_and_woken() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 2, 0);
    let engine = bench.engines.get_mut(&id("a")).expect("known");
    (engine.state, engine.count) = (EngineState::Asleep, 2);
    assert_eq!(names(&bench.run(1_100)), ["wake a", "a admit"]);
}

#[test]
fn a_request_inside_a_sleeping_engine_is_demand() {
    let mut bench = Bench::ready(&["a"]);
    bench.engines.get_mut(&id("a")).expect("known").count = 1;
    assert_eq!(names(&bench.run(1_100)), ["wake a", "a admit"]);
}

#[test]
fn what_never_fits_is_refused_with_the_reason() {
    let mut large = spec("a");
    large.awake = Bytes(41 * GIB);
    let mut bench = Bench::new(&[large], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    assert_eq!(
        names(&bench.figures("g1", "a", 0, 1)),
        ["a refuse NeverFits"]
    );
    assert!(
        bench
            .sentences()
            .contains("at most 40.0 GiB can ever be free")
    );
}

#[test]
fn a_dead_engine_is_started_again_for_the_next_request() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.engines.get_mut(&id("a")).expect("known").state = EngineState::Gone;
    assert_eq!(
        names(&bench.event(Event::EngineGone {
            model: id("a"),
            attempt: None,
            cause: "signal 9".into()
        })),
        Vec::<String>::new()
    );
    assert_eq!(
        names(&bench.figures("g1", "a", 0, 1)),
        ["start a", "a admit"]
    );
}

#[test]
fn an_old_attempt_changes_nothing() {
    let mut bench = Bench::ready(&["a"]);
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    let late = Event::Woke {
        model: id("a"),
        attempt: Attempt(1),
        outcome: Outcome::Done {
            took: 1,
            memory: Memory::default(),
        },
    };
    assert_eq!(names(&bench.event(late)), Vec::<String>::new());
    assert_eq!(bench.phase("a"), "Waking");
}

#[test]
fn a_withdrawn_wish_is_forgotten_before_anything_is_done_for_it() {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    bench.run(5_100);
    assert_eq!(bench.phase("a"), "Draining");
    let effects = bench.figures("g1", "c", 0, 0);
    assert!(
        names(&effects).contains(&"a admit".to_owned()),
        "{:?}",
        names(&effects)
    );
    assert_eq!(bench.phase("c"), "Asleep");
}

#[test]
fn reports_of_an_older_stream_are_ignored() {
    let mut bench = Bench::ready(&["a"]);
    bench.hello("g1", 2);
    let stale = Event::Report {
        gate: GateId("g1".into()),
        stream: StreamId(1),
        sequence: 99,
        table_version: 1,
        figures: vec![(
            id("a"),
            Figures {
                held: 1,
                ..Figures::default()
            },
        )],
    };
    assert_eq!(names(&bench.event(stale)), Vec::<String>::new());
}

#[test]
fn a_larger_term_is_raised_and_everything_said_again() {
    let mut bench = Bench::ready(&["a"]);
    let hello = Event::Hello {
        gate: GateId("g9".into()),
        stream: StreamId(9),
        largest_term: 500,
        sequence: 1,
        figures: vec![],
    };
    assert_eq!(names(&bench.event(hello)), ["raise 500", "close g9"]);
    bench.event(Event::TermRaised(501));
    let effects = bench.hello("g1", 10);
    let Some(Effect::SendSnapshot { rows, .. }) = effects
        .iter()
        .find(|effect| matches!(effect, Effect::SendSnapshot { .. }))
    else {
        panic!("no snapshot")
    };
    assert!(rows.iter().all(|row| row.epoch.term == 501));
}

#[test]
fn a_deposed_leader_closes_its_streams_and_does_nothing_more() {
    let mut bench = Bench::ready(&["a"]);
    assert_eq!(names(&bench.event(Event::Deposed)), ["close g1"]);
    assert_eq!(bench.figures("g1", "a", 0, 1), vec![]);
}

#[test]
fn a_removed_model_drains_then_answers_404_then_is_dropped() {
    let mut bench = settled(&[spec("a")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    assert_eq!(
        names(&bench.event(Event::ModelRemoved(id("a")))),
        ["a refuse Draining"]
    );
    bench.run(60_000);
    assert_eq!(
        bench.phase("a"),
        "Draining",
        "a request in flight is never cut"
    );
    let effects = bench.figures("g1", "a", 0, 0);
    assert_eq!(names(&effects), ["removed a", "a refuse Disabled"]);
    assert_eq!(names(&bench.run(600_000)), ["dropped a"]);
}

#[test]
fn disabled_models_refuse_until_enabled() {
    let mut bench = Bench::ready(&["a"]);
    assert_eq!(
        names(&bench.event(Event::Operator {
            model: id("a"),
            verb: Operator::Disable
        })),
        ["a refuse Disabled"]
    );
    assert_eq!(names(&bench.figures("g1", "a", 0, 1)), Vec::<String>::new());
    assert_eq!(
        names(&bench.event(Event::Operator {
            model: id("a"),
            verb: Operator::Enable
        })),
        ["wake a", "a admit"]
    );
}

#[test]
fn pinned_models_are_awake_and_stay() {
    let mut pinned = spec("p");
    pinned.pinned = true;
    let mut bench = Bench::new(&[pinned, spec("a"), spec("b")], EngineState::Asleep);
    bench.run(10_000);
    bench.hello("g1", 1);
    assert_eq!(bench.phase("p"), "Serving");
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.run(11_000);
    bench.figures("g1", "b", 0, 1);
    bench.run(400_000);
    assert_eq!(bench.phase("p"), "Serving");
    assert_eq!(bench.phase("b"), "Serving");
}

#[test]
fn abort_only_where_the_operator_asked_for_it() {
    let mut victim = spec("a");
    victim.on_drain_timeout = OnDrainTimeout::Abort;
    let mut bench = Bench::new(&[victim], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 1;
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    let effects = bench.run(31_000);
    let mode = effects.iter().find_map(|effect| {
        if let Effect::Sleep { mode, .. } = effect {
            Some(*mode)
        } else {
            None
        }
    });
    assert_eq!(mode, Some(SleepMode::Abort));
}

#[test]
fn a_wish_for_sleep_is_fulfilled_where_the_model_sleeps_already() {
    let mut bench = Bench::ready(&["a"]);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.run(60_000);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn an_engine_that_does_not_answer_at_the_first_look_is_left_alone_until_it_does() {
    let mut bench = Bench::new(&[spec("a")], EngineState::Unresponsive);
    bench.hello("g1", 1);
    bench.figures("g1", "a", 0, 3);
    assert_eq!(names(&bench.run(30_000)), Vec::<String>::new());
    assert!(matches!(
        bench.core.view()[0].admission,
        Admission::Hold { .. }
    ));
    let engine = bench.engines.get_mut(&id("a")).expect("known");
    (engine.state, engine.memory) = (EngineState::Asleep, Bytes(GIB));
    assert_eq!(names(&bench.run(1_000)), ["wake a", "a admit"]);

    let mut hangs = Bench::new(&[spec("a")], EngineState::Unresponsive);
    assert!(names(&hangs.run(130_000)).contains(&"kill a".to_owned()));
}

#[test]
fn an_engine_that_dies_under_a_wake_is_started_for_those_who_wait() {
    let mut bench = Bench::ready(&["a"]);
    let engine = bench.engines.get_mut(&id("a")).expect("known");
    engine.state = EngineState::Gone;
    engine.wake = Some(Outcome::Failed(ActionError {
        cause: "refused".into(),
        engine: EngineState::Gone,
        no_room: false,
    }));
    assert_eq!(
        names(&bench.figures("g1", "a", 0, 1)),
        ["wake a", "start a", "a admit"]
    );
}

#[test]
fn the_end_of_a_process_does_not_end_the_start_of_the_next() {
    let mut bench = Bench::ready(&["a"]);
    let gone = || Event::EngineGone {
        model: id("a"),
        attempt: None,
        cause: "it died".into(),
    };
    bench.event(gone());
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    // Told late, of the process before.
    bench.event(gone());
    assert_eq!(bench.phase("a"), "Waking");
}

#[test]
fn adopted_engines_have_had_their_min_runtime() {
    let mut bench = Bench::new(&[spec("a"), spec("b"), spec("c")], EngineState::Asleep);
    bench.now = 100_000;
    bench.core = Core::new(
        FleetSpec {
            gpus: vec![Bytes(40 * GIB)],
            times: times(),
            term: 8,
            ..FleetSpec::default()
        },
        Millis(bench.now),
    );
    for name in ["a", "b", "c"] {
        let engine = bench.engines.get_mut(&id(name)).expect("known");
        if name != "c" {
            (engine.state, engine.memory) = (EngineState::Awake, Bytes(17 * GIB));
        }
        bench.event(Event::ModelSet(Box::new(spec(name))));
    }
    bench.run(3_000);
    bench.hello("g1", 1);
    // `a` is used after the restart, `b` is not: `b` goes, as soon as a predecessor's leases are over.
    bench.figures("g1", "a", 1, 0);
    bench.figures("g1", "a", 0, 0);
    let early = bench.figures("g1", "c", 0, 1);
    assert_eq!(
        names(&early),
        Vec::<String>::new(),
        "no barrier before a sleep is allowed"
    );
    let effects = bench.run(6_100);
    assert_eq!(
        names(&effects),
        ["b refuse Draining", "sleep b Keep", "wake c", "c admit"]
    );
}

#[test]
fn readings_before_the_first_look_prove_nothing() {
    let mut bench = Bench::new(&[spec("a")], EngineState::Awake);
    for second in 0..5 {
        bench.now = second * 300;
        bench.event(Event::GpuRead {
            gpu: GpuId(0),
            used: Bytes(17 * GIB),
        });
    }
    assert_eq!(bench.core.gpus()[0].stopped, None);
}

#[test]
fn what_the_oracle_sees_beyond_the_ledger_stops_a_gpu_until_it_goes_or_is_accepted() {
    let mut bench = Bench::ready(&["a"]);
    let read = |bench: &mut Bench, gib: u64| {
        for _ in 0..3 {
            let used = Bytes(gib * GIB);
            bench.event(Event::GpuRead {
                gpu: GpuId(0),
                used,
            });
        }
    };
    read(&mut bench, 9);
    assert!(bench.core.gpus()[0].stopped.is_some());
    // Who asks now waits, and is told that nobody knows for how long.
    bench.figures("g1", "a", 0, 1);
    bench.run(1_100);
    let view = bench.core.view().remove(0);
    assert_eq!(view.estimated_wait, Some(Millis::seconds(60)));
    assert_eq!(bench.phase("a"), "Queued");
    bench.event(Event::GpuAccepted(GpuId(0)));
    bench.run(2_000);
    assert_eq!(bench.core.gpus()[0].foreign, Bytes(8 * GIB));
    assert_eq!(bench.phase("a"), "Serving");
}
