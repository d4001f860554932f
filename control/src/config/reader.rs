//! Reads typed fields out of the tree and collects every problem with its place. A field can also come from the environment: its variable
//! is `GREENTHREAD_` and the field's path in upper snake case (`times.maxFlow`: `GREENTHREAD_TIMES_MAX_FLOW`); it wins over the file.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use super::tree::{Entry, Node, Value};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Line of the file.
    Line(u64),
    /// Environment variable.
    Variable(String),
}

/// A field and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line or variable.
    pub origin: Origin,
    /// Path of the field: `models[2].engine.port`.
    pub field: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, and the remedy.
    pub cause: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place.origin {
            Origin::Line(line) => write!(f, "{line}: ")?,
            Origin::Variable(name) => write!(f, " environment variable {name}: ")?,
        }
        if !self.place.field.is_empty() {
            write!(f, "{}: ", self.place.field)?;
        }
        f.write_str(&self.cause)
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What all sections of one file share.
#[derive(Debug, Default)]
pub(super) struct Reader<'a> {
    pub(super) environment: BTreeMap<&'a str, &'a str>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(environment: BTreeMap<&'a str, &'a str>) -> Self {
        Self {
            environment,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// Notes a problem and goes on, so that one run shows them all.
    pub(super) fn wrong(&self, place: &Place, cause: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            place: place.clone(),
            cause: cause.into(),
        });
    }

    /// Notes what is allowed and may not be meant.
    pub(super) fn warn(&self, place: &Place, cause: impl Into<String>) {
        self.warnings.borrow_mut().push(Problem {
            place: place.clone(),
            cause: cause.into(),
        });
    }

    /// Every warning so far.
    pub(super) fn warnings(&self) -> Vec<Problem> {
        self.warnings.borrow().clone()
    }

    /// Every problem in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| match problem.place.origin {
            Origin::Line(line) => line,
            Origin::Variable(_) => 0,
        });
        problems.dedup();
        problems
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }
}

/// One map of the file while it is being read. Every key must be asked for before [`Section::finish`].
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    pub(super) place: Place,
    entries: &'a [Entry],
    /// Fields can come from the environment (everything outside lists).
    from_environment: bool,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(reader: &'a Reader<'a>, tree: &'a Node) -> Self {
        Self::over(
            reader,
            Place {
                origin: Origin::Line(tree.line),
                field: String::new(),
            },
            Some(tree),
            true,
        )
    }

    /// One item of a list.
    pub(super) fn item(reader: &'a Reader<'a>, item: &'a Read<&'a Node>) -> Self {
        Self::over(reader, item.place.clone(), Some(item.value), false)
    }

    fn over(
        reader: &'a Reader<'a>,
        place: Place,
        node: Option<&'a Node>,
        from_environment: bool,
    ) -> Self {
        let entries: &[Entry] = match node.map(|node| &node.value) {
            None | Some(Value::Empty) => &[],
            Some(Value::Map(entries)) => entries,
            Some(Value::Scalar(_) | Value::List(_)) => {
                reader.wrong(
                    &place,
                    "fields are expected here; write them as `name: value`, one per line, indented",
                );
                &[]
            }
        };
        Self {
            reader,
            place,
            entries,
            from_environment,
            known: RefCell::default(),
        }
    }

    fn entry(&self, key: &'static str) -> Option<&'a Entry> {
        self.known.borrow_mut().push(key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn field(&self, key: &str) -> String {
        if self.place.field.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.place.field)
        }
    }

    /// The place of a field, also of one that was not written.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let variable = self
            .variable(key)
            .filter(|name| self.reader.environment.contains_key(name.as_str()));
        let line = || {
            self.entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| Origin::Line(entry.line))
        };
        let origin = variable
            .map(Origin::Variable)
            .or_else(line)
            .unwrap_or_else(|| self.place.origin.clone());
        Place {
            origin,
            field: self.field(key),
        }
    }

    /// Whether the file has the field.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.entry(key).is_some()
    }

    /// A section inside this one; an absent one is empty.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        let node = self.entry(key).map(|entry| &entry.value);
        Self::over(self.reader, self.place_of(key), node, self.from_environment)
    }

    /// The items of a list; an absent one has none.
    pub(super) fn list(&self, key: &'static str) -> Vec<Read<&'a Node>> {
        let place = self.place_of(key);
        match self.entry(key).map(|entry| &entry.value.value) {
            None | Some(Value::Empty) => Vec::new(),
            Some(Value::List(items)) => {
                let read = |(index, node): (usize, &'a Node)| Read {
                    value: node,
                    place: Place {
                        origin: Origin::Line(node.line),
                        field: format!("{}[{index}]", place.field),
                    },
                };
                items.iter().enumerate().map(read).collect()
            }
            Some(Value::Scalar(_) | Value::Map(_)) => {
                self.reader.wrong(
                    &place,
                    "a list is expected; write `[a, b]` or one `- item` per line",
                );
                Vec::new()
            }
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Vec<Read<String>> {
        self.list(key)
            .into_iter()
            .filter_map(|item| self.text_of(item))
            .collect()
    }

    fn text_of(&self, item: Read<&Node>) -> Option<Read<String>> {
        match &item.value.value {
            Value::Scalar(text) => Some(Read {
                value: text.clone(),
                place: item.place,
            }),
            Value::Empty | Value::List(_) | Value::Map(_) => {
                self.reader
                    .wrong(&item.place, "one word or number is expected");
                None
            }
        }
    }

    /// A map from free names to texts (an environment).
    pub(super) fn map(&self, key: &'static str) -> BTreeMap<String, String> {
        let inner = self.section(key);
        let read = |entry: &'a Entry| {
            let place = Place {
                origin: Origin::Line(entry.line),
                field: inner.field(&entry.key),
            };
            Some((
                entry.key.clone(),
                self.text_of(Read {
                    value: &entry.value,
                    place,
                })?
                .value,
            ))
        };
        inner.entries.iter().filter_map(read).collect()
    }

    /// A field, from the environment or the file, understood by `parse`; `None` when it is absent or wrong.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Read<T>> {
        let written = self.written(key)?;
        match parse(&written.value) {
            Ok(value) => Some(Read {
                value,
                place: written.place,
            }),
            Err(cause) => {
                self.reader.wrong(&written.place, cause);
                None
            }
        }
    }

    /// [`Section::read`] with a default.
    pub(super) fn read_or<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Read<T> {
        self.read(key, parse).unwrap_or_else(|| Read {
            value: default,
            place: self.place_of(key),
        })
    }

    fn written(&self, key: &'static str) -> Option<Read<String>> {
        let entry = self.entry(key);
        if let Some(value) = self
            .variable(key)
            .and_then(|name| self.reader.environment.get(name.as_str()))
        {
            return Some(Read {
                value: (*value).to_owned(),
                place: self.place_of(key),
            });
        }
        let entry = entry?;
        match entry.value.value {
            Value::Empty => None,
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => self.text_of(Read {
                value: &entry.value,
                place: self.place_of(key),
            }),
        }
    }

    /// The environment variable of a field. The token's is the one that clients read too.
    fn variable(&self, key: &str) -> Option<String> {
        if !self.from_environment {
            return None;
        }
        let field = self.field(key);
        if field == "control.token" {
            return Some("GREENTHREAD_TOKEN".to_owned());
        }
        let mut name = "GREENTHREAD_".to_owned();
        for letter in field.chars() {
            match letter {
                '.' => name.push('_'),
                upper if upper.is_ascii_uppercase() => {
                    name.push('_');
                    name.push(upper);
                }
                lower => name.push(lower.to_ascii_uppercase()),
            }
        }
        Some(name)
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        for entry in self
            .entries
            .iter()
            .filter(|entry| !known.contains(&entry.key.as_str()))
        {
            let remedy = match nearest(&entry.key, &known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known are: {}", listed(&known)),
            };
            self.reader.wrong(
                &self.place_of(&entry.key),
                format!("unknown field; {remedy}"),
            );
        }
    }
}

fn listed(known: &[&str]) -> String {
    let mut names = known.to_vec();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// The known name with the fewest edits, when there are at most two, or one for every three letters.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-'], "");
    let distance = |candidate: &&str| edits(&plain(name), &plain(candidate));
    known
        .iter()
        .copied()
        .min_by_key(distance)
        .filter(|best| distance(best) <= (name.len() / 3).max(2))
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = (diagonal + usize::from(x != y))
                .min(*cell + 1)
                .min(left + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
