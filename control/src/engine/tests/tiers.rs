//! Sleeps to disk and back: what is asked of the engine, and what is believed of it.

use greenthread_core::{
    event::{EngineState, Event, Observation, Outcome},
    ids::Attempt,
    model::SleepMode,
    phase::Tier,
};

use super::{Bench, double::Double, id, model};
use crate::{config::Model, engine::Action};

const ATTEMPT: Attempt = Attempt(5);
const TO_RAM: &str = "/sleep?level=1&mode=keep";
const TO_DISK: &str = "/sleep?level=2&mode=keep";
const WEIGHTS: &str = "/wake_up?tags=weights";
const RELOAD: &str = "/collective_rpc";
const CACHE: &str = "/wake_up?tags=kv_cache";
const WAKE: &str = "/wake_up";
const CANARY: &str = "/v1/completions";

fn deep(double: &Double) -> Model {
    let mut model = model(double.address, None);
    model.spec.caps.disk = true;
    model
}

async fn bench(name: &str) -> (Bench, Double) {
    let (bench, double) = (Bench::new(name), Double::start().await);
    bench.engines.set(deep(&double)).await;
    (bench, double)
}

fn sleep(tier: Tier) -> Action {
    Action::Sleep(ATTEMPT, SleepMode::Keep, tier)
}

fn wake(tier: Tier) -> Action {
    Action::Wake(ATTEMPT, tier)
}

/// Performs actions that must succeed, and returns what was posted since, without the streams that prove counts.
async fn done(bench: &mut Bench, double: &Double, actions: &[Action]) -> Vec<String> {
    let before = double.posts().len();
    for action in actions {
        bench.engines.run(&id(), action.clone());
        let outcome = bench.outcome().await;
        assert!(
            matches!(outcome, Outcome::Done { .. }),
            "{action:?}: {outcome:?}"
        );
    }
    double.posts().split_off(before)
}

/// Performs an action that must fail.
async fn refused(bench: &mut Bench, action: Action) -> (EngineState, String) {
    bench.engines.run(&id(), action);
    match bench.outcome().await {
        Outcome::Failed(error) => (error.engine, error.cause),
        outcome @ (Outcome::Done { .. } | Outcome::Unknown { .. }) => panic!("{outcome:?}"),
    }
}

async fn observe(bench: &mut Bench) -> Observation {
    bench.engines.run(&id(), Action::Observe(ATTEMPT));
    bench
        .next(|event| {
            if let Event::Observed { observation, .. } = event {
                Some(observation)
            } else {
                None
            }
        })
        .await
}

async fn disk_is_possible(bench: &mut Bench) -> bool {
    bench
        .next(|event| {
            if let Event::ModelSet(spec) = event {
                Some(spec.caps.disk)
            } else {
                None
            }
        })
        .await
}

#[tokio::test]
async fn a_wake_from_disk_loads_the_weights_before_anything_runs() {
    let (mut bench, double) = bench("disk").await;
    let posts = done(&mut bench, &double, &[sleep(Tier::Disk)]).await;
    assert_eq!(posts, [TO_DISK]);
    assert!(!double.script().has_weights);
    assert_eq!(observe(&mut bench).await.tier, Some(Tier::Disk));
    let posts = done(&mut bench, &double, &[wake(Tier::Disk)]).await;
    assert_eq!(posts[..4], [WEIGHTS, RELOAD, CACHE, CANARY]);
    assert!(double.script().has_weights);
    assert_eq!(observe(&mut bench).await.tier, None);
}

#[tokio::test]
async fn the_engine_is_woken_from_where_it_really_sleeps() {
    for (name, slept, believed, calls) in [
        (
            "really-disk",
            Tier::Disk,
            Tier::Ram,
            &[WEIGHTS, RELOAD, CACHE][..],
        ),
        ("really-ram", Tier::Ram, Tier::Disk, &[WAKE]),
        ("really-there", Tier::Ram, Tier::Stopped, &[WAKE]),
    ] {
        let (mut bench, double) = bench(name).await;
        done(&mut bench, &double, &[sleep(slept)]).await;
        let posts = done(&mut bench, &double, &[wake(believed)]).await;
        assert_eq!(&posts[..calls.len()], calls, "{name}");
    }
}

#[tokio::test]
async fn an_engine_asleep_in_ram_is_not_asked_to_sleep_deeper() {
    let (mut bench, double) = bench("deepen").await;
    done(&mut bench, &double, &[sleep(Tier::Ram)]).await;
    let before = double.posts();
    let (engine, cause) = refused(&mut bench, sleep(Tier::Disk)).await;
    assert_eq!(engine, EngineState::Asleep);
    assert!(cause.contains("wake it first"), "{cause}");
    assert_eq!(double.posts(), before);
    assert_eq!(observe(&mut bench).await.tier, Some(Tier::Ram));
    // The other way round it sleeps as was wanted, and deeper.
    done(&mut bench, &double, &[wake(Tier::Ram), sleep(Tier::Disk)]).await;
    assert_eq!(
        done(&mut bench, &double, &[sleep(Tier::Ram)]).await,
        [TO_DISK]
    );
    assert_eq!(observe(&mut bench).await.tier, Some(Tier::Disk));
}

#[tokio::test]
async fn the_sleep_of_a_stranger_is_known_by_the_metric() {
    for (name, level, tier, calls) in [
        ("foreign-ram", 1, Some(Tier::Ram), &[WAKE][..]),
        (
            "foreign-disk",
            2,
            Some(Tier::Disk),
            &[WEIGHTS, RELOAD, CACHE],
        ),
        ("foreign-pause", 0, None, &[WAKE]),
        // Nothing is known: loading weights that are there is harmless, the other way round is not.
        ("foreign-unknown", 9, None, &[WEIGHTS, RELOAD, CACHE]),
    ] {
        let (mut bench, double) = bench(name).await;
        done(&mut bench, &double, &[sleep(Tier::Ram), wake(Tier::Ram)]).await;
        {
            let mut script = double.script();
            (script.is_asleep, script.level_shown) = (true, level);
            script.fails = (level == 9).then_some(("/metrics", 500));
        }
        assert_eq!(observe(&mut bench).await.tier, tier, "{name}");
        let posts = done(&mut bench, &double, &[wake(Tier::Ram)]).await;
        assert_eq!(&posts[..calls.len()], calls, "{name}");
    }
}

#[tokio::test]
async fn a_metric_that_contradicts_the_order_is_a_reason_to_load() {
    let (mut bench, double) = bench("contradiction").await;
    done(&mut bench, &double, &[sleep(Tier::Ram)]).await;
    double.script().level_shown = 2;
    let posts = done(&mut bench, &double, &[wake(Tier::Ram)]).await;
    assert_eq!(posts[..3], [WEIGHTS, RELOAD, CACHE]);
}

#[tokio::test]
async fn who_was_woken_by_a_stranger_without_its_weights_is_broken() {
    let (mut bench, double) = bench("stranger").await;
    done(&mut bench, &double, &[sleep(Tier::Disk)]).await;
    double.script().is_asleep = false;
    assert_eq!(observe(&mut bench).await.state, EngineState::Broken);
}

#[tokio::test]
async fn a_reload_that_fails_ends_the_engine_and_is_not_tried_again() {
    let (mut bench, double) = bench("no-reload").await;
    observe(&mut bench).await;
    assert!(disk_is_possible(&mut bench).await);
    done(&mut bench, &double, &[sleep(Tier::Disk)]).await;
    double.script().fails = Some((RELOAD, 500));
    let (engine, cause) = refused(&mut bench, wake(Tier::Disk)).await;
    assert_eq!(engine, EngineState::Broken);
    assert!(
        cause.contains("cannot be loaded again") && cause.contains("told to fail"),
        "{cause}"
    );
    assert!(!bench.engines.set(deep(&double)).await.caps.disk);
    // Not laid back, and above all not woken any further.
    assert_eq!(double.posts().last().map(String::as_str), Some(RELOAD));
    {
        let mut script = double.script();
        script.fails = None;
        script.is_asleep = false;
    }
    let mut again = bench.again();
    assert!(!again.engines.set(deep(&double)).await.caps.disk);
    let (engine, cause) = refused(&mut again, sleep(Tier::Disk)).await;
    assert_eq!(engine, EngineState::Awake);
    assert!(cause.contains("cannot load weights again"), "{cause}");
    // Another version may have learned it.
    double.script().version = "0.34.0";
    let mut later = bench.again();
    later.engines.set(deep(&double)).await;
    done(&mut later, &double, &[sleep(Tier::Disk)]).await;
}

#[tokio::test]
async fn an_engine_without_the_call_never_sleeps_to_disk() {
    let (mut bench, double) = bench("no-call").await;
    double.script().takes_calls = false;
    let (engine, cause) = refused(&mut bench, sleep(Tier::Disk)).await;
    assert_eq!(engine, EngineState::Awake);
    assert!(cause.contains("cannot load weights again"), "{cause}");
    assert!(
        double
            .posts()
            .iter()
            .all(|post| !post.starts_with("/sleep"))
    );
    assert_eq!(
        done(&mut bench, &double, &[sleep(Tier::Ram)]).await,
        [TO_RAM]
    );
}

#[tokio::test]
async fn that_an_engine_can_do_it_is_told_when_it_was_met() {
    let (bench, double) = (Bench::new("met"), Double::start().await);
    let mut bench = bench;
    assert!(!bench.engines.set(deep(&double)).await.caps.disk);
    observe(&mut bench).await;
    assert!(disk_is_possible(&mut bench).await);
}

#[tokio::test]
async fn an_attached_engine_cannot_be_stopped() {
    let (mut bench, double) = bench("attached").await;
    let (engine, cause) = refused(&mut bench, sleep(Tier::Stopped)).await;
    assert_eq!(engine, EngineState::Awake);
    assert!(cause.contains("cannot stop it"), "{cause}");
    assert!(double.posts().is_empty());
}
