//! What sleeping engines keep on a GPU, and strangers take: learned, reserved, and given back where it is too much.

use super::{
    tiers::{engine, popular, sleeps},
    *,
};
use crate::model::Source;

fn read(bench: &mut Bench, gib: u64) -> Option<String> {
    let (gpu, used) = (GpuId(0), Bytes(gib * GIB));
    (0..3).for_each(|_| {
        bench.event(Event::GpuRead { gpu, used });
    });
    bench.core.gpus().remove(0).stopped
}

/// `a` served for one request and sleeps again: what it keeps was measured.
fn slept_once(bench: &mut Bench) {
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    sleeps(bench, "a", 1);
    assert_eq!(bench.phase("a"), "Asleep", "{}", bench.sentences());
}

fn kept_asleep(bench: &Bench, name: &str) -> (Bytes, Source) {
    let spec = bench.core.spec(&id(name)).expect("known");
    (spec.asleep, spec.sizes.asleep)
}

#[test]
fn a_residual_that_grew_with_a_sleep_is_learned_and_reserved() {
    let mut bench = settled(&[spec("a")]);
    slept_once(&mut bench);
    assert_eq!(kept_asleep(&bench, "a"), (Bytes(GIB), Source::Measured));
    bench.log.clear();
    engine(&mut bench, "a").sleep = Some(Outcome::Done {
        took: 90,
        memory: Memory::on_gpus(Bytes(7 * GIB)),
    });
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    let acts = sleeps(&mut bench, "a", 1_500);
    // It is asked once more, in case it only was slow, and then believed.
    assert_eq!(acts, ["sleep a Keep", "sleep a Keep"]);
    assert_eq!(kept_asleep(&bench, "a"), (Bytes(7 * GIB), Source::Measured));
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(7 * GIB));
    let kept = |effect: &Effect| matches!(effect, Effect::Footprint { .. });
    assert!(bench.log.iter().any(kept), "for the next life");
}

#[test]
fn a_residual_that_grows_while_its_engine_sleeps_stops_the_gpu_until_it_is_seen() {
    let mut bench = settled(&[spec("a"), spec("b")]);
    slept_once(&mut bench);
    bench.run(3_000);
    bench.log.clear();
    engine(&mut bench, "a").memory = Bytes(7 * GIB);
    assert!(read(&mut bench, 8).is_some(), "nobody knows why");
    bench.run(1_100);
    assert_eq!(read(&mut bench, 8), None, "{}", bench.sentences());
    assert_eq!(kept_asleep(&bench, "a"), (Bytes(7 * GIB), Source::Measured));
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(8 * GIB));
    assert!(
        bench
            .sentences()
            .contains("a: holds 7.0 GiB while it sleeps, not 1.0 GiB")
    );
    let kept = |effect: &Effect| matches!(effect, Effect::Footprint { .. });
    assert!(bench.log.iter().any(kept), "for the next life");
    assert_eq!(acts(&bench.log), Vec::<String>::new());
}

#[test]
fn a_sleeping_engine_that_is_waking_by_a_strangers_hand_says_nothing_of_its_residual() {
    let mut bench = settled(&[spec("a")]);
    slept_once(&mut bench);
    bench.run(3_000);
    engine(&mut bench, "a").memory = Bytes(17 * GIB);
    bench.run(2_000);
    assert_eq!(kept_asleep(&bench, "a"), (Bytes(GIB), Source::Measured));
    assert_eq!(
        bench.core.gpus()[0].reserved,
        Bytes(17 * GIB),
        "but it holds that"
    );
}

#[test]
fn a_wake_does_not_give_back_what_its_engine_was_seen_to_keep() {
    let mut bench = settled(&[spec("a")]);
    slept_once(&mut bench);
    bench.run(3_000);
    // More than all that was declared for it when it is awake.
    engine(&mut bench, "a").memory = Bytes(25 * GIB);
    bench.run(2_000);
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(25 * GIB));
    bench.answering = false;
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Waking", "{}", bench.sentences());
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(25 * GIB));
}

/// `b` serves requests on a GPU of 40 GiB; `a` and `c` sleep beside it. What they keep grows to so much each.
fn grown(b: u64, each: u64) -> Bench {
    let busy = ModelSpec {
        awake: Bytes(b * GIB),
        ..spec("b")
    };
    let quiet = |name: &str| ModelSpec {
        idle_timeout: None,
        ..spec(name)
    };
    let mut bench = settled(&[quiet("a"), busy, quiet("c")]);
    bench.figures("g1", "b", 0, 1);
    bench.figures("g1", "b", 1, 0);
    engine(&mut bench, "b").count = 1;
    popular(&mut bench, "a", 100);
    bench.run(12_000);
    for name in ["a", "c"] {
        engine(&mut bench, name).memory = Bytes(each * GIB);
    }
    bench
}

#[test]
fn what_sleeping_engines_keep_beyond_a_gpus_capacity_is_given_back_by_the_one_that_is_worth_least()
{
    let mut bench = grown(30, 7);
    let acts = acts(&bench.run(3_000));
    assert_eq!(acts, ["kill c"], "{}", bench.sentences());
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(37 * GIB));
    assert_eq!(bench.phase("b"), "Serving");
    assert!(
        bench
            .sentences()
            .contains("c: stopped: what it keeps on its GPU is needed for the others")
    );
}

#[test]
fn an_idle_model_goes_to_sleep_rather_than_that_an_engine_ends() {
    let mut bench = grown(30, 7);
    popular(&mut bench, "c", 100);
    engine(&mut bench, "b").count = 0;
    bench.figures("g1", "b", 0, 0);
    let acts = acts(&bench.run(3_000));
    assert_eq!(acts, ["sleep b Keep"], "{}", bench.sentences());
}

#[test]
fn who_fits_only_without_what_sleeping_engines_keep_is_served() {
    let mut bench = grown(17, 5);
    let large = ModelSpec {
        awake: Bytes(34 * GIB),
        idle_timeout: None,
        ..spec("d")
    };
    bench.run(3_000);
    engine(&mut bench, "b").count = 0;
    bench.figures("g1", "b", 0, 0);
    bench.add(&large, EngineState::Asleep);
    bench.run(2_000);
    // 34 of 40 GiB: `b` goes to sleep, and one of the engines that keep 5 ends.
    let effects = [bench.figures("g1", "d", 0, 1), bench.run(20_000)].concat();
    let acts = acts(&effects);
    assert_eq!(
        acts,
        ["kill c", "sleep b Keep", "wake d", "d admit"],
        "{}",
        bench.sentences()
    );
}

#[test]
fn what_never_fits_keeps_nothing_from_those_who_fit() {
    let quiet = ModelSpec {
        idle_timeout: None,
        ..spec("a")
    };
    let mut bench = settled(&[quiet]);
    let mut large = ModelSpec {
        awake: Bytes(34 * GIB),
        ..spec("b")
    };
    bench.add(&large, EngineState::Asleep);
    bench.run(2_000);
    engine(&mut bench, "b").wake = Some(Outcome::Failed(ActionError {
        cause: "it refuses".into(),
        engine: EngineState::Asleep,
        no_room: false,
    }));
    large.pinned = true;
    bench.event(Event::ModelSet(Box::new(large)));
    assert_eq!(bench.phase("b"), "Failed", "it cools down");
    // Beside 34 GiB that are pinned nobody ever has 17 of 40.
    let effects = bench.figures("g1", "a", 0, 1);
    assert_eq!(names(&effects), ["a refuse NeverFits"]);
    engine(&mut bench, "a").memory = Bytes(7 * GIB);
    engine(&mut bench, "b").wake = None;
    let acts = acts(&bench.run(20_000));
    assert_eq!(
        acts,
        ["kill a", "wake b", "b admit"],
        "{}",
        bench.sentences()
    );
    assert_eq!(bench.phase("a"), "Failed");
}

#[test]
fn who_fits_only_without_engines_that_nobody_may_stop_is_told_so() {
    let mut attached = spec("a");
    (attached.asleep, attached.caps.restartable) = (Bytes(5 * GIB), false);
    let large = ModelSpec {
        awake: Bytes(36 * GIB),
        ..spec("b")
    };
    let mut bench = settled(&[attached, large]);
    let effects = bench.figures("g1", "b", 0, 1);
    assert_eq!(names(&effects), ["b refuse NeverFits"]);
}

#[test]
fn what_a_victim_keeps_itself_is_given_back_where_nothing_else_makes_room() {
    let large = ModelSpec {
        awake: Bytes(39 * GIB),
        idle_timeout: None,
        ..spec("b")
    };
    let keeps = ModelSpec {
        asleep: Bytes(2 * GIB),
        ..spec("a")
    };
    let mut bench = settled(&[keeps, large]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.run(12_000);
    let effects = [bench.figures("g1", "b", 0, 1), bench.run(5_000)].concat();
    assert_eq!(
        acts(&effects),
        ["sleep a Keep", "kill a", "wake b", "b admit"],
        "{}",
        bench.sentences()
    );
    assert!(
        bench.sentences().contains("is needed for b;"),
        "by its name"
    );
}

#[test]
fn what_is_accepted_is_what_was_read_last_and_models_do_without_it() {
    let mut bench = Bench::ready(&["a", "b"]);
    bench.figures("g1", "a", 0, 1);
    bench.figures("g1", "a", 0, 0);
    bench.run(12_000);
    assert!(read(&mut bench, 18 + 5).is_some());
    let (gpu, used) = (GpuId(0), Bytes((18 + 8) * GIB));
    bench.event(Event::GpuRead { gpu, used });
    bench.event(Event::GpuAccepted(gpu));
    assert_eq!(bench.core.gpus()[0].foreign, Bytes(8 * GIB));
    assert_eq!(bench.core.gpus()[0].capacity, Bytes(32 * GIB));
    assert_eq!(read(&mut bench, 18 + 8), None);
    // Both would fit beside each other without it.
    let acts = acts(&bench.figures("g1", "b", 0, 1));
    assert_eq!(acts, ["sleep a Keep", "wake b", "b admit"]);
    bench.run(3_000);
    assert_eq!(read(&mut bench, 18 + 8), None, "it is not ours");
    assert_eq!(read(&mut bench, 18), None, "it has gone");
    assert_eq!(bench.core.gpus()[0].foreign, Bytes(0));
}

#[test]
fn first_starts_do_not_end_each_other_before_they_are_measured() {
    // 30 GiB awake and 12 asleep of 40: none has room beside what another keeps.
    let new = |name: &str| ModelSpec {
        awake: Bytes(30 * GIB),
        asleep: Bytes(12 * GIB),
        conditioned: false,
        ..spec(name)
    };
    let mut bench = Bench::new(&[new("a"), new("b"), new("c")], EngineState::Gone);
    bench.hello("g1", 1);
    bench.run(60_000);
    for name in ["a", "b", "c"] {
        assert_eq!(bench.phase(name), "Asleep", "{}", bench.sentences());
        bench.figures("g1", name, 0, 1);
        bench.run(30_000);
        assert_eq!(bench.phase(name), "Serving", "{}", bench.sentences());
        bench.figures("g1", name, 0, 0);
        bench.run(12_000);
    }
    let starts = |effect: &&Effect| matches!(effect, Effect::Start { .. });
    let started = bench.log.iter().filter(starts).count();
    assert!(started <= 3 + 3, "{started} starts");
}

/// `a` never fits and has two requests frozen in it; `c` needs what it keeps.
fn in_the_way() -> Bench {
    let keeps = ModelSpec {
        asleep: Bytes(5 * GIB),
        ..spec("a")
    };
    let large = ModelSpec {
        awake: Bytes(36 * GIB),
        ..spec("c")
    };
    let mut bench = settled(&[keeps.clone(), large]);
    bench.event(Event::ModelSet(Box::new(ModelSpec {
        awake: Bytes(50 * GIB),
        ..keeps
    })));
    engine(&mut bench, "a").count = 2;
    bench.run(2_000);
    assert_eq!(bench.phase("a"), "Failed", "{}", bench.sentences());
    let effects = bench.figures("g1", "c", 0, 1);
    assert_eq!(names(&effects), ["c refuse TooLong"]);
    bench
}

#[test]
fn who_keeps_what_others_wait_for_and_cannot_leave_is_named_with_what_helps() {
    let told = "a keeps 5.0 GiB there: it never fits itself, and 2 requests frozen in its engine cannot end; let it fit";
    let bench = in_the_way();
    let sentence = format!("c: no room can be made now: {told}");
    assert!(
        bench.sentences().contains(&sentence),
        "{}",
        bench.sentences()
    );
    let why_not = bench.core.why_not(Millis(bench.now), &id("c"));
    let reasons = why_not.expect("known").reasons;
    let names_it = |reasons: &[String]| reasons.iter().any(|reason| reason.starts_with(told));
    assert!(names_it(&reasons), "{reasons:?}");
    let mut views = bench.core.view().into_iter();
    let mut of = |id: ModelId| views.find(|view| view.id == id).expect("known").in_the_way;
    assert_eq!(of(id("a")), Vec::<String>::new());
    assert!(names_it(&of(id("c"))));
}

#[test]
fn what_is_told_to_help_against_one_in_the_way_does() {
    let mut bench = in_the_way();
    engine(&mut bench, "a").state = EngineState::Gone;
    let effects = bench.run(3_000);
    assert_eq!(
        acts(&effects),
        ["wake c", "c admit"],
        "{}",
        bench.sentences()
    );
    let mut bench = in_the_way();
    let fits = ModelSpec {
        asleep: Bytes(5 * GIB),
        ..spec("a")
    };
    let effects = bench.event(Event::ModelSet(Box::new(fits)));
    assert_eq!(
        acts(&effects),
        ["wake a", "a admit"],
        "{}",
        bench.sentences()
    );
}

#[test]
fn an_engine_out_of_service_that_may_hold_its_room_is_named_with_what_helps() {
    let mut attached = spec("a");
    attached.caps.restartable = false;
    let large = ModelSpec {
        awake: Bytes(36 * GIB),
        ..spec("c")
    };
    let mut bench = Bench::new(&[attached], EngineState::Broken);
    bench.add(&large, EngineState::Asleep);
    bench.run(3_000);
    bench.hello("g1", 1);
    bench.run(10_000);
    bench.figures("g1", "c", 0, 1);
    let told = "c: no room can be made now: a may hold 17.0 GiB there: its engine is out of service; restart it, or end its process; requests get 503";
    assert!(bench.sentences().contains(told), "{}", bench.sentences());
    engine(&mut bench, "a").state = EngineState::Gone;
    assert_eq!(acts(&bench.run(3_000)), ["wake c", "c admit"]);
}

#[test]
fn who_keeps_more_asleep_than_it_should_take_awake_is_not_woken_beyond_capacity() {
    let attached = |name: &str| {
        let mut attached = spec(name);
        attached.caps.restartable = false;
        attached
    };
    let mut bench = started(&[attached("a"), attached("b")]);
    engine(&mut bench, "a").memory = Bytes(32 * GIB);
    bench.run(3_000);
    engine(&mut bench, "b").state = EngineState::Broken;
    bench.run(3_000);
    assert_eq!(bench.core.gpus()[0].reserved, Bytes(49 * GIB));
    bench.figures("g1", "a", 0, 1);
    assert_eq!(bench.phase("a"), "Queued", "{}", bench.sentences());
    engine(&mut bench, "b").state = EngineState::Gone;
    bench.run(3_000);
    assert_eq!(bench.phase("a"), "Serving", "{}", bench.sentences());
}

#[test]
fn nobody_goes_to_sleep_where_the_sleep_of_one_out_of_service_would_need_the_room() {
    let sized = |name: &str, awake: u64, sleeping: u64| {
        let mut sized = spec(name);
        sized.caps.restartable = false;
        sized.awake = Bytes(awake * GIB);
        sized.sizes.sleeping.bytes = Bytes(sleeping * GIB);
        sized
    };
    let models = [sized("a", 10, 4), sized("b", 17, 0), sized("c", 27, 0)];
    let mut bench = started(&models);
    engine(&mut bench, "a").state = EngineState::Broken;
    bench.figures("g1", "b", 0, 1);
    bench.figures("g1", "b", 0, 0);
    bench.run(20_000);
    assert_eq!(bench.phase("b"), "Serving");
    bench.log.clear();
    bench.figures("g1", "c", 0, 1);
    bench.run(20_000);
    assert_eq!(acts(&bench.log), Vec::<String>::new());
    engine(&mut bench, "a").state = EngineState::Gone;
    bench.run(20_000);
    assert_eq!(bench.phase("c"), "Serving", "{}", bench.sentences());
}
