//! N20c: taking in a disk from a file of this machine, through the command line and the API, beside `sha256sum`,
//! `cp` and `sync` of the same file.
//!
//! Ours sends every byte over loopback, knows it by its SHA-256 before and after, looks at its header and has it on
//! the disk before it answers.

use crate::Options;
use crate::instance::Instance;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use anyhow::{Context as _, Result, ensure};
use perigee_clock::Clock;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const RUNS: usize = 7;
const BYTES: usize = 1 << 30;
const CHUNK: usize = 1 << 20;

/// N20c.
pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (runs, bytes) = if options.quick { (2, BYTES / 10) } else { (RUNS, BYTES) };
    let mut instance = Instance::measuring(options, std::time::Duration::from_secs(3))?;
    let (ours, peer) = tokio::task::spawn_blocking(move || {
        let measured = compared(&instance, runs, bytes);
        instance.down().and(measured)
    })
    .await??;
    let line = Line::new("N20c", format!("import of a disk of {} MiB from a file", bytes >> 20), &ours);
    report.line(Line::new("N20c", "sha256sum, cp and sync of it: the peer", &peer));
    report.line(line.beside("sha256sum, cp, sync", &peer).at_most_of_peer(1.2));
    Ok(())
}

/// They take turns; the first of each finds the caches cold.
fn compared(instance: &Instance, runs: usize, bytes: usize) -> Result<(Sample, Sample)> {
    let (disk, copy) = (instance.path().join("disk.raw"), instance.path().join("copy.raw"));
    fill(&disk, bytes)?;
    let file = disk.to_str().context("a folder with a plain name")?;
    let (mut ours, mut peer) = (Sample::default(), Sample::default());
    for run in 0..=runs {
        let began = Instant::now();
        shell(&format!("sha256sum {file} > /dev/null && cp {file} {0} && sync {0}", copy.display()))?;
        let took = began.elapsed();
        std::fs::remove_file(&copy)?;
        let began = Instant::now();
        instance.perigee(&["image", "import", "disk", "--file", file, "--format", "raw", "--quiet"])?;
        if run > 0 {
            ours.push(began.elapsed());
            peer.push(took);
        }
        instance.perigee(&["image", "delete", "disk"])?;
    }
    Ok((ours, peer))
}

/// Bytes that no file system packs.
fn fill(path: &Path, bytes: usize) -> Result<()> {
    let (clock, mut file, mut chunk) = (Clock::real(), File::create(path)?, vec![0; CHUNK]);
    for _ in 0..bytes / CHUNK {
        clock.fill(&mut chunk);
        file.write_all(&chunk)?;
    }
    Ok(file.sync_all()?)
}

fn shell(line: &str) -> Result<()> {
    ensure!(Command::new("sh").args(["-c", line]).status()?.success(), "{line}");
    Ok(())
}
