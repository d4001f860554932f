//! `greenthread-simulate [--steps N] [--from SEED] [--all]`: the corpus, then seeds one after the other until so many steps are done.
//! `--all` goes on behind a failure. `SIM_SEED=n` runs one seed and prints the end of its trace (`SIM_LINES=n` lines of it).

use std::{process::ExitCode, time::Instant};

use greenthread_simulation::{corpus, explain, run, totals::Totals};

fn main() -> ExitCode {
    if let Some(seed) = variable("SIM_SEED") {
        let lines = variable("SIM_LINES").unwrap_or(400);
        let result = run(seed, usize::try_from(lines).unwrap_or(usize::MAX));
        println!("{}\n{}", result.tail.join("\n"), result.totals);
        println!(
            "trace {:016x}, SIM_SEED={seed}: {}",
            result.digest,
            result.violation.as_deref().unwrap_or("ok")
        );
        return ExitCode::from(u8::from(result.violation.is_some()));
    }
    let began = Instant::now();
    let steps = argument("--steps").unwrap_or(1_000_000);
    let from = argument("--from").unwrap_or(1);
    let goes_on = std::env::args().any(|argument| argument == "--all");
    let mut totals = Totals::default();
    let mut failures = 0;
    for seed in corpus().into_iter().chain(from..) {
        let result = run(seed, 0);
        totals.add(&result.totals);
        if let Some(what) = result.violation {
            failures += 1;
            if !goes_on {
                println!("{}", explain(seed));
                println!("{} steps, this seed included", totals.steps());
                return ExitCode::FAILURE;
            }
            println!("SIM_SEED={seed}: {what}");
        }
        if totals.steps() >= steps {
            break;
        }
    }
    println!("{totals}");
    if let Some(what) = totals.scores.complaint() {
        failures += 1;
        println!("estimates: {what}");
    }
    println!("{failures} failures in {} s", began.elapsed().as_secs());
    ExitCode::from(u8::from(failures > 0))
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)?.parse().ok()
}
