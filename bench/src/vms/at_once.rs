//! Ten creates and ten stops at once: time beside the bare calls, and the most that the agent has in memory.

use super::{Lab, create, delete, memory, stop};
use crate::machine;
use crate::numbers::{Sample, millis};
use crate::report::{Line, Report};
use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::iter;
use std::time::Duration;

const AT_ONCE: usize = 10;

pub async fn run(lab: &mut Lab, report: &mut Report) -> Result<()> {
    let boots = boots_in_flight(lab).await?;
    let bare = bare_creates(lab, boots).await?;
    let names: Vec<String> = (0..AT_ONCE).map(|n| format!("bench-at-once-{n}")).collect();
    let agent = lab.instance.pid("perigee-agent")?;

    machine::forget_peak(agent)?;
    let began = lab.clock.instant();
    let created = join_all(names.iter().map(|name| create(&lab.client, name))).await;
    let ours = one(began.elapsed());
    let creating = machine::peak_bytes(agent)?;
    let fine = tell_errors("create", &created, report);
    let what = format!("{AT_ONCE} creates at once, bare, {boots} boots in flight: every guest said hello after");
    report.line(Line::new("N19", what, &bare));
    let what = format!("{AT_ONCE} creates at once, API: all answered after");
    report.line(Line::new("N19", what, &ours).beside("bare", &bare).remark(format!("{fine} of {AT_ONCE}")));
    memory::steady(lab, AT_ONCE, report).await?;

    machine::forget_peak(agent)?;
    let began = lab.clock.instant();
    let stopped = join_all(names.iter().map(|name| stop(&lab.client, name, 0))).await;
    let took = one(began.elapsed());
    let stopping = machine::peak_bytes(agent)?;
    let ended = tell_errors("stop", &stopped, report);
    let line = Line::new("N19", format!("{AT_ONCE} forced stops at once, API: all answered after"), &took);
    report.line(line.remark(format!("{ended} of {AT_ONCE}")));
    memory::peak(AT_ONCE, "creates", creating, report);
    memory::peak(AT_ONCE, "forced stops", stopping, report);
    join_all(names.iter().map(|name| delete(&lab.client, name))).await.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(fine == AT_ONCE && ended == AT_ONCE, "not all at once were done");
    Ok(())
}

fn tell_errors<T>(verb: &str, answers: &[Result<T>], report: &mut Report) -> usize {
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        report.note("N19", format!("a {verb} of {AT_ONCE} at once: {error:#}"));
    }
    answers.iter().filter(|answer| answer.is_ok()).count()
}

/// As many as the agent lets boot at once.
async fn boots_in_flight(lab: &Lab) -> Result<usize> {
    let hosts = lab.client.hosts(&perigee_client::ListQuery::default()).await?;
    let host = hosts.items.into_iter().next().context("no host")?;
    let inventory = host.inventory.context("a host without an inventory")?;
    let first = inventory.drivers.first().context("a host without a driver")?;
    Ok(usize::try_from(first.boots_in_flight_max)?.max(1))
}

async fn bare_creates(lab: &Lab, boots: usize) -> Result<Sample> {
    let bare = &lab.bare;
    let copies = (0..AT_ONCE).map(|n| bare.copy(&format!("bare-at-once-{n}"))).collect::<Result<Vec<_>>>()?;
    let began = lab.clock.instant();
    let one_of_them = async |copied| {
        let domain = bare.define(copied).await?;
        bare.start(&domain).await?;
        bare.hello(copied).await.map(|_| domain)
    };
    let booted: Vec<Result<_>> = iter(&copies).map(one_of_them).buffer_unordered(boots).collect().await;
    let wall = began.elapsed();
    for domain in booted {
        let domain = domain?;
        bare.end(&domain).await?;
        bare.forget(&domain).await?;
    }
    Ok(one(wall))
}

fn one(time: Duration) -> Sample {
    std::iter::once(millis(time)).collect()
}
