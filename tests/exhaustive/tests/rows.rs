use greenthread_exhaustive::{checker::explore, row::{Budget, Row}};
#[test]
fn first() {
    let row = Row::new("first", 6, Budget { requests: 1, wishes: 1, ..Budget::default() });
    println!("{}", explore(&row));
}
