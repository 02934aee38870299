//! `perigee sandbox cp`: one file into or out of a guest, as a stream.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::progress::Line;
use crate::session::Session;
use bytes::Bytes;
use perigee_client::FileStream;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::fs;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio_util::io::ReaderStream;

/// One read of a local file.
const PIECE: usize = 64 << 10;
/// Permissions of what comes from standard input.
const MODE_DEFAULT: u32 = 0o644;

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `NAME:/path`.
    Guest {
        /// The sandbox.
        name: String,
        /// Absolute, in the guest.
        path: String,
    },
    /// A path here.
    Local(PathBuf),
    /// `-`.
    Stream,
}

impl Place {
    /// `-`, `NAME:/path`, or a local path. What has a slash before its first colon, or no slash
    /// after it, is local.
    pub fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((name, path)) if !name.is_empty() && !name.contains('/') && path.starts_with('/') => {
                Self::Guest { name: name.to_owned(), path: path.to_owned() }
            }
            _ => Self::Local(PathBuf::from(text)),
        }
    }
}

/// Copies.
pub async fn run(session: &Session, source: &str, destination: &str) -> Result<Exit, Failure> {
    match (Place::parse(source), Place::parse(destination)) {
        (Place::Guest { name, path }, Place::Stream) => to_stdout(session, &name, &path).await?,
        (Place::Guest { name, path }, Place::Local(to)) => to_file(session, &name, &path, &to).await?,
        (Place::Local(from), Place::Guest { name, path }) => from_file(session, &from, &name, &path).await?,
        (Place::Stream, Place::Guest { name, path }) => {
            if path.ends_with('/') {
                return Err(Failure::usage("Standard input has no name; give the whole path in the guest"));
            }
            upload(session, &name, &path, MODE_DEFAULT, tokio::io::stdin()).await?;
        }
        (Place::Guest { .. }, Place::Guest { .. }) => {
            return Err(Failure::usage("A copy from guest to guest goes through here")
                .hint("perigee sandbox cp A:/file - | perigee sandbox cp - B:/file"));
        }
        (Place::Local(_) | Place::Stream, Place::Local(_) | Place::Stream) => {
            return Err(
                Failure::usage("One side must be a guest, as NAME:/path").hint("perigee sandbox cp FILE NAME:/path")
            );
        }
    }
    Ok(Exit::OK)
}

async fn from_file(session: &Session, from: &Path, name: &str, path: &str) -> Result<(), Failure> {
    let unread = |e: io::Error| Failure::io(format!("{} cannot be read", from.display()), &e);
    let file = fs::File::open(from).await.map_err(unread)?;
    let found = file.metadata().await.map_err(unread)?;
    if found.is_dir() {
        return Err(Failure::usage(format!("{} is a directory", from.display()))
            .hint(format!("tar -C {} -c . | perigee sandbox exec {name} -- tar -C {path} -x", from.display())));
    }
    let base = from.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let path = if path.ends_with('/') { format!("{path}{base}") } else { path.to_owned() };
    upload(session, name, &path, found.permissions().mode() & 0o7777, file).await
}

async fn upload<R>(session: &Session, name: &str, path: &str, mode: u32, from: R) -> Result<(), Failure>
where
    R: AsyncRead + Send + 'static,
{
    let id = resolve(session, Kind::Sandbox, name).await?;
    let _line = Line::begin(session, &format!("copying to {name}:{path}"));
    session.client()?.write_file(&id, path, mode, ReaderStream::with_capacity(from, PIECE)).await?;
    Ok(())
}

async fn open(session: &Session, name: &str, path: &str) -> Result<FileStream, Failure> {
    let id = resolve(session, Kind::Sandbox, name).await?;
    Ok(session.client()?.read_file(&id, path).await?)
}

async fn to_stdout(session: &Session, name: &str, path: &str) -> Result<(), Failure> {
    pour(open(session, name, path).await?, session).await
}

/// A stream of bytes to standard output.
pub async fn pour(mut from: FileStream, session: &Session) -> Result<(), Failure> {
    while let Some(bytes) = from.next().await? {
        session.out.bytes(&bytes)?;
    }
    Ok(())
}

/// Into a file beside the destination first: a copy that breaks off leaves what was there.
async fn to_file(session: &Session, name: &str, path: &str, to: &Path) -> Result<(), Failure> {
    let mut target = to.to_owned();
    if fs::metadata(to).await.is_ok_and(|m| m.is_dir()) {
        let base = path.rsplit('/').next().filter(|b| !b.is_empty() && *b != "." && *b != "..");
        target.push(base.ok_or_else(|| Failure::usage(format!("{name}:{path} is not a file")))?);
    }
    let mut stream = open(session, name, path).await?;
    let _line = Line::begin(session, &format!("copying from {name}:{path}"));
    let part = part_of(&target, session);
    let written = fill(&part, &mut stream).await;
    let unwritten = |e: io::Error| Failure::io(format!("{} cannot be written", target.display()), &e);
    let done = match written {
        Ok(Ok(())) => fs::rename(&part, &target).await.map_err(unwritten),
        Ok(Err(broken)) => Err(broken),
        Err(fault) => Err(unwritten(fault)),
    };
    if done.is_err() {
        // What is left of a failed copy is of no use; that it could not be removed, of no interest.
        let _ = fs::remove_file(&part).await;
    }
    done
}

async fn fill(part: &Path, stream: &mut FileStream) -> io::Result<Result<(), Failure>> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(part).await?;
    loop {
        let piece: Option<Bytes> = match stream.next().await {
            Ok(piece) => piece,
            Err(broken) => return Ok(Err(broken.into())),
        };
        match piece {
            Some(bytes) => file.write_all(&bytes).await?,
            None => break,
        }
    }
    file.flush().await?;
    Ok(Ok(()))
}

fn part_of(target: &Path, session: &Session) -> PathBuf {
    let base = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    target.with_file_name(format!(".{base}.{}", session.clock.uuid().simple()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_have_a_name_and_an_absolute_path() {
        let guest = |n: &str, p: &str| Place::Guest { name: n.to_owned(), path: p.to_owned() };
        assert_eq!(Place::parse("web:/a:b"), guest("web", "/a:b"));
        assert_eq!(Place::parse("web:/"), guest("web", "/"));
        assert_eq!(Place::parse("-"), Place::Stream);
        for local in ["file", "./a:/b", "/x:/y", "a:b", ":/x", "C:file"] {
            assert_eq!(Place::parse(local), Place::Local(local.into()), "{local}");
        }
    }
}
