//! How many GPUs are enough: one sentence per policy, from runs on growing numbers of them.

use super::table::gpus;

/// One run, as far as it matters here. Runs of one policy stand in the order of their GPUs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tried {
    /// The policy, and what else its numbers of GPUs have in common.
    pub(super) policy: String,
    /// GPUs.
    pub(super) gpus: usize,
    /// Whether they were enough.
    pub(super) enough: bool,
    /// What one gets with them, as in "99 of 100 requests wait at most 3.0 s".
    pub(super) result: String,
}

/// The smallest number of GPUs that is enough, for each policy. `wanted`: the target, in words.
pub(super) fn answers(tried: &[Tried], wanted: &str) -> Vec<String> {
    let mut policies: Vec<&str> = Vec::new();
    for run in tried {
        if !policies.contains(&run.policy.as_str()) {
            policies.push(&run.policy);
        }
    }
    let answer = |policy: &str| {
        let runs: Vec<&Tried> = tried.iter().filter(|run| run.policy == policy).collect();
        let first = runs.iter().position(|run| run.enough);
        match first.and_then(|at| Some((at, *runs.get(at)?))) {
            Some((at, run)) => {
                let are = if run.gpus == 1 { "is" } else { "are" };
                let fewer = at.checked_sub(1).and_then(|before| runs.get(before));
                let but = fewer.map_or(String::new(), |fewer| {
                    format!("; with {} {}", gpus(fewer.gpus), fewer.result)
                });
                format!(
                    "{policy}: {} {are} enough: {}{but} (wanted: {wanted}).",
                    gpus(run.gpus),
                    run.result
                )
            }
            None => runs.last().map_or_else(String::new, |run| {
                let are = if run.gpus == 1 { "is" } else { "are" };
                format!(
                    "{policy}: {} {are} not enough: {} (wanted: {wanted}).",
                    gpus(run.gpus),
                    run.result
                )
            }),
        }
    };
    policies.into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(enough: &[bool], expected: &str) {
        let tried: Vec<Tried> = enough
            .iter()
            .zip(1..)
            .map(|(enough, gpus)| Tried {
                policy: "lru".to_owned(),
                gpus,
                enough: *enough,
                result: format!("one waits {gpus} s"),
            })
            .collect();
        assert_eq!(answers(&tried, "x"), [expected]);
    }

    #[test]
    fn the_smallest_number_that_is_enough() {
        check(
            &[true, true],
            "lru: 1 GPU is enough: one waits 1 s (wanted: x).",
        );
        check(
            &[false, true, true],
            "lru: 2 GPUs are enough: one waits 2 s; with 1 GPU one waits 1 s (wanted: x).",
        );
        check(
            &[false, false],
            "lru: 2 GPUs are not enough: one waits 2 s (wanted: x).",
        );
        assert!(answers(&[], "x").is_empty());
    }
}
