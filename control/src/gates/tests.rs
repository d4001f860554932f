//! What is let in, what is refused, and what is made of it.

use greenthread_proto::gate::{BarrierAck, Bye, Report};
use tonic::Code;

use super::*;

fn message(sequence: u64, body: Body) -> GateMessage {
    GateMessage {
        sequence,
        body: Some(body),
    }
}

fn greeting() -> Hello {
    Hello {
        gate: "g1".into(),
        gateway: "envoy".into(),
        protocol_min: 1,
        protocol_max: 1,
        largest_term: 5,
        ..Hello::default()
    }
}

#[test]
fn a_stream_begins_with_a_hello_that_we_understand() {
    let check = |body, expected: Result<(), Code>| {
        let result = hello(message(1, body), StreamId(1))
            .map(|_| ())
            .map_err(|status| status.code());
        assert_eq!(result, expected);
    };
    check(Body::Hello(greeting()), Ok(()));
    check(Body::Bye(Bye {}), Err(Code::InvalidArgument));
    check(
        Body::Hello(Hello {
            gate: String::new(),
            ..greeting()
        }),
        Err(Code::InvalidArgument),
    );
    check(
        Body::Hello(Hello {
            gate: "x".repeat(300),
            ..greeting()
        }),
        Err(Code::InvalidArgument),
    );
    check(
        Body::Hello(Hello {
            protocol_min: 7,
            protocol_max: 9,
            ..greeting()
        }),
        Err(Code::FailedPrecondition),
    );
    check(
        Body::Hello(Hello {
            protocol_min: 0,
            protocol_max: 9,
            ..greeting()
        }),
        Ok(()),
    );
}

#[test]
fn both_ranges_are_named_when_they_do_not_meet() {
    let status = hello(
        message(
            1,
            Body::Hello(Hello {
                protocol_min: 7,
                protocol_max: 9,
                ..greeting()
            }),
        ),
        StreamId(1),
    )
    .unwrap_err();
    assert!(
        status.message().contains("7 to 9") && status.message().contains("1 to 1"),
        "{}",
        status.message()
    );
}

#[test]
fn the_sequence_must_grow() {
    let mut reader = Reader {
        gate: GateId("g".into()),
        stream: StreamId(1),
        sequence: 1,
    };
    assert!(
        reader
            .said(message(2, Body::Report(Report::default())))
            .is_ok()
    );
    assert!(reader.said(message(9, Body::Bye(Bye {}))).is_ok());
    assert_eq!(
        reader
            .said(message(9, Body::Bye(Bye {})))
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
}

#[test]
fn messages_that_say_nothing_are_refused() {
    let mut reader = Reader {
        gate: GateId("g".into()),
        stream: StreamId(1),
        sequence: 1,
    };
    let mut check = |sequence, body| {
        assert_eq!(
            reader
                .said(GateMessage { sequence, body })
                .unwrap_err()
                .code(),
            Code::InvalidArgument
        )
    };
    check(2, None);
    check(3, Some(Body::Hello(greeting())));
    check(
        4,
        Some(Body::BarrierAck(BarrierAck {
            row: "m.1".into(),
            epoch: None,
            in_flight: 0,
        })),
    );
}

#[test]
fn figures_reach_the_core_and_the_counters() {
    let row = RowFigures {
        row: "m.1".into(),
        in_flight: 2,
        held: 3,
        last_used_age_ms: Some(9),
        outcomes: vec![greenthread_proto::gate::OutcomeCount {
            outcome: "forwarded".into(),
            count: 4,
        }],
        ..RowFigures::default()
    };
    let (figures, totals) = figures(vec![row]).unwrap();
    assert_eq!(
        figures[0].1,
        Figures {
            in_flight: 2,
            held: 3,
            oldest_age: 0,
            last_used_age: Some(9),
            last_refused_age: None,
            asked: 7
        }
    );
    assert_eq!(totals[0].1.outcomes["forwarded"], 4);
}
