//! Create, start and stop, one at a time, each beside the bare calls of the same moment.

use super::bare::Copied;
use super::{Lab, create, delete, start, stop};
use crate::api;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use crate::spans;
use anyhow::{Context as _, Result};
use perigee_api::VmView;
use perigee_libvirt::{Domain, Lifecycle};
use std::time::Duration;

/// Bare and ours, one after the other.
const CREATES: usize = 20;
/// Starts; every other one is stopped with grace.
const STARTS: usize = 24;
/// The guest has this long to turn itself off.
const GRACE_MS: u64 = 60_000;
/// Ends when its guest hears its power button, whose driver comes after the hello.
const LISTENS: &[&str] =
    &["sh", "-c", "until grep -q 'Power Button' /proc/bus/input/devices; do sleep 0.1; done; sleep 0.2"];
/// What may be ours of a create, a start and a stop (N19).
const OURS_MAX_MS: f64 = 20.0;

/// Ours and its peer until libvirt's word, and ours until the answer.
#[derive(Default)]
pub struct Pairs {
    bare: Sample,
    api: Sample,
    /// What libvirt's own calls took in ours, as the agent timed them.
    libvirt: Sample,
    /// From the request to the answer, less what the guest took to boot as its agent measured it.
    beside_boot: Sample,
    /// From libvirt's word to the answer.
    after: Sample,
}

impl Pairs {
    fn tell(&self, what: &str, until: &str, report: &mut Report) {
        let line = |who: &str, sample: &Sample| Line::new("N19", format!("{what}: {who}"), sample);
        report.line(line(&format!("bare calls, until libvirt says that it {until}"), &self.bare));
        report.line(line(&format!("API, until libvirt says that it {until}"), &self.api).beside("bare", &self.bare));
        let pairs = line("API − bare, in pairs", &self.api.less(&self.bare));
        if self.libvirt.is_empty() {
            report.line(pairs.remark("most of both is the guest's own time"));
        } else {
            report.line(pairs.remark("with the noise of both"));
            let line = line("our share before libvirt's word: API − libvirt's own calls in it", &self.ours());
            report.line(line.median_at_most(OURS_MAX_MS).remark("these as the agent timed them"));
        }
        if !self.beside_boot.is_empty() {
            let line = line("our share at both ends: API until answered − that guest's own boot", &self.beside_boot);
            report.line(line.median_at_most(OURS_MAX_MS).remark("the agent's part of starting is not in it"));
        }
        if !self.after.is_empty() {
            let line = line("our share after libvirt's word, until answered", &self.after);
            report.line(line.median_at_most(OURS_MAX_MS));
        }
    }

    fn ours(&self) -> Sample {
        self.api.less(&self.libvirt)
    }
}

/// What the agent will have logged from here on.
struct Logged(usize);

impl Logged {
    fn from_here(lab: &Lab) -> Self {
        Self(lab.instance.agent_log().len())
    }

    /// What libvirt took, each time that this was said.
    fn libvirt(&self, lab: &Lab, message: &str) -> Sample {
        let log = lab.instance.agent_log();
        spans::of(log.get(self.0..).unwrap_or_default(), message, "libvirt").into_iter().collect()
    }
}

pub async fn creates(lab: &mut Lab, report: &mut Report) -> Result<()> {
    some_creates(lab, CREATES).await?.tell("create", "runs", report);
    Ok(())
}

/// Some more creates, of which only our share is told.
pub async fn creates_beside(lab: &mut Lab, others: usize, runs: usize, report: &mut Report) -> Result<()> {
    let pairs = some_creates(lab, runs).await?;
    let what = format!("create beside {others} others: our share before libvirt's word");
    report.line(Line::new("N19b", what, &pairs.ours()).median_at_most(OURS_MAX_MS));
    Ok(())
}

async fn some_creates(lab: &mut Lab, runs: usize) -> Result<Pairs> {
    let (mut pairs, logged) = (Pairs::default(), Logged::from_here(lab));
    for pair in 0..lab.runs(runs) {
        create_pair(lab, &format!("bench-create-{pair}"), &mut pairs).await?;
    }
    pairs.libvirt = logged.libvirt(lab, "domain started");
    Ok(pairs)
}

async fn create_pair(lab: &mut Lab, name: &str, pairs: &mut Pairs) -> Result<()> {
    let own = format!("bare-{name}");
    let copied = lab.bare.copy(&own)?;
    let began = lab.clock.instant();
    let both = async {
        let domain = lab.bare.define(&copied).await?;
        lab.bare.start(&domain).await.map(|()| domain)
    };
    let (domain, runs) = tokio::try_join!(both, lab.witness.hears(Lifecycle::Started, &own))?;
    pairs.bare.push(runs.since(began));
    lab.bare.end(&domain).await?;
    lab.bare.forget(&domain).await?;

    let began = lab.clock.instant();
    let (vm, runs) = tokio::try_join!(create(&lab.client, name), lab.witness.hears(Lifecycle::Started, name))?;
    let answered = began.elapsed();
    pairs.api.push(runs.since(began));
    pairs.beside_boot.push(answered.saturating_sub(booted(&vm)?));
    delete(&lab.client, name).await
}

fn booted(vm: &VmView) -> Result<Duration> {
    vm.guest.boot_ms.map(Duration::from_millis).context("a boot that was not measured")
}

/// One VM and its peer, started and stopped again and again.
pub async fn switches(lab: &mut Lab, report: &mut Report) -> Result<()> {
    let (name, own) = ("bench-power", "bare-of-power");
    let copied = lab.bare.copy(own)?;
    let domain = lab.bare.define(&copied).await?;
    create(&lab.client, name).await?;
    stop(&lab.client, name, 0).await?;
    let logged = Logged::from_here(lab);
    let (mut starts, mut forced, mut graceful): (Pairs, Pairs, Pairs) = Default::default();
    for round in 0..lab.runs(STARTS) {
        let grace_ms = if round % 2 == 0 { 0 } else { GRACE_MS };
        let stops = if grace_ms == 0 { &mut forced } else { &mut graceful };
        bare_round(lab, (&copied, &domain, own), grace_ms, (&mut starts, stops)).await?;
        round_of_ours(lab, name, grace_ms, (&mut starts, stops)).await?;
    }
    lab.bare.forget(&domain).await?;
    starts.libvirt = logged.libvirt(lab, "domain started");
    forced.libvirt = logged.libvirt(lab, "domain ended");
    delete(&lab.client, name).await?;
    starts.tell("start", "runs", report);
    forced.tell("stop, forced", "has ended", report);
    graceful.tell("stop, by its guest", "has ended", report);
    Ok(())
}

async fn bare_round(
    lab: &mut Lab,
    (copied, domain, own): (&Copied, &Domain, &str),
    grace_ms: u64,
    (starts, stops): (&mut Pairs, &mut Pairs),
) -> Result<()> {
    let began = lab.clock.instant();
    let ((), runs) = tokio::try_join!(lab.bare.start(domain), lab.witness.hears(Lifecycle::Started, own))?;
    starts.bare.push(runs.since(began));
    lab.bare.run(copied, LISTENS).await?;
    let began = lab.clock.instant();
    let asked = async {
        match grace_ms {
            0 => lab.bare.end(domain).await,
            _ => lab.bare.press(domain).await,
        }
    };
    let ((), ended) = tokio::try_join!(asked, lab.witness.hears(Lifecycle::Stopped, own))?;
    stops.bare.push(ended.since(began));
    Ok(())
}

async fn round_of_ours(
    lab: &mut Lab,
    name: &str,
    grace_ms: u64,
    (starts, stops): (&mut Pairs, &mut Pairs),
) -> Result<()> {
    let began = lab.clock.instant();
    let (vm, runs) = tokio::try_join!(start(&lab.client, name), lab.witness.hears(Lifecycle::Started, name))?;
    let answered = began.elapsed();
    starts.api.push(runs.since(began));
    starts.beside_boot.push(answered.saturating_sub(booted(&vm)?));
    api::queued(&lab.client, name, LISTENS, &lab.clock).await?;
    let began = lab.clock.instant();
    let (_, ended) = tokio::try_join!(stop(&lab.client, name, grace_ms), lab.witness.hears(Lifecycle::Stopped, name))?;
    stops.after.push(began.elapsed().saturating_sub(ended.since(began)));
    stops.api.push(ended.since(began));
    Ok(())
}
