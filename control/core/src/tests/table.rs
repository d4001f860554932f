//! The whole table, phase × event, as a snapshot: a changed behaviour is a visible diff. `UPDATE_SNAPSHOTS=1` rewrites it.

use super::*;

/// A bench whose model `a` is in the named phase; engines do not answer from here on.
fn in_phase(phase: &str) -> Bench {
    let mut bench = match phase {
        "Booting" => {
            let mut bench = Bench::new(&[spec("a"), spec("b")], EngineState::Gone);
            bench.answering = false;
            bench.run(2_500);
            bench
        }
        "Queued" => {
            let mut bench = Bench::ready(&["a", "b", "c"]);
            for model in ["b", "c"] {
                bench.figures("g1", model, 0, 1);
                bench.figures("g1", model, 1, 0);
                bench.engines.get_mut(&id(model)).expect("known").count = 1;
            }
            bench
        }
        "Removed" => settled(&[spec("a"), spec("b")]),
        _ => Bench::ready(&["a", "b"]),
    };
    bench.obedient = false;
    if phase == "Booting" {
        return bench;
    }
    if matches!(phase, "Serving" | "Draining" | "Sleeping") {
        bench.figures("g1", "a", 0, 1);
        bench.figures("g1", "a", 1, 0);
    }
    bench.answering = false;
    match phase {
        "Queued" | "Waking" => {
            bench.figures("g1", "a", 0, 1);
        }
        "Draining" => {
            bench.event(Event::Operator {
                model: id("a"),
                verb: Operator::Sleep,
            });
        }
        "Sleeping" => {
            let effects = bench.event(Event::Operator {
                model: id("a"),
                verb: Operator::Sleep,
            });
            let epoch = effects
                .iter()
                .find_map(|effect| {
                    if let Effect::Publish(row) = effect {
                        Some(row.epoch)
                    } else {
                        None
                    }
                })
                .expect("a barrier");
            bench.figures("g1", "a", 0, 0);
            let ack = bench.ack(&GateId("g1".into()), &id("a"), epoch);
            bench.answering = true;
            bench.engines.get_mut(&id("a")).expect("known").sleep =
                Some(Outcome::Unknown { cause: "x".into() });
            bench.event(ack);
            bench.answering = false;
            bench.run(2_100);
        }
        "Failed" => {
            bench.answering = true;
            let error = ActionError {
                cause: "no memory".into(),
                engine: EngineState::Asleep,
                no_room: false,
            };
            bench.engines.get_mut(&id("a")).expect("known").wake = Some(Outcome::Failed(error));
            bench.figures("g1", "a", 0, 1);
            bench.answering = false;
        }
        "Removed" => {
            bench.event(Event::ModelRemoved(id("a")));
            bench.obedient = true;
            let epoch = bench.log.iter().rev().find_map(|effect| {
                if let Effect::Publish(row) = effect {
                    Some(row.epoch)
                } else {
                    None
                }
            });
            let ack = bench.ack(&GateId("g1".into()), &id("a"), epoch.expect("a barrier"));
            bench.event(ack);
        }
        _ => {}
    }
    assert_eq!(bench.phase("a"), phase);
    bench
}

/// The attempt that is under way for `a`, as the effects said it.
fn running(bench: &Bench) -> Attempt {
    let attempt = |effect: &Effect| {
        if let Effect::Start { model, attempt }
        | Effect::Wake { model, attempt, .. }
        | Effect::Sleep { model, attempt, .. } = effect
        {
            (*model == id("a")).then_some(*attempt)
        } else {
            None
        }
    };
    bench
        .log
        .iter()
        .rev()
        .find_map(attempt)
        .unwrap_or(Attempt(999))
}

fn events(bench: &mut Bench) -> Vec<(&'static str, Event)> {
    let attempt = running(bench);
    let model = id("a");
    let gate = GateId("g1".into());
    if !bench.gates.contains_key(&gate) {
        bench.hello("g1", 1);
    }
    let (stream, sequence) = bench.next(&gate);
    let report = |held, in_flight, refused| Event::Report {
        gate: gate.clone(),
        stream,
        sequence,
        table_version: 1,
        figures: vec![(
            id("a"),
            Figures {
                held,
                in_flight,
                last_refused_age: refused,
                ..Figures::default()
            },
        )],
    };
    let seen = |state| Event::Observed {
        model: id("a"),
        attempt: Attempt(998),
        observation: Observation {
            state,
            count: Some(0),
            memory: Memory::default(),
            tier: None,
        },
    };
    let done = Outcome::Done {
        took: 100,
        memory: Memory::default(),
    };
    let error = || {
        Outcome::Failed(ActionError {
            cause: "refused".into(),
            engine: EngineState::Asleep,
            no_room: false,
        })
    };
    let unknown = || Outcome::Unknown {
        cause: "time-out".into(),
    };
    vec![
        ("tick", Event::Tick),
        ("held", report(1, 0, None)),
        ("withdrawn", report(0, 0, None)),
        ("refused", report(0, 0, Some(0))),
        (
            "stream closed",
            Event::StreamClosed {
                gate: gate.clone(),
                stream,
            },
        ),
        (
            "bye",
            Event::Bye {
                gate,
                stream,
                sequence,
            },
        ),
        ("old look", seen(EngineState::Asleep)),
        (
            "started",
            Event::Started {
                model: model.clone(),
                attempt,
                outcome: done.clone(),
            },
        ),
        (
            "woke",
            Event::Woke {
                model: model.clone(),
                attempt,
                outcome: done.clone(),
            },
        ),
        (
            "wake failed",
            Event::Woke {
                model: model.clone(),
                attempt,
                outcome: error(),
            },
        ),
        (
            "wake unknown",
            Event::Woke {
                model: model.clone(),
                attempt,
                outcome: unknown(),
            },
        ),
        (
            "old wake",
            Event::Woke {
                model: model.clone(),
                attempt: Attempt(0),
                outcome: done.clone(),
            },
        ),
        (
            "slept",
            Event::Slept {
                model: model.clone(),
                attempt,
                outcome: done,
            },
        ),
        (
            "sleep failed",
            Event::Slept {
                model: model.clone(),
                attempt,
                outcome: Outcome::Failed(ActionError {
                    cause: "400".into(),
                    engine: EngineState::Awake,
                    no_room: false,
                }),
            },
        ),
        (
            "sleep unknown",
            Event::Slept {
                model: model.clone(),
                attempt,
                outcome: unknown(),
            },
        ),
        (
            "engine gone",
            Event::EngineGone {
                model: model.clone(),
                attempt: None,
                cause: "signal 9".into(),
            },
        ),
        ("removed", Event::ModelRemoved(model.clone())),
        (
            "operator wake",
            Event::Operator {
                model: model.clone(),
                verb: Operator::Wake,
            },
        ),
        (
            "operator sleep",
            Event::Operator {
                model: model.clone(),
                verb: Operator::Sleep,
            },
        ),
        (
            "disable",
            Event::Operator {
                model,
                verb: Operator::Disable,
            },
        ),
        ("deposed", Event::Deposed),
    ]
}

#[test]
fn every_phase_and_every_event() {
    let mut text = String::from("phase | event -> phase | effects\n");
    for phase in [
        "Booting", "Asleep", "Queued", "Waking", "Serving", "Draining", "Sleeping", "Failed",
        "Removed",
    ] {
        let count = events(&mut in_phase(phase)).len();
        for index in 0..count {
            let mut bench = in_phase(phase);
            let (name, event) = events(&mut bench).swap_remove(index);
            let effects = names(&bench.event(event));
            text.push_str(&format!(
                "{phase} | {name} -> {} | {}\n",
                bench.phase("a"),
                effects.join(", ")
            ));
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/table.snap");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, &text).expect("write the snapshot");
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "the table changed; look at the diff after UPDATE_SNAPSHOTS=1 cargo test -p greenthread-core"
    );
}
