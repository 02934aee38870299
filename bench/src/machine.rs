//! The machine the numbers are from: what it is, how busy it is, what its disk costs.

use crate::numbers::Sample;
use crate::say;
use anyhow::{Context as _, Result};
use perigee_clock::Clock;
use serde::Serialize;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Linux counts processor time in these on x86_64, whatever the kernel's own tick is (times(2)).
const TICK: Duration = Duration::from_millis(10);

/// How busy it is; the bench's own work counts, too.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    /// Of the last minute.
    pub average: f64,
    /// Compilers that run now: numbers beside them are noise.
    pub compilers: usize,
}

impl Load {
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let average = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN);
        Self { average, compilers: compilers() }
    }
}

fn compilers() -> usize {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
    all.map(name).filter(|name| matches!(name.trim(), "rustc" | "cc1" | "ld" | "rust-lld" | "collect2")).count()
}

/// Waits until nothing compiles, but no longer than this.
pub async fn await_quiet(most: Duration) {
    let look = Duration::from_secs(1);
    let mut waited = Duration::ZERO;
    while compilers() > 0 && waited < most {
        if waited.is_zero() {
            say::progress("waiting for compilers to end");
        }
        tokio::time::sleep(look).await;
        waited += look;
    }
}

/// Name and value of what matters here.
pub fn describe() -> Vec<(&'static str, String)> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    vec![
        ("processor", format!("{}, {cores} cores", model.trim_start_matches([':', ' ', '\t']))),
        ("memory", format!("{} MiB", memory.unwrap_or(0) / 1024)),
        ("kernel", kernel.trim().to_owned()),
    ]
}

/// The commit, and whether the files differ from it.
pub fn commit() -> (String, bool) {
    let git = |arguments: &[&str]| {
        let said = Command::new("git").args(arguments).output().ok().filter(|said| said.status.success())?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|files| !files.is_empty());
    (git(&["rev-parse", "--short=7", "HEAD"]).unwrap_or_else(|| "unknown".to_owned()), changed)
}

/// Processor time that a process took so far, all threads together.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let (_, rest) = stat.rsplit_once(") ").context("/proc/PID/stat")?;
    let ticks = rest.split(' ').skip(11).take(2).map(|field| field.parse::<u32>().unwrap_or(0)).sum::<u32>();
    Ok(TICK * ticks)
}

/// Time that a process's threads ran on a processor, to the nanosecond (proc(5), schedstat).
pub fn scheduled(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        // A thread may end while we look.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}

/// Processes that there are, kernel threads included.
pub fn processes() -> usize {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok())).count()
}

/// Memory that a process has in RAM.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most memory that a process had in RAM since [`forget_peak`].
pub fn peak_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// From here on [`peak_bytes`] counts anew (proc(5), clear_refs).
pub fn forget_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("process {pid}"))
}

fn status_bytes(pid: u32, field: &'static str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).context(field)?;
    let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).context(field)?;
    Ok(kib * 1024)
}

/// The least that a durable write costs: 4 KiB appended and on the disk.
pub fn durable_writes(dir: &Path, runs: usize, clock: &Clock) -> Result<Sample> {
    let path = dir.join("durable");
    let mut file = fs::File::create(&path)?;
    let mut sample = Sample::default();
    for _ in 0..runs {
        let began = clock.instant();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        sample.push(began.elapsed());
    }
    fs::remove_file(&path)?;
    Ok(sample)
}
