//! Scratch.
use greenthread_exhaustive::{checker::explore, row::{Budget, Row}};
#[test]
fn first() {
    let b = Budget { requests: 1, sleeps: 1, ..Budget::default() };
    let mut row = Row::new("ccrash no req 6", 6, Budget{control_crashes:1,requests:0,..b});
    row.audited=97;
    println!("{}", explore(&row));
    let mut row = Row::new("lossy leave", 5, Budget{leaves:1,..b});
    row.lossless=false;
    row.audited=97;
    println!("{}", explore(&row));
}
#[test]
fn differ() {
    let b = Budget { requests: 1, sleeps: 0, control_freezes:1, ..Budget::default() };
    let mut row = Row::new("cf", 4, b);
    row.audited=97;
    println!("{}", explore(&row));
}
