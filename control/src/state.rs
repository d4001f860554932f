//! The state directory: who may use it, and the term of this life of control.
//!
//! Promises that at most one process holds it ([`StateDir::lock`], an exclusive `flock` kept until the process ends,
//! however it ends) and that a term, once given out, was on the disk before. Knows nothing of what else lies in it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// What can go wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process holds the lock.
    #[error(
        "{path} is in use by the process with pid {pid}: stop that one, or set another `state` folder"
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it.
        pid: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The term file holds something else than a number. Guessing one could repeat a term, so nobody does.
    #[error(
        "{path} should hold one number and holds {text:?}: restore it, or write a number larger than any term that was in use"
    )]
    Term {
        /// The term file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
}

/// A locked state directory. The lock is given back when the process ends.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    /// Only held: closing it gives the lock back.
    _lock: File,
}

impl StateDir {
    /// Makes the folder when it is missing and locks it, writing our pid into `lock`.
    ///
    /// # Errors
    /// [`StateError::Held`] when another process has it.
    pub fn lock(root: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(root).map_err(failed("create", root))?;
        let path = root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)
                    .map_err(failed("read", &path))?;
                return Err(StateError::Held {
                    path,
                    pid: pid.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        file.set_len(0).map_err(failed("write", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write", &path))?;
        Ok(Self {
            root: root.to_owned(),
            _lock: file,
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the next term: larger than every term taken before and than `above`. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be read or made durable; the caller must then not use any new term.
    pub fn next_term(&self, above: u64) -> Result<u64, StateError> {
        let path = self.root.join("term");
        let persisted = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| StateError::Term {
                path: path.clone(),
                text,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let term = above.max(persisted).saturating_add(1);
        write_durably(&path, format!("{term}\n").as_bytes())?;
        Ok(term)
    }
}

/// Replaces a file so that a crash at any moment leaves the old or the new content, and the new one is on the disk on return.
///
/// # Errors
/// When any step fails; the old content is then still in place.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_added_extension("new");
    let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
    file.write_all(content)
        .map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("sync", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("replace", path))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for each test, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("greenthread-state-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_second_holder_is_told_the_pid_of_the_first() {
        let folder = Folder::new("lock");
        let held = StateDir::lock(&folder.0).unwrap();
        let refused = StateDir::lock(&folder.0).unwrap_err();
        assert!(
            matches!(&refused, StateError::Held { pid, .. } if *pid == std::process::id().to_string()),
            "{refused}"
        );
        drop(held);
        StateDir::lock(&folder.0).unwrap();
    }

    #[test]
    fn terms_only_grow_over_lives_and_above_what_was_met() {
        let folder = Folder::new("term");
        let state = StateDir::lock(&folder.0).unwrap();
        assert_eq!(state.next_term(0).unwrap(), 1);
        assert_eq!(state.next_term(0).unwrap(), 2);
        assert_eq!(state.next_term(40).unwrap(), 41);
        drop(state);
        assert_eq!(StateDir::lock(&folder.0).unwrap().next_term(7).unwrap(), 42);
    }

    #[test]
    fn a_damaged_term_is_an_error_and_no_guess() {
        let folder = Folder::new("damaged");
        let state = StateDir::lock(&folder.0).unwrap();
        fs::write(folder.0.join("term"), "4x").unwrap();
        assert!(matches!(state.next_term(0), Err(StateError::Term { .. })));
    }
}
