//! Residency over time as a picture: one row per model, grouped by its first GPU, what it did in colours. Plain SVG, without scripts.
//!
//! Its size is bounded by its pixels: stretches that are too close to be told apart are drawn as one.

use std::{fmt::Write, fs, io, path::Path};

use greenthread_core::ids::Millis;

use super::{
    meter::{Doing, Span},
    replay::Replayed,
    setting::Setting,
};

/// Pixels from the first request to the end.
const WIDTH: f64 = 1_180.0;
/// Pixels of one row, and of what is coloured in it.
const ROW: f64 = 13.0;
const BAR: f64 = 10.0;
/// Pixels above the first row and below the last one.
const HEAD: f64 = 88.0;
const FOOT: f64 = 40.0;
/// Pixels of the figures to the right.
const FIGURES: f64 = 120.0;
/// Pixels between two GPUs.
const BETWEEN: f64 = 20.0;
/// Characters of a name that are shown.
const NAME: usize = 28;
/// Pixels of a character of a name, about.
const CHARACTER: f64 = 6.2;
/// Pixels below which two stretches are drawn as one.
const RESOLUTION: f64 = 0.4;

/// How each thing is drawn, in the order in which it is painted: what is short goes on top.
const LOOKS: [Look; 5] = [
    Look {
        doing: Doing::Awake,
        colour: "#2f7ed8",
        word: "awake",
        least: 0.4,
        height: 1.0,
    },
    Look {
        doing: Doing::Draining,
        colour: "#8e5bb5",
        word: "draining",
        least: 0.6,
        height: 1.0,
    },
    Look {
        doing: Doing::GoingToSleep,
        colour: "#7a8791",
        word: "going to sleep",
        least: 0.6,
        height: 1.0,
    },
    Look {
        doing: Doing::Waking,
        colour: "#f2a33a",
        word: "waking",
        least: 0.4,
        height: 1.0,
    },
    Look {
        doing: Doing::Waiting,
        colour: "#d63b3b",
        word: "waiting for room",
        least: 0.5,
        height: 0.35,
    },
];

/// How something that a model does is drawn.
struct Look {
    doing: Doing,
    colour: &'static str,
    word: &'static str,
    /// Least width in pixels, so that it is seen at all.
    least: f64,
    /// Share of the bar's height.
    height: f64,
}

/// One model's row.
struct Row<'a> {
    name: &'a str,
    gpu: usize,
    gpus: usize,
    model: usize,
    spans: Vec<Span>,
    awake: Millis,
    wakes: usize,
}

/// Draws a replay into a file.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(
    file: &Path,
    title: &str,
    setting: &Setting,
    replayed: &Replayed,
) -> io::Result<()> {
    fs::write(file, draw(title, setting, replayed))
}

/// The picture as text.
fn draw(title: &str, setting: &Setting, replayed: &Replayed) -> String {
    let rows = rows(setting, replayed);
    let quiet = setting.models.len() - rows.len();
    let left = 16.0
        + CHARACTER
            * rows
                .iter()
                .map(|row| shown(row.name).chars().count())
                .max()
                .unwrap_or(0)
                .max(6) as f64;
    let groups = rows.chunk_by(|a, b| a.gpu == b.gpu).count();
    let height = HEAD + ROW * rows.len() as f64 + BETWEEN * groups as f64 + FOOT;
    let width = left + WIDTH + FIGURES;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"system-ui, 'DejaVu Sans', sans-serif\" font-size=\"10\" fill=\"#333\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{left:.1}\" y=\"24\" font-size=\"16\" font-weight=\"600\">{}: which model was on its GPU when</text>\n",
        escaped(title)
    );
    legend(&mut svg, left);
    let scale = Scale::new(replayed, left);
    let mut y = HEAD;
    for group in rows.chunk_by(|a, b| a.gpu == b.gpu) {
        y += BETWEEN;
        let gpu = group.first().map_or(0, |row| row.gpu);
        let _ = writeln!(
            svg,
            "<text x=\"{left:.1}\" y=\"{:.1}\" font-weight=\"600\">GPU {gpu}</text>",
            y - 6.0
        );
        scale.grid(&mut svg, y, y + ROW * group.len() as f64);
        for row in group {
            draw_row(&mut svg, row, y, &scale);
            y += ROW;
        }
    }
    scale.labels(&mut svg, HEAD - 12.0 + 4.0);
    scale.labels(&mut svg, y + 14.0);
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#777\">what is shorter than a pixel is drawn wider, to be seen</text>",
        left + WIDTH,
        y + 30.0
    );
    if quiet > 0 {
        let _ = writeln!(
            svg,
            "<text x=\"{left:.1}\" y=\"{:.1}\" fill=\"#777\">{quiet} model{} never asked for</text>",
            y + 30.0,
            if quiet == 1 { " was" } else { "s were" }
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Models with something to show, by GPU, the ones that were awake longest first.
fn rows<'a>(setting: &'a Setting, replayed: &Replayed) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = setting
        .models
        .iter()
        .enumerate()
        .map(|(model, actor)| Row {
            name: &actor.name,
            gpu: actor.spec.gpus.first().map_or(0, |gpu| gpu.0),
            gpus: actor.spec.gpus.len(),
            model,
            spans: Vec::new(),
            awake: Millis(0),
            wakes: 0,
        })
        .collect();
    for span in &replayed.meter.spans {
        let row = &mut rows[span.model];
        if matches!(span.doing, Doing::Awake | Doing::Draining) {
            row.awake = row.awake + span.to.since(span.from);
        }
        row.wakes += usize::from(span.doing == Doing::Waking);
        row.spans.push(*span);
    }
    rows.retain(|row| !row.spans.is_empty() || replayed.meter.requests_of[row.model] > 0);
    rows.sort_by_key(|row| (row.gpu, std::cmp::Reverse(row.awake), row.model));
    rows
}

fn legend(svg: &mut String, left: f64) {
    let mut x = left;
    let mut entry = |colour: &str, word: &str| {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"38\" width=\"14\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\" stroke=\"#ccc\" stroke-width=\"0.5\"/>\
             <text x=\"{:.1}\" y=\"47\" font-size=\"11\">{word}</text>",
            x + 19.0
        );
        x += 40.0 + CHARACTER * word.chars().count() as f64;
    };
    for look in &LOOKS {
        entry(look.colour, look.word);
    }
    entry("#eef0f2", "asleep");
}

fn draw_row(svg: &mut String, row: &Row<'_>, y: f64, scale: &Scale) {
    let top = y + (ROW - BAR) / 2.0;
    let text = y + ROW - 3.5;
    let share = 100.0 * row.awake.0 as f64 / scale.length.0.max(1) as f64;
    let span = if row.gpus > 1 {
        format!(" ×{}", row.gpus)
    } else {
        String::new()
    };
    let _ = writeln!(
        svg,
        "<g><title>{name}: awake {share:.1} % of the time, {wakes} wakes</title>\
         <text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{short}{span}</text>\
         <rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{WIDTH}\" height=\"{BAR}\" fill=\"#eef0f2\" fill-opacity=\"0.75\"/>\
         <text x=\"{:.1}\" y=\"{text:.1}\" fill=\"#777\">{share:.1} %, {wakes} wakes</text>",
        scale.left - 6.0,
        scale.left + WIDTH + 6.0,
        left = scale.left,
        name = escaped(row.name),
        short = escaped(&shown(row.name)),
        wakes = row.wakes,
    );
    for look in &LOOKS {
        let stretches = scale.stretches(row, look);
        if stretches.is_empty() {
            continue;
        }
        let height = BAR * look.height;
        let from = top + (BAR - height) / 2.0;
        let _ = write!(svg, "<path fill=\"{}\" d=\"", look.colour);
        for (x, width) in stretches {
            let _ = write!(svg, "M{x:.1} {from:.1}h{width:.1}v{height:.1}h-{width:.1}z");
        }
        svg.push_str("\"/>\n");
    }
    svg.push_str("</g>\n");
}

/// Time as pixels.
struct Scale {
    from: Millis,
    length: Millis,
    left: f64,
    /// Time between two lines.
    step: Millis,
}

impl Scale {
    fn new(replayed: &Replayed, left: f64) -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 3_600;
        const DAY: u64 = 86_400;
        const LINES: u64 = 14;
        let steps = [
            1,
            5,
            15,
            MINUTE,
            5 * MINUTE,
            15 * MINUTE,
            HOUR,
            3 * HOUR,
            6 * HOUR,
            12 * HOUR,
            DAY,
            2 * DAY,
            7 * DAY,
            30 * DAY,
        ];
        let length = replayed.to.since(replayed.from);
        let fits = |step: &u64| length.0 / 1_000 / step <= LINES;
        let step = steps
            .into_iter()
            .find(fits)
            .unwrap_or(length.0 / 1_000 / LINES + 1);
        Self {
            from: replayed.from,
            length,
            left,
            step: Millis::seconds(step),
        }
    }

    fn x(&self, at: Millis) -> f64 {
        self.left + WIDTH * at.since(self.from).0 as f64 / self.length.0.max(1) as f64
    }

    /// Where something was done, as left edges and widths; what is closer than can be seen is one.
    fn stretches(&self, row: &Row<'_>, look: &Look) -> Vec<(f64, f64)> {
        let mut drawn: Vec<(f64, f64)> = Vec::new();
        for span in row.spans.iter().filter(|span| span.doing == look.doing) {
            let (from, to) = (self.x(span.from), self.x(span.to));
            let to = to.max(from + look.least);
            match drawn.last_mut() {
                Some((start, width)) if from - (*start + *width) < RESOLUTION => {
                    *width = width.max(to - *start);
                }
                Some(_) | None => drawn.push((from, to - from)),
            }
        }
        drawn
    }

    fn marks(&self) -> impl Iterator<Item = Millis> {
        (0..=self.length.0 / self.step.0.max(1)).map(|line| Millis(line * self.step.0))
    }

    fn grid(&self, svg: &mut String, top: f64, bottom: f64) {
        svg.push_str("<path stroke=\"#d5d9dd\" stroke-width=\"0.7\" d=\"");
        for mark in self.marks() {
            let _ = write!(svg, "M{:.1} {top:.1}V{bottom:.1}", self.x(self.from + mark));
        }
        svg.push_str("\"/>\n");
    }

    fn labels(&self, svg: &mut String, y: f64) {
        for mark in self.marks() {
            let x = self.x(self.from + mark);
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
                clock(mark)
            );
        }
    }
}

/// `0`, `45 s`, `15 min`, `6 h`, `1 d 12 h`.
fn clock(time: Millis) -> String {
    let seconds = time.0 / 1_000;
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let said: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    if said.is_empty() {
        "0".to_owned()
    } else {
        said.join(" ")
    }
}

/// A name short enough for its column.
fn shown(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(NAME - 1).collect();
    short.push('…');
    short
}

fn escaped(text: &str) -> String {
    let visible = text.chars().filter(|c| !c.is_control());
    visible.fold(String::new(), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
        escaped
    })
}

#[cfg(test)]
mod tests;
