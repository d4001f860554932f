//! The search: every state that can be reached within the bounds, in the order of the clock, then of the number of steps.
//!
//! Of a state only its fingerprint is kept, and how it was reached; so a broken rule comes with the shortest way to it among those that
//! take the least time. Searching in the order of the clock makes the bound exact: a state is first met with the most time left.
//! States that differ only by when they happen are one, so that waiting costs nothing.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

use crate::{
    BEGINNING, TICK,
    fingerprint::fingerprint,
    memo::Memo,
    row::Row,
    settle,
    world::{Action, Step, World},
};

/// Ticks before anything may go wrong: the first control has waited, the gates have their lease.
const WARM_UP: u64 = 12;

/// A way to a broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// Which rule.
    pub rule: String,
    /// Actions to it.
    pub steps: usize,
    /// Sentences, one per line, with the time in ticks.
    pub trace: String,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The configuration's name.
    pub name: &'static str,
    /// Different states.
    pub states: usize,
    /// Actions carried out.
    pub transitions: usize,
    /// Most actions from the beginning to a state, by the shortest way.
    pub depth: usize,
    /// Ticks of the clock.
    pub clock: u64,
    /// There was nothing left to look at within the bounds.
    pub exhausted: bool,
    /// States of the last tick that were let run on until nobody waited.
    pub continued: usize,
    /// Pairs of states that were taken for one and compared, action by action.
    pub audited: usize,
    /// How long it took.
    pub took: Duration,
    /// The first broken rule.
    pub broken: Option<Counterexample>,
}

impl Found {
    /// What stands above the columns of its text.
    pub const HEADINGS: &str = "row                                          clock  depth   states  transitions  run on  audited  seconds  exhausted";
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            states,
            transitions,
            depth,
            clock,
            exhausted,
            continued,
            audited,
            took,
            broken,
        } = self;
        let exhausted = if *exhausted { "yes" } else { "no" };
        let seconds = took.as_secs_f64();
        write!(
            f,
            "{name:<44} {clock:>5} {depth:>6} {states:>8} {transitions:>12} {continued:>7} {audited:>8} {seconds:>8.1}  {exhausted}"
        )?;
        if let Some(broken) = broken {
            let Counterexample { rule, steps, trace } = broken;
            write!(f, "\n  broken after {steps} steps: {rule}\n{trace}")?;
        }
        Ok(())
    }
}

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
pub(crate) struct Direct(u64);

impl Hasher for Direct {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// Many fingerprints.
pub(crate) type Prints = HashSet<u128, BuildHasherDefault<Direct>>;

type Visited = HashMap<u128, u32, BuildHasherDefault<Direct>>;

/// How a state was reached.
struct Node {
    parent: u32,
    depth: u32,
    action: Action,
}

/// One search.
struct Search<'a> {
    row: &'a Row,
    visited: Visited,
    nodes: Vec<Node>,
    /// What follows from states that are audited.
    successors: HashMap<u128, u128, BuildHasherDefault<Direct>>,
    /// States that were taken for one that was not looked at yet, with what follows from them.
    pending: Vec<(u128, u128, u32, Action)>,
    /// So many are looked at together.
    pending_most: usize,
    memo: Memo,
    /// States from which everything comes to its end.
    settled: Prints,
    found: Found,
}

/// Explores a configuration to its bounds, or to the first broken rule.
pub fn explore(row: &Row) -> Found {
    let began = Instant::now();
    let mut search = Search {
        row,
        visited: Visited::default(),
        nodes: Vec::new(),
        successors: HashMap::default(),
        pending: Vec::new(),
        pending_most: 0,
        memo: Memo::default(),
        settled: Prints::default(),
        found: Found {
            name: row.name,
            states: 0,
            transitions: 0,
            depth: 0,
            clock: row.clock,
            exhausted: false,
            continued: 0,
            audited: 0,
            took: Duration::ZERO,
            broken: None,
        },
    };
    match start(row) {
        Ok(world) => search.layers(world),
        Err(rule) => {
            search.found.broken = Some(Counterexample {
                rule,
                steps: 0,
                trace: "  before anything could go wrong".to_owned(),
            })
        }
    }
    search.found.took = began.elapsed();
    search.found
}

/// A world in which both gates serve, and from which everything in the budget may happen.
fn start(row: &Row) -> Result<World, String> {
    let world = settle::run(&World::new(row), row, &Memo::default(), WARM_UP, |_| false)?;
    Ok(World {
        left: row.budget,
        ..world
    })
}

impl Search<'_> {
    /// Every state of one tick, then those of the next.
    fn layers(&mut self, first: World) {
        let end = first.now + self.row.clock * TICK.0;
        self.visited.insert(fingerprint(&first), 0);
        self.nodes.push(Node {
            parent: 0,
            depth: 0,
            action: Action::Tick,
        });
        let mut layer = vec![(0, first)];
        while !layer.is_empty() {
            layer = match self.layer(layer, end) {
                Some(next) => next,
                None => return,
            };
        }
        self.audit_pending();
        self.found.exhausted = self.found.broken.is_none();
    }

    /// The states of one tick, nearest first; returns those of the next, or nothing when the search is over.
    fn layer(&mut self, mut level: Vec<(u32, World)>, end: u64) -> Option<Vec<(u32, World)>> {
        let mut later = Vec::new();
        while !level.is_empty() {
            let mut next = Vec::new();
            for (node, world) in level {
                self.expand(node, &world, end, &mut next, &mut later);
                if self.found.broken.is_some() || self.found.states > self.row.most_states {
                    return None;
                }
            }
            level = next;
        }
        self.memo.clear();
        Some(later)
    }

    fn expand(
        &mut self,
        node: u32,
        world: &World,
        end: u64,
        next: &mut Vec<(u32, World)>,
        later: &mut Vec<(u32, World)>,
    ) {
        let own = fingerprint(world);
        let mut follows = Prints::default();
        let is_audited = own.is_multiple_of(self.row.audited);
        for action in world.actions(self.row) {
            let mut step = Step::new(self.row, &self.memo, false);
            let after = world.after(action, &mut step);
            self.found.transitions += 1;
            if let Some(rule) = step.broken {
                self.found.broken = Some(self.counterexample(rule, node, Some(action)));
                return;
            }
            let print = fingerprint(&after);
            if is_audited {
                follows.insert(print);
            }
            if after.now > end {
                continue;
            }
            if self.visited.contains_key(&print) {
                self.audit(print, &after, node, action);
                continue;
            }
            let number = self.remember(print, node, action);
            if action == Action::Tick {
                later.push((number, after));
            } else {
                next.push((number, after));
            }
        }
        if is_audited {
            self.successors.insert(own, combined(&follows));
        }
        if world.now == end {
            self.found.continued += 1;
            if let Err(rule) = settle::settles(world, self.row, &self.memo, &mut self.settled) {
                self.found.broken = Some(self.counterexample(rule, node, None));
            }
        }
    }

    fn remember(&mut self, print: u128, parent: u32, action: Action) -> u32 {
        let depth = self.nodes[parent as usize].depth + 1;
        // Fewer states than this fit into any memory.
        let number = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Node {
            parent,
            depth,
            action,
        });
        self.visited.insert(print, number);
        self.found.states = self.nodes.len();
        self.found.depth = self.found.depth.max(depth as usize);
        number
    }

    /// A state that is taken for one that is known: does the same follow from both?
    fn audit(&mut self, print: u128, world: &World, parent: u32, action: Action) {
        if !print.is_multiple_of(self.row.audited) {
            return;
        }
        let after =
            |action| fingerprint(&world.after(action, &mut Step::new(self.row, &self.memo, false)));
        let follows: Prints = world.actions(self.row).into_iter().map(after).collect();
        self.pending
            .push((print, combined(&follows), parent, action));
        if self.pending.len() > self.pending_most {
            self.audit_pending();
        }
    }

    fn audit_pending(&mut self) {
        let mut waiting = Vec::new();
        for (print, follows, parent, action) in std::mem::take(&mut self.pending) {
            match self.successors.get(&print) {
                Some(known) if *known != follows && self.found.broken.is_none() => {
                    let rule = "two states are taken for one, and go on differently: a rule of `rendering` leaves out too much";
                    let mut example = self.counterexample(rule.to_owned(), parent, Some(action));
                    let other = self.visited.get(&print).map(|number| self.way(*number));
                    example.trace += &format!("  the other way: {:?}\n", other.unwrap_or_default());
                    self.found.broken = Some(example);
                }
                Some(_) => self.found.audited += 1,
                None => waiting.push((print, follows, parent, action)),
            }
        }
        self.pending_most = 10_000.max(2 * waiting.len());
        self.pending = waiting;
    }

    fn way(&self, node: u32) -> Vec<Action> {
        let mut way = Vec::new();
        let mut at = node;
        while at != 0 {
            let node = &self.nodes[at as usize];
            way.push(node.action);
            at = node.parent;
        }
        way.reverse();
        way
    }

    /// Goes the way to a broken rule once more, and writes down what happens.
    fn counterexample(&self, rule: String, node: u32, last: Option<Action>) -> Counterexample {
        let mut way = self.way(node);
        way.extend(last);
        let steps = way.len();
        let mut trace = String::new();
        let Ok(mut world) = start(self.row) else {
            return Counterexample { rule, steps, trace };
        };
        let began = world.now;
        for action in way {
            let mut step = Step::new(self.row, &self.memo, true);
            world = world.after(action, &mut step);
            let ticks = (world.now - began) / TICK.0;
            let notes = step.notes.unwrap_or_default();
            let notes = if notes.is_empty() {
                format!("{action:?}")
            } else {
                notes.join("; ")
            };
            trace += &format!("  t={ticks:<2} {action:?}: {notes}\n");
        }
        Counterexample { rule, steps, trace }
    }
}

/// One number for a set of fingerprints.
fn combined(prints: &Prints) -> u128 {
    prints.iter().fold(0, |sum, print| sum.wrapping_add(*print))
}

/// The clock's beginning is far from zero.
const _: () = assert!(BEGINNING > WARM_UP * TICK.0);
