//! Answers, and how the Prometheus HTTP API writes them.

use super::source::{Labels, Sample};

/// The answer to a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a range query, and of an instant query for a range: samples by series.
    Matrix(Vec<(Labels, Vec<Sample>)>),
    /// Of an instant query: one sample for each series.
    Vector(Vec<(Labels, Sample)>),
    /// A number without a series.
    Scalar(Sample),
    /// A text, at the query's time in milliseconds.
    String(i64, String),
}

/// What a point and the labels of a series mostly take.
const POINT_BYTES: usize = 28;
const SERIES_BYTES: usize = 160;

/// Writes the `data` of an answer of `/api/v1/query` and `/api/v1/query_range`: `resultType` and `result`,
/// as JSON text. An answer has many thousand points: they are written as they are, without a tree.
pub fn serialise(out: &mut String, value: &Value) {
    match value {
        Value::Matrix(series) => {
            let points: usize = series.iter().map(|(_, samples)| samples.len()).sum();
            out.reserve(points * POINT_BYTES + series.len() * SERIES_BYTES);
            out.push_str(r#"{"resultType":"matrix","result":["#);
            listed(out, series, |out, (labels, samples)| {
                metric(out, labels);
                out.push_str(r#","values":["#);
                listed(out, samples, |out, sample| point(out, *sample));
                out.push_str("]}");
            });
            out.push(']');
        }
        Value::Vector(series) => {
            out.push_str(r#"{"resultType":"vector","result":["#);
            listed(out, series, |out, (labels, sample)| {
                metric(out, labels);
                out.push_str(r#","value":"#);
                point(out, *sample);
                out.push('}');
            });
            out.push(']');
        }
        Value::Scalar(sample) => {
            out.push_str(r#"{"resultType":"scalar","result":"#);
            point(out, *sample);
        }
        Value::String(t_ms, string) => {
            out.push_str(r#"{"resultType":"string","result":["#);
            seconds(out, *t_ms);
            out.push(',');
            text(out, string);
            out.push(']');
        }
    }
    out.push('}');
}

fn listed<T>(out: &mut String, items: &[T], mut write: impl FnMut(&mut String, &T)) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item);
    }
}

fn metric(out: &mut String, labels: &Labels) {
    out.push_str(r#"{"metric":{"#);
    for (at, (label, value)) in labels.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        text(out, label);
        out.push(':');
        text(out, value);
    }
    out.push('}');
}

fn text(out: &mut String, text: &str) {
    // A text is always JSON: this cannot fail.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn point(out: &mut String, sample: Sample) {
    out.push('[');
    seconds(out, sample.t_ms);
    out.push_str(",\"");
    api_number(out, sample.v);
    out.push_str("\"]");
}

fn seconds(out: &mut String, t_ms: i64) {
    let ms = t_ms.unsigned_abs();
    if t_ms < 0 {
        out.push('-');
    }
    out.push_str(itoa::Buffer::new().format(ms / 1000));
    if !ms.is_multiple_of(1000) {
        // 1007 for 7 ms: its last three digits.
        out.push('.');
        out.push_str(&itoa::Buffer::new().format(1000 + ms % 1000)[1..]);
    }
}

/// The shortest decimals that read back as the same double, never with an exponent: Go's
/// `FormatFloat(v, 'f', -1, 64)`, which `count_values` writes into labels.
pub(super) fn plain_number(v: f64) -> String {
    let mut text = String::new();
    write_plain(&mut text, v);
    text
}

fn write_plain(out: &mut String, v: f64) {
    if v.is_nan() {
        out.push_str("NaN");
    } else if v.is_infinite() {
        out.push_str(if v > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        match whole(v) {
            Some(whole) => out.push_str(itoa::Buffer::new().format(whole)),
            None => fraction(out, v),
        }
    }
}

fn fraction(out: &mut String, v: f64) {
    // Both write the shortest digits, this one of two that are as near the even one, as Go does, and quicker; but
    // very small and large numbers with an exponent.
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(v);
    if text.contains('e') {
        out.push_str(&v.to_string());
    } else {
        out.push_str(text.strip_suffix(".0").unwrap_or(text));
    }
}

/// The number as an integer, which is quicker to write, where it is a small one; zero has a sign that none has.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "compared with what it came from")]
fn whole(v: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (v != 0.0 && v.abs() < EXACT && v as i64 as f64 == v).then_some(v as i64)
}

/// As the API has it: with an exponent where the plain form would be long (below 1e-6, from 1e21).
fn api_number(out: &mut String, v: f64) {
    if v == 0.0 || !v.is_finite() || (1e-6..1e21).contains(&v.abs()) {
        return write_plain(out, v);
    }
    // Go writes the exponent's sign always, and at least two digits.
    let text = format!("{v:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    out.push_str(&format!("{mantissa}e{sign}{digits:0>2}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn told(value: &Value) -> Json {
        let mut out = String::new();
        serialise(&mut out, value);
        serde_json::from_str(&out).unwrap()
    }

    #[test]
    fn numbers_read_like_prometheus_writes_them() {
        let cases = [
            (0.0, "0", "0"),
            (-0.0, "-0", "-0"),
            (1.5, "1.5", "1.5"),
            (0.1 + 0.2, "0.30000000000000004", "0.30000000000000004"),
            (1e20, "100000000000000000000", "100000000000000000000"),
            (1e21, "1000000000000000000000", "1e+21"),
            (-2.5e-7, "-0.00000025", "-2.5e-07"),
            (1e-6, "0.000001", "0.000001"),
            (-9_007_199_254_740_991.0, "-9007199254740991", "-9007199254740991"),
            (9_007_199_254_740_993.0, "9007199254740992", "9007199254740992"),
            (123_456.78, "123456.78", "123456.78"),
            // They are a quarter and three, as near to the one as to the other: Prometheus 2.42 ends even.
            (1_788_137_922_458_901.2, "1788137922458901.2", "1788137922458901.2"),
            (-1_788_137_922_458_901.8, "-1788137922458901.8", "-1788137922458901.8"),
            (-1e-5, "-0.00001", "-0.00001"),
            (f64::INFINITY, "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN"),
        ];
        for (v, plain, api) in cases {
            let mut written = String::new();
            api_number(&mut written, v);
            assert_eq!((plain_number(v).as_str(), written.as_str()), (plain, api));
        }
    }

    /// Two of the shortest may be as near to the number: it then ends in 5 behind the one closer to zero.
    fn are_as_near(v: f64, one: &str, other: &str) -> bool {
        format!("{v:.60}").trim_end_matches('0') == format!("{}5", one.min(other))
    }

    proptest::proptest! {
        #[test]
        fn numbers_are_written_as_the_standard_library_writes_them(bits: u64, hundredths: i32) {
            for v in [f64::from_bits(bits), f64::from(hundredths) / 100.0].into_iter().filter(|v| v.is_finite()) {
                let (written, standard) = (plain_number(v), v.to_string());
                if written != standard {
                    let even = written.ends_with(['0', '2', '4', '6', '8']);
                    proptest::prop_assert!(even && are_as_near(v, &written, &standard), "{} {}", written, standard);
                    proptest::prop_assert_eq!(written.parse(), Ok(v));
                }
            }
        }
    }

    #[test]
    fn each_kind_has_its_shape() {
        let labels: Labels = [("__name__", "up"), ("host", "a\"\n")].into_iter().collect();
        let one = Sample { t_ms: 1500, v: 2.0 };
        let metric = json!({ "__name__": "up", "host": "a\"\n" });
        assert_eq!(
            told(&Value::Matrix(vec![(labels.clone(), vec![one, Sample { t_ms: 2000, v: f64::NAN }])])),
            json!({ "resultType": "matrix", "result": [{ "metric": metric, "values": [[1.5, "2"], [2, "NaN"]] }] })
        );
        assert_eq!(
            told(&Value::Vector(vec![(labels, one)])),
            json!({ "resultType": "vector", "result": [{ "metric": metric, "value": [1.5, "2"] }] })
        );
        assert_eq!(told(&Value::Scalar(one)), json!({ "resultType": "scalar", "result": [1.5, "2"] }));
        assert_eq!(told(&Value::Scalar(Sample { t_ms: -1050, v: 0.5 }))["result"], json!([-1.05, "0.5"]));
        assert_eq!(told(&Value::String(1000, "x".to_owned())), json!({ "resultType": "string", "result": [1, "x"] }));
    }
}
