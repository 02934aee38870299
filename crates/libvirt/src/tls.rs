//! A daemon reached by TLS, with certificates both ways.
//!
//! Owns: the files, the handshake, and the byte by which libvirtd says that it takes our certificate.
//! Refuses: a server whose name is not in its certificate, or whose certificate is not the authority's.

use crate::error::Error;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where libvirtd listens for TLS.
pub(crate) const PORT: u16 = 16514;
/// libvirtd's word that it took our certificate.
const VERIFIED: u8 = 1;

/// A daemon behind TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The far machine, as its certificate names it.
    pub host: String,
    /// 16514, usually.
    pub port: u16,
    /// PEM: the authority that signed the daemon's certificate.
    pub authority: PathBuf,
    /// PEM: our certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// PEM: its key.
    pub key: PathBuf,
}

impl Tls {
    /// With the files where libvirt has them, or all in one folder.
    pub fn new(host: impl Into<String>, folder: Option<&Path>) -> Self {
        let in_folder = |name: &str, usual: &str| folder.map_or_else(|| usual.into(), |folder| folder.join(name));
        Self {
            host: host.into(),
            port: PORT,
            authority: in_folder("cacert.pem", "/etc/pki/CA/cacert.pem"),
            certificate: in_folder("clientcert.pem", "/etc/pki/libvirt/clientcert.pem"),
            key: in_folder("clientkey.pem", "/etc/pki/libvirt/private/clientkey.pem"),
        }
    }

    pub(crate) async fn shake(&self, socket: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let at = || format!("{}:{} (tls)", self.host, self.port);
        let name =
            ServerName::try_from(self.host.clone()).map_err(|_| Error::unreachable(at(), invalid("no host name")))?;
        let connector = TlsConnector::from(Arc::new(self.config()?));
        let refused = |source| Error::unreachable(at(), source);
        let mut stream = connector.connect(name, socket).await.map_err(refused)?;
        // Only now it looks at our certificate; one that it does not take ends the stream here.
        match stream.read_u8().await.map_err(refused)? {
            VERIFIED => Ok(stream),
            _ => Err(refused(invalid("the daemon did not take our certificate"))),
        }
    }

    fn config(&self) -> Result<ClientConfig, Error> {
        let unreadable = |path: &Path, fault: String| Error::Credentials { path: path.to_owned(), fault };
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, Error> {
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let all: Vec<_> = read.map_err(|e| unreadable(path, e.to_string()))?;
            if all.is_empty() { Err(unreadable(path, "it holds no certificate".to_owned())) } else { Ok(all) }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate).map_err(|e| unreadable(&self.authority, e.to_string()))?;
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| unreadable(&self.key, e.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|e| unreadable(&self.authority, e.to_string()))?.with_root_certificates(roots);
        let own = certificates(&self.certificate)?;
        config.with_client_auth_cert(own, key).map_err(|e| unreadable(&self.certificate, e.to_string()))
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
