use super::*;
use perigee_outbound::{Guard, Limits};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PLACE: &str = "PERIGEE_TEST_IMPORT";

/// Serves these files until the test ends; gives its address.
async fn serve(files: BTreeMap<&'static str, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let answer = match files.get(head.split_whitespace().nth(1).unwrap()) {
                Some(file) => {
                    [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", file.len()).as_bytes(), file].concat()
                }
                None => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
            };
            // Whoever has seen enough may hang up.
            drop(socket.write_all(&answer).await);
        }
    });
    format!("http://{at}")
}

fn outbound() -> Outbound {
    let limits = Limits { retry_after: Duration::from_millis(1), ..Limits::default() };
    Outbound::new(Guard { allowed: vec!["127.0.0.1".parse().unwrap()] }, limits)
}

fn import(address: String) -> Import {
    let from = ImportFrom::Url(address);
    Import { from, checksum: None, checksums_at: None, format: None, arch: "x86_64".to_owned() }
}

fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0u32..1 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    disk[..4].fill(0);
    disk
}

fn blobs() -> (tempfile::TempDir, BlobDir) {
    let home = tempfile::tempdir().unwrap();
    let blobs = BlobDir::at(home.path()).unwrap();
    (home, blobs)
}

/// Every file there, whole or not.
fn left(home: &Path) -> Vec<PathBuf> {
    let of = |folder: &str| std::fs::read_dir(home.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    ["sha256", "partial", "temp"].into_iter().flat_map(of).collect()
}

async fn fetched(blobs: &BlobDir, import: &Import) -> Result<Found, ImportError> {
    fetch(blobs, &outbound(), import, &mut |_| {}).await
}

#[tokio::test]
async fn a_disk_comes_from_an_address_and_is_told_what_it_is() {
    let disk = disk();
    let at = serve(BTreeMap::from([("/disk.raw", disk.clone())])).await;
    let (home, blobs) = blobs();
    let mut seen = Vec::new();
    let ordered = import(format!("{at}/disk.raw"));
    let found = fetch(&blobs, &outbound(), &ordered, &mut |progress| seen.push(progress)).await.unwrap();
    assert_eq!((found.part.role, found.part.bytes), (PartRole::Disk, 1 << 20));
    assert_eq!((found.inspected.format, found.inspected.virtual_bytes), (DiskFormat::Raw, 1 << 20));
    assert_eq!(seen.last(), Some(&Progress { bytes: 1 << 20, total: Some(1 << 20) }));
    assert!(blobs.list().unwrap().is_empty(), "nothing has a name before it is kept");
    let blob = found.keep().await.unwrap();
    assert_eq!(std::fs::read(blobs.path(&blob.digest)).unwrap(), disk);
    assert_eq!(left(home.path()).len(), 1);
}

#[tokio::test]
async fn its_checksum_is_compared_whoever_says_it() {
    let disk = disk();
    let (sha256, sha512) = (perigee_blobs::digest_bytes(&disk), hex::encode(Sha512::digest(&disk)));
    let list = |sum: &str| format!("{}  other.raw\n{sum}  disk.raw\n", "0".repeat(sum.len())).into_bytes();
    let at = serve(BTreeMap::from([
        ("/disk.raw", disk),
        ("/SHA256SUMS", list(sha256.as_str())),
        ("/SHA512SUMS", list(&sha512)),
        ("/WRONG", list(&"1".repeat(64))),
        ("/EMPTY", b"\n".to_vec()),
    ]))
    .await;
    let (home, blobs) = blobs();
    let with = |checksum: Option<&str>, list: Option<&str>| Import {
        checksum: checksum.map(|text| Checksum::parse(text).unwrap()),
        checksums_at: list.map(|list| format!("{at}{list}")),
        ..import(format!("{at}/disk.raw"))
    };
    for good in [
        with(Some(sha256.as_str()), None),
        with(Some(&sha512), None),
        with(None, Some("/SHA256SUMS")),
        with(None, Some("/SHA512SUMS")),
    ] {
        assert_eq!(fetched(&blobs, &good).await.unwrap().part.digest, sha256);
    }
    for bad in [with(Some(&"2".repeat(64)), None), with(Some(&"2".repeat(128)), None), with(None, Some("/WRONG"))] {
        let error = fetched(&blobs, &bad).await.err().unwrap();
        assert!(matches!(error, ImportError::WrongChecksum { .. }), "{error}");
    }
    let unlisted = fetched(&blobs, &with(None, Some("/EMPTY"))).await.err().unwrap();
    assert!(matches!(unlisted, ImportError::NotListed { .. }), "{unlisted}");
    let missing = fetched(&blobs, &with(None, Some("/NONE"))).await.err().unwrap();
    assert!(matches!(missing, ImportError::Source(OutboundError::Status { status: 404, .. })), "{missing}");
    assert!(left(home.path()).is_empty());
}

#[tokio::test]
async fn what_is_not_taken_leaves_nothing() {
    let mut vmdk = disk();
    vmdk[..4].copy_from_slice(b"KDMV");
    let mut layer = disk();
    layer[..12].copy_from_slice(b"QFI\xfb\0\0\0\x03\0\0\0\x68");
    let at =
        serve(BTreeMap::from([("/a.vmdk", vmdk), ("/layer", layer), ("/disk", disk()), ("/cut", vec![0; 1000])])).await;
    let (home, blobs) = blobs();
    for (path, format) in [
        ("/a.vmdk", None),
        ("/layer", None),
        ("/cut", None),
        ("/disk", Some(DiskFormat::Qcow2)),
        ("/layer", Some(DiskFormat::Raw)),
    ] {
        let ordered = Import { format, ..import(format!("{at}{path}")) };
        let error = fetched(&blobs, &ordered).await.err().unwrap();
        assert!(matches!(error, ImportError::Refused(_)), "{path}: {error}");
    }
    assert!(left(home.path()).is_empty());
}

#[tokio::test]
async fn an_upload_becomes_a_disk_when_it_is_whole() {
    let disk = disk();
    let digest = perigee_blobs::digest_bytes(&disk);
    let (home, blobs) = blobs();
    let ordered = |digest: &Digest| Import { from: ImportFrom::Upload(digest.clone()), ..import(String::new()) };
    let none = fetched(&blobs, &ordered(&digest)).await.err().unwrap();
    assert!(matches!(none, ImportError::NoUpload(_)), "{none}");
    assert!(left(home.path()).is_empty(), "a look at what is not there makes nothing");
    let mut partial = blobs.partial(&digest).await.unwrap();
    partial.append(&disk[..1 << 19]).unwrap();
    let busy = fetched(&blobs, &ordered(&digest)).await.err().unwrap();
    assert!(matches!(busy, ImportError::Busy(_)), "{busy}");
    drop(partial);
    let half = fetched(&blobs, &ordered(&digest)).await.err().unwrap();
    assert!(matches!(half, ImportError::WrongChecksum { .. }), "{half}");
    let mut partial = blobs.partial(&digest).await.unwrap();
    assert_eq!(partial.offset(), 1 << 19, "what came stays");
    partial.append(&disk[1 << 19..]).unwrap();
    drop(partial);
    let wrong = Import { checksum: Checksum::parse(&"3".repeat(128)), ..ordered(&digest) };
    assert!(matches!(fetched(&blobs, &wrong).await, Err(ImportError::WrongChecksum { .. })));
    let right = Import { checksum: Checksum::parse(&hex::encode(Sha512::digest(&disk))), ..ordered(&digest) };
    let blob = fetched(&blobs, &right).await.unwrap().keep().await.unwrap();
    assert_eq!(std::fs::read(blobs.path(&blob.digest)).unwrap(), disk);
    assert_eq!(left(home.path()).len(), 1);
}

#[test]
fn what_can_be_told_beforehand_is() {
    let told = |import: &Import| fault(import).unwrap_or_default();
    assert!(told(&import("http://example.org/x".into())).contains("needs a checksum"));
    let sure = Import { checksum: Checksum::parse(&"0".repeat(64)), ..import("http://example.org/x".into()) };
    assert_eq!(fault(&sure), None);
    assert_eq!(fault(&import("https://example.org/x".into())), None);
    let list =
        Import { checksums_at: Some("http://example.org/SUMS".into()), ..import("https://example.org/x".into()) };
    assert!(told(&list).contains("needs a checksum"));
    for address in ["file:///etc/shadow", "nbd://10.0.0.1/x", "json:{\"driver\":\"file\"}", "https://u:p@example.org/"]
    {
        assert!(fault(&import(address.into())).is_some(), "{address}");
    }
}

/// Runs on a file system of its own with 2 MiB, where the parent says so.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&folder).status();
    assert!(mounted.unwrap().success());
    let at = serve(BTreeMap::from([("/large", vec![7; 4 << 20]), ("/small", disk())])).await;
    let blobs = BlobDir::at(&folder).unwrap();
    let error = fetched(&blobs, &import(format!("{at}/large"))).await.err().unwrap();
    assert!(matches!(error, ImportError::NoSpace(_)), "{error}");
    assert!(left(&folder).is_empty());
    // There is room again, all of it; then there is none for the first byte.
    fetched(&blobs, &import(format!("{at}/small"))).await.unwrap().keep().await.unwrap();
    std::fs::write(folder.join("ballast"), vec![1; 2 << 20]).unwrap_err();
    let error = fetched(&blobs, &import(format!("{at}/small"))).await.err().unwrap();
    assert!(matches!(error, ImportError::NoSpace(_)), "{error}");
    assert_eq!(left(&folder).len(), 1);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new("unshare");
    command.arg("-rm").arg(this).args(["--exact", "import::tests::child", "--nocapture"]).env(PLACE, folder.path());
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&done.stderr));
}
