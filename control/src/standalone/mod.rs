//! One machine: Envoy's configuration, changes of the fleet file, and the supervisor of Envoy and control.

pub mod bootstrap;
pub mod clusters;
pub mod delivery;
mod files;
pub mod reload;
pub mod watch;
