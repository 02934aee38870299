//! N8: from measured to a WebSocket client that has opened a host, which is then measured each second.

use crate::Options;
use crate::instance::Instance;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use anyhow::{Context as _, Result, ensure};
use perigee_api::live::LiveMessage;
use perigee_client::ListQuery;
use perigee_clock::Clock;
use std::time::Duration;

const FRAMES: usize = 120;
/// The first frames may come at the slower pace of before.
const SKIPPED: usize = 3;
/// What the host does while nobody looks.
const USUAL: Duration = Duration::from_secs(3);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let frames = if options.quick { FRAMES / 10 } else { FRAMES };
    let clock = Clock::real();
    let instance = Instance::measuring(options, USUAL)?;
    let client = instance.client()?;
    let host = client.hosts(&ListQuery::default()).await?.items.into_iter().next().context("no host")?;
    let mut watching = client.watch(Some(&host.id)).await?;
    let (mut lag, mut apart, mut skipped, mut before) = (Sample::default(), Sample::default(), 0, None);
    while lag.spread().runs < frames {
        let said = watching.next().await?;
        let now = clock.now().micros();
        let LiveMessage::Frame { at, .. } = said else { continue };
        skipped += 1;
        if skipped > SKIPPED {
            #[expect(clippy::cast_precision_loss, reason = "microseconds of a short time")]
            lag.push_millis((now - at * 1000) as f64 / 1000.0);
            if let Some(before) = before.replace(at) {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of a short time")]
                apart.push_millis((at - before) as f64);
            }
        }
    }
    ensure!(apart.spread().median_ms < 1500.0, "the host was not measured each second: {:?}", apart.spread());
    let what = "from the tick to a WebSocket client with the host opened: collecting, spool, link, parse";
    report.line(Line::new("N8", what, &lag).p99_at_most(150.0).remark("frames each second"));
    Ok(())
}
