//! Engine processes: start, adopt, watch and end them. Engines outlive control on purpose: they have their own process
//! group, no parent-death signal, and their output goes to a file.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};
use tokio::{process::Command, sync::watch};

use super::{
    proc,
    registry::{MARK, PATIENCE, Record, Registry},
};

/// The flag without which vLLM's `/load` is always 0.
pub(super) const LOAD_TRACKING: &str = "--enable-server-load-tracking";

/// How often a process that is not a child is looked at.
const POLL: Duration = Duration::from_millis(250);

/// How many lines of the log, and how many bytes at its end, are shown when an engine fails.
const TAIL: (usize, u64) = (8, 4_096);

/// How to start one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Launch {
    /// Row id.
    pub(super) id: String,
    /// Program and arguments; not empty.
    pub(super) command: Vec<String>,
    /// Added to the environment of control.
    pub(super) env: BTreeMap<String, String>,
    /// Where it will listen.
    pub(super) port: u16,
    /// Where its output goes.
    pub(super) log: PathBuf,
}

/// Why an engine could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// Its log cannot be written.
    #[error("cannot write its log {path}")]
    Log {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program cannot be run.
    #[error("cannot run `{program}`")]
    Spawn {
        /// Which program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `engines.json` cannot be written; the process was ended again.
    #[error("cannot write engines.json")]
    Record(#[source] io::Error),
}

/// A process that control started, in this life or an earlier one.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// Number of the process and of its group.
    pub(super) pid: u32,
    end: watch::Receiver<Option<String>>,
}

impl Running {
    /// Why it ended; `None` while it runs.
    pub(super) fn end(&self) -> Option<String> {
        self.end.borrow().clone()
    }

    /// Waits until it and its whole group have ended.
    pub(super) async fn ended(&self) -> String {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or_default(),
            Err(_) => "its watcher has ended".to_owned(),
        }
    }
}

/// Starts an engine, records it, and watches it.
pub(super) fn start(launch: &Launch, registry: &Registry) -> Result<Running, StartError> {
    let log_error = |source| StartError::Log {
        path: launch.log.clone(),
        source,
    };
    let mut log = open_log(&launch.log).map_err(log_error)?;
    let line = format!(
        "--- {} started by greenthread: {}\n",
        timestamp(),
        launch.command.join(" ")
    );
    log.write_all(line.as_bytes()).map_err(log_error)?;
    let (program, arguments) = launch
        .command
        .split_first()
        .expect("the fleet file is checked: a command is not empty");
    let spawn = |log: fs::File| {
        let errors = log.try_clone()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(&launch.env)
            .env("VLLM_SERVER_DEV_MODE", "1")
            .env(MARK, registry.mark(&launch.id));
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
    };
    let child = spawn(log).map_err(|source| StartError::Spawn {
        program: program.clone(),
        source,
    })?;
    let pid = child.id().unwrap_or_default();
    let record = Record {
        pid,
        // A child that has ended already has no start time; its watcher reports it.
        start: proc::look(pid).map_or(0, |process| process.start),
        boot: proc::boot(),
        command: launch.fingerprint(),
        port: launch.port,
        depth: None,
        host_before: None,
    };
    if let Err(error) = registry.put(&launch.id, record) {
        proc::signal(pid, rustix::process::Signal::KILL);
        return Err(StartError::Record(error));
    }
    Ok(watch_child(child, pid, launch.log.clone()))
}

/// Takes over a process of an earlier life of control.
pub(super) fn adopt(record: &Record, log: PathBuf) -> Running {
    let (sender, end) = watch::channel(None);
    let (pid, record) = (record.pid, record.clone());
    tokio::spawn(async move {
        while record.lives() {
            tokio::time::sleep(POLL).await;
        }
        end_rest(pid).await;
        sender.send_replace(Some(with_tail("its process has ended", &log)));
    });
    Running { pid, end }
}

/// Ends all processes of a model and returns when they are gone.
pub(super) async fn end(groups: Vec<u32>) {
    // Waiting for processes reads all of /proc: not a thing for the runtime's own threads.
    let _ = tokio::task::spawn_blocking(move || proc::end_groups(&groups, PATIENCE)).await;
}

/// The last lines of an engine's log, without the lines of an earlier start.
pub(super) fn tail(log: &Path) -> Vec<String> {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL.1)))?;
        let mut bytes = Vec::new();
        file.take(TAIL.1).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let since = lines
        .iter()
        .rposition(|line| line.starts_with("--- "))
        .map_or(0, |index| index + 1);
    let from = since.max(lines.len().saturating_sub(TAIL.0));
    lines[from..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

impl Launch {
    /// Hash of all that makes another process of it.
    pub(super) fn fingerprint(&self) -> String {
        let text = serde_json::to_vec(&(&self.command, &self.env)).unwrap_or_default();
        Sha256::digest(text)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Whether the command asks for load tracking: only then its counts are trusted without a proof.
    pub(super) fn tracks_load(&self) -> bool {
        self.command
            .iter()
            .any(|argument| argument == LOAD_TRACKING)
    }
}

/// The command with load tracking switched on, where the program is known to take the flag: vLLM itself, its image, its
/// module, or engine-sim. A shell's script is left alone; its counts have to be proved.
pub(super) fn with_load_tracking(mut command: Vec<String>) -> Vec<String> {
    let is_shell = command
        .get(1)
        .is_some_and(|argument| argument.starts_with('-') && argument.ends_with('c'));
    let takes_it = |argument: &String| {
        let name = argument.rsplit('/').next().unwrap_or_default();
        !argument.starts_with('-') && (name.contains("vllm") || name.contains("engine-sim"))
    };
    let has_it = command.iter().any(|argument| argument == LOAD_TRACKING);
    if !is_shell && !has_it && command.iter().any(takes_it) {
        command.push(LOAD_TRACKING.to_owned());
    }
    command
}

/// `<state>/logs/<model>.log`; the segments of a model's name are folders.
pub(super) fn log_path(state: &Path, model: &str) -> PathBuf {
    let safe = model
        .split('/')
        .filter(|segment| !matches!(*segment, "" | "." | ".."))
        .collect::<Vec<_>>()
        .join("/");
    state.join("logs").join(format!("{safe}.log"))
}

fn watch_child(mut child: tokio::process::Child, pid: u32, log: PathBuf) -> Running {
    let (sender, end) = watch::channel(None);
    tokio::spawn(async move {
        let status = child.wait().await;
        end_rest(pid).await;
        let cause = match status {
            Ok(status) => describe(status),
            Err(error) => format!("its process cannot be waited for: {error}"),
        };
        sender.send_replace(Some(with_tail(&cause, &log)));
    });
    Running { pid, end }
}

/// An engine's workers can outlive its first process and hold the GPU: they go with it.
async fn end_rest(group: u32) {
    if !proc::members(group).is_empty() {
        end(vec![group]).await;
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("its process ended with status {code}"),
        (None, Some(signal)) => format!("its process was ended by signal {signal}"),
        (None, None) => "its process ended".to_owned(),
    }
}

/// What stands between a cause and an engine's own last lines.
pub(crate) const LAST_LINES: &str = "; last lines of ";

/// A cause with the last lines of the log.
pub(super) fn with_tail(cause: &str, log: &Path) -> String {
    match tail(log).as_slice() {
        [] => format!("{cause}; its log {} is empty", log.display()),
        lines => format!(
            "{cause}{LAST_LINES}{}: {}",
            log.display(),
            lines.join(" | ")
        ),
    }
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path)
}

fn timestamp() -> String {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("[{} s since 1970]", since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_tracking_is_added_where_it_is_understood() {
        let check = |command: &str, is_added: bool| {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            let result = with_load_tracking(words.clone());
            let expected = words
                .into_iter()
                .chain(is_added.then(|| LOAD_TRACKING.to_owned()));
            assert_eq!(result, expected.collect::<Vec<_>>(), "{command}");
        };
        check("vllm serve m --port 1", true);
        check("/opt/venv/bin/vllm serve m", true);
        check("python3 -m vllm.entrypoints.openai.api_server", true);
        check("docker run vllm/vllm-openai:v0.33.0 --model m", true);
        check("target/debug/engine-sim --port 1", true);
        check("vllm serve m --enable-server-load-tracking", false);
        check("sh -c vllm", false);
        check("bash -lc vllm", false);
        check("my-server --config=/etc/vllm", false);
    }

    #[test]
    fn logs_stay_below_the_state_folder() {
        let check = |model, expected: &str| {
            assert_eq!(log_path(Path::new("/s"), model), Path::new(expected))
        };
        check("llama-3-8b", "/s/logs/llama-3-8b.log");
        check("team-a/whisper", "/s/logs/team-a/whisper.log");
        check("../../etc/x", "/s/logs/etc/x.log");
    }

    #[test]
    fn a_tail_is_of_the_last_start() {
        let folder = super::super::test_folder("tail");
        let log = folder.join("a.log");
        assert!(tail(&log).is_empty());
        fs::write(&log, "old\n--- [1] started\none\n\ntwo\n").expect("write");
        assert_eq!(tail(&log), ["one", "two"]);
        let many: String = (0..20).map(|n| format!("{n}\n")).collect();
        fs::write(&log, many).expect("write");
        assert_eq!(tail(&log).len(), TAIL.0);
        assert_eq!(tail(&log).last().map(String::as_str), Some("19"));
        fs::remove_dir_all(folder).expect("clean up");
    }
}
