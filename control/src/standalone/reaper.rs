//! Ends everything that `up` started, however `up` itself ended. The reaper is a small process that waits for the end of a pipe of which
//! `up` alone holds the other end: the kernel closes it even after `kill -9`. What was started carries a mark in its environment.

use std::{
    io::{self, Read},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use crate::engine::{end_all, proc};

/// Variable in the environment of everything that one `up` started.
pub(super) const MARK: &str = "GREENTHREAD_UP";
/// How long a process may take to end by itself, and then after being killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The mark of this process as a supervisor: its number and its start, which no other process shares.
pub(super) fn mark() -> String {
    let pid = std::process::id();
    format!(
        "{pid}.{}",
        proc::look(pid).map_or(0, |process| process.start)
    )
}

/// The reaper as `up` holds it.
#[derive(Debug)]
pub(super) struct Reaper {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    /// Starts it.
    pub(super) fn start(program: &Path, state: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg("reaper")
            .arg(mark())
            .arg(state)
            .env_remove(MARK);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// Lets it do its work and waits for it, but not for ever.
    pub(super) async fn finish(mut self) {
        drop(self.pipe.take());
        // Four rounds of patience are the longest that it can need.
        let _ = timeout(PATIENCE * 4 + Duration::from_secs(1), self.process.wait()).await;
    }
}

/// The reaper's own life: waits until `up` is gone, then ends what carries its mark, and the engines recorded under `state`.
pub fn reap(mark: &str, state: &Path) {
    wait_for_end();
    let marked = format!("{MARK}={mark}");
    let groups = proc::marked_groups(|variable| variable == marked.as_bytes());
    proc::end_groups(&groups, PATIENCE);
    end_all(state);
}

/// Reads the pipe to its end. Nothing is ever written into it.
fn wait_for_end() {
    let mut pipe = io::stdin().lock();
    let mut buffer = [0; 64];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
