//! Operators between two sides: numbers, vectors with numbers, and vectors whose series are paired.

use super::error::QueryError;
use super::evaluation::Evaluation;
use super::rows::{Node, Row, merged};
use super::source::{Labels, NAME};
use promql_parser::parser::token::{self, TokenId};
use promql_parser::parser::{BinModifier, BinaryExpr, LabelModifier, VectorMatchCardinality as Cardinality};
use std::collections::HashMap;

/// What an operator does with two values.
#[derive(Clone, Copy)]
enum Operator {
    Compute(fn(f64, f64) -> f64),
    Compare(fn(&f64, &f64) -> bool),
    And,
    Or,
    Unless,
}

impl Operator {
    fn of(id: TokenId) -> Option<Self> {
        Some(match id {
            token::T_ADD => Self::Compute(|a, b| a + b),
            token::T_SUB => Self::Compute(|a, b| a - b),
            token::T_MUL => Self::Compute(|a, b| a * b),
            token::T_DIV => Self::Compute(|a, b| a / b),
            token::T_MOD => Self::Compute(|a, b| a % b),
            token::T_POW => Self::Compute(f64::powf),
            token::T_ATAN2 => Self::Compute(f64::atan2),
            token::T_EQLC => Self::Compare(f64::eq),
            token::T_NEQ => Self::Compare(f64::ne),
            token::T_LSS => Self::Compare(f64::lt),
            token::T_LTE => Self::Compare(f64::le),
            token::T_GTR => Self::Compare(f64::gt),
            token::T_GTE => Self::Compare(f64::ge),
            token::T_LAND => Self::And,
            token::T_LOR => Self::Or,
            token::T_LUNLESS => Self::Unless,
            _ => return None,
        })
    }

    /// The value, `kept` where a comparison without `bool` holds.
    fn apply(self, a: f64, b: f64, kept: f64, as_bool: bool) -> Option<f64> {
        match self {
            Self::Compute(compute) => Some(compute(a, b)),
            Self::Compare(holds) if as_bool => Some(f64::from(u8::from(holds(&a, &b)))),
            Self::Compare(holds) => holds(&a, &b).then_some(kept),
            Self::And | Self::Or | Self::Unless => None,
        }
    }

    fn drops_name(self, as_bool: bool) -> bool {
        as_bool || matches!(self, Self::Compute(_))
    }
}

/// What an operator gives.
pub fn binary(evaluation: &Evaluation<'_>, expr: &BinaryExpr) -> Result<Node, QueryError> {
    let unsupported = |name: &str| QueryError::Unsupported { name: name.to_owned(), nearest: "or" };
    let operator = Operator::of(expr.op.id()).ok_or_else(|| unsupported(&expr.op.to_string()))?;
    let modifier = expr.modifier.clone().unwrap_or_default();
    if modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some() {
        return Err(unsupported("fill"));
    }
    let as_bool = modifier.return_bool;
    let with_number = |rows: Vec<Row>, numbers: &[f64], number_is_left: bool| {
        let one = |mut row: Row| {
            if operator.drops_name(as_bool) {
                row.labels = row.labels.unnamed();
            }
            for (cell, number) in row.cells.iter_mut().zip(numbers) {
                let sides = |v| if number_is_left { (*number, v) } else { (v, *number) };
                *cell = cell.and_then(|v| operator.apply(sides(v).0, sides(v).1, v, as_bool));
            }
            row
        };
        merged(rows.into_iter().map(one).collect()).map(Node::Rows)
    };
    match (evaluation.node(&expr.lhs)?, evaluation.node(&expr.rhs)?) {
        (Node::Scalar(left), Node::Scalar(right)) => {
            let both = left.into_iter().zip(right);
            Ok(Node::Scalar(both.map(|(a, b)| operator.apply(a, b, a, as_bool).unwrap_or(f64::NAN)).collect()))
        }
        (Node::Rows(rows), Node::Scalar(numbers)) => with_number(rows, &numbers, false),
        (Node::Scalar(numbers), Node::Rows(rows)) => with_number(rows, &numbers, true),
        (Node::Rows(left), Node::Rows(right)) => {
            let pairing = Pairing { operator, modifier: &modifier, evaluation };
            merged(match operator {
                Operator::Compute(_) | Operator::Compare(_) => pairing.paired(&left, &right)?,
                Operator::And => pairing.kept_where(left, &right, true),
                Operator::Unless => pairing.kept_where(left, &right, false),
                Operator::Or => {
                    let added = pairing.kept_where(right, &left, false);
                    left.into_iter().chain(added).collect()
                }
            })
            .map(Node::Rows)
        }
        (Node::Text(_), _) | (_, Node::Text(_)) => {
            Err(QueryError::Type("binary expression must contain only scalar and instant vector types".to_owned()))
        }
    }
}

struct Pairing<'a> {
    operator: Operator,
    modifier: &'a BinModifier,
    evaluation: &'a Evaluation<'a>,
}

impl Pairing<'_> {
    /// The labels by which series are paired.
    fn signature(&self, labels: &Labels) -> Labels {
        match &self.modifier.matching {
            Some(LabelModifier::Include(on)) => labels.filtered(|label| on.labels.iter().any(|l| l == label)),
            Some(LabelModifier::Exclude(ignoring)) => {
                labels.filtered(|label| label != NAME && !ignoring.labels.iter().any(|l| l == label))
            }
            None => labels.unnamed(),
        }
    }

    fn by_signature<'r>(&self, rows: &'r [Row]) -> HashMap<Labels, Vec<&'r Row>> {
        let mut found: HashMap<Labels, Vec<&Row>> = HashMap::new();
        for row in rows {
            found.entry(self.signature(&row.labels)).or_default().push(row);
        }
        found
    }

    /// The values that have a partner at their moment, or those that have none.
    fn kept_where(&self, rows: Vec<Row>, others: &[Row], has_partner: bool) -> Vec<Row> {
        let others = self.by_signature(others);
        let one = |mut row: Row| {
            let partners = others.get(&self.signature(&row.labels));
            for (step, cell) in row.cells.iter_mut().enumerate() {
                let found = partners.is_some_and(|rows| rows.iter().any(|other| other.cells[step].is_some()));
                *cell = cell.filter(|_| found == has_partner);
            }
            row
        };
        rows.into_iter().map(one).collect()
    }

    /// Each value of the many with its one partner. In a one-to-one match the left side is the many.
    fn paired(&self, left: &[Row], right: &[Row]) -> Result<Vec<Row>, QueryError> {
        let swapped = matches!(self.modifier.card, Cardinality::OneToMany(_));
        let (many, ones) = if swapped { (right, left) } else { (left, right) };
        let ones = self.by_signature(ones);
        let is_any = |step: usize| many.iter().any(|row| row.cells[step].is_some());
        let asked: Vec<bool> = (0..self.evaluation.moments.count).map(is_any).collect();
        for (signature, rows) in &ones {
            self.check_unique(signature, rows, &asked, swapped)?;
        }
        let mut result = Vec::new();
        // Who was given a partner, by signature: one-to-one gives each partner away once a moment.
        let mut given: HashMap<Labels, Vec<bool>> = HashMap::new();
        for row in many {
            let signature = self.signature(&row.labels);
            let Some(partners) = ones.get(&signature) else { continue };
            let given = given.entry(signature).or_insert_with(|| vec![false; asked.len()]);
            for one in partners {
                self.evaluation.pay(asked.len())?;
                let cells = self.cells(row, one, swapped);
                for (step, _) in cells.iter().enumerate().filter(|(_, cell)| cell.is_some()) {
                    if given[step] && self.modifier.card == Cardinality::OneToOne {
                        let why = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                        return Err(QueryError::Matching(why.to_owned()));
                    }
                    given[step] = true;
                }
                result.push(Row { labels: self.labels(&row.labels, &one.labels), cells });
            }
        }
        merged(result).map_err(|_| {
            let why = "multiple matches for labels: grouping labels must ensure unique matches";
            QueryError::Matching(why.to_owned())
        })
    }

    fn cells(&self, many: &Row, one: &Row, swapped: bool) -> Vec<Option<f64>> {
        let cell = |(many, one): (&Option<f64>, &Option<f64>)| {
            let (a, b) = if swapped { ((*one)?, (*many)?) } else { ((*many)?, (*one)?) };
            self.operator.apply(a, b, a, self.modifier.return_bool)
        };
        many.cells.iter().zip(&one.cells).map(cell).collect()
    }

    /// The side of one may have one series per signature, wherever the other side has any at all.
    fn check_unique(&self, signature: &Labels, rows: &[&Row], asked: &[bool], swapped: bool) -> Result<(), QueryError> {
        for step in (0..asked.len()).filter(|step| rows.len() > 1 && asked[*step]) {
            let mut there = rows.iter().filter(|row| row.cells[step].is_some());
            if let (Some(first), Some(second)) = (there.next(), there.next()) {
                let side = if swapped { "left" } else { "right" };
                return Err(QueryError::Matching(format!(
                    "found duplicate series for the match group {signature} on the {side} hand-side of the operation: \
                     [{}, {}]; many-to-many matching not allowed: matching labels must be unique on one side",
                    second.labels, first.labels
                )));
            }
        }
        Ok(())
    }

    fn labels(&self, many: &Labels, one: &Labels) -> Labels {
        let mut labels = match (&self.modifier.card, &self.modifier.matching) {
            (Cardinality::OneToOne, Some(LabelModifier::Include(_))) => self.signature(many),
            (Cardinality::OneToOne, Some(LabelModifier::Exclude(ignoring))) => {
                many.filtered(|label| !ignoring.labels.iter().any(|l| l == label))
            }
            _ => many.clone(),
        };
        if self.operator.drops_name(self.modifier.return_bool) {
            labels = labels.unnamed();
        }
        for copied in self.modifier.card.labels().iter().flat_map(|copied| &copied.labels) {
            labels.set(copied, one.get(copied));
        }
        labels
    }
}
