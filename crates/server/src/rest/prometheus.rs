//! The query part of the Prometheus HTTP API, so that Grafana and promtool work here.
//!
//! Answers and refusals of these routes have that API's shape, not ours: `{"status", "data"}` and
//! `{"status", "errorType", "error"}`; a `code` of ours is added. Parameters they do not know are
//! ignored, as clients of that API expect. They come in the query or as a form.
//! <https://prometheus.io/docs/prometheus/latest/querying/api/>

use super::Server;
use super::aside::aside;
use super::extract::Caller;
use super::refuse::Refused;
use axum::Json;
use axum::extract::{FromRequest, Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use perigee_model::limits::BODY_BYTES_MAX;
use perigee_model::{Code, Timestamp};
use perigee_series::promql::{Engine, QueryError, Range, Value, serialise};
use serde_json::{Value as Json_, json};
use std::time::Duration;

/// A query that names no timeout has this; more is never given.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Without times, lists of labels and series look back so far.
const LOOK_BACK_MS: i64 = 3_600_000;

/// What a route of this API gives.
pub type Told = Result<Response, Fault>;

/// A refusal in this API's shape.
#[derive(Debug)]
pub struct Fault {
    status: StatusCode,
    kind: &'static str,
    code: Code,
    text: String,
}

impl Fault {
    fn bad(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "bad_data", code: Code::BadField, text: text.into() }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = json!({
            "status": "error", "errorType": self.kind, "error": self.text, "code": self.code.number(),
        });
        (self.status, Json(body)).into_response()
    }
}

impl From<QueryError> for Fault {
    fn from(error: QueryError) -> Self {
        let text = error.to_string();
        let (status, kind, code) = match error {
            QueryError::TooSlow => (StatusCode::SERVICE_UNAVAILABLE, "timeout", Code::QueryTooSlow),
            QueryError::TooManySamples { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "execution", Code::QueryTooLarge),
            QueryError::Source(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution", Code::SeriesDown),
            QueryError::SameLabels(_) | QueryError::Matching(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "execution", Code::BadQuery)
            }
            QueryError::Syntax { .. }
            | QueryError::Type(_)
            | QueryError::Unsupported { .. }
            | QueryError::TooComplex { .. }
            | QueryError::TooManySteps { .. }
            | QueryError::Range(_) => (StatusCode::BAD_REQUEST, "bad_data", Code::BadQuery),
        };
        Self { status, kind, code, text }
    }
}

/// Parameters from the query and, with POST, from a form.
pub struct Asked(Vec<(String, String)>);

impl FromRequest<Server> for Asked {
    type Rejection = Refused;
    async fn from_request(request: Request, _: &Server) -> Result<Self, Refused> {
        let post = request.method() == Method::POST;
        let query = request.uri().query().unwrap_or_default().to_owned();
        let mut pairs = pairs(query.as_bytes());
        if post && is_form(request.headers()) {
            let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await;
            let body = body.map_err(|_| {
                perigee_model::Refusal::new(Code::TooLarge, format!("a body has at most {BODY_BYTES_MAX} bytes"))
            })?;
            pairs.extend(self::pairs(&body));
        }
        Ok(Self(pairs))
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.starts_with("application/x-www-form-urlencoded")
}

fn pairs(encoded: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(encoded).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

impl Asked {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name || n.strip_suffix("[]") == Some(name)).map(|(_, v)| v.as_str())
    }
    fn must(&self, name: &str) -> Result<&str, Fault> {
        self.get(name).ok_or_else(|| Fault::bad(format!("the parameter {name:?} is missing")))
    }
    fn time(&self, name: &str) -> Result<Option<i64>, Fault> {
        let read = |text: &str| {
            time_ms(text).ok_or_else(|| {
                Fault::bad(format!("the parameter {name:?} is no time: seconds since 1970, or RFC 3339"))
            })
        };
        self.get(name).map(read).transpose()
    }
    fn duration(&self, name: &str) -> Result<Option<i64>, Fault> {
        let read = |text: &str| {
            duration_ms(text)
                .ok_or_else(|| Fault::bad(format!("the parameter {name:?} is no duration: seconds, or as in 1m30s")))
        };
        self.get(name).map(read).transpose()
    }
    fn timeout(&self) -> Result<Duration, Fault> {
        let asked = self.duration("timeout")?.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        Ok(asked.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX))
    }
}

/// A query at one moment.
#[utoipa::path(get, path = "/api/v1/query", tag = "prometheus", operation_id = "query",
    params(("query" = String, Query, description = "PromQL"), ("time" = Option<String>, Query, description = "Seconds since 1970, or RFC 3339; now by default")),
    responses((status = 200, description = "As the Prometheus HTTP API has it"), (status = "4XX", body = perigee_api::ProblemDocument)))]
pub async fn query(State(server): State<Server>, caller: Caller, asked: Asked) -> Told {
    let at = asked.time("time")?.unwrap_or_else(|| now_ms(&server));
    let text = asked.must("query")?.to_owned();
    let answer = evaluate(&server, &caller, asked.timeout()?, move |engine, source, is_over| {
        Ok(answered(&engine.instant(source, &text, at, is_over)?))
    });
    Ok(told(answer.await?))
}

/// A query at each step of a range.
#[utoipa::path(get, path = "/api/v1/query_range", tag = "prometheus", operation_id = "query_range",
    params(("query" = String, Query, description = "PromQL"), ("start" = String, Query, description = "The first moment"),
        ("end" = String, Query, description = "The last moment"), ("step" = String, Query, description = "From one to the next: seconds, or as in 1m"),
        ("reduce" = Option<String>, Query, description = "For pictures: of each two steps of this length the least and the greatest value, at its multiples; seconds, or as in 1m. Not part of the Prometheus API")),
    responses((status = 200, description = "As the Prometheus HTTP API has it"), (status = "4XX", body = perigee_api::ProblemDocument)))]
pub async fn query_range(State(server): State<Server>, caller: Caller, asked: Asked) -> Told {
    let moment =
        |name: &'static str| asked.time(name)?.ok_or_else(|| Fault::bad(format!("the parameter {name:?} is missing")));
    let step_ms = asked.duration("step")?.ok_or_else(|| Fault::bad("the parameter \"step\" is missing"))?;
    let range = Range { from_ms: moment("start")?, to_ms: moment("end")?, step_ms };
    let reduce_ms = asked.duration("reduce")?;
    if reduce_ms.is_some_and(|ms| ms <= 0) {
        return Err(Fault::bad("the parameter \"reduce\" must be positive"));
    }
    let text = asked.must("query")?.to_owned();
    let answer = evaluate(&server, &caller, asked.timeout()?, move |engine, source, is_over| {
        let answer = engine.range(source, &text, range, is_over)?;
        Ok(answered(&match reduce_ms {
            Some(step_ms) => answer.reduced(range, step_ms),
            None => answer,
        }))
    });
    Ok(told(answer.await?))
}

/// The names of labels.
#[utoipa::path(get, path = "/api/v1/labels", tag = "prometheus", operation_id = "labels",
    responses((status = 200, description = "As the Prometheus HTTP API has it"), (status = "4XX", body = perigee_api::ProblemDocument)))]
pub async fn labels(State(server): State<Server>, caller: Caller, asked: Asked) -> Told {
    let all = series_of(&server, &caller, &asked).await?;
    let names: std::collections::BTreeSet<&str> = all.iter().flat_map(|l| l.iter().map(|(name, _)| name)).collect();
    Ok(success(&json!(names)))
}

/// The values of one label.
#[utoipa::path(get, path = "/api/v1/label/{name}/values", tag = "prometheus", operation_id = "label_values", params(("name" = String, Path, description = "The label")),
    responses((status = 200, description = "As the Prometheus HTTP API has it"), (status = "4XX", body = perigee_api::ProblemDocument)))]
pub async fn label_values(
    State(server): State<Server>,
    caller: Caller,
    Path(name): Path<String>,
    asked: Asked,
) -> Told {
    let all = series_of(&server, &caller, &asked).await?;
    let values: std::collections::BTreeSet<&str> = all.iter().map(|l| l.get(&name)).filter(|v| !v.is_empty()).collect();
    Ok(success(&json!(values)))
}

/// The series that match.
#[utoipa::path(get, path = "/api/v1/series", tag = "prometheus", operation_id = "series", params(("match[]" = Vec<String>, Query, description = "Selectors")),
    responses((status = 200, description = "As the Prometheus HTTP API has it"), (status = "4XX", body = perigee_api::ProblemDocument)))]
pub async fn series(State(server): State<Server>, caller: Caller, asked: Asked) -> Told {
    if asked.all("match").next().is_none() {
        return Err(Fault::bad("no match[] parameter provided"));
    }
    let all = series_of(&server, &caller, &asked).await?;
    let shown: Vec<Json_> = all
        .iter()
        .map(|l| Json_::Object(l.iter().map(|(name, value)| (name.to_owned(), Json_::from(value))).collect()))
        .collect();
    Ok(success(&Json_::Array(shown)))
}

/// What metrics are: kind and help.
#[utoipa::path(get, path = "/api/v1/metadata", tag = "prometheus", operation_id = "metadata",
    responses((status = 200, description = "As the Prometheus HTTP API has it"), (status = "4XX", body = perigee_api::ProblemDocument)))]
pub async fn metadata(State(server): State<Server>, caller: Caller, RawQuery(query): RawQuery) -> Told {
    let asked = Asked(pairs(query.unwrap_or_default().as_bytes()));
    let wanted = asked.get("metric");
    let kinds = server.watch.kinds(&caller.who).map_err(|refusal| Fault {
        status: super::refuse::status(refusal.code),
        kind: "bad_data",
        code: refusal.code,
        text: refusal.shown,
    })?;
    let told: serde_json::Map<String, Json_> = kinds
        .into_iter()
        .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == name))
        .map(|(name, kind)| (name, json!([{ "type": super::views::word(&kind), "help": "", "unit": "" }])))
        .collect();
    Ok(success(&Json_::Object(told)))
}

/// What clients ask to know what they may use.
pub async fn build(_: Caller) -> Told {
    Ok(success(&json!({ "version": "2.42.0", "application": "perigee", "revision": env!("CARGO_PKG_VERSION") })))
}

async fn series_of(
    server: &Server,
    caller: &Caller,
    asked: &Asked,
) -> Result<Vec<perigee_series::promql::Labels>, Fault> {
    let to = asked.time("end")?.unwrap_or_else(|| now_ms(server));
    let from = asked.time("start")?.unwrap_or(to - LOOK_BACK_MS);
    let selectors: Vec<String> = asked.all("match").map(str::to_owned).collect();
    evaluate(server, caller, asked.timeout()?, move |_, source, _| source.series(&selectors, from, to)).await
}

/// Runs something that reads and computes, for as long as that takes.
async fn evaluate<T: Send + 'static>(
    server: &Server,
    caller: &Caller,
    timeout: Duration,
    work: impl FnOnce(&Engine, &perigee_control::watch::Samples, &dyn Fn() -> bool) -> Result<T, QueryError>
    + Send
    + 'static,
) -> Result<T, Fault> {
    let source = server.watch.samples(&caller.who).map_err(|refusal| Fault {
        status: super::refuse::status(refusal.code),
        kind: "bad_data",
        code: refusal.code,
        text: refusal.shown,
    })?;
    let began = server.control.clock().instant();
    let done = aside(move || work(&Engine::default(), &source, &|| began.elapsed() > timeout)).await;
    let bug = || Fault {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        kind: "internal",
        code: Code::Bug,
        text: "the query failed for an inner reason; the log has the rest".to_owned(),
    };
    Ok(done.ok_or_else(bug)??)
}

/// A query's answer as the body of a response. There may be much of it: written where the query was computed.
fn answered(value: &Value) -> String {
    let mut body = r#"{"status":"success","data":"#.to_owned();
    serialise(&mut body, value);
    body.push('}');
    body
}

fn success(data: &Json_) -> Response {
    told(json!({ "status": "success", "data": data }).to_string())
}

fn told(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn now_ms(server: &Server) -> i64 {
    server.control.clock().now().micros() / 1000
}

/// Seconds since 1970 with decimals, or RFC 3339.
fn time_ms(text: &str) -> Option<i64> {
    match text.parse::<f64>() {
        Ok(seconds) => millis(seconds),
        Err(_) => Timestamp::parse(text).map(|at| at.micros() / 1000),
    }
}

/// Seconds with decimals, or numbers with units as in `1h30m`.
fn duration_ms(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return millis(seconds);
    }
    const UNITS: [(&str, i64); 7] = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
        ("w", 604_800_000),
        ("y", 31_536_000_000),
    ];
    let mut rest = text;
    let mut sum = 0i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (_, each) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end])?;
        sum = sum.checked_add(number.checked_mul(*each)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(sum)
}

#[expect(clippy::cast_possible_truncation, reason = "checked against the bounds before")]
fn millis(seconds: f64) -> Option<i64> {
    let ms = (seconds * 1000.0).round();
    (ms.is_finite() && ms.abs() < 9e15).then_some(ms as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_read_as_prometheus_reads_them() {
        assert_eq!(time_ms("1435781451.781"), Some(1_435_781_451_781));
        assert_eq!(time_ms("2015-07-01T20:10:51.781Z"), Some(1_435_781_451_781));
        for bad in ["", "soon", "NaN", "inf", "1e300"] {
            assert_eq!(time_ms(bad), None, "{bad}");
        }
        for (text, ms) in [("15", 15_000), ("0.5", 500), ("1m", 60_000), ("1h30m", 5_400_000), ("250ms", 250)] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for bad in ["", "m", "5x", "1m5", "99999999999999999999d"] {
            assert_eq!(duration_ms(bad), None, "{bad}");
        }
    }
}
