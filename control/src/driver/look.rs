//! What the driver shows of itself: one overview, all of one moment.

use greenthread_core::{GpuView, HostView, ModelView, ids::Millis};

use super::{Driver, clock::START_OF_CLOCK};
use crate::overview::{self, Overview, Readiness, Sizes, Takes, Tally};

impl Driver {
    /// Everything, now.
    pub(super) fn overview(&self) -> Overview {
        let now = self.clock.now();
        let gateways = self.streams.gateways();
        let gates = self.core.gates();
        let mut models: Vec<overview::Model> = self
            .core
            .view()
            .into_iter()
            .filter_map(|view| self.model_overview(view, now))
            .collect();
        models.sort_by(|a, b| (&a.name, &a.row).cmp(&(&b.name, &b.row)));
        // A gate that is only waited for serves nobody any more.
        let attached = gates
            .iter()
            .filter(|(id, _)| gateways.contains_key(id))
            .map(|(_, version)| *version);
        Overview {
            term: self.streams.term(),
            uptime_ms: now.since(START_OF_CLOCK).0,
            readiness: Readiness::of(self.core.is_open(), attached, self.expected_gates),
            gpus: self.gpus(),
            hosts: self.hosts(),
            gates: gates
                .into_iter()
                .map(|(id, table_version)| overview::Gate {
                    gateway: gateways.get(&id).cloned().unwrap_or_default(),
                    attached: gateways.contains_key(&id),
                    id: id.0,
                    table_version,
                })
                .collect(),
            overflowed_streams: self.streams.overflowed(),
            decisions: self.journal.recorded(),
            tally: Tally::of(self.core.tally()),
            models,
        }
    }

    /// Every GPU, now.
    pub(super) fn gpus(&self) -> Vec<overview::Gpu> {
        let document = |view: GpuView| {
            let GpuView {
                gpu,
                capacity,
                reserved,
                used,
                foreign,
                accepting,
                stopped,
            } = view;
            overview::Gpu {
                gpu: gpu.0,
                reserved_bytes: reserved.0,
                capacity_bytes: capacity.0,
                used_bytes: used.map(|bytes| bytes.0),
                foreign_bytes: foreign.0,
                accepting,
                stopped,
                source: self.engines.memory_source().to_owned(),
            }
        };
        self.core.gpus().into_iter().map(document).collect()
    }

    fn hosts(&self) -> Vec<overview::Host> {
        let hosts = self.core.hosts().into_iter().enumerate();
        hosts
            .map(|(node, HostView { capacity, reserved })| overview::Host {
                node,
                reserved_bytes: reserved.0,
                capacity_bytes: capacity.0,
            })
            .collect()
    }

    fn model_overview(&self, view: ModelView, now: Millis) -> Option<overview::Model> {
        let model = self.table.model(&view.id)?;
        let totals = self.totals.of(&view.id);
        let (admission, refused_because) = overview::admission_words(view.admission);
        Some(overview::Model {
            name: model.name.clone(),
            row: view.id.0.clone(),
            current: self.table.named(&model.name) == Some(&view.id),
            served: model.served.clone(),
            prefixes: model.prefixes.clone(),
            engine: model.engine.address.to_string(),
            state: view.state.as_str().to_owned(),
            phase: view.phase.to_owned(),
            on_gpu: view.on_gpu,
            tier: overview::tier_word(view.tier).to_owned(),
            admission: admission.to_owned(),
            refused_because: refused_because.map(str::to_owned),
            boot_ready: view.boot_ready,
            barriered: view.barriered,
            in_flight: view.in_flight,
            held: view.held,
            frozen: view.frozen,
            gpus: model.spec.gpus.iter().map(|gpu| gpu.0).collect(),
            // The core's own spec has what was measured since.
            sizes: Sizes::of(self.core.spec(&view.id).unwrap_or(&model.spec)),
            takes: Takes::of(view.takes),
            reserved_bytes: view.reserved.0,
            since_ms: now.since(view.since).0,
            idle_ms: view.last_used.map(|last| now.since(last).0),
            unanswered: view.unanswered,
            estimated_wait_ms: self.core.expected_wait(now, &view.id).map(|wait| wait.0),
            last_error: view.last_error,
            in_the_way: view.in_the_way,
            outcomes: totals.requests.outcomes,
            wait_buckets: totals.requests.waits,
            transitions: overview::Transitions {
                wakes: totals.wakes.0,
                failed_wakes: totals.wakes.1,
                sleeps: totals.sleeps.0,
                failed_sleeps: totals.sleeps.1,
            },
            decisions: self.journal.of(&view.id),
        })
    }
}
