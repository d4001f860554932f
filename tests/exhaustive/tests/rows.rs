//! Scratch.
use greenthread_exhaustive::{checker::explore, row::{Budget, Row}};
#[test]
fn first() {
    let b = Budget { requests: 1, sleeps: 1, ..Budget::default() };
    for (n, b) in [
        ("plain", b),
        ("depose", Budget{depositions:1,..b}),
        ("ccrash", Budget{control_crashes:1,..b}),
    ] {
    let mut row = Row::new(n, 10, b);
    row.audited=997;
    row.most_states=500_000;
    println!("{}", explore(&row));
    }
}
