//! Memory of GPUs and hosts.

use super::Page;
use crate::overview::{Gpu, Host};

/// One figure of a GPU; `None`: nobody knows.
type Figure = (&'static str, &'static str, fn(&Gpu) -> Option<u64>);
const FIGURES: [Figure; 5] = [
    (
        "gpu_capacity_bytes",
        "GPU memory that models may use.",
        |gpu| Some(gpu.capacity_bytes),
    ),
    (
        "gpu_reserved_bytes",
        "GPU memory reserved by models.",
        |gpu| Some(gpu.reserved_bytes),
    ),
    (
        "gpu_used_bytes",
        "GPU memory in use by anybody, as seen last; absent when nobody measures.",
        |gpu| gpu.used_bytes,
    ),
    (
        "gpu_foreign_bytes",
        "GPU memory that an operator accepted as somebody else's.",
        |gpu| Some(gpu.foreign_bytes),
    ),
    (
        "gpu_stopped",
        "1 while nothing wakes or goes to sleep on the GPU: more, or less, is in use than models hold.",
        |gpu| Some(u64::from(gpu.stopped.is_some())),
    ),
];

/// Every GPU.
pub(super) fn gpus(page: &mut Page, gpus: &[Gpu]) {
    page.family(
        "gpu_info",
        "gauge",
        "Where figures of memory come from: simulated, or declared when nobody measures.",
    );
    for gpu in gpus {
        let labels = [("gpu", &*gpu.gpu.to_string()), ("source", &gpu.source)];
        page.sample("gpu_info", &labels, 1);
    }
    for (name, help, figure) in FIGURES {
        page.family(name, "gauge", help);
        for gpu in gpus {
            if let Some(value) = figure(gpu) {
                page.sample(name, &[("gpu", &gpu.gpu.to_string())], value);
            }
        }
    }
}

/// Host RAM of every node that is limited.
pub(super) fn hosts(page: &mut Page, hosts: &[Host]) {
    page.family(
        "host_capacity_bytes",
        "gauge",
        "Host RAM that sleeping copies may take, by NUMA node.",
    );
    for host in hosts {
        let labels = [("node", &*host.node.to_string())];
        page.sample("host_capacity_bytes", &labels, host.capacity_bytes);
    }
    page.family(
        "host_reserved_bytes",
        "gauge",
        "Host RAM that sleeping copies take, by NUMA node.",
    );
    for host in hosts {
        let labels = [("node", &*host.node.to_string())];
        page.sample("host_reserved_bytes", &labels, host.reserved_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_has_its_figures_and_what_nobody_measures_is_absent() {
        let measured = Gpu {
            gpu: 0,
            reserved_bytes: 17,
            capacity_bytes: 40,
            used_bytes: Some(30),
            foreign_bytes: 2,
            accepting: false,
            stopped: Some("11 more are in use than models hold".into()),
            source: "simulated".into(),
        };
        let declared = Gpu {
            gpu: 1,
            used_bytes: None,
            stopped: None,
            source: "declared".into(),
            ..measured.clone()
        };
        let mut page = Page::default();
        gpus(&mut page, &[measured, declared]);
        let samples: Vec<&str> = page
            .text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        let expected = [
            "greenthread_gpu_info{gpu=\"0\",source=\"simulated\"} 1",
            "greenthread_gpu_info{gpu=\"1\",source=\"declared\"} 1",
            "greenthread_gpu_capacity_bytes{gpu=\"0\"} 40",
            "greenthread_gpu_capacity_bytes{gpu=\"1\"} 40",
            "greenthread_gpu_reserved_bytes{gpu=\"0\"} 17",
            "greenthread_gpu_reserved_bytes{gpu=\"1\"} 17",
            "greenthread_gpu_used_bytes{gpu=\"0\"} 30",
            "greenthread_gpu_foreign_bytes{gpu=\"0\"} 2",
            "greenthread_gpu_foreign_bytes{gpu=\"1\"} 2",
            "greenthread_gpu_stopped{gpu=\"0\"} 1",
            "greenthread_gpu_stopped{gpu=\"1\"} 0",
        ];
        assert_eq!(samples, expected);
    }

    #[test]
    fn host_ram_is_by_node() {
        let mut page = Page::default();
        hosts(
            &mut page,
            &[Host {
                node: 1,
                reserved_bytes: 16,
                capacity_bytes: 64,
            }],
        );
        for line in [
            "greenthread_host_capacity_bytes{node=\"1\"} 64",
            "greenthread_host_reserved_bytes{node=\"1\"} 16",
        ] {
            assert!(
                page.text.lines().any(|found| found == line),
                "{}",
                page.text
            );
        }
    }
}
