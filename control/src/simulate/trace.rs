//! The trace: who asked for which model when, and how long the answer took. A CSV file, plain or compressed with gzip.
//!
//! Read as a stream with a limit per line; kept as numbers, 24 bytes per request. What is wrong is answered with file, line, field
//! and remedy. Requests are in the order of their times afterwards; those of the same time keep the order of the file.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    rc::Rc,
};

use csv::StringRecord;
use flate2::bufread::MultiGzDecoder;
use greenthread_core::ids::Millis;

use super::progress::Progress;

/// The columns of a trace; others are ignored.
pub(super) const COLUMNS: [&str; 3] = ["time_s", "model", "service_s"];
/// Longest line, in bytes.
const LINE_MAX: u64 = 64 * 1_024;
/// Bytes that the reader may be ahead of a line.
const AHEAD: usize = 64 * 1_024;
/// Latest time and longest service: thirty years, in seconds.
const SECONDS_MAX: f64 = 946_080_000.0;
/// The file that is standard input.
const STDIN: &str = "-";
/// First bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// When it arrives, counted from the zero of the trace.
    pub(super) at: Millis,
    /// Which model it wants: an index into [`Trace::models`].
    pub(super) model: usize,
    /// How long its engine works on it.
    pub(super) service: Millis,
}

/// All requests of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// Names, in the order in which they first appear.
    pub(super) models: Vec<String>,
    /// Line of the file in which each of them first appears.
    pub(super) lines: Vec<u64>,
    /// Requests by time.
    pub(super) requests: Vec<Request>,
    /// Requests that stood behind a later one in the file.
    pub(super) out_of_order: u64,
}

/// Why there is no trace. `line` counts from 1, the header included.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be opened.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The stream broke: gzip, UTF-8, the disk, or a line that is too long.
    #[error("{}:{line}: {cause}", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// Where it broke.
        line: u64,
        /// What and the remedy.
        cause: String,
    },
    /// A field is wrong.
    #[error("{}:{line}: {field}: {cause}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// Which line.
        line: u64,
        /// Name of the column.
        field: &'static str,
        /// What and the remedy.
        cause: String,
    },
    /// There is no request in it.
    #[error("{} holds no request; the first line is `time_s,model,service_s`, each further line one request", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

/// Reads a trace file, or standard input for `-`; gzip is recognised by its first bytes.
///
/// # Errors
/// The first thing that is wrong in it.
pub(super) fn read(file: &Path, progress: &mut Progress) -> Result<Trace, TraceError> {
    let unreadable = |source| TraceError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let source: Box<dyn Read> = if file == Path::new(STDIN) {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(unreadable)?)
    };
    let mut plain = BufReader::with_capacity(AHEAD, source);
    let gzip = plain.fill_buf().map_err(unreadable)?.starts_with(&GZIP);
    if gzip {
        parse(file, MultiGzDecoder::new(plain), progress)
    } else {
        parse(file, plain, progress)
    }
}

/// Parses the text of a trace. `file` only names it.
///
/// # Errors
/// As [`read`].
pub(super) fn parse(
    file: &Path,
    source: impl Read,
    progress: &mut Progress,
) -> Result<Trace, TraceError> {
    let allowance = Rc::new(Cell::new(0));
    let limited = Limited {
        source,
        allowance: allowance.clone(),
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .buffer_capacity(AHEAD)
        .from_reader(limited);
    let mut record = StringRecord::new();
    let mut columns = None;
    let mut trace = Trace::default();
    let mut names = BTreeMap::new();
    loop {
        allowance.set(LINE_MAX + AHEAD as u64);
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(broken(file, line, error)),
        }
        let line = record.position().map_or(line, csv::Position::line);
        let place = Place { file, line };
        match &columns {
            None => columns = Some(place.columns(&record)?),
            Some(columns) => {
                let request = place.request(&record, columns, &mut names, &mut trace)?;
                let late = trace
                    .requests
                    .last()
                    .is_some_and(|last| request.at < last.at);
                trace.out_of_order += u64::from(late);
                trace.requests.push(request);
                progress.tick(|| {
                    format!(
                        "reading {}: {} requests",
                        file.display(),
                        trace.requests.len()
                    )
                });
            }
        }
    }
    if trace.requests.is_empty() {
        return Err(TraceError::Empty {
            file: file.to_owned(),
        });
    }
    // Stable: requests of the same time keep the order of the file.
    trace.requests.sort_by_key(|request| request.at);
    Ok(trace)
}

/// Where each column stands.
struct Columns {
    time: usize,
    model: usize,
    service: usize,
}

/// Where we are, for errors.
struct Place<'a> {
    file: &'a Path,
    line: u64,
}

impl Place<'_> {
    fn wrong(&self, field: &'static str, cause: impl Into<String>) -> TraceError {
        TraceError::Field {
            file: self.file.to_owned(),
            line: self.line,
            field,
            cause: cause.into(),
        }
    }

    fn columns(&self, header: &StringRecord) -> Result<Columns, TraceError> {
        let column = |name: &'static str| {
            let mut named = header
                .iter()
                .enumerate()
                .filter(|(_, column)| *column == name);
            let at = named.next().map(|(at, _)| at);
            if named.next().is_some() {
                return Err(self.wrong(name, "two columns have this name; keep one of them"));
            }
            at.ok_or_else(|| {
                let found: Vec<&str> = header.iter().take(8).collect();
                let cause = format!(
                    "there is no such column; the first line names the columns and must be `{}`, not `{}`",
                    COLUMNS.join(","),
                    shown(&found.join(","))
                );
                self.wrong(name, cause)
            })
        };
        let [time, model, service] = COLUMNS;
        Ok(Columns {
            time: column(time)?,
            model: column(model)?,
            service: column(service)?,
        })
    }

    fn request(
        &self,
        record: &StringRecord,
        columns: &Columns,
        names: &mut BTreeMap<String, usize>,
        trace: &mut Trace,
    ) -> Result<Request, TraceError> {
        let [time, model, service] = COLUMNS;
        let name = self.field(record, columns.model, model)?;
        if name.is_empty() {
            return Err(self.wrong(model, "it is empty; write the model's name"));
        }
        let index = match names.get(name) {
            Some(index) => *index,
            None => {
                let index = trace.models.len();
                names.insert(name.to_owned(), index);
                trace.models.push(name.to_owned());
                trace.lines.push(self.line);
                index
            }
        };
        Ok(Request {
            at: self.seconds(record, columns.time, time)?,
            model: index,
            service: self.seconds(record, columns.service, service)?,
        })
    }

    fn field<'r>(
        &self,
        record: &'r StringRecord,
        at: usize,
        name: &'static str,
    ) -> Result<&'r str, TraceError> {
        record.get(at).ok_or_else(|| {
            let cause = format!(
                "the line has only {} fields; every line needs {}",
                record.len(),
                COLUMNS.join(",")
            );
            self.wrong(name, cause)
        })
    }

    /// Seconds as milliseconds, rounded.
    fn seconds(
        &self,
        record: &StringRecord,
        at: usize,
        name: &'static str,
    ) -> Result<Millis, TraceError> {
        let text = self.field(record, at, name)?;
        let seconds = text
            .parse::<f64>()
            .ok()
            .filter(|seconds| seconds.is_finite());
        let Some(seconds) = seconds else {
            let cause = format!("`{}` is no number; write seconds, like 12.5", shown(text));
            return Err(self.wrong(name, cause));
        };
        let is_time = name == COLUMNS[0];
        if seconds < 0.0 {
            let remedy = if is_time {
                "count seconds from the start of the trace"
            } else {
                "write how many seconds the engine works, 0 at least"
            };
            let cause = format!("{seconds} is negative; {remedy}");
            return Err(self.wrong(name, cause));
        }
        if seconds > SECONDS_MAX {
            let remedy = if is_time {
                "count from the start of the trace (subtract the first time from all), in seconds"
            } else {
                "write seconds, not milliseconds or less"
            };
            let cause = format!("`{}` is more than thirty years; {remedy}", shown(text));
            return Err(self.wrong(name, cause));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was held between zero and thirty years"
        )]
        Ok(Millis((seconds * 1_000.0).round() as u64))
    }
}

/// A text from a file, short enough for an error.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn broken(file: &Path, line: u64, error: csv::Error) -> TraceError {
    // Somebody else's enum, which may grow.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "kinds that reading text does not give"
    )]
    let cause = match error.kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => format!(
            "the line is longer than {LINE_MAX} bytes; is this a trace, one request a line, and is every quote closed?"
        ),
        csv::ErrorKind::Io(error) => format!(
            "cannot read further: {error}; if the file is compressed, check it with `gzip -t` and fetch it again"
        ),
        csv::ErrorKind::Utf8 { err, .. } => {
            format!("{err}; write the file as UTF-8")
        }
        _ => format!("no CSV: {error}"),
    };
    TraceError::Broken {
        file: file.to_owned(),
        line,
        cause,
    }
}

/// Ends the stream when one line asks for more than it may: a file without line ends must not fill the memory.
struct Limited<R> {
    source: R,
    /// Bytes left for this line and what is read ahead of it.
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.get();
        if left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.source.read(&mut buffer[..most])?;
        self.allowance.set(left - read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
