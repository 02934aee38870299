//! The guest's server: accepts sessions on the port and answers their requests.
//!
//! Owns: the runtime, the table of executions, the HTTP/2 connection of the session being served.
//! Refuses: to serve two sessions at once; the port has one host.

mod exec;
mod execution;
mod executions;
mod files;
mod port;
mod process;
mod reaper;
mod request;
mod ring;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use port::PortEnds;
pub use reaper::Reaping;

use crate::hello::is_clone_id;
use crate::protocol::{FRAME_BYTES_MAX, GUEST_STREAM_WINDOW_BYTES, GuestHello, HEADER_LIST_BYTES_MAX, STREAMS_MAX};
use executions::Executions;
use port::{Port, SessionStream};
use reaper::Reaper;

/// For the last frames of a session the host closed.
const GOOD_BYE: Duration = Duration::from_millis(50);

/// What the guest says of itself, and how it treats child processes.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// 1 to 64 visible ASCII characters.
    pub clone_id: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `/proc/sys/kernel/osrelease`.
    pub kernel_release: String,
    /// Which children are reaped.
    pub reaping: Reaping,
}

impl ServerOptions {
    /// As the running kernel says. Without a clone id of its own a guest is called by its boot id.
    pub fn of_this_kernel(clone_id: Option<String>, reaping: Reaping) -> Self {
        let read = |path: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        let boot_id = read("/proc/sys/kernel/random/boot_id");
        let named = clone_id.filter(|id| is_clone_id(id));
        let unnamed = || {
            if is_clone_id(&boot_id) { boot_id.clone() } else { "unknown".to_owned() }
        };
        Self {
            clone_id: named.unwrap_or_else(unnamed),
            boot_id,
            kernel_release: read("/proc/sys/kernel/osrelease"),
            reaping,
        }
    }
}

/// Everything a request may touch.
struct Guest {
    port: Arc<Port>,
    executions: Executions,
    options: ServerOptions,
    since: Instant,
}

/// Serves the port on the calling thread until it is gone, and says why.
pub fn serve(ends: PortEnds, options: ServerOptions) -> io::Error {
    match try_serve(ends, options) {
        Ok(kind) => kind.into(),
        Err(error) => error,
    }
}

fn try_serve(ends: PortEnds, options: ServerOptions) -> io::Result<io::ErrorKind> {
    if !is_clone_id(&options.clone_id) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a clone id has 1 to 64 visible ASCII characters"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let guest = Arc::new(Guest {
            port: Port::open(ends, options.clone_id.clone())?,
            executions: Executions::new(Reaper::start(options.reaping)?),
            options,
            since: Instant::now(),
        });
        loop {
            match guest.port.accept().await {
                Ok(session) => serve_session(&guest, session).await,
                Err(kind) => return Ok(kind),
            }
        }
    })
}

/// Answers one session's requests. Dropping the tasks at its end drops no execution.
async fn serve_session(guest: &Arc<Guest>, session: SessionStream) {
    let epoch = session.epoch();
    let handshake = h2::server::Builder::new()
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(GUEST_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(GUEST_STREAM_WINDOW_BYTES * STREAMS_MAX)
        .handshake::<_, Bytes>(session)
        .await;
    if let Ok(mut connection) = handshake {
        let mut tasks = JoinSet::new();
        // The host said good-bye. One for each session: it must not end the next.
        let closing = Arc::new(Notify::new());
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        let answer = request::answer(
                            Arc::clone(guest),
                            Arc::clone(&closing),
                            request,
                            respond,
                        );
                        tasks.spawn(answer);
                    }
                    Some(Err(_)) | None => break,
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                () = closing.notified() => {
                    connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                    let flush = async { while connection.accept().await.is_some() {} };
                    let _ = tokio::time::timeout(GOOD_BYE, flush).await;
                    break;
                }
            }
        }
    }
    guest.port.session_over(epoch);
}

impl Guest {
    fn hello(&self) -> GuestHello {
        GuestHello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.options.boot_id.clone(),
            clone_id: self.port.clone_id(),
            kernel_release: self.options.kernel_release.clone(),
            uptime_ms: uptime_ms()
                .unwrap_or_else(|| u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

fn uptime_ms() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, rest) = text.split_once('.')?;
    let hundredths: u64 = rest.get(..2)?.parse().ok()?;
    Some(seconds.parse::<u64>().ok()? * 1000 + hundredths * 10)
}
