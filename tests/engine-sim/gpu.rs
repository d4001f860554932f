//! The simulated GPUs: a folder with one file per process and GPU that says how much memory it holds. All processes of a machine that
//! are given the same folder share its GPUs. A reservation is made under an exclusive lock, so two that do not fit together never both succeed.
//! Files of processes that are gone do not count, whatever they say.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// What one process holds on one GPU; the content of `<folder>/<pid>-<gpu>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holding {
    pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: tells a process from a later one with the same id.
    start: u64,
    gpu: u32,
    bytes: u64,
    /// Host RAM that its copy of the weights takes.
    #[serde(default)]
    host: u64,
}

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GpuError {
    /// Like the CUDA error of the same name.
    #[error(
        "CUDA out of memory. Tried to allocate {asked} bytes. GPU {gpu} has a total capacity of {capacity} bytes of which {free} bytes are free."
    )]
    OutOfMemory {
        /// Bytes that this process would have held.
        asked: u64,
        /// Which GPU.
        gpu: u32,
        /// Its size in bytes.
        capacity: u64,
        /// What others leave of it.
        free: u64,
    },
    /// The folder cannot be used.
    #[error("simulated GPU in {folder}")]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// This process's share of some simulated GPUs, the same on each. Dropping it frees nothing: a crashed process doesn't either.
#[derive(Debug)]
pub(crate) struct Gpus {
    folder: PathBuf,
    gpus: Vec<u32>,
    capacity: u64,
    pid: u32,
    start: u64,
}

impl Gpus {
    /// A share of these GPUs of `capacity` bytes each in `folder`, which is made if need be. Holds nothing yet.
    pub(crate) fn open(folder: &Path, gpus: &[u32], capacity: u64) -> Result<Self, GpuError> {
        let failed = |source| GpuError::Folder {
            folder: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let pid = std::process::id();
        let start = start_time(pid)
            .ok_or_else(|| failed(io::Error::other("/proc/self/stat cannot be read")))?;
        Ok(Self {
            folder: folder.to_owned(),
            gpus: gpus.to_vec(),
            capacity,
            pid,
            start,
        })
    }

    /// Holds exactly `bytes` on each GPU from now on, and tells of `host` bytes of host RAM for each. More than fits on one of them is an
    /// error and changes nothing.
    pub(crate) fn hold(&self, bytes: u64, host: u64) -> Result<(), GpuError> {
        let _lock = self.lock().map_err(|source| self.failed(source))?;
        for gpu in &self.gpus {
            let others = self
                .held_by_others(*gpu)
                .map_err(|source| self.failed(source))?;
            let free = self.capacity.saturating_sub(others);
            if bytes > free {
                return Err(GpuError::OutOfMemory {
                    asked: bytes,
                    gpu: *gpu,
                    capacity: self.capacity,
                    free,
                });
            }
        }
        for gpu in &self.gpus {
            self.write(*gpu, bytes, host)
                .map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    /// Holds nothing and leaves no file behind.
    pub(crate) fn release(&self) {
        for gpu in &self.gpus {
            // A file that cannot be removed is harmless: its process is about to be gone.
            let _ = fs::remove_file(self.file(self.pid, *gpu));
        }
    }

    fn failed(&self, source: io::Error) -> GpuError {
        GpuError::Folder {
            folder: self.folder.clone(),
            source,
        }
    }

    fn file(&self, pid: u32, gpu: u32) -> PathBuf {
        self.folder.join(format!("{pid}-{gpu}.json"))
    }

    fn lock(&self) -> io::Result<File> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.folder.join("lock"))?;
        file.lock()?;
        Ok(file)
    }

    fn held_by_others(&self, gpu: u32) -> io::Result<u64> {
        let mut bytes = 0_u64;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let is_holding = path
                .extension()
                .is_some_and(|extension| extension == "json");
            if !is_holding {
                continue;
            }
            let Some(holding) = fs::read(&path)
                .ok()
                .and_then(|text| serde_json::from_slice::<Holding>(&text).ok())
            else {
                continue;
            };
            let alive = start_time(holding.pid) == Some(holding.start);
            if alive && holding.gpu == gpu && holding.pid != self.pid {
                bytes = bytes.saturating_add(holding.bytes);
            }
        }
        Ok(bytes)
    }

    /// By a rename, so that a reader never sees half a file.
    fn write(&self, gpu: u32, bytes: u64, host: u64) -> io::Result<()> {
        let holding = Holding {
            pid: self.pid,
            start: self.start,
            gpu,
            bytes,
            host,
        };
        let temporary = self.folder.join(format!("{}-{gpu}.json.new", self.pid));
        fs::write(&temporary, serde_json::to_vec(&holding)?)?;
        fs::rename(temporary, self.file(self.pid, gpu))
    }
}

/// When a process started, in clock ticks since boot; `None` if there is no such process, or only its exit status waits to be read: a
/// driver takes memory back before that.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold spaces and brackets itself: count from the last bracket.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    (!ended).then(|| fields.nth(18)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("engine-sim-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let folder = folder("fit");
        let gpu = Gpus::open(&folder, &[0], 100).unwrap();
        gpu.hold(60, 0).unwrap();
        let error = gpu.hold(101, 0).unwrap_err();
        assert!(
            matches!(
                error,
                GpuError::OutOfMemory {
                    asked: 101,
                    free: 100,
                    ..
                }
            ),
            "{error}"
        );
        let held: Holding =
            serde_json::from_slice(&fs::read(gpu.file(gpu.pid, 0)).unwrap()).unwrap();
        assert_eq!(held.bytes, 60);
        gpu.release();
        assert!(!gpu.file(gpu.pid, 0).exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_living_count_and_the_dead_do_not() {
        let folder = folder("dead");
        let gpu = Gpus::open(&folder, &[0], 100).unwrap();
        let parent = std::os::unix::process::parent_id();
        let start = start_time(parent).unwrap();
        let put = |holding: &Holding| {
            fs::write(
                gpu.file(holding.pid, holding.gpu),
                serde_json::to_vec(holding).unwrap(),
            )
            .unwrap()
        };
        put(&Holding {
            pid: parent,
            start,
            gpu: 0,
            bytes: 70,
            host: 0,
        });
        assert!(gpu.hold(31, 0).is_err());
        gpu.hold(30, 0).unwrap();
        let mut zombie = std::process::Command::new("true").spawn().unwrap();
        let stat = format!("/proc/{}/stat", zombie.id());
        while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(start_time(zombie.id()), None);
        zombie.wait().unwrap();
        // The same id with another start time is another process; another GPU is another GPU.
        put(&Holding {
            pid: parent,
            start: start + 1,
            gpu: 0,
            bytes: 70,
            host: 0,
        });
        gpu.hold(100, 0).unwrap();
        put(&Holding {
            pid: parent,
            start,
            gpu: 1,
            bytes: 70,
            host: 0,
        });
        gpu.hold(100, 0).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn on_several_gpus_all_or_nothing_is_held() {
        let folder = folder("several");
        let both = Gpus::open(&folder, &[0, 1], 100).unwrap();
        both.hold(60, 40).unwrap();
        let read = |gpu| -> Holding {
            serde_json::from_slice(&fs::read(both.file(both.pid, gpu)).unwrap()).unwrap()
        };
        assert_eq!((read(0).bytes, read(1).bytes, read(1).host), (60, 60, 40));
        let parent = std::os::unix::process::parent_id();
        // Without a word about host RAM, as a test's own file may be.
        let foreign = format!(
            r#"{{"pid":{parent},"start":{},"gpu":1,"bytes":50}}"#,
            start_time(parent).unwrap()
        );
        fs::write(folder.join("foreign.json"), foreign).unwrap();
        assert!(matches!(
            both.hold(51, 0),
            Err(GpuError::OutOfMemory {
                gpu: 1,
                free: 50,
                ..
            })
        ));
        assert_eq!((read(0).bytes, read(1).bytes), (60, 60));
        both.release();
        assert!(!both.file(both.pid, 0).exists() && !both.file(both.pid, 1).exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
