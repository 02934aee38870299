//! The authority: the certificate of this installation, which signs its agents' certificates and
//! its own for the agent link.
//!
//! Keys are ECDSA P-256 in 0600 files. An agent's certificate lives 24 h and names the host in its
//! common name; whether the host is still welcome is looked up on every link, so revocation needs
//! no lists. Validity is judged by this machine's clock.

use perigee_clock::Clock;
use perigee_model::limits::{CERTIFICATE_GRACE, CERTIFICATE_LIFE};
use perigee_model::{Code, HostId, Refusal, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The name the server's certificate always carries; agents check it besides the authority.
pub const SERVER_NAME: &str = "perigee";
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
const SERVER_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Certificates are valid from a little before they are made: clocks differ.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// The authority of this installation.
pub struct Authority {
    clock: Clock,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A certificate that was just signed.
pub struct Signed {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its end.
    pub not_after: Timestamp,
}

impl Authority {
    /// Reads the authority of a data directory, or makes it there.
    ///
    /// # Errors
    /// When the files cannot be read, written, or do not belong together.
    pub fn open(dir: &Path, clock: Clock) -> anyhow::Result<Self> {
        let (key_file, certificate_file) = (dir.join("authority.key.pem"), dir.join("authority.pem"));
        if !certificate_file.exists() {
            make(&key_file, &certificate_file, &clock)?;
        }
        let key = KeyPair::from_pem(&std::fs::read_to_string(&key_file)?)?;
        let pem = std::fs::read_to_string(&certificate_file)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .map_err(|_| anyhow::anyhow!("{} is not a certificate", certificate_file.display()))?;
        Ok(Self { clock, issuer, certificate: CertificateDer::from(parsed.contents) })
    }

    /// The authority's certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its SHA-256, hex: what join tokens pin.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.certificate))
    }

    /// A fresh key and certificate for the agent link's server, made at each start.
    ///
    /// # Errors
    /// When signing fails.
    pub fn server_identity(
        &self,
        addresses: &[IpAddr],
    ) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned(), "localhost".to_owned()])?;
        params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.set_validity(&mut params, SERVER_LIFE)?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let chain = vec![signed.der().clone(), self.certificate.clone()];
        Ok((chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))))
    }

    /// Signs a request's key for a host. Nothing else of the request is taken over.
    ///
    /// # Errors
    /// `BadField` when the request is not a proper PKCS#10.
    pub fn sign_host(&self, csr: &[u8], host: HostId) -> Result<Signed, Refusal> {
        let bad = || Refusal::field("csr", "csr is not a signed PKCS#10 request for a P-256 key");
        let csr = CertificateSigningRequestDer::from(csr.to_vec());
        let request = CertificateSigningRequestParams::from_der(&csr).map_err(|e| bad().because(e))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, host.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let not_after = self.set_validity(&mut params, CERTIFICATE_LIFE).map_err(|e| bad().because(e))?;
        let signed = params.signed_by(&request.public_key, &self.issuer).map_err(|e| bad().because(e))?;
        Ok(Signed { certificate: signed.der().to_vec(), not_after })
    }

    /// The host of a certificate we signed that ended no more than 90 days ago, whose key signed
    /// `proof` over `message`.
    ///
    /// # Errors
    /// `BadCertificate`.
    pub fn proven_host(&self, certificate: &[u8], message: &[u8], proof: &[u8]) -> Result<HostId, Refusal> {
        let bad =
            || Refusal::new(Code::BadCertificate, "not a certificate of this control plane with proof of its key");
        let (_, old) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
        let (_, authority) = X509Certificate::from_der(&self.certificate).map_err(|_| bad())?;
        old.verify_signature(Some(authority.public_key())).map_err(|_| bad())?;
        let ended = Timestamp::from_micros(old.validity().not_after.timestamp().saturating_mul(1_000_000));
        if self.clock.now().since(ended) > CERTIFICATE_GRACE {
            let text = "the certificate ended more than 90 days ago; join the host again with a new token";
            return Err(Refusal::new(Code::BadCertificate, text));
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &old.public_key().subject_public_key.data);
        key.verify(message, proof).map_err(|_| bad())?;
        host_of(certificate).ok_or_else(bad)
    }

    fn set_validity(&self, params: &mut CertificateParams, life: Duration) -> anyhow::Result<Timestamp> {
        set_validity(params, &self.clock, life)
    }
}

/// The host that a certificate names. The caller has verified the certificate.
pub fn host_of(certificate: &[u8]) -> Option<HostId> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    name.as_str().ok()?.parse().ok()
}

fn make(key_file: &Path, certificate_file: &Path, clock: &Clock) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Perigee authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, clock, AUTHORITY_LIFE)?;
    let certificate = params.self_signed(&key)?;
    // The certificate comes last: with it, the key is known to be there.
    write_private(key_file, key.serialize_pem().as_bytes())?;
    write_private(certificate_file, certificate.pem().as_bytes())
}

fn set_validity(params: &mut CertificateParams, clock: &Clock, life: Duration) -> anyhow::Result<Timestamp> {
    let now = clock.now();
    let not_after = now + life;
    let date = |at: Timestamp| -> anyhow::Result<_> {
        Ok(x509_parser::time::ASN1Time::from_timestamp(at.micros() / 1_000_000)?.to_datetime())
    };
    params.not_before = date(now - CLOCK_SLACK)?;
    params.not_after = date(not_after)?;
    Ok(not_after)
}

/// Writes a 0600 file so that it is there whole or not at all.
///
/// # Errors
/// What the file system says.
pub fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

    fn host() -> HostId {
        HostId::new(uuid::Uuid::from_u128(7))
    }

    fn signed(authority: &Authority) -> (KeyPair, Signed) {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        let signed = authority.sign_host(csr.der(), host()).unwrap();
        (key, signed)
    }

    fn proof(key: &KeyPair, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der(), &random).unwrap();
        pair.sign(&random, message).unwrap().as_ref().to_vec()
    }

    #[test]
    fn a_signed_certificate_names_its_host_and_nothing_else_renews_it() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), Clock::real()).unwrap();
        let (key, mine) = signed(&authority);
        assert_eq!(host_of(&mine.certificate), Some(host()));
        let renew = |a: &Authority, c: &[u8], p: &[u8]| a.proven_host(c, b"request", p).ok();
        assert_eq!(renew(&authority, &mine.certificate, &proof(&key, b"request")), Some(host()));
        assert_eq!(renew(&authority, &mine.certificate, &proof(&key, b"another")), None);
        let stranger = KeyPair::generate().unwrap();
        assert_eq!(renew(&authority, &mine.certificate, &proof(&stranger, b"request")), None);
        let elsewhere = tempfile::tempdir().unwrap();
        let other = Authority::open(elsewhere.path(), Clock::real()).unwrap();
        assert_eq!(renew(&other, &mine.certificate, &proof(&key, b"request")), None);
        assert_eq!(renew(&authority, b"rubbish", b""), None);
    }

    #[test]
    fn the_authority_is_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), Clock::real()).unwrap().sha256();
        assert_eq!(Authority::open(dir.path(), Clock::real()).unwrap().sha256(), first);
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join("authority.key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test(start_paused = true)]
    async fn renewal_ends_ninety_days_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::simulated(1);
        let authority = Authority::open(dir.path(), clock.clone()).unwrap();
        let (key, mine) = signed(&authority);
        let renew = || authority.proven_host(&mine.certificate, b"r", &proof(&key, b"r")).is_ok();
        tokio::time::sleep(CERTIFICATE_LIFE + CERTIFICATE_GRACE - Duration::from_secs(60)).await;
        assert!(renew());
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(!renew());
    }
}
