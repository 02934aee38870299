//! Debian's Prometheus on a block of given samples, asked over loopback.

use perigee_series::promql::Range;
use serde_json::Value as Json;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MISSING: &str = "this test compares with Prometheus: apt-get install prometheus (scripts/setup does)";

/// A running Prometheus; ends with this.
pub struct Prometheus {
    address: SocketAddr,
    process: Child,
    folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that holds these samples.
    pub fn with(open_metrics: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (samples, blocks) = (folder.path().join("samples.om"), folder.path().join("blocks"));
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&samples, open_metrics).expect("samples written");
        std::fs::write(&config, "scrape_configs: []\n").expect("config written");
        let made = Command::new("promtool")
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([&samples, &blocks])
            .output()
            .expect(MISSING);
        assert!(made.status.success(), "promtool: {}", String::from_utf8_lossy(&made.stderr));
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("its address");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", blocks.display()))
            .arg("--storage.tsdb.retention.time=100y")
            .arg(format!("--web.listen-address={free}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect(MISSING);
        let mut prometheus = Self { address: free, process, folder };
        prometheus.wait_until_ready();
        prometheus
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !matches!(self.ask("/-/ready", ""), Ok((200, _))) {
            if let Ok(Some(status)) = self.process.try_wait() {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("prometheus ended with {status}: {log}");
            }
            assert!(Instant::now() < deadline, "prometheus is not ready after 20 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The `data` of an instant query, or the error's text.
    pub fn instant(&self, query: &str, at_ms: i64) -> Result<Json, String> {
        self.query("/api/v1/query", &[("query", query.to_owned()), ("time", seconds(at_ms))])
    }

    /// The `data` of a range query, or the error's text.
    pub fn range(&self, query: &str, range: Range) -> Result<Json, String> {
        let (start, end, step) = (seconds(range.from_ms), seconds(range.to_ms), seconds(range.step_ms));
        let form = [("query", query.to_owned()), ("start", start), ("end", end), ("step", step)];
        self.query("/api/v1/query_range", &form)
    }

    fn query(&self, path: &str, form: &[(&str, String)]) -> Result<Json, String> {
        let fields: Vec<String> = form.iter().map(|(field, value)| format!("{field}={}", escaped(value))).collect();
        let (_, body) = self.ask(path, &fields.join("&")).expect("an answer");
        let answer: Json = serde_json::from_str(&body).expect("JSON");
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer["error"].to_string()) }
    }

    /// HTTP/1.0: no chunks, and the connection's end is the body's.
    fn ask(&self, path: &str, form: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let method = if form.is_empty() { "GET" } else { "POST" };
        let kind = "Content-Type: application/x-www-form-urlencoded";
        write!(stream, "{method} {path} HTTP/1.0\r\n{kind}\r\nContent-Length: {}\r\n\r\n{form}", form.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string");
        }
        out
    })
}
