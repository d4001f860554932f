//! greenthread-filter
