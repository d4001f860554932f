//! Which replays are asked for, one after the other: every number of GPUs, every `maxWait`, every policy.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use greenthread_core::ids::Millis;

use super::{
    SimulateError,
    arguments::Arguments,
    bound, plot,
    policies::Policy,
    progress::Progress,
    replay::{self, Habits},
    replay_report::{self, Of, Run},
    setting::{Setting, millis},
    table::gpus as in_words,
    trace::Trace,
    world::{self, World},
};

/// What replays came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Every run.
    pub(super) runs: Vec<Run>,
    /// What is to be known about all of them.
    pub(super) notes: Vec<String>,
}

/// Replays under way.
struct Runs<'a> {
    arguments: &'a Arguments,
    policies: &'a [Policy],
    trace: &'a Trace,
    progress: &'a mut Progress,
    /// There is more than one picture.
    many: bool,
    outcome: Outcome,
}

/// Replays a trace in every way that is asked for.
///
/// # Errors
/// The fleet file is wrong or does not fit the trace, or a picture cannot be written.
pub(super) fn run(
    arguments: &Arguments,
    trace: &Trace,
    policies: &[Policy],
    progress: &mut Progress,
) -> Result<Outcome, SimulateError> {
    let World {
        trace,
        setting,
        notes,
    } = world::of(arguments, trace)?;
    let numbers: Vec<usize> = match &arguments.sweep_gpus {
        Some(range) => range.clone().collect(),
        None => vec![setting.gpus.len()],
    };
    let max_waits: Vec<Option<Millis>> = match &arguments.world.max_wait[..] {
        [] => vec![None],
        given => given.iter().map(|wait| Some(millis(*wait))).collect(),
    };
    let of_core = policies.iter().filter_map(|policy| policy.of_core());
    let mut runs = Runs {
        arguments,
        policies,
        trace: &trace,
        progress,
        many: of_core.count() * numbers.len() * max_waits.len() > 1,
        outcome: Outcome {
            runs: Vec::new(),
            notes,
        },
    };
    runs.check_plot(numbers[0], max_waits[0])?;
    for gpus in numbers {
        let mut setting = setting.clone();
        if arguments.sweep_gpus.is_some() {
            if let Some(actor) = setting.too_wide(gpus) {
                let wide = actor.spec.gpus.len();
                let note = format!("{} left out: {} spans {wide}", in_words(gpus), actor.name);
                runs.outcome.notes.push(note);
                continue;
            }
            setting.spread(&trace, gpus);
        }
        for max_wait in &max_waits {
            if let Some(max_wait) = max_wait {
                let specs = setting.models.iter_mut().map(|actor| &mut actor.spec);
                specs.for_each(|spec| spec.max_wait = *max_wait);
            }
            runs.of(&setting, *max_wait)?;
        }
    }
    Ok(runs.outcome)
}

impl Runs<'_> {
    /// Sees that pictures can be written where they are wanted, before hours are spent on what they show.
    fn check_plot(&self, gpus: usize, max_wait: Option<Millis>) -> Result<(), SimulateError> {
        let of_core = self
            .policies
            .iter()
            .find(|policy| policy.of_core().is_some());
        let (Some(file), Some(policy)) = (&self.arguments.plot, of_core) else {
            return Ok(());
        };
        let file = plot_file(file, self.many.then_some((policy.name(), gpus, max_wait)));
        let opened = File::options().create(true).append(true).open(&file);
        match opened {
            Ok(_) => Ok(()),
            Err(source) => Err(SimulateError::Plot { file, source }),
        }
    }

    /// Every policy in one world.
    fn of(&mut self, setting: &Setting, max_wait: Option<Millis>) -> Result<(), SimulateError> {
        let strict = bound::strict_loads(self.trace, setting);
        let gpus = setting.gpus.len();
        let before = self.outcome.runs.len();
        for policy in self.policies {
            let of = Of {
                policy: policy.name(),
                setting,
                max_wait,
                strict,
                target: millis(self.arguments.target_p99),
            };
            let Some(chooses) = policy.of_core() else {
                self.outcome.runs.extend(Run::of_future(of));
                continue;
            };
            let world = &self.arguments.world;
            let habits = Habits {
                policy: chooses,
                concurrency: world.concurrency.unwrap_or(usize::MAX),
                retries: world.retries,
                vary: world.vary,
                seed: world.seed,
            };
            let title = format!("{} on {}", policy.name(), in_words(gpus));
            let replayed = replay::replay(self.trace, setting, habits, self.progress, &title);
            if let Some(file) = &self.arguments.plot {
                let name = self.many.then_some((policy.name(), gpus, max_wait));
                let file = plot_file(file, name);
                plot::write(&file, &title, setting, &replayed).map_err(|source| {
                    SimulateError::Plot {
                        file: file.clone(),
                        source,
                    }
                })?;
                self.outcome
                    .notes
                    .push(format!("drawn: {}", file.display()));
            }
            self.outcome.runs.push(Run::of_core(of, &replayed));
        }
        replay_report::measure_gap(&mut self.outcome.runs[before..]);
        Ok(())
    }
}

/// Where a picture goes: with several, each is named after its run.
fn plot_file(file: &Path, run: Option<(&str, usize, Option<Millis>)>) -> PathBuf {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_named_after_their_runs() {
        let check = |run, expected: &str| {
            assert_eq!(plot_file(Path::new("a/day.svg"), run), Path::new(expected));
        };
        check(None, "a/day.svg");
        check(Some(("lru", 2, None)), "a/day-lru-2.svg");
        check(Some(("lru", 2, Some(Millis(500)))), "a/day-lru-2-500ms.svg");
    }
}
