//! Nothing that arrives makes a gate panic: bytes of clients, bytes on the stream, ticks in any order.

use std::panic::{AssertUnwindSafe, catch_unwind};

use greenthread_filter::{hold::RequestId, path};
use greenthread_proto::gate::{
    ControlMessage, Epoch, Heartbeat, Row, Snapshot, Times, control_message::Body,
};
use prost::Message;

use crate::world::{World, admit, draining, hold, llama, model};

/// Xorshift: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Text of pieces that mean something, mixed with anything.
    fn bytes(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(8) {
            match self.below(3) {
                0 => bytes.push(self.next() as u8),
                _ => bytes.extend_from_slice(pieces[self.below(pieces.len() as u64) as usize]),
            }
        }
        bytes
    }

    fn number(&mut self) -> u64 {
        [0, 1, 2, 5_000, u64::MAX, self.0][self.below(6) as usize]
    }
}

const PATHS: [&[u8]; 14] = [
    b"/",
    b"/llama",
    b"/qwen",
    b"%2e%2e",
    b"..",
    b"%",
    b"%2",
    b"?",
    b"#",
    b"/v1",
    b"/v1/messages",
    b"/status",
    b"/sleep",
    b"\xff",
];
const HEADERS: [&[u8]; 9] = [
    b"POST",
    b"GET",
    b"wait=",
    b"999999999999999999999",
    b"-1",
    b",",
    b"\xff\xfe",
    b"websocket",
    b"100",
];

fn message(random: &mut Random) -> ControlMessage {
    let admission = [admit(), hold(0), hold(u64::MAX), draining()][random.below(4) as usize];
    let row = Row {
        epoch: Some(Epoch {
            term: random.number(),
            counter: random.number(),
        }),
        hold_budget_ms: random.number(),
        ..llama(admission)
    };
    let rows = vec![row, model("qwen", admission)];
    let times = Times {
        lease_ms: random.number(),
        heartbeat_ms: random.number(),
        max_flow_ms: random.number(),
    };
    let body = match random.below(4) {
        0 => Body::Snapshot(Snapshot {
            version: random.number(),
            rows,
            last: true,
            times: Some(times),
        }),
        1 => Body::Snapshot(Snapshot {
            version: 1,
            rows,
            last: random.below(2) == 0,
            times: Some(crate::world::TIMES),
        }),
        2 => Body::Delta(greenthread_proto::gate::Delta {
            version: random.below(4),
            rows,
        }),
        _ => Body::Heartbeat(Heartbeat {
            echoed_sequence: random.below(20),
            elsewhere: Vec::new(),
            elsewhere_stays: false,
        }),
    };
    ControlMessage {
        term: random.below(3),
        body: Some(body),
    }
}

fn step(world: &mut World, random: &mut Random) {
    let mut effects = Vec::new();
    match random.below(6) {
        0 | 1 => {
            let names = [
                ":method",
                ":path",
                "prefer",
                "upgrade",
                "content-length",
                ":authority",
            ];
            let headers = names.map(|name| {
                let pieces: &[&[u8]] = if name == ":path" { &PATHS } else { &HEADERS };
                (name.to_owned(), random.bytes(pieces))
            });
            let kept = random.below(7) as usize;
            let end_of_stream = random.below(2) == 0;
            world.request_raw(headers[..kept.min(6)].to_vec(), end_of_stream);
        }
        2 => world
            .gate
            .on_request_end(world.moment(), RequestId(random.below(100) as u32)),
        3 => {
            world.now = world
                .now
                .saturating_add([0, 1, 5_000, 200_000][random.below(4) as usize]);
            world.tick();
        }
        4 => {
            let stream = world.stream.unwrap_or(1);
            let mut bytes = message(random).encode_to_vec();
            if random.below(2) == 0 && !bytes.is_empty() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
                bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            }
            world
                .gate
                .on_stream_bytes(world.moment(), stream, &bytes, &mut effects);
        }
        _ => world.gate.on_stream_closed(world.moment(), random.below(3)),
    }
    if effects
        .iter()
        .any(|effect| matches!(effect, greenthread_filter::gate::Effect::Close))
    {
        world.stream = None;
    }
}

#[test]
fn no_input_makes_a_gate_panic() {
    let seeds = std::env::var("GATE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .map_or(1..=300, |seed: u64| seed..=seed);
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut world = World::new();
            for _ in 0..300 {
                step(&mut world, &mut random);
            }
            for request in 0..100_000 {
                if world.gate.occupancy() == (0, 0) {
                    break;
                }
                world
                    .gate
                    .on_request_end(world.moment(), RequestId(request));
            }
            assert_eq!(world.gate.occupancy(), (0, 0), "every request was ended");
        }));
        assert!(run.is_ok(), "GATE_SEED={seed}");
    }
}

#[test]
fn normalised_paths_are_absolute_and_have_no_dot_segments() {
    let mut random = Random(7);
    for _ in 0..100_000 {
        let bytes = random.bytes(&PATHS);
        let normalised = path::normalised(&bytes);
        assert_eq!(normalised.first(), Some(&b'/'));
        let segments: Vec<&[u8]> = normalised[1..].split(|byte| *byte == b'/').collect();
        assert!(
            segments
                .iter()
                .all(|segment| *segment != b"." && *segment != b".."),
            "{bytes:?}"
        );
        assert!(
            normalised == b"/" || segments.iter().all(|segment| !segment.is_empty()),
            "{bytes:?}"
        );
    }
}
