//! N1, N2, N3: what measuring a host costs, beside node_exporter on the same host at the same pace.

use crate::Options;
use crate::instance::Instance;
use crate::machine;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::sleep;

/// Ten times a second: 300 collections in half a minute.
const EVERY: Duration = Duration::from_millis(100);
/// Collections whose cost is one sample.
const BATCH: u32 = 20;
const BATCHES: usize = 15;
/// What is read once is read before the first sample.
const WARM_UP: Duration = Duration::from_secs(3);
const SCRAPE_WITHIN: Duration = Duration::from_secs(5);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let batches = if options.quick { 3 } else { BATCHES };
    let instance = Instance::measuring(options, EVERY)?;
    let agent = instance.pid("perigee-agent")?;
    sleep(WARM_UP).await;
    let frames_before = written(&instance)?;
    let ours = paced(agent, batches, async || Ok(())).await?;
    let frames = batches as u64 * u64::from(BATCH);
    let bytes = written(&instance)?.saturating_sub(frames_before);
    let memory = machine::resident_bytes(agent)?;
    drop(instance);

    let what = "collection: all collectors, top processes, encoding, spool, TLS and acknowledgement";
    let line = Line::new("N1", what, &ours);
    let Some(peer) = Exporter::start()? else {
        report.line(line);
        report.note("N1", "prometheus-node-exporter is not installed: no peer (scripts/setup bench)".to_owned());
        return Ok(());
    };
    sleep(WARM_UP).await;
    let theirs = paced(peer.child.id(), batches, async || peer.scrape().map(drop)).await?;
    report.line(line.beside("node_exporter", &theirs));
    report.line(Line::new("N1", "node_exporter: one plain scrape", &theirs));
    let page = peer.scrape()?.len();
    let packed = peer.packed()?;
    let exporter = machine::resident_bytes(peer.child.id())?;
    let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20);
    report.note("N2", format!("resident memory: perigee-agent {}, node_exporter {}", mib(memory), mib(exporter)));
    let per_frame = bytes / frames.max(1);
    report.note("N3", format!(
        "a frame, as it is on the wire and in both logs: {per_frame} bytes on average of {frames}, changes of a tenth of a \
         second; a scrape of node_exporter: {page} bytes, {packed} with gzip: {} times a frame",
        packed as u64 / per_frame.max(1)
    ));
    Ok(())
}

/// Processor time of a process for each collection, batch by batch.
async fn paced(pid: u32, batches: usize, act: impl AsyncFn() -> Result<()>) -> Result<Sample> {
    let mut sample = Sample::default();
    for _ in 0..batches {
        let before = machine::scheduled(pid)?;
        for _ in 0..BATCH {
            act().await?;
            sleep(EVERY).await;
        }
        sample.push(machine::scheduled(pid)?.saturating_sub(before) / BATCH);
    }
    Ok(sample)
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

/// A node_exporter of our own.
struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Exporter {
    fn start() -> Result<Option<Self>> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let started = Command::new("prometheus-node-exporter")
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = started else { return Ok(None) };
        let exporter = Self { child, address };
        for _ in 0..50 {
            if exporter.scrape().is_ok() {
                return Ok(Some(exporter));
            }
            std::thread::park_timeout(EVERY);
        }
        anyhow::bail!("node_exporter does not answer")
    }

    fn scrape(&self) -> Result<Vec<u8>> {
        self.get("")
    }
    fn packed(&self) -> Result<usize> {
        self.get("Accept-Encoding: gzip\r\n").map(|page| page.len())
    }
    fn get(&self, header: &str) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, SCRAPE_WITHIN)?;
        stream.set_read_timeout(Some(SCRAPE_WITHIN))?;
        write!(stream, "GET /metrics HTTP/1.0\r\n{header}\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").context("the scrape has no end of head")?;
        ensure!(answer.starts_with(b"HTTP/1.0 200"), "the scrape failed");
        Ok(answer.split_off(head + 4))
    }
}
