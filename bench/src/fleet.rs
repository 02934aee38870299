//! N16: many played hosts on one control plane; from measured to queryable, and back after a kill.
//!
//! The hosts are `perigee-sim fleet`: the agent's own code and protocol over mutual TLS on loopback,
//! on the same processors as the control plane. What they cost is therefore in these numbers, too.

use crate::Options;
use crate::instance::Instance;
use crate::machine;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use crate::say;
use anyhow::{Context as _, Result, ensure};
use http::Method;
use perigee_api::prometheus::QueryData;
use perigee_client::Client;
use perigee_clock::Clock;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

/// Hosts whose newest sample is asked for, again and again.
const PROBES: usize = 20;
/// The newest sample is asked for this often: a lag is told at most so much too large.
const ASK_EVERY: Duration = Duration::from_millis(50);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// All hosts joined and sent by then, for each thousand of them.
const BEGIN_WITHIN: Duration = Duration::from_secs(120);
/// All hosts are back by then.
const BACK_WITHIN: Duration = Duration::from_secs(120);
/// A series that every host has.
const SERIES: &str = "perigee_host_cpu_usage_ratio";
/// Looks at memory while lags are measured.
const MEMORY_LOOKS: u32 = 6;

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let clock = Clock::real();
    let (hosts, lasts) = if options.quick { (100, 12) } else { (options.fleet_hosts, options.fleet_seconds) };
    let began = clock.instant();
    let instance = Instance::playing(options, hosts)?;
    let fleet = Fleet { client: instance.client()?, instance: &instance, hosts, clock };
    let within = begins_within(options);
    fleet
        .until("every host has measured", within, async || {
            Ok(fleet.one(&format!("count({SERIES})")).await? > hosts as f64)
        })
        .await?;
    report.note("N16", format!("{hosts} hosts joined and were measured after {:.1} s", began.elapsed().as_secs_f64()));
    let lag = fleet.lag(Duration::from_secs(lasts), report).await?;
    let what = format!("{hosts} hosts, frames every 5 s: from measured to queryable");
    report
        .line(Line::new("N16", what, &lag).p99_at_most(2000.0).remark(format!("{PROBES} hosts asked for every 50 ms")));
    fleet.losses(report, "before").await?;
    let back = fleet.come_back(report).await?;
    report.line(
        Line::new("N16", format!("99 % of {hosts} hosts back after kill -9 of perigeed"), &back).p99_at_most(60_000.0),
    );
    sleep(Duration::from_secs(10)).await;
    Fleet { client: instance.client()?, ..fleet }.losses(report, "after").await
}

/// How long the hosts may take to join.
pub fn begins_within(options: &Options) -> Duration {
    BEGIN_WITHIN * u32::try_from(options.fleet_hosts.div_ceil(1000)).unwrap_or(u32::MAX)
}

struct Fleet<'a> {
    client: Client,
    instance: &'a Instance,
    hosts: usize,
    clock: Clock,
}

impl Fleet<'_> {
    /// A query's only value.
    async fn one(&self, query: &str) -> Result<f64> {
        match self.client.query(query, None).await? {
            QueryData::Vector(all) => all.first().map_or(Ok(0.0), |one| one.value.1.parse().context("a value")),
            QueryData::Matrix(_) | QueryData::Scalar(_) | QueryData::String(_) => anyhow::bail!("{query}: no vector"),
        }
    }

    /// Values of perigeed's own page, by name and labels.
    async fn page(&self) -> Result<BTreeMap<String, f64>> {
        let answer = self.client.raw(Method::GET, "/metrics", None).await?;
        ensure!(answer.status.is_success(), "/metrics: {}", answer.status);
        let text = String::from_utf8(answer.body.to_vec())?;
        let pair =
            |line: &str| line.rsplit_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(pair).collect())
    }

    async fn until(&self, what: &str, within: Duration, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let began = self.clock.instant();
        loop {
            let last = match is_so().await {
                Ok(true) => return Ok(()),
                Ok(false) => "not yet".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            ensure!(began.elapsed() < within, "{what}: not within {within:?}; {last}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// How much later than its time each sample of a few hosts can be asked for.
    async fn lag(&self, lasts: Duration, report: &mut Report) -> Result<Sample> {
        say::progress(&format!("N16: {} hosts for {lasts:?}", self.hosts));
        let pid = self.instance.pid("perigeed")?;
        let probes: Vec<String> = (0..PROBES).map(|n| format!("sim-{:04}", n * self.hosts / PROBES)).collect();
        let query = format!("timestamp({SERIES}{{host=~\"{}\"}})", probes.join("|"));
        let (mut lag, mut asked, mut memory) = (Sample::default(), Sample::default(), Vec::new());
        let mut newest: BTreeMap<String, f64> = BTreeMap::new();
        let before = (machine::scheduled(pid)?, self.page().await?, self.clock.instant());
        while before.2.elapsed() < lasts {
            let asking = self.clock.instant();
            let answer = self.client.query(&query, None).await?;
            let now = self.clock.now();
            asked.push(asking.elapsed());
            let QueryData::Vector(all) = answer else { anyhow::bail!("{query}: no vector") };
            for one in all {
                let at: f64 = one.value.1.parse()?;
                let host = one.metric.get("host").cloned().unwrap_or_default();
                // The first sample of a host was there before anybody looked.
                if newest.insert(host, at).is_some_and(|known| known < at) {
                    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century")]
                    lag.push_millis((now.micros() / 1000) as f64 - at * 1000.0);
                }
            }
            if before.2.elapsed() >= lasts / MEMORY_LOOKS * u32::try_from(memory.len())? {
                memory.push(machine::resident_bytes(pid)? >> 20);
            }
            sleep(ASK_EVERY.saturating_sub(asking.elapsed())).await;
        }
        ensure!(!lag.is_empty(), "no sample of a probed host was new");
        let (took, page) = (before.2.elapsed().as_secs_f64(), self.page().await?);
        let busy = (machine::scheduled(pid)? - before.0).as_secs_f64() / took;
        let rate = |name: &str| (page.get(name).unwrap_or(&0.0) - before.1.get(name).unwrap_or(&0.0)) / took;
        let players = machine::resident_bytes(self.instance.pid("perigee-sim")?)? >> 20;
        report.note(
            "N16",
            format!(
                "perigeed with {} hosts, {} series: {:.0} frames and {:.1} syncs of the log in a second, {:.0} KiB/s; {:.2} \
                 processors; resident {memory:?} MiB over {took:.0} s; the {} queries of this row took {:.1} ms each (median) \
                 and are in it; all players together: {players} MiB",
                self.hosts,
                page.get("perigee_series_active").unwrap_or(&0.0),
                rate("perigee_series_log_frames_total"),
                rate("perigee_series_log_syncs_total"),
                rate("perigee_series_log_written_bytes_total") / 1024.0,
                busy,
                asked.spread().runs,
                asked.spread().median_ms,
            ),
        );
        Ok(lag)
    }

    /// Frames that the hosts gave up, and what the control plane saw of it.
    async fn losses(&self, report: &mut Report, when: &str) -> Result<()> {
        let page = self.page().await?;
        let kept = |reason: &str| {
            page.get(&format!("perigee_series_frames_not_kept_total{{reason=\"{reason}\"}}"))
                .copied()
                .unwrap_or(f64::NAN)
        };
        let (given_up, waiting) = (
            self.one("sum(perigee_agent_frames_lost_total)").await?,
            self.one("max(perigee_agent_spool_frames)").await?,
        );
        report.note(
            "N16",
            format!(
                "{when} the kill: hosts lost {given_up} frames, at most {waiting} wait on one host; perigeed: {} never came, \
                 {} came again and were dropped, {} refused",
                kept("never_came"),
                kept("came_again"),
                kept("refused")
            ),
        );
        ensure!(given_up == 0.0 && kept("never_came") == 0.0, "frames were lost");
        Ok(())
    }

    /// `kill -9` of perigeed, another one, and how long 99 % of the hosts take from there.
    async fn come_back(&self, report: &mut Report) -> Result<Sample> {
        say::progress("N16: kill -9 of perigeed");
        let killed = self.clock.instant();
        self.instance.kill("perigeed")?;
        self.instance.up()?;
        let up = killed.elapsed();
        let fleet = Fleet { client: self.instance.client()?, clock: self.clock.clone(), ..*self };
        let wanted = (self.hosts as f64 * 0.99).ceil();
        let connected = "perigee_hosts{connected=\"true\"}";
        let enough = async || Ok(fleet.page().await?.get(connected).is_some_and(|count| *count >= wanted));
        fleet.until("99 % of the hosts are back", BACK_WITHIN, enough).await?;
        let back = killed.elapsed();
        report.note("N16", format!("perigeed was ready {:.2} s after the kill", up.as_secs_f64()));
        Ok([back.as_secs_f64() * 1e3].into_iter().collect())
    }
}
