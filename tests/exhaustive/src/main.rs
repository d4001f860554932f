//! `greenthread-exhaustive [--long] [--only TEXT]`: explores the rows, those alone whose name contains the text, and prints what was found.

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use greenthread_exhaustive::{
    checker::{Found, explore},
    rows,
};

/// Rows that are explored at a time: each keeps what it has met.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let began = Instant::now();
    let mut arguments = std::env::args().skip(1);
    let (mut rows, mut only) = (rows::short(), String::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--long" => rows = rows::long(),
            "--only" => only = arguments.next().unwrap_or_default(),
            other => {
                eprintln!("`{other}` is not known: give --long, or --only TEXT");
                return ExitCode::FAILURE;
            }
        }
    }
    rows.retain(|row| row.name.contains(&only));
    println!("{}", Found::HEADINGS);
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = explore(row);
                    println!("{one}");
                    found
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(one);
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sum = |of: fn(&Found) -> usize| found.iter().map(of).sum::<usize>();
    let failed = rows.len() - found.iter().filter(|found| found.exhausted).count();
    println!(
        "{} rows, {} states, {} transitions, {failed} not exhausted or broken, {:.0} s",
        rows.len(),
        sum(|found| found.states),
        sum(|found| found.transitions),
        began.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(failed > 0 || rows.is_empty()))
}
