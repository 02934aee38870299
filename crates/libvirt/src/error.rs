//! Why something was not answered: one enum for calls, one for what ends a connection.

use crate::Procedure;
use crate::limits;
use crate::xdr::{Decoder, Malformed};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error as ThisError;

/// Why a call has no answer.
#[derive(Debug, Clone, ThisError)]
pub enum Error {
    /// Nobody listens on the socket, or it may not be opened.
    #[error("cannot reach libvirt at {at}: {source}")]
    Unreachable {
        /// The socket, or the far machine.
        at: String,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// A file that TLS needs cannot be used.
    #[error("{} cannot be used: {fault}", path.display())]
    Credentials {
        /// Which.
        path: PathBuf,
        /// Why.
        fault: String,
    },
    /// The program that carries the connection gave up, or what it carries is not libvirt.
    #[error("cannot reach libvirt at {at}: {said} ({broken})")]
    Carrier {
        /// The far machine.
        at: String,
        /// What the program said: the last of it, in one line.
        said: String,
        /// How the connection ended.
        broken: Broken,
    },
    /// The daemon wants a proof of identity; this crate has none to give.
    #[error("libvirt asks for authentication of kinds {offered:?}; only none (0) is known here")]
    Authentication {
        /// libvirt's numbers: 1 SASL, 2 polkit.
        offered: Vec<u32>,
    },
    /// libvirt did what was asked and says no.
    #[error("libvirt: {message} (code {code}, domain {domain})")]
    Libvirt {
        /// `virErrorNumber`; 42 is "no such domain".
        code: i32,
        /// `virErrorDomain`: which part of libvirt speaks.
        domain: i32,
        /// libvirt's words.
        message: String,
    },
    /// No answer in time. The call may still be carried out; its late answer is discarded.
    #[error("{procedure} was not answered within {limit:?}")]
    Deadline {
        /// What was called.
        procedure: Procedure,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A stream needs a connection of its own, and this one was handed its socket ([`crate::Connection::over`]):
    /// it does not know how to open another.
    #[error("this connection cannot open streams: it does not know where its daemon listens")]
    NoRoute,
    /// The connection is gone, for every call on it; open another one.
    #[error("the connection to libvirt is broken: {0}")]
    Broken(#[from] Broken),
    /// What was to be sent is larger than libvirt takes; it was not sent.
    #[error("{procedure} was not sent: {malformed}")]
    Arguments {
        /// What was called.
        procedure: Procedure,
        /// Which limit.
        malformed: Malformed,
    },
    /// The answer is not what the protocol says. The connection lives on.
    #[error("the answer to {procedure} is malformed: {malformed}")]
    Reply {
        /// What was called.
        procedure: Procedure,
        /// What is wrong.
        malformed: Malformed,
    },
}

/// libvirt's numbers for why it says no (`virErrorNumber`), those that callers tell apart.
pub mod codes {
    /// An argument or flag that cannot be.
    pub const INVALID: i32 = 8;
    /// Of the hypervisor, or of nothing in particular.
    pub const FAILED: i32 = 9;
    /// XML that is no definition.
    pub const BAD_XML: i32 = 27;
    /// There is no such domain.
    pub const NO_DOMAIN: i32 = 42;
    /// There is no such network.
    pub const NO_NETWORK: i32 = 43;
    /// Not in this state: to stop what does not run, to start what does.
    pub const NOT_NOW: i32 = 55;
    /// A definition that this host cannot bring about.
    pub const UNSUPPORTED: i32 = 67;
    /// A lock of the domain's was not to be had, mostly for half a minute.
    pub const TIMED_OUT: i32 = 68;
    /// The domain has no such snapshot.
    pub const NO_SNAPSHOT: i32 = 72;
    /// The domain has no such metadata.
    pub const NO_METADATA: i32 = 80;
    /// The guest has no agent, or it does not answer.
    pub const NO_AGENT: i32 = 86;
    /// The domain has no such device.
    pub const NO_DEVICE: i32 = 99;
}

impl Error {
    pub(crate) fn unreachable(at: String, source: std::io::Error) -> Self {
        Self::Unreachable { at, source: Arc::new(source) }
    }

    /// libvirt's own number, when it is libvirt that says no.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Libvirt { code, .. } => Some(*code),
            Self::Unreachable { .. }
            | Self::NoRoute
            | Self::Credentials { .. }
            | Self::Carrier { .. }
            | Self::Authentication { .. }
            | Self::Deadline { .. }
            | Self::Broken(_)
            | Self::Arguments { .. }
            | Self::Reply { .. } => None,
        }
    }

    /// An error packet's payload. More fields follow the message; nobody here needs them.
    pub(crate) fn from_payload(procedure: Procedure, payload: &[u8]) -> Self {
        let mut from = Decoder::new(payload);
        let mut read = || -> Result<Self, Malformed> {
            let (code, domain) = (from.i32()?, from.i32()?);
            let message = from.optional_string(limits::STRING)?.unwrap_or_default();
            Ok(Self::Libvirt { code, domain, message })
        };
        read().unwrap_or_else(|malformed| Self::Reply { procedure, malformed })
    }
}

/// What ended a connection.
#[derive(Debug, Clone, ThisError)]
pub enum Broken {
    /// Closed on this side.
    #[error("closed here")]
    Closed,
    /// The daemon ended it.
    #[error("the daemon hung up")]
    HungUp,
    /// The socket failed.
    #[error("{0}")]
    Io(Arc<std::io::Error>),
    /// Nothing came for so many pings.
    #[error("no sign of life for {0} pings")]
    Silent(u32),
    /// A packet that cannot be: nothing after it can be trusted.
    #[error("a packet is malformed: {0}")]
    Protocol(#[from] Malformed),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => Self::HungUp,
            _ => Self::Io(Arc::new(error)),
        }
    }
}
