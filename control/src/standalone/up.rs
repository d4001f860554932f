//! `greenthread up`: starts control, then Envoy, keeps both running, and takes them down in order. It decides nothing about models.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    signal::unix::{self, SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{
    bootstrap::{self, Files},
    checks::{self, CheckError, Found},
    clusters, files,
    reaper::{MARK, Reaper, mark},
    service::{Happened, Recipe, Service},
    words,
};
use crate::{
    config::{self, ConfigError, Fleet},
    explain::counted,
};

/// How often something is asked that is waited for.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Control opens its listeners at once; longer means that it hangs.
const CONTROL_START: Duration = Duration::from_secs(30);
/// When a wait is worth a line.
const PATIENCE_SHOWN: Duration = Duration::from_secs(10);
/// Longest drain at the first Ctrl-C.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a process may take to end when asked.
const STOP: Duration = Duration::from_secs(5);

/// Why `up` did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The fleet file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something is not in place.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// A file cannot be written.
    #[error("cannot write {}", file.display())]
    Write {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program cannot be run.
    #[error("cannot start {what}")]
    Start {
        /// Which.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A program ended before it was ready.
    #[error("{what} ended with {cause} before it was ready; {hint}")]
    Ended {
        /// Which.
        what: &'static str,
        /// How.
        cause: String,
        /// Where to look.
        hint: String,
    },
    /// Control does not answer.
    #[error("control did not answer on http://{address} within {} s", CONTROL_START.as_secs())]
    Silent {
        /// Where it was asked.
        address: std::net::SocketAddr,
    },
    /// Signals cannot be caught.
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
}

/// Runs a fleet file until Ctrl-C. Whatever happens, nothing that was started stays behind.
///
/// # Errors
/// The file is wrong, something is missing, or a program does not come up.
pub async fn up(file: &Path) -> Result<(), UpError> {
    let fleet = config::load(file)?;
    let found = checks::all(&fleet)?;
    let mut signals = Signals::new().map_err(UpError::Signals)?;
    write_configuration(&fleet, &found)?;
    let program = std::env::current_exe().map_err(|source| UpError::Start {
        what: "control",
        source,
    })?;
    let reaper = Reaper::start(&program, &fleet.state).map_err(|source| UpError::Start {
        what: "the reaper",
        source,
    })?;
    let result = run(
        &fleet,
        &recipes(file, &fleet, &found, program),
        &mut signals,
    )
    .await;
    // Ends the engines, and whatever is left of the rest.
    reaper.finish().await;
    if result.is_ok() {
        say("Stopped; nothing is left running.");
    }
    result
}

fn write_configuration(fleet: &Fleet, found: &Found) -> Result<(), UpError> {
    let (clusters_file, access_log) = (
        files::clusters(&fleet.state),
        files::access_log(&fleet.state),
    );
    let files = Files {
        module: &found.module,
        module_sha256: &found.module_sha256,
        clusters: &clusters_file,
        access_log: &access_log,
    };
    let logs = fleet.state.join("logs");
    std::fs::create_dir_all(&logs).map_err(|source| UpError::Write { file: logs, source })?;
    let write = |file: PathBuf, content: &Value| {
        files::replace(&file, content.to_string().as_bytes())
            .map_err(|source| UpError::Write { file, source })
    };
    write(
        files::bootstrap(&fleet.state),
        &bootstrap::render(fleet, &files),
    )?;
    write(
        clusters_file.clone(),
        &clusters::discovery(fleet.models.values()),
    )
}

/// How control and Envoy are started.
struct Recipes {
    control: Recipe,
    envoy: Recipe,
}

fn recipes(file: &Path, fleet: &Fleet, found: &Found, program: PathBuf) -> Recipes {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    // Under a supervisor people read control's sentences; its log lines are for who asks for them.
    let log = env::var("GREENTHREAD_LOG").unwrap_or_else(|_| "warn".to_owned());
    let control = Recipe {
        name: "control",
        program,
        arguments: vec!["serve".to_owned(), text(file)],
        environment: vec![
            (MARK, mark()),
            ("GREENTHREAD_MODULE", text(&found.module)),
            ("GREENTHREAD_LOG", log),
        ],
        log: None,
    };
    let concurrency = fleet.gateway.concurrency.to_string();
    let bootstrap = text(&files::bootstrap(&fleet.state));
    let arguments = [
        ["--config-path", &bootstrap],
        ["--concurrency", &concurrency],
        // How long clients are asked to leave before the listener closes; the wait for requests is ours.
        ["--drain-time-s", "1"],
        ["--file-flush-interval-msec", "1000"],
    ];
    let envoy = Recipe {
        name: "Envoy",
        program: found.envoy.clone(),
        arguments: arguments
            .concat()
            .into_iter()
            .chain(["--use-dynamic-base-id"])
            .map(str::to_owned)
            .collect(),
        environment: vec![(MARK, mark())],
        log: Some(files::envoy_log(&fleet.state)),
    };
    Recipes { control, envoy }
}

/// From the first start to the last stop.
async fn run(fleet: &Fleet, recipes: &Recipes, signals: &mut Signals) -> Result<(), UpError> {
    let mut machine = Machine {
        fleet,
        client: reqwest::Client::new(),
        control: start(&recipes.control)?,
        envoy: None,
    };
    let came_up = tokio::select! {
        result = machine.come_up(&recipes.envoy) => result.map(|()| true),
        () = signals.stop() => Ok(false),
    };
    let patience = match came_up {
        Ok(true) => {
            say(&words::ready(
                fleet,
                &typed(&recipes.control.program),
                &std::env::current_dir().unwrap_or_default(),
            ));
            machine.keep_running(signals).await;
            machine.drain(signals).await
        }
        Ok(false) | Err(_) => STOP,
    };
    machine.stop(patience).await;
    came_up.map(|_| ())
}

fn start(recipe: &Recipe) -> Result<Service, UpError> {
    Service::start(recipe.clone()).map_err(|source| UpError::Start {
        what: recipe.name,
        source,
    })
}

/// The program as people would type it from here.
fn typed(program: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    program
        .strip_prefix(here)
        .unwrap_or(program)
        .display()
        .to_string()
}

/// What runs.
struct Machine<'a> {
    fleet: &'a Fleet,
    client: reqwest::Client,
    control: Service,
    /// Started once control serves.
    envoy: Option<Service>,
}

impl Machine<'_> {
    /// Waits for control, starts Envoy, and waits until every gate has a table and every engine was looked at.
    async fn come_up(&mut self, envoy: &Recipe) -> Result<(), UpError> {
        self.control_serves().await?;
        say("Control serves; starting Envoy.");
        self.envoy = Some(start(envoy)?);
        let started = Instant::now();
        let mut next_line = started + PATIENCE_SHOWN;
        loop {
            tokio::select! {
                happened = self.control.next() => say(&told("control", &happened)),
                happened = next_of(&mut self.envoy) => self.envoy_must_not_end(&happened)?,
                () = sleep(POLL) => {}
            }
            match self
                .ask(&format!("http://{}/readyz", self.fleet.control.http))
                .await
            {
                Some((true, _)) => return Ok(()),
                Some((false, reason)) if Instant::now() >= next_line => {
                    next_line += PATIENCE_SHOWN;
                    say(&format!(
                        "Not ready after {} s: {}",
                        started.elapsed().as_secs(),
                        reason.trim()
                    ));
                }
                Some((false, _)) | None => {}
            }
        }
    }

    async fn control_serves(&mut self) -> Result<(), UpError> {
        let url = format!("http://{}/healthz", self.fleet.control.http);
        let deadline = Instant::now() + CONTROL_START;
        loop {
            tokio::select! {
                happened = self.control.next() => if let Happened::Ended(cause, _) = happened {
                    return Err(UpError::Ended { what: "control", cause, hint: "what it said is above".to_owned() });
                },
                () = sleep(POLL) => {}
            }
            if self.ask(&url).await.is_some_and(|(well, _)| well) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(UpError::Silent {
                    address: self.fleet.control.http,
                });
            }
        }
    }

    fn envoy_must_not_end(&self, happened: &Happened) -> Result<(), UpError> {
        let Happened::Ended(cause, _) = happened else {
            return Ok(());
        };
        let hint = format!(
            "its last lines are in {}:{}",
            files::envoy_log(&self.fleet.state).display(),
            self.envoy_last_lines()
        );
        Err(UpError::Ended {
            what: "Envoy",
            cause: cause.clone(),
            hint,
        })
    }

    /// The warnings and errors at the end of Envoy's log, each on a line of its own.
    fn envoy_last_lines(&self) -> String {
        let log = std::fs::read(files::envoy_log(&self.fleet.state)).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let worth = |line: &&str| !line.contains("][info]") && !line.trim().is_empty();
        let lines: Vec<&str> = text.lines().rev().filter(worth).take(5).collect();
        lines
            .iter()
            .rev()
            .map(|line| format!("\n  {line}"))
            .collect()
    }

    /// Until somebody asks to stop.
    async fn keep_running(&mut self, signals: &mut Signals) {
        loop {
            tokio::select! {
                happened = self.control.next() => say(&told("control", &happened)),
                happened = next_of(&mut self.envoy) => say(&told("Envoy", &happened)),
                asked = signals.next() => match asked {
                    Asked::Stop => return,
                    Asked::Reload => self.control.signal(Signal::HUP),
                },
            }
        }
    }

    /// Lets requests end, for a while or until somebody asks again; how patient the stop that follows may be.
    async fn drain(&mut self, signals: &mut Signals) -> Duration {
        let _ = timeout(
            ANSWER,
            self.client
                .post(format!(
                    "http://{}/drain_listeners?graceful",
                    self.fleet.gateway.admin
                ))
                .send(),
        )
        .await;
        let deadline = Instant::now() + DRAIN;
        let mut shown = usize::MAX;
        loop {
            let left = self.requests().await.unwrap_or(0);
            if left == 0 {
                return STOP;
            }
            if left != shown {
                shown = left;
                say(&format!(
                    "Draining: {} left; Ctrl-C stops at once.",
                    counted(left, "request")
                ));
            }
            tokio::select! {
                happened = self.control.next() => say(&told("control", &happened)),
                () = signals.stop() => return Duration::ZERO,
                () = sleep(POLL) => {}
            }
            if Instant::now() >= deadline {
                say(&format!(
                    "{} did not end within {} s and are cut.",
                    counted(left, "request"),
                    DRAIN.as_secs()
                ));
                return STOP;
            }
        }
    }

    /// Requests in Envoy, held ones too; `None` when it does not answer.
    async fn requests(&self) -> Option<usize> {
        let url = format!(
            "http://{}/stats?format=json&filter=^http.gateway.downstream_rq_active$",
            self.fleet.gateway.admin
        );
        let (_, text) = self.ask(&url).await?;
        let stats: Value = serde_json::from_str(&text).ok()?;
        usize::try_from(stats["stats"].get(0)?["value"].as_u64()?).ok()
    }

    async fn stop(&mut self, patience: Duration) {
        if let Some(envoy) = &mut self.envoy {
            envoy.stop(patience).await;
        }
        self.control.stop(patience).await;
    }

    /// Whether a page answers with success, and its text; `None` without an answer.
    async fn ask(&self, url: &str) -> Option<(bool, String)> {
        let answer = self.client.get(url).timeout(ANSWER).send().await.ok()?;
        Some((answer.status().is_success(), answer.text().await.ok()?))
    }
}

async fn next_of(service: &mut Option<Service>) -> Happened {
    match service {
        Some(service) => service.next().await,
        None => std::future::pending().await,
    }
}

fn told(what: &str, happened: &Happened) -> String {
    match happened {
        Happened::Ended(cause, pause) => format!(
            "{what} ended with {cause}; it is started again in {} ms.",
            pause.as_millis()
        ),
        Happened::Restarted => format!("{what} was started again."),
        Happened::NotStarted(cause, pause) => format!(
            "{what} cannot be started ({cause}); next try in {} ms.",
            pause.as_millis()
        ),
    }
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
}

struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    /// We were started from a terminal.
    in_terminal: bool,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            in_terminal: terminal_is_there(),
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            // A closed window sends the signal that else means "read the file again".
            _ = self.hangup.recv() => if self.in_terminal && !terminal_is_there() { Asked::Stop } else { Asked::Reload },
        }
    }

    async fn stop(&mut self) {
        while !matches!(self.next().await, Asked::Stop) {}
    }
}

fn terminal_is_there() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// A line for people. Nobody may be listening any more: that is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
