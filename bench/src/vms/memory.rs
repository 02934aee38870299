//! N2: what the agent keeps in memory with libvirt connected, beside the two exporters that tell as much.

use super::Lab;
use crate::exporter::Exporter;
use crate::machine;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use anyhow::Result;
use std::time::Duration;
use tokio::time::sleep;

/// Looks at each.
const LOOKS: usize = 20;
const BETWEEN: Duration = Duration::from_secs(1);
/// Scraped as often as the agent measures.
const SCRAPE_EVERY: usize = 3;
/// In a million bytes.
const STEADY_MAX_MB: f64 = 15.0;
const PEAK_MAX_MB: f64 = 30.0;
/// Half of the exporters' is twice less.
const RATIO_MAX: f64 = 0.5;

/// While so many VMs run and nobody asks for anything.
pub async fn steady(lab: &Lab, vms: usize, report: &mut Report) -> Result<()> {
    let agent = lab.instance.pid("perigee-agent")?;
    let libvirt_uri = format!("--libvirt.uri={}", lab.daemon.uri());
    let peers = [
        Exporter::start("prometheus-node-exporter", &[])?,
        Exporter::start("prometheus-libvirt-exporter", &[&libvirt_uri])?,
    ];
    let peers: Vec<Exporter> = peers.into_iter().flatten().collect();
    let (mut ours, mut theirs) = (Sample::default(), Sample::default());
    for look in 0..lab.runs(LOOKS) {
        if look % SCRAPE_EVERY == 0 {
            peers.iter().try_for_each(|peer| peer.scrape().map(drop))?;
        }
        sleep(BETWEEN).await;
        ours.push_number(megabytes(machine::resident_bytes(agent)?));
        let all = peers.iter().map(|peer| machine::resident_bytes(peer.pid())).sum::<Result<u64>>()?;
        theirs.push_number(megabytes(all));
    }
    let what = format!("perigee-agent, libvirt connected, {vms} VMs running: resident");
    report.line(Line::new("N2", what.as_str(), &ours).in_unit("MB").median_at_most(STEADY_MAX_MB));
    let built: Sample = std::iter::once(megabytes(lab.builder_bytes)).collect();
    let line = Line::new("N2", "perigee-agent, after it built an image itself, no VM yet: resident", &built);
    report.line(line.in_unit("MB").remark("another agent than the one above"));
    if peers.len() < 2 {
        report.note("N2", "an exporter is not installed: no peer (scripts/setup bench)");
        return Ok(());
    }
    let line = Line::new("N2", what, &ours).in_unit("MB").beside("both exporters", &theirs);
    report.line(line.at_most_of_peer(RATIO_MAX));
    let what = "node_exporter and prometheus-libvirt-exporter, scraped every 3 s: resident, together";
    report.line(Line::new("N2", what, &theirs).in_unit("MB"));
    Ok(())
}

/// The most that it had in memory.
pub fn peak(at_once: usize, verbs: &str, bytes: u64, report: &mut Report) {
    let sample: Sample = std::iter::once(megabytes(bytes)).collect();
    let line = Line::new("N2", format!("perigee-agent, at most, during {at_once} {verbs} at once: resident"), &sample);
    report.line(line.in_unit("MB").median_at_most(PEAK_MAX_MB));
}

#[expect(clippy::cast_precision_loss, reason = "sizes of processes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
