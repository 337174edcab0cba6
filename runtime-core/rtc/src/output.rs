//! Standard output, for people and for programs.

use std::io::Write;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::PrettyFormatter;

use crate::error::Error;

/// # Errors
/// Nobody reads it, or the disk is full.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}

/// On one line, as Go's json.Encoder writes it.
pub(crate) fn json_line(what: &'static str, value: &impl Serialize) -> Result<String, Error> {
    let json = serde_json::to_string(value).map_err(|err| Error::Encode { what, err })?;
    Ok(json + "\n")
}

/// On many lines, without a newline at the end, as Go's json.MarshalIndent writes it.
pub(crate) fn json_pretty(what: &'static str, value: &impl Serialize, indent: &str) -> Result<String, Error> {
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(indent.as_bytes()));
    value.serialize(&mut serializer).map_err(|err| Error::Encode { what, err })?;
    Ok(String::from_utf8_lossy(&json).into_owned())
}

/// Rows under a header, in columns at least twelve wide and three apart.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    const NARROWEST: usize = 12;
    const APART: usize = 3;
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + APART).max(NARROWEST);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            text.push_str(cell);
            if column + 1 < N {
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_laid_out_as_runcs() {
        let rows = [["ID", "PID", "OWNER"], ["a-rather-long-id", "7", "root"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "ID                 PID         OWNER\na-rather-long-id   7           root\n");
    }

    #[test]
    fn json_is_indented_as_gos() {
        let value = serde_json::json!({ "a": [1], "b": {}, "c": [] });
        assert_eq!(
            json_pretty("it", &value, "  ").unwrap(),
            "{\n  \"a\": [\n    1\n  ],\n  \"b\": {},\n  \"c\": []\n}"
        );
    }
}
