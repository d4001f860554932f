//! Who knows how much GPU memory an engine holds. An oracle only looks; what its figures mean is decided elsewhere.

use std::{fs, path::PathBuf};

use greenthread_core::ids::Bytes;
use serde::Deserialize;

use super::proc;

/// Where figures of GPU memory come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oracle {
    /// Nobody measures: the declared figures stand in.
    Declared,
    /// The simulated GPU: each engine process keeps a file `<pid>.json` in this folder.
    Simulated {
        /// `<state>/gpu`.
        folder: PathBuf,
    },
}

/// What one process holds on the simulated GPU.
#[derive(Debug, Deserialize)]
struct Holding {
    pid: u32,
    start: u64,
    bytes: u64,
}

impl Oracle {
    /// GPU memory of the engine whose processes form `group`; `None` when this oracle cannot tell.
    pub fn memory(&self, group: Option<u32>) -> Option<Bytes> {
        match self {
            Self::Declared => None,
            Self::Simulated { folder } => {
                let group = group?;
                let holdings = fs::read_dir(folder).into_iter().flatten().flatten();
                let bytes = holdings
                    .filter(|entry| entry.path().extension().is_some_and(|end| end == "json"))
                    .filter_map(|entry| fs::read(entry.path()).ok())
                    .filter_map(|text| serde_json::from_slice::<Holding>(&text).ok())
                    .filter(|holding| of_group(holding, group))
                    .map(|holding| Bytes(holding.bytes));
                Some(bytes.sum())
            }
        }
    }

    /// The word for where figures come from, kept beside them.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Simulated { .. } => "simulated",
        }
    }
}

/// A dead process holds nothing, whatever its file says; its number may belong to another one by now.
fn of_group(holding: &Holding, group: u32) -> bool {
    proc::look(holding.pid)
        .is_some_and(|process| process.start == holding.start && process.group == group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_only_living_processes_of_the_group() {
        let folder = super::super::test_folder("oracle");
        let me = proc::look(std::process::id()).expect("this process lives");
        let write = |name: &str, pid: u32, start: u64, bytes: u64| {
            let text = format!(r#"{{"pid":{pid},"start":{start},"gpu":0,"bytes":{bytes}}}"#);
            fs::write(folder.join(name), text).expect("write");
        };
        write("a.json", std::process::id(), me.start, 70);
        write("b.json", std::process::id(), me.start + 1, 5); // an earlier process with the same number
        write("c.json", 1, me.start, 9);
        write("d.tmp", std::process::id(), me.start, 11);
        fs::write(folder.join("e.json"), "{").expect("write");
        let oracle = Oracle::Simulated {
            folder: folder.clone(),
        };
        assert_eq!(oracle.memory(Some(me.group)), Some(Bytes(70)));
        assert_eq!(oracle.memory(Some(me.group + 1)), Some(Bytes(0)));
        assert_eq!(oracle.memory(None), None);
        assert_eq!(Oracle::Declared.memory(Some(me.group)), None);
        fs::remove_dir_all(folder).expect("clean up");
    }
}
