//! The `greenthread` program.

fn main() {}
