//! The shell around the core: gate service, engines, HTTP API, and the supervisor of one machine.

pub mod config;
pub mod engine;
pub mod standalone;
