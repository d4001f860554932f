//! Path prefixes and names of models: which ones can be told apart from the paths of an inference API.

/// Segments that begin paths of an API. A prefix that has one would take requests meant for the gateway or for another model.
const API_SEGMENTS: [&str; 50] = [
    "abort_requests",
    "chat",
    "classify",
    "collective_rpc",
    "completions",
    "detokenize",
    "docs",
    "embeddings",
    "engine_metrics",
    "flush_cache",
    "generate",
    "get_loads",
    "get_model_info",
    "get_server_info",
    "ha",
    "health",
    "health_generate",
    "invocations",
    "is_paused",
    "is_sleeping",
    "liveness",
    "load",
    "load_lora_adapter",
    "metrics",
    "openapi.json",
    "parse",
    "pause",
    "ping",
    "pooling",
    "props",
    "readiness",
    "redoc",
    "rerank",
    "reset_mm_cache",
    "reset_prefix_cache",
    "resume",
    "score",
    "server_info",
    "sleep",
    "slots",
    "status",
    "tokenize",
    "unload_lora_adapter",
    "v1",
    "v1beta",
    "v2",
    "version",
    "wake_up",
    "wasm",
    "workers",
];

/// A prefix without slashes at its ends. Slashes around it are tolerated, since paths are often written so.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('/').unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    if bare.is_empty() {
        return Err(
            "the prefix is empty; every model needs at least one path segment of its own"
                .to_owned(),
        );
    }
    if bare.len() > 200 {
        return Err("the prefix is longer than 200 characters; choose a shorter one".to_owned());
    }
    for segment in bare.split('/') {
        segment_is_usable(segment)?;
    }
    Ok(bare.to_owned())
}

fn segment_is_usable(segment: &str) -> Result<(), String> {
    if segment.is_empty() {
        return Err("the prefix has an empty segment; write one slash between segments".to_owned());
    }
    if segment == "." || segment == ".." {
        return Err(format!(
            "the segment {segment} is resolved away by clients; leave it out"
        ));
    }
    if let Some(odd) = segment
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~')))
    {
        return Err(format!(
            "the character {odd:?} cannot stand in a prefix; use letters, digits, '-', '_', '.' and '~'"
        ));
    }
    let lower = segment.to_ascii_lowercase();
    if API_SEGMENTS.contains(&lower.as_str()) {
        return Err(format!(
            "the segment {segment} begins paths of the API itself; choose another word, or put another segment's word in its place"
        ));
    }
    Ok(())
}

/// A model's name: what Kubernetes accepts too, and no file of ours under `logs/`.
pub(super) fn name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let shaped = text.len() <= 63
        && text.starts_with(inner)
        && text.ends_with(inner)
        && text.chars().all(|c| inner(c) || matches!(c, '-' | '.'));
    if !shaped {
        return Err(format!(
            "{text:?} is no name; use at most 63 of a-z, 0-9, '-' and '.', with a letter or digit at both ends (a path with slashes belongs into prefixes)"
        ));
    }
    if ["access", "control", "envoy"].contains(&text) {
        return Err(format!(
            "{text} is the name of a log file of GreenThread's own; choose another name"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (text, parsed) in [
            ("llama", "llama"),
            ("/team-a/whisper/", "team-a/whisper"),
            ("Qwen2.5_7~B", "Qwen2.5_7~B"),
            ("models/v3", "models/v3"),
        ] {
            assert_eq!(prefix(text).as_deref(), Ok(parsed), "{text}");
        }
        for text in [
            "",
            "/",
            "a//b",
            "//a",
            "a/../b",
            ".",
            "a b",
            "a%2Fb",
            "a?b",
            "é",
            "v1",
            "team/V1",
            "a/status/b",
            "openapi.json",
            &"x".repeat(201),
        ] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        for text in ["llama-3-8b", "qwen2.5", "7b", "a"] {
            assert_eq!(name(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "Llama",
            "a/b",
            "-a",
            "a-",
            "a_b",
            "envoy",
            &"x".repeat(64),
        ] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_list_is_in_order() {
        assert!(API_SEGMENTS.is_sorted());
    }
}
