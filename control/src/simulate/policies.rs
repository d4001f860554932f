//! The policies that replay knows, by name: those of the core, and OPT, which looks into the future and is their bound.

use greenthread_core::policy;

use super::{
    slots::{Belady, Eviction, OfCore},
    trace::Trace,
};

/// The default of the product, and the upper end of the gap that others close.
pub(super) const LRU: &str = "lru";
/// The bound, and the lower end of the gap.
pub(super) const OPT: &str = "opt";

/// One policy.
#[derive(Clone, Copy, Debug)]
pub(super) enum Policy {
    /// One of the core.
    OfCore(&'static policy::Policy),
    /// Belady, from the trace itself.
    Future,
}

/// Every policy, in the order of reports: those of the core, the bound last.
pub(super) fn all() -> Vec<Policy> {
    let of_core = policy::Policy::ALL.iter().copied().map(Policy::OfCore);
    of_core.chain([Policy::Future]).collect()
}

impl Policy {
    /// Name on the command line and in reports.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::OfCore(policy) => policy.name,
            Self::Future => OPT,
        }
    }

    /// The policy of the core; `None`: it needs the future, so no product can run it.
    pub(super) const fn of_core(self) -> Option<&'static policy::Policy> {
        match self {
            Self::OfCore(policy) => Some(policy),
            Self::Future => None,
        }
    }

    /// The policy among equal places.
    pub(super) fn eviction(self, trace: &Trace) -> Box<dyn Eviction> {
        match self {
            Self::OfCore(policy) => Box::new(OfCore::new(policy, trace)),
            Self::Future => Box::new(Belady::of(trace)),
        }
    }
}

/// A name that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy `{name}`; known are {}, and `all` for every one", names().join(", "))]
pub struct UnknownPolicy {
    /// The name.
    pub name: String,
}

/// The policies that names stand for, each once, in the order of [`all`]; no name and `all` mean every one.
///
/// # Errors
/// A name that is no policy.
pub(super) fn named(wanted: &[String]) -> Result<Vec<Policy>, UnknownPolicy> {
    let unknown = |name: &&String| *name != "all" && !names().contains(&name.as_str());
    if let Some(name) = wanted.iter().find(unknown) {
        return Err(UnknownPolicy { name: name.clone() });
    }
    let every = wanted.is_empty() || wanted.iter().any(|name| name == "all");
    let asked = |policy: &Policy| every || wanted.iter().any(|name| name == policy.name());
    Ok(all().into_iter().filter(asked).collect())
}

/// Every policy with who goes first by it, a line each, for `--help`.
pub(super) fn explained() -> String {
    let rule = |policy: Policy| match policy {
        Policy::OfCore(policy) => policy.rule,
        Policy::Future => "next used latest, which only the trace knows: the bound",
    };
    let lines = all()
        .into_iter()
        .map(|policy| format!("\n  {:<10}  {}", policy.name(), rule(policy)));
    format!(
        "Policies, and who makes room first:{}",
        lines.collect::<String>()
    )
}

fn names() -> Vec<&'static str> {
    all().into_iter().map(Policy::name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        named(&wanted)
            .unwrap()
            .iter()
            .map(|policy| policy.name())
            .collect()
    }

    #[test]
    fn names_choose_policies() {
        assert_eq!(chosen(&["opt", "lru", "opt"]), ["lru", "opt"]);
        assert_eq!(chosen(&["all", "lru"]), names());
        assert_eq!(chosen(&[]), names());
        let explained = explained();
        for name in names() {
            assert!(
                explained.contains(&format!("\n  {name:<10}  ")),
                "{explained}"
            );
        }
        let error = named(&["fifo".to_owned()]).unwrap_err().to_string();
        assert!(
            error.starts_with("there is no policy `fifo`; known are lru, ")
                && error.ends_with("for every one"),
            "{error}"
        );
    }
}
