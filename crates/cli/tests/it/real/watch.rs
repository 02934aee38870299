//! Measurements of this machine: through outages and kills, and as Prometheus sees them.

use super::Instance;
use serde_json::Value;
use std::process::{Child, Command, Stdio};

/// Milliseconds between two measurements here.
const INTERVAL_MS: i64 = 250;

fn measuring() -> Instance {
    let instance = Instance::empty();
    begin(&instance);
    instance
}

fn begin(instance: &Instance) {
    let up = instance.command(&["up", "--detach"]).env("PERIGEE_INTERVAL_MS", INTERVAL_MS.to_string()).output();
    super::instance::Said::from(up.unwrap()).fine();
}

fn endpoint(instance: &Instance, half: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(instance.path().join(half).join("endpoints.json")).ok()?;
    let endpoints: Value = serde_json::from_str(&text).ok()?;
    endpoints[name].as_str().map(str::to_owned)
}

/// The agent's own page, whether the control plane is there or not.
pub fn agents_page(instance: &Instance) -> Option<String> {
    let page = Command::new("curl").args(["-sf", &endpoint(instance, "agent", "metrics")?]).output().unwrap().stdout;
    Some(String::from_utf8(page).unwrap())
}

/// A value of it.
fn scraped(instance: &Instance, name: &str) -> Option<f64> {
    let page = agents_page(instance)?;
    let line = page.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// When this machine was measured, in milliseconds, as the control plane knows it.
fn moments(instance: &Instance) -> Vec<i64> {
    let answer = instance.json(&["metrics", "query", "node_boot_time_seconds[10m]"]);
    let Some(values) = answer.as_array().and_then(|all| all.first()).and_then(|one| one["values"].as_array()) else {
        return Vec::new();
    };
    values.iter().map(|point| (point[0].as_f64().unwrap() * 1000.0).round() as i64).collect()
}

#[test]
fn real_measurements_outlive_an_outage_with_a_kill_in_it() {
    let instance = measuring();
    instance.until("twenty measurements", || (moments(&instance).len() >= 20).then_some(()));
    instance.kill("perigeed");
    instance
        .until("what waits in the spool", || (scraped(&instance, "perigee_agent_spool_frames")? >= 20.0).then_some(()));
    instance.kill("perigee-agent");
    begin(&instance);
    let host = instance.until("an empty spool", || {
        let waiting = scraped(&instance, "perigee_agent_spool_frames")?;
        (waiting <= 2.0 && moments(&instance).len() >= 50).then(|| instance.json(&["host", "list"]))
    });
    assert_eq!(host[0]["load"]["frames_lost"], 0, "{host}");
    let moments = moments(&instance);
    assert!(moments.is_sorted_by(|a, b| a < b), "each moment once: {moments:?}");
    let holes: Vec<i64> = moments.windows(2).map(|pair| pair[1] - pair[0]).filter(|ms| *ms > 3 * INTERVAL_MS).collect();
    // While the agent was dead nobody measured; at no other time.
    assert!(holes.len() <= 1, "{holes:?} in {moments:?}");
}

/// `promtool check metrics` has nothing to say about the control plane's page.
fn assert_clean(instance: &Instance) {
    let token = std::fs::read_to_string(instance.path().join("token")).unwrap();
    let url = endpoint(instance, "", "http").unwrap() + "/metrics";
    let header = format!("Authorization: Bearer {}", token.trim());
    let mut page = Command::new("curl").args(["-sf", "-H", &header, &url]).stdout(Stdio::piped()).spawn().unwrap();
    let check =
        Command::new("promtool").args(["check", "metrics"]).stdin(page.stdout.take().unwrap()).output().unwrap();
    assert!(page.wait().unwrap().success());
    let said = String::from_utf8_lossy(&check.stdout) + String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success() && said.trim().is_empty(), "{said}");
}

struct Prometheus {
    child: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    fn scraping(instance: &Instance) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = |url: String| url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
        let agent = place(endpoint(instance, "agent", "metrics").unwrap());
        let server = place(endpoint(instance, "", "http").unwrap());
        let token = instance.path().join("token");
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n\
             - {{ job_name: agent, static_configs: [{{ targets: ['{agent}'] }}] }}\n\
             - {{ job_name: perigeed, bearer_token_file: {}, static_configs: [{{ targets: ['{server}'] }}] }}\n",
            token.display()
        );
        std::fs::write(dir.path().join("p.yml"), config).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("p.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("prometheus: {error}; it comes with scripts/setup test"));
        Self { child, url: format!("http://{free}"), _dir: dir }
    }

    fn query(&self, expr: &str) -> Vec<(String, f64)> {
        let get = Command::new("curl")
            .args(["-sG", &format!("{}/api/v1/query", self.url), "--data-urlencode", &format!("query={expr}")])
            .output();
        let Ok(answer) = serde_json::from_slice::<Value>(&get.unwrap().stdout) else { return Vec::new() };
        let one = |one: &Value| {
            let job = one["metric"]["job"].as_str().unwrap_or_default().to_owned();
            (job, one["value"][1].as_str().unwrap().parse().unwrap())
        };
        answer["data"]["result"].as_array().into_iter().flatten().map(one).collect()
    }
}

#[test]
fn real_prometheus_scrapes_both_halves_without_error() {
    scraped_each_second(15.0);
}

#[test]
#[ignore = "soak"]
fn real_prometheus_scrapes_both_halves_for_a_minute() {
    scraped_each_second(60.0);
}

/// Both halves answer so many scrapes in a row, and their pages are as Prometheus wants them.
fn scraped_each_second(scrapes: f64) {
    let instance = measuring();
    instance.until("a first measurement", || (!moments(&instance).is_empty()).then_some(()));
    let prometheus = Prometheus::scraping(&instance);
    for scrapes in (15..).step_by(15).map(f64::from).take_while(|some| *some <= scrapes) {
        instance.until("the next fifteen scrapes of both", || {
            let counts = prometheus.query("count_over_time(up[2m])");
            (counts.len() == 2 && counts.iter().all(|(_, count)| *count >= scrapes)).then_some(())
        });
    }
    let good = prometheus.query("min_over_time(up[2m])");
    assert!(good.iter().all(|(_, up)| *up == 1.0), "{good:?}");
    assert_clean(&instance);
    // The same machine, measured by the same agent, asked in two places.
    let there = prometheus.query("node_boot_time_seconds")[0].1;
    let here = instance.json(&["metrics", "query", "node_boot_time_seconds"]);
    assert_eq!(here[0]["value"].as_str().unwrap().parse::<f64>().unwrap(), there);
}
