//! The shell around the core: gate service, engines, HTTP API, and the supervisor of one machine.

pub mod auth;
pub mod choice;
pub mod cli;
pub mod client;
pub mod config;
pub mod driver;
pub mod engine;
pub mod explain;
mod follow;
pub mod gates;
pub mod http;
pub mod input;
pub mod journal;
pub mod metrics;
pub mod modules;
pub mod overview;
pub mod rows;
pub mod serve;
pub mod simulate;
pub mod standalone;
pub mod state;
pub mod streams;
#[cfg(test)]
mod testing;
pub mod text;
pub mod totals;
