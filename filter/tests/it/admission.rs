//! What happens to a request on arrival: by admission, method, path and lease.

use std::rc::Rc;

use greenthread_proto::gate::{
    Heartbeat, InFlightElsewhere, OnLeaseEnd, RefuseReason, Row, control_message, row,
};

use crate::world::{Seen, World, admit, answered, draining, forwarded, hold, llama, model, refuse};

fn check(admission: row::Admission, method: &str, path: &str, expected: &Seen) {
    let mut world = World::serving(vec![llama(admission)]);
    assert_eq!(
        &world.request(method, path).1,
        expected,
        "{admission:?} {method} {path}"
    );
}

fn document(body: &str) -> Seen {
    Seen::Answered(200, body.to_owned())
}

#[test]
fn a_serving_model() {
    for (method, path, expected) in [
        (
            "POST",
            "/llama/v1/chat/completions?x=%2F",
            forwarded("/v1/chat/completions?x=%2F"),
        ),
        ("POST", "/llama/v1/v1/messages", forwarded("/v1/messages")),
        ("GET", "/llama", forwarded("/")),
        ("DELETE", "/llama/x", forwarded("/x")),
        ("GET", "/llama/metrics", forwarded("/metrics")),
        ("GET", "/llama/version", answered(403, "not_exposed")),
        (
            "GET",
            "/llama/docs/oauth2-redirect",
            answered(403, "not_exposed"),
        ),
        ("GET", "/llama/documents", forwarded("/documents")),
        (
            "POST",
            "/llama/sleep?level=1",
            answered(403, "control_path"),
        ),
        (
            "POST",
            "/llama//x/../%73LEEP/",
            answered(403, "control_path"),
        ),
        ("POST", "/llama/admin/x", answered(403, "control_path")),
        ("POST", "/llama/administer", forwarded("/administer")),
        ("POST", "/llama/sleeping", forwarded("/sleeping")),
        ("GET", "/llama/status", document("{\"inFlight\":0}")),
        ("HEAD", "/llama/./status/", document("{\"inFlight\":0}")),
        ("POST", "/llama/status", answered(405, "method_not_allowed")),
        ("GET", "/llama/health", document("{}")),
        ("GET", "/other/v1/models", Seen::Pass),
        ("GET", "/", Seen::Pass),
        ("GET", "/v1/models", Seen::Pass),
    ] {
        check(admit(), method, path, &expected);
    }
}

#[test]
fn a_model_that_does_not_serve() {
    for (method, path, expected) in [
        ("POST", "/llama/v1/chat/completions", Seen::Held),
        ("POST", "/llama/anything", Seen::Held),
        ("GET", "/llama/v1/responses/1", Seen::Held),
        (
            "GET",
            "/llama/v1/models",
            document("{\"object\":\"list\",\"data\":[{\"id\":\"llama\"}]}"),
        ),
        ("GET", "/llama/status", document("{\"inFlight\":0}")),
        ("GET", "/llama/health", document("{}")),
        ("GET", "/llama/", answered(503, "asleep")),
        ("HEAD", "/llama/v1/x", answered(503, "asleep")),
        ("DELETE", "/llama/v1/x", answered(503, "asleep")),
        ("GET", "/llama/metrics", answered(503, "asleep")),
        ("POST", "/llama/metrics", answered(503, "asleep")),
        ("GET", "/llama/version", answered(403, "not_exposed")),
        ("POST", "/llama/sleep", answered(403, "control_path")),
        (
            "OPTIONS",
            "/llama/v1/chat/completions",
            Seen::Answered(204, String::new()),
        ),
    ] {
        check(hold(0), method, path, &expected);
    }
}

#[test]
fn refusals_of_a_row() {
    for (reason, status, word) in [
        (RefuseReason::Draining, 503, "draining"),
        (RefuseReason::Booting, 503, "booting"),
        (RefuseReason::WakeFailed, 503, "wake_failed"),
        (RefuseReason::Disabled, 503, "disabled"),
        (RefuseReason::NeverFits, 503, "never_fits"),
        (RefuseReason::EngineFailed, 502, "engine_failed"),
        (RefuseReason::TooLong, 503, "too_long"),
    ] {
        check(
            refuse(reason),
            "POST",
            "/llama/v1/x",
            &answered(status, word),
        );
        check(
            refuse(reason),
            "GET",
            "/llama/status",
            &document("{\"inFlight\":0}"),
        );
        check(refuse(reason), "GET", "/llama/", &answered(503, "asleep"));
    }
}

#[test]
fn an_upgrade_wakes() {
    let mut world = World::serving(vec![llama(hold(0))]);
    assert_eq!(
        world
            .request_with("GET", "/llama/realtime", &[("upgrade", "websocket")])
            .1,
        Seen::Held
    );
    assert_eq!(
        world
            .request_with("GET", "/llama/realtime", &[("upgrade", "h2c")])
            .1,
        answered(503, "asleep")
    );
}

#[test]
fn the_wait_a_client_or_a_row_allows() {
    for (wait, prefer, expected) in [
        (0, "wait=0", answered(503, "hold_expired")),
        (30_000, "wait=29", answered(503, "too_long")),
        (30_000, "wait=30", Seen::Held),
        (30_000, "wait=31", Seen::Held),
        (0, "wait=1", Seen::Held),
        (120_001, "wait=999", answered(503, "too_long")),
    ] {
        let mut world = World::serving(vec![llama(hold(wait))]);
        let seen = world
            .request_with("POST", "/llama/v1/x", &[("prefer", prefer)])
            .1;
        assert_eq!(seen, expected, "{wait} {prefer}");
    }
}

#[test]
fn without_a_lease_only_flow_rows_go_on() {
    let flow = |admission| Row {
        on_lease_end: OnLeaseEnd::Flow.into(),
        ..model("flow", admission)
    };
    let mut world = World::serving(vec![llama(admit()), flow(admit())]);
    for (at, llama, flow) in [
        (4_999, forwarded("/x"), forwarded("/x")),
        (5_000, Seen::Held, forwarded("/x")),
        (64_999, Seen::Held, forwarded("/x")),
        (65_000, Seen::Held, Seen::Held),
    ] {
        world.now = at;
        assert_eq!(world.post("/llama/x").1, llama, "{at}");
        assert_eq!(world.post("/flow/x").1, flow, "{at}");
        // A document of the engine goes the same way, and is not held.
        for (model, work) in [("llama", llama), ("flow", flow)] {
            let document = world.request("GET", &format!("/{model}/metrics")).1;
            let goes_on = work != Seen::Held;
            let expected = if goes_on {
                forwarded("/metrics")
            } else {
                answered(503, "asleep")
            };
            assert_eq!(document, expected, "{at}");
        }
    }
}

#[test]
fn a_gate_that_never_had_a_lease_forwards_nothing() {
    let mut world = World::new();
    world.tick();
    let row = Row {
        on_lease_end: OnLeaseEnd::Flow.into(),
        ..llama(admit())
    };
    world.snapshot(vec![row]);
    assert_eq!(world.post("/llama/x").1, Seen::Held);
}

#[test]
fn a_machine_that_stood_still_loses_its_lease() {
    let mut world = World::serving(vec![llama(admit())]);
    world.run(500);
    world.wall_offset += 2_000;
    world.run(500);
    assert_eq!(world.post("/llama/x").1, Seen::Held);
    world.heartbeat();
    world.run(10);
    assert_eq!(
        world.ended.get(&1),
        Some(&forwarded("/x")),
        "an echo of a later message brings it back"
    );
}

#[test]
fn status_counts_this_gate_and_the_others() {
    let mut world = World::serving(vec![llama(admit())]);
    world.post("/llama/x");
    let elsewhere = vec![InFlightElsewhere {
        row: "llama.1".to_owned(),
        in_flight: 4,
    }];
    world.control(control_message::Body::Heartbeat(Heartbeat {
        echoed_sequence: 1,
        elsewhere,
        elsewhere_stays: false,
    }));
    assert_eq!(
        world.request("GET", "/llama/status").1,
        document("{\"inFlight\":5}")
    );
    world.end(1);
    world.end(1);
    assert_eq!(
        world.request("GET", "/llama/status").1,
        document("{\"inFlight\":4}")
    );
}

#[test]
fn removed_rows_and_rows_that_took_their_prefix() {
    let removed = |id: &str| Row {
        id: id.to_owned(),
        removed: true,
        ..llama(draining())
    };
    let mut world = World::serving(vec![removed("llama.1")]);
    assert_eq!(world.post("/llama/x").1, answered(404, "removed"));
    assert_eq!(
        world.request("GET", "/llama/status").1,
        answered(404, "removed")
    );
    for ids in [["llama.1", "llama.2"], ["llama.2", "llama.1"]] {
        let mut world = World::serving(vec![
            removed(ids[0]),
            Row {
                id: ids[1].to_owned(),
                ..llama(admit())
            },
        ]);
        assert_eq!(world.post("/llama/x").1, forwarded("/x"), "{ids:?}");
    }
}

#[test]
fn the_hosts_a_filter_is_for() {
    let config = r#"{"control": {"cluster": "ctl"}, "hosts": ["Models.example", "[::1]"]}"#;
    for (authority, ours) in [
        ("models.example", true),
        ("MODELS.EXAMPLE:8080", true),
        ("other.example", false),
        ("[::1]", true),
        ("[::1]:8080", true),
        ("", false),
    ] {
        let mut world = World::with(config, "gate-1", Rc::default());
        world.tick();
        world.snapshot(vec![llama(admit())]);
        world.heartbeat();
        let headers = [
            (":method", "POST"),
            (":path", "/llama/x"),
            (":authority", authority),
        ];
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
        let expected = if ours { forwarded("/x") } else { Seen::Pass };
        assert_eq!(world.request_raw(headers, true).1, expected, "{authority}");
    }
}

#[test]
fn routes_that_strip_get_no_headers() {
    let mut world = World::with(
        r#"{"control": {"cluster": "ctl"}, "rewrite": "route"}"#,
        "gate-1",
        Rc::default(),
    );
    world.tick();
    world.snapshot(vec![llama(admit())]);
    world.heartbeat();
    assert_eq!(
        world.post("/llama/x").1,
        Seen::Forwarded(String::new(), String::new())
    );
    assert_eq!(world.gate.occupancy(), (1, 0));
}

#[test]
fn documents_at_the_root() {
    let mut world = World::with(
        r#"{"control": {"cluster": "ctl"}, "root": true}"#,
        "gate-1",
        Rc::default(),
    );
    assert_eq!(
        world.request("GET", "/liveness").1,
        document("{\"status\":\"alive\"}")
    );
    let not_ready = Seen::Answered(
        503,
        "{\"reason\":\"no table from control yet\",\"status\":\"not ready\"}".to_owned(),
    );
    assert_eq!(world.request("GET", "/readiness").1, not_ready);
    world.tick();
    world.snapshot(vec![llama(admit()), model("qwen", hold(0))]);
    assert_eq!(
        world.request("GET", "/v1/models?x").1,
        document("{\"data\":[{\"id\":\"llama\"},{\"id\":\"qwen\"}],\"object\":\"list\"}")
    );
    assert_eq!(
        world.request("GET", "/health").1,
        document("{\"status\":\"ok\"}")
    );
    let ready = "{\"healthy_workers\":2,\"status\":\"ready\",\"total_workers\":2}";
    assert_eq!(world.request("GET", "/readiness").1, document(ready));
    assert_eq!(world.post("/health").1, answered(405, "method_not_allowed"));
    assert_eq!(world.post("/v1/chat/completions").1, Seen::Pass);
}
