//! What the gate says to control and believes of it: the rules of the protocol that concern gates.

use greenthread_proto::{
    PROTOCOL,
    gate::{Bye, Delta, Epoch, RefuseReason, Row, Snapshot, control_message::Body, gate_message},
};

use crate::world::{
    Seen, TIMES, World, admit, answered, draining, forwarded, hold, llama, model, refuse,
};

#[test]
fn hello_is_the_first_message_of_every_stream_and_numbers_go_on() {
    let mut world = World::serving(vec![llama(admit())]);
    world.post("/llama/x");
    world.run(1_000);
    let stream = world.stream.take().unwrap();
    world.gate.on_stream_closed(world.moment(), stream);
    let before = world.sent.len();
    world.run(200);
    let hello = &world.hellos()[1];
    assert_eq!(
        (
            hello.gate.as_str(),
            hello.protocol_min,
            hello.protocol_max,
            hello.largest_term
        ),
        ("gate-1", PROTOCOL.0, PROTOCOL.1, 1)
    );
    assert_eq!(
        (
            hello.rows.len(),
            hello.rows[0].in_flight,
            hello.rows[0].row.as_str()
        ),
        (1, 1, "llama.1")
    );
    assert!(matches!(
        world.sent[before].body,
        Some(gate_message::Body::Hello(_))
    ));
    let numbers: Vec<u64> = world.sent.iter().map(|message| message.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn reports_go_out_every_heartbeat_and_repeat_until_echoed() {
    let mut world = World::serving(vec![llama(admit())]);
    world.post("/llama/x");
    world.run(3_000);
    let listed: Vec<usize> = world
        .reports()
        .iter()
        .map(|report| report.rows.len())
        .collect();
    assert_eq!(listed, [1, 1, 1]);
    world.heartbeat();
    world.run(2_000);
    let reports = world.reports();
    assert_eq!(
        reports[3..]
            .iter()
            .map(|report| (report.rows.len(), report.table_version))
            .collect::<Vec<_>>(),
        [(0, 1), (0, 1)]
    );
}

#[test]
fn an_echo_of_an_older_message_does_not_acknowledge_a_later_change() {
    let mut world = World::serving(vec![llama(admit())]);
    let (first, _) = world.post("/llama/x");
    world.run(1_000);
    let carried = world.sent.last().unwrap().sequence;
    world.end(first);
    world.run(1_000);
    world.echo(carried);
    world.run(1_000);
    let reports = world.reports();
    let rows = &reports.last().unwrap().rows;
    assert_eq!(rows.len(), 1, "it is said again");
    assert_eq!(rows[0].in_flight, 0);
    // What carried the change first is echoed, though it was repeated since.
    let carried = world.sent.last().unwrap().sequence;
    world.run(1_000);
    world.echo(carried);
    world.run(1_000);
    assert_eq!(world.reports().last().unwrap().rows, []);
}

/// Milliseconds until the next message after `act`, when everything before was reported and echoed.
fn delay(admission: greenthread_proto::gate::row::Admission, act: impl FnOnce(&mut World)) -> u64 {
    let mut world = World::serving(vec![llama(admission)]);
    world.run(1_000);
    world.run(100);
    let (sent, at) = (world.sent.len(), world.now);
    act(&mut world);
    while world.sent.len() == sent {
        world.run(1);
    }
    world.now - at
}

#[test]
fn reports_that_go_out_early() {
    let ending = |world: &mut World| {
        world.run(1);
    };
    assert_eq!(delay(admit(), ending), 900, "nothing happened");
    assert!(
        delay(admit(), |world| drop(world.post("/llama/x"))) >= 890,
        "an admission is not urgent"
    );
    assert!(
        delay(hold(0), |world| drop(world.post("/llama/x"))) <= 5,
        "held 0 → 1"
    );
    assert!(
        delay(draining(), |world| drop(world.post("/llama/x"))) <= 5,
        "refused by a barrier"
    );
    assert!(
        delay(hold(999_000), |world| drop(world.post("/llama/x"))) <= 5,
        "refused as too long"
    );
    assert!(
        delay(hold(0), |world| drop(world.request("GET", "/llama/"))) >= 890,
        "a look is no demand"
    );
}

#[test]
fn the_answer_to_the_last_held_request_is_reported_early_though_it_is_no_demand() {
    let mut world = World::serving(vec![llama(hold(0))]);
    world.post("/llama/x");
    world.run(1_100);
    let reports = world.reports().len();
    world.set(refuse(RefuseReason::NeverFits));
    world.run(50);
    assert_eq!(
        (world.reports().len(), world.reported().unwrap().held),
        (reports + 1, 0)
    );
}

#[test]
fn the_last_request_of_a_draining_row_is_reported_early() {
    let mut world = World::serving(vec![llama(admit())]);
    let (one, _) = world.post("/llama/x");
    let (two, _) = world.post("/llama/x");
    world.set(draining());
    world.run(100);
    let reports = world.reports().len();
    world.end(one);
    world.run(100);
    assert_eq!(world.reports().len(), reports);
    world.end(two);
    world.run(5);
    assert_eq!(
        (world.reports().len(), world.reported().unwrap().in_flight),
        (reports + 1, 0)
    );
}

#[test]
fn ages_and_waits() {
    let mut world = World::serving(vec![llama(hold(0))]);
    let (id, _) = world.post("/llama/x");
    world.run(300);
    world.set(draining());
    world.post("/llama/x");
    world.run(20);
    let figures = world.reported().unwrap();
    assert_eq!(
        (figures.held, figures.last_refused_age_ms.is_some()),
        (1, true)
    );
    assert!((300..330).contains(&figures.oldest_age_ms), "{figures:?}");
    world.set(admit());
    world.run(1_000);
    world.heartbeat();
    world.end(id);
    world.run(1_050);
    let figures = world.reported().unwrap();
    assert_eq!(
        (figures.held, figures.in_flight, figures.wait_buckets[4]),
        (0, 0, 1),
        "waited between 250 and 500 ms"
    );
    assert!(
        (1_000..1_010).contains(&figures.last_used_age_ms.unwrap()),
        "{figures:?}"
    );
    assert!(
        (2_000..2_100).contains(&figures.last_refused_age_ms.unwrap()),
        "{figures:?}"
    );
    let outcomes: Vec<(&str, u64)> = figures
        .outcomes
        .iter()
        .map(|count| (count.outcome.as_str(), count.count))
        .collect();
    assert_eq!(outcomes, [("draining", 1), ("forwarded", 1)]);
}

#[test]
fn documents_of_the_engine_are_in_flight_but_no_use() {
    let mut world = World::serving(vec![llama(admit())]);
    assert_eq!(
        world.request("GET", "/llama/metrics").1,
        forwarded("/metrics")
    );
    world.run(1_000);
    let figures = world.reported().unwrap();
    assert_eq!((figures.in_flight, figures.last_used_age_ms), (1, None));
}

#[test]
fn barriers_are_acknowledged_from_snapshots_and_deltas_and_again() {
    let row = |counter| Row {
        epoch: Some(Epoch { term: 1, counter }),
        ..llama(draining())
    };
    let mut world = World::serving(vec![llama(admit())]);
    world.post("/llama/x");
    world.delta(vec![row(7)]);
    world.delta(vec![row(7)]);
    world.delta(vec![row(6)]);
    world.snapshot(vec![row(7)]);
    let acks: Vec<(String, Option<Epoch>, u64)> = world
        .acks()
        .into_iter()
        .map(|ack| (ack.row, ack.epoch, ack.in_flight))
        .collect();
    let ack = (
        "llama.1".to_owned(),
        Some(Epoch {
            term: 1,
            counter: 7,
        }),
        1,
    );
    assert_eq!(acks, [ack.clone(), ack.clone(), ack]);
    assert_eq!(world.post("/llama/x").1, answered(503, "draining"));
}

#[test]
fn epochs_are_ordered_by_term_then_counter() {
    for ((term, counter), applied) in [
        ((2, 5), true),
        ((2, 4), false),
        ((1, 9), false),
        ((2, 6), true),
        ((3, 0), true),
    ] {
        let mut world = World::serving(vec![Row {
            epoch: Some(Epoch {
                term: 2,
                counter: 5,
            }),
            ..llama(admit())
        }]);
        world.delta(vec![Row {
            epoch: Some(Epoch { term, counter }),
            ..llama(hold(0))
        }]);
        let expected = if applied { Seen::Held } else { forwarded("/x") };
        assert_eq!(world.post("/llama/x").1, expected, "({term}, {counter})");
    }
}

#[test]
fn a_snapshot_takes_effect_with_its_last_chunk_and_drops_other_rows() {
    let mut world = World::serving(vec![llama(admit())]);
    let chunk = |rows, last| {
        Body::Snapshot(Snapshot {
            version: 2,
            rows,
            last,
            times: last.then_some(TIMES),
        })
    };
    world.control(chunk(vec![model("a", admit())], false));
    assert_eq!(
        (world.post("/llama/x").1, world.post("/a/x").1),
        (forwarded("/x"), Seen::Pass)
    );
    world.control(chunk(vec![model("b", admit())], true));
    assert_eq!(
        (
            world.post("/llama/x").1,
            world.post("/a/x").1,
            world.post("/b/x").1
        ),
        (Seen::Pass, forwarded("/x"), forwarded("/x"))
    );
    world.end(1);
    world.run(1_000);
    assert_eq!(
        world.reported().unwrap().in_flight,
        0,
        "a row that is gone is counted to zero"
    );
}

#[test]
fn what_closes_the_stream() {
    let broken = |rows| Body::Delta(Delta { version: 2, rows });
    let no_times = Snapshot {
        version: 2,
        rows: Vec::new(),
        last: true,
        times: None,
    };
    let part = |version| Snapshot {
        version,
        rows: Vec::new(),
        last: false,
        times: None,
    };
    let heartbeat = |echoed_sequence| {
        Body::Heartbeat(greenthread_proto::gate::Heartbeat {
            echoed_sequence,
            elsewhere: Vec::new(),
            elsewhere_stays: false,
        })
    };
    for (message, closes) in [
        (broken(Vec::new()), false),
        (
            Body::Delta(Delta {
                version: 3,
                rows: Vec::new(),
            }),
            true,
        ),
        (
            Body::Delta(Delta {
                version: 1,
                rows: Vec::new(),
            }),
            true,
        ),
        (
            broken(vec![Row {
                id: String::new(),
                ..llama(admit())
            }]),
            true,
        ),
        (
            broken(vec![Row {
                admission: None,
                ..llama(admit())
            }]),
            true,
        ),
        (
            broken(vec![Row {
                epoch: None,
                ..llama(admit())
            }]),
            true,
        ),
        (
            broken(vec![Row {
                on_lease_end: 9,
                ..llama(admit())
            }]),
            true,
        ),
        (
            broken(vec![Row {
                prefixes: vec!["/a".to_owned()],
                ..llama(admit())
            }]),
            true,
        ),
        (Body::Snapshot(no_times), true),
        (Body::Snapshot(part(2)), false),
        (heartbeat(1), false),
        (heartbeat(99), true),
    ] {
        let mut world = World::serving(vec![llama(admit())]);
        world.control(message.clone());
        assert_eq!(world.stream.is_none(), closes, "{message:?}");
        if matches!(&message, Body::Snapshot(chunk) if !chunk.last) {
            world.control(Body::Snapshot(part(3)));
            assert!(world.stream.is_none(), "chunks of two snapshots");
        }
        assert_eq!(
            world.post("/llama/x").1,
            forwarded("/x"),
            "the lease goes on"
        );
    }
}

#[test]
fn a_delta_before_the_snapshot_of_its_stream_closes_it() {
    let mut world = World::new();
    world.tick();
    world.version = 0;
    world.delta(vec![llama(admit())]);
    assert_eq!(world.stream, None);
}

#[test]
fn only_the_largest_term_is_obeyed() {
    let mut world = World::serving(vec![llama(admit())]);
    world.term = u64::MAX;
    world.set(hold(0));
    assert_eq!(world.post("/llama/x").1, Seen::Held);
    world.term = 5;
    world.set(admit());
    assert_eq!(world.stream, None);
    assert_eq!(world.post("/llama/x").1, Seen::Held);
    world.run(200);
    assert_eq!(world.hellos().last().unwrap().largest_term, u64::MAX);
}

#[test]
fn messages_of_an_older_stream_are_not_listened_to() {
    let mut world = World::serving(vec![llama(admit())]);
    let old = world.stream.unwrap();
    world.gate.on_stream_closed(world.moment(), old);
    world.run(200);
    world.stream = Some(old);
    world.set(draining());
    assert_eq!(world.post("/llama/x").1, forwarded("/x"));
    assert!(world.acks().is_empty());
}

#[test]
fn a_lease_counts_from_sending_and_needs_the_snapshot_of_its_stream() {
    let mut world = World::new();
    world.tick();
    world.now = 100;
    world.echo(1);
    world.snapshot(vec![llama(admit())]);
    assert_eq!(
        world.post("/llama/x").1,
        Seen::Held,
        "the heartbeat came before the snapshot"
    );
    world.now = 3_000;
    world.echo(1);
    world.tick();
    world.now = 4_999;
    assert_eq!(world.post("/llama/x").1, forwarded("/x"));
    world.now = 5_000;
    assert_eq!(
        world.post("/llama/x").1,
        Seen::Held,
        "from sending, not from the echo at 3,000"
    );
}

#[test]
fn a_stream_without_a_valid_heartbeat_is_replaced() {
    let mut world = World::serving(vec![llama(admit())]);
    for _ in 0..6 {
        world.run(900);
        world.echo(1);
    }
    assert_eq!(
        world.opened.len(),
        2,
        "an echo of the same old number is no heartbeat"
    );
    assert!(
        (5_050..5_110).contains(&world.opened[1]),
        "{:?}",
        world.opened
    );
}

#[test]
fn reopening_backs_off_and_never_happens_in_the_callback() {
    let mut world = World::new();
    world.tick();
    for _ in 0..8 {
        let stream = world.stream.take().unwrap();
        let opened = world.opened.len();
        world.gate.on_stream_closed(world.moment(), stream);
        assert_eq!(world.opened.len(), opened);
        while world.stream.is_none() {
            world.run(10);
        }
    }
    let pauses: Vec<u64> = world
        .opened
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    for (pause, full) in pauses
        .iter()
        .zip([100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000])
    {
        assert!((full / 2..=full + 10).contains(pause), "{pauses:?}");
    }
}

#[test]
fn a_gate_that_is_replaced_keeps_its_duties_and_then_says_bye() {
    let mut world = World::serving(vec![llama(hold(0))]);
    let (held, _) = world.post("/llama/x");
    assert!(!world.gate.on_replaced());
    world.run(1_000);
    assert!(!world.done && !world.finished);
    world.set(admit());
    world.run(100);
    assert_eq!(world.ended.get(&held), Some(&forwarded("/x")));
    world.end(held);
    world.run(10);
    assert_eq!(
        world.bodies().last(),
        Some(&gate_message::Body::Bye(Bye {}))
    );
    assert!(
        world.finished && !world.done,
        "control may still have to read it"
    );
    let (_, late) = world.post("/llama/x");
    assert_eq!(late, answered(503, "hold_expired"), "it admits no more");
    let stream = world.stream.take().unwrap();
    world.gate.on_stream_closed(world.moment(), stream);
    world.run(10);
    assert!(world.done);
    assert_eq!(world.opened.len(), 1);
}

#[test]
fn a_gate_without_a_stream_leaves_at_once() {
    let mut world = World::new();
    assert!(world.gate.on_replaced());
}

#[test]
fn a_gate_that_has_said_bye_holds_nobody_for_a_table() {
    let mut world = World::new();
    world.run(10);
    assert!(!world.gate.on_replaced());
    world.run(10);
    assert_eq!(
        world.bodies().last(),
        Some(&gate_message::Body::Bye(Bye {}))
    );
    let (_, late) = world.post("/llama/x");
    assert_eq!(late, Seen::Pass);
}
