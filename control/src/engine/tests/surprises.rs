//! What is reported of engines that misbehave.

use greenthread_core::{
    event::{EngineState, Event, Memory, Observation, Outcome},
    ids::Attempt,
    model::SleepMode,
    phase::Tier,
};

use super::{Bench, double::Double, id, model};
use crate::engine::{Action, ModelCard};

const ATTEMPT: Attempt = Attempt(7);
const SLEEP: &str = "/sleep?level=1&mode=keep";
const WAKE: &str = "/wake_up";
const CANARY: &str = "/v1/completions";

/// How an action ended, for comparing: `Ok`, or the state after a definite failure, or `None` for unknown; and why.
type End = (Result<(), Option<EngineState>>, String);

async fn perform(bench: &mut Bench, double: &Double, action: Action) -> End {
    bench.engines.set(model(double.address, None)).await;
    bench.engines.run(&id(), action);
    match bench.outcome().await {
        Outcome::Done { .. } => (Ok(()), String::new()),
        Outcome::Failed(error) => (Err(Some(error.engine)), error.cause),
        Outcome::Unknown { cause } => (Err(None), cause),
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

fn sleep() -> Action {
    Action::Sleep(ATTEMPT, SleepMode::Keep, Tier::Ram)
}

#[tokio::test]
async fn sleeps_with_keep() {
    let (mut bench, double) = (Bench::new("keep"), Double::start().await);
    assert_eq!(perform(&mut bench, &double, sleep()).await.0, Ok(()));
    assert_eq!(double.posts(), [SLEEP]);
    bench.engines.run(
        &id(),
        Action::Sleep(Attempt(8), SleepMode::Abort, Tier::Ram),
    );
    let attempt = bench
        .next(|event| {
            if let Event::Slept { attempt, .. } = event {
                Some(attempt)
            } else {
                None
            }
        })
        .await;
    assert_eq!(attempt, Attempt(8));
    assert_eq!(
        double.posts().last().map(String::as_str),
        Some("/sleep?level=1&mode=abort")
    );
}

#[tokio::test]
async fn a_200_of_sleep_proves_nothing() {
    let (mut bench, double) = (Bench::new("lies"), Double::start().await);
    double.script().lies = true;
    let (end, cause) = perform(&mut bench, &double, sleep()).await;
    assert_eq!(end, Err(Some(EngineState::Awake)), "{cause}");
    assert!(cause.contains("answered 200"), "{cause}");
}

#[tokio::test]
async fn a_500_of_sleep_leaves_the_outcome_unknown() {
    let (mut bench, double) = (Bench::new("sleep-500"), Double::start().await);
    double.script().fails = Some(("/sleep", 500));
    let (end, cause) = perform(&mut bench, &double, sleep()).await;
    assert_eq!(end, Err(None));
    assert!(cause.contains("told to fail"), "{cause}");
}

#[tokio::test]
async fn a_missing_sleep_endpoint_names_the_remedy() {
    let (mut bench, double) = (Bench::new("sleep-404"), Double::start().await);
    double.script().fails = Some(("/sleep", 404));
    let (end, cause) = perform(&mut bench, &double, sleep()).await;
    assert_eq!(end, Err(Some(EngineState::Awake)));
    assert!(cause.contains("VLLM_SERVER_DEV_MODE=1"), "{cause}");
}

#[tokio::test]
async fn nothing_is_sent_to_an_engine_that_does_not_answer() {
    let (mut bench, double) = (Bench::new("hangs"), Double::start().await);
    double.script().hangs = Some("/health");
    let (_, cause) = perform(&mut bench, &double, sleep()).await;
    assert!(cause.contains("nothing was sent"), "{cause}");
    assert!(double.posts().is_empty());
}

#[tokio::test]
async fn a_closed_port_is_an_engine_that_is_gone() {
    let mut bench = Bench::new("gone");
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    bench.engines.set(model(closed, None)).await;
    assert_eq!(
        observe(&mut bench).await,
        Observation {
            state: EngineState::Gone,
            count: None,
            memory: Memory::default(),
            tier: None,
        }
    );
    bench.engines.run(&id(), sleep());
    let outcome = bench.outcome().await;
    assert!(
        matches!(outcome, Outcome::Failed(ref error) if error.engine == EngineState::Gone),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_half_wake_is_repeated_once() {
    let (mut bench, double) = (Bench::new("half"), Double::start().await);
    double.script().is_asleep = true;
    double.script().half_wakes = 1;
    assert_eq!(
        perform(&mut bench, &double, Action::Wake(ATTEMPT, Tier::Ram)).await,
        (Ok(()), String::new())
    );
    assert_eq!(double.posts()[..3], [WAKE, WAKE, CANARY]);
}

#[tokio::test]
async fn an_engine_that_does_not_wake_is_laid_back() {
    let (mut bench, double) = (Bench::new("half-for-ever"), Double::start().await);
    double.script().is_asleep = true;
    double.script().half_wakes = usize::MAX;
    let (end, cause) = perform(&mut bench, &double, Action::Wake(ATTEMPT, Tier::Ram)).await;
    assert_eq!(end, Err(Some(EngineState::Asleep)), "{cause}");
    assert_eq!(double.posts(), [WAKE, WAKE, SLEEP]);
}

#[tokio::test]
async fn an_engine_without_a_token_is_laid_back() {
    for (name, fails) in [("canary", (CANARY, 500)), ("wake", (WAKE, 500))] {
        let (mut bench, double) = (Bench::new(name), Double::start().await);
        double.script().is_asleep = true;
        double.script().fails = Some(fails);
        let (end, cause) = perform(&mut bench, &double, Action::Wake(ATTEMPT, Tier::Ram)).await;
        assert_eq!(end, Err(Some(EngineState::Asleep)), "{name}: {cause}");
        assert!(cause.contains("told to fail"), "{name}: {cause}");
        assert_eq!(
            double.posts().last().map(String::as_str),
            Some(SLEEP),
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_old_engine_is_not_woken() {
    let (mut bench, double) = (Bench::new("old"), Double::start().await);
    double.script().is_asleep = true;
    double.script().version = "0.31.2";
    let (end, cause) = perform(&mut bench, &double, Action::Wake(ATTEMPT, Tier::Ram)).await;
    assert_eq!(end, Err(Some(EngineState::Asleep)));
    assert!(cause.contains("older than 0.32"), "{cause}");
    assert!(double.posts().is_empty());
}

#[tokio::test]
async fn asleep_and_not_paused_is_broken() {
    let double = Double::start().await;
    double.script().is_asleep = true;
    double.script().is_paused_asleep = false;
    // The two answers are asked for again before an engine is called broken: within a longer look.
    let state = crate::engine::test_folder("broken");
    let mut bench = Bench::on(state, |settings| settings.observe = super::PATIENCE);
    bench.engines.set(model(double.address, None)).await;
    assert_eq!(observe(&mut bench).await.state, EngineState::Broken);
}

#[tokio::test]
async fn an_observation_does_not_wait_behind_a_wake() {
    let (mut bench, double) = (Bench::new("beside"), Double::start().await);
    double.script().is_asleep = true;
    double.script().hangs = Some(WAKE);
    bench.engines.set(model(double.address, None)).await;
    bench
        .engines
        .run(&id(), Action::Wake(Attempt(1), Tier::Ram));
    bench.engines.run(&id(), sleep());
    bench.engines.run(&id(), Action::Observe(Attempt(3)));
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let seen_now = bench.next(in_words).await;
        seen.push(seen_now);
    }
    // And the sleep came too late to be sent: nobody checked for so long that control may command the engine.
    let late = "nothing was sent: the action before it took too long";
    assert_eq!(seen, ["observed Asleep", "not woken: Asleep", late]);
}

#[tokio::test]
async fn counts_are_believed_once_proven() {
    let (mut bench, double) = (Bench::new("proof"), Double::start().await);
    let spec = bench.engines.set(model(double.address, None)).await;
    assert!(!spec.caps.counts);
    assert_eq!(observe(&mut bench).await.count, None);
    let counts = bench
        .next(|event| {
            if let Event::ModelSet(spec) = event {
                Some(spec.caps.counts)
            } else {
                None
            }
        })
        .await;
    assert!(counts);
    assert_eq!(observe(&mut bench).await.count, Some(1));
    let card = ModelCard {
        created: 7,
        root: Some("/tiny".into()),
        max_model_len: Some(1024),
    };
    assert_eq!(bench.engines.card(&id()), Some(card));
}

#[tokio::test]
async fn an_engine_that_does_not_count_stays_blind() {
    let (mut bench, double) = (Bench::new("blind"), Double::start().await);
    double.script().counts = false;
    bench.engines.set(model(double.address, None)).await;
    observe(&mut bench).await;
    let proof = async {
        while double.script().streams < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::PATIENCE, proof)
        .await
        .expect("the proof is tried as often as it may be");
    // A sleep is answered after everything that the proof could have changed.
    assert_eq!(perform(&mut bench, &double, sleep()).await.0, Ok(()));
    assert_eq!(observe(&mut bench).await.count, None);
}

fn in_words(event: Event) -> Option<String> {
    if let Event::Observed { observation, .. } = event {
        Some(format!("observed {:?}", observation.state))
    } else if let Event::Woke {
        outcome: Outcome::Failed(error),
        ..
    } = event
    {
        Some(format!("not woken: {:?}", error.engine))
    } else if let Event::Slept {
        outcome: Outcome::Unknown { cause },
        ..
    } = event
    {
        Some(cause)
    } else {
        None
    }
}
