//! The contract between gates and control: messages of one bidirectional stream per gate.
//!
//! The code is generated from `proto/proto/**.proto` and committed; `cargo test -p greenthread-proto` regenerates it and
//! fails if it differed. Without the feature `service` only the messages are compiled, for wasm32.

/// Gate ↔ control, version 1.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod gate {
    include!("greenthread.gate.v1.rs");
}

/// Protocol versions that this build speaks: (oldest, newest).
pub const PROTOCOL: (u32, u32) = (1, 1);

/// Upper bounds in milliseconds of the wait buckets in `RowFigures.wait_buckets`; one more bucket holds what is above.
pub const WAIT_BUCKET_BOUNDS_MS: [u64; 11] = [
    10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 120_000,
];
