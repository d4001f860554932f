//! What to do when the fleet file changed, as a list of steps in the only safe order: a cluster is there before its row, and a row has
//! drained and gone before its cluster goes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use greenthread_core::ids::ModelId;

use crate::config::{Fleet, Model};

/// One step; the next begins when it is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Give Envoy exactly the clusters of these models ([`super::delivery::Clusters::write`]) and wait until it knows them.
    Clusters(Vec<Model>),
    /// Make the model known to engines and core, or give it its new settings.
    Set(Box<Model>),
    /// Begin to remove these rows: refuse, drain, end the engine.
    Remove(Vec<ModelId>),
    /// Wait until they are gone (`Effect::Removed`).
    AwaitRemoved(Vec<ModelId>),
}

/// The new file changes what only a start reads; nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} can change only at a start: stop with Ctrl-C and start again, or take the change back; nothing was changed", .sections.join(", "))]
pub struct NeedsRestart {
    /// Sections of the file.
    pub sections: Vec<&'static str>,
}

/// The steps from one fleet to the other; none when nothing changed.
///
/// # Errors
/// Something besides models changed.
pub fn plan(old: &Fleet, new: &Fleet) -> Result<Vec<Step>, NeedsRestart> {
    let sections = changed_sections(old, new);
    if !sections.is_empty() {
        return Err(NeedsRestart { sections });
    }
    let kept = |model: &&Model| {
        new.models
            .get(&model.name)
            .is_some_and(|now| now.spec.id == model.spec.id)
    };
    let leaving: Vec<&Model> = old.models.values().filter(|model| !kept(model)).collect();
    let changed = new
        .models
        .values()
        .filter(|model| old.models.get(&model.name) != Some(model));
    // What takes over a name, prefix or port from a leaving model waits until that one is gone.
    let (later, mut now): (Vec<&Model>, Vec<&Model>) =
        changed.partition(|model| leaving.iter().any(|other| conflict(model, other)));
    // A prefix that moves is given up before it is taken.
    now.sort_by_key(|model| !gives_up_prefix(old, model));
    Ok(steps(new, &leaving, &now, &later))
}

fn steps(new: &Fleet, leaving: &[&Model], now: &[&Model], later: &[&Model]) -> Vec<Step> {
    let ids: Vec<ModelId> = leaving.iter().map(|model| model.spec.id.clone()).collect();
    let mut steps = Vec::new();
    if now.is_empty() && later.is_empty() && leaving.is_empty() {
        return steps;
    }
    let all: BTreeMap<&str, &Model> = new
        .models
        .values()
        .chain(leaving.iter().copied())
        .map(|model| (model.cluster.as_str(), model))
        .collect();
    steps.push(Step::Clusters(all.into_values().cloned().collect()));
    steps.extend(now.iter().map(|model| set(model)));
    if !ids.is_empty() {
        steps.push(Step::Remove(ids.clone()));
        steps.push(Step::AwaitRemoved(ids));
        steps.extend(later.iter().map(|model| set(model)));
        steps.push(Step::Clusters(new.models.values().cloned().collect()));
    }
    steps
}

fn set(model: &Model) -> Step {
    Step::Set(Box::new(model.clone()))
}

fn conflict(coming: &Model, leaving: &Model) -> bool {
    let takes_prefix = coming
        .prefixes
        .iter()
        .any(|prefix| leaving.prefixes.contains(prefix));
    takes_prefix || coming.name == leaving.name || coming.engine.address == leaving.engine.address
}

fn gives_up_prefix(old: &Fleet, model: &Model) -> bool {
    let before = old
        .models
        .get(&model.name)
        .map_or(&[][..], |before| &before.prefixes);
    let after: BTreeSet<&String> = model.prefixes.iter().collect();
    before.iter().any(|prefix| !after.contains(prefix))
}

fn changed_sections(old: &Fleet, new: &Fleet) -> Vec<&'static str> {
    // Destructured, so that a new field has to be decided about here.
    let Fleet {
        gateway,
        control,
        state,
        oracle,
        gpus,
        hosts,
        host_of,
        tolerance,
        policy,
        shadow,
        times,
        hold,
        observe_timeout,
        start_timeout,
        wake_timeout,
        models: _,
        warnings: _,
    } = old;
    let waits = (observe_timeout, start_timeout, wake_timeout)
        == (&new.observe_timeout, &new.start_timeout, &new.wake_timeout);
    [
        ("gateway", *gateway == new.gateway),
        ("control", *control == new.control),
        ("state", *state == new.state),
        ("oracle", *oracle == new.oracle),
        ("gpus", *gpus == new.gpus && *host_of == new.host_of),
        ("hosts", *hosts == new.hosts),
        ("tolerance", *tolerance == new.tolerance),
        ("policy", *policy == new.policy),
        ("shadow", *shadow == new.shadow),
        ("times", *times == new.times && waits),
        ("hold", *hold == new.hold),
    ]
    .into_iter()
    .filter_map(|(section, same)| (!same).then_some(section))
    .collect()
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, path::Path};

    use super::*;
    use crate::config::{Surroundings, parse};

    /// A fleet of models given as (name, port, prefix, pinned).
    fn fleet(models: &[(&str, u16, &str, bool)]) -> Fleet {
        let mut text = "gpus: [{memory: 400GiB}]\nmodels:\n".to_owned();
        for (name, port, prefix, pinned) in models {
            writeln!(
                text,
                "- name: {name}\n  model: x\n  prefixes: [{prefix}]\n  memory: {{awake: 1GiB}}\n  engine: {{url: \"http://127.0.0.1:{port}\"}}\n  fairness: {{pinned: {pinned}}}"
            )
            .expect("a string takes everything");
        }
        parse(&text, Path::new("f"), Surroundings::default()).expect("valid")
    }

    /// Steps in short: `+a b` clusters of these ports, `=a` set, `-a` remove, `?a` await.
    fn short(steps: &[Step]) -> Vec<String> {
        let names = |sign: &str, ids: &[ModelId]| {
            format!(
                "{sign}{}",
                ids.iter().map(ModelId::name).collect::<Vec<_>>().join(" ")
            )
        };
        let one = |step: &Step| match step {
            Step::Clusters(models) => {
                let mut ports: Vec<_> = models
                    .iter()
                    .map(|model| model.engine.address.port())
                    .collect();
                ports.sort_unstable();
                format!("+{ports:?}")
            }
            Step::Set(model) => format!("={}", model.name),
            Step::Remove(ids) => names("-", ids),
            Step::AwaitRemoved(ids) => names("?", ids),
        };
        steps.iter().map(one).collect()
    }

    fn check(old: &[(&str, u16, &str, bool)], new: &[(&str, u16, &str, bool)], expected: &[&str]) {
        assert_eq!(
            short(&plan(&fleet(old), &fleet(new)).expect("a plan")),
            expected
        );
    }

    #[test]
    fn rows_follow_clusters_and_clusters_outlive_rows() {
        let a = ("a", 1, "a", false);
        let b = ("b", 2, "b", false);
        check(&[a], &[a], &[]);
        check(&[a], &[a, b], &["+[1, 2]", "=b"]);
        check(&[a, b], &[a], &["+[1, 2]", "-b", "?b", "+[1]"]);
        check(&[a], &[("a", 1, "a", true)], &["+[1]", "=a"]);
    }

    #[test]
    fn who_takes_over_waits() {
        let a = ("a", 1, "a", false);
        // Another engine, another model on the prefix, another model on the port.
        check(
            &[a],
            &[("a", 2, "a", false)],
            &["+[1, 2]", "-a", "?a", "=a", "+[2]"],
        );
        check(
            &[a],
            &[("c", 3, "a", false)],
            &["+[1, 3]", "-a", "?a", "=c", "+[3]"],
        );
        check(
            &[a],
            &[("d", 1, "d", false)],
            &["+[1, 1]", "-a", "?a", "=d", "+[1]"],
        );
        check(
            &[a],
            &[("c", 3, "c", false)],
            &["+[1, 3]", "=c", "-a", "?a", "+[3]"],
        );
    }

    #[test]
    fn a_moving_prefix_is_given_up_first() {
        let old = [("a", 1, "one", false), ("b", 2, "two", false)];
        check(
            &old,
            &[("a", 1, "two", false), ("b", 2, "three", false)],
            &["+[1, 2]", "=a", "=b"],
        );
        check(
            &[("a", 1, "one", false), ("b", 2, "two", false)],
            &[("a", 1, "one, two", false), ("b", 2, "three", false)],
            &["+[1, 2]", "=b", "=a"],
        );
    }

    #[test]
    fn other_changes_need_a_start() {
        let old = fleet(&[("a", 1, "a", false)]);
        let mut new = fleet(&[("a", 2, "a", false)]);
        new.gateway.root = !new.gateway.root;
        new.wake_timeout = std::time::Duration::from_secs(1);
        new.host_of = vec![1];
        new.hosts = vec![1];
        new.tolerance = 1;
        assert_eq!(
            plan(&old, &new),
            Err(NeedsRestart {
                sections: vec!["gateway", "gpus", "hosts", "tolerance", "times"]
            })
        );
    }
}
