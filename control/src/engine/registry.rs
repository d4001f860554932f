//! `state/engines.json`: which engine processes control started. Written before an engine is used, so that the next
//! life of control finds what this one leaves behind, and the supervisor can end it when control is dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{proc, vllm::Depth};

/// Variable that marks every process of an engine: `<state folder>#<row id>`.
pub const MARK: &str = "GREENTHREAD_ENGINE";

/// How long an engine may take to end by itself.
pub const PATIENCE: Duration = Duration::from_secs(5);

const FILE: &str = "engines.json";

/// One engine process that control started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, which is also the number of its group.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub start: u64,
    /// The boot that `start` counts from.
    pub boot: String,
    /// Hash of its command and environment.
    pub command: String,
    /// Where it listens.
    pub port: u16,
    /// How deep it was last told to sleep.
    #[serde(default)]
    pub depth: Option<Depth>,
    /// Host RAM of its processes before the first sleep, in bytes: what is more since is for its sleeping copy.
    #[serde(default)]
    pub host_before: Option<u64>,
}

impl Record {
    /// Whether the recorded process still runs: the same number alone can be another process by now.
    pub fn lives(&self) -> bool {
        self.boot == proc::boot()
            && proc::look(self.pid).is_some_and(|process| process.start == self.start)
    }

    /// Whether the recorded process still runs, or has died and left workers behind. `is_ours`: the variable that marks them.
    fn has_processes(&self, is_ours: impl Fn(&[u8]) -> bool) -> bool {
        self.lives() || (self.boot == proc::boot() && proc::is_left_behind(self.pid, is_ours))
    }
}

/// The records of one state folder, by row id. The file follows every change at once.
#[derive(Debug)]
pub struct Registry {
    state: PathBuf,
    records: Mutex<BTreeMap<String, Record>>,
}

impl Registry {
    /// Reads the records under `state`; an unreadable file counts as empty, since marks find processes without it.
    pub fn load(state: &Path) -> Self {
        // The folder has to be there before its name is resolved for marks; who cannot write to it hears so from `put`.
        let _ = fs::create_dir_all(state);
        Self {
            state: state.to_owned(),
            records: Mutex::new(read(state)),
        }
    }

    /// The record of a model.
    pub fn get(&self, id: &str) -> Option<Record> {
        self.lock().get(id).cloned()
    }

    /// Every record, by row id.
    pub fn all(&self) -> BTreeMap<String, Record> {
        self.lock().clone()
    }

    /// Keeps a record; on disk when this returns.
    pub fn put(&self, id: &str, record: Record) -> io::Result<()> {
        let mut records = self.lock();
        records.insert(id.to_owned(), record);
        self.write(&records)
    }

    /// Notes something about a process; on disk when this returns. Nothing happens when it is not recorded any more.
    pub fn note(&self, id: &str, pid: u32, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let mut records = self.lock();
        let Some(record) = records.get_mut(id).filter(|record| record.pid == pid) else {
            return Ok(());
        };
        let before = record.clone();
        change(record);
        if *record == before {
            return Ok(());
        }
        self.write(&records)
    }

    /// Forgets the record of this process; the record of a later one stays.
    pub fn remove(&self, id: &str, pid: u32) -> io::Result<()> {
        let mut records = self.lock();
        if records.get(id).is_none_or(|record| record.pid != pid) {
            return Ok(());
        }
        records.remove(id);
        self.write(&records)
    }

    /// The mark of a model's processes, as it stands in their environment.
    pub fn mark(&self, id: &str) -> String {
        format!("{}{id}", prefix(&self.state))
    }

    /// Groups of all living processes of a model: the recorded one, and any that carry its mark.
    pub fn groups(&self, id: &str) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.mark(id));
        let is_ours = |variable: &[u8]| variable == mark.as_bytes();
        let mut groups = proc::marked_groups(is_ours);
        let recorded = self.get(id).filter(|record| record.has_processes(is_ours));
        groups.extend(recorded.map(|record| record.pid));
        groups
    }

    fn write(&self, records: &BTreeMap<String, Record>) -> io::Result<()> {
        write_whole(&self.state.join(FILE), &serde_json::to_vec_pretty(records)?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends every engine that a control with this state folder started, and returns when they are gone. For the supervisor,
/// once control itself is dead: needs no runtime. Takes up to twice [`PATIENCE`].
pub fn end_all(state: &Path) {
    let mark = format!("{MARK}={}", prefix(state));
    let is_ours = |variable: &[u8]| variable.starts_with(mark.as_bytes());
    let recorded = read(state)
        .into_values()
        .filter(|record| record.has_processes(is_ours))
        .map(|record| record.pid);
    let marked = proc::marked_groups(is_ours);
    let groups: BTreeSet<u32> = recorded.chain(marked).collect();
    proc::end_groups(&groups.into_iter().collect::<Vec<_>>(), PATIENCE);
}

/// Replaces a file as a whole: after a crash it has the old content or the new one, never a part.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}

fn read(state: &Path) -> BTreeMap<String, Record> {
    fs::read(state.join(FILE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// The same folder has the same mark however it was written on the command line.
fn prefix(state: &Path) -> String {
    let whole = fs::canonicalize(state)
        .or_else(|_| std::path::absolute(state))
        .unwrap_or_else(|_| state.to_owned());
    format!("{}#", whole.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32) -> Record {
        let start = proc::look(pid).map_or(1, |process| process.start);
        Record {
            pid,
            start,
            boot: proc::boot(),
            command: "c".into(),
            port: 1,
            depth: None,
            host_before: None,
        }
    }

    #[test]
    fn survives_a_restart_of_control() {
        let state = super::super::test_folder("registry");
        let registry = Registry::load(&state);
        registry.put("a.1", record(1)).expect("write");
        registry.put("b.2", record(2)).expect("write");
        registry.remove("a.1", 1).expect("write");
        registry.remove("b.2", 1).expect("another process");
        let deep = |record: &mut Record| record.depth = Some(Depth::Disk);
        registry.note("b.2", 2, deep).expect("write");
        registry
            .note("b.2", 1, |record| record.port = 9)
            .expect("another process");
        let again = Registry::load(&state);
        let mut kept = record(2);
        deep(&mut kept);
        assert_eq!(again.all(), BTreeMap::from([("b.2".into(), kept)]));
        // As an earlier version wrote it.
        let old = r#"{"a.1":{"pid":1,"start":2,"boot":"b","command":"c","port":3}}"#;
        fs::write(state.join(FILE), old).expect("write");
        assert_eq!(
            Registry::load(&state).get("a.1").map(|record| record.depth),
            Some(None)
        );
        fs::write(state.join(FILE), "{ half").expect("write");
        assert!(Registry::load(&state).all().is_empty());
        fs::remove_dir_all(state).expect("clean up");
    }

    /// A worker whose server is dead: its record, once the server has ended.
    fn orphan(registry: &Registry, id: &str, worker: &str) -> Record {
        use std::os::unix::process::CommandExt;
        let mut server = std::process::Command::new("sh")
            .args(["-c", &format!("{worker} & read line")])
            .env(MARK, registry.mark(id))
            .stdin(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let record = record(server.id());
        while proc::members(record.pid).len() < 2 {
            std::thread::yield_now();
        }
        drop(server.stdin.take());
        server.wait().expect("it ends");
        record
    }

    #[test]
    fn workers_without_their_server_are_found() {
        let state = super::super::test_folder("orphans");
        let registry = Registry::load(&state);
        let check = |worker, is_found| {
            let record = orphan(&registry, "a.1", worker);
            registry.put("a.1", record.clone()).expect("write");
            assert_eq!(registry.groups("a.1").contains(&record.pid), is_found);
            proc::signal(record.pid, rustix::process::Signal::KILL);
        };
        check("exec sleep 60", true);
        check("exec env -i sleep 60", true);
        check("exec env -i ANOTHER=1 sleep 60", false);
        fs::remove_dir_all(state).expect("clean up");
    }

    #[test]
    fn lives_needs_the_same_start_and_boot() {
        let me = record(std::process::id());
        assert!(me.lives());
        assert!(
            !Record {
                start: me.start + 1,
                ..me.clone()
            }
            .lives()
        );
        assert!(
            !Record {
                boot: "another".into(),
                ..me
            }
            .lives()
        );
    }
}
