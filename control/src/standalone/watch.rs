//! Notices that the fleet file changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use crate::config::{ConfigError, Fleet, load};

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(1);

/// Waits for SIGHUP or for a change of the file.
#[derive(Debug)]
pub struct Watch {
    file: PathBuf,
    hangup: Signal,
    /// What was last read, or last found unreadable.
    seen: Option<Stamp>,
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

impl Watch {
    /// Watches from the file's present content on.
    ///
    /// # Errors
    /// SIGHUP cannot be caught.
    pub fn new(file: &Path) -> io::Result<Self> {
        Ok(Self {
            file: file.to_owned(),
            hangup: signal(SignalKind::hangup())?,
            seen: stamp(file),
        })
    }

    /// Waits for SIGHUP or a change, and reads the file. After an error the old fleet stays in force, and the next change is waited for.
    ///
    /// # Errors
    /// What is wrong with the new content.
    pub async fn next(&mut self) -> Result<Fleet, ConfigError> {
        tokio::select! {
            _ = self.hangup.recv() => {}
            () = changed(&self.file, &self.seen) => {}
        }
        self.seen = stamp(&self.file);
        load(&self.file)
    }
}

/// Returns when the file differs from `seen` and has stopped changing. A missing file is an editor at work.
async fn changed(file: &Path, seen: &Option<Stamp>) {
    let mut last = seen.clone();
    loop {
        sleep(POLL).await;
        let now = stamp(file);
        if now.is_some() && now != *seen && now == last {
            return;
        }
        last = now;
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(file).ok()?;
    Some(Stamp {
        modified: metadata.modified().ok(),
        length: metadata.len(),
    })
}
