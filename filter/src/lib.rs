//! The filter inside the gateway's Envoy, one VM per worker.
//!
//! Everything except [`host`] is ordinary Rust: decisions about requests are functions of the table that control sent, of
//! the lease and of the time that the caller passes in. The same [`gate::Gate`] runs in Envoy, in the native tests and in the
//! deterministic simulation. It knows no clock, does no I/O, and never panics: a trap would strand every request that its VM
//! holds.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unreachable
    )
)]

#[macro_use]
pub mod sabotage;

pub mod answers;
pub mod classify;
pub mod config;
pub mod documents;
pub mod figures;
pub mod gate;
pub mod hold;
pub mod lease;
pub mod link;
pub mod path;
pub mod row;
pub mod shared;
pub mod table;
pub mod time;

#[cfg(target_arch = "wasm32")]
mod host;
