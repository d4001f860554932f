//! Documents, prefixes and what rows do without a lease.

use greenthread_core::{effect::PublicState, ids::Epoch, model::Caps};

use super::*;
use crate::testing;

fn row(id: &str, admission: Admission) -> PublishedRow {
    PublishedRow {
        model: ModelId(id.into()),
        epoch: Epoch {
            term: 3,
            counter: 7,
        },
        admission,
        state: PublicState::Serving,
        boot_ready: true,
        barriered: false,
        error_class: "",
        removed: false,
    }
}

fn status_of(row: &PublishedRow, in_flight: u64) -> String {
    let (head, tail) = status_document("llama-3-8b", row);
    format!("{head}{in_flight}{tail}")
}

#[test]
fn status_is_the_document_of_the_api() {
    let serving = status_of(&row("llama-3-8b.1", Admission::Admit), 3);
    assert_eq!(
        serving,
        r#"{"model":"llama-3-8b","state":"serving","bootReady":true,"queue":{"inFlight":3,"barriered":false}}"#
    );
}

#[test]
fn status_has_the_wait_and_the_class_of_an_error_behind_it() {
    let mut failed = row(
        "llama-3-8b.1",
        Admission::Hold {
            estimated_wait: 900,
        },
    );
    failed.error_class = "wake_failed";
    let document: serde_json::Value = serde_json::from_str(&status_of(&failed, 0)).unwrap();
    assert_eq!(document["estimatedWaitMs"], 900);
    assert_eq!(document["lastError"], "wake_failed");
}

#[test]
fn health_follows_what_a_request_would_meet() {
    let check = |admission, boot_ready, expected| {
        let row = PublishedRow {
            boot_ready,
            ..row("m.1", admission)
        };
        let (status, document) = health_document(&row);
        assert_eq!(status, expected, "{row:?}");
        assert!(
            serde_json::from_str::<serde_json::Value>(&document).is_ok(),
            "{document}"
        );
    };
    let refuse = |reason| Admission::Refuse {
        reason,
        retry_after: 5,
    };
    check(Admission::Admit, true, 200);
    check(Admission::Hold { estimated_wait: 0 }, true, 200);
    check(refuse(RefuseReason::Draining), true, 200);
    check(Admission::Hold { estimated_wait: 0 }, false, 503);
    check(refuse(RefuseReason::WakeFailed), true, 503);
    check(refuse(RefuseReason::Disabled), true, 503);
    let never_started = PublishedRow {
        boot_ready: false,
        ..row("m.1", refuse(RefuseReason::NeverFits))
    };
    assert!(health_document(&never_started).1.contains("never_fits"));
}

#[test]
fn models_lists_the_served_id() {
    let mut table = Table::new(testing::hold());
    table.set(
        testing::model("llama-3-8b", "127.0.0.1:9001"),
        1_773_032_509,
    );
    let id = table.named("llama-3-8b").unwrap().clone();
    let row = table.publish(row(&id.0, Admission::Admit)).unwrap();
    let expected = r#"{"object":"list","data":[{"id":"served/llama-3-8b","object":"model","created":1773032509,"owned_by":"vllm","root":"served/llama-3-8b","max_model_len":131072}]}"#;
    assert_eq!(std::str::from_utf8(&row.models_document).unwrap(), expected);
    assert_eq!(
        row.epoch,
        Some(gate::Epoch {
            term: 3,
            counter: 7
        })
    );

    let card = ModelCard {
        created: 5,
        root: Some("/weights".into()),
        max_model_len: Some(512),
    };
    assert!(table.set_card(&id, card.clone()) && !table.set_card(&id, card));
    let document: serde_json::Value =
        serde_json::from_slice(&table.render(&id).unwrap().models_document).unwrap();
    assert_eq!(
        (
            &document["data"][0]["root"],
            &document["data"][0]["max_model_len"]
        ),
        (&json!("/weights"), &json!(512))
    );
}

#[test]
fn another_engine_takes_the_prefixes_of_the_old_row() {
    let mut table = Table::new(testing::hold());
    let (old, _) = table.set(testing::model("m", "127.0.0.1:9001"), 1);
    table.publish(row(&old.id.0, Admission::Admit)).unwrap();
    let (new, changed) = table.set(testing::model("m", "127.0.0.1:9002"), 2);
    assert_eq!(changed, vec![old.id.clone()]);
    assert_eq!(
        table.render(&old.id).unwrap().prefixes,
        Vec::<String>::new()
    );
    assert_eq!(
        table
            .publish(row(&new.id.0, Admission::Admit))
            .unwrap()
            .prefixes,
        ["m"]
    );
    assert_eq!(table.named("m"), Some(&new.id));

    let removed = PublishedRow {
        removed: true,
        ..row(&new.id.0, Admission::Admit)
    };
    table.publish(removed).unwrap();
    assert_eq!(table.named("m"), Some(&old.id));
}

#[test]
fn rows_flow_only_where_nothing_can_be_lost() {
    let check = |caps, said, expected| {
        let mut model = testing::model("m", "127.0.0.1:9001");
        (model.spec.caps, model.on_lease_end) = (caps, said);
        assert_eq!(on_lease_end(&model), expected);
    };
    let proven = Caps {
        counts: true,
        lossless: true,
        restartable: false,
        disk: false,
    };
    check(proven, None, OnLeaseEnd::Flow);
    check(proven, Some(OnLeaseEnd::Hold), OnLeaseEnd::Hold);
    check(
        Caps {
            counts: false,
            ..proven
        },
        None,
        OnLeaseEnd::Hold,
    );
    check(
        Caps {
            lossless: false,
            ..proven
        },
        None,
        OnLeaseEnd::Hold,
    );
}
