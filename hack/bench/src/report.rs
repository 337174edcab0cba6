//! Medians and ratios, as a table and as JSON.

use std::fs::File;
use std::path::Path;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::contestant::Contestant;
use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "MiB/s")]
    MebibytesPerSecond,
    #[serde(rename = "times")]
    Times,
}

impl Unit {
    fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::MebibytesPerSecond => "MiB/s",
            Self::Times => "times",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    name: String,
    unit: Unit,
}

impl Figure {
    pub(crate) fn new(name: String, unit: Unit) -> Self {
        Self { name, unit }
    }

    pub(crate) fn time(name: &str) -> Self {
        Self::new(name.to_owned(), Unit::Milliseconds)
    }
}

/// Every value of every figure, in the order of measuring.
#[derive(Debug)]
pub(crate) struct Report {
    contestants: Vec<Contestant>,
    rows: Vec<(Figure, Vec<Vec<f64>>)>,
}

#[derive(Serialize)]
struct Row<'a> {
    figure: &'a str,
    unit: Unit,
    results: Vec<Cell<'a>>,
}

#[derive(Serialize)]
struct Cell<'a> {
    contestant: &'static str,
    median: Option<f64>,
    /// rtc's value by this contestant's, round by round; the median of those.
    rtc_ratio: Option<f64>,
    values: &'a [f64],
}

impl Report {
    pub(crate) fn new(contestants: Vec<Contestant>) -> Self {
        Self { contestants, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, figure: Figure, contestant: Contestant, value: f64) {
        let Some(column) = self.contestants.iter().position(|one| *one == contestant) else { return };
        let row = match self.rows.iter().position(|(known, _)| *known == figure) {
            Some(row) => row,
            None => {
                self.rows.push((figure, vec![Vec::new(); self.contestants.len()]));
                self.rows.len() - 1
            }
        };
        self.rows[row].1[column].push(value);
    }

    fn table(&self) -> Vec<Row<'_>> {
        let rtc = self.contestants.iter().position(|one| *one == Contestant::Rtc);
        self.rows
            .iter()
            .map(|(figure, columns)| Row {
                figure: &figure.name,
                unit: figure.unit,
                results: self
                    .contestants
                    .iter()
                    .zip(columns)
                    .map(|(contestant, values)| Cell {
                        contestant: contestant.name(),
                        median: median(values),
                        rtc_ratio: rtc
                            .filter(|_| *contestant != Contestant::Rtc)
                            .and_then(|rtc| median(&ratios(&columns[rtc], values))),
                        values,
                    })
                    .collect(),
            })
            .collect()
    }

    #[allow(clippy::print_stdout, reason = "the table is what the command is for")]
    pub(crate) fn print(&self) {
        let others = || self.contestants.iter().filter(|one| **one != Contestant::Rtc);
        let mut head = vec!["median".to_owned(), "unit".to_owned()];
        head.extend(self.contestants.iter().map(|one| one.name().to_owned()));
        head.extend(others().map(|one| format!("rtc/{}", one.name())));
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN).set_header(head);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in self.table() {
            let mut cells = vec![row.figure.to_owned(), row.unit.symbol().to_owned()];
            cells.extend(row.results.iter().map(|cell| number(cell.median)));
            let ratios = row.results.iter().filter(|cell| cell.contestant != Contestant::Rtc.name());
            cells.extend(ratios.map(|cell| number(cell.rtc_ratio)));
            table.add_row(cells);
        }
        println!("{table}");
    }

    pub(crate) fn write_json(&self, path: &Path) -> Result<(), Error> {
        let file = File::create(path).map_err(|err| Error::File { action: "create", path: path.to_owned(), err })?;
        serde_json::to_writer_pretty(file, &self.table()).map_err(Error::Results)
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn ratios_pair_the_values_of_one_round() {
        let mut report = Report::new(vec![Contestant::Rtc, Contestant::Runc]);
        for (rtc, runc) in [(1.0, 2.0), (10.0, 40.0), (3.0, 6.0)] {
            report.add(Figure::time("x"), Contestant::Rtc, rtc);
            report.add(Figure::time("x"), Contestant::Runc, runc);
        }
        let table = report.table();
        assert_eq!(table[0].results[1].rtc_ratio, Some(0.5));
        assert_eq!(table[0].results[0].rtc_ratio, None);
    }
}
