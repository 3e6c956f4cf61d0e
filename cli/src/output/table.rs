//! [`Table`]: columns that fit the width of the terminal.

use std::fmt;

use terminal_size::{Width, terminal_size_of};

use crate::text::escape;

#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    /// The width of the terminal; `None` if stdout is not a terminal.
    width: Option<usize>,
}

/// The number of blanks between two columns.
const COLUMN_GAP: usize = 2;

/// Columns are not truncated below this width.
const MIN_COLUMN_WIDTH: usize = 4;

impl<const N: usize> Table<N> {
    pub(crate) fn new(headers: [&str; N]) -> Self {
        let width =
            terminal_size_of(std::io::stdout()).map(|(Width(columns), _)| usize::from(columns));
        Table {
            rows: vec![headers.map(str::to_owned)],
            width,
        }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| escape(&cell)));
    }

    /// The width of each column: the width of its longest cell. If the columns do not fit the
    /// terminal, the widest column gets narrower until they fit, down to [`MIN_COLUMN_WIDTH`].
    fn widths(&self) -> [usize; N] {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let Some(max) = self.width else {
            return widths;
        };
        while widths.iter().sum::<usize>() + COLUMN_GAP * (N - 1) > max {
            match widths
                .iter_mut()
                .max()
                .filter(|widest| **widest > MIN_COLUMN_WIDTH)
            {
                Some(widest) => *widest -= 1,
                None => break,
            }
        }
        widths
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for (n, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line += &format!("{:<width$}{:COLUMN_GAP$}", truncate_start(cell, width), "");
            }
            write!(f, "{}{}", if n == 0 { "" } else { "\n" }, line.trim_end())?;
        }
        Ok(())
    }
}

/// Truncates the start of the cell, because the end of a path or a test name is the specific part.
fn truncate_start(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length <= width {
        return cell.to_owned();
    }
    let kept = cell.chars().skip(length + 1 - width);
    std::iter::once('…').chain(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_column_is_truncated_until_the_lines_fit() {
        let mut table = Table {
            rows: Vec::new(),
            width: Some(16),
        };
        table.row(["PORT", "TEST"].map(str::to_owned));
        table.row(["60315", "restart::keeps_its_port"].map(str::to_owned));
        assert_eq!(table.to_string(), "PORT   TEST\n60315  …its_port");
        table.width = None;
        assert_eq!(
            table.to_string(),
            "PORT   TEST\n60315  restart::keeps_its_port"
        );
        table.width = Some(1);
        assert_eq!(table.to_string().lines().last(), Some("…315  …ort"));
    }

    #[test]
    fn the_text_of_a_cell_cannot_forge_a_line() {
        let mut table = Table {
            rows: Vec::new(),
            width: None,
        };
        table.row(["a\n\u{1b}[31mb".to_owned()]);
        assert_eq!(table.to_string(), "a\\n\\u{1b}[31mb");
    }
}
