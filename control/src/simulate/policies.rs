//! The policies that replay knows, by name: those of the core, and OPT, which looks into the future and is their bound.
//!
//! A new policy of the core is one row of [`ALL`].

use greenthread_core::policy;

use super::{
    slots::{Belady, Choose, Eviction, OfCore},
    trace::Trace,
};

/// What decides.
#[derive(Clone, Copy, Debug)]
enum Decides {
    /// A function of the core.
    Core(Choose),
    /// Belady, from the trace itself.
    Future,
}

/// One policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Name on the command line and in reports.
    pub(super) name: &'static str,
    decides: Decides,
}

/// Every policy, in the order of reports: the default of the product first, the bound last.
pub(super) const ALL: [Policy; 2] = [
    Policy {
        name: LRU,
        decides: Decides::Core(policy::choose),
    },
    Policy {
        name: OPT,
        decides: Decides::Future,
    },
];
/// The default of the product, and the upper end of the gap that others close.
pub(super) const LRU: &str = "lru";
/// The bound, and the lower end of the gap.
pub(super) const OPT: &str = "opt";

impl Policy {
    /// Whether it needs the future: a bound, which no product can run.
    pub(super) const fn is_bound(self) -> bool {
        match self.decides {
            Decides::Core(_) => false,
            Decides::Future => true,
        }
    }

    /// The policy among equal places.
    pub(super) fn eviction(self, trace: &Trace) -> Box<dyn Eviction> {
        match self.decides {
            Decides::Core(choose) => Box::new(OfCore::new(choose, trace)),
            Decides::Future => Box::new(Belady::of(trace)),
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

/// The policies that names stand for, each once, in the order of [`ALL`]; no name and `all` mean every one.
///
/// # Errors
/// A name that is no policy.
pub(super) fn named(wanted: &[String]) -> Result<Vec<Policy>, UnknownPolicy> {
    let unknown = |name: &&String| *name != "all" && !names().contains(&name.as_str());
    if let Some(name) = wanted.iter().find(unknown) {
        return Err(UnknownPolicy { name: name.clone() });
    }
    let every = wanted.is_empty() || wanted.iter().any(|name| name == "all");
    let asked = |policy: &Policy| every || wanted.iter().any(|name| name == policy.name);
    Ok(ALL.into_iter().filter(asked).collect())
}

fn names() -> Vec<&'static str> {
    ALL.iter().map(|policy| policy.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        named(&wanted)
            .unwrap()
            .iter()
            .map(|policy| policy.name)
            .collect()
    }

    #[test]
    fn names_choose_policies() {
        assert_eq!(chosen(&["opt", "lru", "opt"]), ["lru", "opt"]);
        assert_eq!(chosen(&["all", "lru"]), names());
        assert_eq!(chosen(&[]), names());
        let error = named(&["fifo".to_owned()]).unwrap_err().to_string();
        assert!(
            error.starts_with("there is no policy `fifo`; known are lru, ")
                && error.ends_with("for every one"),
            "{error}"
        );
    }
}
