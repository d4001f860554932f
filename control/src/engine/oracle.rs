//! Who knows how much GPU memory engines hold, and how much of a GPU is in use. An oracle only looks; what its figures mean is
//! decided elsewhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use greenthread_core::ids::{Bytes, GpuId};
use serde::Deserialize;

use super::proc::{self, Groups};

/// Where figures of memory come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oracle {
    /// Nobody measures GPUs: the declared figures stand in. Host RAM is measured by `/proc`.
    Declared,
    /// The simulated GPU: processes keep files `*.json` in this folder that say what they hold.
    Simulated {
        /// `<state>/gpu`.
        folder: PathBuf,
    },
}

/// What one process holds on one simulated GPU.
#[derive(Debug, Deserialize)]
struct Holding {
    pid: u32,
    start: u64,
    gpu: usize,
    bytes: u64,
    /// Host RAM of its sleeping copy, when it simulates that too.
    host: Option<u64>,
}

impl Oracle {
    /// GPU memory, by GPU, of the engine whose processes form `group`; `None` when this oracle cannot tell.
    pub fn held(&self, group: Option<u32>) -> Option<BTreeMap<GpuId, Bytes>> {
        match self {
            Self::Declared => None,
            Self::Simulated { folder } => {
                let group = group?;
                Some(by_gpu(living(folder, |owner| owner.group == group)))
            }
        }
    }

    /// All memory in use on each GPU that anybody uses, whoever does; `None` when this oracle cannot tell.
    pub fn in_use(&self) -> Option<BTreeMap<GpuId, Bytes>> {
        match self {
            Self::Declared => None,
            Self::Simulated { folder } => Some(by_gpu(living(folder, |_| true))),
        }
    }

    /// Host RAM of the engine whose processes form `group`: all that would be given back if they ended, libraries and checkpoints
    /// that the page cache keeps aside. `None` when nobody knows its processes.
    pub(super) fn host(&self, group: Option<u32>, groups: &Groups) -> Option<Bytes> {
        let group = group?;
        let simulated = match self {
            Self::Declared => None,
            Self::Simulated { folder } => living(folder, |owner| owner.group == group)
                .filter_map(|holding| holding.host)
                .reduce(u64::saturating_add),
        };
        let measured = || {
            groups
                .members(group)
                .into_iter()
                .map(proc::own_memory)
                .sum()
        };
        Some(Bytes(simulated.unwrap_or_else(measured)))
    }

    /// The word for where figures of GPU memory come from, kept beside them.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Simulated { .. } => "simulated",
        }
    }
}

/// Holdings of living processes. A dead one holds nothing, whatever its file says; its number may belong to another by now.
fn living(folder: &Path, counts: impl Fn(&proc::Process) -> bool) -> impl Iterator<Item = Holding> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "json"))
        .filter_map(|entry| fs::read(entry.path()).ok())
        .filter_map(|text| serde_json::from_slice::<Holding>(&text).ok())
        .filter(move |holding| {
            proc::look(holding.pid)
                .is_some_and(|owner| owner.start == holding.start && counts(&owner))
        })
}

fn by_gpu(holdings: impl Iterator<Item = Holding>) -> BTreeMap<GpuId, Bytes> {
    let mut sums = BTreeMap::new();
    for holding in holdings {
        let sum = sums.entry(GpuId(holding.gpu)).or_insert(Bytes(0));
        *sum = *sum + Bytes(holding.bytes);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An oracle, its folder, and a pen for holdings of this process (file, start after its own, GPU, bytes and the rest).
    fn simulated(name: &str) -> (Oracle, PathBuf, impl Fn(&str, u64, usize, &str)) {
        let folder = super::super::test_folder(name);
        let (pid, place) = (std::process::id(), folder.clone());
        let start = proc::look(pid).expect("this process lives").start;
        let write = move |file: &str, later: u64, gpu: usize, rest: &str| {
            let start = start + later;
            let text = format!(r#"{{"pid":{pid},"start":{start},"gpu":{gpu},"bytes":{rest}}}"#);
            fs::write(place.join(file), text).expect("write");
        };
        let oracle = Oracle::Simulated {
            folder: folder.clone(),
        };
        (oracle, folder, write)
    }

    fn bytes(figures: &[(usize, u64)]) -> Option<BTreeMap<GpuId, Bytes>> {
        Some(
            figures
                .iter()
                .map(|(gpu, bytes)| (GpuId(*gpu), Bytes(*bytes)))
                .collect(),
        )
    }

    #[test]
    fn counts_only_living_processes_of_the_group() {
        let (oracle, folder, write) = simulated("oracle");
        let group = proc::look(std::process::id()).expect("it lives").group;
        write("a.json", 0, 0, "70");
        write("b.json", 1, 0, "5"); // an earlier process with the same number
        write("c.json", 0, 1, "60");
        write("c-more.json", 0, 1, "3");
        write("d.tmp", 0, 0, "11");
        fs::write(folder.join("e.json"), "{").expect("write");
        assert_eq!(oracle.held(Some(group)), bytes(&[(0, 70), (1, 63)]));
        assert_eq!(oracle.held(Some(group + 1)), bytes(&[]));
        assert_eq!(oracle.held(None), None);
        assert_eq!(Oracle::Declared.held(Some(group)), None);
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn a_gpu_is_read_whoever_uses_it() {
        let (oracle, folder, write) = simulated("whole");
        assert_eq!(oracle.in_use(), bytes(&[]));
        let parent = std::os::unix::process::parent_id();
        let start = proc::look(parent).expect("it lives").start;
        let text = format!(r#"{{"pid":{parent},"start":{start},"gpu":1,"bytes":7}}"#);
        fs::write(folder.join("foreign.json"), text).expect("write");
        write("a.json", 0, 0, "70");
        write("b.json", 0, 1, "5");
        write("dead.json", 9, 1, "1000");
        assert_eq!(oracle.in_use(), bytes(&[(0, 70), (1, 12)]));
        assert_eq!(Oracle::Declared.in_use(), None);
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn host_memory_is_told_by_the_simulation_or_measured() {
        let (oracle, folder, write) = simulated("host");
        let me = proc::look(std::process::id()).expect("it lives").group;
        let groups = Groups::default();
        write("a.json", 0, 0, "70");
        for oracle in [&oracle, &Oracle::Declared] {
            let measured = oracle.host(Some(me), &groups).expect("processes");
            assert!(measured > Bytes(1 << 20), "{measured}");
            assert_eq!(oracle.host(None, &groups), None);
        }
        write("b.json", 0, 1, "70,\"host\":40");
        write("c.json", 0, 0, "1,\"host\":2");
        assert_eq!(oracle.host(Some(me), &groups), Some(Bytes(42)));
        fs::remove_dir_all(folder).expect("clean up");
    }
}
