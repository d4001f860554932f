//! One supervised program: started in a process group of its own, started again with growing pauses when it ends, stopped in two steps.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep_until, timeout},
};

/// Pause before the first new start, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Who ran this long has recovered: pauses begin again at the shortest.
const RECOVERED: Duration = Duration::from_secs(30);

/// How to start a program.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// For people.
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(&'static str, String)>,
    /// Where its output goes; `None`: to ours.
    pub(super) log: Option<PathBuf>,
}

impl Recipe {
    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        // Its own group: Ctrl-C in the terminal is ours alone to handle.
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .process_group(0);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(log) = &self.log {
            if let Some(folder) = log.parent() {
                fs::create_dir_all(folder)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(log)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        Ok(command)
    }
}

/// What happened to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// It ended, for this reason, and is started again after this pause.
    Ended(String, Duration),
    /// It was started again.
    Restarted,
    /// It could not be started, for this reason, and is tried again after this pause.
    NotStarted(String, Duration),
}

#[derive(Debug)]
enum State {
    Running(Box<Child>),
    Pausing(Instant),
}

/// A program that is kept running.
#[derive(Debug)]
pub(super) struct Service {
    recipe: Recipe,
    state: State,
    since: Instant,
    pause: Duration,
}

impl Service {
    /// Starts it.
    pub(super) fn start(recipe: Recipe) -> io::Result<Self> {
        let child = recipe.command()?.spawn()?;
        Ok(Self {
            recipe,
            state: State::Running(Box::new(child)),
            since: Instant::now(),
            pause: PAUSES.0,
        })
    }

    /// Its process; `None` between two lives.
    pub(super) fn pid(&self) -> Option<Pid> {
        let State::Running(child) = &self.state else {
            return None;
        };
        Pid::from_raw(i32::try_from(child.id()?).ok()?)
    }

    /// Waits for the next thing that happens to it. Can be abandoned and called again.
    pub(super) async fn next(&mut self) -> Happened {
        match &mut self.state {
            State::Running(child) => {
                let status = child.wait().await;
                let cause = status.map_or_else(|error| error.to_string(), described);
                Happened::Ended(cause, self.take_pause())
            }
            State::Pausing(until) => {
                sleep_until(*until).await;
                match self
                    .recipe
                    .command()
                    .and_then(|mut command| command.spawn())
                {
                    Ok(child) => {
                        self.state = State::Running(Box::new(child));
                        self.since = Instant::now();
                        Happened::Restarted
                    }
                    Err(error) => Happened::NotStarted(error.to_string(), self.take_pause()),
                }
            }
        }
    }

    fn take_pause(&mut self) -> Duration {
        if self.since.elapsed() > RECOVERED {
            self.pause = PAUSES.0;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES.1);
        self.state = State::Pausing(Instant::now() + pause);
        pause
    }

    /// Sends it a signal, if it runs.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to end, and kills it after `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) {
        self.signal(Signal::TERM);
        if let State::Running(child) = &mut self.state
            && timeout(patience, child.wait()).await.is_err()
        {
            // A killed process ends; what remains of its group is the reaper's.
            let _ = child.kill().await;
        }
    }
}

/// How a process ended, for people.
pub(super) fn described(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("status {code}"),
        (None, None) => status.to_string(),
    }
}
