//! A control plane that answers by a table and remembers what it was asked.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use perigee_api::ProblemDocument;
use perigee_model::Code;
use serde::Serialize;
use std::convert::Infallible;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub body: Bytes,
    pub headers: hyper::HeaderMap,
}

impl Seen {
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// What is answered.
pub struct Reply {
    pub status: u16,
    pub media: &'static str,
    pub body: Vec<u8>,
}

pub fn json<T: Serialize>(status: u16, value: &T) -> Reply {
    Reply { status, media: "application/json", body: serde_json::to_vec(value).unwrap() }
}

pub fn refusal(code: Code, status: u16, detail: &str) -> Reply {
    let problem = ProblemDocument {
        kind: format!("/errors/{code}"),
        title: code.title().to_owned(),
        status,
        detail: detail.to_owned(),
        code: code.number().to_owned(),
        request_id: "0199c0de-0000-7000-8000-00000000beef".to_owned(),
        errors: Vec::new(),
    };
    let body = serde_json::to_vec(&problem).unwrap();
    Reply { status, media: "application/problem+json", body }
}

type Routes = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// The played control plane.
pub struct Fake {
    pub dir: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// Answers by `routes` until the test ends. Exec streams are played by `exec::play`.
    pub fn start(routes: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let routes: Routes = Arc::new(routes);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (ready, address) = std::sync::mpsc::channel();
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    tokio::spawn(connection(socket, Arc::clone(&routes), Arc::clone(&kept)));
                }
            });
        });
        let url = format!("http://{}", address.recv().unwrap());
        let dir = tempfile::tempdir().unwrap();
        write_private(&dir.path().join("cli.toml"), &format!("url = \"{url}\"\ntoken = \"secret-token\"\n"));
        Self { dir, seen }
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    /// `perigee` with these arguments, which finds this control plane.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = perigee(arguments);
        command.env("PERIGEE_DATA_DIR", self.dir.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    }
}

/// `perigee` with no settings from outside.
pub fn perigee(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perigee"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("TERM", "xterm");
    command
}

pub fn write_private(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

async fn connection(socket: tokio::net::TcpStream, routes: Routes, seen: Arc<Mutex<Vec<Seen>>>) {
    let answer = service_fn(move |request| answer(request, Arc::clone(&routes), Arc::clone(&seen)));
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
    // A client that goes away is no fault of ours.
    let _ = served.with_upgrades().await;
}

async fn answer(
    mut request: Request<Incoming>,
    routes: Routes,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let upgrade =
        request.headers().get("sec-websocket-key").cloned().map(|key| (key, hyper::upgrade::on(&mut request)));
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().to_string();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let here = Seen { method: head.method.to_string(), path, body, headers: head.headers };
    seen.lock().unwrap().push(here.clone());
    let reply = routes(&here);
    if let Some((key, upgrade)) = upgrade.filter(|_| reply.status == 101) {
        tokio::spawn(async move {
            let upgraded = upgrade.await.unwrap();
            match here.path.contains("/console?") {
                true => crate::console::play(upgraded).await,
                false => crate::exec::play(upgraded).await,
            }
        });
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let switching = Response::builder()
            .status(101)
            .header("upgrade", "websocket")
            .header("connection", "upgrade")
            .header("sec-websocket-accept", accept);
        return Ok(switching.body(Full::default()).unwrap());
    }
    let answer = Response::builder()
        .status(reply.status)
        .header("content-type", reply.media)
        .header("etag", "\"3\"")
        .header("x-request-id", here.header("x-request-id"));
    Ok(answer.body(Full::new(Bytes::from(reply.body))).unwrap())
}
