//! Values for the tests of this crate.

use std::{collections::BTreeMap, time::Duration};

use greenthread_core::{
    ids::{Bytes, GpuId, Millis, ModelId},
    model::{Caps, Durations, ModelSpec, OnDrainTimeout, OnLeaseEnd, Sizes},
};

use crate::{
    config::{EngineKind, EngineSpec, Hold, Model},
    overview,
};

/// Ordinary hold limits.
pub(crate) fn hold() -> Hold {
    Hold {
        limit: 100,
        per_model: 50,
        bytes: 1 << 20,
        body_buffer: 1 << 16,
        budget: Duration::from_secs(120),
    }
}

/// An attached vLLM at `address`, with one prefix: its name.
pub(crate) fn model(name: &str, address: &str) -> Model {
    let spec = ModelSpec {
        id: ModelId(format!("{name}.{}", address.replace([':', '.'], "-"))),
        gpus: vec![GpuId(0)],
        awake: Bytes::gib(16),
        asleep: Bytes::gib(1),
        conditioned: true,
        sizes: Sizes::default(),
        pinned: false,
        tier: None,
        popular: false,
        idle_timeout: None,
        drain_timeout: Millis::seconds(30),
        on_drain_timeout: OnDrainTimeout::Freeze,
        max_freeze: Millis::seconds(120),
        min_runtime: Millis::seconds(10),
        max_wait: Millis::seconds(5),
        on_lease_end: OnLeaseEnd::Hold,
        caps: Caps {
            counts: true,
            lossless: true,
            restartable: false,
            disk: false,
        },
        guess: Durations {
            start: Millis::seconds(5),
            wake: Millis(600),
            sleep: Millis(90),
            reload: Millis(2_000),
        },
    };
    Model {
        name: name.to_owned(),
        served: format!("served/{name}"),
        prefixes: vec![name.to_owned()],
        engine: EngineSpec {
            kind: EngineKind::Vllm,
            address: address.parse().expect("an address"),
            command: None,
            env: BTreeMap::new(),
        },
        expose: Vec::new(),
        max_model_len: Some(131_072),
        on_lease_end: None,
        spec,
        cluster: format!("gt-{name}"),
    }
}

/// A model that serves and about which nothing was decided.
pub(crate) fn model_overview(name: &str) -> overview::Model {
    overview::Model {
        name: name.to_owned(),
        row: format!("{name}.1"),
        current: true,
        served: format!("served/{name}"),
        prefixes: vec![name.to_owned()],
        engine: "127.0.0.1:9001".to_owned(),
        state: "serving".to_owned(),
        phase: "Serving".to_owned(),
        on_gpu: true,
        tier: "ram".to_owned(),
        admission: "admit".to_owned(),
        refused_because: None,
        boot_ready: true,
        barriered: false,
        in_flight: 0,
        held: 0,
        frozen: 0,
        gpus: vec![0],
        sizes: overview::Sizes::default(),
        takes: overview::Takes::default(),
        reserved_bytes: 16 << 30,
        since_ms: 41_000,
        idle_ms: None,
        unanswered: None,
        estimated_wait_ms: None,
        last_error: None,
        in_the_way: Vec::new(),
        outcomes: BTreeMap::new(),
        wait_buckets: Vec::new(),
        transitions: overview::Transitions::default(),
        decisions: Vec::new(),
    }
}
