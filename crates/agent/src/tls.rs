//! TLS 1.3 to the control plane, and who is believed to be it.
//!
//! Owns: three kinds of trust (a pinned fingerprint before the host has joined, the authority
//! afterwards, the authority with our own certificate for the link) and the HTTP/2 connection on
//! top. Refuses: TLS 1.2, the system's trust store, and a server without the name `perigee`.

use crate::identity::Identity;
use crate::uplink::UplinkError;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The name in the server's certificate, wherever the server is.
const SERVER_NAME: &str = "perigee";
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// HTTP/2 pings: a dead peer is noticed within 15 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER_WITHIN: Duration = Duration::from_secs(5);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The control plane's port when the URL has none.
const PORT: u16 = 8443;

/// Where the control plane listens for agents: `https://host:8443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    host: String,
    port: u16,
}

/// A URL that is not one of a control plane.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the control plane's URL is https://HOST[:PORT] and nothing else")]
pub struct BadUrl;

impl FromStr for ServerUrl {
    type Err = BadUrl;
    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let uri: http::Uri = text.parse().map_err(|_| BadUrl)?;
        let plain = uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().filter(|a| plain && !a.as_str().contains('@')).ok_or(BadUrl)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(BadUrl);
        }
        Ok(Self { host, port: authority.port_u16().unwrap_or(PORT) })
    }
}
impl ServerUrl {
    /// Whether it names the loopback interface.
    pub fn is_this_machine(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "https://[{}]:{}", self.host, self.port),
            false => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    Ok(roots)
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;
fn builder() -> Result<Builder, rustls::Error> {
    ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])
}

fn with_h2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// For the link: our certificate, their authority.
///
/// # Errors
/// When key and certificate do not belong together.
pub fn mutual(identity: &Identity) -> Result<ClientConfig, rustls::Error> {
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes());
    let key = key.map_err(|_| rustls::Error::General("the key cannot be read".to_owned()))?;
    let config = builder()?
        .with_root_certificates(roots(&identity.authority)?)
        .with_client_auth_cert(vec![identity.certificate.clone()], key)?;
    Ok(with_h2(config))
}

/// For a renewal: their authority, nothing of ours.
///
/// # Errors
/// When the authority's certificate cannot be read.
pub fn anonymous(identity: &Identity) -> Result<ClientConfig, rustls::Error> {
    let config = builder()?.with_root_certificates(roots(&identity.authority)?).with_no_client_auth();
    Ok(with_h2(config))
}

/// For enrolment: whoever shows an authority with this SHA-256 and a certificate signed by it.
///
/// # Errors
/// When the TLS library cannot be set up.
pub fn pinned(authority_sha256: [u8; 32]) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(PinnedAuthority { sha256: authority_sha256, provider: provider() });
    let config = builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(with_h2(config))
}

/// Believes the authority whose fingerprint the join token carries.
#[derive(Debug)]
struct PinnedAuthority {
    sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned = |c: &&CertificateDer<'_>| Sha256::digest(c).as_slice() == self.sha256;
        let authority = intermediates.iter().find(is_pinned);
        let authority = authority.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let roots = Arc::new(roots(&authority.clone().into_owned())?);
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Opens an HTTP/2 connection to the control plane.
///
/// # Errors
/// `Away`, or `Certificate` when either side does not accept the other's.
pub async fn connect(server: &ServerUrl, config: ClientConfig) -> Result<Channel, UplinkError> {
    let (server, config) = (server.clone(), Arc::new(config));
    let dial = tower::service_fn(move |_: Uri| {
        let (server, config) = (server.clone(), config.clone());
        async move { dial(&server, config).await.map(TokioIo::new) }
    });
    // TLS is ours: to tonic this is an ordinary stream.
    let endpoint = Endpoint::from_static("http://perigee")
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER_WITHIN)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    endpoint.connect_with_connector(dial).await.map_err(|e| broken(&e))
}

/// Opens a connection to the control plane for HTTP/1.1.
///
/// # Errors
/// `Away`, or `Certificate` when either side does not accept the other's.
pub async fn connect_http1(server: &ServerUrl, mut config: ClientConfig) -> Result<TlsStream<TcpStream>, UplinkError> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    dial(server, Arc::new(config)).await.map_err(|e| broken(&e))
}

async fn dial(server: &ServerUrl, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(SERVER_NAME).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(name, tcp).await
}

/// A broken connection: a matter of certificates, or of the way.
pub fn broken(error: &dyn std::error::Error) -> UplinkError {
    let text = crate::chain(error);
    let alert = text.contains("fatal alert") && (text.contains("ertificate") || text.contains("UnknownCA"));
    if alert || text.contains("invalid peer certificate") {
        UplinkError::Certificate(text)
    } else {
        UplinkError::Away(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_https_and_bare() {
        let local = |text: &str| text.parse::<ServerUrl>().is_ok_and(|u| u.is_this_machine());
        assert!(local("https://127.0.0.1:1") && local("https://[::1]") && local("https://localhost"));
        assert!(!local("https://10.0.0.1") && !local("https://localhost.example"));
        let show = |text: &str| text.parse::<ServerUrl>().map(|u| u.to_string());
        assert_eq!(show("https://a.example"), Ok("https://a.example:8443".to_owned()));
        assert_eq!(show("https://127.0.0.1:18443/"), Ok("https://127.0.0.1:18443".to_owned()));
        assert_eq!(show("https://[::1]:1"), Ok("https://[::1]:1".to_owned()));
        for bad in ["", "a:1", "http://a:1", "https://a/x", "https://u@a", "https://a?x=1", "https://"] {
            assert_eq!(show(bad), Err(BadUrl), "{bad}");
        }
    }
}
