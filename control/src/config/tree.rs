//! YAML as a tree in which every value knows its line. Scalars keep the text that was written (`1.10` stays `1.10`), so that what a
//! field means is decided by the field and not by YAML's guess. Aliases and merges are already resolved; duplicate keys are errors.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

/// A value and the line on which it stands (from 1).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing was written after the colon.
    Empty,
    /// Text as it was written, without quotes.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) value: Node,
}

/// The text is no YAML: the line, and what the parser says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) line: u64,
    pub(super) cause: String,
}

/// Reads one YAML document. An empty one is an empty map.
pub(super) fn parse(text: &str) -> Result<Node, Malformed> {
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::Error };
    let raw = serde_saphyr::from_str_with_options::<Option<Spanned<Raw>>>(text, options)
        .map_err(|error| malformed(&error))?;
    Ok(raw.map_or(
        Node {
            line: 1,
            value: Value::Map(Vec::new()),
        },
        |raw| node(raw, text),
    ))
}

fn malformed(error: &serde_saphyr::Error) -> Malformed {
    let bare = error.without_snippet();
    let line = bare.location().map_or(1, |location| location.line().max(1));
    let cause = if let serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } = bare {
        format!("{key} is given twice; remove one of the two")
    } else {
        let text = bare.to_string();
        text.lines().next().unwrap_or("this is no YAML").to_owned()
    };
    Malformed { line, cause }
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let value = match raw.value {
        Raw::Empty => Value::Empty,
        Raw::Text(scalar) => Value::Scalar(scalar),
        Raw::Typed(rendered) => Value::Scalar(written(&raw.defined, text).unwrap_or(rendered)),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, text)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    line: key.referenced.line(),
                    key: key.value,
                    value: node(value, text),
                })
                .collect(),
        ),
    };
    Node {
        line: raw.referenced.line(),
        value,
    }
}

/// The characters of a plain scalar as they stand in the file.
fn written(at: &Location, text: &str) -> Option<String> {
    let start = usize::try_from(at.span().byte_offset()?).ok()?;
    let length = usize::try_from(at.span().byte_len()?).ok()?;
    let scalar = text.get(start..start.checked_add(length)?)?.trim();
    (!scalar.is_empty()).then(|| scalar.to_owned())
}

/// What serde hands over, before lines and written text are put in.
enum Raw {
    Empty,
    Text(String),
    /// A number or a truth value, as serde renders it.
    Typed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Empty)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Empty)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: &Node, key: &str) -> Node {
        let Value::Map(entries) = &node.value else {
            panic!("a map, not {node:?}")
        };
        entries
            .iter()
            .find(|entry| entry.key == key)
            .expect("the key")
            .value
            .clone()
    }

    #[test]
    fn values_keep_their_line_and_their_writing() {
        let tree = parse("a:\n  b: 1.10\n  c: [x, \"0x1F\", 007, true]\nd:\n").expect("YAML");
        assert_eq!(
            entry(&entry(&tree, "a"), "b"),
            Node {
                line: 2,
                value: Value::Scalar("1.10".into())
            }
        );
        let Value::List(items) = entry(&entry(&tree, "a"), "c").value else {
            panic!("a list")
        };
        let texts: Vec<_> = items.into_iter().map(|item| item.value).collect();
        assert_eq!(
            texts,
            ["x", "0x1F", "007", "true"].map(|text| Value::Scalar(text.into()))
        );
        assert_eq!(entry(&tree, "d").value, Value::Empty);
    }

    #[test]
    fn what_is_no_tree_names_its_line() {
        assert_eq!(
            parse("a: 1\nb: 2\na: 3\n"),
            Err(Malformed {
                line: 3,
                cause: "a is given twice; remove one of the two".into()
            })
        );
        assert_eq!(parse("a: 1\n b: [\n").expect_err("broken").line, 2);
        assert_eq!(parse("").expect("empty").value, Value::Map(Vec::new()));
        assert_eq!(
            parse("# only a comment\n").expect("empty").value,
            Value::Map(Vec::new())
        );
    }
}
