//! Rows of cells as a table, as tab-separated lines and as CSV.

use crate::cell::{Cell, Reader};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use perigee_model::Timestamp;
use serde::Serialize;

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head, in capitals.
    pub head: &'static str,
    /// Only in `wide`, `csv` and the view of one object.
    pub wide: bool,
}

/// In every table.
pub const fn column(head: &'static str) -> Column {
    Column { head, wide: false }
}

/// Only where there is room.
pub const fn wide(head: &'static str) -> Column {
    Column { head, wide: true }
}

/// What can be shown in every format.
pub trait Shown: Serialize {
    /// Its columns, in order.
    const COLUMNS: &'static [Column];
    /// One cell for each column.
    fn cells(&self) -> Vec<Cell>;
    /// What `-o name` prints.
    fn name(&self) -> String;
}

/// The heads, wide ones too if `all`.
pub fn heads<T: Shown>(all: bool) -> Vec<String> {
    T::COLUMNS.iter().filter(|c| all || !c.wide).map(|c| c.head.to_owned()).collect()
}

/// One row's texts, wide ones too if `all`.
pub fn texts<T: Shown>(row: &T, all: bool, reader: Reader) -> Vec<String> {
    let cells = row.cells();
    debug_assert_eq!(cells.len(), T::COLUMNS.len(), "one cell for each column");
    T::COLUMNS.iter().zip(cells).filter(|(c, _)| all || !c.wide).map(|(_, cell)| cell.show(reader)).collect()
}

/// Head and value of one object, a line each.
pub fn sheet<T: Shown>(object: &T, reader: Reader) -> Vec<Vec<String>> {
    let values = texts(object, true, reader);
    heads::<T>(true).into_iter().zip(values).map(|(head, value)| vec![head, value]).collect()
}

/// Aligned columns without boxes.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Tab-separated lines.
pub fn tabbed(rows: &[Vec<String>]) -> String {
    rows.iter().map(|row| row.join("\t") + "\n").collect()
}

/// RFC 4180, with plain newlines.
pub fn csv(rows: &[Vec<String>]) -> String {
    let field = |text: &String| {
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.clone() }
    };
    rows.iter().map(|row| row.iter().map(field).collect::<Vec<_>>().join(",") + "\n").collect()
}

/// For a terminal or for a pipe.
pub fn reader(terminal: bool, now: Timestamp) -> Reader {
    if terminal { Reader::Person(now) } else { Reader::Pipe }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        [["NAME", "NOTE"], ["web-1", "ä, \"b\""], ["x", ""]].map(|r| r.map(str::to_owned).to_vec()).to_vec()
    }

    #[test]
    fn tables_have_neither_boxes_nor_trailing_blanks() {
        assert_eq!(aligned(&rows()), "NAME   NOTE\nweb-1  ä, \"b\"\nx\n");
    }

    #[test]
    fn pipes_get_tabs() {
        assert_eq!(tabbed(&rows()), "NAME\tNOTE\nweb-1\tä, \"b\"\nx\t\n");
    }

    #[test]
    fn csv_quotes_what_it_must() {
        assert_eq!(csv(&rows()), "NAME,NOTE\nweb-1,\"ä, \"\"b\"\"\"\nx,\n");
    }
}
