//! N10: from nothing to a command's first output, by cold boot.

use crate::api;
use crate::bare::Bare;
use crate::lab::Lab;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use crate::spans::duration;
use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::iter;
use std::time::Duration;

const ECHO: &[&str] = &["echo", "ready"];
const PAIRS: usize = 20;
const AT_ONCE: usize = 10;

#[derive(Default)]
struct Samples {
    bare: Sample,
    bare_boot: Sample,
    bare_first: Sample,
    api: Sample,
    api_create: Sample,
    api_first: Sample,
    /// API total less that very guest's own boot, as its agent measured it.
    api_beside_boot: Sample,
}

/// What one create cost.
struct Created {
    create: Duration,
    boot_ms: u64,
    first: Duration,
}

pub async fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let before = starts(&lab.instance.agent_log()).len();
    let mut samples = Samples::default();
    for pair in 0..lab.runs(PAIRS) {
        bare_pair(lab, &mut samples).await?;
        api_pair(lab, &mut samples, pair).await?;
    }
    tell(&samples, report);
    let log = lab.instance.agent_log();
    let starts: Vec<_> = starts(&log).into_iter().skip(before).collect();
    if !starts.is_empty() {
        let ours: Sample = starts.iter().map(|(ours, _)| *ours).collect();
        let vmm: Sample = starts.iter().map(|(_, vmm)| *vmm).collect();
        report.line(Line::new("N10", "agent's log: until QEMU's process was there (ours)", &ours));
        report.line(Line::new("N10", "agent's log: until QEMU greeted (QEMU's)", &vmm));
    }
    at_once(lab, report).await
}

async fn bare_pair(lab: &Lab, samples: &mut Samples) -> Result<()> {
    let began = lab.clock.instant();
    let booted = lab.bare.boot().await?;
    let echoed = lab.bare.exec(&booted, ECHO).await;
    let total = began.elapsed();
    samples.bare_boot.push(booted.took);
    lab.bare.end(booted).await?;
    let echoed = echoed?;
    let first = echoed.first_output.context("echo said nothing")?;
    // From first output to the end is not part of it.
    samples.bare.push(total.saturating_sub(echoed.ended.saturating_sub(first)));
    samples.bare_first.push(first);
    Ok(())
}

async fn api_pair(lab: &Lab, samples: &mut Samples, pair: usize) -> Result<()> {
    let name = format!("bench-create-{pair}");
    let created = create_and_echo(lab, &name).await;
    api::delete(&lab.client, &name).await?;
    let Created { create, boot_ms, first } = created?;
    let total = create + first;
    samples.api.push(total);
    samples.api_create.push(create);
    samples.api_first.push(first);
    samples.api_beside_boot.push(total.saturating_sub(Duration::from_millis(boot_ms)));
    Ok(())
}

async fn create_and_echo(lab: &Lab, name: &str) -> Result<Created> {
    let began = lab.clock.instant();
    let sandbox = api::create(&lab.client, name).await?;
    let create = began.elapsed();
    let echoed = api::exec(&lab.client, &sandbox.id, ECHO, &lab.clock).await?;
    let first = echoed.first_output.context("echo said nothing")?;
    Ok(Created { create, boot_ms: sandbox.boot_ms.unwrap_or(0), first })
}

fn tell(samples: &Samples, report: &mut Report) {
    let line = |what: &str, sample: &Sample| Line::new("N10", what, sample);
    report.line(line("bare: VMM start → hello → first output of `echo`", &samples.bare));
    report.line(line("API: create → first output of `echo`", &samples.api).beside("bare", &samples.bare));
    let ours = samples.api.less(&samples.bare);
    report.line(line("our spans outside QEMU: API − bare, in pairs", &ours).median_at_most(50.0));
    let beside = samples.api_beside_boot.less(&samples.bare_first);
    let remark = "less the boot's own noise; the agent's part of starting QEMU is not in it";
    report.line(line("the same: API − that guest's own boot − bare exec", &beside).median_at_most(50.0).remark(remark));
    report.line(line("bare: VMM start → hello", &samples.bare_boot));
    report.line(line("API: create → 201", &samples.api_create).beside("bare hello", &samples.bare_boot));
    report
        .line(line("API: exec → first output, new connection", &samples.api_first).beside("raw", &samples.bare_first));
}

/// `ours` and `vmm` of each start in an agent's log, in milliseconds.
fn starts(log: &str) -> Vec<(f64, f64)> {
    let field = |line: &str, name: &str| {
        let (_, rest) = line.split_once(name)?;
        duration(rest.split([',', ' ', '}']).next()?)
    };
    let lines = log.lines().filter(|line| line.contains("VMM started"));
    lines.filter_map(|line| Some((field(line, "ours: ")?, field(line, "vmm: ")?))).collect()
}

async fn at_once(lab: &Lab, report: &mut Report) -> Result<()> {
    let (bare_wall, bare_alive) = bare_at_once(&lab.bare, lab).await?;
    let began = lab.clock.instant();
    let names: Vec<String> = (0..AT_ONCE).map(|n| format!("bench-at-once-{n}")).collect();
    let answers = join_all(names.iter().map(|name| create_and_echo(lab, name))).await;
    let wall = began.elapsed();
    join_all(names.iter().map(|name| api::delete(&lab.client, name))).await.into_iter().collect::<Result<Vec<_>>>()?;
    let fine = answers.iter().filter(|answer| answer.is_ok()).count();
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        report.note("N10", format!("one of {AT_ONCE} at once: {error:#}"));
    }
    let one = |time: Duration| std::iter::once(crate::numbers::millis(time)).collect::<Sample>();
    let bare = one(bare_wall);
    let what = format!("{AT_ONCE} at once, bare, {} boots in flight: all answered after", lab.bare.boots_in_flight());
    report.line(Line::new("N10", what, &bare).remark(format!("{bare_alive} of {AT_ONCE}")));
    let remark = format!("{fine} of {AT_ONCE}");
    report.line(
        Line::new("N10", format!("{AT_ONCE} at once, API: all answered after"), &one(wall))
            .beside("bare", &bare)
            .remark(remark),
    );
    Ok(())
}

async fn bare_at_once(bare: &Bare, lab: &Lab) -> Result<(Duration, usize)> {
    let began = lab.clock.instant();
    let one = async |_| {
        let booted = bare.boot().await?;
        bare.exec(&booted, ECHO).await.map(|_| booted)
    };
    let booted: Vec<_> = iter(0..AT_ONCE).map(one).buffer_unordered(bare.boots_in_flight()).collect().await;
    let wall = began.elapsed();
    let alive = booted.iter().filter(|one| one.is_ok()).count();
    bare.clear().await?;
    Ok((wall, alive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_from_a_log() {
        let log = r#"{"times":"StartTimes { ours: 12.5ms, vmm: 1.25s }","message":"VMM started"}
            {"message":"other","times":"StartTimes { ours: 1ms, vmm: 1ms }"}
            {"times":"StartTimes { ours: 900µs, vmm: 40ms }","message":"VMM started"}"#;
        assert_eq!(starts(log), [(12.5, 1250.0), (0.9, 40.0)]);
    }
}
