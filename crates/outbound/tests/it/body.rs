//! Bodies that are too long, too slow, or not what was asked for.

use crate::far::{Asked, Far, client};
use perigee_outbound::{Download, OutboundError};

async fn whole(address: &str) -> Result<Vec<u8>, OutboundError> {
    let mut download = Download::begin(&client(), address).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(download.received(), bytes.len() as u64);
    Ok(bytes)
}

#[tokio::test]
async fn a_body_comes_whole_with_and_without_a_length() {
    let far = Far::new(|mut asked: Asked| async move {
        if asked.head.starts_with("GET /chunked") {
            asked.head("200 OK", &["transfer-encoding: chunked"]).await;
            asked.say("5\r\nhello\r\n6\r\n there\r\n0\r\n\r\n").await;
        } else {
            asked.head("200 OK", &["content-length: 11"]).await;
            asked.say("hello there").await;
        }
    })
    .await;
    assert_eq!(whole(&far.url("/chunked")).await.unwrap(), b"hello there");
    assert_eq!(whole(&far.url("/plain")).await.unwrap(), b"hello there");
    assert_eq!(Download::begin(&client(), &far.url("/plain")).await.unwrap().total(), Some(11));
}

#[tokio::test]
async fn too_much_is_refused_before_or_while_it_comes() {
    let far = Far::new(|mut asked: Asked| async move {
        if asked.head.starts_with("GET /said") {
            asked.head("200 OK", &["content-length: 1048577"]).await;
            asked.hold().await;
        } else {
            asked.head("200 OK", &["transfer-encoding: chunked"]).await;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
            while asked.say(&chunk).await {}
        }
    })
    .await;
    assert!(matches!(whole(&far.url("/said")).await, Err(OutboundError::TooLarge { limit: 1_048_576 })));
    assert!(matches!(whole(&far.url("/endless")).await, Err(OutboundError::TooLarge { .. })));
    assert_eq!(far.heads().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn silence_and_trickling_are_the_same() {
    let far = Far::new(|mut asked: Asked| async move {
        if asked.head.starts_with("GET /mute") {
            return asked.hold().await;
        }
        asked.head("200 OK", &["content-length: 1000000"]).await;
        while asked.head.starts_with("GET /trickle") && asked.say("x").await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        asked.hold().await;
    })
    .await;
    for path in ["/mute", "/silent", "/trickle"] {
        let error = whole(&far.url(path)).await.unwrap_err();
        assert!(matches!(error, OutboundError::Stalled { .. }), "{path}: {error}");
    }
    assert_eq!(far.heads().iter().filter(|head| head.starts_with("GET /mute")).count(), 5, "tries");
}

#[tokio::test]
async fn what_is_cut_off_is_never_whole() {
    let far = Far::new(|mut asked: Asked| async move {
        if asked.head.starts_with("GET /chunked") {
            asked.head("200 OK", &["transfer-encoding: chunked"]).await;
            asked.say("5\r\nhel").await;
        } else {
            asked.head("200 OK", &["content-length: 11"]).await;
            asked.say("hello").await;
        }
    })
    .await;
    for path in ["/plain", "/chunked"] {
        let error = whole(&far.url(path)).await.unwrap_err();
        assert!(matches!(error, OutboundError::Broken { .. }), "{path}: {error}");
    }
}

#[tokio::test]
async fn answers_that_are_none_are_refused() {
    let far = Far::new(|mut asked: Asked| async move {
        let path = asked.head.split_whitespace().nth(1).unwrap().to_owned();
        match path.as_str() {
            "/packed" => asked.head("200 OK", &["content-encoding: gzip", "content-length: 3"]).await,
            "/part" => asked.head("206 Partial Content", &["content-range: bytes 0-2/9", "content-length: 3"]).await,
            "/gone" => asked.head("410 Gone", &["content-length: 0"]).await,
            "/busy" => asked.head("503 Service Unavailable", &["content-length: 0"]).await,
            "/long" => asked.head("200 OK", &[&format!("x: {}", "y".repeat(1 << 20))]).await,
            "/lengths" => asked.head("200 OK", &["content-length: 3", "content-length: 4"]).await,
            _ => asked.say("SSH-2.0-OpenSSH\r\n").await,
        };
    })
    .await;
    let told = async |path: &str| whole(&far.url(path)).await.expect_err(path);
    assert!(matches!(told("/packed").await, OutboundError::Strange { .. }));
    assert!(matches!(told("/part").await, OutboundError::Strange { .. }));
    assert!(matches!(told("/gone").await, OutboundError::Status { status: 410, .. }));
    assert!(matches!(told("/busy").await, OutboundError::Status { status: 503, .. }));
    for path in ["/long", "/lengths", "/ssh"] {
        let error = told(path).await;
        assert!(matches!(error, OutboundError::Broken { .. }), "{path}: {error}");
    }
    let tries = |path: &str| far.heads().iter().filter(|head| head.starts_with(&format!("GET {path} "))).count();
    assert_eq!((tries("/gone"), tries("/busy")), (1, 5));
}
