//! A Prometheus exporter as a peer.

use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SCRAPE_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// An exporter of our own, gone with its value.
pub struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Exporter {
    /// `None` when it is not installed.
    pub fn start(program: &str, arguments: &[&str]) -> Result<Option<Self>> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let started = Command::new(program)
            .args(arguments)
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = started else { return Ok(None) };
        let exporter = Self { child, address };
        for _ in 0..50 {
            if exporter.scrape().is_ok() {
                return Ok(Some(exporter));
            }
            std::thread::park_timeout(LOOK);
        }
        anyhow::bail!("{program} does not answer")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    pub fn scrape(&self) -> Result<Vec<u8>> {
        self.get("")
    }
    pub fn packed(&self) -> Result<usize> {
        self.get("Accept-Encoding: gzip\r\n").map(|page| page.len())
    }
    fn get(&self, header: &str) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, SCRAPE_WITHIN)?;
        stream.set_read_timeout(Some(SCRAPE_WITHIN))?;
        write!(stream, "GET /metrics HTTP/1.0\r\n{header}\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").context("the scrape has no end of head")?;
        ensure!(answer.starts_with(b"HTTP/1.0 200"), "the scrape failed");
        Ok(answer.split_off(head + 4))
    }
}
