//! The second stream, the second snapshot, the second gate: what of the first still counts, and what does not.

use std::rc::Rc;

use greenthread_filter::{answers::Answer, gate::Verdict, hold::RequestId};
use greenthread_proto::gate::{
    Bye, Epoch, Heartbeat, InFlightElsewhere, OutcomeCount, Row, Snapshot, control_message::Body,
    gate_message,
};

use crate::world::{Around, Seen, TIMES, World, admit, answered, forwarded, hold, llama, model};

/// The open stream ends, and another is opened.
fn reconnects(world: &mut World) -> u64 {
    let stream = world.stream.take().unwrap();
    world.gate.on_stream_closed(world.moment(), stream);
    world.run(200);
    assert!(world.stream.is_some());
    stream
}

#[test]
fn what_an_older_stream_does_concerns_the_open_one_no_more() {
    let mut world = World::serving(vec![llama(hold(0))]);
    let old = reconnects(&mut world);
    world.gate.on_stream_closed(world.moment(), old);
    let new = world.stream.replace(old);
    world.snapshot(vec![llama(admit())]);
    world.heartbeat();
    assert_eq!(world.post("/llama/x").1, Seen::Held);
    world.stream = new;
    let opened = world.opened.len();
    world.run(1_000);
    assert_eq!(world.opened.len(), opened, "it is open still");
}

#[test]
fn a_hello_lists_what_was_echoed_long_ago() {
    let mut world = World::serving(vec![llama(admit())]);
    world.post("/llama/x");
    world.run(1_000);
    world.heartbeat();
    world.run(1_000);
    world.heartbeat();
    reconnects(&mut world);
    let rows = &world.hellos()[1].rows;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].in_flight, 1);
}

#[test]
fn half_a_snapshot_ends_with_its_stream() {
    let mut world = World::serving(vec![llama(admit())]);
    world.version += 1;
    let half = Snapshot {
        version: world.version,
        rows: vec![model("half", admit())],
        last: false,
        times: None,
    };
    world.control(Body::Snapshot(half));
    reconnects(&mut world);
    let whole = Snapshot {
        version: world.version,
        rows: vec![llama(admit())],
        last: true,
        times: Some(TIMES),
    };
    world.control(Body::Snapshot(whole));
    assert_eq!(world.post("/half/x").1, Seen::Pass);
}

#[test]
fn a_snapshot_takes_no_row_back_to_an_older_epoch() {
    let mut world = World::serving(vec![llama(admit())]);
    world.set(hold(0));
    world.snapshot(vec![llama(admit())]);
    world.heartbeat();
    assert_eq!(world.post("/llama/x").1, Seen::Held);
}

#[test]
fn a_snapshot_is_shared_with_gates_that_start_later() {
    let mut world = World::new();
    world.tick();
    world.snapshot(vec![llama(admit())]);
    let saved = world.shared.borrow().get("greenthread.table").cloned();
    assert!(saved.is_some_and(|saved| !saved.is_empty()));
}

#[test]
fn a_prefix_belongs_to_the_row_that_is_there() {
    let gone = Row {
        id: "a.1".to_owned(),
        removed: true,
        ..llama(admit())
    };
    let mut world = World::serving(vec![gone, llama(admit())]);
    assert_eq!(world.post("/llama/x").1, forwarded("/x"));
}

#[test]
fn a_gate_that_is_replaced_waits_for_requests_of_rows_that_are_gone() {
    let mut world = World::serving(vec![llama(admit())]);
    let (running, seen) = world.post("/llama/x");
    assert_eq!(seen, forwarded("/x"));
    world.snapshot(Vec::new());
    for _ in 0..3 {
        world.run(1_000);
        world.heartbeat();
    }
    world.snapshot(Vec::new());
    assert!(!world.gate.on_replaced());
    world.run(1_000);
    assert!(!world.finished);
    world.end(running);
    world.run(10);
    let bye = gate_message::Body::Bye(Bye {});
    assert_eq!(world.bodies().last(), Some(&bye));
    // Control never ends its side: a second is enough.
    world.run(900);
    assert!(!world.done);
    world.run(200);
    assert!(world.done);
}

#[test]
fn who_is_refused_after_a_wait_is_demand() {
    let mut world = World::serving(vec![llama(hold(0))]);
    let (held, _) = world.request_with("POST", "/llama/x", &[("prefer", "wait=2")]);
    world.run(2_500);
    assert_eq!(world.ended.get(&held), Some(&answered(503, "hold_expired")));
    let figures = world.reported().unwrap();
    assert!(figures.last_refused_age_ms.is_some_and(|age| age < 1_000));
    let expired = |outcome: &OutcomeCount| outcome.outcome == "hold_expired" && outcome.count == 1;
    assert!(figures.outcomes.iter().any(expired));
}

#[test]
fn refusals_of_requests_that_wanted_the_model_are_demand() {
    let demand = [
        Answer::Draining(1),
        Answer::Booting(1),
        Answer::TooLong(1),
        Answer::HoldExpired(1),
        Answer::WakeFailed(1),
        Answer::HoldFull(1),
    ];
    let none = [
        Answer::Disabled(1),
        Answer::NeverFits,
        Answer::EngineFailed(1),
        Answer::Asleep(1),
        Answer::ControlPath,
        Answer::NotExposed,
        Answer::Removed,
        Answer::MethodNotAllowed,
    ];
    assert!(demand.iter().all(|answer| answer.is_demand()));
    assert!(!none.iter().any(|answer| answer.is_demand()));
}

#[test]
fn who_cannot_wait_is_told_for_how_long() {
    let mut world = World::serving(vec![llama(hold(30_000))]);
    let epoch = Epoch {
        term: 1,
        counter: 1_000,
    };
    let row = Row {
        epoch: Some(epoch),
        ..llama(hold(30_000))
    };
    world.delta(vec![row]);
    let headers = [
        (":method", "POST"),
        (":path", "/llama/x"),
        ("prefer", "wait=1"),
    ];
    let around = Around {
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect(),
        shared: Rc::clone(&world.shared),
    };
    let verdict = world.gate.on_request(
        world.moment(),
        RequestId(77),
        true,
        &around,
        &mut Vec::new(),
    );
    let Verdict::Answer(reply) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(reply.header("retry-after"), Some("30"));
}

#[test]
fn a_hold_is_answered_at_its_deadline_though_nothing_else_is_due() {
    let mut world = World::new();
    world.run(10);
    let (held, _) = world.post("/llama/x");
    world.run(500);
    // The wait for the first table counts.
    world.snapshot(vec![Row {
        hold_budget_ms: 1_300,
        ..llama(hold(0))
    }]);
    world.run(1_300 - world.now);
    assert!(!world.ended.contains_key(&held));
    world.run(1_312 - world.now);
    assert_eq!(world.ended.get(&held), Some(&answered(503, "hold_expired")));
}

#[test]
fn what_others_have_in_flight_stays_until_it_is_said_anew() {
    let mut world = World::serving(vec![llama(admit())]);
    let says = |elsewhere: Vec<InFlightElsewhere>, elsewhere_stays: bool| {
        Body::Heartbeat(Heartbeat {
            echoed_sequence: 1,
            elsewhere,
            elsewhere_stays,
        })
    };
    let five = InFlightElsewhere {
        row: "llama.1".to_owned(),
        in_flight: 5,
    };
    let status = |world: &mut World| world.request("GET", "/llama/status").1;
    let shows = |number: u64| Seen::Answered(200, format!("{{\"inFlight\":{number}}}"));
    world.control(says(vec![five], false));
    world.control(says(Vec::new(), true));
    assert_eq!(status(&mut world), shows(5));
    world.control(says(Vec::new(), false));
    assert_eq!(status(&mut world), shows(0));
}
