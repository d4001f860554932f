//! What choices tell afterwards, and what operators are told of GPUs.

use super::*;
use crate::{
    decision::{Choice, Taken, Trigger},
    phase::Tier,
};

fn latest(bench: &Bench, model: &str) -> Choice {
    let choices = bench.core.explain(&id(model), 1);
    choices.into_iter().next().expect("a choice")
}

fn followed(choice: &Choice) -> Vec<String> {
    let told = choice.followed.iter();
    told.map(|one| format!("{}: {}", one.model, one.what))
        .collect()
}

#[test]
fn a_wake_that_failed_is_told_where_it_was_chosen() {
    let mut bench = Bench::ready(&["a"]);
    bench.engines.get_mut(&id("a")).expect("known").wake = Some(Outcome::Failed(ActionError {
        cause: "no luck".into(),
        engine: EngineState::Asleep,
        no_room: false,
    }));
    bench.figures("g1", "a", 0, 1);
    assert_eq!(
        followed(&latest(&bench, "a")),
        ["a: did not come, the next try is in 10.0 s at the earliest: no luck"]
    );
}

#[test]
fn a_victim_that_does_not_go_is_told_where_it_was_chosen() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    bench.run(11_000);
    bench.engines.get_mut(&id("a")).expect("known").sleep = Some(Outcome::Failed(ActionError {
        cause: "not now".into(),
        engine: EngineState::Awake,
        no_room: false,
    }));
    bench.figures("g1", "c", 0, 1);
    let told = followed(&latest(&bench, "a"));
    assert_eq!(told, ["a: could not be put to sleep, serving on: not now"]);
}

#[test]
fn first_starts_are_told_only_where_nothing_else_was_chosen() {
    let mut fresh = spec("a");
    fresh.conditioned = false;
    let mut bench = Bench::new(&[fresh], EngineState::Gone);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    let triggers = |bench: &Bench| -> Vec<Trigger> {
        let choices = bench.core.explain(&id("a"), 10);
        choices.iter().map(|choice| choice.trigger).collect()
    };
    assert_eq!(triggers(&bench), [Trigger::Boot, Trigger::Boot]);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Wake,
    });
    assert_eq!(triggers(&bench), [Trigger::Operator]);
}

#[test]
fn a_choice_to_sleep_says_where() {
    let mut deep = spec("a");
    (deep.tier, deep.caps.disk) = (Some(Tier::Disk), true);
    let mut bench = Bench::new(&[deep], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    for verb in [Operator::Wake, Operator::Sleep] {
        bench.event(Event::Operator {
            model: id("a"),
            verb,
        });
    }
    bench.run(2_000);
    assert_eq!(bench.phase("a"), "Asleep");
    assert_eq!(latest(&bench, "a").taken, Taken::Sleep(Tier::Disk));
}

#[test]
fn what_is_accepted_while_something_moves_counts_when_it_has_ended() {
    let mut bench = Bench::ready(&["a"]);
    let gpu = GpuId(0);
    let read = |bench: &mut Bench, gib: u64| {
        let used = Bytes(gib * GIB);
        bench.event(Event::GpuRead { gpu, used });
    };
    read(&mut bench, 1);
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Waking");
    bench.event(Event::GpuAccepted(gpu));
    assert!(bench.core.gpus()[0].accepting);
    read(&mut bench, 9);
    assert_eq!(bench.core.gpus()[0].foreign, Bytes(0), "in between");
    let attempt = |effect: &Effect| {
        if let Effect::Wake { attempt, .. } = effect {
            Some(*attempt)
        } else {
            None
        }
    };
    let attempt = bench.log.iter().rev().find_map(attempt).expect("a wake");
    let outcome = bench.moved(&id("a"), EngineState::Awake, 600);
    bench.event(Event::Woke {
        model: id("a"),
        attempt,
        outcome,
    });
    read(&mut bench, 22);
    let after = &bench.core.gpus()[0];
    assert_eq!((after.foreign, after.accepting), (Bytes(5 * GIB), false));
}

#[test]
fn what_is_accepted_after_a_change_is_the_next_reading() {
    let mut bench = Bench::ready(&["a"]);
    let gpu = GpuId(0);
    bench.event(Event::GpuRead {
        gpu,
        used: Bytes(GIB),
    });
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Serving");
    // The last reading is older than the wake: taken for what is there now, 16 GiB would be missing.
    bench.event(Event::GpuAccepted(gpu));
    bench.event(Event::GpuRead {
        gpu,
        used: Bytes(17 * GIB),
    });
    let after = &bench.core.gpus()[0];
    assert_eq!((after.foreign, after.accepting), (Bytes(0), false));
    assert_eq!(after.stopped, None);
}

#[test]
fn what_was_accepted_is_said_as_it_is() {
    let mut bench = Bench::ready(&["a"]);
    let gpu = GpuId(0);
    // Asleep it holds 1 GiB.
    for (used, expected) in [
        (9 * GIB, "8.0 GiB are somebody else's"),
        (GIB / 2, "models take 0.5 GiB less than was thought"),
        (GIB, "nothing but what models take"),
    ] {
        let used = Bytes(used);
        bench.event(Event::GpuRead { gpu, used });
        bench.event(Event::GpuAccepted(gpu));
        let told = bench.sentences();
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn why_not_promises_no_wait_where_a_request_would_be_refused() {
    let why_not = |bench: &Bench| {
        bench
            .core
            .why_not(Millis(bench.now), &id("a"))
            .expect("known")
    };
    let mut bench = Bench::ready(&["a"]);
    assert_eq!(why_not(&bench).refused, None);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Disable,
    });
    let disabled = why_not(&bench);
    assert_eq!(disabled.refused, Some((RefuseReason::Disabled, 60)));
    let reasons = disabled.reasons.join("; ");
    assert!(
        reasons.contains("greenthread enable") && reasons.contains("no request wakes it"),
        "{reasons}"
    );
    let mut booting = Bench::new(&[spec("a")], EngineState::Gone);
    assert_eq!(
        why_not(&booting).refused,
        None,
        "gates go by the control before it"
    );
    assert_eq!(why_not(&booting).estimated_wait, Millis(0));
    booting.run(3_000);
    let refused = why_not(&booting).refused.map(|(reason, _)| reason);
    assert_eq!(refused, Some(RefuseReason::Booting));
    assert_eq!(why_not(&booting).choice, None);
}

#[test]
fn an_engine_that_does_not_answer_is_told_of_though_it_serves() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    let told = |bench: &Bench| {
        let why = bench.core.why_not(Millis(bench.now), &id("a"));
        let why = why.expect("known");
        assert!(why.serving);
        assert_eq!(
            bench.core.view()[0].unanswered,
            why.reasons.first().cloned()
        );
        why.reasons.join("; ")
    };
    assert_eq!(told(&bench), "");
    bench.engines.get_mut(&id("a")).expect("known").state = EngineState::Unresponsive;
    bench.run(5_000);
    let unanswered = told(&bench);
    assert!(
        unanswered.contains("has not answered the last"),
        "{unanswered}"
    );
    bench.engines.get_mut(&id("a")).expect("known").state = EngineState::Awake;
    bench.run(2_000);
    assert_eq!(told(&bench), "");
}

#[test]
fn a_drain_that_ends_without_a_word_of_its_engine_says_so() {
    let mut bench = settled(&[ModelSpec {
        drain_timeout: Millis(8_000),
        ..spec("a")
    }]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.engines.get_mut(&id("a")).expect("known").state = EngineState::Unresponsive;
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.run(1_000);
    let why = bench.core.why_not(Millis(bench.now), &id("a"));
    let reason = why.expect("known").reasons.remove(0);
    assert!(
        reason.contains("its engine has to say the same, for another 7"),
        "{reason}"
    );
    bench.run(8_000);
    let told = bench.sentences();
    assert!(
        told.contains("its engine has not said by the end of its drain that nothing runs in it"),
        "{told}"
    );
}

#[test]
fn where_a_gpu_stands_still_nobody_is_promised_a_wait_and_the_remedy_fits() {
    let mut bench = Bench::ready(&["a"]);
    let read = |bench: &mut Bench, gib: u64| {
        for _ in 0..3 {
            bench.event(Event::GpuRead {
                gpu: GpuId(0),
                used: Bytes(gib * GIB),
            });
        }
        let why = bench.core.why_not(Millis(bench.now), &id("a"));
        let why = why.expect("known");
        (why.estimated_wait, why.reasons.join("; "))
    };
    assert!(read(&mut bench, 1).0 > Millis(0));
    let (wait, more) = read(&mut bench, 1 + 30);
    assert_eq!(wait, Millis(0));
    assert!(more.contains("End what takes more"), "{more}");
    bench.event(Event::GpuAccepted(GpuId(0)));
    let (_, less) = read(&mut bench, 1);
    let right = "models should take 1.0 GiB and others 30.0 GiB";
    assert!(
        less.contains(right) && less.contains("Where that is right"),
        "{less}"
    );
}

#[test]
fn the_error_of_what_never_fitted_goes_with_its_cause() {
    let mut bench = Bench::ready(&["a"]);
    let accepted = |bench: &mut Bench, gib: u64| {
        bench.event(Event::GpuRead {
            gpu: GpuId(0),
            used: Bytes(gib * GIB),
        });
        bench.event(Event::GpuAccepted(GpuId(0)));
    };
    accepted(&mut bench, 1 + 30);
    bench.figures("g1", "a", 0, 1);
    let error = |bench: &Bench| bench.core.view()[0].last_error.clone();
    assert!(error(&bench).is_some_and(|error| error.contains("can ever be free")));
    bench.figures("g1", "a", 0, 0);
    accepted(&mut bench, 1);
    bench.run(1_000);
    assert_eq!(error(&bench), None, "{}", bench.sentences());
}

#[test]
fn why_not_says_how_long_a_drain_may_last() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        bench.engines.get_mut(&id(model)).expect("known").count = 1;
    }
    bench.run(11_000);
    bench.event(Event::Operator {
        model: id("c"),
        verb: Operator::Wake,
    });
    let first = |bench: &Bench, model: &str| {
        let why = bench.core.why_not(Millis(bench.now), &id(model));
        why.expect("known").reasons.remove(0)
    };
    assert!(first(&bench, "c").contains("(an operator asked)"));
    bench.figures("g1", "c", 0, 1);
    assert!(first(&bench, "c").contains("(1 request held)"));
    bench.run(6_000);
    assert_eq!(bench.phase("a"), "Draining", "{}", bench.sentences());
    for model in ["a", "c"] {
        let why = bench.core.why_not(Millis(bench.now), &id(model));
        let reasons = why.expect("known").reasons.join("; ");
        assert!(
            reasons.contains("1 request still in flight, for another 2"),
            "{reasons}"
        );
    }
}

/// a, b and c take turns on a GPU that has room for two of them.
fn turns(bench: &mut Bench, rounds: usize) {
    for round in 0..rounds {
        let model = ["a", "b", "c"][round % 3];
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
        bench.run(11_000);
    }
}

#[test]
fn choices_are_kept_for_a_while_and_not_for_ever() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    turns(&mut bench, 150);
    assert_eq!(bench.core.explain(&id("a"), 1_000).len(), 32);
    assert!(bench.core.tally().choices >= 140);
}

#[test]
fn a_victim_that_is_wanted_later_than_its_wake_takes_is_no_regret_but_they_take_turns() {
    let mut bench = Bench::ready(&["a", "b", "c"]);
    turns(&mut bench, 4);
    let tally = bench.core.tally();
    assert_eq!((tally.evictions, tally.regrets, tally.thrash), (2, 0, 1));
    // b comes back after more than a minute.
    bench.run(60_000);
    turns(&mut bench, 2);
    let tally = bench.core.tally();
    assert_eq!((tally.evictions, tally.thrash), (3, 1));
    let mut bench = Bench::ready(&["a", "b", "c"]);
    turns(&mut bench, 2);
    bench.figures("g1", "c", 0, 1);
    assert_eq!(bench.phase("a"), "Asleep");
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.figures("g1", "a", 0, 1);
    assert_eq!(
        bench.core.tally().regrets,
        1,
        "once for each time it made room"
    );
    assert_eq!(latest(&bench, "c").regrets.len(), 1);
}

#[test]
fn it_is_told_why_each_stays() {
    use crate::decision::Verdict;
    let mut bench = Bench::ready(&["a", "b", "c", "d"]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
    }
    let state = |bench: &mut Bench, model: &str, change: &dyn Fn(&mut crate::state::ModelState)| {
        change(bench.core.models.get_mut(&id(model)).expect("known"));
    };
    state(&mut bench, "a", &|state| state.spec.pinned = true);
    let verdicts = |bench: &Bench| {
        let choice = latest(bench, "c");
        ["a", "b"].map(|model| {
            let mut weighed = choice.weighed.iter();
            let found = weighed.find(|weighed| weighed.model == id(model));
            found.expect("weighed").verdict
        })
    };
    bench.figures("g1", "c", 0, 1);
    let runs_until = bench.core.models.get(&id("b")).expect("known").served_at;
    let until = runs_until.expect("serves") + spec("b").min_runtime;
    assert_eq!(
        verdicts(&bench),
        [Verdict::Pinned, Verdict::MinRuntime(until)]
    );
    bench.figures("g1", "c", 0, 0);
    bench.run(11_000);
    bench.figures("g1", "c", 0, 1);
    let busy_until = Millis(bench.now) + spec("c").max_wait;
    assert_eq!(verdicts(&bench)[1], Verdict::Busy(busy_until));
    bench.figures("g1", "c", 0, 0);
    bench.run(1_100);
    let spared = Millis(bench.now + 50_000);
    state(&mut bench, "b", &|state| state.room.spare_until = spared);
    bench.figures("g1", "c", 0, 1);
    assert_eq!(verdicts(&bench)[1], Verdict::Spared(spared));
}
