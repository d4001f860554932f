//! What takes time and may be taken back: drains of every kind, looks, cool-downs, and the wishes behind them.

use super::*;
use crate::{decision::Taken, phase::Tier};

fn engine<'a>(bench: &'a mut Bench, model: &str) -> &'a mut Engine {
    bench.engines.get_mut(&id(model)).expect("known")
}

fn operator(bench: &mut Bench, model: &str, verb: Operator) -> Vec<Effect> {
    let model = id(model);
    bench.event(Event::Operator { model, verb })
}

fn failed(engine: EngineState) -> Outcome {
    Outcome::Failed(ActionError {
        cause: "CUDA error".into(),
        engine,
        no_room: false,
    })
}

/// a serves, with so many requests in flight.
fn serving(in_flight: u64, change: impl Fn(&mut ModelSpec)) -> Bench {
    let mut model = spec("a");
    change(&mut model);
    let mut bench = started(&[model]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", in_flight, 0);
    engine(&mut bench, "a").count = in_flight;
    bench
}

/// How long until a model is told to sleep.
fn until_it_sleeps(bench: &mut Bench) -> u64 {
    let began = bench.now;
    while bench.phase("a") == "Draining" && bench.now < began + 100_000 {
        bench.run(10);
    }
    assert_eq!(bench.phase("a"), "Asleep");
    bench.now - began
}

fn never_counts(model: &mut ModelSpec) {
    (model.caps.counts, model.caps.lossless) = (false, false);
    model.on_lease_end = OnLeaseEnd::Hold;
}

#[test]
fn an_engine_that_nobody_can_ask_is_given_its_whole_drain_and_the_way_of_a_request() {
    for (timeout, takes) in [(30_000, 30_000), (100, 3_000)] {
        let mut bench = serving(0, |model| {
            never_counts(model);
            model.drain_timeout = Millis(timeout);
        });
        bench.counted = false;
        operator(&mut bench, "a", Operator::Sleep);
        let took = until_it_sleeps(&mut bench);
        assert!((takes..takes + 200).contains(&took), "{took}");
    }
}

#[test]
fn what_a_silent_gate_had_in_an_engine_that_nobody_can_ask_is_not_cut() {
    for acknowledged in [false, true] {
        let mut bench = serving(0, |model| {
            never_counts(model);
            model.on_drain_timeout = OnDrainTimeout::Cancel;
        });
        bench.counted = false;
        bench.hello("g2", 2);
        bench.figures("g2", "a", 1, 0);
        let gate = GateId("g2".into());
        let known = bench.gates[&gate].clone();
        if !acknowledged {
            bench.gates.remove(&gate);
        }
        operator(&mut bench, "a", Operator::Sleep);
        bench.gates.remove(&gate);
        let effects = bench.run(60_000);
        assert!(!names(&effects).contains(&"sleep a Keep".to_owned()));
        assert_eq!(bench.phase("a"), "Serving", "{known:?}");
    }
}

#[test]
fn nothing_that_cannot_count_sleeps_on_a_gpu_that_is_stopped() {
    let mut bench = serving(1, |model| model.caps.counts = false);
    bench.counted = false;
    operator(&mut bench, "a", Operator::Sleep);
    for _ in 0..3 {
        let used = Bytes(30 * GIB);
        let gpu = GpuId(0);
        bench.event(Event::GpuRead { gpu, used });
    }
    bench.figures("g1", "a", 0, 0);
    bench.run(60_000);
    assert_eq!(bench.phase("a"), "Draining");
    bench.event(Event::GpuAccepted(GpuId(0)));
    bench.run(1_000);
    assert_eq!(bench.phase("a"), "Asleep");
    // No barrier rises for what cannot be done.
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    for _ in 0..3 {
        let gpu = GpuId(0);
        bench.event(Event::GpuRead {
            gpu,
            used: Bytes(0),
        });
    }
    assert_eq!(names(&operator(&mut bench, "a", Operator::Sleep)), [""; 0]);
}

#[test]
fn a_drain_is_taken_back_with_the_wish_behind_it() {
    let mut idle = serving(0, |model| model.idle_timeout = Some(Millis(1_000)));
    idle.obedient = false;
    idle.run(1_100);
    assert_eq!(idle.phase("a"), "Draining");
    assert_eq!(
        names(&operator(&mut idle, "a", Operator::Wake)),
        ["a admit"]
    );
    let mut bench = serving(1, |_| {});
    operator(&mut bench, "a", Operator::Disable);
    assert_eq!(bench.phase("a"), "Draining");
    assert_eq!(
        names(&operator(&mut bench, "a", Operator::Enable)),
        ["a admit"]
    );
    operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(bench.phase("a"), "Draining");
    assert_eq!(
        names(&operator(&mut bench, "a", Operator::Wake)),
        ["a admit"]
    );
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(bench.phase("a"), "Draining");
    let back = bench.event(Event::ModelSet(Box::new(spec("a"))));
    assert_eq!(names(&back), ["a admit"]);
}

#[test]
fn a_wish_to_wake_what_is_out_of_service_is_not_fulfilled_later() {
    let mut bench = Bench::ready(&["a"]);
    for verb in [Operator::Disable, Operator::Wake, Operator::Enable] {
        operator(&mut bench, "a", verb);
    }
    bench.run(1_000);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
}

#[test]
fn an_operator_whose_drain_ran_out_is_not_obeyed_without_end() {
    let mut bench = serving(1, |model| model.on_drain_timeout = OnDrainTimeout::Cancel);
    operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(acts(&bench.run(31_000)), ["a admit"]);
    assert_eq!(names(&bench.run(120_000)), [""; 0]);
}

#[test]
fn a_removed_model_is_neither_frozen_nor_cut() {
    for on_drain_timeout in [OnDrainTimeout::Freeze, OnDrainTimeout::Abort] {
        let mut bench = serving(1, |model| {
            model.on_drain_timeout = on_drain_timeout;
            model.on_lease_end = OnLeaseEnd::Hold;
        });
        bench.event(Event::ModelRemoved(id("a")));
        assert_eq!(acts(&bench.run(100_000)), [""; 0]);
        engine(&mut bench, "a").count = 0;
        bench.figures("g1", "a", 0, 0);
        assert_eq!(bench.phase("a"), "Removed");
    }
}

#[test]
fn requests_that_are_frozen_keep_their_process() {
    let mut bench = serving(1, |model| {
        model.tier = Some(Tier::Stopped);
        model.on_lease_end = OnLeaseEnd::Hold;
    });
    operator(&mut bench, "a", Operator::Sleep);
    let effects = bench.run(30_100);
    assert_eq!(acts(&effects), ["sleep a Keep", "wake a", "a admit"]);
    engine(&mut bench, "a").count = 0;
    bench.figures("g1", "a", 0, 0);
    let effects = operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(acts(&effects), ["kill a"]);
}

#[test]
fn an_idle_engine_that_refuses_to_sleep_is_not_asked_all_the_time() {
    let mut bench = serving(0, |model| model.idle_timeout = Some(Millis(1_000)));
    engine(&mut bench, "a").sleep = Some(failed(EngineState::Awake));
    assert_eq!(acts(&bench.run(9_000)), ["sleep a Keep", "a admit"]);
    assert_eq!(acts(&bench.run(6_000)), ["sleep a Keep", "a admit"]);
}

#[test]
fn an_engine_that_is_stopped_instead_of_put_to_sleep_has_not_died() {
    let mut bench = serving(0, |model| {
        model.tier = Some(Tier::Stopped);
        model.on_lease_end = OnLeaseEnd::Hold;
    });
    for _ in 0..7 {
        assert_eq!(bench.phase("a"), "Serving");
        let effects = operator(&mut bench, "a", Operator::Sleep);
        assert_eq!(acts(&effects), ["kill a"]);
        bench.run(1_000);
        bench.figures("g1", "a", 0, 1);
        bench.figures("g1", "a", 0, 0);
        bench.run(1_000);
    }
    assert!(!bench.sentences().contains("died"));
}

#[test]
fn what_was_cut_is_nobodys_wish() {
    let mut bench = serving(1, |model| model.on_drain_timeout = OnDrainTimeout::Abort);
    engine(&mut bench, "a").sleep = None;
    operator(&mut bench, "a", Operator::Sleep);
    let effects = bench.run(30_100);
    assert_eq!(acts(&effects), ["sleep a Abort"]);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn a_count_is_asked_for_once_and_again_when_nobody_answers() {
    let mut bench = serving(0, |_| {});
    bench.answering = false;
    bench.log.clear();
    operator(&mut bench, "a", Operator::Sleep);
    // One of them is the look of every second.
    bench.run(2_900);
    assert_eq!(looks(&bench.log).len(), 2);
    bench.run(200);
    assert_eq!(looks(&bench.log).len(), 3);
}

#[test]
fn a_broken_attached_engine_is_not_put_to_sleep() {
    let mut bench = serving(0, |model| model.caps.restartable = false);
    engine(&mut bench, "a").state = EngineState::Broken;
    let effects = operator(&mut bench, "a", Operator::Sleep);
    assert!(!names(&effects).contains(&"sleep a Keep".to_owned()));
    assert_eq!(bench.phase("a"), "Failed");
    // It ends by hand: what it held is free.
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(17 * GIB));
    engine(&mut bench, "a").state = EngineState::Gone;
    bench.run(1_100);
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(0));
}

#[test]
fn only_drains_that_had_to_wait_are_learned() {
    let mut bench = serving(1, |_| {});
    let learned = |bench: &Bench| {
        let state = bench.core.models.get(&id("a")).expect("known");
        state.learned.drain.expected()
    };
    operator(&mut bench, "a", Operator::Sleep);
    bench.run(12_000);
    engine(&mut bench, "a").count = 0;
    bench.figures("g1", "a", 0, 0);
    bench.run(1_000);
    let first = learned(&bench);
    assert_eq!(first.measured, 1);
    assert!((12_000..15_000).contains(&first.promised.0));
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(bench.phase("a"), "Asleep");
    assert_eq!(learned(&bench), first);
}

#[test]
fn nobody_is_idle_for_gates_that_have_left() {
    let mut bench = serving(0, |model| model.idle_timeout = Some(Millis(1_000)));
    let gate = GateId("g1".into());
    let (stream, sequence) = bench.next(&gate);
    bench.gates.clear();
    bench.event(Event::Bye {
        gate,
        stream,
        sequence,
    });
    bench.run(30_000);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn a_use_that_a_hello_tells_of_counts() {
    let mut bench = serving(0, |_| {});
    bench.run(250_000);
    let gate = GateId("g1".into());
    let used = Figures {
        last_used_age: Some(0),
        ..Figures::default()
    };
    let known = bench.gates.get_mut(&gate).expect("known");
    known.2.insert(id("a"), used);
    bench.hello("g1", 2);
    let known = bench.gates.get_mut(&gate).expect("known");
    known.2.clear();
    bench.run(200_000);
    assert_eq!(bench.phase("a"), "Serving");
    bench.run(101_000);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn as_many_go_as_are_needed_and_all_at_once() {
    let large = ModelSpec {
        awake: Bytes(23 * GIB),
        ..spec("large")
    };
    let mut bench = started(&[spec("a"), spec("b"), large]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    bench.run(11_000);
    // 17 GiB are missing, and each gives 16.
    let effects = bench.figures("g1", "large", 0, 1);
    let choice = bench.core.explain(&id("large"), 1).remove(0);
    assert_eq!(choice.taken, Taken::Evict(vec![id("a"), id("b")]));
    assert!(names(&effects).contains(&"b refuse Draining".to_owned()));
}

#[test]
fn a_model_on_two_gpus_is_weighed_once() {
    let both = |name: &str| ModelSpec {
        gpus: vec![GpuId(0), GpuId(1)],
        awake: Bytes(30 * GIB),
        ..spec(name)
    };
    let mut bench = Bench::on(2, &[both("a"), both("b")], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.run(11_000);
    bench.figures("g1", "b", 0, 1);
    let choice = bench.core.explain(&id("b"), 1).remove(0);
    assert_eq!(choice.weighed.len(), 1);
    assert_eq!(
        choice
            .need
            .iter()
            .filter(|need| need.missing > Bytes(0))
            .count(),
        2
    );
}

#[test]
fn requests_in_an_engine_without_a_count_that_is_found_asleep_are_demand() {
    let mut bench = serving(2, |model| model.caps.counts = false);
    bench.counted = false;
    engine(&mut bench, "a").state = EngineState::Asleep;
    assert_eq!(names(&bench.run(1_100)), ["wake a", "a admit"]);
}

#[test]
fn a_first_sleep_that_frees_nothing_ends_the_engine() {
    let new = ModelSpec {
        conditioned: false,
        ..spec("a")
    };
    let mut bench = Bench::new(&[new], EngineState::Gone);
    engine(&mut bench, "a").sleep = Some(Outcome::Done {
        took: 90,
        memory: Memory::on_gpus(Bytes(17 * GIB)),
    });
    let effects = bench.run(10_000);
    assert_eq!(acts(&effects), ["start a", "sleep a Keep", "kill a"]);
    // It is tried again, though nobody asks.
    engine(&mut bench, "a").sleep = None;
    bench.run(30_000);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn a_start_whose_process_is_gone_ends_nothing() {
    let mut bench = Bench::ready(&["a"]);
    engine(&mut bench, "a").state = EngineState::Gone;
    bench.run(1_100);
    bench.answering = false;
    let effects = bench.figures("g1", "a", 0, 1);
    let attempt = effects.iter().find_map(|effect| {
        if let Effect::Start { attempt, .. } = effect {
            Some(*attempt)
        } else {
            None
        }
    });
    let effects = bench.event(Event::Started {
        model: id("a"),
        attempt: attempt.expect("started"),
        outcome: failed(EngineState::Gone),
    });
    assert_eq!(names(&effects), ["a refuse WakeFailed"]);
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(0));
}

#[test]
fn what_is_measured_anew_is_kept_for_the_next_life() {
    let mut bench = Bench::ready(&["a"]);
    let kept = |effects: &[Effect]| {
        let mut effects = effects.iter();
        effects.any(|effect| matches!(effect, Effect::Footprint { .. }))
    };
    engine(&mut bench, "a").wake = Some(Outcome::Done {
        took: 600,
        memory: Memory::on_gpus(Bytes(19 * GIB)),
    });
    assert!(kept(&bench.figures("g1", "a", 0, 1)));
    bench.figures("g1", "a", 0, 0);
    operator(&mut bench, "a", Operator::Sleep);
    assert!(!kept(&bench.figures("g1", "a", 0, 1)), "nothing new");
}

#[test]
fn a_wish_for_sleep_of_one_that_waits_does_not_meet_its_next_service() {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    operator(&mut bench, "c", Operator::Sleep);
    bench.run(40_000);
    assert_eq!(bench.phase("c"), "Serving");
}

#[test]
fn looks_that_nobody_answers_are_asked_for_again_and_the_first_is_not_waited_for() {
    let mut bench = Bench::new(&[spec("a"), spec("b")], EngineState::Asleep);
    bench.hello("g1", 1);
    bench.answering = false;
    bench.run(7_100);
    assert!(bench.core.is_open());
    bench.answering = true;
    bench.run(2_000);
    bench.answering = false;
    bench.run(2_000);
    bench.log.clear();
    bench.run(10_500);
    assert_eq!(
        looks(&bench.log).len(),
        4,
        "two of each, five seconds apart"
    );
}

#[test]
fn a_look_from_before_a_wake_says_nothing_of_what_serves() {
    let mut bench = Bench::ready(&["a"]);
    bench.answering = false;
    bench.log.clear();
    bench.run(1_500);
    let (model, attempt) = looks(&bench.log).pop().expect("looked at");
    bench.answering = true;
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Serving");
    let seen = Observation {
        state: EngineState::Asleep,
        count: Some(0),
        memory: Memory::on_gpus(Bytes(GIB)),
        tier: None,
    };
    bench.event(Event::Observed {
        model,
        attempt,
        observation: seen,
    });
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn cool_downs_double_and_begin_anew_after_a_success() {
    let mut bench = Bench::ready(&["a"]);
    let cools = |bench: &mut Bench| {
        let began = bench.now;
        assert_eq!(bench.phase("a"), "Failed");
        while bench.core.models.get(&id("a")).expect("known").since.0 == began {
            bench.run(100);
        }
        bench.now - began
    };
    for round in [&[10_000_u64, 20_000][..], &[10_000]] {
        engine(&mut bench, "a").wake = Some(failed(EngineState::Asleep));
        bench.figures("g1", "a", 0, 1);
        for expected in round {
            let cooled = cools(&mut bench);
            assert!((*expected..expected + 200).contains(&cooled), "{cooled}");
            bench.now = bench.core.models.get(&id("a")).expect("known").since.0;
        }
        engine(&mut bench, "a").wake = None;
        bench.run(60_000);
        assert_eq!(bench.phase("a"), "Serving");
        bench.figures("g1", "a", 0, 0);
        operator(&mut bench, "a", Operator::Sleep);
    }
}

#[test]
fn a_freeze_that_is_over_does_not_count_for_the_next() {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    bench.run(36_000);
    bench.figures("g1", "c", 0, 0);
    bench.run(15_000);
    let frozen = |bench: &Bench| {
        let state = bench.core.models.get(&id("a")).expect("known");
        (state.engine.inside, state.engine.frozen_since)
    };
    assert_eq!((bench.phase("a"), frozen(&bench)), ("Serving", (0, None)));
}

#[test]
fn waits_are_counted_with_what_they_were_spent_on() {
    let mut bench = busy();
    let pinned = bench.core.models.get_mut(&id("b")).expect("known");
    pinned.spec.pinned = true;
    bench.figures("g1", "c", 0, 1);
    bench.run(36_000);
    assert_eq!(bench.phase("c"), "Serving");
    let tally = bench.core.tally();
    let spent = tally.waits;
    assert!((4_900..5_200).contains(&spent.turn), "{spent:?}");
    assert!((29_900..30_200).contains(&spent.drain), "{spent:?}");
    assert!(spent.sleep < 300 && spent.wake < 300, "{spent:?}");
    assert_eq!(tally.estimates.scored, 3);
    assert!(tally.estimates.estimated > 5_000);
    assert!(tally.estimates.kept >= 2);
    // a wants back within a minute of making room.
    bench.figures("g1", "c", 0, 0);
    bench.run(20_000);
    assert_eq!(bench.phase("a"), "Serving");
    assert_eq!(bench.core.tally().thrash, 1);
}

#[test]
fn the_core_wants_to_be_called_when_a_gate_is_fenced_and_when_it_opens() {
    let mut bench = Bench::new(&[], EngineState::Asleep);
    assert_eq!(bench.core.next_deadline(), Some(Millis(2_001)));
    bench.run(3_000);
    bench.hello("g1", 1);
    assert_eq!(bench.core.next_deadline(), Some(Millis(12_000)));
}
