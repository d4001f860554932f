//! Explores every reachable state of the drain protocol: two gates, two controls of different terms, one engine, a clock that stops.
//!
//! The transition functions are the production ones, [`greenthread_core::Core`] and [`greenthread_filter::gate::Gate`], cloned for every
//! state; only what stands between them is written here: streams, the engine, clients, and everything that can go wrong with them. Time
//! moves in ticks of one second. What is explored is bounded by [`row::Budget`] and by the clock, and within these bounds completely.

pub mod checker;
mod fingerprint;
mod memo;
mod rendering;
pub mod row;
pub mod rows;
mod safety;
mod settle;
mod shell;
mod world;

use greenthread_core::ids::Millis;

/// One step of the clock.
pub const TICK: Millis = Millis(1_000);
/// The clock does not begin at zero: moments are told from lengths by their size.
pub(crate) const BEGINNING: u64 = 1_000_000_000;

/// So many steps of the clock.
pub const fn ticks(number: u64) -> Millis {
    Millis(TICK.0 * number)
}
