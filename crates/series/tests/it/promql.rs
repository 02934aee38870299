//! PromQL over made-up samples: the same answers as Prometheus gives.

mod expressions;
mod made;
mod prometheus;

use expressions::{BOTH_REFUSE, INSTANT_ONLY, ORDERED, SAME};
use made::{FIRST_MS, LAST_MS, Made};
use perigee_series::promql::{Engine, QueryError, Range, Value, serialise};
use prometheus::Prometheus;
use serde_json::Value as Json;
use std::collections::BTreeMap;

const MINUTE_MS: i64 = 60_000;

/// As close as two orders of addition let two correct sums be.
const TOLERANCE: f64 = 1e-9;

#[test]
fn real_the_same_answers_as_prometheus() {
    let made = Made::new();
    let prometheus = Prometheus::with(&made.open_metrics());
    let mut differing = Vec::new();
    let mut compared = 0;
    // In the midst, where series end, on the edge of a lookback, and after all of it.
    let moments = [FIRST_MS + 41 * MINUTE_MS, FIRST_MS + 95 * MINUTE_MS + 7_501, LAST_MS + 5 * MINUTE_MS];
    let ranges = [
        Range { from_ms: FIRST_MS - 4 * MINUTE_MS, to_ms: LAST_MS + 6 * MINUTE_MS, step_ms: 45_000 },
        Range { from_ms: FIRST_MS + 1_234, to_ms: FIRST_MS + 30 * MINUTE_MS, step_ms: 7_000 },
    ];
    for (query, ordered) in
        SAME.iter().chain(INSTANT_ONLY).map(|q| (*q, false)).chain(ORDERED.iter().map(|q| (*q, true)))
    {
        for at_ms in moments {
            let theirs = prometheus.instant(query, at_ms);
            let ours = Engine::default().instant(&made, query, at_ms, &|| false).map(|value| json_of(&value));
            compared += 1;
            differing.extend(difference(ours, theirs, ordered).map(|why| format!("{query} at {at_ms}: {why}")));
        }
    }
    for (query, range) in SAME.iter().chain(ORDERED).flat_map(|query| ranges.map(|range| (query, range))) {
        let theirs = prometheus.range(query, range);
        let ours = Engine::default().range(&made, query, range, &|| false).map(|value| json_of(&value));
        compared += 1;
        differing.extend(difference(ours, theirs, true).map(|why| format!("{query} over {range:?}: {why}")));
    }
    for query in BOTH_REFUSE {
        let theirs = prometheus.instant(query, moments[0]);
        let ours = Engine::default().instant(&made, query, moments[0], &|| false);
        compared += 1;
        if ours.is_ok() || theirs.is_ok() {
            differing.push(format!("{query}: refused by us {}, by Prometheus {}", ours.is_err(), theirs.is_err()));
        }
    }
    assert!(differing.is_empty(), "{} of {compared} differ:\n{}", differing.len(), differing.join("\n"));
    assert!(compared > 5 * 120, "only {compared} compared");
}

fn json_of(value: &Value) -> Json {
    let mut text = String::new();
    serialise(&mut text, value);
    serde_json::from_str(&text).unwrap()
}

/// What differs between two answers; in the order of series as well, where that is promised.
fn difference(ours: Result<Json, QueryError>, theirs: Result<Json, String>, ordered: bool) -> Option<String> {
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(why), Ok(theirs)) => return Some(format!("refused ({why}), Prometheus says {}", cut(&theirs))),
        (Ok(ours), Err(why)) => return Some(format!("we say {}, Prometheus refuses: {why}", cut(&ours))),
        (Err(ours), Err(theirs)) => return Some(format!("both refuse: {ours}; {theirs}")),
    };
    if ours["resultType"] != theirs["resultType"] {
        return Some(format!("{} instead of {}", ours["resultType"], theirs["resultType"]));
    }
    if matches!(ours["resultType"].as_str(), Some("scalar" | "string")) {
        return point_differs(&ours["result"], &theirs["result"]);
    }
    let (ours, theirs) = (by_metric(&ours["result"]), by_metric(&theirs["result"]));
    let names = |series: &[(String, Vec<Json>)]| series.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    if ordered && names(&ours) != names(&theirs) {
        return Some(format!("series {:?} instead of {:?}", names(&ours), names(&theirs)));
    }
    let (ours, theirs): (BTreeMap<_, _>, BTreeMap<_, _>) = (ours.into_iter().collect(), theirs.into_iter().collect());
    if !ours.keys().eq(theirs.keys()) {
        return Some(format!("series {:?} instead of {:?}", ours.keys(), theirs.keys()));
    }
    ours.iter().find_map(|(name, points)| {
        let their = &theirs[name];
        if points.len() != their.len() {
            let odd = points.iter().zip(their).find(|(a, b)| a[0] != b[0]);
            return Some(format!("{name}: {} points instead of {}, first odd {odd:?}", points.len(), their.len()));
        }
        points.iter().zip(their).find_map(|(a, b)| point_differs(a, b)).map(|why| format!("{name}: {why}"))
    })
}

fn by_metric(result: &Json) -> Vec<(String, Vec<Json>)> {
    let one = |series: &Json| {
        let points = series["values"].as_array().cloned().unwrap_or_else(|| vec![series["value"].clone()]);
        (series["metric"].to_string(), points)
    };
    result.as_array().expect("series").iter().map(one).collect()
}

fn point_differs(ours: &Json, theirs: &Json) -> Option<String> {
    let number = |point: &Json| point[1].as_str().and_then(|text| text.parse::<f64>().ok());
    let near = match (number(ours), number(theirs)) {
        (Some(a), Some(b)) => {
            // The same number is also the same text; of two shortest ones equally near, either.
            let length = |point: &Json| point[1].as_str().map(str::len);
            let same = a == b || (a.is_nan() && b.is_nan());
            if same { length(ours) == length(theirs) } else { (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()) }
        }
        _ => ours[1] == theirs[1],
    };
    (!near || ours[0].as_f64() != theirs[0].as_f64()).then(|| format!("{ours} instead of {theirs}"))
}

fn cut(json: &Json) -> String {
    json.to_string().chars().take(300).collect()
}
