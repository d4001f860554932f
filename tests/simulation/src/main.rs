//! `simulate [--steps N] [--from SEED]`: seeds one after the other until so many steps are done; `SIM_SEED=n` runs one, with its trace.

use std::{process::ExitCode, time::Instant};

use greenthread_simulation::{explain, run, totals::Totals};

fn main() -> ExitCode {
    if let Some(seed) = std::env::var("SIM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        let lines = std::env::var("SIM_LINES")
            .ok()
            .and_then(|lines| lines.parse().ok())
            .unwrap_or(400);
        let result = run(seed, lines);
        println!("{}", result.tail.join("\n"));
        println!("SIM_SEED={seed}: {:?}\n{}", result.violation, result.totals);
        return ExitCode::from(u8::from(result.violation.is_some()));
    }
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok())
            .unwrap_or(default)
    };
    let (steps, from) = (number("--steps", 1_000_000), number("--from", 1));
    let began = Instant::now();
    let mut totals = Totals::default();
    let mut seed = from;
    let mut failures = 0;
    let keep_going = arguments.iter().any(|argument| argument == "--all");
    while totals.steps() < steps {
        let result = run(seed, 0);
        totals.add(&result.totals);
        if let Some(what) = result.violation {
            failures += 1;
            if !keep_going {
                println!("{}", explain(seed));
                return ExitCode::FAILURE;
            }
            println!("SIM_SEED={seed}: {what}");
        }
        seed += 1;
    }
    println!(
        "{totals}\n{} s, {failures} failures",
        began.elapsed().as_secs()
    );
    ExitCode::from(u8::from(failures > 0))
}
