//! Joining, renewing, and what is refused on the way: over real TLS, in real time.

use perigee_agent::enrol::{self, BadToken, EnrolError, JoinToken};
use perigee_agent::identity::{IdentityDir, IdentityError};
use perigee_agent::{UplinkError, tls};
use perigee_agent_api::wire::link::enrolment_server::{Enrolment, EnrolmentServer};
use perigee_agent_api::wire::link::{Certificate, EnrolRequest, RenewRequest};
use perigee_model::HostId;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use tonic::{Request, Response, Status};
use x509_parser::prelude::{FromDer as _, X509Certificate};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }
    fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }
}

#[derive(Clone)]
struct Rpc {
    authority: Arc<Authority>,
    /// Secrets that arrived.
    heard: Arc<Mutex<Vec<String>>>,
}

impl Rpc {
    fn sign(&self, csr: &[u8]) -> Certificate {
        let csr = csr.to_vec().into();
        let request = CertificateSigningRequestParams::from_der(&csr).unwrap();
        let signed = CertificateParams::default().signed_by(&request.public_key, &self.authority.issuer).unwrap();
        Certificate {
            host: HostId::new(uuid::Uuid::from_u128(5)).to_string(),
            certificate: signed.der().to_vec(),
            authority: self.authority.certificate.to_vec(),
            not_after_micros: 0,
        }
    }
}

#[tonic::async_trait]
impl Enrolment for Rpc {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<Certificate>, Status> {
        let request = request.into_inner();
        self.heard.lock().unwrap().push(request.token.clone());
        if request.token != "5ec7e7".repeat(8) {
            return Err(Status::unauthenticated("the join token is not known"));
        }
        Ok(Response::new(self.sign(&request.csr)))
    }
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let request = request.into_inner();
        let (_, old) = X509Certificate::from_der(&request.certificate).unwrap();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &old.public_key().subject_public_key.data);
        let proven = key.verify(&request.csr, &request.signature);
        proven.map_err(|_| Status::unauthenticated("no proof"))?;
        Ok(Response::new(self.sign(&request.csr)))
    }
}

/// A control plane's enrolment on a free port; its chain carries `shown` besides its own certificate.
async fn serve(rpc: Rpc, shown: CertificateDer<'static>, name: &str) -> tls::ServerUrl {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, &rpc.authority.issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone(), shown], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, rpc) = (acceptor.clone(), rpc.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(EnrolmentServer::new(rpc));
                let _ = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    format!("https://127.0.0.1:{port}").parse().unwrap()
}

fn rpc() -> Rpc {
    Rpc { authority: Arc::new(Authority::new()), heard: Arc::default() }
}

fn token(authority_sha256: [u8; 32]) -> JoinToken {
    JoinToken { authority_sha256, secret: "5ec7e7".repeat(8) }
}

#[test]
fn only_join_tokens_are_join_tokens() {
    use base64::Engine as _;
    let text = |json: &str| {
        let body = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
        format!("perigee-join-1.{body}").parse::<JoinToken>()
    };
    let (pin, secret) = ("ab".repeat(32), "cd".repeat(16));
    let good = format!(r#"{{"authority_sha256":"{pin}","secret":"{secret}"}}"#);
    let read = text(&good).unwrap();
    assert_eq!((read.authority_sha256, read.secret.as_str()), ([0xab; 32], secret.as_str()));
    assert!(!format!("{read:?}").contains(&secret), "a token shows itself");
    let bad = [
        text(&good.replace(&pin, "abcd")),
        text(&good.replace(&pin, &"zz".repeat(32))),
        text(&good.replace(&secret, "short")),
        text(&good.replace(&secret, &"?!".repeat(16))),
        text(r#"{"secret":"x"}"#),
        text(&good.replace("{", r#"{"more":1,"#)),
        text("not json"),
        "perigee-join-2.e30".parse(),
        "perigee-join-1.***".parse(),
        "".parse(),
        "x".repeat(1 << 20).parse(),
    ];
    assert!(bad.iter().all(|b| *b == Err(BadToken)), "{bad:?}");
}

#[tokio::test]
async fn a_host_joins_once_and_renews_with_proof_of_its_key() {
    let rpc = rpc();
    let url = serve(rpc.clone(), rpc.authority.certificate.clone(), "perigee").await;
    let root = tempfile::tempdir().unwrap();
    let folder = IdentityDir::of(root.path());
    assert!(folder.load().unwrap().is_none());
    let joined = enrol::join(&url, &token(rpc.authority.sha256()), &folder, "h", &BTreeMap::new()).await.unwrap();
    let kept = folder.load().unwrap().unwrap();
    assert_eq!((kept.host, &kept.certificate), (joined.host, &joined.certificate));
    tls::mutual(&kept).unwrap();
    for (name, mode) in
        [("", 0o700), ("key.pem", 0o600), ("cert.pem", 0o600), ("authority.pem", 0o600), ("host", 0o600)]
    {
        let meta = std::fs::metadata(root.path().join("identity").join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{name}");
    }
    let again = enrol::join(&url, &token(rpc.authority.sha256()), &folder, "h", &BTreeMap::new()).await;
    assert!(matches!(again, Err(EnrolError::Identity(IdentityError::Exists(_)))));

    let fresh = enrol::renew(&url, &kept).await.unwrap();
    assert_ne!(fresh.certificate, kept.certificate);
    folder.renew(&fresh).unwrap();
    assert_eq!(folder.load().unwrap().unwrap().certificate, fresh.certificate);

    let mut thief = kept.clone();
    thief.key_pem = KeyPair::generate().unwrap().serialize_pem();
    let refused = enrol::renew(&url, &thief).await;
    assert!(matches!(refused, Err(EnrolError::Uplink(UplinkError::Certificate(_)))));
}

#[tokio::test]
async fn a_server_that_is_not_the_tokens_never_sees_the_secret() {
    let (rpc, other) = (rpc(), Authority::new());
    let root = tempfile::tempdir().unwrap();
    let folder = IdentityDir::of(root.path());
    let own = rpc.authority.certificate.clone();
    let cases = [
        // Another authority altogether; one that is shown but signed nothing; another name.
        (serve(rpc.clone(), own.clone(), "perigee").await, other.sha256()),
        (serve(rpc.clone(), other.certificate.clone(), "perigee").await, other.sha256()),
        (serve(rpc.clone(), own, "somebody-else").await, rpc.authority.sha256()),
    ];
    for (url, pin) in cases {
        let refused = enrol::join(&url, &token(pin), &folder, "h", &BTreeMap::new()).await;
        assert!(matches!(refused, Err(EnrolError::Uplink(UplinkError::Certificate(_)))), "{refused:?}");
    }
    assert!(rpc.heard.lock().unwrap().is_empty(), "the secret was told to a stranger");
    assert!(folder.load().unwrap().is_none());
}

#[tokio::test]
async fn an_identity_that_others_can_read_is_refused() {
    let rpc = rpc();
    let url = serve(rpc.clone(), rpc.authority.certificate.clone(), "perigee").await;
    let root = tempfile::tempdir().unwrap();
    let folder = IdentityDir::of(root.path());
    enrol::join(&url, &token(rpc.authority.sha256()), &folder, "h", &BTreeMap::new()).await.unwrap();
    for (name, open, closed) in [("key.pem", 0o640, 0o600), ("host", 0o604, 0o600), ("", 0o755, 0o700)] {
        let path = root.path().join("identity").join(name);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(open)).unwrap();
        assert!(matches!(folder.load(), Err(IdentityError::Exposed { .. })), "{name}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(closed)).unwrap();
        assert!(folder.load().unwrap().is_some());
    }
    std::fs::write(root.path().join("identity/cert.pem"), "garbage").unwrap();
    assert!(matches!(folder.load(), Err(IdentityError::Damaged(_))));
}
