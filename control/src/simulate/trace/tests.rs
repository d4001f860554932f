//! What is read, and what every mistake is answered with.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::*;

fn parsed(text: &[u8]) -> Result<Trace, String> {
    parse(Path::new("t.csv"), text, &mut Progress::to_stderr()).map_err(|error| error.to_string())
}

fn check_wrong(text: &str, expected: &str) {
    let error = parsed(text.as_bytes()).expect_err(text);
    assert!(
        error.contains(expected),
        "{text:?} gives {error:?}, without {expected:?}"
    );
}

/// Writes a file, reads it as a trace, removes it.
fn read_back(name: &str, content: &[u8]) -> Result<Trace, String> {
    let file =
        std::env::temp_dir().join(format!("greenthread-trace-{name}-{}", std::process::id()));
    std::fs::write(&file, content).unwrap();
    let read = read(&file, &mut Progress::to_stderr()).map_err(|error| error.to_string());
    std::fs::remove_file(&file).unwrap();
    read
}

fn zipped(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn columns_in_any_order_quotes_and_spaces() {
    let text = "\u{feff}service_s,zone,time_s,model\n1.5,x,0,b\n\"2\", y , 0.0004 ,\"a, c\"\r\n0,z,1e2,b\n";
    let trace = parsed(text.as_bytes()).unwrap();
    assert_eq!(trace.models, ["b", "a, c"]);
    let seen: Vec<_> = trace
        .requests
        .iter()
        .map(|request| (request.at.0, request.model, request.service.0))
        .collect();
    assert_eq!(seen, [(0, 0, 1_500), (0, 1, 2_000), (100_000, 0, 0)]);
}

#[test]
fn times_are_put_in_order_and_counted() {
    let trace = parsed(b"time_s,model,service_s\n3,a,1\n1,b,1\n3,c,1\n2,d,1\n").unwrap();
    let order: Vec<&str> = trace
        .requests
        .iter()
        .map(|request| &*trace.models[request.model])
        .collect();
    assert_eq!((order, trace.out_of_order), (vec!["b", "d", "a", "c"], 2));
}

#[test]
fn mistakes_name_file_line_field_and_remedy() {
    let head = "time_s,model,service_s\n";
    check_wrong(
        &format!("{head}0,a,-1\n"),
        "t.csv:2: service_s: -1 is negative; write how many seconds the engine works, 0 at least",
    );
    check_wrong(
        "time_s,model,service_s,model\n0,a,1,b\n",
        "t.csv:1: model: two columns have this name; keep one of them",
    );
    check_wrong(
        "0,a,1\n",
        "t.csv:1: time_s: there is no such column; the first line names the columns and must be `time_s,model,service_s`, not `0,a,1`",
    );
    check_wrong(
        "time_s,model\n0,a\n",
        "t.csv:1: service_s: there is no such column",
    );
    check_wrong(
        &format!("{head}0,a,1\n-1,a,1\n"),
        "t.csv:3: time_s: -1 is negative; count seconds from the start",
    );
    check_wrong(
        &format!("{head}0,a,NaN\n"),
        "t.csv:2: service_s: `NaN` is no number; write seconds, like 12.5",
    );
    check_wrong(
        &format!("{head}inf,a,1\n"),
        "t.csv:2: time_s: `inf` is no number",
    );
    check_wrong(&format!("{head},a,1\n"), "t.csv:2: time_s: `` is no number");
    check_wrong(&format!("{head}0,  ,1\n"), "t.csv:2: model: it is empty");
    check_wrong(
        &format!("{head}0,a\n"),
        "t.csv:2: service_s: the line has only 2 fields",
    );
    check_wrong(
        &format!("{head}1700000000,a,1\n"),
        "t.csv:2: time_s: `1700000000` is more than thirty years; count from the start",
    );
    check_wrong(
        &format!("{head}0,a,1700000000000\n"),
        "t.csv:2: service_s: `1700000000000` is more than thirty years; write seconds",
    );
    check_wrong(head, "holds no request");
    check_wrong("", "holds no request");
}

#[test]
fn a_line_without_end_does_not_fill_the_memory() {
    let mut text = b"time_s,model,service_s\n0,a,1\n0,\"".to_vec();
    text.extend(std::iter::repeat_n(*b"xyz\n", 200_000).flatten());
    let error = parsed(&text).unwrap_err();
    assert!(
        error.starts_with("t.csv:3: the line is longer than 65536 bytes"),
        "{error}"
    );
}

#[test]
fn gzip_is_recognised_and_damage_is_told() {
    let text = "time_s,model,service_s\n".to_owned() + &"1,a,1\n".repeat(20_000);
    assert_eq!(
        read_back("whole", &zipped(text.as_bytes()))
            .unwrap()
            .requests
            .len(),
        20_000
    );
    let two = [
        zipped(b"time_s,model,service_s\n1,a,1\n"),
        zipped(b"2,b,1\n"),
    ]
    .concat();
    assert_eq!(read_back("two", &two).unwrap().requests.len(), 2);
    let mut cut = zipped(text.as_bytes());
    cut.truncate(cut.len() - 30);
    let error = read_back("cut", &cut).unwrap_err();
    assert!(
        error.contains("cannot read further") && error.contains("gzip -t"),
        "{error}"
    );
    let error = read_back("empty", b"").unwrap_err();
    assert!(error.contains("holds no request"), "{error}");
    let error = parsed(b"time_s,model,service_s\n1,\xff,1\n").unwrap_err();
    assert!(
        error.starts_with("t.csv:2:") && error.contains("UTF-8"),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = read(Path::new("/nowhere/t.csv"), &mut Progress::to_stderr()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nowhere/t.csv");
}
