//! The way to the control plane.
//!
//! Owns: the [`Uplink`] seam and its two real forms, [`grpc`] and [`ws`]. Refuses: meaning. What is said over
//! a link is [`crate::link`]'s business.

mod chunks;
pub mod grpc;
pub mod ws;

use async_trait::async_trait;
use bytes::Bytes;
use perigee_agent_api::{ChunkStored, FromAgent, FromServer, Hello, TunnelFrame, TunnelId};
use perigee_model::Digest;
use perigee_model::limits::RECONNECT_MAX;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// Why the control plane could not be reached or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No connection, or it broke.
    #[error("the control plane is not reachable: {0}")]
    Away(String),
    /// It answered with a refusal.
    #[error("the control plane refused: {0}")]
    Refused(String),
    /// The disk is full where it would be kept.
    #[error("the control plane has no room for it: {0}")]
    NoSpace(String),
    /// It has this no longer as it was stored.
    #[error("{0}")]
    Damaged(String),
    /// It does not have this (any more).
    #[error("the control plane does not have it")]
    NotFound,
    /// The certificate is not accepted; a renewal may help.
    #[error("the control plane does not accept the certificate: {0}")]
    Certificate(String),
    /// A file on this side.
    #[error("a file cannot be read")]
    File(#[from] std::io::Error),
}

/// An open control link. Dropping both ends it.
pub struct Session {
    /// To the control plane; the hello is already on its way.
    pub tx: mpsc::Sender<FromAgent>,
    /// From it; its end is the link's end.
    pub rx: mpsc::Receiver<FromServer>,
}

/// An open tunnel.
pub struct Tunnel {
    /// To the control plane.
    pub tx: mpsc::Sender<TunnelFrame>,
    /// From it.
    pub rx: mpsc::Receiver<TunnelFrame>,
}

/// Chunks of a blob, in order. Closing without an error is its end.
pub type BlobStream = mpsc::Receiver<Result<Bytes, UplinkError>>;

/// The way to the control plane.
#[async_trait]
pub trait Uplink: Send + Sync {
    /// The longest wait between two attempts to open the link.
    fn patience(&self) -> Duration {
        RECONNECT_MAX
    }
    /// Opens the control link.
    ///
    /// # Errors
    /// `Away`, `Certificate`, `Refused`.
    async fn open(&self, hello: Hello) -> Result<Session, UplinkError>;
    /// Opens a tunnel that the control plane asked for.
    ///
    /// # Errors
    /// `Away`, `NotFound`, `Refused`.
    async fn tunnel(&self, id: TunnelId) -> Result<Tunnel, UplinkError>;
    /// Fetches a part from an offset on.
    ///
    /// # Errors
    /// `Away`, `NotFound`, `Refused`.
    async fn fetch_blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, UplinkError>;
    /// Stores a file as a part; returns when the other end has verified and kept it.
    ///
    /// # Errors
    /// `Away`, `Refused`, `File`.
    async fn push_blob(&self, digest: &Digest, path: &Path) -> Result<(), UplinkError>;
    /// Stores a chunk of a backup, or its index, in the repository; its bytes travel only when it is not there
    /// yet. Returns when it is verified and durable. May be asked for many at once.
    ///
    /// # Errors
    /// `Away`, `Certificate`, `NoSpace`, `Refused`.
    async fn push_chunk(&self, sealed: bool, digest: &Digest, bytes: Bytes) -> Result<ChunkStored, UplinkError>;
    /// A chunk of a backup, or its index, as the repository gave it, which has compared its digest.
    ///
    /// # Errors
    /// `Away`, `Certificate`, `NotFound`, `Damaged`, `Refused`.
    async fn fetch_chunk(&self, sealed: bool, digest: &Digest) -> Result<Bytes, UplinkError>;
}
