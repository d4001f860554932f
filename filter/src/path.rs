//! Paths: which part names the model, what is forwarded, and the form in which paths are compared.
//!
//! Works on bytes: a path from a client is not UTF-8 until proven. What is forwarded are the client's own bytes; only
//! comparisons use the normalised form.

use std::collections::BTreeMap;

/// The path without query and fragment.
pub fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| matches!(byte, b'?' | b'#'))
        .next()
        .unwrap_or_default()
}

/// Decoded once, slashes merged, dot segments resolved and clamped at the root, no slash at the end, no query.
pub fn normalised(path: &[u8]) -> Vec<u8> {
    let decoded = decoded_once(without_query(path));
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    let mut path = Vec::with_capacity(decoded.len());
    for segment in segments {
        path.push(b'/');
        path.extend_from_slice(segment);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}

/// Replaces each `%XX`; what is not a valid escape stays as it is.
fn decoded_once(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high)
                .zip(hex(*low))
                .map(|(high, low)| (high << 4 | low, after)),
            (_, _) => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, tail));
        decoded.push(byte);
        rest = after;
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// What goes to the engine: the path behind the prefix. A bare prefix becomes `/`; `/v1/v1/` becomes `/v1/`, because the
/// Anthropic SDK appends `/v1/messages` to a base URL that ends in `/v1` already.
pub fn behind_prefix(path: &[u8], prefix_length: usize) -> Vec<u8> {
    let rest = path.get(prefix_length..).unwrap_or_default();
    if rest.starts_with(b"/v1/v1/") {
        return rest.get(b"/v1".len()..).unwrap_or_default().to_vec();
    }
    if rest.first() == Some(&b'/') {
        return rest.to_vec();
    }
    let mut forwarded = Vec::with_capacity(rest.len().saturating_add(1));
    forwarded.push(b'/');
    forwarded.extend_from_slice(rest);
    forwarded
}

/// Prefixes of one or more segments, each with what it stands for. The longest one that ends where a segment ends wins.
#[derive(Clone, Debug)]
pub struct Prefixes<T> {
    known: BTreeMap<Vec<u8>, T>,
    most_segments: usize,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            most_segments: 0,
        }
    }
}

impl<T> Prefixes<T> {
    /// Adds a prefix without slashes at its ends; an equal one is replaced.
    pub fn insert(&mut self, prefix: &str, value: T) {
        self.most_segments = self.most_segments.max(prefix.split('/').count());
        self.known.insert(prefix.as_bytes().to_vec(), value);
    }

    /// The value of the longest prefix of `path`, and the number of bytes it covers with the slash before it.
    pub fn longest(&self, path: &[u8]) -> Option<(&T, usize)> {
        let rest = without_query(path).strip_prefix(b"/")?;
        let slashes = rest
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at);
        let mut found = None;
        for end in slashes.chain([rest.len()]).take(self.most_segments) {
            let value = rest.get(..end).and_then(|prefix| self.known.get(prefix));
            found = value.map(|value| (value, end.saturating_add(1))).or(found);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_normalised(path: &str, expected: &str) {
        assert_eq!(
            String::from_utf8_lossy(&normalised(path.as_bytes())),
            expected,
            "{path}"
        );
    }

    #[test]
    fn normalised_form() {
        for (path, expected) in [
            ("", "/"),
            ("/", "/"),
            ("/sleep", "/sleep"),
            ("/sleep/", "/sleep"),
            ("//sleep", "/sleep"),
            ("/%73leep", "/sleep"),
            ("/%2573leep", "/%73leep"),
            ("/a/%2e%2e/sleep", "/sleep"),
            ("/../../sleep", "/sleep"),
            ("/a/./b", "/a/b"),
            ("/a%2Fb", "/a/b"),
            ("/sleep?level=1", "/sleep"),
            ("/sleep#x", "/sleep"),
            ("/sleep%3Fx", "/sleep?x"),
            ("/%", "/%"),
            ("/%z1%4", "/%z1%4"),
        ] {
            check_normalised(path, expected);
        }
    }

    fn check_prefix(path: &str, expected: Option<(&str, &str)>) {
        let mut prefixes = Prefixes::default();
        for prefix in ["llama", "a", "a/b", "team-a/whisper"] {
            prefixes.insert(prefix, prefix);
        }
        let found = prefixes
            .longest(path.as_bytes())
            .map(|(prefix, length)| (*prefix, behind_prefix(path.as_bytes(), length)));
        let expected = expected.map(|(prefix, rest)| (prefix, rest.as_bytes().to_vec()));
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn longest_prefix_at_a_segment_boundary() {
        for (path, expected) in [
            (
                "/llama/v1/chat/completions",
                Some(("llama", "/v1/chat/completions")),
            ),
            ("/llama", Some(("llama", "/"))),
            ("/llama/", Some(("llama", "/"))),
            ("/llama?x=1", Some(("llama", "/?x=1"))),
            ("/llama#f", Some(("llama", "/#f"))),
            ("/llamas/v1", None),
            ("/llam", None),
            ("/LLAMA/v1", None),
            ("//llama/v1", None),
            ("/?llama", None),
            ("llama/v1", None),
            ("*", None),
            ("", None),
            ("/a/b/c", Some(("a/b", "/c"))),
            ("/a/bc", Some(("a", "/bc"))),
            ("/a/b", Some(("a/b", "/"))),
            ("/team-a", None),
            (
                "/team-a/whisper/v1/audio?x=/y",
                Some(("team-a/whisper", "/v1/audio?x=/y")),
            ),
            (
                "/llama/v1/v1/messages?beta=true",
                Some(("llama", "/v1/messages?beta=true")),
            ),
            ("/llama/v1/v1", Some(("llama", "/v1/v1"))),
            ("/llama//v1", Some(("llama", "//v1"))),
            ("/llama/%2e%2e/x", Some(("llama", "/%2e%2e/x"))),
        ] {
            check_prefix(path, expected);
        }
    }
}
