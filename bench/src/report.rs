//! The table: one line for each measurement, with its peer, its target and how busy the machine was.

use crate::Options;
use crate::lab::Lab;
use crate::machine::{self, Load};
use crate::numbers::{Sample, Spread, shown};
use anyhow::{Context as _, Result};
use perigee_clock::Clock;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    row: &'static str,
    what: String,
    /// Of the spread's numbers, whatever they are called.
    unit: &'static str,
    spread: Spread,
    peer: Option<Peer>,
    target: Option<Target>,
    remark: String,
    load: Load,
}

/// What it is compared with, of the same run.
#[derive(Clone, Debug, Serialize)]
struct Peer {
    what: String,
    /// Median by median.
    ratio: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Target {
    text: String,
    met: bool,
}

impl Line {
    pub fn new(row: &'static str, what: impl Into<String>, sample: &Sample) -> Self {
        let spread = sample.spread();
        Self {
            row,
            what: what.into(),
            unit: "ms",
            spread,
            peer: None,
            target: None,
            remark: String::new(),
            load: Load::now(),
        }
    }
    pub fn beside(mut self, what: &str, peer: &Sample) -> Self {
        let ratio = self.spread.median_ms / peer.spread().median_ms;
        self.peer = Some(Peer { what: what.to_owned(), ratio });
        self
    }
    /// What is measured when it is no time in milliseconds.
    pub fn in_unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }
    /// `most` times what the peer takes, and no more.
    pub fn at_most_of_peer(mut self, most: f64) -> Self {
        let met = self.peer.as_ref().is_some_and(|peer| peer.ratio <= most);
        self.target = Some(Target { text: format!("≤ {most:.3} × the peer's"), met });
        self
    }
    /// In the line's unit; so for the next.
    pub fn median_at_most(mut self, most: f64) -> Self {
        let met = self.spread.median_ms <= most;
        self.target = Some(Target { text: format!("median ≤ {most} {}", self.unit), met });
        self
    }
    pub fn p99_at_most(mut self, most: f64) -> Self {
        let met = self.spread.p99_ms <= most;
        self.target = Some(Target { text: format!("p99 ≤ {most} {}", self.unit), met });
        self
    }
    pub fn remark(mut self, text: impl Into<String>) -> Self {
        self.remark = text.into();
        self
    }
}

/// Everything that will be written.
#[derive(Debug, Serialize)]
pub struct Report {
    date: String,
    commit: String,
    changed: bool,
    quick: bool,
    took_s: f64,
    facts: Vec<(&'static str, String)>,
    lines: Vec<Line>,
    notes: Vec<(&'static str, String)>,
}

const NOT_MEASURED: &str = "\
- KVM: guests run under translation unless `acceleration` above says otherwise; boots are slower by an order of magnitude, what is ours is not.
- Restores from snapshots (N10's final form), 50 at once, the tools template: not part of this release.
- 500 full VMs of our own making, which would have to boot once each: N19b's were there before and were taken over.
- Other products, but for the peers that rows name: the other rows compare with the bare machine (own QEMU by the same driver, an empty route, the disk), measured in the same run.
- A network between caller and control plane: everything is on loopback.
";

impl Report {
    pub fn new(clock: &Clock, options: &Options) -> Self {
        let (commit, changed) = machine::commit();
        let mut facts = machine::describe();
        facts.push(("programs", options.built.clone()));
        let load = Load::now();
        facts.push(("load before", format!("{:.2}, {} compilers", load.average, load.compilers)));
        let date = clock.now().to_string().chars().take(10).collect();
        Self { date, commit, changed, quick: options.quick, took_s: 0.0, facts, lines: Vec::new(), notes: Vec::new() }
    }

    pub fn describe(&mut self, lab: &Lab) {
        self.facts.push(("driver", lab.bare.describe()));
    }
    pub fn took(&mut self, time: Duration) {
        self.took_s = time.as_secs_f64();
    }
    pub fn line(&mut self, line: Line) {
        self.lines.push(line);
    }
    pub fn note(&mut self, row: &'static str, text: impl Into<String>) {
        self.notes.push((row, text.into()));
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("# Numbers of {}, commit {}\n\n", self.date, self.commit);
        // Writing to a String cannot fail.
        let _ = write!(text, "`make bench`{}", if self.quick { " with `--quick`: a tenth of the runs" } else { "" });
        let changed = if self.changed { ", with changes that were not committed yet" } else { "" };
        let _ = writeln!(text, "{changed}; {:.0} s without building.\n", self.took_s);
        for (name, value) in &self.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        text.push_str("\n| row | what | runs | median | p99 | min … max | beside its peer | target | load |\n");
        text.push_str("|---|---|--:|--:|--:|---|---|---|--:|\n");
        for line in &self.lines {
            let _ = writeln!(text, "{}", table_row(line));
        }
        text.push('\n');
        for (row, note) in &self.notes {
            let _ = writeln!(text, "- {row}: {note}");
        }
        let _ = write!(
            text,
            "\nLoad: average of the last minute when the line was written, the bench's own work included; `+n` compilers ran beside it.\n\n## Not measured\n\n{NOT_MEASURED}"
        );
        text
    }

    /// As Markdown and as JSON; gives the paths.
    pub fn write(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        std::fs::create_dir_all(dir)?;
        let name = format!("{}-{}{}", self.date, self.commit, if self.quick { "-quick" } else { "" });
        let paths = [dir.join(format!("{name}.md")), dir.join(format!("{name}.json"))];
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (path, text) in paths.iter().zip([self.markdown(), json]) {
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(paths)
    }
}

fn table_row(line: &Line) -> String {
    let Spread { runs, median_ms, p99_ms, min_ms, max_ms } = line.spread;
    let what = if line.remark.is_empty() { line.what.clone() } else { format!("{} ({})", line.what, line.remark) };
    let peer = line.peer.as_ref().map_or_else(|| "–".to_owned(), |p| format!("{:.3} × {}", p.ratio, p.what));
    let target = line
        .target
        .as_ref()
        .map_or_else(|| "–".to_owned(), |t| format!("{} {}", t.text, if t.met { "✓" } else { "**missed**" }));
    let beside = if line.load.compilers > 0 { format!(" +{}", line.load.compilers) } else { String::new() };
    format!(
        "| {} | {what} | {runs} | {} | {} | {} … {} | {peer} | {target} | {:.2}{beside} |",
        line.row,
        shown(median_ms, line.unit),
        shown(p99_ms, line.unit),
        shown(min_ms, line.unit),
        shown(max_ms, line.unit),
        line.load.average,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_its_peer_and_its_target() {
        let sample = |ms: f64| [ms].into_iter().collect::<Sample>();
        let line = Line::new("N9", "through the API", &sample(6.0)).beside("raw", &sample(4.0)).median_at_most(5.0);
        let row = table_row(&line);
        assert!(row.contains("1.500 × raw") && row.contains("median ≤ 5 ms **missed**"), "{row}");
        let row = table_row(&Line::new("N9", "x", &sample(6.0)).p99_at_most(6.0).remark("no errors"));
        assert!(row.contains("x (no errors)") && row.contains("p99 ≤ 6 ms ✓"), "{row}");
        let size = |bytes| Line::new("N4", "kept", &sample(1.0)).in_unit("B").beside("peer", &sample(bytes));
        assert!(table_row(&size(4.0).at_most_of_peer(0.25)).contains("1.00 B"), "it has its unit");
        assert!(table_row(&size(4.0).at_most_of_peer(0.25)).contains("0.250 × the peer's ✓"));
        assert!(table_row(&size(3.0).at_most_of_peer(0.25)).contains("**missed**"));
    }
}
