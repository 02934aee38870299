//! `PUT` and `GET /v1/files`.
//!
//! Owns: the temporary file beside the target and its removal. Refuses: anything but regular
//! files. File work runs on a blocking thread of its own, so a slow disk delays no execution.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderValue;
use nix::libc;
use tokio::sync::mpsc;

use super::request::{Answer, Gone, capacity, head, refuse};
use crate::protocol::{ErrorCode, FILE_SIZE_HEADER, FRAME_BYTES_MAX, GuestError};
use crate::query::FileQuery;

const MODE: u32 = 0o644;
const READ_BYTES: usize = 64 * 1024;
const PIECES_AHEAD: usize = 4;

enum Upload {
    Piece(Bytes),
    Whole,
}

/// Receives a file and puts it in place.
pub async fn put(query: &str, mut body: RecvStream) -> Result<(), GuestError> {
    let query = FileQuery::parse(query)?;
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let writing = tokio::task::spawn_blocking(move || write_file(&query, receiver));
    let mut whole = true;
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else {
            whole = false;
            break;
        };
        let count = piece.len();
        if sender.send(Upload::Piece(piece)).await.is_err() || body.flow_control().release_capacity(count).is_err() {
            whole = false;
            break;
        }
    }
    if whole {
        let _ = sender.send(Upload::Whole).await;
    }
    drop(sender);
    let written = writing.await.map_err(io::Error::other);
    written.and_then(|written| written).map_err(refusal)
}

fn write_file(query: &FileQuery, mut pieces: mpsc::Receiver<Upload>) -> io::Result<()> {
    let target = Path::new(&query.path);
    if target.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut draft = Draft::beside(target)?;
    loop {
        match pieces.blocking_recv() {
            Some(Upload::Piece(piece)) => draft.file.write_all(&piece)?,
            Some(Upload::Whole) => break,
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let mode = query.mode.unwrap_or(MODE);
    draft.file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    draft.file.sync_all()?;
    draft.become_file(target)
}

/// A file that vanishes unless it takes its place.
struct Draft {
    file: File,
    path: Option<PathBuf>,
}

impl Draft {
    fn beside(target: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".perigee-{}-{number}", std::process::id());
        let folder = target.parent().ok_or(io::ErrorKind::IsADirectory)?;
        let path = folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path: Some(path) })
    }

    fn become_file(mut self, target: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            std::fs::rename(path, target)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Sends a regular file.
pub async fn get(query: &str, respond: &mut Answer) -> Result<(), Gone> {
    let opened = match FileQuery::parse(query) {
        Ok(query) => tokio::task::spawn_blocking(move || open(&query.path)).await.map_err(|_| Gone)?.map_err(refusal),
        Err(error) => Err(error),
    };
    let (file, size) = match opened {
        Ok(opened) => opened,
        Err(error) => return refuse(respond, &error),
    };
    let mut head = head(200);
    head.headers_mut().insert(FILE_SIZE_HEADER, HeaderValue::from(size));
    let mut stream = respond.send_response(head, false)?;
    let (sender, mut pieces) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || read_file(file, size, &sender));
    let mut left = size;
    while let Some(mut piece) = pieces.recv().await {
        while !piece.is_empty() {
            let wanted = piece.len().min(FRAME_BYTES_MAX as usize);
            let room = capacity(&mut stream, wanted, 0).await?;
            left = left.saturating_sub(room as u64);
            stream.send_data(piece.split_to(room), false)?;
        }
    }
    if left > 0 {
        // Shorter than announced: the host must not take it for the file.
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
        return Err(Gone);
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}

fn open(path: &str) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok((file, about.len()))
}

fn read_file(mut file: File, size: u64, pieces: &mpsc::Sender<Bytes>) {
    let mut left = size;
    while left > 0 {
        let wanted = READ_BYTES.min(usize::try_from(left).unwrap_or(READ_BYTES));
        let mut piece = vec![0; wanted];
        match file.read(&mut piece) {
            Ok(count) if count > 0 => {
                piece.truncate(count);
                left -= count as u64;
                if pieces.blocking_send(Bytes::from(piece)).is_err() {
                    return;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}

fn refusal(error: io::Error) -> GuestError {
    use io::ErrorKind as Kind;
    let code = match error.kind() {
        Kind::NotFound => ErrorCode::NotFound,
        Kind::IsADirectory | Kind::NotADirectory => ErrorCode::NotAFile,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => ErrorCode::Denied,
        Kind::FileTooLarge => ErrorCode::TooLarge,
        Kind::StorageFull | Kind::QuotaExceeded => ErrorCode::NoSpace,
        Kind::InvalidFilename => ErrorCode::BadPath,
        _ => ErrorCode::Io,
    };
    GuestError::new(code, error.to_string())
}
