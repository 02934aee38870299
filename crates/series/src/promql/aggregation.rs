//! Aggregations: many rows into one per group, or the few that count most.

use super::error::QueryError;
use super::evaluation::Evaluation;
use super::functions::nearest;
use super::rows::{Row, merged};
use super::source::{Labels, NAME};
use super::sums::{nan_first, quantile, stays_infinite};
use super::value::plain_number;
use promql_parser::parser::{AggregateExpr, Expr, LabelModifier, token};
use std::cmp::Ordering;
use std::collections::HashMap;

/// What is supported, for who misspelt it.
pub const NAMES: &[&str] =
    &["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile", "count_values"];

/// Rows with the same labels to group by.
struct Group {
    labels: Labels,
    rows: Vec<Row>,
}

/// What an aggregation gives.
pub fn aggregate(evaluation: &Evaluation<'_>, expr: &AggregateExpr) -> Result<Vec<Row>, QueryError> {
    let count = evaluation.moments.count;
    let groups = grouped(evaluation.rows(&expr.expr)?, expr.modifier.as_ref());
    let number = || evaluation.scalar(parameter(expr)?);
    let folded = |give: &dyn Fn(&mut Vec<f64>, usize) -> f64| Ok(fold(&groups, count, give));
    match expr.op.id() {
        token::T_SUM => Ok(paired(groups, |sum, v| sum + v)),
        token::T_MIN => Ok(paired(groups, |least, v| if v < least || least.is_nan() { v } else { least })),
        token::T_MAX => Ok(paired(groups, |most, v| if v > most || most.is_nan() { v } else { most })),
        token::T_AVG => folded(&|values, _| mean(values)),
        token::T_COUNT => folded(&|values, _| length(values)),
        token::T_GROUP => folded(&|_, _| 1.0),
        token::T_STDDEV => folded(&|values, _| variance(values).sqrt()),
        token::T_STDVAR => folded(&|values, _| variance(values)),
        token::T_QUANTILE => {
            let q = number()?;
            folded(&|values, step| quantile(q[step], values))
        }
        token::T_TOPK => Ok(chosen(groups, &number()?, |a, b| nan_first(b, a))),
        // NaN is last in both directions.
        token::T_BOTTOMK => {
            Ok(chosen(groups, &number()?, |a, b| a.is_nan().cmp(&b.is_nan()).then_with(|| nan_first(a, b))))
        }
        token::T_COUNT_VALUES => counted(evaluation, groups, &evaluation.text(parameter(expr)?)?),
        _ => {
            let name = expr.op.to_string();
            Err(QueryError::Unsupported { nearest: nearest(&name), name })
        }
    }
}

fn parameter(expr: &AggregateExpr) -> Result<&Expr, QueryError> {
    expr.param.as_deref().ok_or_else(|| QueryError::Type(format!("{} lacks its parameter", expr.op)))
}

/// In order of first appearance.
fn grouped(rows: Vec<Row>, modifier: Option<&LabelModifier>) -> Vec<Group> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let labels = match modifier {
            None => Labels::default(),
            Some(LabelModifier::Include(by)) => row.labels.filtered(|label| by.labels.iter().any(|l| l == label)),
            Some(LabelModifier::Exclude(without)) => {
                row.labels.filtered(|label| label != NAME && !without.labels.iter().any(|l| l == label))
            }
        };
        let place = *places.entry(labels.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Group { labels, rows: Vec::new() });
        }
        groups[place].rows.push(row);
    }
    groups
}

/// One row for each group: at each moment the values of its rows, in their order, two by two made into one.
fn paired(groups: Vec<Group>, join: impl Fn(f64, f64) -> f64) -> Vec<Row> {
    let row = |Group { labels, rows }| {
        let mut rows = rows.into_iter();
        let mut cells = rows.next().map_or_else(Vec::new, |row: Row| row.cells);
        for row in rows {
            for (so_far, cell) in cells.iter_mut().zip(row.cells) {
                *so_far = match (*so_far, cell) {
                    (Some(so_far), Some(v)) => Some(join(so_far, v)),
                    (one, other) => one.or(other),
                };
            }
        }
        Row { labels, cells }
    };
    groups.into_iter().map(row).collect()
}

/// One row for each group; `give` sees the values of a moment, in the rows' order, never none.
fn fold(groups: &[Group], count: usize, give: &dyn Fn(&mut Vec<f64>, usize) -> f64) -> Vec<Row> {
    let mut values = Vec::new();
    let row = |group: &Group| {
        let cell = |step: usize| {
            values.clear();
            values.extend(group.rows.iter().filter_map(|row| row.cells[step]));
            (!values.is_empty()).then(|| give(&mut values, step))
        };
        Row { labels: group.labels.clone(), cells: (0..count).map(cell).collect() }
    };
    groups.iter().map(row).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts of series are far below 2^52")]
fn length(values: &[f64]) -> f64 {
    values.len() as f64
}

/// A running mean, which does not overflow where the sum would.
fn mean(values: &[f64]) -> f64 {
    let (mut mean, mut count) = (0.0, 0.0);
    for v in values {
        count += 1.0;
        if !stays_infinite(mean, *v) {
            mean += v / count - mean / count;
        }
    }
    mean
}

/// Welford's. The first value adds nothing, be it NaN.
fn variance(values: &[f64]) -> f64 {
    let Some((first, rest)) = values.split_first() else { return f64::NAN };
    let (mut mean, mut squares, mut count) = (*first, 0.0, 1.0);
    for v in rest {
        count += 1.0;
        let delta = v - mean;
        mean += delta / count;
        squares += delta * (v - mean);
    }
    squares / count
}

/// The `k` first of each group at each moment; in that order, if there is one moment.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` ends at the bounds, NaN gives 0")]
fn chosen(groups: Vec<Group>, ks: &[f64], order: impl Fn(f64, f64) -> Ordering) -> Vec<Row> {
    let mut result = Vec::new();
    for Group { mut rows, .. } in groups {
        let mut first_order: Vec<usize> = Vec::new();
        for (step, k) in ks.iter().enumerate() {
            let there = rows.iter().enumerate().filter_map(|(place, row)| row.cells[step].map(|v| (place, v)));
            let mut there: Vec<(usize, f64)> = there.collect();
            there.sort_by(|a, b| order(a.1, b.1));
            for (place, _) in there.iter().skip(*k as usize) {
                rows[*place].cells[step] = None;
            }
            first_order = there.iter().map(|(place, _)| *place).take(*k as usize).collect();
        }
        if ks.len() == 1 {
            let mut ranks = vec![usize::MAX; rows.len()];
            for (rank, place) in first_order.iter().enumerate() {
                ranks[*place] = rank;
            }
            let mut ranked: Vec<(usize, Row)> = ranks.into_iter().zip(rows).collect();
            ranked.sort_by_key(|(rank, _)| *rank);
            rows = ranked.into_iter().map(|(_, row)| row).collect();
        }
        result.extend(rows.into_iter().filter(|row| row.cells.iter().any(Option::is_some)));
    }
    result
}

/// `count_values`: how often each value is there, the value as a label.
fn counted(evaluation: &Evaluation<'_>, groups: Vec<Group>, label: &str) -> Result<Vec<Row>, QueryError> {
    let count = evaluation.moments.count;
    let mut result = Vec::new();
    for group in groups {
        let mut places: HashMap<String, usize> = HashMap::new();
        let start = result.len();
        for (row, step) in group.rows.iter().flat_map(|row| (0..count).map(move |step| (row, step))) {
            let Some(v) = row.cells[step] else { continue };
            let text = plain_number(v);
            let place = *places.entry(text).or_insert_with_key(|text| {
                let mut labels = group.labels.clone();
                labels.set(label, text);
                result.push(Row { labels, cells: vec![None; count] });
                result.len() - 1
            });
            if result[place].cells[step].is_none() {
                evaluation.pay(1)?;
            }
            *result[place].cells[step].get_or_insert(0.0) += 1.0;
        }
        evaluation.pay((result.len() - start).saturating_mul(count))?;
    }
    merged(result)
}
