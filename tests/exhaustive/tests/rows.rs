//! Scratch.
use greenthread_exhaustive::{checker::explore, row::{Budget, Row}};
use greenthread_core::model::OnLeaseEnd;
#[test]
fn first() {
    let only = std::env::var("ONLY").ok();
    let most: usize = std::env::var("MOST").map_or(150_000, |m| m.parse().unwrap());
    let plus: u64 = std::env::var("PLUS").map_or(0, |m| m.parse().unwrap());
    let b = Budget { requests: 1, sleeps: 1, ..Budget::default() };
    for (n, clock, b, lossless, flow, idle, drain) in [
        ("lost", 5, Budget{lost_calls:1,..b}, true, false, 0, 0),
        ("lossy leave", 5, Budget{leaves:1,..b}, false, false, 0, 0),
        ("two requests", 4, Budget{requests:2,..b}, true, false, 0, 0),
        ("idle", 5, Budget{sleeps:0,..b}, true, false, 2, 0),
        ("idle jump", 4, Budget{sleeps:0,jumps:1,..b}, true, false, 2, 0),
        ("freezes", 5, Budget{..b}, true, false, 0, 1),
        ("flow break", 5, Budget{breaks:1,..b}, true, true, 0, 0),
        ("flow gcrash", 5, Budget{gate_crashes:1,..b}, true, true, 0, 0),
        ("lossy flow gcrash", 6, Budget{gate_crashes:1,..b}, false, true, 0, 0),
        ("wish twice", 5, Budget{sleeps:2, wakes:1,..b}, true, false, 0, 0),
        ("break 3", 3, Budget{breaks:1,..b}, true, false, 0, 0),
        ("delay 3", 3, Budget{delays:1,..b}, true, false, 0, 0),
        ("gcrash 4", 4, Budget{gate_crashes:1,..b}, true, false, 0, 0),
        ("gfreeze 4", 4, Budget{gate_freezes:1,..b}, true, false, 0, 0),
        ("ccrash 4", 4, Budget{control_crashes:1,..b}, true, false, 0, 0),
        ("ccrash no req 6", 6, Budget{control_crashes:1,requests:0,..b}, true, false, 0, 0),
        ("cfreeze no sleep 4", 4, Budget{control_freezes:1,sleeps:0,..b}, true, false, 0, 0),
        ("depose 4", 4, Budget{depositions:1,..b}, true, false, 0, 0),
    ] {
    if only.as_ref().is_some_and(|only| !n.contains(only)) { continue }
    let mut row = Row::new(n, clock+plus, b);
    row.lossless=lossless;
    if flow { row.on_lease_end = OnLeaseEnd::Flow; row.times.observe=greenthread_exhaustive::ticks(2); }
    if idle>0 { row.idle=Some(greenthread_exhaustive::ticks(idle)); }
    if drain>0 { row.drain=Some(greenthread_exhaustive::ticks(drain)); }
    row.audited=31;
    row.most_states=most;
    println!("{}", explore(&row));
    }
}
