//! Sizes that were declared wrongly, or change: what is learned, and what is done where a GPU has no room after all.

use super::*;
use crate::model::{Size, Source};

fn size(gib: u64, source: Source) -> Size {
    Size {
        bytes: Bytes(gib * GIB),
        source,
    }
}

fn done(gpu: u64, peak: u64) -> Outcome {
    Outcome::Done {
        took: 500,
        memory: Memory {
            gpu: Some(Bytes(gpu * GIB)),
            peak: Some(Bytes(peak * GIB)),
            host: None,
        },
    }
}

fn failed(engine: EngineState, no_room: bool) -> Outcome {
    Outcome::Failed(ActionError {
        cause: "CUDA out of memory".into(),
        engine,
        no_room,
    })
}

fn engine<'a>(bench: &'a mut Bench, name: &str) -> &'a mut Engine {
    bench.engines.get_mut(&id(name)).expect("known")
}

fn spec_of<'a>(bench: &'a Bench, name: &str) -> &'a ModelSpec {
    bench.core.spec(&id(name)).expect("known")
}

fn is_ended(bench: &Bench) -> bool {
    let ends = |effect: &Effect| matches!(effect, Effect::Kill { .. });
    bench.log.iter().any(ends)
}

/// Wakes a model for one request that ends.
fn wake(bench: &mut Bench, name: &str) {
    bench.figures("g1", name, 0, 1);
    bench.figures("g1", name, 0, 0);
}

/// An operator asks `a` to sleep.
fn falls_asleep(bench: &mut Bench) {
    bench.event(Event::Operator {
        model: id("a"),
        verb: Operator::Sleep,
    });
}

/// The GPU is read as it is, and the oracle agrees or not.
fn read(bench: &mut Bench, gib: u64) {
    bench.event(Event::GpuRead {
        gpu: GpuId(0),
        used: Bytes(gib * GIB),
    });
}

#[test]
fn what_an_engine_in_service_holds_corrects_what_it_takes() {
    let mut bench = Bench::ready(&["a"]);
    wake(&mut bench, "a");
    assert_eq!(bench.phase("a"), "Serving");
    engine(&mut bench, "a").memory = Bytes(22 * GIB);
    bench.log.clear();
    bench.run(1_500);
    // It may just be on its way to what it holds in service.
    assert_eq!(spec_of(&bench, "a").awake, Bytes(17 * GIB));
    (0..3).for_each(|_| read(&mut bench, 22));
    assert!(bench.core.gpus()[0].stopped.is_some());
    bench.run(3_000);
    read(&mut bench, 22);
    let spec = spec_of(&bench, "a");
    assert_eq!(
        (spec.awake, spec.sizes.awake),
        (Bytes(22 * GIB), Source::Measured)
    );
    assert_eq!(bench.core.gpus()[0].stopped, None);
    let kept = |effect: &Effect| matches!(effect, Effect::Footprint { .. });
    assert_eq!(bench.log.iter().filter(|effect| kept(effect)).count(), 1);
}

#[test]
fn where_nobody_measures_figures_stay_declared() {
    let mut bench = Bench::ready(&["a"]);
    bench.measured = false;
    engine(&mut bench, "a").wake = Some(Outcome::Done {
        took: 500,
        memory: Memory::default(),
    });
    wake(&mut bench, "a");
    bench.run(5_000);
    let sizes = spec_of(&bench, "a").sizes;
    assert_eq!((sizes.awake, sizes.waking.source), Default::default());
}

#[test]
fn a_start_says_little_of_wakes() {
    let mut declared = spec("a");
    let peak = size(3, Source::Declared);
    (declared.sizes.waking, declared.sizes.starting) = (peak, peak);
    let mut bench = Bench::new(&[declared], EngineState::Gone);
    bench.answering = false;
    bench.hello("g1", 1);
    let observed = |attempt| Event::Observed {
        model: id("a"),
        attempt: Attempt(attempt),
        observation: Observation {
            state: EngineState::Gone,
            count: None,
            memory: Memory::default(),
            tier: None,
        },
    };
    bench.run(3_000);
    bench.event(observed(1));
    let started = |attempt| Event::Started {
        model: id("a"),
        attempt: Attempt(attempt),
        outcome: done(17, 18),
    };
    bench.event(started(2));
    assert_eq!(bench.phase("a"), "Booting", "{}", bench.sentences());
    assert_eq!(
        spec_of(&bench, "a").sizes.waking,
        size(3, Source::Declared),
        "a start that took less"
    );
    assert_eq!(
        spec_of(&bench, "a").sizes.starting,
        size(1, Source::Measured)
    );
    // A wake takes nothing; what a start takes stays reserved.
    bench.answering = true;
    engine(&mut bench, "a").state = EngineState::Awake;
    bench.run(20_000);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
    engine(&mut bench, "a").wake = Some(done(17, 17));
    wake(&mut bench, "a");
    assert_eq!(spec_of(&bench, "a").sizes.waking, size(1, Source::Measured));
}

#[test]
fn a_wake_that_takes_little_says_nothing_of_starts() {
    let mut declared = spec("a");
    let peak = size(3, Source::Declared);
    (declared.sizes.waking, declared.sizes.starting) = (peak, peak);
    let mut bench = Bench::new(&[declared], EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    engine(&mut bench, "a").wake = Some(done(17, 17));
    wake(&mut bench, "a");
    let known = spec_of(&bench, "a").clone();
    assert_eq!(known.sizes.waking, size(0, Source::Measured));
    // A reload brings what the shell knows: what wakes were measured to take, and what was declared for starts.
    bench.event(Event::ModelSet(Box::new(known)));
    // Its process ends, and it is started for the first time in this life.
    bench.event(Event::EngineGone {
        model: id("a"),
        attempt: None,
        cause: "it died".into(),
    });
    engine(&mut bench, "a").state = EngineState::Gone;
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Waking", "{}", bench.sentences());
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(20 * GIB));
}

#[test]
fn a_peak_above_what_was_only_declared_stays_where_it_was() {
    let mut declared = spec("a");
    declared.awake = Bytes(11 * GIB);
    // Found awake: nobody has measured it.
    let mut bench = Bench::new(&[declared], EngineState::Awake);
    bench.measured = false;
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    engine(&mut bench, "a").sleep = Some(done(1, 23));
    falls_asleep(&mut bench);
    let sleeping = spec_of(&bench, "a").sizes.sleeping;
    assert_eq!(
        sleeping,
        size(12, Source::Measured),
        "{}",
        bench.sentences()
    );
    engine(&mut bench, "a").state = EngineState::Asleep;
    engine(&mut bench, "a").wake = Some(done(20, 20));
    wake(&mut bench, "a");
    assert_eq!(
        spec_of(&bench, "a").sizes.sleeping,
        size(3, Source::Measured)
    );
}

#[test]
fn a_residual_that_was_declared_too_small_is_learned() {
    let mut bench = Bench::ready(&["a"]);
    wake(&mut bench, "a");
    engine(&mut bench, "a").sleep = Some(done(5, 19));
    bench.log.clear();
    falls_asleep(&mut bench);
    bench.run(1_500);
    let spec = spec_of(&bench, "a");
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
    assert!(!is_ended(&bench));
    assert_eq!(
        (spec.asleep, spec.sizes.asleep),
        (Bytes(5 * GIB), Source::Measured)
    );
    assert_eq!(spec.sizes.sleeping, size(2, Source::Measured));
}

#[test]
fn what_keeps_all_its_memory_is_no_residual() {
    let mut bench = Bench::ready(&["a"]);
    wake(&mut bench, "a");
    engine(&mut bench, "a").sleep = Some(done(17, 17));
    falls_asleep(&mut bench);
    bench.run(30_000);
    assert_eq!(spec_of(&bench, "a").asleep, Bytes(GIB));
    assert!(bench.sentences().contains("were not freed"));
}

/// `a` failed to wake, and `b` is idle and awake beside it.
fn beside_an_idle_one(no_room: bool) -> Bench {
    let mut bench = Bench::ready(&["a", "b"]);
    wake(&mut bench, "b");
    bench.run(30_000);
    engine(&mut bench, "a").wake = Some(failed(EngineState::Asleep, no_room));
    bench.figures("g1", "a", 0, 1);
    assert_eq!((bench.phase("a"), bench.phase("b")), ("Failed", "Serving"));
    engine(&mut bench, "a").wake = None;
    bench.run(12_000);
    assert_eq!(bench.phase("a"), "Serving", "{}", bench.sentences());
    bench
}

#[test]
fn others_go_first_where_a_gpu_had_no_room() {
    assert_eq!(beside_an_idle_one(true).phase("b"), "Asleep");
}

#[test]
fn nobody_goes_for_one_that_fails_for_another_reason() {
    assert_eq!(beside_an_idle_one(false).phase("b"), "Serving");
}

#[test]
fn an_engine_that_has_no_room_to_go_to_sleep_ends() {
    let mut bench = Bench::ready(&["a"]);
    wake(&mut bench, "a");
    engine(&mut bench, "a").sleep = Some(failed(EngineState::Awake, true));
    falls_asleep(&mut bench);
    bench.run(1_000);
    assert_eq!(bench.phase("a"), "Serving", "{}", bench.sentences());
    bench.log.clear();
    falls_asleep(&mut bench);
    // Not before every gate of an earlier control, which may flow, is silent.
    bench.run(700_000);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
    assert!(is_ended(&bench));
}

#[test]
fn too_much_awake_is_relieved_though_somebody_waits() {
    let sizes = [("a", 22), ("b", 6), ("c", 30)];
    let models = sizes.map(|(name, awake)| ModelSpec {
        awake: Bytes(awake * GIB),
        idle_timeout: None,
        ..spec(name)
    });
    let mut bench = started(&models);
    wake(&mut bench, "a");
    wake(&mut bench, "b");
    bench.run(12_000);
    // It grows in service, and cannot be put to sleep; whoever waits needs its room.
    engine(&mut bench, "a").memory = Bytes(36 * GIB);
    engine(&mut bench, "a").sleep = Some(failed(EngineState::Awake, false));
    bench.figures("g1", "c", 0, 1);
    bench.run(10_000);
    assert_eq!(bench.phase("c"), "Queued");
    assert_eq!(bench.phase("b"), "Asleep", "{}", bench.sentences());
}

#[test]
fn a_refused_sleep_may_follow_one_that_left_a_copy() {
    let mut sized = spec("a");
    sized.sizes.host = size(10, Source::Declared);
    let mut bench = with_host_ram();
    bench.add(&sized, EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    wake(&mut bench, "a");
    let held = |bench: &Bench| bench.core.hosts()[0].reserved;
    assert_eq!(held(&bench), Bytes(0));
    engine(&mut bench, "a").sleep = Some(failed(EngineState::Awake, false));
    falls_asleep(&mut bench);
    assert_eq!(bench.phase("a"), "Serving", "{}", bench.sentences());
    assert_eq!(held(&bench), Bytes(10 * GIB));
    bench.run(1_500);
    assert_eq!(held(&bench), Bytes(0), "a look tells");
}

#[test]
fn an_engine_that_is_found_with_more_than_was_declared_keeps_it_from_the_first_look_on() {
    let mut bench = Bench::new(&[spec("b")], EngineState::Asleep);
    bench.add(&spec("a"), EngineState::Awake);
    engine(&mut bench, "a").memory = Bytes(25 * GIB);
    bench.run(1_000);
    bench.hello("g1", 1);
    bench.figures("g1", "b", 0, 1);
    let effects = bench.run(2_000);
    assert!(bench.core.open, "{}", bench.sentences());
    // As declared there would be room for both.
    assert_eq!(acts(&effects), ["a admit"], "{}", bench.sentences());
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(26 * GIB));
    assert_eq!(
        spec_of(&bench, "a").awake,
        Bytes(17 * GIB),
        "a peak, perhaps"
    );
    assert!(
        bench
            .sentences()
            .contains("it holds 25.0 GiB, not 17.0 GiB")
    );
    // It was one.
    engine(&mut bench, "a").memory = Bytes(18 * GIB);
    assert_eq!(acts(&bench.run(3_000)), ["wake b", "b admit"]);
    assert_eq!(spec_of(&bench, "a").awake, Bytes(18 * GIB));
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(35 * GIB));
}
