//! A sheet as Prometheus reads it: text format 0.0.4.
//!
//! Owns: the texts that explain each metric, and writing numbers and labels as the format wants them.
//! Refuses: timestamps (the scraper has a clock).

use perigee_model::frame::{MetricKind, Series, Sheet};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

mod help;

/// What `Content-Type` says of it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that has a value now.
pub fn exposition(sheet: &Sheet) -> String {
    exposition_of(sheet.values())
}

/// The same of any series, as long as those of one name come with one kind.
pub fn exposition_of<'a>(values: impl Iterator<Item = (&'a Series, f64)>) -> String {
    let mut families: BTreeMap<&str, Vec<(&Series, f64)>> = BTreeMap::new();
    for (series, value) in values {
        families.entry(&series.name).or_default().push((series, value));
    }
    let mut out = String::new();
    for (name, mut members) in families {
        members.sort_unstable_by(|a, b| a.0.labels.cmp(&b.0.labels));
        if let Some(help) = help_of(name) {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(out, "# HELP {name} {help}");
        }
        let _ = writeln!(out, "# TYPE {name} {}", kind(members[0].0));
        for (series, value) in members {
            line(&mut out, series, value);
        }
    }
    out
}

/// What a metric means, in one sentence; `None` for one that is not from here.
pub fn help_of(name: &str) -> Option<Cow<'static, str>> {
    if let Ok(at) = help::TABLE.binary_search_by_key(&name, |row| row.0) {
        return Some(Cow::Borrowed(help::TABLE[at].1));
    }
    let field = name.strip_prefix("node_memory_").map(|f| f.strip_suffix("_bytes").unwrap_or(f));
    field.map(|field| Cow::Owned(format!("Memory information field {field}.")))
}

/// A counter whose name does not say so is one that node_exporter calls untyped (`node_vmstat_pgfault`).
fn kind(series: &Series) -> &'static str {
    match series.kind {
        MetricKind::Gauge => "gauge",
        MetricKind::Counter if series.name.ends_with("_total") => "counter",
        MetricKind::Counter => "untyped",
    }
}

fn line(out: &mut String, series: &Series, value: f64) {
    out.push_str(&series.name);
    let mut before = '{';
    for (label, text) in &series.labels {
        out.push(before);
        before = ',';
        out.push_str(label);
        out.push_str("=\"");
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if before == ',' {
        out.push('}');
    }
    let _ = match value {
        v if v == f64::INFINITY => writeln!(out, " +Inf"),
        v if v == f64::NEG_INFINITY => writeln!(out, " -Inf"),
        v => writeln!(out, " {v}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::frame::Form;

    #[test]
    fn labels_and_numbers_are_written_as_the_format_wants() {
        let mut sheet = Sheet::default();
        let tricky = Series::gauge("node_load1", 2).with("a", "q\"b\\s\nn").with("b", "ü");
        let odd = Series { form: Form::Float, ..Series::gauge("foreign", 0) };
        let slots = [tricky, odd, Series::counter("node_vmstat_pgfault", 0), Series::counter("node_intr_total", 0)];
        let [load, odd, faults, intr] = slots.map(|series| sheet.define(series).unwrap());
        sheet.set(load, 123);
        sheet.set_f64(odd, f64::INFINITY);
        sheet.set(faults, 7);
        sheet.set(intr, 8);
        let expected = "# TYPE foreign gauge\nforeign +Inf\n\
            # HELP node_intr_total Interrupts serviced.\n# TYPE node_intr_total counter\nnode_intr_total 8\n\
            # HELP node_load1 Load average over 1 minute.\n# TYPE node_load1 gauge\n\
            node_load1{a=\"q\\\"b\\\\s\\nn\",b=\"ü\"} 1.23\n\
            # HELP node_vmstat_pgfault /proc/vmstat information field pgfault.\n\
            # TYPE node_vmstat_pgfault untyped\nnode_vmstat_pgfault 7\n";
        assert_eq!(exposition(&sheet), expected);
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(help::TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0), "help_of searches by halves");
    }
}
