//! What a build that is not optimised can explore in a second; `make exhaustive` explores the others.

use greenthread_exhaustive::{checker::explore, rows};

#[test]
fn the_smallest_row_holds() {
    let found = explore(&rows::tiny());
    println!("{found}");
    assert!(
        found.exhausted && found.states > 100 && found.continued > 0,
        "{found}"
    );
}
