//! Where things lie under `state/`, and how they are written.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What Envoy's CDS watches.
pub(super) fn clusters(state: &Path) -> PathBuf {
    state.join("envoy/cds.json")
}

/// Envoy's bootstrap.
pub(super) fn bootstrap(state: &Path) -> PathBuf {
    state.join("envoy/bootstrap.json")
}

/// The copy of the filter that Envoy loads: named by its digest, so that a rebuilt module cannot take its place unseen.
pub(super) fn module(state: &Path, sha256: &str) -> PathBuf {
    state.join(format!("envoy/filter-{sha256}.wasm"))
}

/// What Envoy says about itself.
pub(super) fn envoy_log(state: &Path) -> PathBuf {
    state.join("logs/envoy.log")
}

/// One JSON object per request.
pub(super) fn access_log(state: &Path) -> PathBuf {
    state.join("logs/access.log")
}

/// Held by the `up` that uses this folder.
pub(super) fn lock(state: &Path) -> PathBuf {
    state.join("up.lock")
}

/// Replaces a file as a whole; readers see the old content or the new one. Only the owner can read it: it may hold the token.
pub(super) fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = file.with_added_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    new.write_all(content)?;
    fs::rename(&temporary, file)
}
