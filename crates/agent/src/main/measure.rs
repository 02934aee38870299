//! Measuring this host: the probe's collectors, a spool, and the stream to the control plane.

use crate::config::Config;
use perigee_agent::frames::{Caps, FrameSpool, FrameUplink, Pace, Sender};
use perigee_agent::home::Home;
use perigee_agent::watch::{Sampler, SharedSheet, Watch};
use perigee_clock::Clock;
use perigee_model::frame::{Series, Sheet, StreamName};
use perigee_model::{HostId, RunId, Timestamp};
use perigee_probe::node::{Node, Settings};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// The measuring of one life of the agent.
pub struct Measuring {
    pace: Arc<Pace>,
    sender: JoinHandle<()>,
}

impl Measuring {
    /// Ends it. What was measured stays in the spool.
    pub fn stop(self) {
        self.pace.stop();
        self.sender.abort();
    }
}

/// Begins to measure and to send.
///
/// # Errors
/// When the spool cannot be opened or no thread is to be had.
pub fn start(
    config: &Config,
    home: &Home,
    host: HostId,
    clock: &Clock,
    sheet: Arc<SharedSheet>,
    uplink: Arc<dyn FrameUplink>,
) -> anyhow::Result<Measuring> {
    let spool = Arc::new(FrameSpool::open(home.path().join("frames/node"), Caps::default())?);
    let pace = Arc::new(Pace::default());
    let watch = Watch {
        host,
        run: RunId::new(clock.uuid()),
        interval: config.interval,
        clock: clock.clone(),
        sheet,
        spool: spool.clone(),
        pace: pace.clone(),
    };
    let began = clock.instant();
    let mut settings = Settings::new(Arc::new(move || began.elapsed()));
    settings.targets.clone_from(&config.ping);
    settings.seed = u64::from_le_bytes(clock.random());
    watch.start("measure-node", Host { node: Node::new(&settings), spool: spool.clone() })?;
    let sender = Sender { stream: StreamName::Node, spool, uplink, pace: pace.clone(), clock: clock.clone() };
    Ok(Measuring { pace, sender: tokio::spawn(sender.run()) })
}

/// The host's collectors, and how its frames fare.
struct Host {
    node: Node,
    spool: Arc<FrameSpool>,
}

impl Sampler for Host {
    fn sample(&mut self, sheet: &mut Sheet, _: Timestamp) {
        self.node.collect(sheet);
        let about = [
            (Series::gauge("perigee_agent_spool_frames", 0), self.spool.waiting()),
            (Series::counter("perigee_agent_frames_lost_total", 0), self.spool.lost()),
        ];
        for (series, value) in about {
            if let Some(slot) = sheet.define(series) {
                sheet.set(slot, i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
    }
}
