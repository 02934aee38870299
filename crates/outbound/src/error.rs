//! Why something was not fetched, in words for whoever gave the address.

use std::net::IpAddr;
use std::time::Duration;

/// Why something was not fetched. No text holds more of a far server's words than a status.
#[derive(thiserror::Error, Debug)]
pub enum OutboundError {
    /// It is no address that is called.
    #[error("{0}")]
    BadAddress(String),
    /// It lies where no call goes.
    #[error("{host} is at {address}, which is {why}; allow it with --outbound-allow if it is yours")]
    Forbidden {
        /// As it was called.
        host: String,
        /// Where it is.
        address: IpAddr,
        /// `a private address`.
        why: &'static str,
    },
    /// https led to http.
    #[error("{host} leads from https to http: anybody on the way could change what comes; name an https address")]
    Downgrade {
        /// Where it leads to.
        host: String,
    },
    /// Redirects without end.
    #[error("the address leads on more than {0} times")]
    TooManyRedirects(u32),
    /// The name has no address, or nobody could be asked.
    #[error("{host} cannot be resolved: {said}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        said: String,
    },
    /// Nobody is there, or who is there is not who it should be.
    #[error("{host} cannot be reached: {said}")]
    Unreachable {
        /// As it was called.
        host: String,
        /// What went wrong.
        said: String,
    },
    /// No authority is known that could vouch for anybody.
    #[error("this machine has no certificates of authorities: apt-get install ca-certificates")]
    NoAuthorities,
    /// It says no.
    #[error("{host} answers {status}")]
    Status {
        /// Who.
        host: String,
        /// HTTP's number.
        status: u16,
    },
    /// Its answer is not one that can be used.
    #[error("{host} answers strangely: {what}")]
    Strange {
        /// Who.
        host: String,
        /// What is wrong.
        what: String,
    },
    /// It is, or says it is, too long.
    #[error("it has more than {limit} bytes")]
    TooLarge {
        /// What is taken.
        limit: u64,
    },
    /// It does not come.
    #[error("{host} sent nothing of use for {within:?}")]
    Stalled {
        /// Who.
        host: String,
        /// So long.
        within: Duration,
    },
    /// The connection broke.
    #[error("the connection to {host} broke: {said}")]
    Broken {
        /// To whom.
        host: String,
        /// What was said.
        said: String,
    },
    /// What was there is something else now.
    #[error("{host} has other bytes now than when the download began; begin again")]
    Changed {
        /// Who.
        host: String,
    },
}

impl OutboundError {
    /// Whether the same may work a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unresolved { .. } | Self::Unreachable { .. } | Self::Stalled { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => matches!(status, 429 | 500 | 502 | 503 | 504),
            Self::BadAddress(_)
            | Self::Forbidden { .. }
            | Self::Downgrade { .. }
            | Self::TooManyRedirects(_)
            | Self::NoAuthorities
            | Self::Strange { .. }
            | Self::TooLarge { .. }
            | Self::Changed { .. } => false,
        }
    }
}
