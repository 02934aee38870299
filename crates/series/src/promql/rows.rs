//! What the nodes of an expression give: rows of cells, one cell for each moment of the query.

use super::error::QueryError;
use super::source::{Labels, Sample};
use std::collections::HashMap;

/// The moments that a query asks about.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// The first, in milliseconds since the epoch.
    pub first_ms: i64,
    /// From one to the next.
    pub step_ms: i64,
    /// How many.
    pub count: usize,
}

impl Moments {
    /// The moment of one step.
    pub fn at(self, step: usize) -> i64 {
        self.first_ms.saturating_add(self.step_ms.saturating_mul(i64::try_from(step).unwrap_or(i64::MAX)))
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = i64> {
        (0..self.count).map(move |step| self.at(step))
    }

    /// The last one.
    pub fn last(self) -> i64 {
        self.at(self.count.saturating_sub(1))
    }

    /// The cells that are there, as samples.
    pub fn samples_of(self, cells: &[Option<f64>]) -> Vec<Sample> {
        // Mostly all are there.
        let mut samples = Vec::with_capacity(cells.len());
        samples.extend(self.iter().zip(cells).filter_map(|(t_ms, cell)| cell.map(|v| Sample { t_ms, v })));
        samples
    }
}

/// One series at every moment.
#[derive(Clone, Debug)]
pub struct Row {
    pub labels: Labels,
    pub cells: Vec<Option<f64>>,
}

impl Row {
    /// With every cell that is there computed anew.
    #[must_use]
    pub fn mapped(mut self, compute: impl Fn(f64) -> f64) -> Self {
        for cell in &mut self.cells {
            *cell = cell.map(&compute);
        }
        self
    }
}

/// What a node gives.
#[derive(Debug)]
pub enum Node {
    /// A number at every moment.
    Scalar(Vec<f64>),
    /// An instant vector at every moment.
    Rows(Vec<Row>),
    /// A text, the same always.
    Text(String),
}

impl Node {
    /// A number counts as one series without labels.
    pub fn into_rows(self) -> Vec<Row> {
        match self {
            Self::Rows(rows) => rows,
            Self::Scalar(values) => {
                vec![Row { labels: Labels::default(), cells: values.into_iter().map(Some).collect() }]
            }
            Self::Text(_) => Vec::new(),
        }
    }
}

/// Rows whose labels became the same are one, unless both have a value at some moment.
pub fn merged(rows: Vec<Row>) -> Result<Vec<Row>, QueryError> {
    let mut places: HashMap<Labels, usize> = HashMap::with_capacity(rows.len());
    let mut result: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(&place) = places.get(&row.labels) else {
            places.insert(row.labels.clone(), result.len());
            result.push(row);
            continue;
        };
        for (into, cell) in result[place].cells.iter_mut().zip(row.cells) {
            match (&into, cell) {
                (Some(_), Some(_)) => return Err(QueryError::SameLabels(row.labels.to_string())),
                (None, Some(_)) => *into = cell,
                (_, None) => {}
            }
        }
    }
    Ok(result)
}
