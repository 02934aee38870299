//! The client's end of NBD, by which QEMU shows a disk.
//!
//! Owns: one connection to one export on a unix socket, one request at a time.
//! Refuses: TLS, several requests at once, exports that cannot be asked what is where.
//!
//! Protocol: Network Block Device, doc/proto.md; numbers are big endian.
//!
//! ```text
//!   greeting ─▶ structured replies ─▶ meta contexts ─▶ go ─▶ read · write · zero · block status · flush ─▶ bye
//! ```

use crate::HypervisorError;
use crate::sockets::connect;
use bytes::{Buf, Bytes, BytesMut};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const STRUCTURED_REPLY: u32 = 0x668e_33ef;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED: u32 = 8;
const OPT_SET_META: u32 = 10;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META: u32 = 4;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_BYE: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_STATUS: u16 = 7;

const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15;

const ENOSPC: u32 = 28;

/// Longest reply to an option, and longest list of extents.
const REPLY_BYTES_MAX: u32 = 1 << 20;
/// The most that one request moves: the protocol's default limit.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;
/// A server answers within this; a disk that does not is broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A connection to an export.
pub struct Nbd {
    stream: UnixStream,
    bytes: u64,
    contexts: Vec<(u32, String)>,
    cookie: u64,
}

/// A stretch of a disk and what a context says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long it is.
    pub bytes: u64,
    /// The context's flags.
    pub flags: u32,
}

impl Nbd {
    /// Opens an export and asks it to tell of these contexts.
    ///
    /// # Errors
    /// `Channel` when nobody listens there, or does not have it.
    pub async fn open(socket: &Path, export: &str, contexts: &[&str]) -> Result<Self, HypervisorError> {
        let connecting =
            async { connect(socket).await.map_err(|error| broken(format!("{}: {error}", socket.display()))) };
        let stream = within(connecting).await?;
        let mut nbd = Self { stream, bytes: 0, contexts: Vec::new(), cookie: 0 };
        within(nbd.greet(export, contexts)).await?;
        Ok(nbd)
    }

    /// Size of the disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What a context says of the disk from there on, at least one stretch, not beyond `length`.
    ///
    /// # Errors
    /// `Channel`, also when the export has no such context.
    pub async fn extents(&mut self, context: &str, at: u64, length: u32) -> Result<Vec<Extent>, HypervisorError> {
        let number = self.contexts.iter().find(|(_, name)| name == context).map(|(number, _)| *number);
        let number = number.ok_or_else(|| broken(format!("the export does not tell of {context}")))?;
        let reply = within(self.ask(CMD_STATUS, at, length, &[])).await?;
        let extents = reply.extents.into_iter().find(|(of, _)| *of == number).map(|(_, extents)| extents);
        extents.filter(|extents| !extents.is_empty()).ok_or_else(|| broken("it says nothing of a stretch"))
    }

    /// Bytes of the disk.
    ///
    /// # Errors
    /// `Channel`.
    pub async fn read(&mut self, at: u64, length: u32) -> Result<Bytes, HypervisorError> {
        let reply = within(self.ask(CMD_READ, at, length, &[])).await?;
        Ok(reply.bytes.freeze())
    }

    /// Puts bytes on the disk.
    ///
    /// # Errors
    /// `NoRoom` when the disk's file system is full, `Channel`.
    pub async fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), HypervisorError> {
        let length = u32::try_from(bytes.len()).map_err(|_| broken("too much at once"))?;
        within(self.ask(CMD_WRITE, at, length, bytes)).await.map(drop)
    }

    /// What was put is durable.
    ///
    /// # Errors
    /// As `write`.
    pub async fn flush(&mut self) -> Result<(), HypervisorError> {
        within(self.ask(CMD_FLUSH, 0, 0, &[])).await.map(drop)
    }

    /// Says good-bye.
    pub async fn close(mut self) {
        let bye = request(CMD_BYE, self.cookie, 0, 0);
        if self.stream.write_all(&bye).await.is_ok() {
            drop(self.stream.shutdown().await);
        }
    }

    async fn greet(&mut self, export: &str, contexts: &[&str]) -> Result<(), HypervisorError> {
        let mut greeting = [0; 18];
        self.stream.read_exact(&mut greeting).await.map_err(cut)?;
        let flags = u16::from_be_bytes([greeting[16], greeting[17]]);
        if &greeting[..16] != GREETING || flags & FIXED_NEWSTYLE == 0 {
            return Err(broken("it does not speak NBD as we do"));
        }
        let ours = flags & (FIXED_NEWSTYLE | NO_ZEROES);
        self.stream.write_all(&u32::from(ours).to_be_bytes()).await.map_err(cut)?;
        self.option(OPT_STRUCTURED, &[], |_, _| Ok(())).await?;
        let mut found = Vec::new();
        if !contexts.is_empty() {
            self.option(OPT_SET_META, &meta(export, contexts), |kind, mut body| {
                if kind == REP_META && body.len() >= 4 {
                    found.push((body.get_u32(), String::from_utf8_lossy(body).into_owned()));
                }
                Ok(())
            })
            .await?;
        }
        self.contexts = found;
        let mut size = None;
        self.option(OPT_GO, &go(export), |kind, mut body| {
            if kind == REP_INFO && body.len() >= 12 && body.get_u16() == INFO_EXPORT {
                size = Some(body.get_u64());
            }
            Ok(())
        })
        .await?;
        self.bytes = size.ok_or_else(|| broken("it does not say how large the disk is"))?;
        Ok(())
    }

    /// Asks for an option; `each` takes what is answered before the acknowledgement.
    async fn option(
        &mut self,
        option: u32,
        body: &[u8],
        mut each: impl FnMut(u32, &[u8]) -> Result<(), HypervisorError>,
    ) -> Result<(), HypervisorError> {
        let mut out = Vec::with_capacity(16 + body.len());
        out.extend(b"IHAVEOPT");
        out.extend(option.to_be_bytes());
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(body);
        self.stream.write_all(&out).await.map_err(cut)?;
        loop {
            let magic = self.stream.read_u64().await.map_err(cut)?;
            let (of, kind) = (self.stream.read_u32().await.map_err(cut)?, self.stream.read_u32().await.map_err(cut)?);
            let length = self.stream.read_u32().await.map_err(cut)?;
            if magic != OPTION_REPLY || of != option || length > REPLY_BYTES_MAX {
                return Err(broken("an answer that is none"));
            }
            let body = self.take(length).await?;
            match kind {
                REP_ACK => return Ok(()),
                kind if kind & REP_ERROR != 0 => {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    return Err(broken(format!("it refuses option {option}: {:#x} {text}", kind & !REP_ERROR)));
                }
                kind => each(kind, &body)?,
            }
        }
    }

    async fn take(&mut self, length: u32) -> Result<BytesMut, HypervisorError> {
        let mut body = BytesMut::zeroed(length as usize);
        self.stream.read_exact(&mut body).await.map_err(cut)?;
        Ok(body)
    }

    async fn ask(&mut self, command: u16, at: u64, length: u32, bytes: &[u8]) -> Result<Reply, HypervisorError> {
        let beyond = at.checked_add(u64::from(length)).is_none_or(|end| end > self.bytes);
        let moves = matches!(command, CMD_READ | CMD_WRITE);
        if moves && length > REQUEST_BYTES_MAX || command != CMD_FLUSH && (beyond || length == 0) {
            return Err(broken(format!("{length} bytes at {at} are not on a disk of {}", self.bytes)));
        }
        self.cookie += 1;
        self.stream.write_all(&request(command, self.cookie, at, length)).await.map_err(cut)?;
        self.stream.write_all(bytes).await.map_err(cut)?;
        let mut reply = Reply::default();
        if command == CMD_READ {
            reply.bytes = BytesMut::zeroed(length as usize);
        }
        let mut filled = 0;
        loop {
            let (last, got) = self.chunk(at, length, &mut reply).await?;
            filled += got;
            if last {
                break;
            }
        }
        match reply.failed {
            Some(ENOSPC) => Err(HypervisorError::NoRoom("the disk's file system is full".to_owned())),
            Some(number) => Err(broken(format!("the disk answers with error {number}"))),
            None if command == CMD_READ && filled != u64::from(length) => Err(broken("bytes of the disk are missing")),
            None => Ok(reply),
        }
    }

    /// One reply, or a piece of one: whether it was the last, and how many bytes of the disk were in it.
    async fn chunk(&mut self, at: u64, length: u32, reply: &mut Reply) -> Result<(bool, u64), HypervisorError> {
        match self.stream.read_u32().await.map_err(cut)? {
            SIMPLE_REPLY => {
                let error = self.stream.read_u32().await.map_err(cut)?;
                self.check_cookie().await?;
                reply.failed = (error != 0).then_some(error).or(reply.failed);
                Ok((true, 0))
            }
            STRUCTURED_REPLY => {
                let (flags, kind) =
                    (self.stream.read_u16().await.map_err(cut)?, self.stream.read_u16().await.map_err(cut)?);
                self.check_cookie().await?;
                let size = self.stream.read_u32().await.map_err(cut)?;
                if size > REPLY_BYTES_MAX.max(length.saturating_add(8)) {
                    return Err(broken("a reply that is too long"));
                }
                let body = self.take(size).await?.freeze();
                Ok((flags & CHUNK_DONE != 0, reply.take(kind, body, at)?))
            }
            _ => Err(broken("a reply that is none")),
        }
    }

    async fn check_cookie(&mut self) -> Result<(), HypervisorError> {
        let cookie = self.stream.read_u64().await.map_err(cut)?;
        if cookie == self.cookie { Ok(()) } else { Err(broken("a reply to something else")) }
    }
}

/// What came back.
#[derive(Default)]
struct Reply {
    bytes: BytesMut,
    extents: Vec<(u32, Vec<Extent>)>,
    failed: Option<u32>,
}

impl Reply {
    /// One piece; how many bytes of the disk it fills.
    fn take(&mut self, kind: u16, mut body: Bytes, at: u64) -> Result<u64, HypervisorError> {
        let short = || broken("a reply that ends early");
        match kind {
            CHUNK_NONE => Ok(0),
            CHUNK_DATA | CHUNK_HOLE => {
                let offset = body.try_get_u64().map_err(|_| short())?;
                let length = match kind {
                    CHUNK_HOLE => body.try_get_u32().map_err(|_| short())? as usize,
                    _ => body.len(),
                };
                let place = usize::try_from(offset.checked_sub(at).ok_or_else(short)?).map_err(|_| short())?;
                let place = self.bytes.get_mut(place..).and_then(|rest| rest.get_mut(..length)).ok_or_else(short)?;
                if kind == CHUNK_DATA {
                    place.copy_from_slice(&body);
                }
                Ok(length as u64)
            }
            CHUNK_STATUS => {
                let context = body.try_get_u32().map_err(|_| short())?;
                let mut extents = Vec::with_capacity(body.len() / 8);
                while let (Ok(bytes), Ok(flags)) = (body.try_get_u32(), body.try_get_u32()) {
                    if bytes > 0 {
                        extents.push(Extent { bytes: u64::from(bytes), flags });
                    }
                }
                self.extents.push((context, extents));
                Ok(0)
            }
            kind if kind & CHUNK_ERROR != 0 => {
                self.failed = Some(body.try_get_u32().map_err(|_| short())?);
                Ok(0)
            }
            _ => Err(broken("a kind of reply that is not known")),
        }
    }
}

fn request(command: u16, cookie: u64, at: u64, length: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(28);
    out.extend(REQUEST.to_be_bytes());
    out.extend(0u16.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(at.to_be_bytes());
    out.extend(length.to_be_bytes());
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}

fn meta(export: &str, contexts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, export);
    out.extend(u32::try_from(contexts.len()).unwrap_or(0).to_be_bytes());
    for context in contexts {
        string(&mut out, context);
    }
    out
}

fn go(export: &str) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, export);
    out.extend(0u16.to_be_bytes());
    out
}

async fn within<T>(asked: impl Future<Output = Result<T, HypervisorError>>) -> Result<T, HypervisorError> {
    tokio::time::timeout(ANSWER_WITHIN, asked).await.unwrap_or_else(|_| Err(broken("the disk does not answer")))
}

fn cut(error: std::io::Error) -> HypervisorError {
    broken(error.to_string())
}

fn broken(text: impl Into<String>) -> HypervisorError {
    HypervisorError::Channel(format!("its disk over NBD: {}", text.into()))
}

#[cfg(test)]
mod tests;
