//! Who this agent is: its key, its certificate and the authority it trusts.
//!
//! Owns: the folder `identity/` of the data directory (0700, files 0600), written whole or not at
//! all, and the identity in use now.
//! Refuses: keys that others can read.
//!
//! The key is made at enrolment and kept; a renewal replaces the certificate only, so that no crash
//! can leave a certificate beside the wrong key.

use crate::journal::{Keep, replace};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perigee_model::{HostId, Timestamp};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What is wrong with an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Others can read it.
    #[error("{} can be read or written by others (mode {mode:o}); it must be {wanted:o}", .path.display())]
    Exposed {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they must be.
        wanted: u32,
    },
    /// A file is not what it should be.
    #[error("{} is damaged; join the host again", .0.display())]
    Damaged(PathBuf),
    /// There is an identity already.
    #[error("this data directory belongs to host {0} already")]
    Exists(HostId),
    /// The operating system refused.
    #[error("{} cannot be used", .path.display())]
    Os {
        /// What.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// A host's identity.
#[derive(Clone)]
pub struct Identity {
    /// The host.
    pub host: HostId,
    /// PKCS#8 PEM of its P-256 key. Never shown, never logged.
    pub key_pem: String,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The authority that signed it and the server's.
    pub authority: CertificateDer<'static>,
    /// The certificate's life.
    pub valid: (Timestamp, Timestamp),
}

impl Identity {
    /// From its parts.
    ///
    /// # Errors
    /// `Damaged` when the certificate or the key cannot be read.
    pub fn new(
        host: HostId,
        key_pem: String,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Self, IdentityError> {
        let damaged = |name: &str| IdentityError::Damaged(PathBuf::from(name));
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| damaged("cert.pem"))?;
        let at = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
        let validity = parsed.validity();
        let valid = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| damaged("key.pem"))?;
        Ok(Self { host, key_pem, certificate, authority, valid })
    }

    /// When it should be renewed: at half life.
    pub fn renew_at(&self) -> Timestamp {
        let (from, until) = self.valid;
        from + until.since(from) / 2
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.host)
    }
}

/// The folder that keeps an identity.
#[derive(Debug, Clone)]
pub struct IdentityDir(PathBuf);

const FILES: [&str; 4] = ["key.pem", "cert.pem", "authority.pem", "host"];

impl IdentityDir {
    /// `identity/` of a data directory.
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("identity"))
    }

    /// Reads it; `None` when the host has not joined.
    ///
    /// # Errors
    /// `Exposed`, `Damaged`, `Os`.
    pub fn load(&self) -> Result<Option<Identity>, IdentityError> {
        match std::fs::metadata(&self.0) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Os { path: self.0.clone(), source }),
            Ok(_) => {}
        }
        check_mode(&self.0, 0o700)?;
        for name in FILES {
            check_mode(&self.0.join(name), 0o600)?;
        }
        let host = self.read("host")?.trim().parse();
        let host = host.map_err(|_| IdentityError::Damaged(self.0.join("host")))?;
        let (key_pem, cert) = (self.read("key.pem")?, self.certificate("cert.pem")?);
        Identity::new(host, key_pem, cert, self.certificate("authority.pem")?).map(Some)
    }

    fn read(&self, name: &str) -> Result<String, IdentityError> {
        let path = self.0.join(name);
        std::fs::read_to_string(&path).map_err(|source| IdentityError::Os { path, source })
    }
    fn certificate(&self, name: &str) -> Result<CertificateDer<'static>, IdentityError> {
        let pem = self.read(name)?;
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| IdentityError::Damaged(self.0.join(name)))
    }

    /// Keeps a new identity: all of it or nothing.
    ///
    /// # Errors
    /// `Exists`, `Os`.
    pub fn create(&self, identity: &Identity) -> Result<(), IdentityError> {
        if let Some(known) = self.load()? {
            return Err(IdentityError::Exists(known.host));
        }
        let beside = self.0.with_extension("new");
        let os = |source| IdentityError::Os { path: beside.clone(), source };
        match std::fs::remove_dir_all(&beside) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(os(e)),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(&beside).map_err(os)?;
        let files = [
            ("key.pem", identity.key_pem.clone()),
            ("cert.pem", pem(&identity.certificate)),
            ("authority.pem", pem(&identity.authority)),
            ("host", format!("{}\n", identity.host)),
        ];
        for (name, text) in files {
            replace(&beside.join(name), text.as_bytes(), Keep::Power).map_err(os)?;
        }
        std::fs::rename(&beside, &self.0).map_err(|source| IdentityError::Os { path: self.0.clone(), source })
    }

    /// Replaces the certificate (and the authority's, should it have changed).
    ///
    /// # Errors
    /// `Os`.
    pub fn renew(&self, identity: &Identity) -> Result<(), IdentityError> {
        for (name, der) in [("authority.pem", &identity.authority), ("cert.pem", &identity.certificate)] {
            let path = self.0.join(name);
            replace(&path, pem(der).as_bytes(), Keep::Power).map_err(|source| IdentityError::Os { path, source })?;
        }
        Ok(())
    }
}

/// Refuses what anybody but the owner can read or write.
///
/// # Errors
/// `Exposed`, `Os`.
pub fn check_mode(path: &Path, wanted: u32) -> Result<(), IdentityError> {
    let meta = std::fs::metadata(path);
    let meta = meta.map_err(|source| IdentityError::Os { path: path.to_owned(), source })?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(IdentityError::Exposed { path: path.to_owned(), mode, wanted })
}

/// A certificate as PEM (RFC 7468).
fn pem(der: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The identity in use. A new one is used by the next connection.
pub struct CurrentIdentity {
    now: Mutex<Arc<Identity>>,
    refused: Notify,
}

impl CurrentIdentity {
    /// Begins with this one.
    pub fn new(identity: Identity) -> Self {
        Self { now: Mutex::new(Arc::new(identity)), refused: Notify::new() }
    }
    /// The one in use.
    pub fn get(&self) -> Arc<Identity> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Uses another from now on.
    pub fn set(&self, identity: Identity) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }
    /// The control plane did not accept the certificate.
    pub fn refused(&self) {
        self.refused.notify_one();
    }
    /// Resolves when it was refused. May be dropped.
    pub async fn was_refused(&self) {
        self.refused.notified().await;
    }
}
