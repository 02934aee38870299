//! Ports of a host that lead to a guest.

use crate::egress::Protocol;
use crate::{GuestId, Refusal};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most forwards to one guest.
pub const FORWARDS_MAX: usize = 256;

/// A port of the host, at each of its addresses but the loopback ones, that leads to a port of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Forward {
    /// Of both ports.
    pub protocol: Protocol,
    /// At the host; from 1.
    pub host_port: u16,
    /// At the guest; from 1.
    pub guest_port: u16,
}

/// What is wrong with a forward.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no forward: write 8080:80 (the host's port, then the guest's), 8080 when both are the same, or udp/5353:53; ports are 1 to 65535"
)]
pub struct ForwardError(String);

impl Forward {
    /// From and to these ports.
    ///
    /// # Errors
    /// `BadField` of the port that is none.
    pub fn new(protocol: Protocol, host_port: u32, guest_port: u32) -> Result<Self, Refusal> {
        let port = |field: &str, port: u32| {
            let fits = u16::try_from(port).ok().filter(|port| *port > 0);
            fits.ok_or_else(|| Refusal::field(field, format!("ports are 1 to 65535, not {port}")))
        };
        Ok(Self { protocol, host_port: port("host_port", host_port)?, guest_port: port("guest_port", guest_port)? })
    }

    /// Whether both begin at one place of the host.
    pub fn clashes(self, other: Self) -> bool {
        (self.protocol, self.host_port) == (other.protocol, other.host_port)
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.protocol, self.host_port, self.guest_port)
    }
}

impl FromStr for Forward {
    type Err = ForwardError;
    /// `8080`, `8080:80`, `tcp/8080:80`, `udp/5353:53`.
    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let wrong = || ForwardError(text.to_owned());
        let (protocol, ports) = match text.split_once('/') {
            Some((word, ports)) => (Protocol::parse(word).ok_or_else(wrong)?, ports),
            None => (Protocol::Tcp, text),
        };
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let (host, guest) = ports.split_once(':').unwrap_or((ports, ports));
        let (Some(host), Some(guest)) = (number(host), number(guest)) else { return Err(wrong()) };
        Self::new(protocol, host, guest).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Forward {
    type Error = ForwardError;
    fn try_from(text: String) -> Result<Self, ForwardError> {
        text.parse()
    }
}
impl From<Forward> for String {
    fn from(forward: Forward) -> Self {
        forward.to_string()
    }
}

/// What one guest cannot have of another's forwards, or of its own.
pub fn fault<'a>(
    wanted: Forward,
    own: &[Forward],
    others: impl Iterator<Item = (GuestId, &'a [Forward])>,
) -> Option<ForwardFault> {
    if own.contains(&wanted) {
        return None;
    }
    if own.len() >= FORWARDS_MAX {
        return Some(ForwardFault::Long);
    }
    if own.iter().any(|one| one.clashes(wanted)) {
        return Some(ForwardFault::Own);
    }
    let mut others = others;
    others.find(|(_, theirs)| theirs.iter().any(|one| one.clashes(wanted))).map(|(guest, _)| ForwardFault::Taken(guest))
}

/// Why a guest cannot have a forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardFault {
    /// It has [`FORWARDS_MAX`].
    Long,
    /// The port leads to another port of the same guest.
    Own,
    /// The port leads to this one.
    Taken(GuestId),
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn forwards_are_read_and_written() {
        for (text, said) in [
            ("8080", "tcp/8080:8080"),
            ("8080:80", "tcp/8080:80"),
            ("tcp/8080:80", "tcp/8080:80"),
            ("udp/5353:53", "udp/5353:53"),
            ("65535:1", "tcp/65535:1"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.to_string(), said);
            let json = serde_json::to_string(&forward).unwrap();
            assert_eq!(serde_json::from_str::<Forward>(&json).unwrap(), forward);
        }
        for bad in ["", "0", "0:80", "80:0", "65536", "-1", "+80", "80:", ":80", "sctp/80", "80:80:80", "80;drop"] {
            assert_eq!(bad.parse::<Forward>(), Err(ForwardError(bad.to_owned())), "{bad}");
        }
        let refused = Forward::new(Protocol::Tcp, 80, 65536).unwrap_err();
        assert_eq!(
            (refused.pointer.as_deref(), refused.shown.as_str()),
            (Some("/guest_port"), "ports are 1 to 65535, not 65536")
        );
    }

    #[test]
    fn a_port_leads_to_one_place() {
        let id = |n| GuestId::new(Uuid::from_u128(n));
        let list = |text: &str| text.split_whitespace().map(|t| t.parse().unwrap()).collect::<Vec<Forward>>();
        let check = |wanted: &str, expected: Option<ForwardFault>| {
            let (own, other) = (list("80:8080"), list("81:80 udp/53"));
            let others = [(id(2), other.as_slice())];
            assert_eq!(fault(wanted.parse().unwrap(), &own, others.into_iter()), expected, "{wanted}");
        };
        check("80:8080", None);
        check("80:1", Some(ForwardFault::Own));
        check("81:1", Some(ForwardFault::Taken(id(2))));
        check("53", None);
        check("udp/53:5", Some(ForwardFault::Taken(id(2))));
        check("udp/80", None);
        let many: Vec<_> =
            (1..=FORWARDS_MAX as u32).map(|port| Forward::new(Protocol::Tcp, port, 1).unwrap()).collect();
        assert_eq!(fault("999".parse().unwrap(), &many, std::iter::empty()), Some(ForwardFault::Long));
    }
}
