//! A far server that says exactly what a test tells it to.

use perigee_outbound::{Guard, Limits, Outbound};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What was asked, and a connection to answer on.
pub struct Asked {
    /// The request's head, as it came.
    pub head: String,
    /// How many were asked before it.
    pub before: usize,
    socket: TcpStream,
}

impl Asked {
    /// Sends these bytes and keeps the connection.
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(bytes.as_ref()).await.is_ok()
    }
    /// A head with these lines.
    pub async fn head(&mut self, status: &str, lines: &[&str]) -> bool {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.say(format!("HTTP/1.1 {status}\r\n{lines}\r\n")).await
    }
    /// Waits until the other end goes.
    pub async fn hold(&mut self) {
        while self.socket.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
    }
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is = |line: &&str| line.to_ascii_lowercase().starts_with(&format!("{name}: "));
        self.head.lines().find(is).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }
}

/// Ends with the test.
pub struct Far {
    /// Where it listens.
    pub at: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Far {
    /// Answers each connection with `answer`, one after the other.
    pub async fn new<F>(answer: impl Fn(Asked) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, heads) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let seen = heads.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut socket, _)) = listener.accept().await else { return };
                let Some(head) = read_head(&mut socket).await else { continue };
                let before = seen.lock().unwrap().len();
                seen.lock().unwrap().push(head.clone());
                answer(Asked { head, before, socket }).await;
            }
        });
        Self { at, heads, task }
    }
    /// The address of a path there.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }
    /// Everything asked so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Quick limits.
pub fn limits() -> Limits {
    Limits {
        bytes_max: 1 << 20,
        connect_within: Duration::from_secs(5),
        head_within: Duration::from_millis(300),
        stall_within: Duration::from_millis(300),
        retry_after: Duration::from_millis(1),
        ..Limits::default()
    }
}

/// With loopback allowed.
pub fn client() -> Outbound {
    Outbound::new(Guard { allowed: vec!["127.0.0.0/8".parse().unwrap()] }, limits())
}
