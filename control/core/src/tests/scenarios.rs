//! One scenario per rule.

use super::*;

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

/// a and b serve with streams in flight; c is wanted.
fn busy() -> Bench {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        bench.engines.get_mut(&id(model)).expect("known").count = 1;
    }
    bench.run(11_000);
    bench
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
    assert_eq!(names(&effects), ["sleep a Keep", "wake c", "c admit"]);
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
        model.caps.lossless = false;
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
    assert_eq!(names(&bench.run(1)), ["close g2", "sleep a Keep"]);
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
    let effects = bench.run(2_500);
    assert_eq!(names(&effects), ["sleep a Keep", "sleep a Keep"]);
    bench.engines.get_mut(&id("a")).expect("known").sleep = None;
    assert_eq!(
        names(&bench.run(1_000)),
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
        memory: Some(Bytes(17 * GIB)),
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
            memory: None,
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
        gateway: "envoy".into(),
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
    let mut bench = Bench::ready(&["a"]);
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
    let mut bench = Bench::new(&[spec("a")], EngineState::Silent);
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

    let mut hangs = Bench::new(&[spec("a")], EngineState::Silent);
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
        cause: "it died".into(),
    };
    bench.event(gone());
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    // Told late, of the process before.
    bench.event(gone());
    assert_eq!(bench.phase("a"), "Waking");
}
