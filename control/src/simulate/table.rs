//! A table for a terminal: the first column to the left, figures to the right, columns as wide as their widest cell.

/// Lines of cells, the first being the head.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    /// A table with this head.
    pub(super) fn new<'a>(head: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            lines: vec![head.into_iter().map(str::to_owned).collect()],
        }
    }

    /// Adds a line; it has as many cells as the head.
    pub(super) fn line(&mut self, cells: impl IntoIterator<Item = String>) {
        self.lines.push(cells.into_iter().collect());
    }

    /// The table, a line end behind every line.
    pub(super) fn text(&self) -> String {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for line in &self.lines {
            let mut row = String::new();
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                row += &if column == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("  {cell:>width$}")
                };
            }
            text += row.trim_end();
            text.push('\n');
        }
        text
    }
}

/// "1 GPU", "2 GPUs".
pub(super) fn gpus(number: usize) -> String {
    format!("{number} GPU{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_to_the_right() {
        let mut table = Table::new(["POLICY", "MISSES"]);
        table.line(["lru".to_owned(), "5".to_owned()]);
        table.line(["optimal".to_owned(), "12345678".to_owned()]);
        assert_eq!(
            table.text(),
            "POLICY     MISSES\nlru             5\noptimal  12345678\n"
        );
    }
}
