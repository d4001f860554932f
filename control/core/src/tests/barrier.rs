//! Whom a drain waits for, and what counts as an acknowledgement, a zero and a count (rules 4 to 6 and 14 of the protocol).

use super::*;

/// `a`, changed by `change`, serves with `in_flight` requests in g1; no gate acknowledges by itself.
fn serving(in_flight: u64, change: impl Fn(&mut ModelSpec)) -> Bench {
    let mut model = spec("a");
    change(&mut model);
    let mut bench = Bench::new(&[model], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", in_flight, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = in_flight;
    bench.obedient = false;
    bench
}

/// An operator puts `a` to sleep; the epoch of the barrier.
fn drain(bench: &mut Bench) -> Epoch {
    let effects = bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    let epoch = |effect: &Effect| {
        if let Effect::Publish(row) = effect {
            Some(row.epoch)
        } else {
            None
        }
    };
    effects.iter().find_map(epoch).expect("a barrier")
}

fn ack(bench: &mut Bench, gate: &str, epoch: Epoch) -> Vec<String> {
    let event = bench.ack(&GateId(gate.into()), &id("a"), epoch);
    names(&bench.event(event))
}

const SLEEP: [&str; 1] = ["sleep a Keep"];

#[test]
fn only_the_running_epoch_is_acknowledged() {
    let mut bench = serving(0, |_| {});
    let epoch = drain(&mut bench);
    let Epoch { term, counter } = epoch;
    let others = [(term, counter - 1), (term, counter + 1)];
    let terms = [(term - 1, counter), (term + 1, counter)];
    for (term, counter) in others.into_iter().chain(terms) {
        let other = Epoch { term, counter };
        assert_eq!(ack(&mut bench, "g1", other), Vec::<String>::new());
    }
    assert_eq!(ack(&mut bench, "g1", epoch), SLEEP);
}

#[test]
fn a_gate_whose_stream_closed_is_waited_for_until_the_fence() {
    let mut bench = serving(0, |_| {});
    bench.hello("g2", 2);
    bench.event(Event::StreamClosed {
        gate: GateId("g2".into()),
        stream: StreamId(2),
    });
    bench.gates.remove(&GateId("g2".into()));
    let closed_at = bench.now;
    bench.run(300);
    let epoch = drain(&mut bench);
    assert_eq!(ack(&mut bench, "g1", epoch), Vec::<String>::new());
    bench.run(closed_at + 8_999 - bench.now);
    assert_eq!(bench.phase("a"), "Draining");
    assert_eq!(acts(&bench.run(1)), SLEEP);
}

#[test]
fn a_fenced_gate_that_speaks_again_is_waited_for_again() {
    let mut bench = serving(0, |_| {});
    bench.hello("g2", 2);
    let (stream, sequence) = bench.next(&GateId("g2".into()));
    bench.gates.remove(&GateId("g2".into()));
    bench.run(9_500);
    bench.event(Event::Report {
        gate: GateId("g2".into()),
        stream,
        sequence,
        table_version: 1,
        figures: vec![(
            id("a"),
            Figures {
                held: 3,
                ..Figures::default()
            },
        )],
    });
    assert_eq!(
        bench.core.view()[0].held,
        3,
        "what it holds is demand again"
    );
    let epoch = drain(&mut bench);
    assert_eq!(ack(&mut bench, "g1", epoch), Vec::<String>::new());
}

/// What g2 has acknowledged before it falls silent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    Nothing,
    /// A barrier that was taken back.
    OtherBarrier,
    /// This barrier, with a request in flight that ends while it is silent.
    Busy,
}

#[test]
fn what_was_counted_without_a_gate_does_not_count_when_it_speaks_again() {
    for earlier in [Earlier::Nothing, Earlier::OtherBarrier, Earlier::Busy] {
        speaks_again(earlier);
    }
}

fn speaks_again(earlier: Earlier) {
    let mut bench = serving(0, |_| {});
    bench.hello("g2", 2);
    if earlier == Earlier::OtherBarrier {
        let epoch = drain(&mut bench);
        ack(&mut bench, "g2", epoch);
        bench.event(Event::Operator {
            model: id("a"),
            verb: Operator::Wake,
        });
        assert_eq!(bench.phase("a"), "Serving");
    }
    if earlier == Earlier::Busy {
        bench.figures("g2", "a", 1, 0);
    }
    let epoch = drain(&mut bench);
    if earlier == Earlier::Busy {
        ack(&mut bench, "g2", epoch);
    }
    bench.answering = false;
    assert_eq!(ack(&mut bench, "g1", epoch), Vec::<String>::new());
    let (stream, sequence) = bench.next(&GateId("g2".into()));
    let known = bench.gates.remove(&GateId("g2".into())).expect("a gate");
    // It is fenced, and the engine is asked.
    let effects = bench.run(9_000);
    let asked = |effects: &[Effect]| {
        let mut asks = effects.iter().filter_map(|effect| {
            if let Effect::Observe { attempt, .. } = effect {
                Some(*attempt)
            } else {
                None
            }
        });
        asks.next_back()
    };
    let before = asked(&effects).expect("a look");
    let zero = |attempt| Event::Observed {
        model: id("a"),
        attempt,
        observation: Observation {
            state: EngineState::Awake,
            count: Some(0),
            memory: Memory::default(),
            tier: None,
        },
    };
    // Its acknowledgement was late: the engine is asked after it, and not believed from before.
    bench.gates.insert(GateId("g2".into()), known);
    let effects = bench.event(Event::Ack {
        gate: GateId("g2".into()),
        stream,
        sequence,
        model: id("a"),
        epoch,
        in_flight: 0,
    });
    let after = asked(&effects).expect("another look");
    assert_eq!(names(&bench.event(zero(before))), Vec::<String>::new());
    assert_eq!(names(&bench.event(zero(after))), SLEEP);
}

#[test]
fn a_zero_counts_only_behind_its_acknowledgement_on_the_same_stream() {
    let mut bench = serving(1, |_| {});
    let epoch = drain(&mut bench);
    assert_eq!(ack(&mut bench, "g1", epoch), Vec::<String>::new());
    bench.engines.get_mut(&id("a")).expect("known").count = 0;
    bench.hello("g1", 2);
    assert_eq!(names(&bench.figures("g1", "a", 0, 0)), Vec::<String>::new());
    assert_eq!(ack(&mut bench, "g1", epoch), SLEEP);
}

#[test]
fn a_count_asked_for_before_the_last_acknowledgement_is_not_believed() {
    let mut bench = serving(0, |_| {});
    bench.answering = false;
    let epoch = drain(&mut bench);
    ack(&mut bench, "g1", epoch);
    let asked = looks(&bench.log).last().expect("asked").1;
    bench.hello("g2", 2);
    ack(&mut bench, "g2", epoch);
    let late = Event::Observed {
        model: id("a"),
        attempt: asked,
        observation: Observation {
            state: EngineState::Awake,
            count: Some(0),
            memory: Memory::default(),
            tier: None,
        },
    };
    assert_eq!(names(&bench.event(late)), Vec::<String>::new());
}

#[test]
fn nothing_is_frozen_before_every_gate_acknowledged() {
    let mut bench = serving(1, |_| {});
    let epoch = drain(&mut bench);
    assert_eq!(acts(&bench.run(60_000)), Vec::<String>::new());
    // Its frozen request wakes it again at once.
    let effects = ack(&mut bench, "g1", epoch);
    assert_eq!(effects, ["sleep a Keep", "wake a", "a admit"]);
}

#[test]
fn two_drains_that_run_out_at_once_freeze_one_after_the_other() {
    let mut bench = busy();
    bench.answering = false;
    for model in ["a", "b"] {
        bench.event(Event::Operator {
            model: id(model),
            verb: Operator::Sleep,
        });
    }
    let sleeps = names(&bench.run(40_000));
    let sleeps = sleeps.iter().filter(|name| name.starts_with("sleep"));
    assert_eq!(sleeps.count(), 1);
}

#[test]
fn what_a_fenced_gate_held_is_no_demand() {
    let mut bench = busy();
    bench.hello("g2", 2);
    bench.figures("g2", "c", 0, 1);
    assert_eq!(bench.phase("c"), "Queued");
    bench.gates.remove(&GateId("g2".into()));
    bench.run(9_500);
    assert_eq!(bench.phase("c"), "Asleep");
}

#[test]
fn an_engine_that_loses_requests_is_counted_twice() {
    let mut bench = serving(0, |model| {
        (model.caps.lossless, model.on_lease_end) = (false, OnLeaseEnd::Hold);
    });
    let epoch = drain(&mut bench);
    assert_eq!(ack(&mut bench, "g1", epoch), Vec::<String>::new());
    bench.run(2_500);
    assert_eq!(
        bench.phase("a"),
        "Draining",
        "a late request may be on its way"
    );
    assert_eq!(names(&bench.run(600)), SLEEP);
}

/// A gate that is silent may let requests of a `flow` row flow for ten minutes.
fn flowing(change: impl Fn(&mut ModelSpec)) -> Bench {
    let mut bench = serving(0, change);
    bench.hello("g2", 2);
    bench.gates.remove(&GateId("g2".into()));
    bench
}

#[test]
fn a_silent_gate_of_a_flow_row_blocks_only_what_would_lose_its_requests() {
    let mut lossless = flowing(|_| {});
    let epoch = drain(&mut lossless);
    ack(&mut lossless, "g1", epoch);
    assert_eq!(acts(&lossless.run(9_500)), ["close g2", "sleep a Keep"]);

    let mut lossy = flowing(|model| model.caps.lossless = false);
    let epoch = drain(&mut lossy);
    ack(&mut lossy, "g1", epoch);
    assert_eq!(acts(&lossy.run(25_000)), ["close g2"]);
}

#[test]
fn a_removed_model_waits_until_flowing_has_ended() {
    let mut bench = flowing(|_| {});
    bench.obedient = true;
    bench.event(Event::ModelRemoved(id("a")));
    bench.run(600_000);
    assert_eq!(bench.phase("a"), "Draining");
    bench.run(12_000);
    assert_eq!(bench.phase("a"), "Removed");
}

#[test]
fn a_stream_that_was_never_greeted_says_nothing() {
    for stream in [0, 9] {
        let mut bench = serving(0, |_| {});
        let (_, sequence) = bench.next(&GateId("g1".into()));
        let held = Figures {
            held: 3,
            ..Figures::default()
        };
        let effects = bench.event(Event::Report {
            gate: GateId("g1".into()),
            stream: StreamId(stream),
            sequence,
            table_version: 1,
            figures: vec![(id("a"), held)],
        });
        assert_eq!((bench.core.view()[0].held, effects), (0, vec![]));
    }
}

#[test]
fn a_server_that_does_not_say_its_count_has_not_said_zero() {
    let mut bench = serving(0, |_| {});
    bench.counted = false;
    let epoch = drain(&mut bench);
    assert_eq!(ack(&mut bench, "g1", epoch), Vec::<String>::new());
    bench.counted = true;
    assert_eq!(names(&bench.run(1_000)), SLEEP);
}

#[test]
fn a_silent_gate_that_had_nothing_in_an_engine_that_nobody_can_ask_does_not_keep_it_awake() {
    let mut bench = serving(0, |model| {
        (model.caps.counts, model.caps.lossless) = (false, false);
        model.on_lease_end = OnLeaseEnd::Hold;
        model.on_drain_timeout = OnDrainTimeout::Cancel;
    });
    bench.hello("g2", 2);
    for acknowledges in [true, false] {
        let epoch = drain(&mut bench);
        if acknowledges {
            ack(&mut bench, "g2", epoch);
        }
        bench.gates.remove(&GateId("g2".into()));
        ack(&mut bench, "g1", epoch);
        assert_eq!(acts(&bench.run(31_000)).pop().as_deref(), Some(SLEEP[0]));
        bench.obedient = true;
        bench.figures("g1", "a", 0, 1);
        bench.figures("g1", "a", 0, 0);
        assert_eq!(bench.phase("a"), "Serving");
        bench.obedient = false;
        bench.hello("g2", 3);
    }
}

#[test]
fn a_predecessors_gates_are_waited_for_again_from_a_larger_term() {
    let mut lossy = spec("a");
    lossy.caps.lossless = false;
    lossy.idle_timeout = None;
    let mut bench = Bench::new(&[lossy], EngineState::Awake);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(620_000);
    bench.event(Event::TermRaised(9));
    bench.hello("g1", 2);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    // A lossy engine is waited for by its flow rows, too.
    let sleeps = |effects: &[Effect]| names(effects).iter().any(|name| name.starts_with("sleep"));
    assert!(!sleeps(&bench.run(600_000)), "{}", bench.sentences());
    assert!(sleeps(&bench.run(60_000)), "{}", bench.sentences());
}

#[test]
fn a_deposed_leader_says_nothing_whatever_it_is_told() {
    let mut bench = serving(1, |_| {});
    bench.event(Event::Deposed);
    bench.log.clear();
    bench.event(Event::EngineGone {
        model: id("a"),
        attempt: None,
        cause: "it died".into(),
    });
    for _ in 0..4 {
        bench.event(Event::GpuRead {
            gpu: GpuId(0),
            used: Bytes(39 * GIB),
        });
    }
    for verb in [Operator::Wake, Operator::Disable, Operator::Enable] {
        bench.event(Event::Operator {
            model: id("a"),
            verb,
        });
    }
    bench.hello("g1", 7);
    bench.hello("g2", 8);
    bench.run(20_000);
    assert_eq!(bench.log, []);
}

#[test]
fn no_barrier_rises_before_gates_have_a_table() {
    let idle = ModelSpec {
        idle_timeout: Some(Millis(500)),
        ..spec("a")
    };
    let mut bench = Bench::new(&[idle, spec("b")], EngineState::Awake);
    bench.run(1_900);
    bench.hello("g1", 1);
    // a answers at once, b never: tables go out when that is known.
    bench.answering = false;
    let asked = bench.run(300);
    let look = looks(&asked)
        .into_iter()
        .find(|(model, _)| *model == id("a"));
    bench.event(Event::Observed {
        model: id("a"),
        attempt: look.expect("looked at").1,
        observation: Observation {
            state: EngineState::Awake,
            count: Some(0),
            memory: Memory::on_gpus(Bytes(17 * GIB)),
            tier: None,
        },
    });
    bench.run(3_000);
    assert_eq!((bench.core.is_open(), bench.phase("a")), (false, "Serving"));
    bench.run(9_000);
    assert_eq!((bench.core.is_open(), bench.phase("a")), (true, "Draining"));
}

#[test]
fn what_is_frozen_in_an_engine_that_is_found_asleep_is_demand_at_once() {
    let mut bench = Bench::new(&[spec("a")], EngineState::Asleep);
    bench.engines.get_mut(&id("a")).expect("known").count = 2;
    bench.run(2_000);
    // The first gate gives everybody a turn, and it is a millisecond too early for a look.
    bench.hello("g1", 1);
    assert_eq!(bench.phase("a"), "Booting");
    bench.run(1);
    assert_eq!(bench.phase("a"), "Serving", "looked at, and woken");
}

#[test]
fn what_a_stranger_may_still_send_to_is_neither_removed_nor_put_to_sleep_with_loss() {
    // Lease, margin and `maxFlow` after this life began no gate of a predecessor flows any more.
    // It was ready in an earlier life; its engine takes what comes while it sleeps; it is removed; how long that waits.
    let cases = [
        (true, false, false, 609_000),
        (false, false, false, 0),
        (true, true, false, 0),
        (true, true, true, 609_000),
        (false, true, true, 0),
    ];
    for (conditioned, lossless, removed, until) in cases {
        let mut model = ModelSpec {
            conditioned,
            idle_timeout: None,
            ..spec("a")
        };
        model.caps.lossless = lossless;
        let mut bench = Bench::new(&[], EngineState::Gone);
        bench.add(&model, EngineState::Gone);
        bench.hello("g1", 1);
        let ended = |bench: &Bench, effects: &[Effect]| {
            let slept = acts(effects).iter().any(|act| act.starts_with("sleep a"));
            if removed {
                bench.phase("a") == "Removed"
            } else {
                slept
            }
        };
        let mut effects = bench.run(20_000);
        if removed {
            effects = bench.event(Event::ModelRemoved(id("a")));
            effects.extend(bench.run(20_000));
        }
        let did = acts(&effects);
        let case = format!(
            "{conditioned} {lossless} {removed} {did:?}\n{}",
            bench.sentences()
        );
        assert_eq!(ended(&bench, &effects), until == 0, "{case}");
        if until > 0 {
            let effects = bench.run(until - 1 - bench.now);
            assert!(!ended(&bench, &effects), "{case}");
            let effects = bench.run(5_000);
            assert!(ended(&bench, &effects), "{case}");
        }
    }
}
