//! Which replays are asked for, one after the other: every number of GPUs, every `maxWait`, every policy.

use std::{collections::BTreeMap, path::PathBuf};

use greenthread_core::ids::Millis;

use super::{
    SimulateError,
    arguments::Arguments,
    bound, plot,
    policies::Policy,
    progress::Progress,
    replay::{self, Habits},
    replay_report::{Of, Run, time},
    setting::{self, Files, Setting, millis},
    trace::Trace,
};
use crate::config;

/// What replays came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Every run.
    pub(super) runs: Vec<Run>,
    /// What is to be known about all of them.
    pub(super) notes: Vec<String>,
    /// How many GPUs are enough.
    pub(super) answers: Vec<String>,
}

/// Replays a trace in every way that is asked for.
pub(super) fn run(
    arguments: &Arguments,
    trace: &Trace,
    policies: &[Policy],
    progress: &mut Progress,
) -> Result<Outcome, SimulateError> {
    let (trace, base, mut notes) = world(arguments, trace)?;
    let numbers = match &arguments.sweep_gpus {
        Some(range) => range.clone().collect(),
        None => vec![base.gpus.len()],
    };
    let max_waits: Vec<Option<Millis>> = match &arguments.world.max_wait[..] {
        [] => vec![None],
        given => given.iter().map(|wait| Some(millis(*wait))).collect(),
    };
    let replays = policies
        .iter()
        .filter_map(|policy| policy.of_core())
        .count();
    let pictures = replays * numbers.len() * max_waits.len();
    let mut runs = Vec::new();
    for gpus in numbers {
        let mut setting = base.clone();
        if arguments.sweep_gpus.is_some() {
            if let Some(actor) = setting.too_wide(gpus) {
                notes.push(format!(
                    "{} GPUs: left out, {} spans {}",
                    gpus,
                    actor.name,
                    actor.spec.gpus.len()
                ));
                continue;
            }
            setting.spread(&trace, gpus);
        }
        let strict = bound::strict_loads(&trace, &setting);
        for max_wait in &max_waits {
            if let Some(max_wait) = max_wait {
                for actor in &mut setting.models {
                    actor.spec.max_wait = *max_wait;
                }
            }
            for policy in policies {
                let of = Of {
                    policy: policy.name(),
                    setting: &setting,
                    max_wait: *max_wait,
                    strict,
                    target: millis(arguments.target_p99),
                };
                let Some(chooses) = policy.of_core() else {
                    runs.extend(Run::of_future(of));
                    continue;
                };
                let title = format!("{} on {gpus} GPUs", policy.name());
                let replayed = replay::replay(
                    &trace,
                    &setting,
                    habits(arguments, chooses),
                    progress,
                    &title,
                );
                if let Some(file) = &arguments.plot {
                    let name = (pictures > 1).then(|| (policy.name(), gpus, *max_wait));
                    let file = plot_file(file, name);
                    plot::write(&file, &title, &setting, &replayed).map_err(|source| {
                        SimulateError::Plot {
                            file: file.clone(),
                            source,
                        }
                    })?;
                    notes.push(format!("drawn: {}", file.display()));
                }
                runs.push(Run::of_core(of, &replayed));
            }
        }
    }
    let answers = match &arguments.sweep_gpus {
        Some(_) => answers(policies, &runs, millis(arguments.target_p99)),
        None => Vec::new(),
    };
    Ok(Outcome {
        runs,
        notes,
        answers,
    })
}

fn habits(arguments: &Arguments, policy: &'static greenthread_core::policy::Policy) -> Habits {
    Habits {
        policy,
        concurrency: arguments.world.concurrency.unwrap_or(usize::MAX),
        retries: arguments.world.retries,
        vary: arguments.world.vary,
        seed: arguments.world.seed,
    }
}

/// The trace in the numbers of its world, and the world.
fn world(
    arguments: &Arguments,
    trace: &Trace,
) -> Result<(Trace, Setting, Vec<String>), SimulateError> {
    let mut notes = Vec::new();
    let (trace, setting) = match &arguments.world.fleet {
        None => (
            trace.clone(),
            setting::assumed(trace, arguments.assumptions.gpus, &arguments.assumptions),
        ),
        Some(file) => {
            let fleet = config::load(file)?;
            let map: BTreeMap<String, String> = arguments.world.map.iter().cloned().collect();
            if let Some((_, name)) = map
                .iter()
                .find(|(_, name)| !fleet.models.contains_key(*name))
            {
                return Err(SimulateError::Map {
                    name: name.clone(),
                    known: fleet.models.keys().cloned().collect::<Vec<_>>().join(", "),
                    fleet: file.clone(),
                });
            }
            let files = Files {
                trace: &arguments.trace,
                fleet: file,
            };
            let (translated, left_out) =
                setting::translate(trace, &fleet, &map, arguments.world.skip_unknown, files)?;
            if left_out > 0 {
                notes.push(format!(
                    "left out: {left_out} requests for models that are not in {}",
                    file.display()
                ));
            }
            if translated.requests.is_empty() {
                return Err(SimulateError::NothingLeft {
                    trace: arguments.trace.clone(),
                    fleet: file.clone(),
                });
            }
            (translated, setting::of_fleet(&fleet))
        }
    };
    let span = match (trace.requests.first(), trace.requests.last()) {
        (Some(first), Some(last)) => last.at.since(first.at),
        (_, _) => Millis(0),
    };
    let asked = trace
        .requests
        .iter()
        .map(|request| request.model)
        .collect::<std::collections::BTreeSet<_>>()
        .len();
    notes.insert(
        0,
        format!(
            "{} requests for {asked} models in {:.1} hours",
            trace.requests.len(),
            span.0 as f64 / 3_600_000.0
        ),
    );
    Ok((trace, setting, notes))
}

/// Where a picture goes: with several, each is named after its run.
fn plot_file(file: &std::path::Path, run: Option<(&str, usize, Option<Millis>)>) -> PathBuf {
    let Some((policy, gpus, max_wait)) = run else {
        return file.to_owned();
    };
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let extension = file
        .extension()
        .map_or("svg".into(), |extension| extension.to_string_lossy());
    let wait = max_wait.map_or(String::new(), |wait| format!("-{}ms", wait.0));
    file.with_file_name(format!("{stem}-{policy}-{gpus}{wait}.{extension}"))
}

/// One sentence per policy: the smallest number of GPUs that is enough.
fn answers(policies: &[Policy], runs: &[Run], target: Millis) -> Vec<String> {
    let sentence = |policy: &Policy| {
        let mut of_policy = runs
            .iter()
            .map(|run| &run.row)
            .filter(|row| row.policy == policy.name());
        let enough = of_policy.clone().find(|row| row.meets_target == Some(true));
        let name = policy.name();
        match enough {
            Some(row) => format!(
                "{name}: {} GPU{} {} enough: 99 of 100 requests wait at most {} (wanted: {target}).",
                row.gpus,
                if row.gpus == 1 { "" } else { "s" },
                if row.gpus == 1 { "is" } else { "are" },
                time(row.wait_p99_s)
            ),
            None => {
                let most = of_policy.next_back();
                most.map_or_else(String::new, |row| match row.wait_p99_s {
                    Some(wait) => format!("{name}: {} GPUs are not enough: one of 100 requests waits {} or longer (wanted: {target}).", row.gpus, time(Some(wait))),
                    None => format!("{name}: {} GPUs are not enough: more than one of 100 requests gives up.", row.gpus),
                })
            }
        }
    };
    policies
        .iter()
        .filter(|policy| policy.of_core().is_some())
        .map(sentence)
        .filter(|sentence| !sentence.is_empty())
        .collect()
}
