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
    let older = Epoch {
        counter: epoch.counter - 1,
        ..epoch
    };
    assert_eq!(ack(&mut bench, "g1", older), Vec::<String>::new());
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

#[test]
fn what_was_counted_without_a_gate_does_not_count_when_it_speaks_again() {
    let mut bench = serving(0, |_| {});
    bench.hello("g2", 2);
    let epoch = drain(&mut bench);
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
