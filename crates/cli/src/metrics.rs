//! `perigee metrics …`: what was measured.

use crate::args::Format;
use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::spark::sparkline;
use crate::table::{Column, Shown, column, wide};
use clap::Subcommand;
use perigee_api::prometheus::{Point, QueryData};
use perigee_client::QueryRange;
use perigee_model::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// Points of a range query when no step is asked for.
const POINTS: i64 = 240;
const SPARK_CELLS: usize = 40;

/// What to do with measurements.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Ask in PromQL
    #[command(
        after_help = "Example:\n  perigee metrics query node_load1\n  perigee metrics query 'rate(node_network_receive_bytes_total[1m])' --from -1h -o csv\n  perigee metrics query 'max(perigee_host_cpu_usage_ratio)' --from -6h --step 1m"
    )]
    Query {
        /// The expression
        expr: String,
        /// Begin of a range: -1h, or RFC 3339. Without it, one moment
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        from: Option<String>,
        /// The moment, or the end of the range [default: now]
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        to: Option<String>,
        /// From one point of the range to the next [default: a 240th of it, at least 1s]
        #[arg(long, value_name = "DURATION", value_parser = crate::units::parse_duration)]
        step: Option<std::time::Duration>,
    },
    /// List the names of what is measured
    #[command(visible_alias = "ls", after_help = "Example:\n  perigee metrics list")]
    List,
}

/// Does it.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    match verb {
        Verb::List => {
            let mut listing = session.out.listing();
            let names = client.metric_names().await?;
            listing.page(names.into_iter().map(|(name, kind)| Metric { name, kind }).collect())?;
            listing.end("Nothing was measured yet")?;
        }
        Verb::Query { expr, from, to, step } => {
            let now = session.clock.now().micros() / 1000;
            let to = to.map_or(Ok(now), |text| moment(&text, now))?;
            let data = match from {
                None => client.query(&expr, Some(to)).await?,
                Some(from) => {
                    let from = moment(&from, now)?;
                    let step = step.map(|s| i64::try_from(s.as_millis()).unwrap_or(i64::MAX));
                    // Whole seconds: such steps fall on the moments that were measured.
                    let step_ms = step.unwrap_or_else(|| ((to - from) / POINTS / 1000 * 1000).max(1000));
                    client.query_range(&expr, QueryRange { from_ms: from, to_ms: to, step_ms }).await?
                }
            };
            print(session, data)?;
        }
    }
    Ok(Exit::OK)
}

/// `-1h`, `now`, or RFC 3339, in milliseconds.
fn moment(text: &str, now_ms: i64) -> Result<i64, Failure> {
    let bad = || Failure::usage(format!("{text:?} is not a time; write it like -1h, now or 2026-01-31T12:00:00Z"));
    if text == "now" {
        return Ok(now_ms);
    }
    if let Some(back) = text.strip_prefix('-') {
        let back = crate::units::parse_duration(back).map_err(|_| bad())?;
        return Ok(now_ms - i64::try_from(back.as_millis()).map_err(|_| bad())?);
    }
    Timestamp::parse(text).map(|at| at.micros() / 1000).ok_or_else(bad)
}

fn print(session: &Session, data: QueryData) -> Result<(), Failure> {
    let hint = "Nothing matches; perigee metrics list names what there is";
    match data {
        QueryData::Scalar(point) | QueryData::String(point) => {
            session.out.object(&Sample::of(BTreeMap::new(), point))?;
        }
        QueryData::Vector(series) => {
            let mut listing = session.out.listing();
            listing.page(series.into_iter().map(|s| Sample::of(s.metric, s.value)).collect())?;
            listing.end(hint)?;
        }
        QueryData::Matrix(series) => {
            // Programs want every sample on a line; people and JSON a series.
            let by_sample = matches!(session.out.format, Format::Csv | Format::Jsonl);
            if by_sample {
                let mut listing = session.out.listing();
                for one in series {
                    let metric = one.metric;
                    listing.page(one.values.into_iter().map(|point| Sample::of(metric.clone(), point)).collect())?;
                }
                return listing.end(hint);
            }
            let mut listing = session.out.listing();
            listing.page(series.into_iter().map(|s| Run { metric: s.metric, values: s.values }).collect())?;
            listing.end(hint)?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Metric {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Shown for Metric {
    const COLUMNS: &'static [Column] = &[column("NAME"), column("TYPE")];
    fn cells(&self) -> Vec<Cell> {
        vec![Cell::Text(self.name.clone()), Cell::Text(self.kind.clone())]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// One value at one moment.
#[derive(Serialize)]
struct Sample {
    metric: BTreeMap<String, String>,
    time: String,
    value: String,
}

impl Sample {
    fn of(metric: BTreeMap<String, String>, (at, value): Point) -> Self {
        Self { metric, time: time(at), value }
    }
}

impl Shown for Sample {
    const COLUMNS: &'static [Column] = &[column("METRIC"), column("LABELS"), column("VALUE"), wide("TIME")];
    fn cells(&self) -> Vec<Cell> {
        let [name, labels] = split(&self.metric);
        vec![name, labels, Cell::Text(self.value.clone()), Cell::Text(self.time.clone())]
    }
    fn name(&self) -> String {
        self.value.clone()
    }
}

/// One series over a range.
#[derive(Serialize)]
struct Run {
    metric: BTreeMap<String, String>,
    values: Vec<Point>,
}

impl Run {
    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.values.iter().filter_map(|(_, text)| number(text))
    }
    /// Evenly spaced in time, so that gaps show.
    fn spaced(&self) -> Vec<Option<f64>> {
        let times: Vec<f64> = self.values.iter().map(|(at, _)| *at).collect();
        let step = times.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        let mut spaced = Vec::new();
        for (index, (at, text)) in self.values.iter().enumerate() {
            let missing = index.checked_sub(1).map_or(0.0, |before| (at - times[before]) / step - 1.0);
            spaced.extend((0..).map(f64::from).take_while(|n| *n + 0.5 < missing).take(10_000).map(|_| None));
            spaced.push(number(text));
        }
        spaced
    }
}

impl Shown for Run {
    const COLUMNS: &'static [Column] = &[
        column("METRIC"),
        column("LABELS"),
        column("LAST"),
        column("MIN"),
        column("MAX"),
        wide("SAMPLES"),
        column("OVER_TIME"),
    ];
    fn cells(&self) -> Vec<Cell> {
        let [name, labels] = split(&self.metric);
        let shown = |value: Option<f64>| value.map_or(Cell::Missing, |v| Cell::Text(short(v)));
        vec![
            name,
            labels,
            shown(self.numbers().last()),
            shown(self.numbers().reduce(f64::min)),
            shown(self.numbers().reduce(f64::max)),
            Cell::Number(i64::try_from(self.values.len()).unwrap_or(i64::MAX)),
            Cell::Text(sparkline(&self.spaced(), SPARK_CELLS, None, None)),
        ]
    }
    fn name(&self) -> String {
        self.metric.get("__name__").cloned().unwrap_or_default()
    }
}

/// The metric's name, and its labels.
fn split(metric: &BTreeMap<String, String>) -> [Cell; 2] {
    let name = metric.get("__name__");
    let labels = metric.iter().filter(|(label, _)| *label != "__name__");
    [Cell::text(name), Cell::pairs(&labels.map(|(k, v)| (k.clone(), v.clone())).collect())]
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => None,
        text => text.parse().ok(),
    }
}

/// Six digits are enough to look at.
fn short(value: f64) -> String {
    let text = if value.abs() >= 1e6 || value == value.trunc() { format!("{value}") } else { format!("{value:.4}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[expect(clippy::cast_possible_truncation, reason = "microseconds of any year we live in fit")]
fn time(seconds: f64) -> String {
    Timestamp::from_micros((seconds * 1e6).round() as i64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_or_absolute() {
        let now = 1_700_000_000_000;
        assert_eq!(moment("-1h", now).unwrap(), now - 3_600_000);
        assert_eq!(moment("now", now).unwrap(), now);
        assert_eq!(moment("2023-11-14T22:13:20Z", now).unwrap(), now);
        assert!(moment("yesterday", now).is_err());
    }

    #[test]
    fn gaps_of_a_series_are_seen() {
        let values = [10.0, 20.0, 50.0].map(|at| (at, at.to_string())).to_vec();
        let run = Run { metric: BTreeMap::new(), values };
        assert_eq!(run.spaced(), [Some(10.0), Some(20.0), None, None, Some(50.0)]);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [(1.0, "1"), (0.25, "0.25"), (0.123_456, "0.1235"), (12_345_678.9, "12345678.9")];
        for (value, text) in texts {
            assert_eq!(short(value), text);
        }
    }
}
