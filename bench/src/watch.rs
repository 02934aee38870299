//! N1, N2, N3: what measuring a host costs, beside node_exporter on the same host at the same pace.
//!
//! Both are measured at the same time, so that both see the same machine; in a repeat, so many
//! collections are one number.

use crate::Options;
use crate::exporter::Exporter;
use crate::instance::Instance;
use crate::machine;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use crate::strain::{Strain, Work};
use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Ten times a second: 300 collections in half a minute.
const EVERY: Duration = Duration::from_millis(100);
/// Collections of one repeat.
const COLLECTIONS: u32 = 300;
const REPEATS: u32 = 5;
/// A tenth of what node_exporter takes.
const RATIO_MAX: f64 = 0.1;
/// What is read once is read before the first sample.
const WARM_UP: Duration = Duration::from_secs(3);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (repeats, collections) = if options.quick { (1, COLLECTIONS / 5) } else { (REPEATS, COLLECTIONS) };
    let instance = Instance::measuring(options, EVERY)?;
    let subjects = Subjects {
        instance: &instance,
        agent: instance.pid("perigee-agent")?,
        peer: Exporter::start("prometheus-node-exporter", &[])?,
    };
    if subjects.peer.is_none() {
        report.note("N1", "prometheus-node-exporter is not installed: no peer (scripts/setup bench)".to_owned());
    }
    for work in [Work::Idle, Work::Busy, Work::Changing] {
        let strain = Strain::begin(work, instance.path())?;
        sleep(WARM_UP).await;
        let mut cost = Cost::default();
        for _ in 0..repeats {
            subjects.measure(collections, &mut cost).await?;
        }
        drop(strain);
        cost.tell(work, collections, report);
    }
    subjects.tell_sizes(report)
}

/// What is measured side by side.
struct Subjects<'a> {
    instance: &'a Instance,
    agent: u32,
    peer: Option<Exporter>,
}

/// Processor time for each collection, repeat by repeat.
#[derive(Default)]
struct Cost {
    ours: Sample,
    theirs: Sample,
    processes: usize,
    bytes: u64,
    frames: u64,
}

impl Subjects<'_> {
    async fn measure(&self, collections: u32, cost: &mut Cost) -> Result<()> {
        let exporter = self.peer.as_ref().map(|peer| peer.pid());
        let scheduled = |pid: Option<u32>| pid.map_or(Ok(Duration::ZERO), machine::scheduled);
        let bytes = written(self.instance)?;
        let (ours, theirs, began) = (machine::scheduled(self.agent)?, scheduled(exporter)?, Instant::now());
        let mut pace = interval(EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once.
        pace.tick().await;
        for _ in 0..collections {
            if let Some(peer) = &self.peer {
                peer.scrape()?;
            }
            pace.tick().await;
        }
        // The agent keeps to the clock, whatever a scrape takes.
        let frames = began.elapsed().as_secs_f64() / EVERY.as_secs_f64();
        let ours = machine::scheduled(self.agent)?.saturating_sub(ours);
        cost.ours.push(ours.div_f64(frames));
        if exporter.is_some() {
            cost.theirs.push(scheduled(exporter)?.saturating_sub(theirs) / collections);
        }
        cost.processes = machine::processes();
        cost.bytes += written(self.instance)?.saturating_sub(bytes);
        cost.frames += u64::from(collections);
        Ok(())
    }

    fn tell_sizes(&self, report: &mut Report) -> Result<()> {
        let Some(peer) = &self.peer else { return Ok(()) };
        let (page, packed) = (peer.scrape()?.len(), peer.packed()?);
        let (ours, theirs) = (machine::resident_bytes(self.agent)?, machine::resident_bytes(peer.pid())?);
        let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20);
        report.note("N2", format!("resident memory: perigee-agent {}, node_exporter {}", mib(ours), mib(theirs)));
        report.note("N3", format!("a scrape of node_exporter: {page} bytes, {packed} with gzip"));
        Ok(())
    }
}

impl Cost {
    fn tell(&self, work: Work, collections: u32, report: &mut Report) {
        let what = "collection: all collectors, top processes, encoding, spool, TLS and acknowledgement";
        let line = Line::new("N1", format!("{}: {what}", work.text()), &self.ours)
            .remark(format!("{collections} collections each, {} processes", self.processes));
        if self.theirs.is_empty() {
            report.line(line);
        } else {
            report.line(line.beside("node_exporter", &self.theirs).at_most_of_peer(RATIO_MAX));
            report.line(Line::new("N1", format!("{}: node_exporter, a plain scrape", work.text()), &self.theirs));
        }
        report.note("N3", format!(
            "{}: a frame, as it is on the wire and in both logs: {} bytes on average of {}, changes of a tenth of a second",
            work.text(),
            self.bytes / self.frames.max(1),
            self.frames
        ));
    }
}

/// Bytes of the control plane's frame log: the very frames, and 41 bytes around each.
fn written(instance: &Instance) -> Result<u64> {
    let folder = instance.path().join("series/log");
    let mut sum = 0;
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}
