//! What a trace is replayed on, as the command line says: a fleet file, or what is assumed without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use greenthread_core::ids::Millis;

use super::{
    SimulateError,
    arguments::{self, Arguments, IdleTimeout},
    setting::{self, Files, Setting, millis},
    trace::Trace,
};
use crate::{
    config::{self, Fleet},
    explain::counted,
};

/// A trace and its world.
#[derive(Debug)]
pub(super) struct World {
    /// In the numbers of the setting.
    pub(super) trace: Trace,
    /// Where.
    pub(super) setting: Setting,
    /// What is to be known of both.
    pub(super) notes: Vec<String>,
}

/// The world of a trace.
///
/// # Errors
/// The fleet file is wrong, or does not have the models of the trace.
pub(super) fn of(arguments: &Arguments, trace: &Trace) -> Result<World, SimulateError> {
    let (trace, mut setting, left_out) = match &arguments.world.fleet {
        None => {
            let assumed = &arguments.assumptions;
            let setting = setting::assumed(trace, assumed.gpus, assumed);
            (trace.clone(), setting, 0)
        }
        Some(file) => {
            let fleet = config::load(file)?;
            let (translated, left_out) = translated(arguments, trace, &fleet, file)?;
            (translated, setting::of_fleet(&fleet), left_out)
        }
    };
    change(&mut setting, &arguments.world);
    let mut notes = vec![about(&trace)];
    if left_out > 0 {
        notes.push(format!(
            "left out: {} for models that the fleet does not have",
            counted(left_out, "request")
        ));
    }
    Ok(World {
        trace,
        setting,
        notes,
    })
}

/// What the command line says instead of the fleet.
fn change(setting: &mut Setting, wanted: &arguments::World) {
    let mut sentences = Vec::new();
    for actor in &mut setting.models {
        let spec = &mut actor.spec;
        if let Some(IdleTimeout(time)) = wanted.idle_timeout {
            spec.idle_timeout = time.map(millis);
        }
        spec.min_runtime = wanted.min_runtime.map_or(spec.min_runtime, millis);
        spec.drain_timeout = wanted.drain_timeout.map_or(spec.drain_timeout, millis);
    }
    let said = [
        ("minRuntime", wanted.min_runtime.map(millis)),
        ("drainTimeout", wanted.drain_timeout.map(millis)),
    ];
    for (name, time) in said {
        sentences.extend(time.map(|time| format!("{name} {time}, as asked for")));
    }
    let mut idle = setting.models.iter().map(|actor| actor.spec.idle_timeout);
    match wanted.idle_timeout {
        Some(IdleTimeout(Some(time))) => sentences.push(format!(
            "who was not asked for in {} sleeps, as asked for",
            millis(time)
        )),
        _ if idle.all(|time| time.is_none()) => {
            sentences.push("nobody sleeps but to make room".to_owned());
        }
        _ => {}
    }
    setting.assumptions.extend(sentences);
}

fn translated(
    arguments: &Arguments,
    trace: &Trace,
    fleet: &Fleet,
    file: &Path,
) -> Result<(Trace, u64), SimulateError> {
    let map: BTreeMap<String, String> = arguments.world.map.iter().cloned().collect();
    let unknown = map.values().find(|name| !fleet.models.contains_key(*name));
    if let Some(name) = unknown {
        let known: Vec<&str> = fleet.models.keys().map(String::as_str).collect();
        return Err(SimulateError::Map {
            name: name.clone(),
            known: known.join(", "),
            fleet: file.to_owned(),
        });
    }
    let files = Files {
        trace: &arguments.trace,
        fleet: file,
    };
    let (translated, left_out) =
        setting::translate(trace, fleet, &map, arguments.world.skip_unknown, files)?;
    if translated.requests.is_empty() {
        return Err(SimulateError::NothingLeft {
            trace: arguments.trace.clone(),
            fleet: file.to_owned(),
        });
    }
    Ok((translated, left_out))
}

/// "8039 requests for 69 models in 246.6 hours".
fn about(trace: &Trace) -> String {
    let times = trace.requests.first().zip(trace.requests.last());
    let span = times.map_or(Millis(0), |(first, last)| last.at.since(first.at));
    let asked: BTreeSet<usize> = trace.requests.iter().map(|request| request.model).collect();
    format!(
        "{} for {} in {}",
        counted(trace.requests.len(), "request"),
        counted(asked.len(), "model"),
        long(span)
    )
}

/// A span in a unit of which it has two at least.
fn long(span: Millis) -> String {
    match span.0 as f64 / 1_000.0 {
        seconds if seconds < 120.0 => format!("{seconds:.1} seconds"),
        seconds if seconds < 7_200.0 => format!("{:.1} minutes", seconds / 60.0),
        seconds => format!("{:.1} hours", seconds / 3_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_a_unit_that_shows_them() {
        let told = [5_000, 150_000, 90_000_000].map(|span| long(Millis(span)));
        assert_eq!(told, ["5.0 seconds", "2.5 minutes", "25.0 hours"]);
    }
}
