use super::*;
use proptest::prelude::*;

const HELLO: &[u8] = b"hello from inside";

fn dir() -> (tempfile::TempDir, BlobDir) {
    let home = tempfile::tempdir().unwrap();
    let blobs = BlobDir::at(home.path().join("blobs")).unwrap();
    (home, blobs)
}

fn names(path: PathBuf) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn bytes(blobs: &BlobDir, digest: &Digest) -> Vec<u8> {
    let mut read = Vec::new();
    let (mut file, length) = blobs.open(digest).await.unwrap();
    file.read_to_end(&mut read).await.unwrap();
    assert_eq!(read.len() as u64, length);
    read
}

/// The reference is the system's sha256sum.
#[tokio::test]
async fn a_blob_is_named_as_sha256sum_names_it() {
    let (home, blobs) = dir();
    let blob = blobs.put_stream(None, HELLO).await.unwrap();
    std::fs::write(home.path().join("f"), HELLO).unwrap();
    let sum = std::process::Command::new("sha256sum").arg(home.path().join("f")).output().unwrap();
    assert_eq!(blob.digest.as_str(), &String::from_utf8(sum.stdout).unwrap()[..64]);
    assert_eq!(blob.bytes, HELLO.len() as u64);
    assert_eq!(bytes(&blobs, &blob.digest).await, HELLO);
    assert_eq!(blobs.list().unwrap(), [blob]);
    assert!(names(blobs.root.join("temp")).is_empty());
}

#[tokio::test]
async fn other_bytes_than_asked_for_are_not_kept() {
    let (_home, blobs) = dir();
    let asked = digest_bytes(b"something else");
    let refused = blobs.put_stream(Some(&asked), HELLO).await;
    assert!(matches!(refused, Err(BlobError::WrongDigest { expected, .. }) if expected == asked));
    assert!(blobs.list().unwrap().is_empty());
    assert!(names(blobs.root.join("temp")).is_empty());
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_stopped() {
    let (home, blobs) = dir();
    let digest = digest_bytes(HELLO);
    let mut first = blobs.partial(&digest).await.unwrap();
    assert_eq!(first.offset(), 0);
    first.append(&HELLO[..5]).unwrap();
    assert!(matches!(blobs.partial(&digest).await, Err(BlobError::Busy(_))));
    drop(first); // the connection ended; the process may have too
    assert!(!blobs.has(&digest));

    let again = BlobDir::at(home.path().join("blobs")).unwrap();
    let mut second = again.partial(&digest).await.unwrap();
    assert_eq!(second.offset(), 5);
    second.append(&HELLO[5..]).unwrap();
    assert_eq!(second.finish().await.unwrap(), Blob { digest: digest.clone(), bytes: HELLO.len() as u64 });
    assert_eq!(bytes(&again, &digest).await, HELLO);
    assert!(names(blobs.root.join("partial")).is_empty());
}

#[tokio::test]
async fn a_fetch_of_wrong_bytes_starts_again_at_the_beginning() {
    let (_home, blobs) = dir();
    let digest = digest_bytes(HELLO);
    for wrong in [&b"hello"[..], b"hello from outsid", b""] {
        let mut partial = blobs.partial(&digest).await.unwrap();
        assert_eq!(partial.offset(), 0);
        partial.append(wrong).unwrap();
        assert!(matches!(partial.finish().await, Err(BlobError::WrongDigest { .. })));
        assert!(!blobs.has(&digest));
    }
}

/// A kill leaves a truncated partial: what was written last may be missing.
#[tokio::test]
async fn a_truncated_partial_resumes_at_its_length() {
    let (_home, blobs) = dir();
    let digest = digest_bytes(HELLO);
    let mut partial = blobs.partial(&digest).await.unwrap();
    partial.append(HELLO).unwrap();
    drop(partial);
    OpenOptions::new().write(true).open(blobs.partial_path(&digest)).unwrap().set_len(3).unwrap();
    let mut partial = blobs.partial(&digest).await.unwrap();
    assert_eq!(partial.offset(), 3);
    partial.append(&HELLO[3..]).unwrap();
    partial.finish().await.unwrap();
}

#[tokio::test]
async fn what_a_killed_writer_left_is_removed_and_a_living_one_keeps_its_file() {
    let (home, blobs) = dir();
    std::fs::write(blobs.root.join("temp/4711.0"), "half").unwrap();
    let living = Temp::make(&blobs.root.join("temp")).unwrap();
    BlobDir::at(home.path().join("blobs")).unwrap();
    let left = names(blobs.root.join("temp"));
    assert_eq!(left, [living.path.file_name().unwrap().to_str().unwrap()]);
}

#[tokio::test]
async fn a_rotten_blob_is_found_and_removed() {
    let (_home, blobs) = dir();
    let blob = blobs.put_stream(None, HELLO).await.unwrap();
    assert_eq!(blobs.verify(&blob.digest).await.unwrap(), blob);
    std::fs::write(blobs.path(&blob.digest), "hello from outsid").unwrap();
    assert!(matches!(blobs.verify(&blob.digest).await, Err(BlobError::WrongDigest { .. })));
    assert!(matches!(blobs.verify(&blob.digest).await, Err(BlobError::NotFound(_))));
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (_home, blobs) = dir();
    let digest = digest_bytes(HELLO);
    assert!(matches!(blobs.open(&digest).await, Err(BlobError::NotFound(_))));
    assert!(matches!(blobs.remove(&digest), Err(BlobError::NotFound(_))));
    let blob = blobs.put_stream(None, HELLO).await.unwrap();
    blobs.remove(&blob.digest).unwrap();
    assert!(!blobs.has(&digest));
}

#[test]
fn a_full_disk_has_its_own_name() {
    let full = BlobError::io(Path::new("/var/x"), io::Error::from(io::ErrorKind::StorageFull));
    assert!(matches!(full, BlobError::NoSpace(_)));
}

#[test]
fn a_staged_blob_is_kept_or_gone() {
    let (_home, blobs) = dir();
    let mut staged = blobs.stage().unwrap();
    staged.append(&HELLO[..5]).unwrap();
    staged.append(&HELLO[5..]).unwrap();
    assert_eq!(std::fs::read(staged.path()).unwrap(), HELLO);
    let blob = staged.blob();
    assert_eq!(blob, Blob { digest: digest_bytes(HELLO), bytes: HELLO.len() as u64 });
    drop(staged);
    assert!(names(blobs.root.join("temp")).is_empty() && !blobs.has(&blob.digest));
    let mut staged = blobs.stage().unwrap();
    staged.append(HELLO).unwrap();
    assert_eq!(staged.keep().unwrap(), blob);
    assert!(names(blobs.root.join("temp")).is_empty() && blobs.has(&blob.digest));
}

#[tokio::test]
async fn a_fetch_that_nobody_goes_on_with_is_removed() {
    let (_home, blobs) = dir();
    let (old, busy) = (digest_bytes(b"old"), digest_bytes(b"busy"));
    blobs.partial(&old).await.unwrap().append(b"o").unwrap();
    let mut living = blobs.partial(&busy).await.unwrap();
    living.append(b"bu").unwrap();
    let after = SystemTime::now() + std::time::Duration::from_secs(60);
    blobs.remove_partials(after - std::time::Duration::from_secs(3600)).unwrap();
    assert_eq!((blobs.partial_bytes(&old), blobs.partial_bytes(&busy)), (Some(1), Some(2)));
    blobs.remove_partials(after).unwrap();
    assert_eq!((blobs.partial_bytes(&old), blobs.partial_bytes(&busy)), (None, Some(2)));
}

proptest! {
    /// However a fetch is cut, the whole arrives.
    #[test]
    fn any_cut_resumes(content in prop::collection::vec(any::<u8>(), 0..4000), cuts in prop::collection::vec(0usize..1500, 0..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (_home, blobs) = dir();
        let digest = digest_bytes(&content);
        let done = runtime.block_on(async {
            for cut in cuts {
                let mut partial = blobs.partial(&digest).await.unwrap();
                let from = partial.offset() as usize;
                partial.append(&content[from..(from + cut).min(content.len())]).unwrap();
            }
            let mut partial = blobs.partial(&digest).await.unwrap();
            let from = partial.offset() as usize;
            partial.append(&content[from..]).unwrap();
            partial.finish().await.unwrap()
        });
        prop_assert_eq!(done.bytes, content.len() as u64);
    }
}

#[tokio::test]
async fn what_is_of_use_is_told_by_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobDir::at(dir.path()).unwrap();
    let one = blobs.put_stream(None, HELLO).await.unwrap();
    let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    blobs.touch(&one.digest, then).unwrap();
    assert_eq!(BlobDir::at(dir.path()).unwrap().kept().unwrap(), [Kept { blob: one.clone(), touched: then }]);
    blobs.remove(&one.digest).unwrap();
    assert!(matches!(blobs.touch(&one.digest, then), Err(BlobError::NotFound(_))));
}
