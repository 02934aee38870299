//! Answers, and how the Prometheus HTTP API writes them.

use super::source::{Labels, Sample};
use serde_json::{Map, Number, Value as Json, json};

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

/// The `data` of an answer of `/api/v1/query` and `/api/v1/query_range`: `resultType` and `result`.
pub fn serialise(value: &Value) -> Json {
    let (kind, result) = match value {
        Value::Matrix(series) => ("matrix", series.iter().map(|(labels, samples)| {
            json!({ "metric": metric(labels), "values": samples.iter().map(|s| point(*s)).collect::<Vec<_>>() })
        }).collect()),
        Value::Vector(series) => {
            let one = |(labels, sample): &(Labels, Sample)| json!({ "metric": metric(labels), "value": point(*sample) });
            ("vector", series.iter().map(one).collect())
        }
        Value::Scalar(sample) => ("scalar", point(*sample)),
        Value::String(t_ms, text) => ("string", json!([seconds(*t_ms), text])),
    };
    json!({ "resultType": kind, "result": result })
}

fn metric(labels: &Labels) -> Json {
    Json::Object(labels.iter().map(|(label, value)| (label.to_owned(), Json::from(value))).collect::<Map<_, _>>())
}

fn point(sample: Sample) -> Json {
    json!([seconds(sample.t_ms), api_number(sample.v)])
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of any year we live in are exact as a double")]
fn seconds(t_ms: i64) -> Json {
    if t_ms % 1000 == 0 {
        return Json::from(t_ms / 1000);
    }
    Number::from_f64(t_ms as f64 / 1000.0).map_or(Json::Null, Json::Number)
}

/// The shortest decimals that read back as the same double, never with an exponent: Go's
/// `FormatFloat(v, 'f', -1, 64)`, which `count_values` writes into labels.
pub(super) fn plain_number(v: f64) -> String {
    if v.is_nan() {
        "NaN".to_owned()
    } else if v.is_infinite() {
        if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        v.to_string()
    }
}

/// As the API has it: with an exponent where the plain form would be long (below 1e-6, from 1e21).
fn api_number(v: f64) -> String {
    if v == 0.0 || !v.is_finite() || (1e-6..1e21).contains(&v.abs()) {
        return plain_number(v);
    }
    // Go writes the exponent's sign always, and at least two digits.
    let text = format!("{v:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (f64::INFINITY, "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN"),
        ];
        for (v, plain, api) in cases {
            assert_eq!((plain_number(v).as_str(), api_number(v).as_str()), (plain, api));
        }
    }

    #[test]
    fn each_kind_has_its_shape() {
        let labels: Labels = [("__name__", "up"), ("host", "a")].into_iter().collect();
        let one = Sample { t_ms: 1500, v: 2.0 };
        let metric = json!({ "__name__": "up", "host": "a" });
        assert_eq!(
            serialise(&Value::Matrix(vec![(labels.clone(), vec![one, Sample { t_ms: 2000, v: f64::NAN }])])),
            json!({ "resultType": "matrix", "result": [{ "metric": metric, "values": [[1.5, "2"], [2, "NaN"]] }] })
        );
        assert_eq!(
            serialise(&Value::Vector(vec![(labels, one)])),
            json!({ "resultType": "vector", "result": [{ "metric": metric, "value": [1.5, "2"] }] })
        );
        assert_eq!(serialise(&Value::Scalar(one)), json!({ "resultType": "scalar", "result": [1.5, "2"] }));
        assert_eq!(
            serialise(&Value::String(1000, "x".to_owned())),
            json!({ "resultType": "string", "result": [1, "x"] })
        );
    }
}
