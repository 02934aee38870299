//! N7: the control plane is away and the agent dies in between; no frame is lost.
//!
//! As many frames as ten minutes hold at the usual three seconds are measured in less time by
//! measuring more often; `--outage-seconds 600 --outage-interval-ms 3000` is the real thing.

use crate::Options;
use crate::instance::Instance;
use crate::machine;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use crate::say;
use anyhow::{Context as _, Result, ensure};
use perigee_api::prometheus::QueryData;
use perigee_client::{Client, ListQuery};
use std::time::Duration;
use tokio::time::sleep;

/// A gap between two samples of more intervals than this is a hole.
const HOLE: f64 = 3.0;
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let interval = Duration::from_millis(options.outage_interval_ms);
    let lasts = if options.quick { interval * 20 } else { Duration::from_secs(options.outage_seconds) };
    let instance = Instance::measuring(options, interval)?;
    sleep(interval * 10).await;
    say::progress(&format!("N7: an outage of {lasts:?} with a kill in it"));
    instance.kill("perigeed")?;
    sleep(lasts / 2).await;
    instance.kill("perigee-agent")?;
    let mut agent = instance.start_agent(interval)?;
    sleep(lasts / 2).await;
    instance.up()?;
    let client = instance.client()?;
    let moments = drained(&client, lasts, interval).await;
    let host = client.hosts(&ListQuery::default()).await?.items.into_iter().next().context("no host")?;
    drop(instance);
    drop(agent.wait());
    let moments = moments?;
    let lost = host.load.context("the host is not measured")?.frames_lost;
    let apart: Sample = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let most = interval.as_secs_f64() * 1e3 * HOLE;
    let holes: Vec<f64> = moments.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > most).collect();
    report.line(
        Line::new("N7", "between two samples, over an outage with kill -9 of the agent in it", &apart)
            .remark(format!("{lost} frames lost, {} holes", holes.len())),
    );
    report.note(
        "N7",
        format!(
            "perigeed was away for {:.0} s while the host was measured every {} ms: {:.0} frames, {:.1} minutes of the usual 3 s; \
             lost: {lost}; the agent was dead in between: holes {holes:?} ms; load {:.2}",
            lasts.as_secs_f64(),
            interval.as_millis(),
            lasts.as_secs_f64() / interval.as_secs_f64(),
            lasts.as_secs_f64() / interval.as_secs_f64() * 3.0 / 60.0,
            machine::Load::now().average,
        ),
    );
    ensure!(lost == 0, "{lost} frames were lost");
    ensure!(moments.is_sorted_by(|a, b| a < b), "a sample came twice or out of order");
    ensure!(holes.len() <= 1, "samples are missing: {holes:?} ms");
    Ok(())
}

/// When the host was measured, in milliseconds, once its spool is empty again.
async fn drained(client: &Client, lasts: Duration, interval: Duration) -> Result<Vec<f64>> {
    let wanted = lasts.as_secs_f64() / interval.as_secs_f64() * 0.9;
    let mut waited = Duration::ZERO;
    loop {
        let range = lasts.as_secs() + 60;
        let waiting = values(client, "perigee_agent_spool_frames").await.unwrap_or_default();
        let moments = values(client, &format!("node_boot_time_seconds[{range}s]")).await.unwrap_or_default();
        if waiting.last().is_some_and(|waiting| waiting.1 <= 2.0) && moments.len() as f64 >= wanted {
            return Ok(moments.into_iter().map(|(at, _)| at * 1e3).collect());
        }
        waited += LOOK_EVERY;
        ensure!(
            waited < DRAINED_WITHIN,
            "after the outage {} of {wanted:.0} samples came, {waiting:?} wait",
            moments.len()
        );
        sleep(LOOK_EVERY).await;
    }
}

/// Times in seconds, and values, of a query's first series.
async fn values(client: &Client, query: &str) -> Result<Vec<(f64, f64)>> {
    let points = match client.query(query, None).await? {
        QueryData::Matrix(all) => all.into_iter().next().map(|one| one.values).unwrap_or_default(),
        QueryData::Vector(all) => all.into_iter().next().map(|one| vec![one.value]).unwrap_or_default(),
        QueryData::Scalar(_) | QueryData::String(_) => Vec::new(),
    };
    points.into_iter().map(|(at, value)| Ok((at, value.parse()?))).collect()
}
