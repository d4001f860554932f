//! A gate without a table: what it knows from other gates, and what it does meanwhile.

use std::rc::Rc;

use crate::world::{Seen, World, admit, answered, forwarded, llama, model};

#[test]
fn before_any_table_every_path_waits_for_at_most_two_seconds() {
    let mut world = World::new();
    let (ours, _) = world.post("/llama/x");
    let (unknown, _) = world.request("GET", "/other");
    let (document, seen) = world.request("GET", "/llama/status");
    assert_eq!(seen, Seen::Held);
    world.run(1_000);
    world.snapshot(vec![llama(admit())]);
    world.run(10);
    assert_eq!(world.ended.get(&unknown), Some(&Seen::Pass));
    assert_eq!(
        world.ended.get(&document),
        Some(&Seen::Answered(200, "{\"inFlight\":0}".to_owned()))
    );
    assert_eq!(world.ended.get(&ours), None, "no lease yet");
    world.heartbeat();
    world.run(10);
    assert_eq!(world.ended.get(&ours), Some(&forwarded("/x")));
}

#[test]
fn without_control_unknown_paths_pass_after_two_seconds() {
    let mut world = World::new();
    let (id, seen) = world.post("/llama/x");
    assert_eq!(seen, Seen::Held);
    world.run(1_990);
    assert!(world.ended.is_empty());
    world.run(20);
    assert_eq!(world.ended.get(&id), Some(&Seen::Pass));
    assert_eq!(world.post("/llama/x").1, Seen::Pass);
}

#[test]
fn a_new_gate_knows_the_prefixes_of_an_older_one() {
    let shared = Rc::default();
    let config = r#"{"control": {"cluster": "ctl"}}"#;
    let mut old = World::with(config, "gate-1", Rc::clone(&shared));
    old.tick();
    old.snapshot(vec![llama(admit())]);
    old.delta(vec![model("qwen", admit())]);
    let mut new = World::with(config, "gate-2", shared);
    assert_eq!(new.post("/llama/x").1, Seen::Held);
    assert_eq!(new.post("/qwen/x").1, Seen::Held);
    assert_eq!(new.post("/other/x").1, Seen::Pass);
    assert_eq!(new.post("/llama/sleep").1, answered(403, "control_path"));
    new.tick();
    new.snapshot(vec![llama(admit()), model("qwen", admit())]);
    new.heartbeat();
    new.run(10);
    assert_eq!(
        new.ended.get(&1),
        Some(&forwarded("/x")),
        "the smallest epoch gives way to any other"
    );
}

#[test]
fn shared_data_that_makes_no_sense_is_no_table() {
    let shared: crate::world::SharedData = Rc::default();
    shared
        .borrow_mut()
        .insert("greenthread.table".to_owned(), vec![0xff; 40]);
    shared
        .borrow_mut()
        .insert("greenthread.gates".to_owned(), vec![0xff, b'\n', b'x']);
    let mut world = World::with(r#"{"control": {"cluster": "ctl"}}"#, "gate-1", shared);
    assert_eq!(world.post("/llama/x").1, Seen::Held);
    world.run(3_000);
    assert_eq!(world.ended.get(&1), Some(&Seen::Pass));
}
