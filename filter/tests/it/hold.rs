//! Held requests: who goes on when, in which order, and how many there may be.

use std::rc::Rc;

use greenthread_filter::time::Millis;
use greenthread_proto::gate::{RefuseReason, Row};

use crate::world::{Seen, World, admit, answered, draining, forwarded, hold, llama, model, refuse};

#[test]
fn goes_on_only_from_a_tick_after_the_row_admits() {
    let mut world = World::serving(vec![llama(hold(0))]);
    let (id, _) = world.post("/llama/v1/x?y");
    world.run(500);
    assert!(world.ended.is_empty());
    world.set(admit());
    assert!(world.ended.is_empty());
    world.run(3);
    assert_eq!(world.ended.get(&id), Some(&forwarded("/v1/x?y")));
    assert_eq!(world.gate.occupancy(), (1, 0));
    world.end(id);
    assert_eq!(world.gate.occupancy(), (0, 0));
}

#[test]
fn no_release_without_a_lease() {
    let mut world = World::serving(vec![llama(hold(0))]);
    world.post("/llama/x");
    world.now = 4_990;
    world.set(admit());
    world.now = 5_000;
    world.tick();
    assert!(world.ended.is_empty(), "{:?}", world.ended);
}

#[test]
fn what_becomes_of_held_requests_when_the_row_changes() {
    for (admission, expected) in [
        (admit(), Some(forwarded("/x"))),
        (hold(7_000), None),
        (hold(999_000), None),
        (draining(), None),
        (refuse(RefuseReason::Booting), None),
        (
            refuse(RefuseReason::WakeFailed),
            Some(answered(503, "wake_failed")),
        ),
        (
            refuse(RefuseReason::Disabled),
            Some(answered(503, "disabled")),
        ),
        (
            refuse(RefuseReason::NeverFits),
            Some(answered(503, "never_fits")),
        ),
        (
            refuse(RefuseReason::EngineFailed),
            Some(answered(502, "engine_failed")),
        ),
        (
            refuse(RefuseReason::TooLong),
            Some(answered(503, "too_long")),
        ),
    ] {
        let mut world = World::serving(vec![llama(hold(0))]);
        let (id, _) = world.post("/llama/x");
        world.set(admission);
        world.run(100);
        assert_eq!(world.ended.get(&id), expected.as_ref(), "{admission:?}");
    }
}

#[test]
fn a_row_that_is_gone_answers_404() {
    let mut world = World::serving(vec![llama(hold(0)), model("qwen", hold(0))]);
    let (removed, _) = world.post("/llama/x");
    let (gone, _) = world.post("/qwen/x");
    world.snapshot(vec![Row {
        removed: true,
        ..llama(draining())
    }]);
    world.run(100);
    assert_eq!(world.ended.get(&removed), Some(&answered(404, "removed")));
    assert_eq!(world.ended.get(&gone), Some(&answered(404, "removed")));
}

#[test]
fn a_row_that_is_gone_keeps_its_counts_while_it_holds_requests() {
    let mut world = World::serving(vec![llama(hold(0))]);
    let (id, _) = world.post("/llama/x");
    for _ in 0..3 {
        world.run(1_000);
        world.heartbeat();
    }
    world.snapshot(vec![]);
    world.run(1_100);
    assert_eq!(world.ended.get(&id), Some(&answered(404, "removed")));
    let figures = world.reported().expect("a report");
    assert!(figures.last_used_age_ms.is_some(), "{figures:?}");
}

#[test]
fn each_request_has_its_own_deadline() {
    let mut world = World::serving(vec![llama(hold(0))]);
    let (long, _) = world.post("/llama/x");
    let (short, _) = world.request_with("POST", "/llama/x", &[("prefer", "respond-async, wait=3")]);
    world.run(2_990);
    assert!(world.ended.is_empty());
    world.run(20);
    assert_eq!(
        world.ended.get(&short),
        Some(&answered(503, "hold_expired"))
    );
    world.heartbeat();
    for _ in 0..120 {
        world.run(1_000);
        world.heartbeat();
    }
    assert_eq!(world.ended.get(&long), Some(&answered(503, "hold_expired")));
    assert_eq!(world.gate.occupancy(), (0, 0));
}

#[test]
fn at_a_deadline_the_release_wins() {
    let mut world = World::serving(vec![Row {
        hold_budget_ms: 1_000,
        ..llama(hold(0))
    }]);
    let ids: Vec<u32> = (0..100).map(|_| world.post("/llama/x").0).collect();
    world.now = 1_000;
    world.set(admit());
    world.run(20);
    assert!(
        ids.iter()
            .all(|id| world.ended.get(id) == Some(&forwarded("/x"))),
        "{:?}",
        world.ended
    );
}

#[test]
fn oldest_first_and_models_in_turn() {
    let mut world = World::serving(vec![llama(hold(0)), model("qwen", hold(0))]);
    let llamas: Vec<u32> = (0..60).map(|_| world.post("/llama/x").0).collect();
    let qwens: Vec<u32> = (0..20).map(|_| world.post("/qwen/x").0).collect();
    world.snapshot(vec![llama(admit()), model("qwen", admit())]);
    world.tick();
    let ended: Vec<u32> = world.ended.keys().copied().collect();
    let expected: Vec<u32> = llamas[..16].iter().chain(&qwens[..16]).copied().collect();
    assert_eq!(ended, expected, "32 of both rows, the oldest of each");
    world.run(20);
    assert_eq!(world.ended.len(), 80);
}

#[test]
fn thousands_leave_in_batches() {
    let mut world = World::serving(vec![llama(hold(0))]);
    for _ in 0..3_000 {
        world.post("/llama/x");
    }
    world.set(admit());
    world.run(400);
    assert_eq!(world.ended.len(), 3_000);
}

#[test]
fn a_client_that_leaves_is_forgotten_at_once() {
    let mut world = World::serving(vec![llama(hold(0))]);
    let (id, _) = world.post("/llama/x");
    world.end(id);
    world.set(admit());
    world.run(100);
    assert!(world.ended.is_empty());
    let figures = world.reported().unwrap();
    assert_eq!((figures.held, figures.in_flight), (0, 0));
    assert_eq!(
        (
            figures.outcomes[0].outcome.as_str(),
            figures.outcomes[0].count
        ),
        ("left", 1)
    );
}

#[test]
fn limits_of_a_row_and_of_the_gateway_over_all_gates() {
    let shared = Rc::default();
    let config = r#"{"control": {"cluster": "ctl"}, "hold": {"limit": 8, "bytes": 3000, "body_buffer": 1000}}"#;
    let mut gates = ["gate-1", "gate-2"].map(|id| World::with(config, id, Rc::clone(&shared)));
    for _ in 0..2 {
        for gate in &mut gates {
            gate.now += 1_000;
            gate.tick();
        }
    }
    let rows = || {
        vec![
            Row {
                hold_limit: 5,
                ..llama(hold(0))
            },
            model("qwen", hold(0)),
        ]
    };
    for gate in &mut gates {
        gate.snapshot(rows());
    }
    let [one, two] = &mut gates;
    for _ in 0..3 {
        assert_eq!(one.post("/llama/x").1, Seen::Held);
    }
    for _ in 0..2 {
        assert_eq!(two.post("/llama/x").1, Seen::Held);
    }
    assert_eq!(
        one.post("/llama/x").1,
        answered(429, "hold_full"),
        "of the row"
    );
    assert_eq!(
        two.post("/llama/x").1,
        answered(429, "hold_full"),
        "of the row"
    );
    // The body of 700 bytes counts 700, one of unknown length as much as the buffer takes.
    let body = |length: Option<&str>| {
        let own = [(":method", "POST"), (":path", "/qwen/x")];
        let all = own
            .into_iter()
            .chain(length.map(|length| ("content-length", length)));
        all.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .collect::<Vec<_>>()
    };
    assert_eq!(one.request_raw(body(Some("700")), false).1, Seen::Held);
    assert_eq!(one.request_raw(body(None), false).1, Seen::Held);
    assert_eq!(two.request_raw(body(None), false).1, Seen::Held);
    assert_eq!(
        two.request_raw(body(Some("301")), false).1,
        answered(429, "hold_full"),
        "of bytes and requests"
    );
    one.end(1);
    one.tick();
    assert_eq!(
        two.request_raw(body(Some("301")), false).1,
        answered(429, "hold_full"),
        "of bytes"
    );
    assert_eq!(two.request_raw(body(Some("300")), false).1, Seen::Held);
    assert_eq!(
        two.post("/qwen/x").1,
        answered(429, "hold_full"),
        "of requests"
    );
    // A gate that says nothing more is not counted.
    two.now += 10_000;
    assert_eq!(two.post("/qwen/x").1, Seen::Held);
}

#[test]
fn a_gate_that_holds_all_the_time_learns_of_another_one() {
    let shared = Rc::default();
    let config = r#"{"control": {"cluster": "ctl"}, "hold": {"limit": 20, "bytes": 3000, "body_buffer": 1000}}"#;
    let mut busy = World::with(config, "gate-1", Rc::clone(&shared));
    busy.tick();
    busy.snapshot(vec![llama(hold(0))]);
    let mut other = World::with(config, "gate-2", shared);
    other.tick();
    other.snapshot(vec![llama(hold(0))]);
    for _ in 0..12 {
        assert_eq!(other.post("/llama/x").1, Seen::Held);
    }
    // Its own entry changes more often than it would be renewed.
    for _ in 0..5 {
        for gate in [&mut busy, &mut other] {
            gate.now += 300;
            gate.tick();
        }
        assert_eq!(busy.post("/llama/x").1, Seen::Held);
    }
    for _ in 0..3 {
        assert_eq!(busy.post("/llama/x").1, Seen::Held);
    }
    assert_eq!(busy.post("/llama/x").1, answered(429, "hold_full"));
}

#[test]
fn a_gate_that_wrote_nothing_for_a_minute_is_taken_off_the_list() {
    let shared = Rc::default();
    let config = r#"{"control": {"cluster": "ctl"}}"#;
    let mut gone = World::with(config, "gate-1", Rc::clone(&shared));
    let mut stays = World::with(config, "gate-2", Rc::clone(&shared));
    let listed = || {
        let data = shared.borrow();
        let list = data.get("greenthread.gates").cloned().unwrap_or_default();
        let mut names: Vec<String> = String::from_utf8(list)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    };
    for _ in 0..3 {
        for gate in [&mut gone, &mut stays] {
            gate.now += 100;
            gate.tick();
        }
    }
    assert_eq!(listed(), ["gate-1", "gate-2"]);
    stays.run(58_000);
    assert_eq!(listed(), ["gate-1", "gate-2"]);
    stays.run(4_000);
    assert_eq!(listed(), ["gate-2"]);
}

#[test]
fn who_waits_for_its_row_gives_the_gate_nothing_to_do() {
    let mut world = World::serving(vec![llama(hold(0))]);
    world.post("/llama/x");
    world.run(100);
    let next = world.gate.next_tick(world.moment());
    assert!(next.since(world.moment()) > Millis(100), "{next:?}");
}
