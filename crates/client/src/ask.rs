//! One request, before it is sent.

use bytes::Bytes;
use http::Method;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use std::io;
use std::time::Duration;

/// A body on its way out: bytes at hand or a stream.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// One request, before it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub method: Method,
    pub path: String,
    pub body: Bytes,
    pub media: Option<&'static str>,
    pub wait: Option<Duration>,
    pub if_match: Option<String>,
}

impl Ask {
    /// Without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: Bytes::new(), media: None, wait: None, if_match: None }
    }
    /// With a JSON body.
    pub fn json(mut self, body: Bytes) -> Self {
        self.body = body;
        self.media = Some("application/json");
        self
    }
    /// Waits up to this long for the work itself.
    pub fn waiting(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait;
        self
    }
}

/// Bytes at hand.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
