//! What a request of a model asks for, by its path and method alone: a local document, something forbidden, or work.

use crate::{path, row::Row};

/// Documents of engines that never wake and are no use of the model.
const ENGINE_DOCUMENTS: [&[u8]; 6] = [
    b"/metrics",
    b"/version",
    b"/ping",
    b"/docs",
    b"/redoc",
    b"/openapi.json",
];

/// A document that the gate answers from the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalDocument {
    /// `/status`
    Status,
    /// `/v1/models`
    Models,
    /// `/health`
    Health,
}

/// What a path behind a model's prefix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answered from the row, in every state.
    Local(LocalDocument),
    /// Refused: engines are not controlled through the gateway.
    ControlPath,
    /// A document of the engine that the operator does not expose.
    HiddenDocument,
    /// A document of the engine that the operator exposes; forwarded only while the model serves.
    ExposedDocument,
    /// Anything else goes to the engine.
    Work,
}

/// Classifies the normalised path of a request (prefix stripped).
pub fn kind(row: &Row, normalised: &[u8]) -> Kind {
    match normalised {
        b"/status" => return Kind::Local(LocalDocument::Status),
        b"/v1/models" => return Kind::Local(LocalDocument::Models),
        b"/health" => return Kind::Local(LocalDocument::Health),
        _ => {}
    }
    let lower = normalised.to_ascii_lowercase();
    if row
        .control_paths
        .iter()
        .any(|control| covers(control, &lower))
    {
        return Kind::ControlPath;
    }
    let is_document = ENGINE_DOCUMENTS.iter().any(|document| {
        lower
            .strip_prefix(*document)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    });
    if !is_document {
        Kind::Work
    } else if row.expose.iter().any(|exposed| covers(exposed, &lower)) {
        Kind::ExposedDocument
    } else {
        Kind::HiddenDocument
    }
}

/// An entry that ends in a slash covers itself and everything below it.
fn covers(entry: &str, path: &[u8]) -> bool {
    match entry.strip_suffix('/') {
        Some(folder) => path
            .strip_prefix(folder.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")),
        None => path == entry.as_bytes(),
    }
}

/// What a request that is not forwarded at once deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It wakes the model and may be held.
    Wakes,
    /// It is answered 503 `asleep`.
    Looks,
    /// It is answered 204.
    Options,
}

/// POST and upgrades wake, and GET under `/v1/`. `upgrade` is the header of that name: h2c is no wish for the model.
pub fn wish(method: &[u8], upgrade: Option<&[u8]>, normalised: &[u8]) -> Wish {
    match method {
        b"OPTIONS" => Wish::Options,
        b"POST" => Wish::Wakes,
        b"GET" if normalised.starts_with(b"/v1/") => Wish::Wakes,
        _ if upgrade.is_some_and(|protocol| !protocol.eq_ignore_ascii_case(b"h2c")) => Wish::Wakes,
        _ => Wish::Looks,
    }
}

/// Seconds that the client wants to wait at most: the preference `wait` of RFC 7240 in a `Prefer` header.
pub fn preferred_wait(prefer: &[u8]) -> Option<u64> {
    prefer
        .split(|byte| matches!(byte, b',' | b';'))
        .find_map(|preference| {
            let (name, value) = std::str::from_utf8(preference).ok()?.split_once('=')?;
            let seconds = value.trim().trim_matches('"');
            name.trim()
                .eq_ignore_ascii_case("wait")
                .then(|| seconds.parse().ok())
                .flatten()
        })
}

/// A request of a model: its bytes for the engine and the form in which it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What the engine gets as its path.
    pub forwarded: Vec<u8>,
    /// For comparisons.
    pub normalised: Vec<u8>,
}

impl Target {
    /// The request behind a prefix of this length.
    pub fn behind(path: &[u8], prefix_length: usize) -> Self {
        let forwarded = path::behind_prefix(path, prefix_length);
        let normalised = path::normalised(&forwarded);
        Self {
            forwarded,
            normalised,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wakes() {
        for (method, upgrade, path, expected) in [
            ("POST", None, "/anything", Wish::Wakes),
            ("GET", None, "/v1/responses/1", Wish::Wakes),
            ("GET", None, "/", Wish::Looks),
            ("HEAD", None, "/v1/responses/1", Wish::Looks),
            ("GET", Some("WebSocket"), "/realtime", Wish::Wakes),
            ("GET", Some("h2c"), "/", Wish::Looks),
            ("OPTIONS", None, "/v1/chat/completions", Wish::Options),
            ("DELETE", None, "/v1/responses/1", Wish::Looks),
            ("", None, "", Wish::Looks),
        ] {
            let found = wish(
                method.as_bytes(),
                upgrade.map(str::as_bytes),
                path.as_bytes(),
            );
            assert_eq!(found, expected, "{method} {path}");
        }
    }

    #[test]
    fn prefer_wait() {
        for (header, expected) in [
            ("wait=10", Some(10)),
            ("respond-async, wait=0", Some(0)),
            ("Wait = \"7\" ; foo", Some(7)),
            ("wait=-1", None),
            ("waiting=3", None),
            ("wait", None),
            ("", None),
        ] {
            assert_eq!(preferred_wait(header.as_bytes()), expected, "{header}");
        }
        assert_eq!(preferred_wait(b"\xff=3, wait=4"), Some(4));
    }
}
