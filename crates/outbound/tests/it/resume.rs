//! Downloads that break and go on.

use crate::far::{Asked, Far, client};
use perigee_outbound::{Download, OutboundError};

const TEXT: &str = "what was here stays here, and what was not comes next";

async fn whole(address: &str) -> Result<String, OutboundError> {
    let mut download = Download::begin(&client(), address).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8(bytes).unwrap())
}

/// Where the rest begins that was asked for.
fn begin(asked: &Asked) -> usize {
    asked.header("range").map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap())
}

/// Seven bytes, then the connection is gone.
async fn seven(mut asked: Asked, mark: &str) {
    let (at, length) = (begin(&asked), TEXT.len());
    let rest = &TEXT[at..];
    let (size, range) =
        (format!("content-length: {}", rest.len()), format!("content-range: bytes {at}-{}/{length}", length - 1));
    match asked.header("range") {
        None => asked.head("200 OK", &[&size, mark]).await,
        Some(_) => asked.head("206 Partial Content", &[&size, &range, mark]).await,
    };
    asked.say(&rest[..rest.len().min(7)]).await;
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke() {
    for mark in ["etag: \"v1\"", "last-modified: Thu, 19 Nov 2026 10:00:00 GMT"] {
        let far = Far::new(move |asked| seven(asked, mark)).await;
        assert_eq!(whole(&far.url("/")).await.unwrap(), TEXT);
        let heads = far.heads();
        assert_eq!(heads.len(), TEXT.len().div_ceil(7));
        let value = mark.split_once(": ").unwrap().1;
        let sure = |head: &String| head.contains(&format!("if-range: {value}\r\n")) && head.contains("range: bytes=");
        assert!(heads[1..].iter().all(sure), "{heads:?}");
    }
}

#[tokio::test]
async fn without_a_mark_that_is_sure_nothing_is_pieced_together() {
    for mark in ["x: y", "etag: W/\"v1\""] {
        let far = Far::new(move |asked| seven(asked, mark)).await;
        let error = whole(&far.url("/")).await.unwrap_err();
        assert!(matches!(error, OutboundError::Broken { .. }), "{error}");
        assert_eq!(far.heads().len(), 1);
    }
}

#[tokio::test]
async fn other_bytes_are_not_gone_on_with() {
    // If-Range says no: the server sends the whole of what is there now.
    let far = Far::new(|mut asked: Asked| async move {
        asked.head("200 OK", &["content-length: 20", &format!("etag: \"v{}\"", asked.before)]).await;
        asked.say("other").await;
    })
    .await;
    assert!(matches!(whole(&far.url("/")).await, Err(OutboundError::Changed { .. })));
    // A part of something of another length, or from another place.
    for range in ["content-range: bytes 5-19/21", "content-range: bytes 4-19/20", "content-range: bytes */20", "x: y"] {
        let far = Far::new(move |mut asked: Asked| async move {
            match asked.before {
                0 => asked.head("200 OK", &["content-length: 20", "etag: \"v\""]).await,
                _ => asked.head("206 Partial Content", &["content-length: 15", range]).await,
            };
            asked.say("other").await;
        })
        .await;
        let error = whole(&far.url("/")).await.unwrap_err();
        assert!(matches!(error, OutboundError::Strange { .. }), "{range}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_busy_for_a_moment_is_asked_again() {
    let far = Far::new(|mut asked: Asked| async move {
        match asked.before {
            0 | 1 => drop(asked.head("503 Service Unavailable", &["content-length: 0"]).await),
            2 => {}
            _ => {
                asked.head("200 OK", &["content-length: 2"]).await;
                asked.say("ok").await;
            }
        }
    })
    .await;
    assert_eq!(whole(&far.url("/")).await.unwrap(), "ok");
    assert_eq!(far.heads().len(), 4);
}
