//! N5: processor time for each sample that comes in, beside Prometheus and VictoriaMetrics that scrape
//! the same hosts in the same seconds.
//!
//! Perigee gets frames over mutual TLS, acknowledges what is on the disk, and keeps the latest for
//! who watches. The peers scrape pages over plain HTTP that hold the same values with the same times.

use crate::numbers::Sample;
use crate::report::{Line, Report};
use crate::stores::{self, Looked, Store, free_address, until};
use crate::{Options, say};
use anyhow::{Result, ensure};
use http::Method;
use perigee_client::{Address, Client};
use perigee_clock::Clock;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::sleep;

/// What comes in, and of how many hosts: of few, each frame wakes a store that slept.
const FLEETS: [(&str, usize); 4] = [("idle", 20), ("busy", 20), ("changing", 20), ("busy", 200)];
const REPEATS: usize = 5;
const WINDOW: Duration = Duration::from_secs(4);
const BASELINE: Duration = Duration::from_secs(6);
/// What is done once for each host is done before the first window.
const WARM_UP: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_secs(2);
const BEGIN_WITHIN: Duration = Duration::from_secs(60);
/// Of the samples that are due, at least so many must have come.
const ENOUGH: f64 = 0.9;

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let clock = Clock::real();
    let folder = tempfile::Builder::new().prefix("pg-bench-").tempdir()?;
    let (instance, perigee) = stores::alone(options).await?;
    let (prometheus, victoria) = (Store::prometheus(folder.path()).await?, Store::victoria(folder.path()).await?);
    let stores = [&perigee, &prometheus, &victoria];
    sleep(WARM_UP).await;
    let before = Looked::at(&clock, &stores)?;
    sleep(BASELINE).await;
    let idle = Looked::at(&clock, &stores)?.busy_since(&before);
    for (mix, hosts) in FLEETS {
        let pages = free_address()?;
        let what = format!("{mix}, {hosts} hosts");
        say::progress(&format!("N5: {what}"));
        let fleet = stores::play(&instance, hosts, &["--mix", mix, "--pages", &pages.to_string()])?;
        stores::scrape_hosts(folder.path(), Some(pages), hosts)?;
        let row = Row { clock: &clock, stores, idle: &idle, pages, hosts };
        let costs = row.measure(report, &what).await?;
        drop(fleet);
        stores::scrape_hosts(folder.path(), None, 0)?;
        say_costs(report, &what, &costs);
    }
    Ok(())
}

fn say_costs(report: &mut Report, what: &str, [ours, prometheus, victoria]: &[Sample; 3]) {
    let line = || Line::new("N5", format!("{what}: processor time for each sample that comes in"), ours).in_unit("ns");
    let lines = [("Prometheus", prometheus, 1.0 / 15.0), ("VictoriaMetrics", victoria, 0.25)];
    for (name, theirs, most) in lines {
        report.line(line().beside(name, theirs).at_most_of_peer(most));
        report.line(Line::new("N5", format!("{what}: {name}, scraping"), theirs).in_unit("ns"));
    }
}

impl Looked {
    /// Processors that each kept busy between two looks.
    fn busy_since(&self, before: &Self) -> Vec<f64> {
        let took = self.at.since(before.at).as_secs_f64();
        self.scheduled.iter().zip(&before.scheduled).map(|(now, then)| (*now - *then).as_secs_f64() / took).collect()
    }
}

struct Row<'a> {
    clock: &'a Clock,
    stores: [&'a Store; 3],
    /// Processors that each keeps busy with nothing to take in.
    idle: &'a [f64],
    pages: SocketAddr,
    hosts: usize,
}

impl Row<'_> {
    /// What a sample costs each of them, window by window.
    async fn measure(&self, report: &mut Report, what: &str) -> Result<[Sample; 3]> {
        let due = self.series().await?;
        self.flows(due).await?;
        sleep(WARM_UP).await;
        let mut costs: [Sample; 3] = Default::default();
        let mut taken = [0.0; 3];
        for _ in 0..REPEATS {
            let (counted, looked) = (self.counted(due).await?, Looked::at(self.clock, &self.stores)?);
            sleep(WINDOW).await;
            let (now, counts) = (Looked::at(self.clock, &self.stores)?, self.counted(due).await?);
            let (busy, took) = (now.busy_since(&looked), now.at.since(looked.at).as_secs_f64());
            for store in 0..self.stores.len() {
                let samples = counts[store] - counted[store];
                taken[store] += samples;
                let seconds = (busy[store] - self.idle[store]) * took;
                costs[store].push_millis(seconds * 1e9 / samples);
            }
        }
        let due_in_all = due as f64 * WINDOW.as_secs_f64() * REPEATS as f64;
        for (store, taken) in self.stores.iter().zip(taken) {
            ensure!(taken > due_in_all * ENOUGH, "{} took {taken} of {due_in_all} samples", store.name);
        }
        report.note(
            "N5",
            format!(
                "{what}, each second, {due} series; samples taken by Perigee, Prometheus, VictoriaMetrics: {taken:.0?} \
                 in {REPEATS} windows of {WINDOW:?}; with nothing to take in they keep {:.4?} processors busy, which is subtracted; \
                 what is done later (blocks, merges) is in a window only when it happens there",
                self.idle
            ),
        );
        Ok(costs)
    }

    /// Series of all hosts together, once each has measured.
    async fn series(&self) -> Result<usize> {
        let client = Client::new(Address::parse(&format!("http://{}", self.pages))?, None);
        let mut series = 0;
        until("every host shows its page", BEGIN_WITHIN, async || {
            series = 0;
            for host in 0..self.hosts {
                let answer = client.raw(Method::GET, &format!("/{}", stores::host_name(host)), None).await?;
                let lines = answer.body.iter().filter(|byte| **byte == b'\n').count();
                ensure!(lines > 0, "host {host} has not measured");
                series += lines;
            }
            Ok(true)
        })
        .await?;
        Ok(series)
    }

    /// Waits until all three take in what is due.
    async fn flows(&self, due: usize) -> Result<()> {
        let mut before = self.counted(due).await?;
        until("all three take in samples", BEGIN_WITHIN, async || {
            sleep(LOOK_EVERY).await;
            let now = self.counted(due).await?;
            let grown = now.iter().zip(&before).map(|(now, before)| now - before).fold(f64::INFINITY, f64::min);
            before = now;
            ensure!(grown >= due as f64 * ENOUGH * LOOK_EVERY.as_secs_f64(), "{grown} of {due} in a second");
            Ok(true)
        })
        .await
    }

    /// Samples that each has taken in since it started, by its own page.
    async fn counted(&self, due: usize) -> Result<[f64; 3]> {
        let [perigee, prometheus, victoria] = self.stores;
        let of = async |store: &Store, name: &str| {
            Ok::<_, anyhow::Error>(store.page().await?.get(name).copied().unwrap_or(0.0))
        };
        Ok([
            // All hosts measure at one pace, so that a frame has the mean of their series.
            of(perigee, "perigee_series_log_frames_total").await? * due as f64 / self.hosts as f64,
            of(prometheus, "prometheus_tsdb_head_samples_appended_total").await?,
            of(victoria, "vm_rows_inserted_total").await?,
        ])
    }
}
