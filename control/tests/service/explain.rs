//! What operators can ask about choices and memory, and what they are told when they ask wrongly.

use serde_json::Value;

use crate::place::Place;

/// Asks, and wants this status, this code and these words.
async fn refused(answer: reqwest::Response, status: u16, code: &str, words: &str) {
    assert_eq!(answer.status(), status);
    let body: Value = answer.json().await.expect("JSON");
    let text = format!("{}; {}", body["error"]["message"], body["error"]["remedy"]);
    assert_eq!(body["error"]["code"], code, "{text}");
    assert!(text.contains(words), "{text}");
}

#[tokio::test]
async fn slips_are_told_and_not_answered_with_something_else() {
    let place = Place::new("slips", "").await;
    for verb in ["explain", "why-not"] {
        let path = format!("/api/v1/models/nobody/{verb}");
        refused(
            place.get(&path).await,
            404,
            "unknown_model",
            "known models: tiny",
        )
        .await;
    }
    for query in ["last=abc", "last=0", "last=-1", "last=1001", "last="] {
        let path = format!("/api/v1/models/tiny/explain?{query}");
        refused(place.get(&path).await, 400, "bad_query", "N from 1 to 1000").await;
    }
    let path = "/api/v1/models/tiny/explain?lsat=3";
    refused(place.get(path).await, 400, "bad_query", "lsat").await;
    let path = "/api/v1/choices/seventeen";
    refused(place.get(path).await, 400, "bad_number", "whole number").await;
    let path = "/api/v1/choices/18446744073709551615";
    refused(place.get(path).await, 404, "unknown_choice", "not kept").await;
    let accept = async |gpu: &str| place.post(&format!("/api/v1/gpus/{gpu}/accept")).await;
    refused(accept("zero").await, 400, "bad_gpu", "first GPU is 0").await;
    refused(accept("-1").await, 400, "bad_gpu", "-1").await;
    refused(accept("1").await, 404, "unknown_gpu", "number 0").await;
    refused(accept("0").await, 409, "unmeasured", "nobody measures").await;
    place.end().await;
}

#[tokio::test]
async fn gpus_have_a_document_of_their_own() {
    let place = Place::new("gpus", "").await;
    let document: Value = place.get("/api/v1/gpus").await.json().await.unwrap();
    let gpu = &document["gpus"][0];
    assert_eq!(
        (&gpu["gpu"], &gpu["source"]),
        (&0.into(), &"declared".into())
    );
    assert_eq!(gpu["capacityBytes"], 40_u64 << 30);
    assert_eq!(
        (&gpu["usedBytes"], &gpu["stopped"]),
        (&Value::Null, &Value::Null)
    );
    let status: Value = place.get("/api/v1/status").await.json().await.unwrap();
    assert_eq!(status["gpus"], document["gpus"]);
    assert_eq!(status["models"][0]["gpus"], serde_json::json!([0]));
    assert_eq!(status["models"][0]["sizes"]["awake"]["bytes"], 16_u64 << 30);
    place.end().await;
}

#[tokio::test]
async fn explanations_and_gpus_are_behind_the_token() {
    let place = Place::new("explain-token", "token: s3cret-token").await;
    let paths = [
        "/api/v1/models/tiny/explain",
        "/api/v1/models/tiny/why-not",
        "/api/v1/choices/1",
        "/api/v1/gpus",
    ];
    for path in paths {
        let stranger = place.get_as(None, path).await;
        refused(stranger, 401, "no_token", "wants a token").await;
        let guessed = place.get_as(Some("guessed"), path).await;
        refused(guessed, 401, "wrong_token", "not the token").await;
    }
    // `post` sends no token.
    let stranger = place.post("/api/v1/gpus/0/accept").await;
    refused(stranger, 401, "no_token", "wants a token").await;
    assert_eq!(place.get("/api/v1/gpus").await.status(), 200);
    place.end().await;
}
