//! `perigee image import`: what is said on the line, and a file's way to the control plane.
//!
//! A file is read twice: for its SHA-256, under which it is sent, and to be sent. A sending that breaks
//! off goes on where it did; a file that changes between the two is refused by its sum.

use crate::failure::Failure;
use crate::progress::Line as Told;
use crate::session::Session;
use bytes::Bytes;
use clap::Args;
use futures::Stream;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use perigee_api::ImageRequest;
use perigee_client::ClientError;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Sent and hashed at once.
const PIECE: usize = 256 << 10;
/// Times that a broken sending is gone on with.
const TRIES_MAX: u32 = 10;
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Where a disk comes from, and what it must be.
#[derive(Debug, Args)]
pub struct Line {
    /// Name of the image [default: the catalogue's, with - for .]
    #[arg(required_unless_present = "catalog")]
    name: Option<String>,
    #[command(flatten)]
    source: Source,
    /// What its bytes must come to, 64 hex digits
    #[arg(long, value_name = "HEX", conflicts_with_all = ["sha512", "catalog"])]
    sha256: Option<String>,
    /// What its bytes must come to, 128 hex digits
    #[arg(long, value_name = "HEX", conflicts_with = "catalog")]
    sha512: Option<String>,
    /// What it is [default: its header tells]
    #[arg(long, value_parser = ["raw", "qcow2", "iso"], conflicts_with = "catalog")]
    format: Option<String>,
    /// The processor it is for [default: the control plane's own]
    #[arg(long, value_parser = ["x86_64", "aarch64"], conflicts_with = "catalog")]
    arch: Option<String>,
    /// Print the task's id instead of waiting
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Send this file
    #[arg(long)]
    file: Option<PathBuf>,
    /// Have the control plane fetch it from this address
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Have it fetch what the catalogue has under this name
    #[arg(long, visible_alias = "catalogue", value_name = "NAME")]
    catalog: Option<String>,
}

/// The request, once what it needs is there: a file is sent first.
pub async fn request(session: &Session, line: Line) -> Result<ImageRequest, Failure> {
    let from_catalogue = || line.source.catalog.as_deref().map(named_after);
    let name = line.name.clone().or_else(from_catalogue).unwrap_or_default();
    let sha256 = line.sha256.map(|hex| format!("sha256:{hex}"));
    let checksum = sha256.or(line.sha512.map(|hex| format!("sha512:{hex}")));
    let upload = match &line.source.file {
        Some(file) => Some(send(session, file).await?),
        None => None,
    };
    let Source { from: url, catalog, .. } = line.source;
    let (format, arch) = (line.format, line.arch);
    Ok(ImageRequest { name, url, upload, catalogue: catalog, checksum, format, arch, ..ImageRequest::default() })
}

/// What an image is called that the catalogue has under this name.
pub fn named_after(entry: &str) -> String {
    entry.replace('.', "-").to_ascii_lowercase()
}

async fn send(session: &Session, path: &Path) -> Result<String, Failure> {
    let unread = |fault: io::Error| Failure::io(format!("{} cannot be read", path.display()), &fault);
    let line = Told::begin(session, &format!("reading {}", path.display()));
    let file = open(path)?;
    let (sha256, length) = hashed(file.try_clone().map_err(unread)?).await.map_err(unread)?;
    let file = Arc::new(file);
    let client = session.client()?;
    let mut here = client.uploaded(&sha256).await?.bytes;
    for tries in 1..=TRIES_MAX {
        if here >= length {
            break;
        }
        line.say(&format!("sending {} MiB of {}", (length - here) >> 20, path.display()));
        here = match client.upload(&sha256, here, length - here, pieces(&file, here, length)).await {
            Ok(sent) => sent.bytes,
            Err(ClientError::Unreachable { .. } | ClientError::TimedOut { .. }) if tries < TRIES_MAX => {
                tokio::time::sleep(RETRY_AFTER * tries).await;
                client.uploaded(&sha256).await?.bytes
            }
            Err(error) => return Err(error.into()),
        };
    }
    if here == length { Ok(sha256) } else { Err(Failure::usage(format!("{} could not be sent whole", path.display()))) }
}

/// A regular file itself: no link that may lead elsewhere, nothing that gives what it likes.
fn open(path: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let file = match opened {
        Err(fault) if fault.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(Failure::usage(format!("{} is a symbolic link; name the file itself", path.display())));
        }
        opened => opened.map_err(|fault| Failure::io(format!("{} cannot be read", path.display()), &fault))?,
    };
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(file),
        Ok(_) => Err(Failure::usage(format!("{} is no regular file", path.display()))),
        Err(fault) => Err(Failure::io(format!("{} cannot be read", path.display()), &fault)),
    }
}

/// The file's bytes from `at` on, no more than were hashed though it may grow. Each read says where: one
/// that is still under way when the sending breaks off moves nothing for the next.
fn pieces(file: &Arc<File>, at: u64, end: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let file = Arc::clone(file);
    futures::stream::try_unfold(at, move |at| {
        let file = Arc::clone(&file);
        let length = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let read = move || {
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, at).map(|()| piece)
        };
        async move {
            if length == 0 {
                return Ok(None);
            }
            let piece = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
            Ok(Some((Bytes::from(piece), at + length as u64)))
        }
    })
}

/// Its SHA-256 in hex, and how long it is.
async fn hashed(mut file: File) -> io::Result<(String, u64)> {
    let hashing = tokio::task::spawn_blocking(move || {
        let (mut hash, mut piece, mut length) = (Sha256::new(), vec![0; PIECE], 0);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok((hex::encode(hash.finalize()), length)),
                read => {
                    hash.update(&piece[..read]);
                    length += read as u64;
                }
            }
        }
    });
    hashing.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_itself_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("disk"), "x").unwrap();
        std::os::unix::fs::symlink(at("disk"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let told = |path: &Path| open(path).map(drop).map_err(|failure| failure.what);
        assert!(told(&at("disk")).is_ok());
        assert!(told(&at("link")).unwrap_err().contains("is a symbolic link"));
        for no_file in [at("pipe"), folder.path().to_owned(), "/dev/zero".into()] {
            assert!(told(&no_file).unwrap_err().contains("is no regular file"), "{}", no_file.display());
        }
        assert!(told(&at("none")).is_err());
    }

    #[tokio::test]
    async fn a_file_is_named_by_its_sum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, "hello from inside").unwrap();
        let said = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
        let (sum, length) = hashed(open(&path).unwrap()).await.unwrap();
        assert_eq!((&sum, length), (&String::from_utf8(said.stdout).unwrap()[..64].to_owned(), 17));
    }
}
