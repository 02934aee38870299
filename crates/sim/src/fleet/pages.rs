//! The hosts' last measurements, as Prometheus scrapes them: HTTP/1.1, `GET /NAME`, kept alive.
//!
//! Times are those of the frames, so that who scrapes has the very samples that the control plane has.

use super::past::line;
use perigee_agent::watch::SharedSheet;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// A request's head is no longer.
const HEAD_LINES_MAX: usize = 64;

/// What one host shows.
#[derive(Default)]
pub struct Page {
    /// Its sheet.
    pub sheet: Arc<SharedSheet>,
    /// When it was written, in milliseconds; changed only while the sheet is locked.
    pub at_ms: AtomicI64,
}

impl Page {
    fn text(&self, host: &str) -> String {
        let mut text = String::new();
        let sheet = self.sheet.lock();
        let at_ms = self.at_ms.load(Ordering::Relaxed);
        for (series, value) in sheet.values() {
            line(&mut text, series, host, value);
            // Writing to a String cannot fail.
            let _ = writeln!(text, " {at_ms}");
        }
        text
    }
}

/// All of them, by host.
#[derive(Default)]
pub struct Pages(Mutex<BTreeMap<String, Arc<Page>>>);

impl Pages {
    /// Shows one more.
    pub fn add(&self, host: String, page: Arc<Page>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host, page);
    }

    /// Serves until dropped.
    ///
    /// # Errors
    /// When the address is not free.
    pub async fn serve(self: Arc<Self>, address: SocketAddr) -> std::io::Result<AbortOnDropHandle<()>> {
        let listener = TcpListener::bind(address).await?;
        let accept = async move {
            let mut callers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                callers.spawn(answer(self.clone(), stream));
                while callers.try_join_next().is_some() {}
            }
        };
        Ok(AbortOnDropHandle::new(tokio::spawn(accept)))
    }

    fn find(&self, path: &str) -> Option<String> {
        let host = path.trim_start_matches('/');
        let page = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host)?.clone();
        Some(page.text(host))
    }
}

/// Answers one caller until it goes.
async fn answer(pages: Arc<Pages>, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(path) = ask(&mut stream).await? {
        let (status, text) = match pages.find(&path) {
            Some(text) => ("200 OK", text),
            None => ("404 Not Found", String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        stream.write_all((head + &text).as_bytes()).await?;
    }
    Ok(())
}

/// The path that is asked for; `None` at the end, and for a head that is too long.
async fn ask(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut path = None;
    for _ in 0..HEAD_LINES_MAX {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            return Ok(path);
        }
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
    }
    Ok(None)
}
