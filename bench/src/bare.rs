//! The peer: microVMs that the bench starts itself, by the driver the agent uses, with the plan
//! the agent would give it. No store, queue, link or API.

use anyhow::{Context as _, Result, bail};
use perigee_clock::Clock;
use perigee_guest::ExecStart;
use perigee_hypervisor::microvm::{Microvm, MicrovmConfig};
use perigee_hypervisor::{Channel, ExecEvent, Hypervisor, Pace, Plan, Session};
use perigee_model::limits::{BOOT_RETRY_TIMEOUT, SANDBOX_MEMORY_BYTES_DEFAULT};
use perigee_model::{GuestId, InstanceId, Name, PartRole, Resources};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Far from the users that agents and tests give their guests.
const UID_BASE: u32 = 1_950_000_000;
const QEMU: &str = "qemu-system-x86_64";

pub struct Bare {
    driver: Microvm,
    clock: Clock,
    parts: Vec<(PartRole, PathBuf)>,
}

/// One that said hello.
pub struct Booted {
    guest: GuestId,
    session: Arc<dyn Session>,
    /// From the start of its VMM to its hello.
    pub took: Duration,
}

/// One command's run, from the request on.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub first_output: Option<Duration>,
    pub ended: Duration,
}

impl Bare {
    /// In this folder; its path must be short.
    pub fn open(dir: &Path, parts: Vec<(PartRole, PathBuf)>, clock: Clock) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&path).map(|dir| dir.join(QEMU));
        let driver = Microvm::new(MicrovmConfig {
            instance: InstanceId::from_bits(u32::from_le_bytes(clock.random())),
            reserve: perigee_hypervisor::Reserve::default(),
            dir: dir.join("guests"),
            run_dir: dir.join("run"),
            qemu: programs.find(|file| file.is_file()).with_context(|| format!("{QEMU} is not in PATH"))?,
            uid_base: nix::unistd::geteuid().is_root().then_some(UID_BASE),
            clock: clock.clone(),
        })?;
        Ok(Self { driver, clock, parts })
    }

    pub fn describe(&self) -> String {
        let abilities = self.driver.abilities();
        let missing = self.driver.reduced().join("; ");
        let missing = if missing.is_empty() { missing } else { format!("; reduced: {missing}") };
        format!("{} {}, acceleration {:?}{missing}", abilities.driver, abilities.version, abilities.acceleration)
    }

    /// As many boots at once as the agent would allow.
    pub fn boots_in_flight(&self) -> usize {
        usize::try_from(self.driver.abilities().boots_in_flight_max).unwrap_or(1).max(1)
    }

    /// From nothing to hello.
    pub async fn boot(&self) -> Result<Booted> {
        let guest = GuestId::new(self.clock.uuid());
        let plan = Plan {
            guest,
            name: Name::parse("bench-bare")?,
            resources: Resources { cpus: 1, memory_bytes: SANDBOX_MEMORY_BYTES_DEFAULT },
            parts: self.parts.clone(),
            pace: Pace::Ordinary,
            vm: None,
            nic: None,
            memo: None,
        };
        let began = self.clock.instant();
        self.driver.start(&plan).await?;
        let session = self.driver.open(guest, BOOT_RETRY_TIMEOUT).await?;
        Ok(Booted { guest, session, took: began.elapsed() })
    }

    /// Ends it, and nothing is left.
    pub async fn end(&self, booted: Booted) -> Result<()> {
        drop(booted.session);
        Ok(self.driver.destroy(booted.guest).await?)
    }

    /// Ends whatever is left.
    pub async fn clear(&self) -> Result<()> {
        for found in self.driver.inventory().await? {
            self.driver.destroy(found.guest).await?;
        }
        Ok(())
    }

    /// One command, through the channel alone.
    pub async fn exec(&self, booted: &Booted, argv: &[&str]) -> Result<Run> {
        let id = self.clock.uuid();
        let began = self.clock.instant();
        let mut first_output = None;
        let mut stream = booted.session.exec(ExecStart::new(id, argv.iter().copied())).await?;
        loop {
            match stream.next().await.context("the stream ended before the command did")?? {
                ExecEvent::Started => {}
                ExecEvent::Stdout(_) | ExecEvent::Stderr(_) => _ = first_output.get_or_insert_with(|| began.elapsed()),
                ExecEvent::End(_) => break,
            }
        }
        let ended = began.elapsed();
        if argv == ["echo", "ready"] && first_output.is_none() {
            bail!("the command said nothing");
        }
        booted.session.acknowledge(id).await?;
        Ok(Run { first_output, ended })
    }
}
