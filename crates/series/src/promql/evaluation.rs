//! Walking an expression: selectors, subqueries, and whom to ask for the rest.

use super::error::QueryError;
use super::rows::{Moments, Node, Row, merged};
use super::source::{Asked, Labels, MatchOp, Matcher, Reading, Sample, Source};
use super::windows::{Fall, RangeFunction, Window, apply};
use super::{Engine, aggregation, functions, pairing};
use promql_parser::label::MatchOp as Parsed;
use promql_parser::parser::{AtModifier, Expr, MatrixSelector, Offset, SubqueryExpr, VectorSelector};
use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// Between two questions whether the time is over, windows may have held so many samples.
const TOUCHED_UNASKED_MAX: usize = 1_000_000;

/// What a query may still cost.
pub struct Budget<'a> {
    left: Cell<u64>,
    max: u64,
    is_over: &'a dyn Fn() -> bool,
}

impl<'a> Budget<'a> {
    pub fn new(max: u64, is_over: &'a dyn Fn() -> bool) -> Self {
        Self { left: Cell::new(max), max, is_over }
    }

    /// Pays for samples that will be touched.
    pub fn pay(&self, samples: usize) -> Result<(), QueryError> {
        let left = self.left.get().checked_sub(samples as u64).ok_or(QueryError::TooManySamples { max: self.max })?;
        self.left.set(left);
        if (self.is_over)() { Err(QueryError::TooSlow) } else { Ok(()) }
    }
}

/// One walk, over the moments of the query or of a subquery.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    engine: &'a Engine,
    source: &'a dyn Source,
    budget: &'a Budget<'a>,
    /// What `@ start()` and `@ end()` mean; the end need not be one of the moments.
    bounds_ms: (i64, i64),
    pub moments: Moments,
}

/// When a selector looks: at each moment, or at the one `@` names; some time before or after it.
#[derive(Clone, Copy)]
struct Aim {
    pinned_ms: Option<i64>,
    offset_ms: i64,
}

impl Aim {
    fn at(self, moment: i64) -> i64 {
        self.pinned_ms.unwrap_or(moment).saturating_sub(self.offset_ms)
    }

    fn all(self, moments: Moments) -> Moments {
        let first_ms = self.at(moments.first_ms);
        match self.pinned_ms {
            Some(_) => Moments { first_ms, step_ms: 0, count: 1 },
            None => Moments { first_ms, ..moments },
        }
    }
}

/// Of a step or a window, this many buckets are as good as finer ones.
const COARSE_PARTS: i64 = 5;

/// How a selector is to be answered.
#[derive(Clone, Copy)]
struct Wish {
    /// Samples are wanted from so long before the first moment on.
    before_ms: i64,
    reading: Reading,
    coarsest_ms: i64,
    /// Only the newest sample at each moment is wanted.
    newest: bool,
}

impl Wish {
    fn finest(before_ms: i64) -> Self {
        Self { before_ms, reading: Reading::Value, coarsest_ms: 0, newest: false }
    }
}

/// What a range selector or a subquery found: samples without gaps, and which windows to take.
pub struct Ranges<'a> {
    budget: &'a Budget<'a>,
    series: Vec<(Labels, Vec<Sample>)>,
    /// Where samples are sums of buckets: of how many values each.
    counts: Option<Vec<(Labels, Vec<Sample>)>>,
    /// Where samples are counts: what counting is then.
    counted: bool,
    aim: Aim,
    range_ms: i64,
    moments: Moments,
}

impl Ranges<'_> {
    /// The samples in the window of the first moment, by series: what an instant query for a range
    /// answers.
    pub fn at_the_only_moment(self) -> Vec<(Labels, Vec<Sample>)> {
        let to = self.aim.at(self.moments.first_ms);
        let from = to.saturating_sub(self.range_ms);
        let mut series = self.series;
        for (_, samples) in &mut series {
            samples.retain(|sample| (from..=to).contains(&sample.t_ms));
        }
        series.retain(|(_, samples)| !samples.is_empty());
        series.sort_by(|a, b| a.0.cmp(&b.0));
        series
    }

    /// A function over the window of each moment; names go, unless the value is still the series'.
    pub fn apply(&self, function: RangeFunction, parameters: &[f64]) -> Result<Vec<Row>, QueryError> {
        if let Some(counts) = &self.counts {
            return self.means(counts);
        }
        let named = function == RangeFunction::Last;
        let function = if self.counted { RangeFunction::Sum } else { function };
        let mut rows = Vec::with_capacity(self.series.len());
        for (labels, samples) in &self.series {
            let labels = if named { labels.clone() } else { labels.unnamed() };
            rows.push(Row { labels, cells: self.cells(samples, function, parameters)? });
        }
        merged(rows)
    }

    /// Of sums and counts.
    fn means(&self, counts: &[(Labels, Vec<Sample>)]) -> Result<Vec<Row>, QueryError> {
        let counts: HashMap<&Labels, &Vec<Sample>> = counts.iter().map(|(labels, samples)| (labels, samples)).collect();
        let mut rows = Vec::with_capacity(self.series.len());
        for (labels, samples) in &self.series {
            let Some(counts) = counts.get(labels) else { continue };
            let sums = self.cells(samples, RangeFunction::Sum, &[])?;
            let counts = self.cells(counts, RangeFunction::Sum, &[])?;
            let cells = sums.into_iter().zip(counts).map(|(sum, count)| Some(sum? / count?)).collect();
            rows.push(Row { labels: labels.unnamed(), cells });
        }
        merged(rows)
    }

    /// Slides over one series: each sample enters and leaves once.
    fn cells(
        &self,
        samples: &[Sample],
        function: RangeFunction,
        parameters: &[f64],
    ) -> Result<Vec<Option<f64>>, QueryError> {
        let falls = Fall::all(samples);
        let (mut low, mut high, mut low_fall, mut high_fall, mut touched) = (0, 0, 0, 0, 0);
        let mut cells = Vec::with_capacity(self.moments.count);
        for (step, at_ms) in self.moments.iter().enumerate() {
            let to_ms = self.aim.at(at_ms);
            let from_ms = to_ms.saturating_sub(self.range_ms);
            high += samples[high..].iter().take_while(|s| s.t_ms <= to_ms).count();
            low += samples[low..high].iter().take_while(|s| s.t_ms < from_ms).count();
            high_fall += falls[high_fall..].iter().take_while(|fall| fall.place < high).count();
            low_fall += falls[low_fall..high_fall].iter().take_while(|fall| fall.place <= low).count();
            touched += high - low;
            if touched > TOUCHED_UNASKED_MAX {
                self.budget.pay(0)?;
                touched = 0;
            }
            let (samples, falls) = (&samples[low..high], &falls[low_fall..high_fall]);
            let parameter = parameters.get(step).copied().unwrap_or(f64::NAN);
            cells.push(apply(function, Window { samples, falls, from_ms, to_ms, at_ms }, parameter));
        }
        Ok(cells)
    }
}

impl<'a> Evaluation<'a> {
    pub fn new(
        engine: &'a Engine,
        source: &'a dyn Source,
        budget: &'a Budget<'a>,
        moments: Moments,
        end_ms: i64,
    ) -> Self {
        Self { engine, source, budget, bounds_ms: (moments.first_ms, end_ms), moments }
    }

    /// See [`Budget::pay`].
    pub fn pay(&self, samples: usize) -> Result<(), QueryError> {
        self.budget.pay(samples)
    }

    /// What an expression gives; for ranges see [`Evaluation::ranges`].
    pub fn node(&self, expr: &Expr) -> Result<Node, QueryError> {
        match expr {
            Expr::NumberLiteral(number) => Ok(Node::Scalar(vec![number.val; self.moments.count])),
            Expr::StringLiteral(text) => Ok(Node::Text(text.val.clone())),
            Expr::Paren(paren) => self.node(&paren.expr),
            Expr::Unary(unary) => Ok(match self.node(&unary.expr)? {
                Node::Scalar(values) => Node::Scalar(values.into_iter().map(|v| -v).collect()),
                node => Node::Rows(merged(
                    node.into_rows()
                        .into_iter()
                        .map(|row| Row { labels: row.labels.unnamed(), ..row.mapped(|v| -v) })
                        .collect(),
                )?),
            }),
            Expr::VectorSelector(selector) => Ok(Node::Rows(self.latest(selector, |sample| sample.v)?)),
            Expr::Call(call) => functions::call(self, call),
            Expr::Aggregate(aggregate) => aggregation::aggregate(self, aggregate).map(Node::Rows),
            Expr::Binary(binary) => pairing::binary(self, binary),
            Expr::MatrixSelector(_) | Expr::Subquery(_) => {
                Err(QueryError::Type("a range vector stands where an instant vector is expected".to_owned()))
            }
            Expr::Extension(_) => Err(QueryError::Type("an extension of the grammar".to_owned())),
        }
    }

    /// An instant vector.
    pub fn rows(&self, expr: &Expr) -> Result<Vec<Row>, QueryError> {
        match self.node(expr)? {
            Node::Rows(rows) => Ok(rows),
            Node::Scalar(_) | Node::Text(_) => Err(QueryError::Type(format!("expected an instant vector: {expr}"))),
        }
    }

    /// A number for each moment.
    pub fn scalar(&self, expr: &Expr) -> Result<Vec<f64>, QueryError> {
        match self.node(expr)? {
            Node::Scalar(values) => Ok(values),
            Node::Rows(_) | Node::Text(_) => Err(QueryError::Type(format!("expected a scalar: {expr}"))),
        }
    }

    /// A text.
    pub fn text(&self, expr: &Expr) -> Result<String, QueryError> {
        match self.node(expr)? {
            Node::Text(text) => Ok(text),
            Node::Rows(_) | Node::Scalar(_) => Err(QueryError::Type(format!("expected a string: {expr}"))),
        }
    }

    /// The newest sample at each moment, unless it is too old or a gap came after it.
    pub fn latest(&self, selector: &VectorSelector, value: impl Fn(Sample) -> f64) -> Result<Vec<Row>, QueryError> {
        let aim = self.aim(selector.at.as_ref(), selector.offset.as_ref());
        let coarsest_ms = self.step_ms() / COARSE_PARTS;
        let wish = Wish { coarsest_ms, newest: true, ..Wish::finest(self.engine.lookback_ms) };
        // Of two buckets in turn the newer one's sample may be as old as both together.
        let lookback = wish.before_ms.max(self.resolution(selector, aim, wish)? * 2);
        let series = self.select(selector, aim, Wish { before_ms: lookback, ..wish })?;
        self.budget.pay(series.len().saturating_mul(self.moments.count))?;
        let looks: Vec<i64> = self.moments.iter().map(|moment| aim.at(moment)).collect();
        let row = |(labels, samples): (Labels, Vec<Sample>)| {
            let (mut later, mut newest) = (samples.iter().copied().peekable(), None);
            let cell = |at: &i64| {
                while let Some(sample) = later.next_if(|sample| sample.t_ms <= *at) {
                    newest = Some(sample);
                }
                let is_there = |sample: &Sample| !sample.is_gap() && sample.t_ms >= at.saturating_sub(lookback);
                newest.filter(is_there).map(&value)
            };
            Row { labels, cells: looks.iter().map(cell).collect() }
        };
        Ok(series.into_iter().map(row).collect())
    }

    /// What a range selector or a subquery finds, for a function; `None` for every other expression.
    pub fn ranges(&self, expr: &Expr, function: RangeFunction) -> Result<Option<Ranges<'a>>, QueryError> {
        match expr {
            Expr::Paren(paren) => self.ranges(&paren.expr, function),
            Expr::MatrixSelector(selector) => self.windows(selector, function).map(Some),
            Expr::Subquery(subquery) => self.subquery(subquery).map(Some),
            _ => Ok(None),
        }
    }

    fn windows(&self, selector: &MatrixSelector, function: RangeFunction) -> Result<Ranges<'a>, QueryError> {
        let MatrixSelector { vs, range } = selector;
        let (aim, range_ms) = (self.aim(vs.at.as_ref(), vs.offset.as_ref()), millis(*range));
        let parts = if self.moments.count > 1 { self.step_ms().min(range_ms) } else { range_ms };
        let wish = Wish { coarsest_ms: parts / COARSE_PARTS, ..Wish::finest(range_ms) };
        let is_coarse = self.resolution(vs, aim, wish)? > 0;
        let reading = match function {
            RangeFunction::Min => Reading::Low,
            RangeFunction::Max => Reading::High,
            RangeFunction::Avg | RangeFunction::Sum => Reading::Sum,
            RangeFunction::Count => Reading::Count,
            _ => Reading::Value,
        };
        let reading = if is_coarse { reading } else { Reading::Value };
        let select = |reading| {
            let mut series = self.select(vs, aim, Wish { reading, ..wish })?;
            for (_, samples) in &mut series {
                samples.retain(|sample| !sample.is_gap());
            }
            Ok(series)
        };
        let series = select(reading)?;
        let mean = is_coarse && function == RangeFunction::Avg;
        let counts = if mean { Some(select(Reading::Count)?) } else { None };
        self.budget.pay(series.len().saturating_mul(self.moments.count))?;
        let counted = reading == Reading::Count;
        Ok(Ranges { budget: self.budget, series, counts, counted, aim, range_ms, moments: self.moments })
    }

    /// Evaluates the inner expression at whole multiples of the step, then takes it for samples.
    fn subquery(&self, subquery: &SubqueryExpr) -> Result<Ranges<'a>, QueryError> {
        let aim = self.aim(subquery.at.as_ref(), subquery.offset.as_ref());
        let range_ms = millis(subquery.range);
        let step_ms = subquery.step.map_or(self.engine.subquery_step_ms, millis).max(1);
        let from = aim.at(self.moments.first_ms).saturating_sub(range_ms);
        let to = aim.at(self.moments.last());
        let mut first_ms = from.div_euclid(step_ms).saturating_mul(step_ms);
        if first_ms < from {
            first_ms = first_ms.saturating_add(step_ms);
        }
        let count = if first_ms > to { 0 } else { (to.abs_diff(first_ms) / step_ms.unsigned_abs()).saturating_add(1) };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.budget.pay(count)?;
        let moments = Moments { first_ms, step_ms, count };
        let rows = Self { moments, ..*self }.node(&subquery.expr)?.into_rows();
        let series: Vec<_> = rows.into_iter().map(|row| (row.labels, moments.samples_of(&row.cells))).collect();
        self.budget.pay(series.len().saturating_mul(self.moments.count))?;
        let (counts, counted) = (None, false);
        Ok(Ranges { budget: self.budget, series, counts, counted, aim, range_ms, moments: self.moments })
    }

    fn aim(&self, at: Option<&AtModifier>, offset: Option<&Offset>) -> Aim {
        let pinned_ms = at.map(|at| match at {
            AtModifier::Start => self.bounds_ms.0,
            AtModifier::End => self.bounds_ms.1,
            AtModifier::At(time) => match time.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(since) => millis(since),
                Err(before) => -millis(before.duration()),
            },
        });
        let offset_ms = offset.map_or(0, |offset| match offset {
            Offset::Pos(back) => millis(*back),
            Offset::Neg(ahead) => -millis(*ahead),
        });
        Aim { pinned_ms, offset_ms }
    }

    /// From one moment to the next; 0 where there is one only.
    fn step_ms(&self) -> i64 {
        if self.moments.count > 1 { self.moments.step_ms } else { 0 }
    }

    /// Asks the source once, for all moments.
    fn select(
        &self,
        selector: &VectorSelector,
        aim: Aim,
        wish: Wish,
    ) -> Result<Vec<(Labels, Vec<Sample>)>, QueryError> {
        if self.moments.count == 0 {
            return Ok(Vec::new());
        }
        let matchers = matchers(selector)?;
        let series = self.source.select(&self.asked(&matchers, aim, wish)).map_err(QueryError::Source)?;
        self.budget.pay(series.iter().map(|(_, samples)| samples.len()).sum())?;
        Ok(series)
    }

    fn resolution(&self, selector: &VectorSelector, aim: Aim, wish: Wish) -> Result<i64, QueryError> {
        if self.moments.count == 0 {
            return Ok(0);
        }
        let matchers = matchers(selector)?;
        Ok(self.source.resolution(&self.asked(&matchers, aim, wish)))
    }

    fn asked<'m>(&self, matchers: &'m [Matcher], aim: Aim, wish: Wish) -> Asked<'m> {
        let from_ms = aim.at(self.moments.first_ms).saturating_sub(wish.before_ms);
        let to_ms = aim.at(self.moments.last());
        let at = wish.newest.then(|| aim.all(self.moments));
        Asked { matchers, from_ms, to_ms, reading: wish.reading, coarsest_ms: wish.coarsest_ms, at }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The conditions of a selector, its name among them.
pub fn matchers(selector: &VectorSelector) -> Result<Vec<Matcher>, QueryError> {
    if !selector.matchers.or_matchers.is_empty() {
        return Err(QueryError::Unsupported { name: "or between matchers".to_owned(), nearest: "=~" });
    }
    let name = selector.name.iter().map(|name| Matcher {
        label: super::NAME.to_owned(),
        op: MatchOp::Equal,
        value: name.clone(),
    });
    let rest = selector.matchers.matchers.iter().map(|parsed| Matcher {
        label: parsed.name.clone(),
        op: match &parsed.op {
            Parsed::Equal => MatchOp::Equal,
            Parsed::NotEqual => MatchOp::NotEqual,
            Parsed::Re(pattern) => MatchOp::Regex(pattern.clone()),
            Parsed::NotRe(pattern) => MatchOp::NotRegex(pattern.clone()),
        },
        value: parsed.value.clone(),
    });
    Ok(name.chain(rest).collect())
}
