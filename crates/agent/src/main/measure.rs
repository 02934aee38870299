//! Measuring this host and its guests: a thread, a spool and a stream to the control plane for each.

use crate::config::Config;
use perigee_agent::frames::{Caps, FrameSpool, FrameUplink, Pace, Sender};
use perigee_agent::home::Home;
use perigee_agent::usage::{Teller, Usages};
use perigee_agent::watch::{Sampler, SharedSheet, Watch, about_spool};
use perigee_agent::{Health, Tally};
use perigee_clock::Clock;
use perigee_hypervisor::Hypervisor;
use perigee_hypervisor::libvirt::{BreakerState, Domains, Libvirt, LibvirtHealth};
use perigee_model::frame::{Series, Sheet, StreamName};
use perigee_model::{HostId, RunId, Timestamp};
use perigee_probe::node::{Node, Settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// What tells of libvirt's domains.
const LIBVIRT: &str = "libvirt";
/// For libvirt's answer about all its domains.
const LIBVIRT_WITHIN: Duration = Duration::from_secs(1);

/// The measuring of one life of the agent.
pub struct Measuring(Vec<(Arc<Pace>, JoinHandle<()>)>);

impl Measuring {
    /// Ends it. What was measured stays in the spools.
    pub fn stop(self) {
        for (pace, sender) in self.0 {
            pace.stop();
            sender.abort();
        }
    }
}

/// Where measurements are taken, and where they go.
pub struct About<'a> {
    pub config: &'a Config,
    pub home: &'a Home,
    pub host: HostId,
    pub clock: &'a Clock,
    pub uplink: Arc<dyn FrameUplink>,
    pub health: Arc<Health>,
    pub libvirt: Option<Libvirt>,
    pub cache: Tally,
}

impl About<'_> {
    /// Begins to measure the host and its guests, each on its sheet, and to send.
    ///
    /// # Errors
    /// When a spool cannot be opened or no thread is to be had.
    pub fn start(&self, sheets: [Arc<SharedSheet>; 2], drivers: &[Arc<dyn Hypervisor>]) -> anyhow::Result<Measuring> {
        let [node, guests] = sheets;
        let began = self.clock.instant();
        let mut settings = Settings::new(Arc::new(move || began.elapsed()));
        settings.targets.clone_from(&self.config.ping);
        settings.seed = u64::from_le_bytes(self.clock.random());
        let collectors = Node::new(&settings);
        let node = self.stream(StreamName::Node, self.config.interval, node, |spool| Host {
            collectors,
            spool,
            health: self.health.clone(),
            libvirt: self.libvirt.clone(),
            cache: self.cache.clone(),
        })?;

        let teller = |driver: &Arc<dyn Hypervisor>| (driver.abilities().driver, Teller::Driver(driver.clone()));
        let mut tellers: Vec<_> = drivers.iter().map(teller).collect();
        // A driver of libvirt's tells of its foreign domains, too.
        if !tellers.iter().any(|(name, _)| name == LIBVIRT) {
            let domains = Domains::behind(self.clock.clone(), self.config.libvirt_sockets.clone(), LIBVIRT_WITHIN);
            tellers.push((LIBVIRT.to_owned(), Teller::Other(Arc::new(domains))));
        }
        let (runtime, clock) = (tokio::runtime::Handle::current(), self.clock.clone());
        let usages = |spool| Usages::new(runtime, clock, spool, tellers);
        let guests = self.stream(StreamName::Vm, self.config.guest_interval, guests, usages)?;
        Ok(Measuring(vec![node, guests]))
    }

    fn stream<S: Sampler + 'static>(
        &self,
        stream: StreamName,
        interval: Duration,
        sheet: Arc<SharedSheet>,
        sampler: impl FnOnce(Arc<FrameSpool>) -> S,
    ) -> anyhow::Result<(Arc<Pace>, JoinHandle<()>)> {
        let folder = self.home.path().join("frames").join(stream.text());
        let spool = Arc::new(FrameSpool::open(folder, Caps::default())?);
        let pace = Arc::new(Pace::default());
        let (clock, run) = (self.clock.clone(), RunId::new(self.clock.uuid()));
        let (host, written) = (self.host, spool.clone());
        let watch = Watch { host, run, interval, clock, sheet, spool: written, pace: pace.clone() };
        watch.start(&format!("measure-{}", stream.text()), sampler(spool.clone()))?;
        let uplink = self.uplink.clone();
        let sender = Sender { stream, spool, uplink, pace: pace.clone(), clock: self.clock.clone() };
        Ok((pace, tokio::spawn(sender.run())))
    }
}

/// The host's collectors, and how the agent itself fares.
struct Host {
    collectors: Node,
    spool: Arc<FrameSpool>,
    health: Arc<Health>,
    libvirt: Option<Libvirt>,
    cache: Tally,
}

impl Sampler for Host {
    fn sample(&mut self, sheet: &mut Sheet, _: Timestamp) {
        self.collectors.collect(sheet);
        about_spool(StreamName::Node, &self.spool, sheet);
        if let Some(success) = self.health.heartbeat() {
            put(sheet, Series::gauge("perigee_heartbeat_success", 0), u64::from(success));
        }
        put(sheet, Series::counter("perigee_network_mended_total", 0), self.health.mended());
        put(sheet, Series::gauge("perigee_agent_cache_bytes", 0), self.cache.bytes());
        put(sheet, Series::counter("perigee_agent_cache_evictions_total", 0), self.cache.evictions());
        if let Some(libvirt) = &self.libvirt {
            about_libvirt(&libvirt.health(), sheet);
        }
    }
}

/// How libvirt answers, and what its breaker does.
fn about_libvirt(health: &LibvirtHealth, sheet: &mut Sheet) {
    let open = u64::from(health.breaker != BreakerState::Closed);
    put(sheet, Series::gauge("perigee_libvirt_breaker_open", 0), open);
    for (name, total) in [
        ("perigee_libvirt_breaker_opened_total", health.opened_total),
        ("perigee_libvirt_breaker_refused_total", health.refused_total),
        ("perigee_libvirt_connections_total", health.connected_total),
        ("perigee_libvirt_failures_total", health.failures_total),
    ] {
        put(sheet, Series::counter(name, 0), total);
    }
}

fn put(sheet: &mut Sheet, series: Series, value: u64) {
    if let Some(slot) = sheet.define(series) {
        sheet.set(slot, i64::try_from(value).unwrap_or(i64::MAX));
    }
}
