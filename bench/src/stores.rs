//! Perigee and those that keep measurements beside it: each a process in a folder of its own, gone
//! afterwards whatever happens.

use crate::Options;
use crate::instance::{Door, Instance};
use crate::machine;
use anyhow::{Context as _, Result, ensure};
use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use perigee_client::{Address, Client};
use perigee_clock::Clock;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::sleep;

const READY_WITHIN: Duration = Duration::from_secs(30);
const ENDED_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(50);
/// What peers are told to scrape; they look at it again and again.
const TARGETS: &str = "targets.json";

/// A process that ends with us.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let program = command.get_program().display().to_string();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        child.map(Self).with_context(|| format!("{program} does not start (scripts/setup bench)"))
    }
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let mut waited = Duration::ZERO;
        while matches!(self.0.try_wait(), Ok(None)) {
            if waited > ENDED_WITHIN {
                let _ = self.0.kill();
            }
            std::thread::park_timeout(LOOK);
            waited += LOOK;
        }
    }
}

/// A port that nobody has now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until it is so.
pub async fn until(what: &str, within: Duration, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        let last = match is_so().await {
            Ok(true) => return Ok(()),
            Ok(false) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        ensure!(waited < within, "{what}: not within {within:?}; {last}");
        sleep(LOOK).await;
        waited += LOOK;
    }
}

/// Something that keeps measurements and answers PromQL.
pub struct Store {
    pub name: &'static str,
    pub client: Client,
    /// What a query needs so that it is computed and not remembered.
    pub uncached: &'static str,
    /// Where it is; peers take any token.
    pub door: Door,
    process: Process,
}

impl Store {
    /// Processor time so far.
    pub fn scheduled(&self) -> Result<Duration> {
        machine::scheduled(self.process.pid())
    }

    /// An answer's body.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>> {
        let answer = self.client.raw(Method::GET, path, None).await?;
        let said = || String::from_utf8_lossy(&answer.body).chars().take(300).collect::<String>();
        ensure!(answer.status.is_success(), "{} {path}: {} {}", self.name, answer.status, said());
        Ok(answer.body.to_vec())
    }

    /// The numbers of its own page, by name without labels, summed up.
    pub async fn page(&self) -> Result<BTreeMap<String, f64>> {
        let text = String::from_utf8(self.get("/metrics").await?)?;
        let mut sums = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.rsplit_once(' ') {
                let name = name.split('{').next().unwrap_or(name).to_owned();
                *sums.entry(name).or_insert(0.0) += value.parse().unwrap_or(0.0);
            }
        }
        Ok(sums)
    }

    /// Perigee's control plane alone.
    pub async fn perigee(instance: &Instance) -> Result<Self> {
        let mut command = Command::new(instance.program("perigeed"));
        command.arg("--data-dir").arg(instance.path());
        let process = Process::start(&mut command, &instance.path().join("perigeed.log"))?;
        let (endpoints, pid) = (instance.path().join("endpoints.json"), process.pid().to_string());
        until("perigeed", READY_WITHIN, async || {
            Ok(fs::read_to_string(&endpoints).is_ok_and(|text| text.contains(&pid)))
        })
        .await?;
        Ok(Self { name: "Perigee", client: instance.client()?, uncached: "", door: instance.door()?, process })
    }

    /// Prometheus over a folder that may hold blocks already.
    pub async fn prometheus(folder: &Path) -> Result<Self> {
        let (address, data) = (free_address()?, folder.join("prometheus"));
        fs::create_dir_all(&data)?;
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", scraping(folder)?.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=error");
        Self::peer("Prometheus", address, "", "/-/ready", &mut command, folder).await
    }

    /// VictoriaMetrics, a single node.
    pub async fn victoria(folder: &Path) -> Result<Self> {
        let (address, data) = (free_address()?, folder.join("victoria"));
        let mut command = Command::new("victoria-metrics");
        command.arg(format!("-storageDataPath={}", data.display())).arg(format!("-httpListenAddr={address}"));
        command.arg(format!("-promscrape.config={}", scraping(folder)?.display()));
        command.args(["-promscrape.fileSDCheckInterval=1s", "-retentionPeriod=1", "-loggerLevel=ERROR"]);
        Self::peer("VictoriaMetrics", address, "&nocache=1", "/health", &mut command, folder).await
    }

    async fn peer(
        name: &'static str,
        address: SocketAddr,
        uncached: &'static str,
        ready: &str,
        command: &mut Command,
        folder: &Path,
    ) -> Result<Self> {
        let process = Process::start(command, &folder.join(format!("{name}.log")))?;
        let door = Door { url: format!("http://{address}"), token: "none".to_owned() };
        let client = Client::new(Address::parse(&door.url)?, None);
        let store = Self { name, client, uncached, door, process };
        until(name, READY_WITHIN, async || store.get(ready).await.map(|_| true)).await?;
        Ok(store)
    }
}

/// What the peers scrape, each second: hosts whose pages are at this address.
pub fn scrape_hosts(folder: &Path, pages: Option<SocketAddr>, hosts: usize) -> Result<()> {
    let target = |(host, pages): (usize, SocketAddr)| serde_json::json!({ "targets": [pages.to_string()], "labels": { "__metrics_path__": format!("/{}", host_name(host)) } });
    let targets: Vec<_> = (0..hosts).filter_map(|host| pages.map(|pages| target((host, pages)))).collect();
    let next = folder.join("targets.next");
    fs::write(&next, serde_json::to_string(&targets)?)?;
    Ok(fs::rename(next, folder.join(TARGETS))?)
}

/// The configuration of both peers; nothing to scrape at first.
fn scraping(folder: &Path) -> Result<PathBuf> {
    scrape_hosts(folder, None, 0)?;
    let path = folder.join("scrape.yml");
    let targets = folder.join(TARGETS);
    let text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: fleet\n  file_sd_configs:\n  - files: ['{}']\n",
        targets.display()
    );
    fs::write(&path, text)?;
    Ok(path)
}

/// What played hosts are called.
pub fn host_name(number: usize) -> String {
    format!("sim-{number:04}")
}

/// Starts played hosts for a control plane that runs; they measure each second.
pub fn play(instance: &Instance, hosts: usize, arguments: &[&str]) -> Result<Process> {
    let text = fs::read_to_string(instance.path().join("endpoints.json"))?;
    let endpoints: serde_json::Value = serde_json::from_str(&text)?;
    let at = |name: &str| endpoints[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {text}"));
    let mut command = Command::new(instance.program("perigee-sim"));
    command.args(["fleet", "--server", &at("agents")?, "--api", &at("http")?, "--interval-ms", "1000"]);
    command.arg("--token-file").arg(instance.path().join("token"));
    command.arg("--data-dir").arg(instance.path().join("sim"));
    command.args(["--hosts", &hosts.to_string()]).args(arguments);
    Process::start(&mut command, &instance.path().join("sim.log"))
}

/// An instance's folder, and Perigee on it.
pub async fn alone(options: &Options) -> Result<(Instance, Store)> {
    let instance = Instance::empty(options)?;
    let store = Store::perigee(&instance).await?;
    Ok((instance, store))
}

/// Processor time and when it was looked at.
pub struct Looked {
    pub at: perigee_clock::Instant,
    pub scheduled: Vec<Duration>,
}

impl Looked {
    pub fn at(clock: &Clock, stores: &[&Store]) -> Result<Self> {
        let scheduled = stores.iter().map(|store| store.scheduled()).collect::<Result<_>>()?;
        Ok(Self { at: clock.instant(), scheduled })
    }
}
