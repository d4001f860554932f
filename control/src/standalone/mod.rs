//! One machine: Envoy's configuration, and the supervisor of Envoy and control.

pub mod bootstrap;
pub mod clusters;
