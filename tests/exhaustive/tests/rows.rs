//! Scratch.
use greenthread_exhaustive::{checker::explore, row::{Budget, Row}};
#[test]
fn first() {
    let b = Budget { requests: 1, sleeps: 1, ..Budget::default() };
    for clock in [5,7] { for (n, b) in [
        ("plain", b),
        ("depose", Budget{depositions:1,..b}),
        ("ccrash", Budget{control_crashes:1,..b}),
        ("cfreeze", Budget{control_freezes:1,..b}),
        ("jump", Budget{jumps:1,..b}),
        ("gfreeze", Budget{gate_freezes:1,..b}),
        ("gcrash", Budget{gate_crashes:1,..b}),
        ("break", Budget{breaks:1,..b}),
        ("delay1", Budget{delays:1,..b}),
    ] {
    let mut row = Row::new(n, clock, b);
    row.audited=997;
    row.most_states=300_000;
    println!("{}", explore(&row));
    }}
}
