//! One GET: resolve, guard, connect, ask, and follow where it leads.

use crate::guard::{Guard, place};
use crate::{Limits, OutboundError};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HOST, IF_RANGE, LOCATION, RANGE, USER_AGENT};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

/// Head of an answer, and what is read ahead of a body.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// Less than this in `stall_within` is nothing.
const PACE_BYTES: usize = 16 << 10;
const AGENT: &str = concat!("perigee/", env!("CARGO_PKG_VERSION"));

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The one client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbound(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    guard: Guard,
    limits: Limits,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// A 200 or 206, its body still to come.
#[derive(Debug)]
pub struct Answer {
    /// Its head.
    pub headers: HeaderMap,
    /// Whether it is the part that was asked for, not the whole.
    pub is_part: bool,
    /// Where it came from, after all redirects.
    pub from: Url,
    /// The whole body's length as it is declared; of a part, the part's.
    pub declared: Option<u64>,
    body: Incoming,
    stall_within: Duration,
    waited: Duration,
    pace: usize,
}

/// From where on, of what.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    pub at: u64,
    pub validator: String,
}

impl Outbound {
    /// With the machine's certificates of authorities, which are read at the first call that needs them.
    pub fn new(guard: Guard, limits: Limits) -> Self {
        Self(Arc::new(Parts { guard, limits, tls: OnceLock::new() }))
    }

    /// With these authorities alone.
    pub fn trusting(guard: Guard, limits: Limits, roots: RootCertStore) -> Result<Self, OutboundError> {
        let tls = OnceLock::from(config(roots)?);
        Ok(Self(Arc::new(Parts { guard, limits, tls })))
    }

    /// What a call may cost.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Gets an address, through redirects.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn get(&self, address: &str) -> Result<Answer, OutboundError> {
        self.get_rest(address, None).await
    }

    pub(crate) async fn get_rest(&self, address: &str, rest: Option<&Rest>) -> Result<Answer, OutboundError> {
        let mut url = place(address)?;
        for _ in 0..=self.0.limits.redirects_max {
            let answer = self.ask(&url, rest).await?;
            match answer.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => url = led(&url, answer.headers())?,
                200 | 206 => return self.answer(url, answer, rest.is_some()),
                status => return Err(OutboundError::Status { host: named(&url), status }),
            }
        }
        Err(OutboundError::TooManyRedirects(self.0.limits.redirects_max))
    }

    fn answer(&self, from: Url, answer: Response<Incoming>, rest: bool) -> Result<Answer, OutboundError> {
        let strange = |what: &str| OutboundError::Strange { host: named(&from), what: what.to_owned() };
        let (head, body) = answer.into_parts();
        let is_part = head.status.as_u16() == 206;
        if is_part && !rest {
            return Err(strange("it sends a part where the whole was asked for"));
        }
        let packed = head.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
        if packed {
            return Err(strange("it packs what was to come as it is (Content-Encoding)"));
        }
        let declared = hyper::body::Body::size_hint(&body).exact();
        let stall_within = self.0.limits.stall_within;
        Ok(Answer {
            headers: head.headers,
            is_part,
            from,
            declared,
            body,
            stall_within,
            waited: Duration::ZERO,
            pace: 0,
        })
    }

    /// One request to one address.
    async fn ask(&self, url: &Url, rest: Option<&Rest>) -> Result<Response<Incoming>, OutboundError> {
        let limits = &self.0.limits;
        let broken = |error: hyper::Error| OutboundError::Broken { host: named(url), said: deepest(&error) };
        let socket = self.connect(url).await?;
        let stream: Box<dyn Stream> =
            if url.scheme() == "https" { self.shake(url, socket).await? } else { Box::new(socket) };
        let mut wire = http1::Builder::new();
        wire.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let (mut sender, connection) = wire.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with its only answer; an error of it is the body's, or the request's, and told there.
        tokio::spawn(async move { drop(connection.await) });
        let request = request(url, rest)?;
        let answer = timeout(limits.head_within, sender.send_request(request)).await;
        answer.map_err(|_| stalled(url, limits.head_within))?.map_err(broken)
    }

    /// To the first of its addresses that may be called and answers.
    async fn connect(&self, url: &Url) -> Result<TcpStream, OutboundError> {
        let within = self.0.limits.connect_within;
        let mut last = None;
        for address in self.resolve(url).await? {
            if let Some(why) = self.0.guard.fault(address.ip()) {
                let (host, address) = (named(url), address.ip());
                last = last.or(Some(OutboundError::Forbidden { host, address, why }));
                continue;
            }
            let said = match timeout(within, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no connection within {within:?}"),
            };
            last = Some(OutboundError::Unreachable { host: named(url), said });
        }
        Err(last.unwrap_or_else(|| unresolved(url, "it has no address")))
    }

    async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, OutboundError> {
        let port = url.port_or_known_default().unwrap_or(443);
        let name = match url.host() {
            Some(Host::Ipv4(address)) => return Ok(vec![SocketAddr::from((address, port))]),
            Some(Host::Ipv6(address)) => return Ok(vec![SocketAddr::from((address, port))]),
            Some(Host::Domain(name)) => name,
            None => return Err(unresolved(url, "it names no host")),
        };
        let within = self.0.limits.connect_within;
        match timeout(within, tokio::net::lookup_host((name, port))).await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(error)) => Err(unresolved(url, &error.to_string())),
            Err(_) => Err(unresolved(url, &format!("no answer within {within:?}"))),
        }
    }

    /// The machine's authorities are read once, off the runtime's threads.
    async fn tls(&self) -> Result<Arc<ClientConfig>, OutboundError> {
        if let Some(tls) = self.0.tls.get() {
            return Ok(tls.clone());
        }
        let read = tokio::task::spawn_blocking(machine_roots).await;
        let tls = config(read.unwrap_or_else(|_| RootCertStore::empty()))?;
        Ok(self.0.tls.get_or_init(|| tls).clone())
    }

    async fn shake(&self, url: &Url, socket: TcpStream) -> Result<Box<dyn Stream>, OutboundError> {
        let unreachable = |said: String| OutboundError::Unreachable { host: named(url), said };
        let tls = self.tls().await?;
        let name = match url.host() {
            Some(Host::Domain(name)) => {
                ServerName::try_from(name.to_owned()).map_err(|e| unreachable(e.to_string()))?
            }
            Some(Host::Ipv4(address)) => ServerName::IpAddress(address.into()),
            Some(Host::Ipv6(address)) => ServerName::IpAddress(address.into()),
            None => return Err(unreachable("it names no host".to_owned())),
        };
        let within = self.0.limits.connect_within;
        match timeout(within, TlsConnector::from(tls).connect(name, socket)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no TLS within {within:?}"))),
        }
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end. A body that breaks off is an error, never an end.
    ///
    /// # Errors
    /// `Stalled`, `Broken`.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OutboundError> {
        loop {
            let asked = tokio::time::Instant::now();
            let left = self.stall_within.saturating_sub(self.waited);
            let frame = timeout(left, self.body.frame()).await;
            // Only waiting counts: whoever writes it to a slow disk has not been stalled by the other end.
            self.waited += asked.elapsed();
            let frame = match frame.map_err(|_| stalled(&self.from, self.stall_within))? {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(OutboundError::Broken { host: named(&self.from), said: deepest(&error) });
                }
                Some(Ok(frame)) => frame,
            };
            let Ok(bytes) = frame.into_data() else { continue };
            self.pace += bytes.len();
            if self.pace >= PACE_BYTES {
                (self.pace, self.waited) = (0, Duration::ZERO);
            }
            return Ok(Some(bytes));
        }
    }
}

fn request(url: &Url, rest: Option<&Rest>) -> Result<Request<Empty<Bytes>>, OutboundError> {
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let request =
        Request::get(path).header(HOST, authority).header(USER_AGENT, AGENT).header(ACCEPT_ENCODING, "identity");
    let request = match rest {
        Some(rest) => request.header(RANGE, format!("bytes={}-", rest.at)).header(IF_RANGE, &rest.validator),
        None => request,
    };
    request.body(Empty::new()).map_err(|fault| OutboundError::BadAddress(format!("it cannot be asked for: {fault}")))
}

/// Where an answer leads to.
fn led(url: &Url, headers: &HeaderMap) -> Result<Url, OutboundError> {
    let strange = |what: &str| OutboundError::Strange { host: named(url), what: what.to_owned() };
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| strange("it leads on, and does not say where to"))?;
    let next = url.join(location).map_err(|_| strange("it leads to what is no address"))?;
    let next = place(next.as_str())?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(OutboundError::Downgrade { host: named(url) });
    }
    Ok(next)
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, OutboundError> {
    if roots.is_empty() {
        return Err(OutboundError::NoAuthorities);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|_| OutboundError::NoAuthorities)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Those that cannot be read vouch for nobody.
fn machine_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn named(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

fn stalled(url: &Url, within: Duration) -> OutboundError {
    OutboundError::Stalled { host: named(url), within }
}

fn unresolved(url: &Url, said: &str) -> OutboundError {
    OutboundError::Unresolved { host: named(url), said: said.to_owned() }
}

/// The last cause says what happened.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
