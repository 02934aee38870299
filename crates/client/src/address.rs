//! Where a control plane is, and what opens it.

use crate::ClientError;
use http::Uri;
use http::uri::Authority;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

/// Where calls go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// `HOST:PORT` of a control plane.
    Http(Authority),
    /// An agent's socket on this host.
    Socket(PathBuf),
}

impl Address {
    /// Takes `http://HOST[:PORT]`, with or without a final slash.
    ///
    /// # Errors
    /// `Unreachable` when it is no such URL, or is `https`.
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let refuse = |cause: &str| ClientError::Unreachable { address: url.to_owned(), cause: cause.to_owned() };
        let uri: Uri = url.parse().map_err(|_| refuse("this is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(refuse("https is not spoken yet; use http on loopback or a tunnel")),
            _ => return Err(refuse("a URL like http://127.0.0.1:8080 is needed")),
        }
        let bare = uri.path_and_query().is_none_or(|p| p.as_str() == "/");
        let authority = uri.authority().filter(|a| !a.as_str().contains('@') && bare);
        let place = authority.cloned().map(Place::Http);
        place.map(Self).ok_or_else(|| refuse("only scheme, host and port belong here"))
    }

    /// An agent's own API: its socket on this host.
    pub fn socket_at(path: PathBuf) -> Self {
        Self(Place::Socket(path))
    }

    /// That socket.
    pub(crate) fn local(&self) -> Option<&Path> {
        match &self.0 {
            Place::Http(_) => None,
            Place::Socket(path) => Some(path),
        }
    }

    /// What stands in the `Host` header.
    fn authority(&self) -> &str {
        match &self.0 {
            Place::Http(authority) => authority.as_str(),
            Place::Socket(_) => "localhost",
        }
    }

    /// `http://HOST:PORT` and this path.
    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority())
    }

    /// `ws://HOST:PORT` and this path.
    pub(crate) fn websocket(&self, path: &str) -> String {
        format!("ws://{}{path}", self.authority())
    }

    /// `HOST:PORT`, for a socket; an agent has none.
    pub(crate) fn socket(&self) -> (String, u16) {
        match &self.0 {
            Place::Http(authority) => {
                let host = authority.host().trim_start_matches('[').trim_end_matches(']');
                (host.to_owned(), authority.port_u16().unwrap_or(80))
            }
            Place::Socket(_) => ("localhost".to_owned(), 0),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Http(authority) => write!(f, "http://{authority}"),
            Place::Socket(path) => path.display().fmt(f),
        }
    }
}

/// A bearer token. Never shown, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes the text without the white space around it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
    /// The value of the `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters: safe in a segment and in a query.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    // A client that tidies paths would take these two for steps.
    match out.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_scheme_host_and_port() {
        for good in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:1/"] {
            assert!(Address::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:8080", "https://a", "http://a/b", "http://u:p@a", "ftp://a", "http://a/?q"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Address::parse("http://[::1]:9").unwrap().socket(), ("::1".to_owned(), 9));
    }

    #[test]
    fn segments_hold_anything() {
        assert_eq!(encoded("web-1"), "web-1");
        assert_eq!(encoded("a/b?c=ä\n"), "a%2Fb%3Fc%3D%C3%A4%0A");
        assert_eq!(encoded(".."), "%2E%2E");
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(…)");
    }
}
