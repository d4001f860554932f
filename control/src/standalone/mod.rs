//! One machine: Envoy's configuration, changes of the fleet file, and the supervisor of Envoy and control.

pub mod bootstrap;
pub mod checks;
pub mod clusters;
pub mod delivery;
mod files;
pub mod reaper;
pub mod reload;
mod service;
pub mod up;
pub mod watch;
mod words;
