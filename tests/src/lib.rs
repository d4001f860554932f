//! greenthread-tests
