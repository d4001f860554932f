//! Histories that went wrong once, as the simulation or a reader found them: each as small as it could be made.

use super::*;
use crate::phase::Tier;

fn attached(name: &str) -> ModelSpec {
    let mut attached = spec(name);
    attached.caps.restartable = false;
    attached
}

fn reserved(bench: &Bench) -> Bytes {
    bench.core.gpus()[0].reserved
}

/// An attached engine, of which nobody knows what became of its wake.
fn lost_wake() -> Bench {
    let mut bench = started(&[attached("a"), spec("b")]);
    bench.engines.get_mut(&id("a")).expect("known").wake = Some(Outcome::Unknown {
        cause: "the connection broke".into(),
    });
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    assert_eq!(bench.phase("a"), "Failed");
    bench
}

#[test]
fn a_lost_wake_may_begin_late_and_holds_its_memory_until_then() {
    let mut bench = lost_wake();
    // It looks asleep, with its memory free; but the call may still be accepted.
    bench.run(1_900);
    assert_eq!(reserved(&bench), Bytes(18 * GIB));
    // It was. Engines say that they sleep until the wake is over.
    bench.engines.get_mut(&id("a")).expect("known").memory = Bytes(9 * GIB);
    bench.run(60_000);
    assert_eq!(reserved(&bench), Bytes(18 * GIB), "{}", bench.sentences());
    // It came to nothing after all, and the oracle shows it.
    bench.engines.get_mut(&id("a")).expect("known").memory = Bytes(GIB);
    bench.run(2_000);
    assert_eq!(reserved(&bench), Bytes(2 * GIB));
}

#[test]
fn without_an_oracle_a_lost_wake_holds_its_memory_for_as_long_as_a_wake_may_take() {
    let mut bench = lost_wake();
    bench.measured = false;
    bench.run(100_000);
    assert_eq!(reserved(&bench), Bytes(18 * GIB));
    bench.run(30_000);
    assert_eq!(reserved(&bench), Bytes(2 * GIB));
}

#[test]
fn a_wake_that_fails_after_a_lost_one_frees_nothing_of_what_was_held() {
    let mut bench = lost_wake();
    // It fell asleep once more, and kept more than it should.
    bench.engines.get_mut(&id("a")).expect("known").memory = Bytes(12 * GIB);
    bench.run(11_000);
    bench.engines.get_mut(&id("a")).expect("known").wake = Some(Outcome::Failed(ActionError {
        cause: "CUDA error".into(),
        engine: EngineState::Asleep,
        no_room: false,
    }));
    let effects = bench.figures("g1", "a", 0, 1);
    assert_eq!(acts(&effects)[0], "wake a");
    assert_eq!(bench.phase("a"), "Failed");
    assert_eq!(reserved(&bench), Bytes(18 * GIB), "{}", bench.sentences());
}

#[test]
fn a_lost_wake_holds_its_memory_while_its_model_is_removed() {
    let mut bench = lost_wake();
    bench.obedient = false;
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(bench.phase("a"), "Draining");
    bench.run(1_900);
    assert_eq!(reserved(&bench), Bytes(18 * GIB), "{}", bench.sentences());
}

#[test]
fn a_removal_that_is_taken_back_opens_only_what_was_open() {
    let mut bench = lost_wake();
    bench.obedient = false;
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(bench.phase("a"), "Draining");
    let effects = bench.event(Event::ModelSet(Box::new(attached("a"))));
    assert_eq!(bench.phase("a"), "Asleep", "nobody knows what it does");
    assert_eq!(names(&effects), Vec::<String>::new());
}

#[test]
fn a_lost_wake_that_is_seen_awake_holds_what_it_holds() {
    let mut bench = lost_wake();
    let engine = bench.engines.get_mut(&id("a")).expect("known");
    (engine.state, engine.memory) = (EngineState::Awake, Bytes(17 * GIB));
    bench.run(15_000);
    assert_eq!(bench.phase("a"), "Serving");
    assert_eq!(reserved(&bench), Bytes(18 * GIB));
}

#[test]
fn a_removed_model_whose_frozen_requests_cannot_be_woken_is_left_alone() {
    let mut large = attached("a");
    large.awake = Bytes(30 * GIB);
    let mut pinned = spec("b");
    pinned.pinned = true;
    let mut bench = settled(&[large, pinned]);
    assert_eq!(bench.phase("a"), "Asleep");
    bench.engines.get_mut(&id("a")).expect("known").count = 2;
    bench.run(2_000);
    assert_eq!(bench.phase("a"), "Failed", "never fits");
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(names(&bench.run(20_000)), Vec::<String>::new());
    bench.engines.get_mut(&id("a")).expect("known").count = 0;
    assert_eq!(
        names(&bench.run(2_000)),
        ["a refuse Draining", "removed a", "a refuse Disabled"]
    );
}

#[test]
fn who_was_told_to_come_back_does_not_meet_the_next_idle_drain() {
    let mut restless = spec("a");
    restless.idle_timeout = Some(Millis(500));
    restless.guess.wake = Millis(7_000);
    let mut bench = started(&[restless]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.obedient = false;
    let drain = bench.run(2_000);
    assert!(names(&drain).contains(&"a refuse Draining".to_owned()));
    let told = drain.iter().find_map(|effect| {
        if let Effect::Publish(row) = effect
            && let Admission::Refuse { retry_after, .. } = row.admission
        {
            return Some(u64::from(retry_after));
        }
        None
    });
    let told = told.expect("told when to come back") * 1_000;
    assert!(told > 500, "longer than it takes to be idle again");
    // Somebody was refused.
    let refused = Figures {
        last_refused_age: Some(10),
        asked: 2,
        ..Figures::default()
    };
    let row = (id("a"), refused);
    let (stream, sequence) = bench.next(&GateId("g1".into()));
    let effects = bench.event(Event::Report {
        gate: GateId("g1".into()),
        stream,
        sequence,
        table_version: 1,
        figures: vec![row],
    });
    assert_eq!(names(&effects), ["a admit"]);
    assert_eq!(names(&bench.run(told)), Vec::<String>::new(), "until then");
    let effects = bench.run(10_000);
    assert_eq!(names(&effects)[..1], ["a refuse Draining"], "not for ever");
}

#[test]
fn who_was_told_to_come_back_does_not_keep_a_model_from_making_room_for_long() {
    let mut bench = started(&[spec("a"), spec("b"), spec("c")]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 0, 0);
    }
    // A while after minRuntime and maxWait nobody is waited for any more.
    bench.run(15_000);
    let refused = Figures {
        last_refused_age: Some(0),
        asked: 2,
        ..Figures::default()
    };
    let (stream, sequence) = bench.next(&GateId("g1".into()));
    bench.event(Event::Report {
        gate: GateId("g1".into()),
        stream,
        sequence,
        table_version: 1,
        figures: vec![(id("a"), refused.clone()), (id("b"), refused)],
    });
    let effects = bench.figures("g1", "c", 0, 1);
    assert!(
        names(&effects).contains(&"c admit".to_owned()),
        "{:?}",
        names(&effects)
    );
}

#[test]
fn the_end_of_a_former_life_ends_nothing_of_the_next() {
    let mut bench = settled(&[attached("a")]);
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(bench.phase("a"), "Removed");
    let removed = bench.removed_by();
    assert!(removed.is_some());
    bench.event(Event::ModelSet(Box::new(attached("a"))));
    bench.run(3_000);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    assert_eq!(bench.phase("a"), "Serving");
    let late = Event::EngineGone {
        model: id("a"),
        attempt: removed,
        cause: "it was removed from the fleet".into(),
    };
    assert_eq!(bench.event(late), vec![]);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn host_ram_that_an_engine_keeps_while_it_is_awake_is_seen_by_a_new_control() {
    let mut bench = with_host_ram();
    bench.answering = false;
    bench.add(&spec("a"), EngineState::Awake);
    let look = |bench: &mut Bench, host: u64| {
        let (model, attempt) = looks(&bench.log).pop().expect("looked at");
        let memory = Memory {
            gpu: Some(Bytes(17 * GIB)),
            peak: None,
            host: Some(Bytes(host * GIB)),
        };
        bench.event(Event::Observed {
            model,
            attempt,
            observation: Observation {
                state: EngineState::Awake,
                count: Some(0),
                memory,
                tier: None,
            },
        });
        bench.core.hosts()[0].reserved
    };
    bench.run(2_100);
    assert_eq!(look(&mut bench, 12), Bytes(12 * GIB), "at the first look");
    bench.run(1_100);
    assert_eq!(look(&mut bench, 14), Bytes(14 * GIB), "and at every other");
}

#[test]
fn requests_inside_a_sleeping_engine_without_a_count_are_demand() {
    let mut uncounted = attached("a");
    uncounted.caps.counts = false;
    let mut bench = Bench::new(&[uncounted], EngineState::Asleep);
    bench.counted = false;
    bench.run(3_000);
    assert_eq!(bench.phase("a"), "Asleep");
    // An earlier control, or somebody else, put it to sleep with requests in it: only gates know of them.
    bench.hello("g1", 1);
    let effects = bench.figures("g1", "a", 2, 0);
    let more = bench.run(2_000);
    let all = [names(&effects), names(&more)].concat();
    assert!(all.contains(&"wake a".to_owned()), "{all:?}");
}

#[test]
fn a_broken_engine_holds_its_copy_for_as_long_as_it_is_broken() {
    let mut copied = attached("a");
    copied.sizes.host.bytes = Bytes(8 * GIB);
    let mut bench = with_host_ram();
    bench.measured = false;
    bench.add(&copied, EngineState::Asleep);
    bench.run(3_000);
    assert_eq!(bench.core.hosts()[0].reserved, Bytes(8 * GIB));
    bench.engines.get_mut(&id("a")).expect("known").state = EngineState::Broken;
    bench.run(5_000);
    assert_eq!(bench.phase("a"), "Failed");
    assert_eq!(bench.core.hosts()[0].reserved, Bytes(8 * GIB));
}

#[test]
fn a_sleep_of_unknown_end_is_repeated_when_the_first_call_can_no_longer_be_accepted() {
    let mut bench = started(&[spec("a")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.engines.get_mut(&id("a")).expect("known").sleep = Some(Outcome::Unknown {
        cause: "the connection broke".into(),
    });
    let sleeps = |effects: &[Effect]| {
        let names = names(effects).into_iter();
        names.filter(|name| name.starts_with("sleep")).count()
    };
    let verb = Operator::Sleep;
    let model = id("a");
    assert_eq!(sleeps(&bench.event(Event::Operator { model, verb })), 1);
    let command = times().command.0;
    assert_eq!(sleeps(&bench.run(command)), 0);
    assert_eq!(sleeps(&bench.run(1)), 1);
}

#[test]
fn a_removed_model_that_is_back_before_its_process_has_ended_holds_its_memory_and_does_not_serve() {
    let mut bench = settled(&[spec("a")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(bench.phase("a"), "Removed");
    let removed = bench.removed_by();
    bench.event(Event::ModelSet(Box::new(spec("a"))));
    bench.run(5_000);
    assert_eq!(bench.phase("a"), "Booting");
    assert_eq!(reserved(&bench), Bytes(17 * GIB));
    bench.answering = false;
    let effects = bench.event(Event::EngineGone {
        model: id("a"),
        attempt: removed,
        cause: "it was removed from the fleet".into(),
    });
    assert_eq!(names(&effects)[..1], ["start a"]);
}

#[test]
fn nothing_sleeps_on_a_gpu_that_was_stopped_while_its_engine_counted() {
    let mut bench = started(&[spec("a")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.answering = false;
    let (model, verb) = (id("a"), Operator::Sleep);
    let effects = bench.event(Event::Operator { model, verb });
    let (model, attempt) = looks(&effects).pop().expect("asked for its count");
    for _ in 0..3 {
        let (gpu, used) = (GpuId(0), Bytes(30 * GIB));
        bench.event(Event::GpuRead { gpu, used });
    }
    let effects = bench.event(Event::Observed {
        model,
        attempt,
        observation: Observation {
            state: EngineState::Awake,
            count: Some(0),
            memory: Memory::on_gpus(Bytes(17 * GIB)),
            tier: None,
        },
    });
    assert_eq!(names(&effects), Vec::<String>::new());
}

#[test]
fn a_copy_stays_in_host_ram_while_a_silent_gate_may_still_send_requests_to_it() {
    let sleep = |model: &str| Event::Operator {
        model: id(model),
        verb: Operator::Sleep,
    };
    let asleep_for_another = |silent: bool| {
        let mut bench = with_host_ram();
        for name in ["a", "b"] {
            let mut copied = spec(name);
            copied.sizes.host.bytes = Bytes(40 * GIB);
            copied.idle_timeout = None;
            bench.add(&copied, EngineState::Awake);
        }
        bench.run(3_000);
        bench.hello("g1", 1);
        // No gate of a predecessor flows any more.
        bench.run(640_000);
        if silent {
            bench.hello("g2", 2);
            bench.gates.remove(&GateId("g2".into()));
        }
        bench.event(sleep("a"));
        bench.run(20_000);
        assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
        bench
    };
    // Only the end of the one engine makes room for the copy of the other.
    let ends_for_the_other = |bench: &mut Bench| {
        let effects = [bench.event(sleep("b")), bench.run(3_000)].concat();
        names(&effects).iter().any(|name| name == "kill a")
    };
    let mut known = asleep_for_another(false);
    assert!(ends_for_the_other(&mut known), "{}", known.sentences());
    let mut silent = asleep_for_another(true);
    assert!(!ends_for_the_other(&mut silent), "{}", silent.sentences());
    silent.run(500_000);
    assert_eq!(silent.phase("b"), "Serving", "{}", silent.sentences());
    silent.run(120_000);
    assert!(ends_for_the_other(&mut silent), "{}", silent.sentences());
}

#[test]
fn who_must_make_room_gets_host_ram_from_a_copy_that_waits_to_be_measured() {
    let copied = |mut model: ModelSpec| {
        model.sizes.host.bytes = Bytes(40 * GIB);
        model
    };
    let mut bench = with_host_ram();
    bench.answering = false;
    let mut large = copied(attached("large"));
    large.awake = Bytes(30 * GIB);
    let mut new = copied(spec("new"));
    new.conditioned = false;
    for model in [&large, &new] {
        bench.add(model, EngineState::Gone);
    }
    let observed = |bench: &mut Bench, looks: &[(ModelId, Attempt)], state: EngineState| {
        let observe = |(model, attempt): &(ModelId, Attempt)| {
            let observation = Observation {
                state,
                count: Some(0),
                memory: Memory::default(),
                tier: None,
            };
            bench.event(Event::Observed {
                model: model.clone(),
                attempt: *attempt,
                observation,
            })
        };
        looks.iter().flat_map(observe).collect::<Vec<Effect>>()
    };
    let first = looks(&bench.run(2_500));
    let effects = observed(&mut bench, &first, EngineState::Gone);
    let start = |effect: &Effect| {
        if let Effect::Start { attempt, .. } = effect {
            Some(*attempt)
        } else {
            None
        }
    };
    let attempt = effects
        .iter()
        .find_map(start)
        .expect("room for the new one");
    let done = Outcome::Done {
        took: 5_000,
        memory: Memory::on_gpus(Bytes(17 * GIB)),
    };
    bench.event(Event::Started {
        model: id("new"),
        attempt,
        outcome: done.clone(),
    });
    let effects = bench.run(12_000);
    let sleep = |effect: &Effect| {
        if let Effect::Sleep { attempt, .. } = effect {
            Some(*attempt)
        } else {
            None
        }
    };
    let attempt = effects.iter().find_map(sleep).expect("its first sleep");
    // The other one, which was away, is back and awake before that sleep is over.
    let latest: Vec<_> = looks(&effects).into_iter().rev().take(1).collect();
    observed(&mut bench, &latest, EngineState::Awake);
    bench.event(Event::Slept {
        model: id("new"),
        attempt,
        outcome: Outcome::Done {
            took: 90,
            memory: Memory::on_gpus(Bytes(GIB)),
        },
    });
    assert_eq!(
        (bench.phase("new"), bench.phase("large")),
        ("Booting", "Serving")
    );
    bench.engines.get_mut(&id("large")).expect("known").state = EngineState::Awake;
    bench.engines.get_mut(&id("new")).expect("known").state = EngineState::Asleep;
    bench.answering = true;
    bench.hello("g1", 1);
    let effects = bench.run(60_000);
    assert!(
        names(&effects).contains(&"kill new".to_owned()),
        "{}",
        bench.sentences()
    );
    assert_eq!(bench.phase("large"), "Asleep", "{}", bench.sentences());
}

#[test]
fn an_engine_that_somebody_put_to_sleep_in_ram_stays_there() {
    let mut bench = started(&[attached("a")]);
    let mut deep = attached("a");
    (deep.caps.disk, deep.tier) = (true, Some(Tier::Disk));
    bench.event(Event::ModelSet(Box::new(deep)));
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.run(15_000);
    let engine = bench.engines.get_mut(&id("a")).expect("known");
    // What the driver says to `Tier::Disk`: vLLM would answer 200 and do nothing.
    engine.sleep = Some(Outcome::Failed(ActionError {
        cause: "it sleeps in RAM already".into(),
        engine: EngineState::Asleep,
        no_room: false,
    }));
    let asked = bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.engines.get_mut(&id("a")).expect("known").sleep = None;
    let again = bench.run(3_000);
    let tiers = |effects: &[Effect]| -> Vec<Tier> {
        let tier = |effect: &Effect| {
            if let Effect::Sleep { tier, .. } = effect {
                Some(*tier)
            } else {
                None
            }
        };
        effects.iter().filter_map(tier).collect()
    };
    assert_eq!(tiers(&asked), [Tier::Disk]);
    assert_eq!(tiers(&again), [Tier::Ram]);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
}

#[test]
fn a_removed_model_is_looked_at_before_what_may_be_frozen_in_it_is_ended() {
    let mut bench = started(&[spec("a")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 1;
    // The only gate falls silent with a request in flight, for so long that it is forgotten: nobody but the engine knows of it.
    bench.gates.clear();
    bench.run(620_000);
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    while bench.phase("a") != "Asleep" {
        bench.run(1);
    }
    bench.event(Event::ModelRemoved(id("a")));
    bench.run(60_000);
    assert_eq!(bench.removed_by(), None, "{}", bench.sentences());
    assert_eq!(bench.engines[&id("a")].state, EngineState::Awake);
}

#[test]
fn a_gate_that_comes_while_a_neighbour_moves_makes_the_first_count_worthless() {
    let mut lossy = spec("a");
    (lossy.caps.lossless, lossy.on_lease_end) = (false, OnLeaseEnd::Hold);
    let mut bench = started(&[lossy, spec("b")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    let (model, verb) = (id("a"), Operator::Sleep);
    bench.event(Event::Operator { model, verb });
    // Counted once. A neighbour wakes before it can be counted again, and takes its time.
    bench.answering = false;
    let effects = bench.figures("g1", "b", 0, 1);
    let attempt = effects.iter().find_map(|effect| {
        if let Effect::Wake { attempt, .. } = effect {
            Some(*attempt)
        } else {
            None
        }
    });
    bench.run(4_000);
    bench.hello("g2", 2);
    let mut barriers = bench.log.iter().filter_map(|effect| {
        if let Effect::Publish(row) = effect {
            (row.model == id("a")).then_some(row.epoch)
        } else {
            None
        }
    });
    let epoch = barriers.next_back().expect("a barrier");
    let ack = bench.ack(&GateId("g2".into()), &id("a"), epoch);
    bench.event(ack);
    bench.answering = true;
    let outcome = bench.moved(&id("b"), EngineState::Awake, 600);
    let (model, attempt) = (id("b"), attempt.expect("woken"));
    let effects = [
        bench.event(Event::Woke {
            model,
            attempt,
            outcome,
        }),
        bench.run(2_500),
    ]
    .concat();
    assert!(
        !names(&effects)
            .iter()
            .any(|name| name.starts_with("sleep a")),
        "{}",
        bench.sentences()
    );
    bench.run(6_000);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
}
