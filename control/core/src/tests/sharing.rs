//! Models that share a GPU: what counts as demand, and who comes back after it made room.

use super::*;

/// a is popular, served, and made room for c; b serves too.
fn displaced() -> Bench {
    let popular = ModelSpec {
        popular: true,
        idle_timeout: None,
        ..spec("a")
    };
    let mut bench = started(&[popular, spec("b"), spec("c"), spec("d")]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        bench.figures("g1", model, 0, 0);
        bench.run(12_000);
    }
    bench.figures("g1", "c", 0, 1);
    bench.figures("g1", "c", 1, 0);
    bench.run(1_000);
    let phases = ["a", "b", "c"].map(|model| bench.phase(model));
    assert_eq!(phases, ["Asleep", "Serving", "Serving"]);
    bench
}

#[test]
fn a_popular_model_comes_back_when_there_is_room() {
    let mut bench = displaced();
    bench.run(120_000);
    assert_eq!(bench.phase("a"), "Asleep", "nobody goes for it");
    bench.event(Event::Operator {
        model: id("b"),
        verb: Operator::Sleep,
    });
    bench.run(2_000);
    let phases = ["a", "b", "c"].map(|model| bench.phase(model));
    assert_eq!(phases, ["Serving", "Asleep", "Serving"]);
    // One that is not popular stays where it is.
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
    bench.run(120_000);
    assert_eq!(bench.phase("b"), "Asleep");
}

#[test]
fn room_that_somebody_waits_for_is_not_a_popular_models() {
    let mut bench = displaced();
    bench.run(12_000);
    bench.log.clear();
    bench.figures("g1", "d", 0, 1);
    bench.run(2_000);
    let phases = ["a", "b", "d"].map(|model| bench.phase(model));
    assert_eq!(phases, ["Asleep", "Asleep", "Serving"]);
    assert!(!names(&bench.log).contains(&"wake a".to_owned()));
}

#[test]
fn a_request_is_demand_when_it_arrives_and_not_again_when_it_goes_on_or_ends() {
    let mut bench = Bench::ready(&["a", "b"]);
    let arrived = |bench: &Bench| bench.core.models.get(&id("a")).expect("known").asked.demand;
    let mut tell = |asked, in_flight, held| {
        let figures = Figures {
            asked,
            in_flight,
            held,
            last_used_age: Some(0),
            ..Figures::default()
        };
        let gate = GateId("g1".into());
        let known = bench.gates.get_mut(&gate).expect("said Hello");
        known.2.insert(id("a"), figures);
        bench.report("g1");
        let demand = arrived(&bench);
        bench.run(5_000);
        demand
    };
    let came = tell(1, 0, 1);
    assert_ne!(came, crate::demand::Demand::default());
    assert_eq!(tell(1, 1, 0), came, "it goes on");
    assert_eq!(tell(1, 0, 0), came, "it ends");
    assert_ne!(tell(2, 1, 0), came, "another one");
}

/// The first of these models that drains, with its Retry-After in seconds and its estimated wait.
fn draining(bench: &Bench) -> (ModelId, u32, Millis) {
    let views = bench.core.view().into_iter();
    let drains = views.filter(|view| view.phase == "Draining");
    let mut told = drains.map(|view| match view.admission {
        Admission::Refuse { retry_after, .. } => {
            let wait = bench.core.expected_wait(Millis(bench.now), &view.id);
            (view.id, retry_after, wait.unwrap_or_default())
        }
        Admission::Admit | Admission::Hold { .. } => panic!("{view:?}"),
    });
    told.next().expect("somebody drains")
}

#[test]
fn who_is_refused_by_a_drain_comes_back_when_it_is_over() {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    bench.run(6_000);
    let (_, retry_after, estimate) = draining(&bench);
    // Drains are learned; the first is thought to take 5 s.
    assert_eq!(retry_after, 5);
    assert!(
        estimate > Millis(5_000),
        "then it waits for room: {estimate}"
    );
}

#[test]
fn an_estimate_becomes_shorter_with_what_passes() {
    let mut bench = busy();
    bench.figures("g1", "c", 0, 1);
    bench.run(6_000);
    let (victim, _, _) = draining(&bench);
    let victim = victim.0.trim_end_matches(".0").to_owned();
    let estimate = |bench: &Bench| {
        let wait = bench.core.expected_wait(Millis(bench.now), &id(&victim));
        wait.expect("it sleeps")
    };
    bench.engines.get_mut(&id(&victim)).expect("known").count = 0;
    bench.figures("g1", &victim, 0, 0);
    bench.run(2_000);
    assert_eq!(
        (bench.phase(&victim), bench.phase("c")),
        ("Asleep", "Serving")
    );
    let busy_neighbours = estimate(&bench);
    // Nobody works any more, and all may go: it would only have to wait for a sleep and its own wake.
    bench.figures("g1", "c", 0, 0);
    for other in ["a", "b"] {
        bench.figures("g1", other, 0, 0);
        bench.engines.get_mut(&id(other)).expect("known").count = 0;
    }
    bench.run(20_000);
    assert_eq!(bench.phase(&victim), "Asleep");
    let quiet = estimate(&bench);
    assert!(
        quiet < Millis(1_000) && quiet < busy_neighbours,
        "{quiet} of {busy_neighbours}"
    );
}

#[test]
fn a_request_in_the_step_in_which_a_model_has_been_idle_for_long_enough_keeps_it() {
    let idle = spec("a").idle_timeout.expect("it sleeps by itself").0;
    for asked in [false, true] {
        let mut bench = Bench::ready(&["a"]);
        bench.figures("g1", "a", 0, 1);
        bench.figures("g1", "a", 0, 0);
        let used = bench.now;
        while bench.now + 1 < used + idle {
            bench.run((used + idle - 1 - bench.now).min(500));
        }
        assert_eq!(bench.phase("a"), "Serving");
        bench.now = used + idle;
        let effects = bench.figures("g1", "a", u64::from(asked), 0);
        let drains = names(&effects).contains(&"a refuse Draining".to_owned());
        assert_eq!(drains, !asked, "{:?}", names(&effects));
    }
}

/// A model on these GPUs that takes most of each.
fn on(gpus: &[usize], name: &str) -> ModelSpec {
    ModelSpec {
        gpus: gpus.iter().copied().map(GpuId).collect(),
        awake: Bytes(30 * GIB),
        ..spec(name)
    }
}

/// The models that these effects wake, in order.
fn woken(effects: &[Effect]) -> Vec<String> {
    let wakes = acts(effects).into_iter();
    wakes.filter(|act| act.starts_with("wake")).collect()
}

#[test]
fn as_many_wake_at_a_time_as_there_are_gpus_and_those_who_wait_longest_first() {
    // A wide model waits between two narrow ones for the same GPU; another GPU is nobody's but its own.
    let models = [
        on(&[0], "first"),
        on(&[0, 1], "wide"),
        on(&[1], "later"),
        on(&[2], "alone"),
    ];
    let mut bench = Bench::on(3, &models, EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench.answering = false;
    bench.log.clear();
    for model in ["first", "wide", "later", "alone"] {
        bench.now += 1;
        bench.figures("g1", model, 0, 1);
    }
    // GPU 1 is free, but whoever waits there longest needs GPU 0 too: nobody overtakes.
    assert_eq!(woken(&bench.log), ["wake first", "wake alone"]);
    let phases = ["first", "wide", "later", "alone"].map(|model| bench.phase(model));
    assert_eq!(phases, ["Waking", "Queued", "Queued", "Waking"]);
}

#[test]
fn frozen_requests_wait_no_longer_than_their_operator_allows() {
    let impatient = ModelSpec {
        max_freeze: Millis::seconds(20),
        ..spec("a")
    };
    let pinned = ModelSpec {
        pinned: true,
        ..spec("b")
    };
    // It would stay for a day.
    let stays = ModelSpec {
        min_runtime: Millis::seconds(86_400),
        ..spec("c")
    };
    let mut bench = started(&[impatient, pinned, stays]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 1, 0);
    bench.engines.get_mut(&id("a")).expect("known").count = 1;
    bench.run(11_000);
    bench.figures("g1", "c", 0, 1);
    let mut waited = 0;
    while bench.phase("c") != "Serving" {
        bench.run(1_000);
        waited += 1;
        assert!(waited < 60, "maxWait, a drain to its end, and a sleep");
    }
    bench.figures("g1", "c", 0, 0);
    bench.run(15_000);
    assert_eq!((bench.phase("a"), bench.phase("c")), ("Queued", "Serving"));
    bench.run(10_000);
    assert_eq!((bench.phase("a"), bench.phase("c")), ("Serving", "Asleep"));
}
