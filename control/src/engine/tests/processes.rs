//! Engines as processes: started, adopted, watched, ended.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use greenthread_core::{
    event::{EngineState, Event, Outcome},
    ids::{Attempt, Bytes},
    model::SleepMode,
    phase::Tier,
};

use super::{Bench, id, model};
use crate::engine::{Action, end_all, proc, registry::Registry};

/// A vLLM as small as it gets, with a worker process in its group and its memory on the simulated GPU.
const ENGINE: &str = include_str!("engine.py");

const ATTEMPT: Attempt = Attempt(3);

pub(super) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address")
}

fn words(command: &[&str]) -> Option<Vec<String>> {
    Some(command.iter().map(|word| (*word).to_owned()).collect())
}

pub(super) fn engine(state: &Path, address: SocketAddr) -> crate::config::Model {
    let gpu = state.join("gpu").display().to_string();
    let flag = "--enable-server-load-tracking";
    model(
        address,
        words(&[
            "python3",
            "-c",
            ENGINE,
            &address.port().to_string(),
            &gpu,
            flag,
        ]),
    )
}

pub(super) async fn start(bench: &mut Bench) -> Outcome {
    bench.engines.run(&id(), Action::Start(ATTEMPT));
    bench.outcome().await
}

pub(super) async fn gone(bench: &mut Bench) -> String {
    bench
        .next(|event| {
            if let Event::EngineGone { cause, .. } = event {
                Some(cause)
            } else {
                None
            }
        })
        .await
}

/// The one recorded process.
pub(super) fn pid(bench: &Bench) -> u32 {
    Registry::load(&bench.state)
        .get(&id().0)
        .expect("the engine is recorded")
        .pid
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < super::PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn failure(outcome: Outcome) -> String {
    let Outcome::Failed(error) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(error.engine, EngineState::Gone);
    error.cause
}

#[tokio::test]
async fn starts_sleeps_wakes_and_ends_an_engine() {
    let mut bench = Bench::simulated("life");
    let address = free_port();
    let spec = bench.engines.set(engine(&bench.state, address)).await;
    assert!(spec.caps.counts && !spec.conditioned);
    let memory = |outcome: Outcome| {
        let Outcome::Done { memory, .. } = outcome else {
            panic!("{outcome:?}")
        };
        memory.gpu
    };
    assert_eq!(memory(start(&mut bench).await), Some(Bytes::gib(16)));
    bench
        .engines
        .run(&id(), Action::Sleep(ATTEMPT, SleepMode::Keep, Tier::Ram));
    assert_eq!(memory(bench.outcome().await), Some(Bytes::gib(1)));
    bench.engines.run(&id(), Action::Wake(ATTEMPT, Tier::Ram));
    assert_eq!(memory(bench.outcome().await), Some(Bytes::gib(16)));
    bench.engines.save_footprint(&id(), None).expect("write");

    let group = pid(&bench);
    assert_eq!(proc::members(group).len(), 2);
    bench
        .engines
        .run(&id(), Action::Kill(ATTEMPT, "a test".into()));
    assert_eq!(gone(&mut bench).await, "ended by control: a test");
    assert!(proc::members(group).is_empty());
    assert!(Registry::load(&bench.state).all().is_empty());

    let again = bench.again();
    let spec = again.engines.set(engine(&bench.state, address)).await;
    assert!(spec.conditioned);
    assert_eq!((spec.awake, spec.asleep), (Bytes::gib(16), Bytes::gib(1)));
    let spec = again.engines.set(engine(&bench.state, free_port())).await;
    assert!(!spec.conditioned, "another command is measured again");
}

#[tokio::test]
async fn memory_has_the_last_word() {
    let complaints = [
        (
            "LEAK",
            Action::Sleep(ATTEMPT, SleepMode::Keep, Tier::Ram),
            "keeps its memory: 16.0 GiB",
        ),
        (
            "THIN",
            Action::Wake(ATTEMPT, Tier::Ram),
            "memory did not come back: 8.0 GiB",
        ),
    ];
    for (switch, action, complaint) in complaints {
        let mut bench = Bench::simulated(switch);
        let mut model = engine(&bench.state, free_port());
        model.engine.env.insert(switch.into(), "1".into());
        bench.engines.set(model).await;
        start(&mut bench).await;
        bench.engines.run(&id(), action);
        let Outcome::Failed(error) = bench.outcome().await else {
            panic!("{switch} is believed");
        };
        assert!(error.cause.contains(complaint), "{}", error.cause);
        assert_eq!(error.engine, EngineState::Asleep);
        bench.engines.remove(&id(), ATTEMPT).await;
        assert_eq!(gone(&mut bench).await, "it was removed from the fleet");
    }
}

#[tokio::test]
async fn a_process_with_a_closed_port_still_holds_its_memory() {
    let mut bench = Bench::new("deaf");
    let mut model = engine(&bench.state, free_port());
    model.engine.env.insert("DEAF".into(), "1".into());
    bench.engines.set(model).await;
    start(&mut bench).await;
    bench
        .engines
        .run(&id(), Action::Sleep(ATTEMPT, SleepMode::Keep, Tier::Ram));
    let outcome = bench.outcome().await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    bench.engines.run(&id(), Action::Observe(ATTEMPT));
    let state = bench
        .next(|event| {
            if let Event::Observed { observation, .. } = event {
                Some(observation.state)
            } else {
                None
            }
        })
        .await;
    assert_eq!(state, EngineState::Unresponsive);
}

#[tokio::test]
async fn the_death_of_an_engine_is_told_with_its_last_words() {
    let mut bench = Bench::new("death");
    bench.engines.set(engine(&bench.state, free_port())).await;
    start(&mut bench).await;
    let group = pid(&bench);
    let main = proc::members(group)
        .into_iter()
        .find(|member| *member == group)
        .expect("the first process");
    let main = rustix::process::Pid::from_raw(i32::try_from(main).expect("a pid")).expect("a pid");
    rustix::process::kill_process(main, rustix::process::Signal::KILL).expect("kill");
    let cause = gone(&mut bench).await;
    assert!(
        cause.contains("signal 9") && cause.contains("serving"),
        "{cause}"
    );
    assert!(proc::members(group).is_empty(), "its worker goes with it");
}

#[tokio::test]
async fn a_failed_start_says_what_the_engine_said() {
    let mut bench = Bench::new("boom");
    bench
        .engines
        .set(model(
            free_port(),
            words(&["sh", "-c", "echo no such file; exit 3"]),
        ))
        .await;
    bench.engines.run(&id(), Action::Start(ATTEMPT));
    // Told once: by the outcome, not by the end of the process before it or after it.
    let event = bench.next(Some).await;
    let Event::Started { outcome, .. } = event else {
        panic!("{event:?}")
    };
    let cause = failure(outcome);
    assert!(
        cause.contains("status 3") && cause.contains("no such file"),
        "{cause}"
    );
    bench.engines.run(&id(), Action::Observe(ATTEMPT));
    let next = bench.next(Some).await;
    assert!(matches!(next, Event::Observed { .. }), "{next:?}");
    bench
        .engines
        .set(model(free_port(), words(&["/no/such/program"])))
        .await;
    let cause = failure(start(&mut bench).await);
    assert!(
        cause.contains("/no/such/program") && cause.contains("No such file"),
        "{cause}"
    );
}

#[tokio::test]
async fn an_engine_that_never_serves_is_ended() {
    let state = crate::engine::test_folder("never");
    let mut bench = Bench::on(state, |settings| {
        settings.start = Duration::from_millis(300)
    });
    bench
        .engines
        .set(model(
            free_port(),
            words(&["sh", "-c", "echo loading; sleep 1000"]),
        ))
        .await;
    let cause = failure(start(&mut bench).await);
    assert!(
        cause.contains("did not serve within 300ms") && cause.contains("loading"),
        "{cause}"
    );
    until("its record goes", || {
        Registry::load(&bench.state).all().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_in_use_is_named() {
    let mut bench = Bench::new("port");
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = stranger.local_addr().expect("an address");
    bench.engines.set(engine(&bench.state, address)).await;
    let cause = failure(start(&mut bench).await);
    assert!(
        cause.contains(&address.port().to_string()) && cause.contains("another port"),
        "{cause}"
    );
    assert!(!bench.state.join("engines.json").exists());
}

#[tokio::test]
async fn the_next_life_of_control_adopts_its_engines() {
    let mut first = Bench::new("adopt");
    let address = free_port();
    first.engines.set(engine(&first.state, address)).await;
    start(&mut first).await;
    let group = pid(&first);

    let mut second = first.again();
    second.engines.set(engine(&first.state, address)).await;
    assert!(matches!(start(&mut second).await, Outcome::Done { .. }));
    assert_eq!(pid(&second), group, "the same process");
    second
        .engines
        .run(&id(), Action::Kill(ATTEMPT, "a test".into()));
    gone(&mut second).await;
    assert!(proc::members(group).is_empty());
}

#[tokio::test]
async fn an_engine_with_another_command_is_ended() {
    let mut first = Bench::new("other");
    let address = free_port();
    first.engines.set(engine(&first.state, address)).await;
    start(&mut first).await;
    let group = pid(&first);

    let second = first.again();
    let mut changed = engine(&first.state, address);
    changed.engine.env.insert("CHANGED".into(), "1".into());
    second.engines.set(changed).await;
    assert!(proc::members(group).is_empty());
}

#[tokio::test]
async fn an_engine_that_the_fleet_file_no_longer_names_is_ended() {
    let mut first = Bench::new("unknown");
    first.engines.set(engine(&first.state, free_port())).await;
    start(&mut first).await;
    let group = pid(&first);

    let second = first.again();
    second.engines.end_unknown().await;
    assert!(proc::members(group).is_empty());
    assert!(Registry::load(&first.state).all().is_empty());
}

#[tokio::test]
async fn the_supervisor_ends_what_control_left() {
    let mut bench = Bench::new("reaper");
    bench.engines.set(engine(&bench.state, free_port())).await;
    start(&mut bench).await;
    let group = pid(&bench);
    // Marks find it without the file, too.
    fs::remove_file(bench.state.join("engines.json")).expect("remove");
    let state = bench.state.clone();
    tokio::task::spawn_blocking(move || end_all(&state))
        .await
        .expect("ends");
    assert!(proc::members(group).is_empty());
}
