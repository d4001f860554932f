//! What was worked out already. Most of what can happen in a state concerns one core or one gate, and happens to the same core or the
//! same gate in many other states as well; it is carried out and read once.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt::{Debug, Write},
    hash::BuildHasherDefault,
    sync::Arc,
};

use greenthread_core::{Core, effect::Effect};
use greenthread_filter::gate::{Gate, Verdict};

use crate::{
    checker::Direct,
    fingerprint::Hash,
    rendering::{Scope, Token, tokens},
    world::{Down, GateEffect},
};

/// Most results of a kind that are kept; then all of them are forgotten.
const MOST: usize = 50_000;

thread_local! {
    /// Where texts are written: they are long, and there are many.
    static TEXT: RefCell<String> = RefCell::default();
}

/// A core or a gate, with what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Known<T> {
    pub(crate) value: Arc<T>,
    /// A hash of its whole text: who has the same is the same.
    pub(crate) id: u128,
    pub(crate) tokens: Arc<[Token]>,
}

impl<T: Debug> Known<T> {
    /// Reads the text of a value, once.
    pub(crate) fn new(value: T, scope: Scope) -> Self {
        let (id, tokens) = TEXT.with_borrow_mut(|text| {
            text.clear();
            // Writing to a string does not fail.
            let _ = write!(text, "{value:?}");
            (Hash::of(text), tokens(text, scope))
        });
        Self {
            value: Arc::new(value),
            id,
            tokens,
        }
    }
}

/// A core after one event.
#[derive(Debug)]
pub(crate) struct CoreAfter {
    pub(crate) core: Known<Core>,
    pub(crate) effects: Vec<Effect>,
}

/// A gate after one call.
#[derive(Debug)]
pub(crate) struct GateAfter {
    pub(crate) gate: Known<Gate>,
    pub(crate) effects: Vec<GateEffect>,
    pub(crate) verdict: Option<Verdict>,
}

type Kept<T> = RefCell<HashMap<u128, T, BuildHasherDefault<Direct>>>;

/// Results, by a hash of everything that they follow from.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    pub(crate) cores: Results<Arc<CoreAfter>>,
    /// Cores by their own hash: many ways lead to the same.
    pub(crate) same: Results<Known<Core>>,
    pub(crate) gates: Results<Arc<GateAfter>>,
    /// Messages of control.
    pub(crate) downs: Results<Arc<Down>>,
    /// Whether a gate would forward a request.
    pub(crate) forwards: Results<bool>,
}

impl Memo {
    /// Forgets everything: time has passed, and nothing happens twice at the same moment.
    pub(crate) fn clear(&self) {
        self.cores.0.borrow_mut().clear();
        self.same.0.borrow_mut().clear();
        self.gates.0.borrow_mut().clear();
        self.downs.0.borrow_mut().clear();
        self.forwards.0.borrow_mut().clear();
    }
}

/// Results of one kind.
#[derive(Debug)]
pub(crate) struct Results<T>(Kept<T>);

impl<T> Default for Results<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: Clone> Results<T> {
    /// What is known, or what is worked out now.
    pub(crate) fn get(&self, key: u128, work: impl FnOnce() -> T) -> T {
        if let Some(known) = self.0.borrow().get(&key) {
            return known.clone();
        }
        let new = work();
        let mut kept = self.0.borrow_mut();
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(key, new.clone());
        new
    }
}

/// A hash of values, for a key.
pub(crate) fn key(numbers: &[u128], text: &impl Debug) -> u128 {
    let mut hash = Hash::default();
    for number in numbers {
        hash.add(*number as u64);
        hash.add((*number >> 64) as u64);
    }
    // A hash takes everything.
    let _ = write!(hash, "{text:?}");
    hash.end()
}
