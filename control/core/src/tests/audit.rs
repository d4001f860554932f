//! What the oracle reads on whole GPUs: when nothing begins there any more, and what operators accept.

use super::*;

/// The oracle reads the first GPU.
fn read(bench: &mut Bench, used: Bytes) -> bool {
    let gpu = GpuId(0);
    bench.event(Event::GpuRead { gpu, used });
    bench.core.gpus()[0].stopped.is_some()
}

#[test]
fn the_third_reading_in_a_row_that_differs_stops_a_gpu() {
    let mut bench = Bench::ready(&["a", "b"]);
    bench.core.fleet.tolerance = Bytes(512);
    for differs in [true, true, false, true, true] {
        let off = if differs { 513 } else { 512 };
        assert!(!read(&mut bench, Bytes(2 * GIB + off)));
    }
    assert!(read(&mut bench, Bytes(2 * GIB + 513)));
    assert!(!read(&mut bench, Bytes(2 * GIB + 512)), "they agree again");
    let told = bench.sentences();
    for said in ["are in use, models should take", "wakes and sleeps go on"] {
        let told: Vec<&str> = told.lines().filter(|line| line.contains(said)).collect();
        assert!(
            matches!(told[..], [one] if one.starts_with("GPU 0: ")),
            "once for both models: {told:?}"
        );
    }
    for last in [false, false, true] {
        assert_eq!(
            read(&mut bench, Bytes(2 * GIB - 513)),
            last,
            "less is as bad"
        );
    }
}

#[test]
fn a_stopped_gpu_stays_so_while_something_moves() {
    let mut bench = Bench::ready(&["a"]);
    for _ in 0..3 {
        read(&mut bench, Bytes(9 * GIB));
    }
    bench.answering = false;
    bench.engines.get_mut(&id("a")).expect("known").state = EngineState::Broken;
    bench.answering = true;
    let killed = bench.run(1_100);
    assert!(names(&killed).contains(&"kill a".to_owned()));
    bench.answering = false;
    for _ in 0..4 {
        read(&mut bench, Bytes(9 * GIB));
    }
    assert!(bench.core.gpus()[0].stopped.is_some());
}

#[test]
fn what_was_accepted_is_expected_and_nobody_elses() {
    let mut bench = beside_a_stranger();
    assert_eq!(bench.core.gpus()[0].foreign, Bytes(8 * GIB));
    for _ in 0..5 {
        assert!(!read(&mut bench, Bytes(10 * GIB)));
    }
    let refused = names(&bench.figures("g1", "large", 0, 1));
    assert_eq!(refused, ["large refuse NeverFits"]);
}

/// `a` and `large` sleep beside 8 GiB of somebody else's, which an operator accepted.
fn beside_a_stranger() -> Bench {
    let mut bench = started(&[
        spec("a"),
        ModelSpec {
            awake: Bytes(38 * GIB),
            ..spec("large")
        },
    ]);
    read(&mut bench, Bytes(10 * GIB));
    bench.event(Event::GpuAccepted(GpuId(0)));
    bench
}

fn foreign(bench: &Bench) -> u64 {
    bench.core.gpus()[0].foreign.0 / GIB
}

#[test]
fn what_was_accepted_and_is_free_again_is_for_models_and_stops_nothing() {
    let mut bench = beside_a_stranger();
    let refused = names(&bench.figures("g1", "large", 0, 1));
    assert_eq!(refused, ["large refuse NeverFits"]);
    // Not by one reading that is over again; of several the most counts.
    for (used, left) in [
        (3, 8),
        (10, 8),
        (3, 8),
        (5, 8),
        (4, 3),
        (5, 3),
        (2, 3),
        (2, 3),
        (2, 0),
    ] {
        assert!(
            !read(&mut bench, Bytes(used * GIB)),
            "{}",
            bench.sentences()
        );
        assert_eq!(foreign(&bench), left, "{}", bench.sentences());
    }
    let told = bench.sentences();
    assert!(told.contains("GPU 0: of the 8.0 GiB that an operator accepted as somebody else's only 3.0 GiB are still in use"), "{told}");
    assert!(told.contains("GPU 0: of the 3.0 GiB that an operator accepted as somebody else's nothing is in use any more"), "{told}");
    bench.run(1_000);
    assert_eq!(bench.phase("large"), "Serving", "{told}");
}

#[test]
fn what_was_accepted_never_grows_by_itself_and_less_than_models_take_is_no_others() {
    let mut bench = beside_a_stranger();
    for _ in 0..3 {
        read(&mut bench, Bytes(5 * GIB));
    }
    assert_eq!(foreign(&bench), 3);
    for last in [false, false, true, true] {
        assert_eq!(read(&mut bench, Bytes(10 * GIB)), last);
    }
    // It stands still until they agree, or until what is less has stayed so.
    assert!(read(&mut bench, Bytes(3 * GIB)) && read(&mut bench, Bytes(3 * GIB)));
    assert!(!read(&mut bench, Bytes(3 * GIB)));
    assert_eq!(foreign(&bench), 1);
    let told = bench.sentences();
    assert!(
        told.contains("models may take the rest; wakes and sleeps go on"),
        "{told}"
    );
    for last in [false, false, true] {
        assert_eq!(read(&mut bench, Bytes(GIB)), last, "models take two");
    }
    assert_eq!(foreign(&bench), 1);
}

#[test]
fn a_reading_of_before_a_model_woke_takes_nothing_from_what_was_accepted() {
    let mut bench = Bench::ready(&["a"]);
    read(&mut bench, Bytes(21 * GIB));
    bench.event(Event::GpuAccepted(GpuId(0)));
    assert_eq!(foreign(&bench), 20);
    let late = |bench: &mut Bench| {
        for _ in 0..2 {
            assert!(!read(bench, Bytes(21 * GIB)));
        }
    };
    read(&mut bench, Bytes(19 * GIB));
    bench.figures("g1", "a", 0, 1);
    bench.run(100);
    assert_eq!(bench.phase("a"), "Serving", "{}", bench.sentences());
    late(&mut bench);
    read(&mut bench, Bytes(37 * GIB));
    late(&mut bench);
    assert_eq!(foreign(&bench), 20);
}

#[test]
fn what_was_accepted_as_missing_is_not_expected() {
    let mut bench = Bench::ready(&["a"]);
    bench.figures("g1", "a", 0, 1);
    read(&mut bench, Bytes(9 * GIB));
    bench.event(Event::GpuAccepted(GpuId(0)));
    for _ in 0..5 {
        assert!(!read(&mut bench, Bytes(9 * GIB)));
    }
}

#[test]
fn a_reading_of_before_is_not_accepted_as_what_is_there_now() {
    let mut bench = Bench::ready(&["a"]);
    read(&mut bench, Bytes(GIB));
    bench.figures("g1", "a", 0, 1);
    bench.event(Event::GpuAccepted(GpuId(0)));
    assert!(bench.core.gpus()[0].accepting);
    for _ in 0..5 {
        assert!(!read(&mut bench, Bytes(17 * GIB)));
    }
}
