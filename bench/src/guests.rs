//! N1b: how long one look at all guests of a host's libvirt takes and what it costs us, beside the same
//! call with nothing done with its answer, and beside the exporter that others use.
//!
//! Ours ends where every guest's numbers are known; writing them on a sheet and encoding are N1's.

use crate::Options;
use crate::exporter::Exporter;
use crate::libvirtd::Libvirtd;
use crate::machine;
use crate::numbers::{Sample, millis};
use crate::report::{Line, Report};
use crate::say;
use anyhow::{Context as _, Result, ensure};
use perigee_hypervisor::Measure as _;
use perigee_hypervisor::libvirt::Domains;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const GUESTS: usize = 50;
/// Looks whose cost is one number.
const LOOKS: u32 = 20;
const REPEATS: u32 = 5;
/// From asking to answered: what we add is small beside what libvirt takes.
const RATIO_MAX: f64 = 1.1;
/// libvirt answers for them one after another.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let Some(daemon) = Libvirtd::start()? else {
        report.note("N1b", "libvirtd or virsh is not installed: not measured (scripts/setup bench)");
        return Ok(());
    };
    let guests = if options.quick { GUESTS / 10 } else { GUESTS };
    say::progress(&format!("N1b: starting {guests} guests"));
    daemon.fill(guests)?;
    let domains = Domains::behind(vec![daemon.socket()], ANSWER_WITHIN);
    let mut bare = Bare::open(&daemon.socket())?;
    let peer = Exporter::start("prometheus-libvirt-exporter", &[&format!("--libvirt.uri={}", daemon.uri())])?;
    let seen = domains.usages().await?.len();
    ensure!(seen == guests, "{seen} guests of {guests} are seen");
    let bytes = bare.look()?;
    let (mut ours, mut floor, mut theirs) = (Pass::default(), Pass::default(), Pass::default());
    for _ in 0..REPEATS {
        ours.measure(std::process::id(), async || domains.usages().await.map(drop).map_err(Into::into)).await?;
        floor.measure(std::process::id(), async || bare.look().map(drop)).await?;
        if let Some(peer) = &peer {
            theirs.measure(peer.pid(), async || peer.scrape().map(drop)).await?;
        }
    }
    let line = |what: &str, who: &str, sample: &Sample| {
        let remark = format!("{LOOKS} looks each");
        Line::new("N1b", format!("one look at {guests} guests of libvirt, {what}: {who}"), sample).remark(remark)
    };
    let (bare, scrape) = ("the bare call, its answer thrown away", "prometheus-libvirt-exporter, a plain scrape");
    let (whole, cpu) = ("from asking to answered", "processor time of who asks");
    let understood = |what, sample| line(what, "every number understood", sample);
    report.line(understood(whole, &ours.wall).beside("the bare call", &floor.wall).at_most_of_peer(RATIO_MAX));
    report.line(line(whole, bare, &floor.wall));
    report.line(understood(cpu, &ours.cpu).beside("the bare call", &floor.cpu));
    report.line(line(cpu, bare, &floor.cpu));
    if peer.is_some() {
        report.line(understood(cpu, &ours.cpu).beside("prometheus-libvirt-exporter", &theirs.cpu));
        report.line(line(whole, scrape, &theirs.wall));
        report.line(line(cpu, scrape, &theirs.cpu));
    }
    report.note("N1b", format!("libvirt's answer: {bytes} bytes; the guests are paused, their numbers stand still"));
    Ok(())
}

#[derive(Default)]
struct Pass {
    cpu: Sample,
    wall: Sample,
}

impl Pass {
    async fn measure(&mut self, pid: u32, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let (before, began) = (machine::scheduled(pid)?, Instant::now());
        for _ in 0..LOOKS {
            look().await?;
        }
        self.wall.push_millis(millis(began.elapsed()) / f64::from(LOOKS));
        self.cpu.push(machine::scheduled(pid)?.saturating_sub(before) / LOOKS);
        Ok(())
    }
}

/// libvirt's remote protocol as far as one call needs it, by no code of ours.
struct Bare {
    stream: UnixStream,
    serial: u32,
    answer: Vec<u8>,
}

const PROGRAM: u32 = 0x2000_8086;
const AUTH_LIST: u32 = 66;
const OPEN: u32 = 1;
const ALL_STATS: u32 = 344;
/// State, CPU, balloon, vCPU, network and block.
const GROUPS: u32 = 63;
const NOWAIT: u32 = 1 << 29;

impl Bare {
    fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("libvirtd")?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let mut bare = Self { stream, serial: 0, answer: Vec::new() };
        bare.call(AUTH_LIST, &[])?;
        // A name that is there, of 14 letters, and no flags.
        let name = b"qemu:///system\0\0";
        let mut arguments = vec![0, 0, 0, 1, 0, 0, 0, 14];
        arguments.extend(name);
        arguments.extend([0; 4]);
        bare.call(OPEN, &arguments)?;
        Ok(bare)
    }

    /// Bytes of the answer.
    fn look(&mut self) -> Result<usize> {
        let mut arguments = vec![0; 4];
        arguments.extend(GROUPS.to_be_bytes());
        arguments.extend(NOWAIT.to_be_bytes());
        self.call(ALL_STATS, &arguments)
    }

    fn call(&mut self, procedure: u32, arguments: &[u8]) -> Result<usize> {
        self.serial += 1;
        let length = u32::try_from(28 + arguments.len())?;
        let words = [length, PROGRAM, 1, procedure, 0, self.serial, 0];
        let mut packet: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        packet.extend(arguments);
        self.stream.write_all(&packet)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let rest = (u32::from_be_bytes(length) as usize).checked_sub(4).context("a length")?;
        self.answer.resize(rest, 0);
        self.stream.read_exact(&mut self.answer)?;
        ensure!(self.answer.get(20..24) == Some(&[0; 4]), "libvirtd refused call {procedure}");
        Ok(rest)
    }
}
