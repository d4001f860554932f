//! What is remembered, and until when: peaks, what was found, wishes, and requests of gates that fell silent.

use super::*;
use crate::phase::Tier;

fn engine<'a>(bench: &'a mut Bench, model: &str) -> &'a mut Engine {
    bench.engines.get_mut(&id(model)).expect("known")
}

fn operator(bench: &mut Bench, model: &str, verb: Operator) -> Vec<Effect> {
    let model = id(model);
    bench.event(Event::Operator { model, verb })
}

fn reserved(bench: &Bench) -> Bytes {
    bench.core.gpus()[0].reserved
}

/// Serves with nobody in it.
fn serve(bench: &mut Bench, model: &str) {
    bench.figures("g1", model, 0, 1);
    bench.figures("g1", model, 0, 0);
    assert_eq!(bench.phase(model), "Serving", "{}", bench.sentences());
}

fn lost(bench: &mut Bench, model: &str) {
    engine(bench, model).state = EngineState::Gone;
    bench.event(Event::EngineGone {
        model: id(model),
        attempt: None,
        cause: "it died".into(),
    });
}

/// What is reserved while `a` starts.
fn starting(bench: &mut Bench) -> Bytes {
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Waking", "{}", bench.sentences());
    reserved(bench)
}

/// The start that is under way ends, with this peak.
fn starts(bench: &mut Bench, peak: u64) {
    let start = |effect: &Effect| {
        if let Effect::Start { attempt, .. } = effect {
            Some(*attempt)
        } else {
            None
        }
    };
    let attempt = bench.log.iter().rev().find_map(start).expect("started");
    bench.answering = true;
    engine(bench, "a").state = EngineState::Awake;
    engine(bench, "a").memory = Bytes(17 * GIB);
    let memory = Memory {
        peak: Some(Bytes(peak * GIB)),
        ..Memory::on_gpus(Bytes(17 * GIB))
    };
    bench.event(Event::Started {
        model: id("a"),
        attempt,
        outcome: Outcome::Done { took: 900, memory },
    });
    bench.figures("g1", "a", 0, 0);
    assert_eq!(bench.phase("a"), "Serving", "{}", bench.sentences());
}

#[test]
fn the_largest_peak_of_all_starts_is_reserved_for_the_next() {
    let mut bench = started(&[spec("a")]);
    for (reserves, peak) in [(17, 22), (22, 18), (22, 17)] {
        lost(&mut bench, "a");
        assert_eq!(starting(&mut bench), Bytes(reserves * GIB));
        starts(&mut bench, peak);
    }
}

#[test]
fn the_peak_of_a_wake_is_reserved_for_starts_too() {
    let mut bench = started(&[spec("a")]);
    engine(&mut bench, "a").wake = Some(Outcome::Done {
        took: 600,
        memory: Memory {
            peak: Some(Bytes(21 * GIB)),
            ..Memory::on_gpus(Bytes(17 * GIB))
        },
    });
    serve(&mut bench, "a");
    lost(&mut bench, "a");
    assert_eq!(starting(&mut bench), Bytes(21 * GIB));
}

#[test]
fn what_an_engine_was_found_to_hold_stays_reserved_until_it_is_measured_again() {
    let mut bench = Bench::new(&[spec("a")], EngineState::Awake);
    engine(&mut bench, "a").memory = Bytes(32 * GIB);
    bench.run(2_500);
    assert_eq!(reserved(&bench), Bytes(32 * GIB));
    // Nobody measures any more.
    bench.measured = false;
    bench.hello("g1", 1);
    bench.run(20_000);
    assert_eq!(reserved(&bench), Bytes(32 * GIB));
    engine(&mut bench, "a").sleep = Some(Outcome::Unknown {
        cause: "the connection broke".into(),
    });
    operator(&mut bench, "a", Operator::Sleep);
    assert_eq!(bench.phase("a"), "Sleeping", "{}", bench.sentences());
    assert_eq!(reserved(&bench), Bytes(32 * GIB));
}

#[test]
fn a_second_residual_that_grew_is_asked_about_once_more_too() {
    let mut bench = started(&[spec("a")]);
    for (kept, asks) in [(7, 2), (12, 2), (12, 1)] {
        serve(&mut bench, "a");
        engine(&mut bench, "a").sleep = Some(Outcome::Done {
            took: 90,
            memory: Memory::on_gpus(Bytes(kept * GIB)),
        });
        bench.log.clear();
        operator(&mut bench, "a", Operator::Sleep);
        engine(&mut bench, "a").state = EngineState::Asleep;
        engine(&mut bench, "a").memory = Bytes(kept * GIB);
        bench.run(1_500);
        let told = acts(&bench.log);
        assert_eq!(told, vec!["sleep a Keep"; asks], "{}", bench.sentences());
    }
}

#[test]
fn what_never_fitted_fits_when_the_pinned_one_is_out_of_service() {
    // By what it takes, and by what its sleep takes.
    for (awake, sleeping, large) in [(17, 0, 30), (5, 10, 32)] {
        let mut pinned = spec("a");
        (pinned.pinned, pinned.awake) = (true, Bytes(awake * GIB));
        pinned.sizes.sleeping.bytes = Bytes(sleeping * GIB);
        let large = ModelSpec {
            awake: Bytes(large * GIB),
            ..spec("b")
        };
        let mut bench = started(&[pinned, large]);
        bench.figures("g1", "b", 0, 1);
        assert_eq!(bench.phase("b"), "Failed", "{}", bench.sentences());
        operator(&mut bench, "a", Operator::Disable);
        bench.run(60_000);
        assert_eq!(bench.phase("b"), "Serving", "{}", bench.sentences());
    }
}

/// `a` does not count, takes what comes while it sleeps, and serves; a gate had a request in it and fell silent.
fn with_a_silent_gate(tier: Tier) -> Bench {
    let mut model = spec("a");
    (model.caps.counts, model.tier) = (false, Some(tier));
    model.on_lease_end = OnLeaseEnd::Hold;
    let mut bench = started(&[model]);
    bench.counted = false;
    serve(&mut bench, "a");
    bench.hello("g2", 2);
    bench.figures("g2", "a", 1, 0);
    bench.gates.remove(&GateId("g2".into()));
    bench.run(20_000);
    bench.log.clear();
    bench
}

/// By then nothing is known of a silent gate any more.
const FORGOTTEN: u64 = 620_000;

#[test]
fn what_a_silent_gate_had_in_an_engine_that_does_not_count_is_frozen_and_not_ended() {
    let mut bench = with_a_silent_gate(Tier::Stopped);
    operator(&mut bench, "a", Operator::Sleep);
    bench.run(60_000);
    assert_eq!(acts(&bench.log), ["sleep a Keep"], "{}", bench.sentences());
    assert_eq!(acts(&bench.run(FORGOTTEN)), ["kill a"]);
}

#[test]
fn what_a_gate_that_comes_back_has_in_an_engine_that_does_not_count_is_not_ended_with_it() {
    let mut bench = with_a_silent_gate(Tier::Stopped);
    operator(&mut bench, "a", Operator::Sleep);
    bench.run(60_000);
    let running = Figures {
        in_flight: 1,
        ..Figures::default()
    };
    let figures = BTreeMap::from([(id("a"), running)]);
    let known = (StreamId(2), 100, figures);
    bench.gates.insert(GateId("g2".into()), known);
    bench.log.clear();
    bench.hello("g2", 3);
    bench.run(2_000);
    let told = acts(&bench.log);
    assert_eq!(told, ["wake a", "a admit"], "{}", bench.sentences());
}

#[test]
fn what_a_silent_gate_had_in_an_engine_that_does_not_count_is_not_removed_with_it() {
    let mut bench = with_a_silent_gate(Tier::Ram);
    bench.event(Event::ModelRemoved(id("a")));
    bench.run(60_000);
    assert_eq!(acts(&bench.log), Vec::<String>::new());
    assert_eq!(acts(&bench.run(FORGOTTEN)), ["removed a"]);
}

#[test]
fn what_a_silent_gate_had_in_a_started_engine_keeps_it_from_its_first_sleep() {
    let mut model = ModelSpec {
        on_lease_end: OnLeaseEnd::Hold,
        ..spec("a")
    };
    model.caps.lossless = false;
    let mut bench = Bench::new(&[model], EngineState::Gone);
    bench.hello("g1", 1);
    bench.hello("g2", 2);
    bench.figures("g2", "a", 1, 0);
    bench.gates.remove(&GateId("g2".into()));
    assert_eq!(acts(&bench.run(60_000)), ["start a", "close g2"]);
    // Nothing is known of that gate any more.
    assert_eq!(acts(&bench.run(FORGOTTEN)), ["sleep a Keep"]);
}

#[test]
fn nobody_waits_for_one_that_waits_for_a_gpu_where_nothing_begins() {
    let wide = ModelSpec {
        gpus: vec![GpuId(0), GpuId(1)],
        ..spec("a")
    };
    let other = ModelSpec {
        gpus: vec![GpuId(1)],
        ..spec("b")
    };
    let mut bench = Bench::on(2, &[wide, other], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    let (gpu, used) = (GpuId(0), Bytes(30 * GIB));
    (0..3).for_each(|_| {
        bench.event(Event::GpuRead { gpu, used });
    });
    bench.figures("g1", "a", 0, 1);
    bench.run(1_000);
    bench.figures("g1", "b", 0, 1);
    let phases = ["a", "b"].map(|model| bench.phase(model));
    assert_eq!(phases, ["Queued", "Serving"], "{}", bench.sentences());
}

#[test]
fn a_removal_before_the_first_start_that_is_taken_back_leaves_that_to_come() {
    let models = [spec("a"), spec("b")];
    let mut bench = Bench::new(&models, EngineState::Awake);
    bench.add(&spec("c"), EngineState::Gone);
    bench.hello("g1", 1);
    bench.run(3_000);
    assert_eq!(bench.phase("c"), "Booting", "{}", bench.sentences());
    bench.event(Event::ModelRemoved(id("c")));
    assert_eq!(bench.phase("c"), "Draining");
    bench.event(Event::ModelSet(Box::new(spec("c"))));
    assert_eq!(bench.phase("c"), "Booting");
}

#[test]
fn an_engine_that_never_says_what_is_in_it_is_removed_in_the_end() {
    let mut bench = settled(&[spec("a")]);
    bench.counted = false;
    bench.run(3_000);
    bench.event(Event::ModelRemoved(id("a")));
    assert_eq!(acts(&bench.run(5_000)), Vec::<String>::new());
    assert_eq!(acts(&bench.run(20_000)), ["removed a"]);
}

#[test]
fn an_operator_who_wanted_it_awake_and_now_asleep_does_not_wait_for_it() {
    let mut bench = busy();
    operator(&mut bench, "c", Operator::Wake);
    assert_eq!(bench.phase("c"), "Queued", "{}", bench.sentences());
    operator(&mut bench, "c", Operator::Sleep);
    assert_eq!(bench.phase("c"), "Asleep");
}

#[test]
fn nobody_goes_to_sleep_for_a_request_that_is_no_wish_any_more() {
    let patient = |name: &str| ModelSpec {
        drain_timeout: Millis(300_000),
        ..spec(name)
    };
    let mut bench = started(&[patient("a"), patient("b"), spec("c")]);
    serve(&mut bench, "a");
    serve(&mut bench, "b");
    bench.run(11_000);
    bench.answering = false;
    let refused = Figures {
        last_refused_age: Some(0),
        ..Figures::default()
    };
    let known = bench.gates.get_mut(&GateId("g1".into()));
    known.expect("said Hello").2.insert(id("c"), refused);
    bench.report("g1");
    let known = bench.gates.get_mut(&GateId("g1".into()));
    known.expect("said Hello").2.clear();
    assert_eq!(bench.phase("a"), "Draining", "{}", bench.sentences());
    // A refused request counts as a wish for a minute.
    bench.run(60_000 - 1);
    assert_eq!(bench.phase("a"), "Draining", "{}", bench.sentences());
    // The answer comes at the very moment, before anybody has a turn.
    bench.now += 1;
    let mut asked = looks(&bench.log).into_iter().rev();
    let asked = asked.find(|(model, _)| *model == id("a"));
    bench.event(Event::Observed {
        model: id("a"),
        attempt: asked.expect("asked").1,
        observation: Observation {
            state: EngineState::Awake,
            count: Some(0),
            memory: Memory::on_gpus(Bytes(17 * GIB)),
            tier: None,
        },
    });
    assert_eq!(bench.phase("a"), "Serving", "{}", bench.sentences());
}
