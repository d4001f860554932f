//! Nobody waits for ever for what cannot come, and nobody waits behind such a waiter.

use super::*;

fn sized(name: &str, gib: u64) -> ModelSpec {
    ModelSpec {
        awake: Bytes(gib * GIB),
        ..spec(name)
    }
}

fn attached(name: &str) -> ModelSpec {
    let mut attached = spec(name);
    attached.caps.restartable = false;
    attached
}

fn admission(bench: &Bench, model: &str) -> Admission {
    let view = bench.core.view().into_iter();
    view.filter(|view| view.id == id(model))
        .map(|view| view.admission)
        .next()
        .expect("known")
}

fn refused(bench: &Bench, model: &str, why: RefuseReason) -> bool {
    matches!(admission(bench, model), Admission::Refuse { reason, .. } if reason == why)
}

#[test]
fn what_never_fitted_fits_when_its_neighbour_is_not_pinned_any_more() {
    let mut pinned = sized("p", 30);
    pinned.pinned = true;
    let mut bench = started(&[spec("a"), pinned.clone()]);
    bench.figures("g1", "a", 0, 1);
    assert!(refused(&bench, "a", RefuseReason::NeverFits));
    pinned.pinned = false;
    bench.event(Event::ModelSet(Box::new(pinned)));
    bench.run(30_000);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn what_never_fitted_fits_when_it_is_declared_smaller() {
    let mut bench = started(&[sized("a", 50)]);
    bench.figures("g1", "a", 0, 1);
    assert!(refused(&bench, "a", RefuseReason::NeverFits));
    bench.event(Event::ModelSet(Box::new(sized("a", 20))));
    bench.run(3_000);
    assert_eq!(bench.phase("a"), "Serving");
}

#[test]
fn a_hung_engine_that_nobody_may_end_blocks_only_those_who_need_its_room() {
    let mut bench = started(&[attached("h"), sized("large", 30), spec("small")]);
    bench.figures("g1", "h", 0, 1);
    bench.figures("g1", "h", 0, 0);
    bench.engines.get_mut(&id("h")).expect("known").sleep = Some(Outcome::Failed(ActionError {
        cause: "contradicts itself".into(),
        engine: EngineState::Broken,
        no_room: false,
    }));
    bench.engines.get_mut(&id("h")).expect("known").state = EngineState::Broken;
    bench.run(2_000);
    assert!(refused(&bench, "h", RefuseReason::EngineFailed));
    bench.figures("g1", "large", 0, 1);
    bench.run(1_000);
    assert!(
        refused(&bench, "large", RefuseReason::TooLong),
        "{:?}",
        admission(&bench, "large")
    );
    bench.figures("g1", "small", 0, 1);
    bench.run(2_000);
    assert_eq!(bench.phase("small"), "Serving");
    // It is restarted by hand: everybody is served.
    bench.figures("g1", "small", 0, 0);
    let engine = bench.engines.get_mut(&id("h")).expect("known");
    (engine.state, engine.sleep) = (EngineState::Awake, None);
    bench.run(60_000);
    assert_eq!(bench.phase("large"), "Serving");
}

#[test]
fn an_engine_that_is_being_ended_blocks_nobody_who_has_room() {
    let mut bench = Bench::new(&[spec("a"), spec("b")], EngineState::Asleep);
    bench.answering = false;
    let effects = bench.run(2_500);
    for (model, attempt) in looks(&effects) {
        let state = if model == id("a") {
            EngineState::Broken
        } else {
            EngineState::Asleep
        };
        let observation = Observation {
            state,
            count: Some(0),
            memory: Memory::default(),
            tier: None,
        };
        bench.event(Event::Observed {
            model,
            attempt,
            observation,
        });
    }
    assert!(names(&bench.log).contains(&"kill a".to_owned()));
    bench.answering = true;
    bench.hello("g1", 1);
    bench.figures("g1", "b", 0, 1);
    assert_eq!(bench.phase("b"), "Serving");
}

#[test]
fn a_removed_model_whose_requests_do_not_end_makes_nobody_else_wait() {
    let mut bench = started(&[spec("a"), spec("b"), spec("c")]);
    for model in ["a", "b"] {
        bench.figures("g1", model, 0, 1);
        bench.figures("g1", model, 1, 0);
        bench.engines.get_mut(&id(model)).expect("known").count = 1;
    }
    bench.event(Event::ModelRemoved(id("a")));
    bench.figures("g1", "b", 0, 0);
    bench.engines.get_mut(&id("b")).expect("known").count = 0;
    bench.figures("g1", "c", 0, 1);
    bench.run(60_000);
    assert_eq!(
        (bench.phase("a"), bench.phase("c")),
        ("Draining", "Serving")
    );
}

#[test]
fn an_attached_engine_that_does_not_answer_can_be_removed() {
    let mut bench = settled(&[attached("a")]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.engines.get_mut(&id("a")).expect("known").state = EngineState::Unresponsive;
    bench.event(Event::ModelRemoved(id("a")));
    bench.run(40_000);
    assert_eq!(bench.phase("a"), "Removed");
}

#[test]
fn a_model_that_waits_to_be_measured_can_be_removed() {
    let mut new = sized("a", 30);
    new.conditioned = false;
    let mut bench = Bench::new(&[new, spec("b")], EngineState::Asleep);
    let engine = bench.engines.get_mut(&id("a")).expect("known");
    (engine.state, engine.memory) = (EngineState::Gone, Bytes(0));
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.figures("g1", "b", 0, 1);
    bench.engines.get_mut(&id("b")).expect("known").count = 1;
    bench.run(7_000);
    bench.figures("g1", "b", 1, 0);
    assert_eq!((bench.phase("a"), bench.phase("b")), ("Booting", "Serving"));
    bench.event(Event::ModelRemoved(id("a")));
    bench.run(2_000);
    assert_eq!(bench.phase("a"), "Removed");
}

#[test]
fn who_waits_until_somebody_may_sleep_is_told_so() {
    let free = |name| ModelSpec {
        min_runtime: Millis(0),
        ..spec(name)
    };
    let mut bench = Bench::new(&[free("a"), free("b"), free("c")], EngineState::Awake);
    bench.engines.get_mut(&id("c")).expect("known").state = EngineState::Asleep;
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.figures("g1", "c", 0, 1);
    assert_eq!(bench.phase("c"), "Queued");
    let from = times().lease + times().margin;
    let view = bench
        .core
        .view()
        .into_iter()
        .find(|view| view.id == id("c"));
    let told = view.expect("known").estimated_wait.expect("it waits");
    assert!(Millis(bench.now) + told >= from, "{told} at {}", bench.now);
    bench.run(told.0);
    assert_eq!(bench.phase("c"), "Serving");
}
