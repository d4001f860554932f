//! What requests are told of their wait, against what follows.

use super::*;
use crate::decision::Verdict;

/// The estimated wait of a model that does not serve.
fn told(bench: &Bench, model: &str) -> Millis {
    let why_not = bench.core.why_not(Millis(bench.now), &id(model));
    why_not.expect("known").estimated_wait
}

/// Something happens that engines answer later. Returns what was asked of them.
fn slow(bench: &mut Bench, act: impl FnOnce(&mut Bench)) -> Vec<Effect> {
    bench.answering = false;
    act(bench);
    bench.answering = true;
    std::mem::take(&mut bench.log)
}

/// The wake among these effects has ended.
fn woke(bench: &mut Bench, effects: &[Effect], model: &str) {
    let attempt = effects.iter().find_map(|effect| {
        let Effect::Wake {
            model: woken,
            attempt,
            ..
        } = effect
        else {
            return None;
        };
        (*woken == id(model)).then_some(*attempt)
    });
    let outcome = bench.moved(&id(model), EngineState::Awake, 600);
    bench.event(Event::Woke {
        model: id(model),
        attempt: attempt.expect("it was woken"),
        outcome,
    });
}

#[test]
fn who_is_on_its_way_will_go_again() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    let wakes = slow(&mut bench, |bench| {
        bench.figures("g1", "b", 0, 1);
    });
    // There is room for two, nobody else serves, and a must stay for a while: b and a are all that could go.
    bench.figures("g1", "c", 0, 1);
    let estimate = told(&bench, "c");
    let stays = spec("a").min_runtime;
    assert!(
        estimate > stays && estimate < stays + Millis(5_000),
        "{estimate}"
    );
    woke(&mut bench, &wakes, "b");
    bench.figures("g1", "b", 0, 0);
    bench.run(estimate.0);
    assert_eq!(bench.phase("c"), "Serving");
}

#[test]
fn nothing_is_known_only_where_nobody_could_ever_go() {
    let pinned = |name: &str| ModelSpec {
        pinned: true,
        ..spec(name)
    };
    let mut bench = started(&[pinned("a"), spec("b"), spec("c")]);
    slow(&mut bench, |bench| {
        bench.figures("g1", "b", 0, 1);
    });
    bench.figures("g1", "c", 0, 1);
    let estimate = told(&bench, "c");
    assert!(estimate < Millis::seconds(20), "b goes: {estimate}");
    let mut bench = started(&[pinned("a"), pinned("b"), spec("c")]);
    bench.figures("g1", "c", 0, 1);
    assert_eq!(told(&bench, "c"), Millis::seconds(60));
}

#[test]
fn each_turn_ahead_has_its_time_to_run() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut bench = Bench::ready(&names);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    bench.run(20_000);
    // Two go at once for two; whoever is next waits until one of those may go, and so on.
    for model in &names[2..] {
        bench.answering = false;
        bench.figures("g1", model, 0, 1);
    }
    let (first, last) = (told(&bench, "c"), told(&bench, "f"));
    let stays = spec("a").min_runtime;
    assert!(first < Millis(2_000), "{first}");
    assert!(
        last > stays && last < stays + stays + Millis(5_000),
        "{last}"
    );
}

#[test]
fn an_action_is_learned_as_long_as_it_was_waited_for() {
    let mut bench = Bench::ready(&["a"]);
    let wakes = slow(&mut bench, |bench| {
        bench.figures("g1", "a", 0, 1);
    });
    bench.now += 2_000;
    woke(&mut bench, &wakes, "a");
    let state = bench.core.models.get(&id("a")).expect("known");
    assert_eq!(state.learned.wake.median(), Millis(2_000));
}

#[test]
fn what_is_overdue_is_expected_to_last() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    slow(&mut bench, |bench| {
        bench.figures("g1", "b", 0, 1);
    });
    let left = |bench: &Bench| {
        let state = bench.core.models.get(&id("b")).expect("known");
        state.remaining(Millis(bench.now))
    };
    let takes = left(&bench);
    assert!(takes >= Millis(600), "{takes}");
    bench.now += 500;
    assert_eq!(left(&bench) + Millis(500), takes);
    bench.now += 1_100;
    assert!(left(&bench) > Millis(1_000), "{}", left(&bench));
}

/// Seconds of Retry-After of a model that drains.
fn retry_after(bench: &Bench, model: &str) -> u32 {
    let mut views = bench.core.view().into_iter();
    let view = views.find(|view| view.id == id(model)).expect("known");
    let Admission::Refuse { retry_after, .. } = view.admission else {
        panic!("{view:?}")
    };
    retry_after
}

#[test]
fn a_drain_that_lasts_longer_than_most_tells_so() {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    bench.run(6_000);
    assert_eq!(
        (bench.phase("a"), retry_after(&bench, "a")),
        ("Draining", 5)
    );
    bench.run(6_000);
    // Its request is frozen at the end of the drain, after half a minute.
    assert!(retry_after(&bench, "a") > 20);
}

/// A model that was seen to need 20 s to wake, and sleeps, beside others.
fn long_to_wake(models: &[ModelSpec]) -> Bench {
    let mut bench = started(models);
    let wakes = slow(&mut bench, |bench| {
        bench.figures("g1", "a", 0, 1);
        bench.run(20_000);
    });
    woke(&mut bench, &wakes, "a");
    bench.figures("g1", "a", 0, 0);
    bench.run(12_000);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.run(1_000);
    assert_eq!(bench.phase("a"), "Asleep");
    bench
}

/// A gate refuses a request that its client would not let wait so long, and says when to come back: in so many ms.
fn refused(bench: &mut Bench, model: &str) -> u64 {
    let estimate = told(bench, model);
    let gate = GateId("g1".into());
    let figures = Figures {
        asked: 1,
        last_refused_age: Some(0),
        ..Figures::default()
    };
    let known = bench.gates.get_mut(&gate).expect("said Hello");
    known.2.insert(id(model), figures);
    bench.report("g1");
    bench.figures("g1", model, 0, 0);
    u64::from(estimate.retry_after()) * 1_000
}

#[test]
fn who_cannot_wait_so_long_comes_back_to_a_model_that_is_there() {
    let hasty = ModelSpec {
        idle_timeout: Some(Millis(1_000)),
        ..spec("a")
    };
    let mut bench = long_to_wake(&[hasty]);
    let comes_back = refused(&mut bench, "a") + 1_500;
    assert_eq!(bench.phase("a"), "Serving");
    bench.run(comes_back);
    assert_eq!(bench.phase("a"), "Serving");
    bench.run(5_000);
    assert_eq!(bench.phase("a"), "Asleep");
}

#[test]
fn who_was_told_to_come_back_is_waited_for_as_long_as_for_a_busy_model() {
    let pinned = ModelSpec {
        pinned: true,
        ..spec("b")
    };
    let mut bench = long_to_wake(&[spec("a"), pinned, spec("c")]);
    assert!(refused(&mut bench, "a") > 15_000);
    assert_eq!(bench.phase("a"), "Serving");
    let served = bench.now;
    bench.run(9_000);
    bench.figures("g1", "c", 0, 1);
    bench.run(5_000);
    assert_eq!((bench.phase("a"), bench.phase("c")), ("Serving", "Queued"));
    let choice = bench.core.explain(&id("c"), 1).pop().expect("it waits");
    let spared = choice.weighed.iter().find(|seen| seen.model == id("a"));
    let until = Millis(served) + spec("a").min_runtime + spec("a").max_wait;
    let verdict = spared.expect("weighed").verdict;
    assert_eq!(verdict, Verdict::Expected(until));
    // But not for longer.
    bench.run(2_000);
    assert_eq!((bench.phase("a"), bench.phase("c")), ("Asleep", "Serving"));
}

#[test]
fn one_that_failed_before_it_was_ready_takes_its_cool_down_and_its_start() {
    let new = ModelSpec {
        conditioned: false,
        ..spec("a")
    };
    let mut bench = Bench::new(&[new], EngineState::Gone);
    let failed = Outcome::Failed(ActionError {
        cause: "no weights".into(),
        engine: EngineState::Gone,
        no_room: false,
    });
    let engine = bench.engines.get_mut(&id("a")).expect("known");
    engine.wake = Some(failed);
    while bench.phase("a") != "Failed" {
        bench.run(500);
    }
    let guess = spec("a").guess;
    let estimate = told(&bench, "a");
    assert!(
        estimate > guess.start + guess.sleep + guess.wake,
        "{estimate}"
    );
}

#[test]
fn a_silent_gate_is_part_of_what_a_drain_takes() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    bench.hello("g2", 2);
    bench.run(11_000);
    let gate = GateId("g2".into());
    bench.gates.remove(&gate);
    let stream = StreamId(2);
    bench.event(Event::StreamClosed { gate, stream });
    bench.figures("g1", "c", 0, 1);
    assert_eq!(bench.phase("a"), "Draining");
    // Nobody sleeps before its lease, 5 s, and the margin, 4 s, are over.
    let retry_after = retry_after(&bench, "a");
    assert!((8..=9).contains(&retry_after), "{retry_after}");
}

#[test]
fn a_first_start_waits_for_its_turn_too() {
    let new = |name: &str| ModelSpec {
        conditioned: false,
        ..spec(name)
    };
    let mut bench = Bench::new(&[new("a"), new("b"), new("c")], EngineState::Gone);
    bench.answering = false;
    bench.run(3_000);
    for (model, attempt) in looks(&std::mem::take(&mut bench.log)) {
        let gone = Observation {
            state: EngineState::Gone,
            count: None,
            memory: Memory::default(),
            tier: None,
        };
        bench.event(Event::Observed {
            model,
            attempt,
            observation: gone,
        });
    }
    let guess = spec("a").guess;
    let alone = guess.start + guess.sleep + guess.wake;
    // It is measured behind those who wait for their start.
    let now = bench.core.estimate(Millis(bench.now), &id("a"));
    assert!(now >= alone + guess.start, "{now}");
    assert!(told(&bench, "a") >= alone);
    assert!(
        told(&bench, "c") >= alone + guess.start,
        "{}",
        told(&bench, "c")
    );
}

#[test]
fn a_long_queue_is_not_told_that_everything_takes_longest() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut bench = Bench::ready(&names);
    for model in names {
        let state = bench.core.models.get_mut(&id(model)).expect("known");
        state.spec.min_runtime = Millis(0);
        // Three of four drains are over soon, the others last until their end.
        for took in [1_000, 1_000, 1_000, 30_000] {
            state.learned.drain.push(Millis(took));
        }
    }
    bench.answering = false;
    for model in &names[2..] {
        bench.figures("g1", model, 0, 1);
    }
    let (one, last) = (told(&bench, "e"), told(&bench, "h"));
    assert!(one > Millis(30_000), "{one}");
    assert!(
        last > one && last < Millis(4 * 25_000),
        "four drains: {last}"
    );
}

#[test]
fn who_waits_for_a_drain_that_ran_out_is_told_of_the_longer_ones() {
    let stubborn = ModelSpec {
        on_drain_timeout: OnDrainTimeout::Cancel,
        drain_timeout: Millis(10_000),
        ..spec("a")
    };
    let pinned = ModelSpec {
        pinned: true,
        ..spec("b")
    };
    let mut bench = started(&[stubborn, pinned, spec("c")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 4, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 4;
    bench.run(11_000);
    bench.figures("g1", "c", 0, 1);
    bench.run(5_000);
    assert_eq!(bench.phase("a"), "Draining");
    let before = told(&bench, "c");
    assert!(before < Millis(10_000), "{before}");
    // One of four requests ended meanwhile: the others last for a while.
    bench.figures("g1", "a", 3, 0);
    while bench.phase("a") == "Draining" {
        bench.run(100);
    }
    assert_eq!(bench.phase("a"), "Serving");
    let after = told(&bench, "c");
    assert!(after > before + before, "{before}, then {after}");
    let ran_out = bench.core.models.get(&id("a")).expect("known");
    assert!(ran_out.room.would_drain_in > spec("a").min_runtime);
    // It was not so bad: what was thought of it is forgotten, and only what it took is learned.
    bench.figures("g1", "a", 0, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 0;
    bench.run(25_000);
    assert_eq!((bench.phase("a"), bench.phase("c")), ("Asleep", "Serving"));
    let gone = bench.core.models.get(&id("a")).expect("known");
    assert_eq!(gone.room.would_drain_in, Millis(0));
}

#[test]
fn who_sleeps_beside_a_model_hears_at_once_what_it_begins() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
    }
    bench.event(Event::Operator {
        model: id("b"),
        verb: Operator::Sleep,
    });
    bench.figures("g1", "b", 0, 0);
    bench.run(2_000);
    assert_eq!(bench.phase("b"), "Asleep");
    let estimate = |bench: &Bench| {
        let state = bench.core.models.get(&id("c")).expect("known");
        state.told.estimate
    };
    let before = estimate(&bench);
    slow(&mut bench, |bench| {
        bench.figures("g1", "b", 0, 1);
    });
    let after = estimate(&bench);
    // There was room for one; now both have to stay for a while.
    assert!(
        before < Millis(2_000) && after > before,
        "{before}, {after}"
    );
}

#[test]
fn an_engine_that_is_being_ended_has_to_start() {
    let mut bench = settled(&[spec("a")]);
    let mut started = bench.core.models.get(&id("a")).expect("known").clone();
    assert_eq!(started.wake_takes(), started.learned.wake.promised());
    started.engine.ending = Some(Attempt(7));
    assert_eq!(started.wake_takes(), started.learned.start.promised());
    assert!(bench.event(Event::Tick).is_empty());
}

#[test]
fn who_waits_for_other_gpus_too_is_not_overtaken_by_an_estimate() {
    let on = |name: &str, gpus: &[usize]| ModelSpec {
        gpus: gpus.iter().copied().map(GpuId).collect(),
        awake: Bytes(33 * GIB),
        ..spec(name)
    };
    let mut bench = Bench::on(
        2,
        &[on("a", &[0]), on("b", &[0, 1]), on("c", &[1])],
        EngineState::Asleep,
    );
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    assert_eq!(bench.phase("a"), "Serving");
    // b waits for a on GPU 0, and c for b on GPU 1, where there is room.
    bench.figures("g1", "b", 0, 1);
    bench.figures("g1", "c", 0, 1);
    let stays = spec("a").min_runtime;
    assert_eq!((bench.phase("b"), bench.phase("c")), ("Queued", "Queued"));
    assert!(told(&bench, "c") > stays + stays, "{}", told(&bench, "c"));
}

/// A control that has only just started, with an engine for each of these models on a GPU with room for one.
fn restarted(models: &[(&str, EngineState)]) -> Bench {
    let mut bench = Bench::new(&[], EngineState::Asleep);
    for (name, state) in models {
        let large = ModelSpec {
            awake: Bytes(25 * GIB),
            max_wait: Millis(60_000),
            ..spec(name)
        };
        bench.add(&large, *state);
    }
    bench
}

/// A gate begins a stream, and holds a request of that age for each of these.
fn greets(bench: &mut Bench, gate: &str, held: &[(&str, u64)]) -> Vec<Effect> {
    let figures = |(name, oldest_age): &(&str, u64)| {
        let figures = Figures {
            held: 1,
            oldest_age: *oldest_age,
            ..Figures::default()
        };
        (id(name), figures)
    };
    let figures = held.iter().map(figures).collect();
    let new = (StreamId(0), 0, figures);
    bench.gates.insert(GateId(gate.into()), new);
    bench.hello(gate, 1)
}

#[test]
fn who_waited_before_control_was_restarted_goes_first() {
    let asleep = [("a", EngineState::Asleep), ("b", EngineState::Asleep)];
    // Before engines were looked at, and after.
    for heard_at in [1_000, 2_500] {
        let mut bench = restarted(&asleep);
        bench.run(heard_at);
        let mut effects = greets(&mut bench, "g1", &[("a", 1), ("b", 500)]);
        effects.extend(bench.run(3_000 - heard_at));
        let woken = acts(&effects);
        assert_eq!(
            woken.first().map(String::as_str),
            Some("wake b"),
            "{heard_at}"
        );
    }
}

#[test]
fn who_waited_before_control_was_restarted_is_patient_for_so_much_less() {
    let models = [("a", EngineState::Asleep), ("x", EngineState::Awake)];
    let mut bench = restarted(&models);
    bench.run(40_000);
    bench.hello("g1", 1);
    bench.engines.get_mut(&id("x")).expect("known").count = 1;
    bench.figures("g1", "x", 1, 0);
    greets(&mut bench, "g2", &[("a", 35_000)]);
    bench.run(24_900);
    assert_eq!(bench.phase("x"), "Serving");
    bench.run(200);
    assert_eq!(bench.phase("x"), "Draining");
    let why_not = bench.core.why_not(Millis(bench.now), &id("a"));
    let reasons = why_not.expect("known").reasons.join("\n");
    assert!(reasons.contains("waited for room for 60.1 s"), "{reasons}");
}

#[test]
fn who_waited_and_left_before_a_restart_keeps_no_place_for_others() {
    let asleep = [("a", EngineState::Asleep), ("b", EngineState::Asleep)];
    let mut bench = restarted(&asleep);
    bench.run(1_000);
    greets(&mut bench, "g1", &[("b", 900)]);
    bench.figures("g1", "b", 0, 0);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "b", 0, 1);
    let woken = acts(&bench.run(2_000));
    assert_eq!(woken.first().map(String::as_str), Some("wake a"));
}

#[test]
fn who_waits_for_a_model_that_has_served_since_began_when_this_control_heard_of_it() {
    let mut bench = restarted(&[("a", EngineState::Asleep), ("b", EngineState::Asleep)]);
    bench.run(3_000);
    greets(&mut bench, "g1", &[("a", 2_000)]);
    bench.figures("g1", "a", 0, 0);
    assert_eq!(bench.phase("a"), "Serving");
    bench.figures("g1", "b", 0, 1);
    bench.run(20_000);
    assert_eq!(bench.phase("b"), "Serving", "{}", bench.sentences());
    greets(&mut bench, "g2", &[("a", 25_000)]);
    let held_since = bench.core.models.get(&id("a")).map(|a| a.asked.held_since);
    assert_eq!(held_since, Some(None));
}
