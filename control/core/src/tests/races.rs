//! Messages that cross each other, arrive late, or come from somebody who is not meant any more.

use super::*;
use crate::phase::Tier;

/// The epoch of the newest row that was published of a model.
fn epoch_of(bench: &Bench, model: &str) -> Epoch {
    let epoch = |effect: &Effect| {
        let rows = match effect {
            Effect::Publish(row) => std::slice::from_ref(row),
            Effect::SendSnapshot { rows, .. } => rows,
            Effect::Heartbeat { .. }
            | Effect::CloseStream { .. }
            | Effect::Observe { .. }
            | Effect::Start { .. }
            | Effect::Wake { .. }
            | Effect::Sleep { .. }
            | Effect::Kill { .. }
            | Effect::Removed { .. }
            | Effect::Dropped(_)
            | Effect::Record(_)
            | Effect::RaiseTerm { .. }
            | Effect::Footprint { .. } => &[],
        };
        let row = rows.iter().find(|row| row.model == id(model))?;
        Some(row.epoch)
    };
    bench.log.iter().rev().find_map(epoch).expect("published")
}

/// The number of the newest look at a model's engine.
fn look_of(bench: &Bench, model: &str) -> Attempt {
    let looks = looks(&bench.log);
    let look = looks.iter().rev().find(|(of, _)| *of == id(model));
    look.expect("looked at").1
}

fn slept(effects: &[Effect]) -> bool {
    names(effects).iter().any(|name| name.starts_with("sleep"))
}

/// `a` serves and nobody uses it.
fn serving() -> Bench {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench
}

#[test]
fn a_count_from_before_a_larger_term_puts_nobody_to_sleep() {
    let mut bench = serving();
    bench.answering = false;
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    let asked = look_of(&bench, "a");
    bench.event(Event::TermRaised(20));
    bench.hello("g1", 2);
    let ack = bench.ack(&GateId("g1".into()), &id("a"), epoch_of(&bench, "a"));
    bench.event(ack);
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
    assert!(!slept(&bench.event(late)), "leases of the old term may run");
    bench.answering = true;
    assert!(!slept(&bench.run(8_900)));
    assert!(slept(&bench.run(4_000)));
}

#[test]
fn an_older_hello_that_arrives_late_replaces_nothing() {
    let mut bench = serving();
    bench.hello("g1", 3);
    let late = Event::Hello {
        gate: GateId("g1".into()),
        stream: StreamId(2),
        largest_term: 0,
        sequence: 1,
        figures: vec![],
    };
    assert_eq!(names(&bench.event(late)), ["close g1"]);
    let effects = bench.figures("g1", "a", 1, 0);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Heartbeat { .. })),
        "the newer stream is still heard"
    );
}

#[test]
fn a_new_stream_ends_the_one_before_it() {
    let mut bench = serving();
    assert!(bench.hello("g1", 2).contains(&Effect::CloseStream {
        gate: GateId("g1".into()),
        stream: StreamId(1),
    }));
}

#[test]
fn what_a_gate_says_after_its_bye_is_nothing() {
    let mut bench = serving();
    let gate = GateId("g1".into());
    let (stream, sequence) = bench.next(&gate);
    bench.event(Event::Bye {
        gate,
        stream,
        sequence,
    });
    assert_eq!(bench.figures("g1", "a", 0, 5), vec![]);
    assert_eq!(bench.core.view()[0].held, 0);
}

#[test]
fn a_gate_that_attaches_during_a_drain_is_waited_for() {
    let mut bench = serving();
    bench.answering = false;
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    let asked = look_of(&bench, "a");
    bench.hello("g2", 2);
    let answer = |attempt| Event::Observed {
        model: id("a"),
        attempt,
        observation: Observation {
            state: EngineState::Awake,
            count: Some(0),
            memory: Memory::default(),
            tier: None,
        },
    };
    assert!(!slept(&bench.event(answer(asked))));
    let ack = bench.ack(&GateId("g2".into()), &id("a"), epoch_of(&bench, "a"));
    bench.event(ack);
    assert!(
        !slept(&bench.event(answer(asked))),
        "counted before the acknowledgement"
    );
    let asked = look_of(&bench, "a");
    assert!(slept(&bench.event(answer(asked))));
}

#[test]
fn a_request_that_met_an_idle_drain_inside_the_gate_takes_it_back() {
    let mut bench = serving();
    bench.obedient = false;
    assert!(names(&bench.run(300_001)).contains(&"a refuse Draining".to_owned()));
    assert_eq!(names(&bench.figures("g1", "a", 1, 0)), ["a admit"]);
}

#[test]
fn an_operator_who_wakes_what_serves_keeps_nothing_awake_for_ever() {
    let mut bench = serving();
    bench.run(200_000);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Wake,
    });
    bench.run(200_000);
    assert_eq!(bench.phase("a"), "Serving", "it counts as use");
    bench.run(101_000);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn a_pinned_model_that_an_operator_put_to_sleep_sleeps_until_somebody_asks() {
    let mut pinned = spec("a");
    pinned.pinned = true;
    let mut bench = Bench::new(&[pinned], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    assert_eq!(bench.phase("a"), "Serving");
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.run(60_000);
    assert_eq!(bench.phase("a"), "Asleep");
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.run(600_000);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn requests_of_a_model_that_is_disabled_on_its_way_are_told() {
    let mut bench = Bench::ready(&["a"]);
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Waking");
    let effects = bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Disable,
    });
    assert_eq!(names(&effects), ["a refuse Disabled"]);
}

#[test]
fn a_removal_that_is_taken_back_leaves_the_model_asleep() {
    let mut bench = Bench::ready(&["a"]);
    bench.obedient = false;
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(bench.phase("a"), "Draining");
    bench.event(Event::ModelSet(Box::new(spec("a"))));
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn a_removed_engine_holds_its_memory_until_it_is_gone() {
    let mut bench = settled(&[spec("a")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(bench.phase("a"), "Removed");
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(17 * GIB));
    let attempt = bench.removed_by();
    bench.event(Event::EngineGone {
        model: id("a"),
        attempt,
        cause: "removed".into(),
    });
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(0));
}

#[test]
fn memory_of_an_engine_on_two_gpus_is_half_on_each() {
    let mut wide = spec("a");
    wide.gpus = vec![GpuId(0), GpuId(1)];
    let mut bench = Bench::on(2, &[wide], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.engines.get_mut(&id("a")).expect("known").wake = Some(Outcome::Done {
        took: 600,
        memory: Memory::on_gpus(Bytes(36 * GIB)),
    });
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.core.gpus()[1].reserved, Bytes(18 * GIB));
}

#[test]
fn a_new_declaration_of_memory_replaces_what_was_measured() {
    let mut bench = serving();
    let mut larger = spec("a");
    larger.awake = Bytes(20 * GIB);
    bench.event(Event::ModelSet(Box::new(larger.clone())));
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(20 * GIB));
}

/// `a` serves in a control that has just taken over, of whose gates nothing is heard any more; a stranger puts it to sleep with two
/// requests in it, before anybody looks.
fn frozen_by_a_stranger(tier: Option<Tier>) -> Bench {
    let mut model = spec("a");
    model.tier = tier;
    let mut bench = Bench::new(&[model], EngineState::Awake);
    bench.run(700_000);
    assert_eq!(bench.phase("a"), "Serving");
    let engine = bench.engines.get_mut(&id("a")).expect("known");
    (engine.state, engine.memory, engine.count) = (EngineState::Asleep, Bytes(GIB), 2);
    bench.log.clear();
    bench
}

#[test]
fn what_a_stranger_froze_before_a_drain_asks_is_not_removed() {
    let mut bench = frozen_by_a_stranger(None);
    bench.event(Event::ModelRemoved(id("a")));
    bench.run(10_000);
    assert_eq!(acts(&bench.log), ["wake a"], "{}", bench.sentences());
    bench.engines.get_mut(&id("a")).expect("known").count = 0;
    assert_eq!(acts(&bench.run(1_000)), ["removed a"]);
}

#[test]
fn what_a_stranger_froze_before_a_drain_asks_does_not_end() {
    let mut bench = frozen_by_a_stranger(Some(Tier::Stopped));
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    assert_eq!(
        acts(&bench.log),
        ["wake a", "a admit"],
        "{}",
        bench.sentences()
    );
}

#[test]
fn an_engine_that_sleeps_and_does_not_say_what_is_in_it_is_not_removed() {
    let mut bench = frozen_by_a_stranger(None);
    bench.counted = false;
    bench.event(Event::ModelRemoved(id("a")));
    bench.run(10_000);
    assert_eq!(acts(&bench.log), Vec::<String>::new());
    bench.counted = true;
    assert_eq!(acts(&bench.run(2_000)), ["wake a"]);
}
