//! Files there and back.

use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use perigee_guest::{Channel, ChannelError, ErrorCode};

use crate::port::{Dice, Plug, pieces, until};

async fn fetch(channel: &Channel, path: &str) -> Result<Vec<u8>, ChannelError> {
    let mut download = channel.get_file(path).await?;
    let mut all = Vec::new();
    while let Some(piece) = download.next().await? {
        all.extend_from_slice(&piece);
    }
    assert_eq!(all.len() as u64, download.size());
    Ok(all)
}

fn refusal(result: Result<impl Sized, ChannelError>) -> ErrorCode {
    match result.err() {
        Some(ChannelError::Refused(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn twenty_mebibytes_there_and_back() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a name, 100% odd & ünïcode?");
    let path = path.to_str().unwrap();
    let mut dice = Dice(42);
    let sent: Vec<u8> = (0..20 << 20).map(|_| dice.below(256) as u8).collect();
    channel.put_file(path, 0o750, pieces(sent.clone())).await.unwrap();
    assert!(std::fs::read(path).unwrap() == sent);
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
    assert!(fetch(&channel, path).await.unwrap() == sent);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    channel.put_file(path, 0o600, pieces(vec![])).await.unwrap();
    assert_eq!(fetch(&channel, path).await.unwrap(), b"");
}

#[tokio::test]
async fn refusals_have_codes() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let get = async |path: &str| refusal(fetch(&channel, path).await);
    let put = async |path: &str| {
        let body = pieces(vec![7; 2_000_000]);
        refusal(channel.put_file(path, 0o644, body).await)
    };
    assert_eq!(get("/no/such/file").await, ErrorCode::NotFound);
    assert_eq!(get("/tmp").await, ErrorCode::NotAFile);
    assert_eq!(get("/dev/null").await, ErrorCode::NotAFile);
    assert_eq!(get("relative").await, ErrorCode::BadPath);
    assert_eq!(get("/nul\0").await, ErrorCode::BadPath);
    assert_eq!(get(&format!("/{}", "x".repeat(4096))).await, ErrorCode::BadPath);
    assert_eq!(put("/no/such/folder/file").await, ErrorCode::NotFound);
    assert_eq!(put("/tmp").await, ErrorCode::NotAFile);
    assert_eq!(put("/etc/passwd/x").await, ErrorCode::NotAFile);
}

#[tokio::test]
async fn half_an_upload_leaves_nothing() {
    let plug = Plug::with_guest(true);
    let channel = plug.open().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let broken =
        futures::stream::iter(vec![Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("the disk went"))]);
    let failed = channel.put_file(path.to_str().unwrap(), 0o644, broken).await;
    assert!(matches!(failed, Err(ChannelError::Source(_))), "{failed:?}");
    until("the draft is gone", || std::fs::read_dir(folder.path()).unwrap().count() == 0).await;
}
