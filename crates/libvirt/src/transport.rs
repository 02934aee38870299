//! Dialling: from an endpoint to bytes both ways.

use crate::connection::Settings;
use crate::error::Error;
use crate::ssh::{Complaints, Ssh};
use crate::tls::Tls;
use nix::sys::socket::{setsockopt, sockopt};
use std::fmt;
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Child;

/// A silent far end is asked for a sign of life after so many seconds, and again, three times.
const KEEPALIVE_S: u32 = 10;

/// Where libvirtd listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket, usually `/run/libvirt/libvirt-sock`.
    Unix(PathBuf),
    /// Behind the system's `ssh`.
    Ssh(Ssh),
    /// Behind TLS.
    Tls(Tls),
    /// In the clear: everybody on the way can read and change it.
    Tcp {
        /// The far machine.
        host: String,
        /// 16509, usually.
        port: u16,
    },
}

impl Endpoint {
    /// Whether it may lead to another machine.
    pub fn is_far(&self) -> bool {
        !matches!(self, Self::Unix(_))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Ssh(ssh) => write!(f, "{} (ssh)", ssh.host),
            Self::Tls(tls) => write!(f, "{}:{} (tls)", tls.host, tls.port),
            Self::Tcp { host, port } => write!(f, "{host}:{port} (tcp)"),
        }
    }
}

/// Two directions, and what must live as long as they do.
pub(crate) struct Wire {
    pub from: Box<dyn AsyncRead + Send + Unpin>,
    pub to: Box<dyn AsyncWrite + Send + Unpin>,
    /// Killed when this is dropped.
    pub child: Option<Child>,
    /// What that program says beside it.
    pub complaints: Option<Complaints>,
}

impl Wire {
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (from, to) = tokio::io::split(stream);
        Self { from: Box::new(from), to: Box::new(to), child: None, complaints: None }
    }
}

/// Reaches the daemon, within the deadline.
pub(crate) async fn dial(endpoint: &Endpoint, settings: &Settings) -> Result<Wire, Error> {
    let dialled = tokio::time::timeout(settings.deadline, reach(endpoint, settings)).await;
    dialled.unwrap_or_else(|_| Err(Error::unreachable(endpoint.to_string(), io::ErrorKind::TimedOut.into())))
}

async fn reach(endpoint: &Endpoint, settings: &Settings) -> Result<Wire, Error> {
    let unreachable = |source| Error::unreachable(endpoint.to_string(), source);
    match endpoint {
        Endpoint::Unix(path) => {
            let (from, to) = UnixStream::connect(path).await.map_err(unreachable)?.into_split();
            Ok(Wire { from: Box::new(from), to: Box::new(to), child: None, complaints: None })
        }
        Endpoint::Tcp { host, port } => Ok(Wire::over(connect(host, *port).await.map_err(unreachable)?)),
        Endpoint::Tls(tls) => {
            let socket = connect(&tls.host, tls.port).await.map_err(unreachable)?;
            Ok(Wire::over(tls.shake(socket).await?))
        }
        Endpoint::Ssh(ssh) => ssh.dial(settings.deadline),
    }
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_S)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &KEEPALIVE_S)?;
    setsockopt(&socket, sockopt::TcpKeepCount, &3)?;
    Ok(socket)
}
