//! The cost of one event does not make a large fleet impossible: every engine is looked at every second, every gate reports.

use super::*;

#[test]
fn what_shows_nothing_new_costs_no_round_over_all_models() {
    let models: Vec<ModelSpec> = (0..1_000_usize)
        .map(|n| ModelSpec {
            gpus: vec![GpuId(n % 64)],
            ..spec(&format!("model-{n:04}"))
        })
        .collect();
    let mut bench = Bench::on(64, &models, EngineState::Asleep);
    bench.run(2_500);
    for gate in 0..8 {
        bench.hello(&format!("g{gate}"), gate);
    }
    bench.figures("g1", "model-0007", 0, 1);
    bench.figures("g1", "model-0007", 1, 0);
    let (before, looked) = (bench.core.turns, looks(&bench.log).len());
    bench.run(2_000);
    let turns = bench.core.turns - before;
    assert!(looks(&bench.log).len() - looked >= 1_000);
    // One turn to ask for a look, one for its answer.
    assert!(turns <= 5_000, "{turns} turns in 2 s");
}
