//! https: who vouches, and that nothing leads away from it.

use crate::far::{client, limits};
use perigee_outbound::{Guard, Outbound, OutboundError};
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Serves this answer to each call, with a certificate for `localhost`; gives the port and the root.
async fn server(answer: &'static str) -> (u16, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.shutdown().await);
        }
    });
    (port, roots)
}

fn trusting(roots: RootCertStore) -> Outbound {
    let guard = Guard { allowed: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()] };
    Outbound::trusting(guard, limits(), roots).unwrap()
}

#[tokio::test]
async fn only_who_is_vouched_for_is_asked() {
    let (port, roots) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let trusting = trusting(roots);
    let mut answer = trusting.get(&format!("https://localhost:{port}/")).await.unwrap();
    assert_eq!(answer.next().await.unwrap().unwrap(), "ok");
    let other_name = trusting.get(&format!("https://127.0.0.1:{port}/")).await.unwrap_err();
    assert!(matches!(other_name, OutboundError::Unreachable { .. }), "{other_name}");
    let (other, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let nobody = trusting.get(&format!("https://localhost:{other}/")).await.unwrap_err();
    assert!(matches!(nobody, OutboundError::Unreachable { .. }), "{nobody}");
    // A server that speaks plainly is no https.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    let speaker = tokio::spawn(async move {
        let (mut socket, _) = plain.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        socket
    });
    let refused = trusting.get(&format!("https://localhost:{port}/")).await.unwrap_err();
    assert!(matches!(refused, OutboundError::Unreachable { .. }), "{refused}");
    drop(speaker.await);
}

#[tokio::test]
async fn https_never_leads_to_http() {
    let (port, roots) = server("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/x\r\ncontent-length: 0\r\n\r\n").await;
    let led = trusting(roots).get(&format!("https://localhost:{port}/")).await.unwrap_err();
    assert!(matches!(led, OutboundError::Downgrade { .. }), "{led}");
}

#[tokio::test]
async fn without_authorities_nobody_can_vouch() {
    let none = Outbound::trusting(Guard::default(), limits(), RootCertStore::empty());
    assert!(matches!(none, Err(OutboundError::NoAuthorities)));
    // The machine's own do not know this server.
    let (port, _) = server("").await;
    let refused = client().get(&format!("https://127.0.0.1:{port}/")).await.unwrap_err();
    assert!(matches!(refused, OutboundError::Unreachable { .. } | OutboundError::NoAuthorities), "{refused}");
}
