//! Seeds of the corpus, then seeds one after the other. `SIM_SEED=n` runs exactly one; `make simulate` runs a million steps and more.

use greenthread_simulation::{corpus, explain, run, totals::Totals};

/// Steps of a plain `cargo test`, which is not optimised.
const STEPS: u64 = 60_000;

fn seeds() -> Vec<u64> {
    let one = std::env::var("SIM_SEED").ok();
    match one.map(|seed| seed.parse()) {
        Some(seed) => vec![seed.expect("SIM_SEED is a number")],
        None => corpus(),
    }
}

#[test]
fn whatever_happens_the_rules_hold_and_everybody_is_served() {
    let mut totals = Totals::default();
    let only = std::env::var_os("SIM_SEED").is_some();
    let more = (1..).take_while(|_| !only);
    for seed in seeds().into_iter().chain(more) {
        let result = run(seed, 0);
        assert!(result.violation.is_none(), "{}", explain(seed));
        totals.add(&result.totals);
        if totals.steps() >= STEPS {
            break;
        }
    }
    println!("{totals}");
}

#[test]
fn one_seed_is_one_trace_byte_for_byte() {
    for seed in 1..=12 {
        let (one, two) = (run(seed, usize::MAX), run(seed, usize::MAX));
        assert!(one.tail == two.tail, "seed {seed}: two traces");
        assert_eq!(one.digest, two.digest);
        assert_eq!(one.totals, two.totals);
        // Without a trace the same things happen.
        assert_eq!(one.totals, run(seed, 0).totals);
    }
}
