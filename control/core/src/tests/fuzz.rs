//! Many random histories: whatever happens, the ledger stays within capacity, one transition per GPU, epochs only grow, and
//! nothing sleeps while a gate that may admit has not acknowledged. A seed that failed is named in the message.

use super::*;
use crate::GpuView;

fn one_event(bench: &mut Bench, random: &mut Random) -> Vec<Effect> {
    let models = ["a", "b", "c", "d"];
    let model = models[random.below(4) as usize];
    let gate = if random.below(2) == 0 { "g1" } else { "g2" };
    match random.below(12) {
        0..=4 => {
            let serving = bench.phase(model) == "Serving";
            let in_flight = if serving { random.below(3) } else { 0 };
            let held = if serving { 0 } else { random.below(3) };
            bench.engines.get_mut(&id(model)).expect("known").count = in_flight;
            bench.figures(gate, model, in_flight, held)
        }
        5 => {
            let stream = 10 + random.below(1_000_000);
            bench.hello(gate, stream)
        }
        6 => {
            let engine = bench.engines.get_mut(&id(model)).expect("known");
            (engine.state, engine.memory) = (EngineState::Gone, Bytes(0));
            bench.event(Event::EngineGone {
                model: id(model),
                attempt: None,
                cause: "it died".into(),
            })
        }
        7 => {
            let verb = [Operator::Wake, Operator::Sleep][random.below(2) as usize];
            bench.event(Event::Operator {
                model: id(model),
                verb,
            })
        }
        8 => {
            let outcome = Outcome::Unknown {
                cause: "time-out".into(),
            };
            bench.engines.get_mut(&id(model)).expect("known").sleep =
                (random.below(2) == 0).then_some(outcome);
            vec![]
        }
        9 => {
            let error = ActionError {
                cause: "refused".into(),
                engine: EngineState::Asleep,
                no_room: false,
            };
            bench.engines.get_mut(&id(model)).expect("known").wake =
                (random.below(3) == 0).then_some(Outcome::Failed(error));
            vec![]
        }
        _ => {
            let length = random.below(8_000);
            bench.run(length)
        }
    }
}

#[test]
fn random_histories_keep_the_invariants() {
    for seed in 1..=20_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut bench = Bench::ready(&["a", "b", "c", "d"]);
        bench.hello("g2", 2);
        let mut newest: BTreeMap<ModelId, Epoch> = BTreeMap::new();
        for step in 0..400 {
            for effect in one_event(&mut bench, &mut random) {
                if let Effect::Publish(row) = effect {
                    let last = newest.entry(row.model.clone()).or_default();
                    assert!(
                        row.epoch >= *last,
                        "seed {seed}, step {step}: the epoch of {} shrank",
                        row.model
                    );
                    *last = row.epoch;
                }
            }
            let GpuView {
                reserved, capacity, ..
            } = bench.core.gpus()[0];
            assert!(
                reserved <= capacity,
                "seed {seed}, step {step}: {reserved} of {capacity} reserved\n{}",
                bench.sentences()
            );
            let moving = bench
                .core
                .view()
                .iter()
                .filter(|view| matches!(view.phase, "Waking" | "Sleeping"))
                .count();
            assert!(
                moving <= 1,
                "seed {seed}, step {step}: {moving} transitions on one GPU"
            );
        }
        // Faults stop, everybody is served in the end.
        for engine in bench.engines.values_mut() {
            (engine.wake, engine.sleep, engine.count) = (None, None, 0);
        }
        for gate in ["g1", "g2"] {
            for model in ["a", "b", "c", "d"] {
                bench.figures(gate, model, 0, 0);
            }
        }
        for model in ["a", "b", "c", "d"] {
            bench.event(Event::Operator {
                model: id(model),
                verb: Operator::Wake,
            });
            bench.figures("g1", model, 0, 1);
            let served = (0..900).any(|_| {
                bench.run(1_000);
                bench.phase(model) == "Serving"
            });
            assert!(
                served,
                "seed {seed}: {model} waits for ever\n{}",
                bench.sentences()
            );
            bench.figures("g1", model, 0, 0);
        }
    }
}
