//! The filter modules that control serves, by their digest: the current one, and the one before it, which gateways may still fetch.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use axum::body::Bytes;
use sha2::{Digest, Sha256};

use crate::state::{StateError, write_durably};

/// Names the module file; without it the file beside the program is taken.
pub const MODULE_VARIABLE: &str = "GREENTHREAD_MODULE";
/// The module's name beside the program.
const MODULE_FILE: &str = "greenthread_filter.wasm";
/// Names the current digest among those in the folder.
const CURRENT: &str = "current";

/// What went wrong with the modules.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The file cannot be read.
    #[error(
        "cannot read the filter module {path}: build it with `make filter`, or name another one in {MODULE_VARIABLE}"
    )]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The copy in the state folder cannot be kept.
    #[error("cannot keep the filter module")]
    Keep(#[from] StateError),
}

/// Modules in memory, by lower-case hex digest.
#[derive(Clone, Debug, Default)]
pub struct Modules {
    current: Option<String>,
    by_digest: BTreeMap<String, Bytes>,
}

impl Modules {
    /// Reads the module from where the environment says or from beside the program, and keeps it and its predecessor in `state`/filter.
    ///
    /// # Errors
    /// When a named module cannot be read, or the folder cannot be written. No module at all is no error: Envoy may have the file.
    pub fn load(state: &Path) -> Result<Self, ModuleError> {
        let folder = state.join("filter");
        let Some(path) = module_path() else {
            return Ok(Self::kept(&folder));
        };
        let module = fs::read(&path).map_err(|source| ModuleError::Read { path, source })?;
        Self::keep(&folder, module)
    }

    /// Makes `module` the current one; the one that was current stays, older ones go.
    fn keep(folder: &Path, module: Vec<u8>) -> Result<Self, ModuleError> {
        fs::create_dir_all(folder).map_err(|source| StateError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        })?;
        let digest = hex(&Sha256::digest(&module));
        let mut kept = Self::kept(folder);
        if kept.current.as_ref() != Some(&digest) {
            for old in kept
                .by_digest
                .keys()
                .filter(|&old| Some(old) != kept.current.as_ref() && *old != digest)
            {
                // What stays behind costs space only.
                let _ = fs::remove_file(folder.join(file_name(old)));
            }
            write_durably(&folder.join(file_name(&digest)), &module)?;
            write_durably(&folder.join(CURRENT), digest.as_bytes())?;
            kept.by_digest
                .retain(|old, _| Some(old) == kept.current.as_ref());
        }
        kept.by_digest.insert(digest.clone(), module.into());
        kept.current = Some(digest);
        Ok(kept)
    }

    /// What an earlier life kept; files whose content is not what their name says are left out.
    fn kept(folder: &Path) -> Self {
        let mut by_digest = BTreeMap::new();
        for path in fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
        {
            let Ok(module) = fs::read(&path) else {
                continue;
            };
            let digest = hex(&Sha256::digest(&module));
            if path
                .file_name()
                .is_some_and(|name| name == file_name(&digest).as_str())
            {
                by_digest.insert(digest, module.into());
            }
        }
        let current = fs::read_to_string(folder.join(CURRENT))
            .ok()
            .filter(|digest| by_digest.contains_key(digest));
        Self { current, by_digest }
    }

    /// Digest of the current module.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// A module.
    pub fn get(&self, digest: &str) -> Option<Bytes> {
        self.by_digest.get(digest).cloned()
    }
}

fn module_path() -> Option<PathBuf> {
    if let Some(named) = env::var_os(MODULE_VARIABLE) {
        return Some(named.into());
    }
    let beside = env::current_exe().ok()?.with_file_name(MODULE_FILE);
    beside.exists().then_some(beside)
}

fn file_name(digest: &str) -> String {
    format!("{digest}.wasm")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_module_and_the_one_before_it_are_kept() {
        let folder = env::temp_dir().join(format!("greenthread-modules-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let digests: Vec<String> = [b"one", b"two", b"six"]
            .iter()
            .map(|module| hex(&Sha256::digest(module)))
            .collect();
        for module in [b"one", b"two", b"two", b"six"] {
            Modules::keep(&folder, module.to_vec()).unwrap();
        }
        let kept = Modules::kept(&folder);
        assert_eq!(kept.current(), Some(digests[2].as_str()));
        assert_eq!(kept.get(&digests[1]).as_deref(), Some(b"two".as_slice()));
        assert_eq!(kept.get(&digests[0]), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
