//! The program itself: what it prints and how it exits.

use std::process::Output;

use tokio::process::Command;

use crate::place::Place;

async fn greenthread(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_greenthread");
    Command::new(program)
        .args(arguments)
        .output()
        .await
        .expect("the program runs")
}

fn words(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_wait_for_their_end_and_exit_codes_tell_it() {
    let place = Place::new("command", "").await;
    place
        .until("a first look", async || {
            place
                .get("/metrics")
                .await
                .text()
                .await
                .unwrap()
                .contains("state=\"sleeping\"} 1")
        })
        .await;
    let control = ["--control", place.address()];
    let run = async |arguments: &[&str]| greenthread(&[arguments, &control].concat()).await;

    let woken = run(&["wake", "tiny"]).await;
    assert_eq!(
        (woken.status.code(), words(&woken.stdout)),
        (Some(0), "tiny is serving\n"),
        "{woken:?}"
    );
    assert!(place.engine.is_awake());
    let status = run(&["status", "tiny", "--output", "json"]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["state"], "serving");
    let table = run(&["status"]).await;
    assert!(
        words(&table.stdout).contains("tiny   serving"),
        "{}",
        words(&table.stdout)
    );
    let slept = run(&["sleep", "tiny", "--timeout", "60"]).await;
    assert_eq!(
        (slept.status.code(), words(&slept.stdout)),
        (Some(0), "tiny is sleeping\n"),
        "{slept:?}"
    );
    assert!(!place.engine.is_awake());

    let unknown = run(&["wake", "nobody"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        words(&unknown.stderr).contains("known models: tiny"),
        "{}",
        words(&unknown.stderr)
    );
    assert_eq!(run(&["wake"]).await.status.code(), Some(2));
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_checked_before_they_are_asked() {
    let place = Place::new("questions", "").await;
    let control = ["--control", place.address()];
    let run = async |arguments: &[&str]| greenthread(&[arguments, &control].concat()).await;
    let check = async |arguments: &[&str], code, said: &str| {
        let output = run(arguments).await;
        let stderr = words(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    };
    check(&["explain"], 2, "<MODEL>").await;
    check(&["explain", "tiny", "--last", "abc"], 2, "--last").await;
    check(&["explain", "tiny", "--last", "0"], 2, "1..=1000").await;
    check(&["explain", "tiny", "--choice", "1"], 2, "cannot be used").await;
    check(&["explain", "nobody"], 1, "known models: tiny").await;
    check(&["explain", "--choice", "4000000"], 1, "is not kept").await;
    check(&["why-not", "nobody"], 1, "known models: tiny").await;
    check(&["accept-gpu", "one"], 2, "<GPU>").await;
    check(&["accept-gpu", "1"], 1, "there is no GPU 1").await;
    check(&["accept-gpu", "0"], 1, "nobody measures GPU 0").await;
    place.end().await;
}

#[tokio::test]
async fn nobody_at_the_address_is_said_in_words() {
    let nobody = greenthread(&["status", "--control", "http://127.0.0.1:1"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        words(&nobody.stderr).contains("control does not answer at http://127.0.0.1:1"),
        "{}",
        words(&nobody.stderr)
    );
}

#[tokio::test]
async fn a_second_control_on_one_state_folder_names_the_first() {
    let place = Place::new("second", "").await;
    let second = greenthread(&["serve", place.file()]).await;
    assert_eq!(second.status.code(), Some(1));
    let expected = format!("in use by the process with pid {}", std::process::id());
    assert!(
        words(&second.stderr).contains(&expected),
        "{}",
        words(&second.stderr)
    );
    place.end().await;
}
