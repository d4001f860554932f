//! House rules that no compiler checks: sizes, what a part may not name, files that nothing uses, and documents that name paths which
//! don't exist. Each rule is a function of a text, so that each can be seen to fail.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Longest function, in lines.
const FUNCTION_LINES_MAX: usize = 100;
/// Longest function in a folder of tests, where tables of data are functions.
const TABLE_LINES_MAX: usize = 200;
/// Longest file, in lines; generated ones may be longer.
const FILE_LINES_MAX: usize = 600;
/// Longest `ARCHITECTURE.md`, in lines.
const ARCHITECTURE_LINES_MAX: usize = 150;
/// Folders that hold no sources of ours.
const NOT_OURS: [&str; 7] = [
    ".git",
    ".cache",
    "target",
    "state",
    "node_modules",
    "__pycache__",
    ".pytest_cache",
];
/// What the core may not name: it has no clock, no I/O, no randomness, no hash order, and no arithmetic whose last bit is the machine's.
const NOT_IN_CORE: [&str; 13] = [
    "std::time",
    "std::net",
    "std::fs",
    "std::io",
    "std::env",
    "std::thread",
    "HashMap",
    "HashSet",
    "tokio",
    "println!",
    "exp(",
    "ln(",
    "powf(",
];

/// A file of ours.
struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
}

#[test]
fn nothing_is_unfinished() {
    // Put together here, so that this file does not find itself.
    let unfinished = [
        ["to", "do!"],
        ["unimple", "mented!"],
        ["d", "bg!("],
        ["#[ig", "nore"],
        ["TO", "DO"],
        ["FIX", "ME"],
    ]
    .map(|word| word.concat());
    let rule = |source: &Source| naming(source, &unfinished);
    report(rust().iter().flat_map(rule));
}

#[test]
fn functions_and_files_are_short() {
    let written: Vec<Source> = rust()
        .into_iter()
        .filter(|source| !is_generated(&source.path))
        .collect();
    report(
        written.iter().flat_map(long_functions).chain(
            written
                .iter()
                .filter_map(|source| long_file(source, FILE_LINES_MAX)),
        ),
    );
}

#[test]
fn the_core_names_no_clock_no_io_and_no_hash_order() {
    // Its tests compare with files.
    let is_core = |path: &str| path.starts_with("control/core/src/") && !path.contains("/tests/");
    let core = rust().into_iter().filter(|source| is_core(&source.path));
    report(core.flat_map(|source| naming(&source, &NOT_IN_CORE)));
    let manifest = read("control/core/Cargo.toml");
    assert_eq!(
        dependencies(&manifest.text),
        Vec::<String>::new(),
        "the core has no dependencies"
    );
}

#[test]
fn only_the_host_names_proxy_wasm() {
    let is_host = |path: &str| path == "filter/src/host.rs" || path.starts_with("filter/src/host/");
    let others = rust()
        .into_iter()
        .filter(|source| source.path.starts_with("filter/src/") && !is_host(&source.path));
    report(others.flat_map(|source| naming(&source, &["proxy_wasm"])));
}

#[test]
fn every_source_file_is_part_of_a_crate() {
    let sources = rust();
    report(
        sources
            .iter()
            .filter(|source| source.path.contains("/src/"))
            .filter_map(|source| unused(source, &sources)),
    );
}

#[test]
fn documents_name_paths_that_exist() {
    let exists = |path: &str| root().join(path).exists();
    for document in ["README.md", "ARCHITECTURE.md"] {
        if exists(document) {
            let document = read(document);
            report(
                paths(&document.text)
                    .into_iter()
                    .filter(|path| !exists(path))
                    .map(|path| format!("{}: `{path}` does not exist", document.path)),
            );
        }
    }
    if exists("ARCHITECTURE.md") {
        report(long_file(&read("ARCHITECTURE.md"), ARCHITECTURE_LINES_MAX));
    }
}

#[test]
fn every_rule_that_is_named_is_written_down() {
    let rules = read("proto/rules.md").text;
    let is_known = |name: &String| {
        let promise = format!("* **{name}** ");
        let rule = format!("{name}. **");
        rules
            .lines()
            .any(|line| line.starts_with(&promise) || line.starts_with(&rule))
    };
    report(rust().iter().flat_map(|source| {
        let unknown = rules_named(&source.text)
            .into_iter()
            .filter(|name| !is_known(name));
        let say = |name| format!("{}: proto/rules.md has no {name}", source.path);
        unknown.map(say).collect::<Vec<_>>()
    }));
}

#[test]
fn the_map_names_every_file_of_the_core_and_no_other() {
    let folder = "control/core/src/";
    let map = read("ARCHITECTURE.md").text;
    let words = map.split('`').skip(1).step_by(2);
    let mut named: Vec<&str> = words
        .filter(|word| word.ends_with(".rs") && !word.contains('/'))
        .collect();
    named.sort_unstable();
    named.dedup();
    let sources = rust();
    let files = sources
        .iter()
        .filter_map(|source| source.path.strip_prefix(folder));
    let mut files: Vec<&str> = files
        .filter(|file| !file.contains('/') && *file != "tests.rs")
        .collect();
    files.sort_unstable();
    assert_eq!(named, files, "in ARCHITECTURE.md, and in {folder}");
}

/// Numbers of rules, and promises, that comments name: of "rules 4 and 14" the 4 and the 14, of "S4" all of it.
fn rules_named(text: &str) -> Vec<String> {
    let comments = text.lines().filter_map(|line| line.split_once("//"));
    let mut named = Vec::new();
    for (_, comment) in comments {
        let mut in_rules = false;
        for word in comment.split([' ', '(', ')', ':', ';', '.', ',']) {
            let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
            let digit = word.strip_prefix('S').unwrap_or_default();
            let is_promise = digit.len() == 1 && digit.starts_with(|c: char| c.is_ascii_digit());
            if is_promise || in_rules && is_number {
                named.push(word.to_owned());
            }
            let goes_on = in_rules && (is_number || matches!(word, "and" | ""));
            in_rules = goes_on || matches!(word, "rule" | "rules" | "Rule" | "Rules");
        }
    }
    named
}

/// Lines of code that name one of the words. Comments and documentation may.
fn naming<W: AsRef<str>>(source: &Source, words: &[W]) -> Vec<String> {
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        for word in words
            .iter()
            .map(AsRef::as_ref)
            .filter(|word| names(&code(line), word))
        {
            found.push(format!("{}:{}: names {word}", source.path, at + 1));
        }
    }
    found
}

/// Whether a line names a word, and not a longer one.
fn names(line: &str, word: &str) -> bool {
    let is_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _word)| {
        let after = &line[at + word.len()..];
        let ends_as_name = is_name(word.chars().next_back());
        let longer_before = is_name(line[..at].chars().next_back());
        let longer_after = ends_as_name && is_name(after.chars().next());
        !longer_before && !longer_after
    })
}

/// Functions that are too long, by the way rustfmt indents them.
fn long_functions(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let in_tests = source.path.contains("tests/");
    let most = if in_tests {
        TABLE_LINES_MAX
    } else {
        FUNCTION_LINES_MAX
    };
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let length = lines[at..].iter().position(|line| {
            **line == end
                || line.ends_with(';') && line.starts_with(indent) && function_name(line).is_some()
        });
        if let Some(length) = length.filter(|length| *length >= most) {
            found.push(format!(
                "{}:{}: {name} has {} lines",
                source.path,
                at + 1,
                length + 1
            ));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let is_modifier = |word: &&str| {
        word.starts_with("pub")
            || matches!(
                *word,
                "async" | "const" | "unsafe" | "extern" | "crate)" | "\"C\""
            )
    };
    let word = words.by_ref().find(|word| !is_modifier(word))?;
    let name = (word == "fn").then(|| words.next())??;
    name.split(['(', '<']).next()
}

fn long_file(source: &Source, most: usize) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > most).then(|| format!("{}: {lines} lines, more than {most}", source.path))
}

fn is_generated(path: &str) -> bool {
    path.ends_with(".v1.rs")
}

/// A file that no other file declares as a module or includes, and that cargo does not take by its name.
fn unused(source: &Source, all: &[Source]) -> Option<String> {
    let path = Path::new(&source.path);
    let stem = path.file_stem()?.to_str()?;
    let by_name = matches!(stem, "lib" | "main") || source.path.contains("/src/bin/");
    let name = if stem == "mod" {
        path.parent()?.file_name()?.to_str()?
    } else {
        stem
    };
    let file_name = path.file_name()?.to_str()?;
    let declares = |other: &&Source| {
        let inside = [format!("mod {name};"), format!("\"{file_name}\"")];
        other.path != source.path && inside.iter().any(|text| other.text.contains(text))
    };
    let used = by_name || all.iter().any(|other| declares(&other));
    (!used).then(|| format!("{}: no file declares it", source.path))
}

/// Names of the packages that a manifest depends on.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            found.push(
                line.split(['=', '.', ' '])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
    }
    found
}

/// Paths of the repository among the words in backticks: those that begin with one of its folders, or end like a file of ours.
fn paths(document: &str) -> Vec<String> {
    let endings = [
        ".rs", ".md", ".toml", ".yaml", ".proto", ".sh", ".py", ".wat",
    ];
    let is_path = |word: &&str| {
        let plain = word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
        let first = word.split('/').next().unwrap_or_default();
        let ours = root().join(first).is_dir() && !NOT_OURS.contains(&first)
            || endings.iter().any(|ending| word.ends_with(ending));
        plain && word.contains('/') && !word.starts_with(['/', '.']) && ours
    };
    // Odd pieces stand between backticks; fences of three leave empty ones.
    let pieces = document.split('`').skip(1).step_by(2);
    pieces
        .filter(is_path)
        .filter(|path| !NOT_OURS.iter().any(|folder| path.starts_with(folder)))
        .map(str::to_owned)
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> Source {
    let text =
        fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Source {
        path: path.to_owned(),
        text,
    }
}

/// All Rust files of the repository.
fn rust() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder))
            .expect("a folder of the repository")
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = folder.join(&name);
            if entry.path().is_dir()
                && !NOT_OURS.contains(&name.as_str())
                && !name.starts_with("target-")
            {
                folders.push(path);
            } else if name.ends_with(".rs") {
                found.push(read(&path.to_string_lossy()));
            }
        }
    }
    assert!(found.len() > 20, "this is the repository");
    found
}

fn report(found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_rules_find_what_they_look_for() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    assert_eq!(
        naming(
            &source(
                "a.rs",
                "use std::time::Duration; // HashMap\nlet x = MyHashMap;"
            ),
            &NOT_IN_CORE
        ),
        ["a.rs:1: names std::time"]
    );
    assert_eq!(
        rules_named("x(); // rules 4, 14 and 17 of 3; S4 (Rule 2), the 5\n// S7"),
        ["4", "14", "17", "S4", "2", "S7"]
    );
    let long = format!(
        "    pub(crate) async fn f<T>(\n{}    }}\n",
        "        x();\n".repeat(FUNCTION_LINES_MAX)
    );
    assert_eq!(
        long_functions(&source("a.rs", &long)),
        [format!("a.rs:1: f has {} lines", FUNCTION_LINES_MAX + 2)]
    );
    let short = format!("    fn f();\n{long}").replacen("async fn f", "async fn g", 1);
    assert_eq!(long_functions(&source("a.rs", &short)).len(), 1);
    assert!(
        long_file(&source("a.rs", "\n\n"), 1).is_some()
            && long_file(&source("a.rs", "\n"), 1).is_none()
    );
    let files = [
        source("c/src/lib.rs", "mod used;"),
        source("c/src/used.rs", ""),
        source("c/src/dead.rs", ""),
    ];
    let dead: Vec<String> = files
        .iter()
        .filter_map(|file| unused(file, &files))
        .collect();
    assert_eq!(dead, ["c/src/dead.rs: no file declares it"]);
    assert_eq!(
        dependencies(
            "[package]\nname = 1\n[dependencies]\nserde.workspace = true\n[lints]\nworkspace = true"
        ),
        ["serde"]
    );
    assert_eq!(
        paths("see `tests/x` and `/v1/models`, `org/model`, `b/c.rs`, `state/logs`"),
        ["tests/x", "b/c.rs"]
    );
}
