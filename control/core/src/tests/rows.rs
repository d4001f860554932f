//! How much gates are told: what they must know, and not every second that passes.

use super::*;

#[test]
fn many_models_on_a_gpu_are_not_told_their_wait_every_second() {
    let names: Vec<String> = (0..300).map(|n| format!("model-{n:03}")).collect();
    let small = |name: &String| ModelSpec {
        asleep: Bytes(0),
        ..spec(name)
    };
    let models: Vec<ModelSpec> = names.iter().map(small).collect();
    let mut bench = started(&models);
    bench.run(12_000);
    bench.log.clear();
    // A hundred come and go again, second after second: that changes for how long everybody else would wait.
    let (queue, others) = names.split_at(100);
    for second in 0..30 {
        let held = u64::from(second % 2 == 0);
        for name in queue {
            bench.figures("g1", name, 0, held);
        }
        bench.run(1_000);
    }
    let concerns_others =
        |row: &crate::effect::PublishedRow| others.iter().any(|name| id(name) == row.model);
    let of_others =
        |effect: &&Effect| matches!(effect, Effect::Publish(row) if concerns_others(row));
    let rows = bench.log.iter().filter(of_others).count();
    // Each of them every three seconds at most, since there are 300.
    assert!(rows > 500 && rows <= 200 * 11, "{rows} rows in 30 s");
}
