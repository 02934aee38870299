//! N1b: what watching all guests of a host's libvirt takes: how long until every number is known, and the
//! processor time of everyone who works for it, beside one call for all of them with nothing done with its
//! answer, and beside the exporter that others use.
//!
//! Ours ends where every guest's numbers are known; writing them on a sheet and encoding are N1's.

mod bare;

use crate::Options;
use crate::exporter::Exporter;
use crate::libvirtd::Libvirtd;
use crate::machine;
use crate::numbers::{Sample, millis};
use crate::report::{Line, Report};
use crate::say;
use anyhow::{Result, ensure};
use bare::Bare;
use perigee_clock::Clock;
use perigee_hypervisor::Measure as _;
use perigee_hypervisor::libvirt::Domains;
use perigee_libvirt::{Domain, Endpoint, Watch, Wish};
use std::time::{Duration, Instant};

const GUESTS: usize = 50;
/// Looks whose cost is one number.
const LOOKS: u32 = 20;
const REPEATS: u32 = 5;
/// Seconds watched whose cost is one number.
const SECONDS: u32 = 10;
const EACH: Duration = Duration::from_secs(1);
/// From asking to answered: what we add is small beside what libvirt takes.
const RATIO_MAX: f64 = 1.1;
/// libvirt answers for them one after another.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let Some(daemon) = Libvirtd::start()? else {
        report.note("N1b", "libvirtd or virsh is not installed: not measured (scripts/setup bench)");
        return Ok(());
    };
    let (guests, seconds) = if options.quick { (GUESTS / 10, SECONDS / 5) } else { (GUESTS, SECONDS) };
    say::progress(&format!("N1b: starting {guests} guests"));
    daemon.fill(guests)?;
    let mut ours = Ours::of(&daemon);
    let mut bare = Bare::open(&daemon.socket(), ANSWER_WITHIN)?;
    let peer = Exporter::start("prometheus-libvirt-exporter", &[&format!("--libvirt.uri={}", daemon.uri())])?;
    let (seen, told) = ours.look().await?;
    ensure!((seen, told) == (guests, guests), "{seen} guests of {guests} are seen, {told} told");
    let bytes = bare.look()?;

    let own = Workers { who: std::process::id(), behind: daemon.programs() };
    let theirs = peer.as_ref().map(|peer| (peer, Workers { who: peer.pid(), behind: daemon.programs() }));
    let [mut whole, mut glance, mut floor, mut scrape] = [(); 4].map(|()| Pass::default());
    let mut second = Pass::default();
    for repeat in 1..=REPEATS {
        say::progress(&format!("N1b: repeat {repeat} of {REPEATS}"));
        own.measure(&mut whole, LOOKS, async || ours.look().await.map(drop)).await?;
        own.measure(&mut glance, LOOKS, async || ours.glance().await.map(drop)).await?;
        own.measure(&mut floor, LOOKS, async || bare.look().map(drop)).await?;
        if let Some((peer, theirs)) = &theirs {
            theirs.measure(&mut scrape, LOOKS, async || peer.scrape().map(drop)).await?;
        }
        let mut ticks = tokio::time::interval(EACH);
        own.measure(&mut second, seconds, async || {
            ticks.tick().await;
            ours.domains.usages().await.map(drop).map_err(Into::into)
        })
        .await?;
    }

    const ASKED: &str = "from asking to answered";
    const WHO: &str = "processor time of who asks";
    const ALL: &str = "processor time of who asks, libvirtd and every QEMU";
    let line = |what: &str, who: &str, sample: &Sample, times: u32| {
        Line::new("N1b", format!("{guests} guests of libvirt, {what}: {who}"), sample).remark(format!("{times} each"))
    };
    let ours = "a look with every number";
    let beside = |what, sample, peer| line(what, ours, sample, LOOKS).beside("the bare call", peer);
    report.line(beside(ASKED, &whole.wall, &floor.wall).at_most_of_peer(RATIO_MAX));
    report.line(beside(ALL, &whole.all, &floor.all));
    report.line(beside(WHO, &whole.who, &floor.who));
    let each_second = |what, sample, times| line(what, "what is looked at each second", sample, times);
    report.line(each_second(ASKED, &glance.wall, LOOKS));
    let watching = "a second of watching, its share of VMMs asked included";
    if theirs.is_some() {
        const PEER: &str = "prometheus-libvirt-exporter";
        report.line(line(ASKED, ours, &whole.wall, LOOKS).beside(PEER, &scrape.wall).at_most_of_peer(1.0));
        report.line(line(ALL, ours, &whole.all, LOOKS).beside(PEER, &scrape.all));
        report.line(line(ALL, watching, &second.all, seconds).beside(PEER, &scrape.all).at_most_of_peer(1.0));
        report.line(line(WHO, watching, &second.who, seconds).beside(PEER, &scrape.who));
    }
    for (who, pass) in [("the bare call, its answer thrown away", &floor), ("the exporter, a plain scrape", &scrape)] {
        if !pass.wall.is_empty() {
            report.line(line(ASKED, who, &pass.wall, LOOKS));
            report.line(line(ALL, who, &pass.all, LOOKS));
            report.line(line(WHO, who, &pass.who, LOOKS));
        }
    }
    report.note("N1b", format!("libvirt's answer to the bare call: {bytes} bytes; the guests are paused"));
    report.note("N1b", "the exporter's scrape tells no memory in use, neither of the guest nor of its host; ours does");
    Ok(())
}

/// Perigee's ways to look.
struct Ours {
    glances: Watch,
    inquiries: Watch,
    domains: Domains,
}

impl Ours {
    fn of(daemon: &Libvirtd) -> Self {
        let (socket, uri, deadline) = (daemon.socket(), "qemu:///system".to_owned(), ANSWER_WITHIN);
        let wish = Wish { endpoint: Endpoint::Unix(socket.clone()), uri, deadline };
        let domains = Domains::behind(Clock::real(), vec![socket], deadline);
        Self { glances: Watch::new(wish.clone()), inquiries: Watch::new(wish), domains }
    }

    async fn glance(&mut self) -> Result<Vec<Domain>> {
        Ok(self.glances.glance().await?.into_iter().map(|glance| glance.stats.domain).collect())
    }

    /// Guests that libvirt knows, and those whose VMM told.
    async fn look(&mut self) -> Result<(usize, usize)> {
        let seen = self.glance().await?;
        Ok((seen.len(), self.inquiries.inquire(&seen).await?.len()))
    }
}

/// Who works for a look.
struct Workers {
    who: u32,
    behind: Vec<u32>,
}

#[derive(Default)]
struct Pass {
    wall: Sample,
    who: Sample,
    all: Sample,
}

impl Workers {
    async fn measure(&self, pass: &mut Pass, times: u32, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let (before, began) = (self.worked()?, Instant::now());
        for _ in 0..times {
            look().await?;
        }
        pass.wall.push_millis(millis(began.elapsed()) / f64::from(times));
        let after = self.worked()?;
        pass.who.push(after.0.saturating_sub(before.0) / times);
        pass.all.push(after.1.saturating_sub(before.1) / times);
        Ok(())
    }

    /// Of who asks, and of all together.
    fn worked(&self) -> Result<(Duration, Duration)> {
        let own = machine::scheduled(self.who)?;
        let behind = self.behind.iter().map(|pid| machine::scheduled(*pid)).sum::<Result<Duration>>()?;
        Ok((own, own + behind))
    }
}
