//! Tables as kubectl prints them: three spaces between columns, as wide as their content.

/// The space between columns.
const GAP: usize = 3;

/// Rows under headings. Widths are kept from one rendering to the next, so that a watch stays aligned.
#[derive(Debug)]
pub(super) struct Table {
    headings: Vec<&'static str>,
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
    headed: bool,
}

impl Table {
    /// A table with these headings; `headed` is whether to print them.
    pub(super) fn new(headings: &[&'static str], headed: bool) -> Self {
        let widths =
            if headed { headings.iter().map(|h| width(h)).collect() } else { vec![0; headings.len()] };
        Self { headings: headings.to_vec(), widths, rows: Vec::new(), headed }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        for (have, cell) in self.widths.iter_mut().zip(&cells) {
            *have = (*have).max(width(cell));
        }
        self.rows.push(cells);
    }

    /// Renders the rows since the last time, the first rows under the headings; nothing without rows.
    pub(super) fn render_rows(&mut self) -> String {
        let mut out = String::new();
        if self.rows.is_empty() {
            return out;
        }
        if std::mem::take(&mut self.headed) {
            line(&mut out, &self.widths, self.headings.iter().copied());
        }
        for row in self.rows.drain(..) {
            line(&mut out, &self.widths, row.iter().map(String::as_str));
        }
        out
    }
}

fn line<'a>(out: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let start = out.len();
    for (cell, want) in cells.zip(widths) {
        let cell = printable(cell);
        out.push_str(&cell);
        out.extend(std::iter::repeat_n(' ', want.saturating_sub(width(&cell)) + GAP));
    }
    out.truncate(start + out[start..].trim_end_matches(' ').len());
    out.push('\n');
}

/// How many columns of a terminal a text takes; wide characters are rare enough in names and images not to count.
pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}

/// A text on one line that cannot steer the terminal: what is shown may come from an image or another user's file.
pub(super) fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars()
            .map(|c| match c {
                '\n' | '\t' | '\r' => ' ',
                c if c.is_control() => '\u{fffd}',
                c => c,
            })
            .collect::<String>()
            .into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests;
