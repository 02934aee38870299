//! Functions by name: of ranges, of instant vectors, of numbers.

use super::dates::{self, DATES};
use super::error::QueryError;
use super::evaluation::{Evaluation, Ranges, matchers};
use super::histogram::histogram_quantile;
use super::labelling;
use super::rows::{Node, Row, merged};
use super::source::{Labels, MatchOp, NAME};
use super::windows::RangeFunction;
use promql_parser::parser::{Call, Expr};

/// Computes one value.
type OfValue = fn(f64) -> f64;

/// Functions that compute each value by itself.
const OF_VALUES: &[(&str, OfValue)] = &[
    ("abs", f64::abs),
    ("acos", f64::acos),
    ("acosh", f64::acosh),
    ("asin", f64::asin),
    ("asinh", f64::asinh),
    ("atan", f64::atan),
    ("atanh", f64::atanh),
    ("ceil", f64::ceil),
    ("cos", f64::cos),
    ("cosh", f64::cosh),
    ("deg", f64::to_degrees),
    ("exp", f64::exp),
    ("floor", f64::floor),
    ("ln", f64::ln),
    ("log10", f64::log10),
    ("log2", f64::log2),
    ("rad", f64::to_radians),
    ("sgn", sign),
    ("sin", f64::sin),
    ("sinh", f64::sinh),
    ("sqrt", f64::sqrt),
    ("tan", f64::tan),
    ("tanh", f64::tanh),
];

/// Functions that [`call`] knows by itself.
const OTHERS: &[&str] = &[
    "absent",
    "absent_over_time",
    "clamp",
    "clamp_max",
    "clamp_min",
    "histogram_quantile",
    "label_join",
    "label_replace",
    "pi",
    "round",
    "scalar",
    "sort",
    "sort_desc",
    "time",
    "timestamp",
    "vector",
];

/// What comes nearest by meaning, where the names are far apart.
const KIN: &[(&str, &str)] = &[
    ("double_exponential_smoothing", "predict_linear"),
    ("first_over_time", "last_over_time"),
    ("histogram_fraction", "histogram_quantile"),
    ("holt_winters", "predict_linear"),
    ("limit_ratio", "topk"),
    ("limitk", "topk"),
    ("mad_over_time", "stddev_over_time"),
    ("sort_by_label", "sort"),
    ("sort_by_label_desc", "sort_desc"),
    ("xrate", "rate"),
];

/// The supported function nearest to this one: its kin, or the name that takes the fewest edits.
pub fn nearest(name: &str) -> &'static str {
    if let Some((_, kin)) = KIN.iter().find(|(unsupported, _)| *unsupported == name) {
        return kin;
    }
    let of_ranges = RangeFunction::ALL.iter().map(|(known, _)| *known);
    let of_values = OF_VALUES.iter().map(|(known, _)| *known);
    let dates = DATES.iter().map(|(known, _)| *known);
    let all = of_ranges
        .chain(of_values)
        .chain(dates)
        .chain(OTHERS.iter().copied())
        .chain(super::aggregation::NAMES.iter().copied());
    all.min_by_key(|known| edits(name, known)).unwrap_or("rate")
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let mut line: Vec<usize> = (0..=b.len()).collect();
    for (row, from) in a.bytes().enumerate() {
        let mut corner = row;
        line[0] = row + 1;
        for (column, to) in b.bytes().enumerate() {
            let replaced = corner + usize::from(from != to);
            corner = line[column + 1];
            line[column + 1] = replaced.min(corner + 1).min(line[column] + 1);
        }
    }
    line[b.len()]
}

/// What a call gives.
pub fn call(evaluation: &Evaluation<'_>, call: &Call) -> Result<Node, QueryError> {
    let name = call.func.name;
    let args = Arguments { evaluation, call };
    if let Some((_, function)) = RangeFunction::ALL.iter().find(|(known, _)| *known == name) {
        return of_range(&args, *function).map(Node::Rows);
    }
    if let Some((_, compute)) = OF_VALUES.iter().find(|(known, _)| *known == name) {
        return args.computed(0, compute).map(Node::Rows);
    }
    if let Some((_, date)) = DATES.iter().find(|(known, _)| *known == name) {
        return args.computed_or_now(|v| dates::of_value(*date, v)).map(Node::Rows);
    }
    let moments = evaluation.moments;
    Ok(match name {
        "absent" => Node::Rows(absent(&args, &evaluation.rows(args.get(0)?)?)?),
        "absent_over_time" => {
            let ranges = args.ranges(0, RangeFunction::Present)?;
            Node::Rows(absent(&args, &ranges.apply(RangeFunction::Present, &[])?)?)
        }
        "clamp" => {
            let (min, max) = (args.scalar(1)?, args.scalar(2)?);
            Node::Rows(args.zipped(0, |v, step| {
                let (min, max) = (min[step], max[step]);
                (max >= min || max.is_nan() || min.is_nan()).then(|| greater(min, lesser(max, v)))
            })?)
        }
        "clamp_max" => {
            let max = args.scalar(1)?;
            Node::Rows(args.zipped(0, |v, step| Some(lesser(max[step], v)))?)
        }
        "clamp_min" => {
            let min = args.scalar(1)?;
            Node::Rows(args.zipped(0, |v, step| Some(greater(min[step], v)))?)
        }
        "histogram_quantile" => {
            Node::Rows(merged(histogram_quantile(&args.scalar(0)?, &evaluation.rows(args.get(1)?)?))?)
        }
        "label_join" => Node::Rows(labelling::label_join(&args)?),
        "label_replace" => Node::Rows(labelling::label_replace(&args)?),
        "pi" => Node::Scalar(vec![std::f64::consts::PI; moments.count]),
        "round" => {
            let nearest = if args.len() > 1 { args.scalar(1)? } else { vec![1.0; moments.count] };
            Node::Rows(args.zipped(0, |v, step| {
                // By the inverse, as Prometheus does: it loses less for 0.1 and its like.
                let inverse = 1.0 / nearest[step];
                Some((v * inverse + 0.5).floor() / inverse)
            })?)
        }
        "scalar" => Node::Scalar(scalar(&evaluation.rows(args.get(0)?)?, moments.count)),
        "sort" => Node::Rows(sorted(evaluation.rows(args.get(0)?)?, moments.count, f64::total_cmp)),
        "sort_desc" => Node::Rows(sorted(evaluation.rows(args.get(0)?)?, moments.count, |a, b| b.total_cmp(a))),
        "time" => Node::Scalar(moments.iter().map(seconds).collect()),
        "timestamp" => Node::Rows(timestamp(&args)?),
        "vector" => {
            let cells = args.scalar(0)?.into_iter().map(Some).collect();
            Node::Rows(vec![Row { labels: Labels::default(), cells }])
        }
        _ => return Err(QueryError::Unsupported { name: name.to_owned(), nearest: nearest(name) }),
    })
}

/// The arguments of a call.
#[derive(Clone, Copy)]
pub struct Arguments<'a> {
    pub evaluation: &'a Evaluation<'a>,
    call: &'a Call,
}

impl<'a> Arguments<'a> {
    pub fn len(&self) -> usize {
        self.call.args.len()
    }

    pub fn get(&self, at: usize) -> Result<&'a Expr, QueryError> {
        let missing = || QueryError::Type(format!("{} lacks an argument", self.call.func.name));
        self.call.args.args.get(at).map(AsRef::as_ref).ok_or_else(missing)
    }

    fn scalar(&self, at: usize) -> Result<Vec<f64>, QueryError> {
        self.evaluation.scalar(self.get(at)?)
    }

    fn ranges(&self, at: usize, function: RangeFunction) -> Result<Ranges<'a>, QueryError> {
        let expected = || QueryError::Type(format!("expected a range vector in {}", self.call.func.name));
        self.evaluation.ranges(self.get(at)?, function)?.ok_or_else(expected)
    }

    /// Each value computed, names gone.
    fn computed(&self, at: usize, compute: impl Fn(f64) -> f64) -> Result<Vec<Row>, QueryError> {
        self.zipped(at, |v, _| Some(compute(v)))
    }

    /// Each value computed, or the moment's if there is no argument.
    fn computed_or_now(&self, compute: impl Fn(f64) -> f64) -> Result<Vec<Row>, QueryError> {
        if self.len() > 0 {
            return self.computed(0, compute);
        }
        let cells = self.evaluation.moments.iter().map(|ms| Some(compute(seconds(ms)))).collect();
        Ok(vec![Row { labels: Labels::default(), cells }])
    }

    /// Each value computed with its step, names gone.
    fn zipped(&self, at: usize, compute: impl Fn(f64, usize) -> Option<f64>) -> Result<Vec<Row>, QueryError> {
        let mut rows = self.evaluation.rows(self.get(at)?)?;
        for row in &mut rows {
            row.labels = row.labels.unnamed();
            for (step, cell) in row.cells.iter_mut().enumerate() {
                *cell = cell.and_then(|v| compute(v, step));
            }
        }
        merged(rows)
    }
}

fn of_range(args: &Arguments<'_>, function: RangeFunction) -> Result<Vec<Row>, QueryError> {
    let (ranges, parameters) = match function {
        RangeFunction::Quantile => (args.ranges(1, function)?, args.scalar(0)?),
        RangeFunction::PredictLinear => (args.ranges(0, function)?, args.scalar(1)?),
        _ => (args.ranges(0, function)?, Vec::new()),
    };
    ranges.apply(function, &parameters)
}

/// 1 where there is nothing, under the labels that the selector demands by `=`.
fn absent(args: &Arguments<'_>, rows: &[Row]) -> Result<Vec<Row>, QueryError> {
    let mut labels = Labels::default();
    let selector = match args.get(0)? {
        Expr::VectorSelector(selector) => Some(selector),
        Expr::MatrixSelector(range) => Some(&range.vs),
        _ => None,
    };
    let mut demanded = Vec::new();
    for matcher in selector.map(matchers).transpose()?.unwrap_or_default() {
        let by_value = matches!(matcher.op, MatchOp::Equal) && !demanded.contains(&matcher.label);
        if matcher.label != NAME {
            labels.set(&matcher.label, if by_value { &matcher.value } else { "" });
        }
        if by_value {
            demanded.push(matcher.label);
        }
    }
    let is_there = |step: usize| rows.iter().any(|row| row.cells[step].is_some());
    let cells = (0..args.evaluation.moments.count).map(|step| (!is_there(step)).then_some(1.0)).collect();
    Ok(vec![Row { labels, cells }])
}

/// The value where there is exactly one, else NaN.
fn scalar(rows: &[Row], count: usize) -> Vec<f64> {
    let one = |step: usize| {
        let mut there = rows.iter().filter_map(|row| row.cells[step]);
        there.next().filter(|_| there.next().is_none()).unwrap_or(f64::NAN)
    };
    (0..count).map(one).collect()
}

/// In order of value, NaN last. At more than one moment there is no one order: left alone.
fn sorted(mut rows: Vec<Row>, count: usize, order: impl Fn(&f64, &f64) -> std::cmp::Ordering) -> Vec<Row> {
    if count == 1 {
        rows.retain(|row| row.cells[0].is_some());
        rows.sort_by(|a, b| match (a.cells[0], b.cells[0]) {
            (Some(a), Some(b)) => a.is_nan().cmp(&b.is_nan()).then_with(|| order(&a, &b)),
            _ => std::cmp::Ordering::Equal,
        });
    }
    rows
}

/// When the samples of a selector were taken; of anything computed, the moment itself.
fn timestamp(args: &Arguments<'_>) -> Result<Vec<Row>, QueryError> {
    let mut inner = args.get(0)?;
    while let Expr::Paren(paren) = inner {
        inner = &paren.expr;
    }
    if let Expr::VectorSelector(selector) = inner {
        let mut rows = args.evaluation.latest(selector, |sample| seconds(sample.t_ms))?;
        for row in &mut rows {
            row.labels = row.labels.unnamed();
        }
        return merged(rows);
    }
    args.zipped(0, |_, step| Some(seconds(args.evaluation.moments.at(step))))
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of any year we live in are exact as a double")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn sign(v: f64) -> f64 {
    if v < 0.0 {
        -1.0
    } else if v > 0.0 {
        1.0
    } else {
        v
    }
}

/// Unlike `f64::max`, NaN if one is.
fn greater(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Unlike `f64::min`, NaN if one is.
fn lesser(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}
