//! N9: the round trip of `true` in a guest that runs.

use crate::api::{self, Opened};
use crate::bare::Booted;
use crate::lab::Lab;
use crate::machine;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use anyhow::Result;

const TRUE: &[&str] = &["true"];
const RUNS: usize = 300;

#[derive(Default)]
struct Samples {
    raw: Sample,
    opened: Sample,
    connecting: Sample,
    queued: Sample,
}

pub async fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let sandbox = lab.sandbox("bench-exec").await?;
    let booted = lab.bare.boot().await?;
    let measured = measure(lab, &sandbox, &booted).await;
    lab.bare.end(booted).await?;
    api::delete(&lab.client, &sandbox).await?;
    tell(&measured?, lab, report)
}

/// One of each after the other, so that what disturbs disturbs all.
async fn measure(lab: &Lab, sandbox: &str, booted: &Booted) -> Result<Samples> {
    let door = lab.instance.door()?;
    let mut samples = Samples::default();
    for _ in 0..lab.runs(RUNS) {
        samples.raw.push(lab.bare.exec(booted, TRUE).await?.ended);
        let opened = Opened::connect(&door, sandbox).await?;
        samples.opened.push(opened.run(TRUE, &lab.clock).await?.ended);
        samples.connecting.push(api::exec(&lab.client, sandbox, TRUE, &lab.clock).await?.ended);
        samples.queued.push(api::queued(&lab.client, sandbox, TRUE, &lab.clock).await?);
    }
    Ok(samples)
}

fn tell(samples: &Samples, lab: &Lab, report: &mut Report) -> Result<()> {
    let Samples { raw, opened, connecting, queued } = samples;
    let line = |what: &str, sample: &Sample| Line::new("N9", what, sample);
    report.line(line("exec `true`: raw, one request on an open channel of our own guest", raw));
    for (what, sample) in [
        ("exec `true`: API, WebSocket open already", opened),
        ("exec `true`: API, new connection each time", connecting),
        ("exec `true`: API, POST …/execute, Prefer: wait, kept-alive connection", queued),
    ] {
        report.line(line(what, sample).beside("raw", raw));
    }
    report.line(line("our share, WebSocket open already − raw, in pairs", &opened.less(raw)).median_at_most(2.5));
    report.line(line("our share, new connection − raw, in pairs", &connecting.less(raw)).median_at_most(5.0));
    report.line(line("our share, queued − raw, in pairs", &queued.less(raw)));
    let disk = machine::durable_writes(lab.instance.path(), lab.runs(RUNS), &lab.clock)?;
    report.line(
        line("the disk alone: 4 KiB appended and synced", &disk).remark("each commit of the store waits for one"),
    );
    Ok(())
}
