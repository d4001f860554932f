//! What must be true before anything is started: programs found, addresses free, nobody else in the state folder.

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

use super::files;
use crate::config::Fleet;

/// Oldest Envoy that works: before it, filters went on with requests that were reset already.
const OLDEST_ENVOY: (u32, u32) = (1, 38);

/// Why `up` does not start.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No Envoy for this system.
    #[error(
        "`up` needs Linux: there is no Envoy program for {system}; use a Linux machine, a virtual machine or WSL2"
    )]
    System {
        /// This one.
        system: &'static str,
    },
    /// Another process has the state folder.
    #[error("{} is in use by the process with pid {pid}: stop that one, or set another `state` folder", folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// Who.
        pid: String,
    },
    /// An address is taken.
    #[error(
        "{address} cannot be listened on: {cause}; stop what uses it, or set {field} in the file, or {variable}"
    )]
    Address {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
        /// Field of the file.
        field: &'static str,
        /// Environment variable.
        variable: &'static str,
    },
    /// No Envoy.
    #[error("there is no Envoy {what}; `make envoy` fetches one, or name its program in ENVOY")]
    NoEnvoy {
        /// Where it was looked for.
        what: String,
    },
    /// Not new enough.
    #[error("{} is Envoy {version}, and 1.38 or newer is needed; name another one in ENVOY", program.display())]
    OldEnvoy {
        /// The program.
        program: PathBuf,
        /// What it says.
        version: String,
    },
    /// No filter.
    #[error("there is no filter module at {}; build it with `make filter`, or name it in GREENTHREAD_MODULE", module.display())]
    NoModule {
        /// Where it was looked for.
        module: PathBuf,
    },
    /// A file under the state folder.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) envoy: PathBuf,
    pub(super) module: PathBuf,
    pub(super) module_sha256: String,
    /// Held for life: the folder is ours.
    _lock: File,
}

/// Looks at everything, and takes the folder.
pub(super) fn all(fleet: &Fleet) -> Result<Found, CheckError> {
    if env::consts::OS != "linux" {
        return Err(CheckError::System {
            system: env::consts::OS,
        });
    }
    let lock = take(&fleet.state)?;
    addresses(fleet)?;
    let envoy = envoy()?;
    let (module, module_sha256) = module(&fleet.state)?;
    Ok(Found {
        envoy,
        module,
        module_sha256,
        _lock: lock,
    })
}

/// Locks the folder against a second `up`, and makes sure that no `serve` runs in it.
fn take(state: &Path) -> Result<File, CheckError> {
    fs::create_dir_all(state).map_err(|source| CheckError::File {
        path: state.to_owned(),
        source,
    })?;
    let mut ours = lock(state, &files::lock(state))?;
    drop(lock(state, &state.join("lock"))?);
    let path = files::lock(state);
    let written = ours
        .set_len(0)
        .and_then(|()| writeln!(ours, "{}", std::process::id()));
    written.map_err(|source| CheckError::File { path, source })?;
    Ok(ours)
}

fn lock(folder: &Path, path: &Path) -> Result<File, CheckError> {
    let failed = |source| CheckError::File {
        path: path.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            Err(CheckError::Held {
                folder: folder.to_owned(),
                pid: pid.trim().to_owned(),
            })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn addresses(fleet: &Fleet) -> Result<(), CheckError> {
    let ours = [
        (
            fleet.gateway.address,
            "gateway.address",
            "GREENTHREAD_GATEWAY_ADDRESS",
        ),
        (
            fleet.gateway.admin,
            "gateway.admin",
            "GREENTHREAD_GATEWAY_ADMIN",
        ),
        (
            fleet.control.grpc,
            "control.grpc",
            "GREENTHREAD_CONTROL_GRPC",
        ),
        (
            fleet.control.http,
            "control.http",
            "GREENTHREAD_CONTROL_HTTP",
        ),
    ];
    for (address, field, variable) in ours {
        // Envoy itself would share the port with another Envoy and take half of its connections.
        TcpListener::bind(address).map_err(|cause| CheckError::Address {
            address,
            cause,
            field,
            variable,
        })?;
    }
    Ok(())
}

fn envoy() -> Result<PathBuf, CheckError> {
    let program = match env::var_os("ENVOY").filter(|named| !named.is_empty()) {
        Some(named) => PathBuf::from(named),
        None => on_path("envoy").ok_or_else(|| CheckError::NoEnvoy {
            what: "on the PATH".to_owned(),
        })?,
    };
    let unusable = || CheckError::NoEnvoy {
        what: format!("that runs at {}", program.display()),
    };
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .map_err(|_| unusable())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = version(&text).ok_or_else(unusable)?;
    if version < OLDEST_ENVOY {
        return Err(CheckError::OldEnvoy {
            version: format!("{}.{}", version.0, version.1),
            program,
        });
    }
    Ok(program)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Major and minor in `/usr/bin/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (_program, build) = text.split_once("version: ")?;
    let release = build.split('/').nth(1)?;
    let mut numbers = release.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Copies the filter to a name that is its digest: what runs is what control believes to run, whatever is built meanwhile.
fn module(state: &Path) -> Result<(PathBuf, String), CheckError> {
    let beside = || {
        env::current_exe()
            .unwrap_or_default()
            .with_file_name("greenthread_filter.wasm")
    };
    let source = env::var_os("GREENTHREAD_MODULE").map_or_else(beside, PathBuf::from);
    let bytes = fs::read(&source).map_err(|_| CheckError::NoModule { module: source })?;
    let sha256: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let copy = files::module(state, &sha256);
    files::replace(&copy, &bytes).map_err(|source| CheckError::File {
        path: copy.clone(),
        source,
    })?;
    forget_others(&copy);
    Ok((copy, sha256))
}

/// Modules of earlier starts; nobody uses them, since the folder is ours. One that stays is only in the way.
fn forget_others(copy: &Path) {
    let entries = copy.parent().and_then(|folder| fs::read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let path = entry.path();
        if path != copy
            && path
                .extension()
                .is_some_and(|extension| extension == "wasm")
        {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(
            version("\n/usr/bin/envoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL\n"),
            Some((1, 40))
        );
        assert_eq!(
            version("envoy  version: 9e55/1.9.1-dev/Clean"),
            Some((1, 9))
        );
        assert_eq!(version("something else"), None);
    }
}
