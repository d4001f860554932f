//! What real small processes hold while they sleep, wake, start and end, and what a later life of control knows of it.

use std::fs;

use greenthread_core::{
    event::{ActionError, EngineState, Event, Memory, Outcome},
    ids::{Attempt, Bytes, GpuId},
    model::{SleepMode, Source},
    phase::Tier,
};

use super::{
    Bench, id,
    processes::{engine, free_port, gone, pid, start},
};
use crate::{
    config::Model,
    engine::{Action, Oracle, proc},
};

const ATTEMPT: Attempt = Attempt(3);

fn sleep(tier: Tier) -> Action {
    Action::Sleep(ATTEMPT, SleepMode::Keep, tier)
}

fn with(bench: &Bench, switches: &[(&str, &str)]) -> Model {
    let mut model = engine(&bench.state, free_port());
    model.spec.caps.disk = true;
    for (switch, value) in switches {
        model
            .engine
            .env
            .insert((*switch).to_owned(), (*value).to_owned());
    }
    model
}

async fn memory(bench: &mut Bench, action: Action) -> Memory {
    bench.engines.run(&id(), action);
    match bench.outcome().await {
        Outcome::Done { memory, .. } => memory,
        outcome @ (Outcome::Failed(_) | Outcome::Unknown { .. }) => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn the_worst_moment_of_a_sleep_and_of_a_wake_is_seen() {
    let mut bench = Bench::simulated("peak");
    let model = with(&bench, &[("PEAK", "20")]);
    bench.engines.set(model.clone()).await;
    start(&mut bench).await;
    let slept = memory(&mut bench, sleep(Tier::Ram)).await;
    assert_eq!(
        (slept.gpu, slept.peak),
        (Some(Bytes::gib(1)), Some(Bytes::gib(20)))
    );
    let woken = memory(&mut bench, Action::Wake(ATTEMPT, Tier::Ram)).await;
    assert_eq!(
        (woken.gpu, woken.peak),
        (Some(Bytes::gib(16)), Some(Bytes::gib(20)))
    );
    bench.engines.save_footprint(&id(), None).expect("write");
    let spec = bench.again().engines.set(model).await;
    for size in [spec.sizes.waking, spec.sizes.sleeping] {
        assert_eq!((size.bytes, size.source), (Bytes::gib(4), Source::Measured));
    }
    assert_eq!(spec.sizes.awake, Source::Measured);
}

#[tokio::test]
async fn a_residual_that_nobody_measured_is_what_stays_and_an_idle_action_has_no_peak() {
    let mut bench = Bench::simulated("residual");
    let mut model = with(&bench, &[("PEAK", "20")]);
    model.spec.asleep = Bytes(0);
    bench.engines.set(model.clone()).await;
    start(&mut bench).await;
    let slept = memory(&mut bench, sleep(Tier::Ram)).await;
    assert_eq!(slept.gpu, Some(Bytes::gib(1)));
    // It sleeps already: what it holds meanwhile is no peak of a sleep.
    let again = memory(&mut bench, sleep(Tier::Ram)).await;
    assert_eq!((again.gpu, again.peak), (Some(Bytes::gib(1)), None));
    // What the core has seen in service is kept beside it.
    let seen = Some(Bytes::gib(18));
    bench.engines.save_footprint(&id(), seen).expect("write");
    let spec = bench.again().engines.set(model).await;
    assert_eq!((spec.awake, spec.asleep), (Bytes::gib(18), Bytes::gib(1)));
    let sizes = spec.sizes;
    assert_eq!([sizes.awake, sizes.asleep], [Source::Measured; 2]);
}

#[tokio::test]
async fn the_size_of_a_sleeping_copy_is_measured_by_its_processes() {
    let mut bench = Bench::new("copy");
    let model = with(&bench, &[("COPY", "64")]);
    bench.engines.set(model.clone()).await;
    start(&mut bench).await;
    let near = |memory: Memory| {
        let copy = memory.host.expect("its processes are known").0 >> 20;
        assert!((60..80).contains(&copy), "{copy} MiB");
    };
    let slept = memory(&mut bench, sleep(Tier::Ram)).await;
    near(slept);
    assert_eq!(
        (slept.gpu, slept.peak),
        (None, None),
        "nobody measures GPUs"
    );
    // As vLLM does, it keeps the memory for its next sleep: held awake, and no second time.
    near(memory(&mut bench, Action::Wake(ATTEMPT, Tier::Ram)).await);
    near(memory(&mut bench, sleep(Tier::Ram)).await);
    bench.engines.save_footprint(&id(), None).expect("write");

    let mut again = bench.again();
    let spec = again.engines.set(model).await;
    assert_eq!(spec.sizes.host.source, Source::Measured);
    assert!((60..80).contains(&(spec.sizes.host.bytes.0 >> 20)));
    // And the next life of control knows what was there before.
    again.engines.run(&id(), Action::Observe(ATTEMPT));
    let observed = again
        .next(|event| {
            if let Event::Observed { observation, .. } = event {
                Some(observation)
            } else {
                None
            }
        })
        .await;
    near(observed.memory);
    assert_eq!(observed.tier, Some(Tier::Ram));
}

#[tokio::test]
async fn the_next_life_of_control_knows_how_deep_its_engines_sleep() {
    let mut bench = Bench::simulated("depth");
    let weights = bench.state.join("weights");
    let model = with(&bench, &[("WEIGHTS", &weights.to_string_lossy())]);
    bench.engines.set(model.clone()).await;
    start(&mut bench).await;
    memory(&mut bench, sleep(Tier::Disk)).await;
    assert_eq!(fs::read_to_string(&weights).expect("a word"), "gone");

    let mut again = bench.again();
    again.engines.set(model).await;
    memory(&mut again, Action::Wake(ATTEMPT, Tier::Ram)).await;
    assert_eq!(fs::read_to_string(&weights).expect("a word"), "there");
    again.engines.save_footprint(&id(), None).expect("write");
    let footprints = fs::read_to_string(bench.state.join("footprints.json")).expect("read");
    assert!(footprints.contains("\"reload_ms\": "), "{footprints}");
}

#[tokio::test]
async fn an_engine_is_stopped_and_started_as_the_deepest_sleep() {
    let mut bench = Bench::simulated("stop");
    let model = with(&bench, &[]);
    bench.engines.set(model).await;
    start(&mut bench).await;
    let group = pid(&bench);
    let stopped = memory(&mut bench, sleep(Tier::Stopped)).await;
    assert_eq!(
        (stopped.gpu, stopped.host),
        (Some(Bytes(0)), Some(Bytes(0)))
    );
    assert!(proc::members(group).is_empty());
    // Told once: the next thing that is told is the start.
    bench
        .engines
        .run(&id(), Action::Wake(ATTEMPT, Tier::Stopped));
    let started = bench
        .next(|event| {
            assert!(!matches!(event, Event::EngineGone { .. }), "{event:?}");
            if let Event::Woke { outcome, .. } = event {
                Some(outcome)
            } else {
                None
            }
        })
        .await;
    assert!(matches!(started, Outcome::Done { .. }), "{started:?}");
    assert_ne!(pid(&bench), group);
}

#[tokio::test]
async fn an_engine_with_requests_inside_is_not_stopped() {
    let mut bench = Bench::simulated("inside");
    let model = with(&bench, &[("LOAD", "3")]);
    bench.engines.set(model).await;
    start(&mut bench).await;
    bench.engines.run(&id(), sleep(Tier::Stopped));
    let Outcome::Failed(ActionError {
        cause,
        engine,
        no_room: false,
    }) = bench.outcome().await
    else {
        panic!("it is stopped");
    };
    assert!(cause.contains("3 requests are in it"), "{cause}");
    assert_eq!(engine, EngineState::Awake);
    let abort = Action::Sleep(ATTEMPT, SleepMode::Abort, Tier::Stopped);
    memory(&mut bench, abort).await;
    // Its end is told by its own outcome alone, and the one after it by another.
    start(&mut bench).await;
    bench
        .engines
        .run(&id(), Action::Kill(ATTEMPT, "a test".into()));
    assert_eq!(gone(&mut bench).await, "ended by control: a test");
}

#[tokio::test]
async fn whole_gpus_are_read_and_told() {
    let mut bench = Bench::simulated("gpus");
    let model = with(&bench, &[]);
    bench.engines.set(model).await;
    start(&mut bench).await;
    let Oracle::Simulated { folder } = bench.oracle.clone() else {
        panic!("a simulated GPU");
    };
    // Somebody else's.
    let me = std::process::id();
    let since = proc::look(me).expect("it lives").start;
    let foreign = format!(
        r#"{{"pid":{me},"start":{since},"gpu":0,"bytes":{}}}"#,
        3_u64 << 30
    );
    fs::write(folder.join("foreign.json"), foreign).expect("write");
    bench.engines.read_gpus(2);
    let mut read = Vec::new();
    while read.len() < 4 {
        let one = bench
            .next(|event| {
                if let Event::GpuRead { gpu, used } = event {
                    Some((gpu, used))
                } else {
                    None
                }
            })
            .await;
        read.push(one);
    }
    let expected = [(GpuId(0), Bytes::gib(19)), (GpuId(1), Bytes(0))];
    assert_eq!(read, [expected, expected].concat());
}
