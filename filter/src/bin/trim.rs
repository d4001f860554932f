//! Drops exports of a wasm module that are not named on the command line: `greenthread-filter-trim IN OUT NAME…`.
//!
//! The SDK exports every callback of proxy-wasm, and Envoy enters the VM for each one that is exported: response headers,
//! response body and the like would cost every request without doing anything. Only the export section is rewritten.

use std::{collections::BTreeSet, env, fs, process::ExitCode};

const EXPORT_SECTION: u8 = 7;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [input, output, keep @ ..] = arguments.as_slice() else {
        eprintln!("usage: greenthread-filter-trim IN OUT NAME...");
        return ExitCode::FAILURE;
    };
    match run(input, output, &keep.iter().map(String::as_str).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{input}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(input: &str, output: &str, keep: &BTreeSet<&str>) -> Result<(), String> {
    let module = fs::read(input).map_err(|error| error.to_string())?;
    let (trimmed, kept) =
        trim(&module, keep).ok_or("not a wasm module that this tool understands")?;
    if let Some(missing) = keep.iter().find(|name| !kept.contains(**name)) {
        return Err(format!("`{missing}` is not exported"));
    }
    fs::write(output, trimmed).map_err(|error| format!("{output}: {error}"))
}

/// The module with fewer exports, and the names of those that are left.
fn trim(module: &[u8], keep: &BTreeSet<&str>) -> Option<(Vec<u8>, BTreeSet<String>)> {
    let mut rest = module.strip_prefix(b"\0asm\x01\0\0\0")?;
    let mut trimmed = b"\0asm\x01\0\0\0".to_vec();
    let mut kept = BTreeSet::new();
    while let Some((&id, tail)) = rest.split_first() {
        let (size, tail) = number(tail)?;
        let (section, tail) = tail.split_at_checked(usize::try_from(size).ok()?)?;
        let section = if id == EXPORT_SECTION {
            fewer_exports(section, keep, &mut kept)?
        } else {
            section.to_vec()
        };
        trimmed.push(id);
        append_number(&mut trimmed, section.len() as u64);
        trimmed.extend(section);
        rest = tail;
    }
    Some((trimmed, kept))
}

fn fewer_exports(
    section: &[u8],
    keep: &BTreeSet<&str>,
    kept: &mut BTreeSet<String>,
) -> Option<Vec<u8>> {
    let (count, mut rest) = number(section)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let start = rest;
        let (length, tail) = number(rest)?;
        let (name, tail) = tail.split_at_checked(usize::try_from(length).ok()?)?;
        let (_kind, tail) = tail.split_first()?;
        let (_index, tail) = number(tail)?;
        let name = std::str::from_utf8(name).ok()?;
        if keep.contains(name) {
            kept.insert(name.to_owned());
            entries.extend_from_slice(&start[..start.len() - tail.len()]);
        }
        rest = tail;
    }
    let mut section = Vec::new();
    append_number(&mut section, kept.len() as u64);
    section.extend(entries);
    Some(section)
}

/// Reads an unsigned LEB128 number.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

fn append_number(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_named_and_everything_else_as_it_is() {
        // One custom section, then exports "a" (function 0) and "bc" (memory 300).
        let module = b"\0asm\x01\0\0\0\x00\x02\x01x\x07\x0b\x02\x01a\x00\x00\x02bc\x02\xac\x02";
        let (trimmed, kept) = trim(module, &BTreeSet::from(["bc", "zz"])).unwrap();
        assert_eq!(
            trimmed,
            b"\0asm\x01\0\0\0\x00\x02\x01x\x07\x07\x01\x02bc\x02\xac\x02"
        );
        assert_eq!(kept, BTreeSet::from(["bc".to_owned()]));
        assert!(trim(b"\0asm\x01\0\0\0\x07\x09\x02", &BTreeSet::new()).is_none());
    }
}
