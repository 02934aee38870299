use super::*;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Series with samples each second: `name label=value: 1 2 _ 4`, where `_` is no sample and `|` is a gap.
struct Written {
    series: Vec<(Labels, Vec<Sample>)>,
    asked: RefCell<Vec<(i64, i64)>>,
}

impl Written {
    fn new(text: &str) -> Self {
        let series = text.lines().map(|line| {
            let (labels, values) = line.split_once(':').unwrap();
            let mut words = labels.split_whitespace();
            let name = [(NAME, words.next().unwrap())];
            let labels = name.into_iter().chain(words.map(|word| word.split_once('=').unwrap())).collect();
            let sample = |(t_ms, value)| match value {
                "_" => None,
                "|" => Some(Sample::gap(t_ms)),
                number => Some(Sample { t_ms, v: number.parse().unwrap() }),
            };
            (labels, (0..).step_by(1000).zip(values.split_whitespace()).filter_map(sample).collect())
        });
        Self { series: series.collect(), asked: RefCell::default() }
    }
}

impl Source for Written {
    fn select(&self, asked: &Asked<'_>) -> Result<Vec<(Labels, Vec<Sample>)>, SourceError> {
        let Asked { matchers, from_ms: from, to_ms: to, .. } = *asked;
        self.asked.borrow_mut().push((from, to));
        let matching = self.series.iter().filter(|(labels, _)| Matcher::all_met_by(matchers, labels));
        let within = |samples: &[Sample]| samples.iter().filter(|s| (from..=to).contains(&s.t_ms)).copied().collect();
        Ok(matching.map(|(labels, samples)| (labels.clone(), within(samples))).collect())
    }
}

/// Sixty samples a minute, a lookback of three seconds: what fits into a table.
const SMALL: Engine = Engine { lookback_ms: 3000, subquery_step_ms: 1000, steps_max: 100, samples_max: 10_000 };

fn never() -> bool {
    false
}

/// The answer as `labels=value` or `labels=value@second …`.
fn shown(answer: Result<Value, QueryError>) -> String {
    let points = |samples: &[Sample]| {
        let one = |s: &Sample| format!("{}@{}", value::plain_number(s.v), s.t_ms / 1000);
        samples.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    match answer {
        Err(why) => format!("refused: {why}"),
        Ok(Value::Scalar(sample)) => value::plain_number(sample.v),
        Ok(Value::String(_, text)) => text,
        Ok(Value::Vector(series)) => {
            let one = |(labels, s): &(Labels, Sample)| format!("{labels}={}", value::plain_number(s.v));
            series.iter().map(one).collect::<Vec<_>>().join("; ")
        }
        Ok(Value::Matrix(series)) => {
            let one = |(labels, samples): &(Labels, Vec<Sample>)| format!("{labels}={}", points(samples));
            series.iter().map(one).collect::<Vec<_>>().join("; ")
        }
    }
}

fn at(series: &str, query: &str, second: i64) -> String {
    shown(SMALL.instant(&Written::new(series), query, second * 1000, &never))
}

fn over(series: &str, query: &str, from: i64, to: i64, step: i64) -> String {
    let range = Range { from_ms: from * 1000, to_ms: to * 1000, step_ms: step * 1000 };
    shown(SMALL.range(&Written::new(series), query, range, &never))
}

#[test]
fn a_value_counts_until_the_lookback_is_over_or_a_gap_begins() {
    let cases = [
        ("a: 1 2 3", "a{}=1@0 2@1 3@2 3@3 3@4 3@5"),
        ("a: 1 2 |", "a{}=1@0 2@1"),
        ("a: 1 | _ _ 5", "a{}=1@0 5@4 5@5 5@6 5@7"),
        ("a: _ NaN", "a{}=NaN@1 NaN@2 NaN@3 NaN@4"),
        ("a: |", ""),
    ];
    for (series, expected) in cases {
        assert_eq!(over(series, "a", 0, 20, 1), expected, "{series}");
    }
}

#[test]
fn gaps_are_no_samples_of_a_range() {
    let series = "a: 1 | 3 _ 7";
    assert_eq!(at(series, "count_over_time(a[9s])", 4), "{}=3");
    assert_eq!(at(series, "a[4s]", 4), "a{}=1@0 3@2 7@4");
    assert_eq!(at(series, "sum_over_time(a[1s])", 2), "{}=3");
    assert_eq!(at(series, "absent(a)", 1), "{}=1");
}

#[test]
fn rates_reach_to_the_edges_of_the_window() {
    // Ten per second, begun again once; the window is wider than the samples at its start.
    let series = "a: _ _ _ 10 20 30 5 15 25";
    assert_eq!(at(series, "increase(a[5s])", 8), "{}=45");
    assert_eq!(at(series, "rate(a[5s])", 8), "{}=9");
    // Half of a sample's distance before the first sample, as zero is further away than that.
    assert_eq!(at("a: _ _ _ 100 110 120", "increase(a[5s])", 5), "{}=25");
    // The counter cannot have been below zero.
    assert_eq!(at("a: _ 1 11 21", "increase(a[3s])", 3), "{}=21");
    assert_eq!(at("a: 7", "rate(a[5s])", 0), "");
}

#[test]
fn an_aggregation_takes_whoever_is_there_and_no_nan_for_the_least_or_the_most() {
    let series = "a x=1: NaN 3 | _ 1\na x=2: 5 | _ 2 3\na x=3: _ 4 NaN NaN |";
    let cases = [
        ("sum(a)", "{}=NaN@0 7@1 NaN@2 NaN@3 4@4"),
        ("min(a)", "{}=5@0 3@1 NaN@2 2@3 1@4"),
        ("max(a)", "{}=5@0 4@1 NaN@2 2@3 3@4"),
        ("count(a)", "{}=2@0 2@1 1@2 2@3 2@4"),
    ];
    for (query, expected) in cases {
        assert_eq!(over(series, query, 0, 4, 1), expected, "{query}");
    }
}

#[test]
fn labels_are_kept_copied_and_dropped_as_they_should() {
    let series = "a x=1 y=1: 1\na x=1 y=2: 2\na x=2 y=1: 4\nb x=1 z=p: 10\nb x=2 z=q: 20";
    let cases = [
        ("sum(a)", "{}=7"),
        ("sum by (x) (a)", "{x=\"1\"}=3; {x=\"2\"}=4"),
        ("sum without (x) (a)", "{y=\"1\"}=5; {y=\"2\"}=2"),
        ("topk(2, a)", "a{x=\"2\", y=\"1\"}=4; a{x=\"1\", y=\"2\"}=2"),
        ("a * 2 > 3", "{x=\"1\", y=\"2\"}=4; {x=\"2\", y=\"1\"}=8"),
        ("a > 3", "a{x=\"2\", y=\"1\"}=4"),
        ("a * on (x) group_left (z) b{x=\"2\"}", "{x=\"2\", y=\"1\", z=\"q\"}=80"),
        ("b - on (x) sum by (x) (a)", "{x=\"1\"}=7; {x=\"2\"}=16"),
        ("a and on (x) b{z=\"q\"}", "a{x=\"2\", y=\"1\"}=4"),
        ("b unless on (x) a{y=\"2\"}", "b{x=\"2\", z=\"q\"}=20"),
        ("absent(c{x=\"1\", y=~\"2\"})", "{x=\"1\"}=1"),
        ("count_values(\"v\", b - b)", "{v=\"0\"}=2"),
    ];
    for (query, expected) in cases {
        assert_eq!(at(series, query, 0), expected, "{query}");
    }
}

#[test]
fn a_partner_may_be_another_series_at_another_moment() {
    let series = "a: 1 2 3 4\nb n=1: 10 |\nb n=2: _ _ 20 20";
    assert_eq!(over(series, "a + ignoring (n) b", 0, 3, 1), "{}=11@0 23@2 24@3");
    let both = "a: 1 2\nb n=1: 10 10\nb n=2: _ 20";
    assert!(over(both, "a + ignoring (n) b", 0, 1, 1).starts_with("refused: found duplicate series"));
    assert!(over(both, "b + ignoring (n) a", 0, 1, 1).starts_with("refused: multiple matches for labels"));
}

#[test]
fn a_quantile_lies_within_its_bucket() {
    let series = "h le=1: 10\nh le=2: 30\nh le=4: 40\nh le=+Inf: 40";
    for (q, expected) in [("0.125", "0.5"), ("0.5", "1.5"), ("1", "4"), ("2", "+Inf"), ("-1", "-Inf"), ("NaN", "NaN")] {
        assert_eq!(at(series, &format!("histogram_quantile({q}, h)"), 0), format!("{{}}={expected}"), "{q}");
    }
    assert_eq!(at("h le=1: 3\nh le=2: 3", "histogram_quantile(0.5, h)", 0), "{}=NaN");
}

#[test]
fn syntax_errors_say_where() {
    let cases = [
        ("sum(rate(a[5m]", 14, "", "unclosed left parenthesis"),
        ("a + * b", 4, "*", "unexpected"),
        ("a b", 2, "b", "unexpected"),
        ("sum(a) by job", 10, "job", "unexpected"),
        ("a{x=1}", 4, "1", "unexpected"),
        ("a{x=\"1\" y=\"2\"}", 8, "y", "unexpected"),
        ("a offset b", 9, "b", "unexpected"),
        ("rate(a[5x])", 7, "5x", "bad"),
        ("a)", 1, ")", "unexpected"),
        ("a + ", 4, "", "it ends too early"),
        ("a ! b", 2, "!", "unexpected character after '!'"),
        ("\"abc", 0, "\"abc", "unterminated"),
        ("", 0, "", "no expression"),
        ("sum by (a, b) group_left(a)", 14, "group_left", "unexpected"),
        ("a * on (x) group_left (z) b +", 29, "", "it ends too early"),
        ("max_over_time(rate(a[1m])[5m:1m] @ b)", 35, "b", "unexpected"),
    ];
    for (query, place, text, begin) in cases {
        match syntax::parse(query) {
            Err(QueryError::Syntax { at, near, why }) => {
                assert_eq!((at, near.as_str()), (place, text), "{query}: {why}");
                assert!(why.starts_with(begin), "{query}: {why}");
            }
            other => panic!("{query}: {other:?}"),
        }
    }
}

#[test]
fn what_is_not_supported_is_named_with_what_comes_nearest() {
    let cases = [
        ("rat(a)", "rat", "rate"),
        ("avg_overtime(a[1m])", "avg_overtime", "avg_over_time"),
        ("double_exponential_smoothing(a[1m], 0.5, 0.5)", "double_exponential_smoothing", "predict_linear"),
        ("limitk(2, a)", "limitk", "topk"),
        ("first_over_time(a[1m])", "first_over_time", "last_over_time"),
    ];
    for (query, expected, near) in cases {
        match SMALL.instant(&Written::new("a: 1"), query, 0, &never) {
            Err(QueryError::Unsupported { name, nearest }) => {
                assert_eq!((name.as_str(), nearest), (expected, near));
            }
            other => panic!("{query}: {other:?}"),
        }
    }
    assert!(at("a: 1", "rate(a)", 0).starts_with("refused: expected type matrix"));
}

#[test]
fn a_query_may_cost_only_so_much() {
    let range = |to_ms, step_ms| SMALL.range(&Written::new("a: 1"), "a", Range { from_ms: 0, to_ms, step_ms }, &never);
    assert!(matches!(range(101_000, 1000), Err(QueryError::TooManySteps { found: 101, max: 100 })));
    assert!(matches!(range(100_000, 1000), Ok(Value::Matrix(_))));
    assert!(matches!(range(1, 0), Err(QueryError::Range(_))));
    assert!(matches!(range(-1, 1), Err(QueryError::Range(_))));
    assert!(matches!(range(i64::MAX, i64::MAX), Ok(Value::Matrix(_))));

    let many = "a: ".to_owned() + &"1 ".repeat(6000);
    let twice = Engine { samples_max: 11_000, ..Engine::default() };
    let ask = |query: &str| twice.instant(&Written::new(&many), query, 6_000_000, &never);
    assert!(matches!(ask("sum_over_time(a[2h])"), Ok(Value::Vector(_))));
    assert!(matches!(ask("sum_over_time(a[2h]) + sum_over_time(a[2h])"), Err(QueryError::TooManySamples { .. })));
    assert!(matches!(ask("count_over_time(vector(1)[1d:1s])"), Err(QueryError::TooManySamples { .. })));

    let late = SMALL.instant(&Written::new("a: 1"), "a", 0, &|| true);
    assert!(matches!(late, Err(QueryError::TooSlow)));
}

#[test]
fn nesting_is_refused_before_the_stack_ends() {
    let deep = |text: &str, times: usize| syntax::parse(&(text.repeat(times) + "a"));
    assert!(deep("-", 100).is_ok());
    for (text, times) in [("(", 4000), ("-", 8000), ("1+", 4000), ("1^", 4000), ("abs(", 2000)] {
        assert!(matches!(deep(text, times), Err(QueryError::TooComplex { .. })), "{text}");
    }
    assert!(syntax::parse(&format!("a{{{}}}", "b!=\"(((\",".repeat(500))).is_ok());
    assert!(matches!(syntax::parse(&"a".repeat(9000)), Err(QueryError::TooComplex { what: "bytes", .. })));
}

#[test]
fn each_selector_asks_the_source_once_for_all_moments() {
    let source = Written::new("a: 1 2 3 4 5 6 7 8 9\nb: 1 1 1");
    let range = Range { from_ms: 4000, to_ms: 8000, step_ms: 1000 };
    SMALL.range(&source, "rate(a[2s]) + ignoring (x) b offset 1s", range, &never).unwrap();
    assert_eq!(*source.asked.borrow(), [(2000, 8000), (0, 7000)]);
}

#[test]
fn a_day_of_steps_over_many_series_is_quick() {
    let values = "1 2 3 4 5 6 7 8 9 10 ".repeat(360);
    let lines: Vec<String> = (0..50).map(|n| format!("a n={n}: {values}")).collect();
    let source = Written::new(&lines.join("\n"));
    let range = Range { from_ms: 0, to_ms: 3_600_000, step_ms: 1000 };
    let begun = Instant::now();
    let answer = Engine::default().range(&source, "sum(rate(a[1m]))", range, &never).unwrap();
    let Value::Matrix(series) = answer else { panic!("no matrix") };
    assert_eq!(series[0].1.len(), 3600);
    assert!(begun.elapsed() < Duration::from_secs(5), "180,000 windows of 60 took {:?}", begun.elapsed());
}

#[test]
fn no_moment_is_too_far() {
    let queries = [
        "a",
        "a offset 290y",
        "a offset -290y",
        "a @ 9e15",
        "rate(a[290y])",
        "deriv(a[290y] offset 290y)",
        "predict_linear(a[1m] @ 2, 60)",
        "count_over_time(a[290y:290y] @ -9e15)",
        "max_over_time(a[3y:1s] @ 9e15)",
        "year() + month(a * 1e300)",
    ];
    let source = Written::new("a: 1 2 3 4");
    for (query, at_ms) in queries.iter().flat_map(|query| [i64::MIN, -1, 2000, i64::MAX].map(|at_ms| (query, at_ms))) {
        match SMALL.instant(&source, query, at_ms, &never) {
            Ok(Value::Vector(_)) | Err(QueryError::TooManySamples { .. }) => {}
            other => panic!("{query} at {at_ms}: {other:?}"),
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(query in "[ab]?(sum|rate|offset|by|[ab(){}\\[\\]\"'=~!+*/^,:@ 0-9.m-]){0,24}") {
        let _ = SMALL.instant(&Written::new("a: 1 2\nb: 3"), &query, 1000, &never);
        let _ = SMALL.range(&Written::new("a: 1 2\nb: 3"), &query, Range { from_ms: 0, to_ms: 2000, step_ms: 500 }, &never);
    }

    #[test]
    fn a_range_is_its_instants(values in proptest::collection::vec(0..50_u8, 1..30), step in 1..4_i64) {
        let series = format!("a: {}", values.iter().map(|v| v.to_string()).collect::<Vec<_>>().join(" "));
        for query in ["a", "rate(a[5s])", "max_over_time(a[3s] offset 2s)", "avg_over_time(a[6s:2s])", "a > 20"] {
            let range = over(&series, query, 0, 30, step);
            let instants = (0..=30).step_by(usize::try_from(step).unwrap()).filter_map(|second| {
                let shown = at(&series, query, second);
                shown.rsplit_once('=').map(|(_, v)| format!("{v}@{second}"))
            });
            let instants = instants.collect::<Vec<_>>().join(" ");
            proptest::prop_assert_eq!(range.rsplit_once('=').map_or("", |(_, points)| points), instants);
        }
    }
}

#[test]
fn finding_the_place_of_an_error_takes_little_time_however_long_the_query() {
    for text in ["a{b=\"c\"}+", "max(a)+", "a+", "(((a)))+"] {
        let query = text.repeat(200) + "1 b";
        let begun = Instant::now();
        assert!(matches!(syntax::parse(&query), Err(QueryError::Syntax { at, .. }) if at == query.len() - 1), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{text}: {:?}", begun.elapsed());
    }
}
