//! greenthread-control
