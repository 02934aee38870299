//! Something on one processor and nowhere else.

use crate::instance::Instance;
use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const READY_WITHIN: Duration = Duration::from_secs(20);
const ENDED_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(10);

/// Two processors that we may use.
pub fn two() -> Result<(usize, usize)> {
    let mine = sched_getaffinity(Pid::from_raw(0))?;
    let mut usable = (0..CpuSet::count()).filter(|cpu| mine.is_set(*cpu).unwrap_or(false));
    let pair = (usable.next(), usable.next());
    let (Some(first), Some(second)) = pair else { anyhow::bail!("two processors are needed, one for each end") };
    Ok((first, second))
}

/// Keeps this thread, and whatever it starts, on one processor.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

/// Runs this on a thread of its own that stays on one processor.
pub fn on<T: Send>(cpu: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            stay_on(cpu)?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })
}

/// A control plane without an agent.
pub struct Server(Child);

impl Server {
    /// Over the data of an instance that is down.
    pub fn start(instance: &Instance, cpu: usize, arguments: &[&str]) -> Result<Self> {
        let log = File::options().create(true).append(true).open(instance.path().join("perigeed.log"))?;
        let mut command = Command::new(instance.program("perigeed"));
        command.arg("--data-dir").arg(instance.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let server = Self(on(cpu, move || command.spawn().context("perigeed"))?);
        let (endpoints, began) = (instance.path().join("endpoints.json"), Instant::now());
        while !fs::read_to_string(&endpoints).is_ok_and(|text| text.contains(&server.pid().to_string())) {
            ensure!(began.elapsed() < READY_WITHIN, "perigeed was not ready within {READY_WITHIN:?}");
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let began = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if began.elapsed() > ENDED_WITHIN {
                let _ = self.0.kill();
            }
            std::thread::sleep(LOOK);
        }
    }
}
