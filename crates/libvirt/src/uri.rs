//! libvirt's URIs, read by us: where a daemon is and which of its drivers is meant.
//!
//! ```text
//! qemu:///system                                        the local socket
//! qemu+unix:///system?socket=/run/libvirt/libvirt-sock
//! qemu+ssh://user@host:22/system?keyfile=/k&socket=/s   by the system's ssh
//! qemu+tls://host:16514/system?pkipath=/etc/perigee/pki with certificates, both ways
//! qemu+tcp://host:16509/system                          in the clear: only where that is allowed
//! ```
//! Refuses: everything else, by name. Not read are libvirt's aliases (`uri_aliases`), sessions of users,
//! `no_verify` (it would make TLS and SSH worthless) and `command` (a URI names no program to run).

use crate::ssh::Ssh;
use crate::tls::{PORT as TLS_PORT, Tls};
use crate::transport::Endpoint;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

const TCP_PORT: u16 = 16509;
/// Where libvirtd listens when nothing else is said.
const SOCKET: &str = "/run/libvirt/libvirt-sock";
/// Longest URI.
const CHARS_MAX: usize = 2048;

/// A URI taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where the daemon is.
    pub endpoint: Endpoint,
    /// The driver there, as [`crate::Connection::open`] takes it.
    pub driver: String,
}

/// Why a URI is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UriError {
    /// Not of the form `driver[+transport]://[user@][host][:port]/path[?name=value&…]`.
    #[error("this is no libvirt URI: {0}")]
    Form(&'static str),
    /// Another driver than `qemu`.
    #[error("the driver {0:?} is not known here; qemu is")]
    Driver(String),
    /// Another transport than unix, ssh, tls and tcp.
    #[error("the transport {0:?} is not known here; unix, ssh, tls and tcp are")]
    Transport(String),
    /// Another path than `/system`.
    #[error("the path {0:?} is not known here; /system is")]
    Path(String),
    /// Everybody on the way could read and change what is sent.
    #[error("qemu+tcp is neither encrypted nor authenticated and is not allowed here; use qemu+tls or qemu+ssh")]
    PlainTcp,
    /// A parameter that is not known for this transport.
    #[error("the parameter {0:?} is not known for this transport")]
    Parameter(String),
    /// A parameter with an impossible value.
    #[error("the parameter {0:?} takes an absolute path")]
    Value(&'static str),
}

/// The parts of the text.
struct Parts<'a> {
    transport: Option<&'a str>,
    user: Option<String>,
    host: String,
    port: Option<u16>,
    parameters: Vec<(String, String)>,
}

impl Target {
    /// Reads one. `plain_tcp` allows `qemu+tcp`.
    ///
    /// # Errors
    /// [`UriError`], which never holds more of the text than the part it is about.
    pub fn parse(text: &str, plain_tcp: bool) -> Result<Self, UriError> {
        let Parts { transport, user, host, port, mut parameters } = Parts::read(text)?;
        let mut path = |name: &'static str| -> Result<Option<PathBuf>, UriError> {
            let Some(at) = parameters.iter().position(|(known, _)| known == name) else { return Ok(None) };
            let value = parameters.swap_remove(at).1;
            let fits = value.starts_with('/') && !value.chars().any(char::is_control);
            if fits { Ok(Some(value.into())) } else { Err(UriError::Value(name)) }
        };
        let transport = match (transport, host.is_empty()) {
            (None, true) => "unix",
            // As libvirt does it: a host alone means TLS.
            (None, false) => "tls",
            (Some(named), _) => named,
        };
        let only_host = user.is_none() && !host.is_empty();
        let endpoint = match transport {
            "unix" if host.is_empty() && user.is_none() && port.is_none() => {
                Endpoint::Unix(path("socket")?.unwrap_or_else(|| SOCKET.into()))
            }
            "unix" => return Err(UriError::Form("a local socket has no host")),
            "ssh" if !host.is_empty() => {
                let (keyfile, socket, known_hosts) = (path("keyfile")?, path("socket")?, path("known_hosts")?);
                Endpoint::Ssh(Ssh { user, port, keyfile, socket, known_hosts, ..Ssh::new(host) })
            }
            "tls" if only_host => {
                let folder = path("pkipath")?;
                Endpoint::Tls(Tls { port: port.unwrap_or(TLS_PORT), ..Tls::new(host, folder.as_deref()) })
            }
            "tcp" if !plain_tcp => return Err(UriError::PlainTcp),
            "tcp" if only_host => Endpoint::Tcp { host, port: port.unwrap_or(TCP_PORT) },
            "ssh" | "tls" | "tcp" => return Err(UriError::Form("a host is needed, and a user for ssh alone")),
            other => return Err(UriError::Transport(shown(other))),
        };
        match parameters.first() {
            Some((name, _)) => Err(UriError::Parameter(shown(name))),
            None => Ok(Self { endpoint, driver: "qemu:///system".to_owned() }),
        }
    }
}

/// Without leave for `qemu+tcp`.
impl FromStr for Target {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text, false)
    }
}

impl<'a> Parts<'a> {
    fn read(text: &'a str) -> Result<Self, UriError> {
        if text.len() > CHARS_MAX || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(UriError::Form("it is too long, or holds white space"));
        }
        let (scheme, rest) = text.split_once("://").ok_or(UriError::Form("it begins as qemu:// does"))?;
        let (driver, transport) = match scheme.split_once('+') {
            Some((driver, transport)) => (driver, Some(transport)),
            None => (scheme, None),
        };
        if driver != "qemu" {
            return Err(UriError::Driver(shown(driver)));
        }
        if rest.contains('#') {
            return Err(UriError::Form("it has no fragment"));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').ok_or(UriError::Form("a path is needed: /system"))?;
        if path != "system" {
            return Err(UriError::Path(shown(path)));
        }
        let (user, server) = match authority.rsplit_once('@') {
            Some((user, server)) => (Some(name(user)?), server),
            None => (None, authority),
        };
        let (host, port) = server_of(server)?;
        let mut parameters: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(UriError::Parameter(shown(&name)));
            }
            parameters.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { transport, user, host, port, parameters })
    }
}

/// A user's or host's name that no program takes for an option, and no shell for more than a word.
fn name(text: &str) -> Result<String, UriError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = !text.is_empty() && !text.starts_with('-') && text.chars().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(UriError::Form("names are letters, digits, '.', '_' and '-'")) }
}

fn server_of(server: &str) -> Result<(String, Option<u16>), UriError> {
    if server.is_empty() {
        return Ok((String::new(), None));
    }
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, after) =
                rest.split_once(']').ok_or(UriError::Form("an address that begins with [ ends with ]"))?;
            let address: std::net::Ipv6Addr = host.parse().map_err(|_| UriError::Form("[…] holds an IPv6 address"))?;
            (address.to_string(), after.strip_prefix(':').or(if after.is_empty() { None } else { Some(after) }))
        }
        None => match server.split_once(':') {
            Some((host, port)) => (name(host)?, Some(port)),
            None => (name(server)?, None),
        },
    };
    let number = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or(UriError::Form("a port is 1 to 65535"));
    Ok((host, port.map(number).transpose()?))
}

/// A piece of the text for a message: it may be anything.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
