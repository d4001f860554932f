//! The command line.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{RangedU64ValueParser, TypedValueParser},
};
use greenthread_core::event::Operator;

use crate::{
    client::{Client, word},
    explain,
    http::{LAST, LAST_MAX},
    serve,
    simulate::{self, arguments::Arguments},
    standalone::{reaper::reap, up::up},
    text,
};

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 it was understood and did not happen (the reason is on stderr); 2 wrong usage.
Logs go to stderr; GREENTHREAD_LOG sets their level (error, warn, info, debug, trace, or per module as in \"info,greenthread_control::gates=debug\").";

/// Serves more models than fit on the GPUs: idle models sleep, a request wakes its model.
#[derive(Debug, Parser)]
#[command(name = "greenthread", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything of a fleet file on this machine, Envoy included, until Ctrl-C; nothing stays behind
    Up {
        /// The fleet file
        file: PathBuf,
    },
    /// End what `up` started, when it has ended. Started by `up`
    #[command(hide = true)]
    Reaper {
        /// What the processes of that `up` carry in their environment
        mark: String,
        /// Its state folder
        state: PathBuf,
    },
    /// Run the control service of a fleet file until SIGTERM; engines go on running
    Serve {
        /// The fleet file
        file: PathBuf,
    },
    /// Show models, memory and gates, or one model with its latest decisions
    Status {
        /// A model
        model: Option<String>,
        #[command(flatten)]
        control: Control,
    },
    /// Show the latest choices about a model: what was needed, who made room and why, who stayed and why, what came of it
    Explain {
        /// The model
        #[arg(required_unless_present = "choice")]
        model: Option<String>,
        /// Show at most so many
        #[arg(long, value_name = "N", default_value_t = LAST, value_parser = count())]
        last: usize,
        /// Show the choice of this number instead
        #[arg(long, value_name = "NUMBER", conflicts_with_all = ["model", "last"])]
        choice: Option<u64>,
        #[command(flatten)]
        control: Control,
    },
    /// Say why a model is not awake now, and what would change it
    WhyNot {
        /// The model
        model: String,
        #[command(flatten)]
        control: Control,
    },
    /// Decide that what a GPU holds beyond what GreenThread knows of is somebody else's: models do without it, and go on; what is free of it
    /// again is theirs again by itself
    AcceptGpu {
        /// The number of the GPU, as `status` shows it
        #[arg(value_parser = gpu_number)]
        gpu: usize,
        #[command(flatten)]
        control: Control,
    },
    /// Wake a model as if a request had arrived, and wait until it serves
    Wake(Verb),
    /// Drain a model and put it to sleep, and wait until it sleeps
    Sleep(Verb),
    /// Take a model out of service: it sleeps and refuses requests until `enable`
    Disable(Verb),
    /// Put a model back into service
    Enable(Verb),
    Simulate(Box<Arguments>),
}

#[derive(Debug, Args)]
struct Verb {
    /// The model
    model: String,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
    /// Wait at most this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Args)]
struct Control {
    /// Address of control's HTTP API
    #[arg(
        long,
        value_name = "URL",
        env = "GREENTHREAD_CONTROL",
        default_value = "http://127.0.0.1:8081"
    )]
    control: String,
    /// Token of control, where it wants one
    #[arg(long, env = "GREENTHREAD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How many choices can be asked for.
fn count() -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::new().range(1..=LAST_MAX as u64)
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs: the documents of the HTTP API
    Json,
}

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Up { file } => Ok(up(&file).await?),
            Command::Reaper { mark, state } => {
                reap(&mark, &state);
                Ok(())
            }
            Command::Serve { file } => serve(file).await,
            Command::Status { model, control } => status(model, control).await,
            Command::Explain {
                model,
                last,
                choice,
                control,
            } => explain(model, last, choice, control).await,
            Command::WhyNot { model, control } => why_not(&model, control).await,
            Command::AcceptGpu { gpu, control } => accept_gpu(gpu, control).await,
            Command::Wake(verb) => operate(verb, Operator::Wake).await,
            Command::Sleep(verb) => operate(verb, Operator::Sleep).await,
            Command::Disable(verb) => operate(verb, Operator::Disable).await,
            Command::Enable(verb) => operate(verb, Operator::Enable).await,
            Command::Simulate(arguments) => Ok(simulate::simulate(&arguments)?),
        }
    });
    // Tasks that wait for a peer must not hold the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&*error),
    }
}

fn gpu_number(text: &str) -> Result<usize, String> {
    let number = text.parse();
    number.map_err(|_| format!("{text} is no number of a GPU; write 0 for the first"))
}

type Done = Result<(), Box<dyn std::error::Error>>;

async fn serve(file: PathBuf) -> Done {
    Ok(serve::serve(&file).await?)
}

async fn status(model: Option<String>, control: Control) -> Done {
    let client = Client::new(&control.control, control.token);
    let answer = match (model, control.output) {
        (None, Output::Text) => text::fleet(&client.status().await?),
        (None, Output::Json) => json(&client.status().await?)?,
        (Some(name), Output::Text) => text::model(&client.model(&name).await?),
        (Some(name), Output::Json) => json(&client.model(&name).await?)?,
    };
    print!("{answer}");
    Ok(())
}

async fn explain(
    model: Option<String>,
    last: usize,
    choice: Option<u64>,
    control: Control,
) -> Done {
    let client = Client::new(&control.control, control.token);
    let answer = match (model, choice, control.output) {
        (_, Some(number), Output::Text) => explain::choice(&client.choice(number).await?),
        (_, Some(number), Output::Json) => json(&client.choice(number).await?)?,
        (Some(name), None, Output::Text) => {
            explain::choices(&name, &client.explain(&name, last).await?)
        }
        (Some(name), None, Output::Json) => json(&client.explain(&name, last).await?)?,
        (None, None, Output::Text | Output::Json) => return Err("name a model".into()),
    };
    print!("{answer}");
    Ok(())
}

async fn why_not(model: &str, control: Control) -> Done {
    let why = Client::new(&control.control, control.token)
        .why_not(model)
        .await?;
    match control.output {
        Output::Text => print!("{}", explain::why_not(&why)),
        Output::Json => print!("{}", json(&why)?),
    }
    Ok(())
}

async fn accept_gpu(gpu: usize, control: Control) -> Done {
    let client = Client::new(&control.control, control.token);
    let after = client.accept_gpu(gpu).await?;
    match control.output {
        Output::Text => print!("{}", text::gpu(&after, &client.status().await?.models)),
        Output::Json => print!("{}", json(&after)?),
    }
    match after.stopped {
        // The text says that it comes.
        Some(_) if after.accepting => Ok(()),
        Some(reason) => Err(format!("GPU {gpu} is still stopped: {reason}").into()),
        None => Ok(()),
    }
}

async fn operate(verb: Verb, operator: Operator) -> Done {
    let Verb {
        model,
        no_wait,
        timeout,
        control,
    } = verb;
    let client = Client::new(&control.control, control.token);
    let after = if no_wait {
        client.operate(&model, operator).await?;
        client.model(&model).await?
    } else {
        client
            .operate_and_wait(&model, operator, Duration::from_secs(timeout), |line| {
                eprintln!("{line}")
            })
            .await?
    };
    match control.output {
        Output::Json => print!("{}", json(&after)?),
        Output::Text if no_wait => println!(
            "{}: {} is asked for; it is {} now",
            after.name,
            word(operator),
            after.state
        ),
        Output::Text => println!("{} is {}", after.name, after.state),
    }
    Ok(())
}

fn json<T: serde::Serialize>(document: &T) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(document)? + "\n")
}

/// Writes an error and its causes as one line to stderr.
fn failed(error: &dyn std::error::Error) -> ExitCode {
    let mut line = format!("greenthread: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{line}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
