//! What happens the second time, and the third: drains that ran out, engines that die again, requests that were frozen before, outcomes
//! that come late.

use super::*;

/// a and b are busy and cannot be frozen; c waits.
fn unwilling() -> Bench {
    let mut models = [spec("a"), spec("b"), spec("c")];
    for model in &mut models {
        model.on_drain_timeout = OnDrainTimeout::Cancel;
        model.max_wait = Millis(0);
    }
    // Only one of the two may go.
    models[1].pinned = true;
    let mut bench = started(&models);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        bench.engines.get_mut(&id(model)).expect("known").count = 1;
    }
    bench.run(11_000);
    bench.figures("g1", "c", 0, 1);
    bench
}

/// How long a model stays in the phase that it is in.
fn lasts(bench: &mut Bench, model: &str) -> u64 {
    let (began, phase) = (bench.now, bench.phase(model));
    while bench.phase(model) == phase && bench.now < began + 1_000_000 {
        bench.run(100);
    }
    bench.now - began
}

fn is_about(length: u64, expected: u64) -> bool {
    (expected.saturating_sub(200)..=expected + 200).contains(&length)
}

#[test]
fn a_drain_that_ran_out_is_twice_as_long_next_time_and_its_model_rests_as_long() {
    let mut bench = unwilling();
    for drain in [30_000, 60_000, 120_000] {
        assert_eq!(bench.phase("a"), "Draining");
        let drained = lasts(&mut bench, "a");
        assert!(is_about(drained, drain), "{drained}, not {drain}");
        assert_eq!(bench.phase("a"), "Serving");
        let served = lasts(&mut bench, "a");
        assert!(is_about(served, drain), "{served}, not {drain}");
    }
}

#[test]
fn a_shorter_drain_for_its_operator_does_not_shorten_its_rest() {
    let mut bench = unwilling();
    assert!(is_about(lasts(&mut bench, "a"), 30_000));
    let reopened = bench.now;
    let mut hasty = bench.core.spec(&id("a")).expect("known").clone();
    hasty.drain_timeout = Millis(1_000);
    bench.event(Event::ModelSet(Box::new(hasty)));
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    assert_eq!(bench.phase("a"), "Draining");
    assert!(is_about(lasts(&mut bench, "a"), 1_000));
    lasts(&mut bench, "a");
    let rested = bench.now - reopened;
    assert!(is_about(rested, 30_000), "{rested}");
}

#[test]
fn a_drain_for_another_is_as_long_as_the_first() {
    let mut bench = unwilling();
    assert!(is_about(lasts(&mut bench, "a"), 30_000));
    bench.figures("g1", "c", 0, 0);
    bench.run(31_000);
    let other = ModelSpec {
        max_wait: Millis(0),
        ..spec("d")
    };
    bench.add(&other, EngineState::Asleep);
    bench.run(3_000);
    bench.figures("g1", "d", 0, 1);
    for drain in [30_000, 60_000] {
        assert_eq!(bench.phase("a"), "Draining");
        assert!(is_about(lasts(&mut bench, "a"), drain));
        lasts(&mut bench, "a");
    }
}

#[test]
fn a_model_that_slept_is_drained_as_long_as_the_first_time() {
    let mut bench = unwilling();
    assert!(is_about(lasts(&mut bench, "a"), 30_000));
    bench.figures("g1", "a", 0, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 0;
    bench.run(31_000);
    assert_eq!((bench.phase("a"), bench.phase("c")), ("Asleep", "Serving"));
    // It comes back, and is wanted gone by the same model again.
    bench.figures("g1", "c", 0, 0);
    bench.figures("g1", "a", 0, 1);
    bench.run(11_000);
    bench.figures("g1", "a", 1, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 1;
    bench.run(11_000);
    bench.figures("g1", "c", 0, 1);
    assert_eq!(bench.phase("a"), "Draining");
    assert!(is_about(lasts(&mut bench, "a"), 30_000));
}

#[test]
fn nobody_is_idle_in_whom_a_request_runs() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 1;
    // Used last a long time ago.
    let running = Figures {
        in_flight: 1,
        ..Figures::default()
    };
    let gate = GateId("g1".into());
    let known = bench.gates.get_mut(&gate).expect("known");
    known.2.insert(id("a"), running);
    assert_eq!(names(&bench.run(700_000)), ["a admit"; 0]);
    bench.engines.get_mut(&id("a")).expect("known").count = 0;
    let effects = bench.figures("g1", "a", 0, 0);
    assert_eq!(names(&effects), ["a refuse Draining", "sleep a Keep"]);
}

/// a is frozen, and its wake has failed; its neighbours are awake and stay for a while.
fn frozen_and_failed() -> Bench {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    let error = ActionError {
        cause: "CUDA error".into(),
        engine: EngineState::Asleep,
        no_room: false,
    };
    bench.engines.get_mut(&id("a")).expect("known").wake = Some(Outcome::Failed(error));
    bench.run(36_000);
    bench.figures("g1", "c", 0, 0);
    while bench.phase("a") != "Failed" {
        bench.run(100);
    }
    bench
}

#[test]
fn who_was_frozen_waits_from_then_on_though_its_wake_failed() {
    let mut bench = frozen_and_failed();
    // While it cools down c takes its room, and d comes. Nobody else may go.
    for model in ["b", "c"] {
        let known = bench.core.models.get_mut(&id(model)).expect("known");
        known.spec.min_runtime = Millis(1_000_000);
    }
    bench.figures("g1", "c", 0, 1);
    bench.add(&spec("d"), EngineState::Asleep);
    bench.run(1_000);
    bench.figures("g1", "d", 0, 1);
    assert_eq!((bench.phase("c"), bench.phase("d")), ("Serving", "Queued"));
    fn known(bench: &Bench) -> &crate::state::ModelState {
        bench.core.models.get(&id("a")).expect("known")
    }
    let frozen = known(&bench).engine.frozen_since;
    assert!(frozen.is_some());
    bench.run(8_000);
    assert_eq!(
        known(&bench).engine.frozen_since,
        frozen,
        "every look counts it"
    );
    while bench.phase("a") == "Failed" {
        bench.run(100);
    }
    assert_eq!(Some(known(&bench).waits_since(Millis(bench.now))), frozen);
    let why_not = bench.core.why_not(Millis(bench.now), &id("d"));
    assert_eq!(why_not.expect("known").ahead, [id("a")]);
}

#[test]
fn an_engine_that_dies_again_and_again_is_not_started_without_end() {
    let mut bench = Bench::ready(&["a"]);
    let dies = |bench: &mut Bench| {
        bench.engines.get_mut(&id("a")).expect("known").state = EngineState::Gone;
        bench.event(Event::EngineGone {
            model: id("a"),
            attempt: None,
            cause: "signal 11".into(),
        })
    };
    bench.figures("g1", "a", 0, 1);
    for _ in 0..5 {
        assert!(names(&dies(&mut bench)).contains(&"start a".to_owned()));
        assert_eq!(bench.phase("a"), "Serving");
        bench.run(1_000);
    }
    assert_eq!(names(&dies(&mut bench)), ["a refuse EngineFailed"]);
    assert_eq!(names(&bench.run(60_000)), ["a admit"; 0]);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Wake,
    });
    bench.run(1_000);
    assert_eq!(bench.phase("a"), "Serving");
    // What happened long ago is forgiven.
    bench.run(600_000);
    for _ in 0..12 {
        bench.run(130_000);
        dies(&mut bench);
        bench.run(6_000);
        assert_eq!(bench.phase("a"), "Serving");
    }
}

/// Tells outcomes of the attempts around the running one: none of them changes anything.
fn other_attempts(bench: &mut Bench, running: Attempt, event: impl Fn(Attempt) -> Event) {
    let before = bench.core.view();
    for other in [0, running.0 - 1, running.0 + 1, u64::MAX] {
        let effects = bench.event(event(Attempt(other)));
        assert!(effects.is_empty(), "{other}: {effects:?}");
        assert_eq!(bench.core.view(), before);
    }
}

#[test]
fn outcomes_of_other_attempts_end_neither_starts_nor_first_sleeps_and_wakes() {
    let new = ModelSpec {
        conditioned: false,
        ..spec("a")
    };
    let mut bench = Bench::new(&[new], EngineState::Gone);
    bench.answering = false;
    let running = |bench: &Bench| {
        let attempt = |effect: &Effect| {
            if let Effect::Observe { attempt, .. }
            | Effect::Start { attempt, .. }
            | Effect::Wake { attempt, .. }
            | Effect::Sleep { attempt, .. } = effect
            {
                Some(*attempt)
            } else {
                None
            }
        };
        bench.log.iter().rev().find_map(attempt).expect("under way")
    };
    let model = || id("a");
    let done = |gib: u64| Outcome::Done {
        took: 10,
        memory: Memory::on_gpus(Bytes(gib * GIB)),
    };
    let seen = |attempt| Event::Observed {
        model: model(),
        attempt,
        observation: Observation {
            state: EngineState::Gone,
            count: None,
            memory: Memory::default(),
            tier: None,
        },
    };
    let started = |attempt| Event::Started {
        model: model(),
        attempt,
        outcome: done(17),
    };
    let slept = |attempt| Event::Slept {
        model: model(),
        attempt,
        outcome: done(1),
    };
    let woke = |attempt| Event::Woke {
        model: model(),
        attempt,
        outcome: done(17),
    };
    let steps: [&dyn Fn(Attempt) -> Event; 5] = [&seen, &started, &slept, &woke, &slept];
    bench.run(2_500);
    for step in steps {
        let attempt = running(&bench);
        other_attempts(&mut bench, attempt, step);
        bench.event(step(attempt));
        bench.run(10_000);
    }
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn gates_are_told_how_long_it_takes() {
    let told = |bench: &Bench| match bench.core.view().remove(0).admission {
        Admission::Hold { estimated_wait } => estimated_wait,
        Admission::Refuse { retry_after, .. } => u64::from(retry_after) * 1_000,
        Admission::Admit => 0,
    };
    let about = |told: u64, takes: u64| {
        assert!((takes..2 * takes).contains(&told), "{told}, not {takes}");
    };
    let mut bench = Bench::ready(&["a"]);
    let wake = spec("a").guess.wake.0;
    about(told(&bench), wake);
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Waking");
    about(told(&bench), wake);
    let mut bench = Bench::ready(&["a"]);
    bench.engines.get_mut(&id("a")).expect("known").wake = Some(Outcome::Failed(ActionError {
        cause: "CUDA error".into(),
        engine: EngineState::Asleep,
        no_room: false,
    }));
    bench.figures("g1", "a", 0, 1);
    about(told(&bench), 10_000);
    let new = ModelSpec {
        conditioned: false,
        ..spec("a")
    };
    let mut bench = Bench::new(&[new], EngineState::Gone);
    bench.hello("g1", 1);
    bench.answering = false;
    bench.run(2_500);
    let view = bench.core.view().remove(0);
    let Admission::Refuse { reason, .. } = view.admission else {
        panic!("{view:?}")
    };
    assert_eq!(reason, RefuseReason::Booting);
}
