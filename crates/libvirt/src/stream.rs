//! Streams: a guest's serial console or channel, as bytes both ways.
//!
//! ```text
//! call ──▶ reply ok ──▶ data ⇄ data ──▶ nothing more (an empty piece) ─┐
//!                          └─ finish ──▶ finish confirmed ◀────────────┘   either side may abort at any time
//! ```
//!
//! Owns: cutting bytes into packets and back, and the ends of a stream.
//! Refuses: sharing a connection. The protocol has no window: the daemon sends as fast as the socket takes
//! it, so whoever reads slowly must keep everything or stop the socket. Each stream therefore opens a
//! connection of its own to the same daemon, at most [`limits::STREAM_WAITING`] packets wait on it, and then
//! it is not read: the daemon stops taking from the guest, and calls elsewhere go on. In the other direction
//! the daemon stops reading when the guest does not take what it is sent, and [`Stream`] is not writable.
//! Nothing is pinged there, for silence is no sign of death on such a connection.

use crate::connection::{Connection, Line, Shared};
use crate::domain::Domain;
use crate::error::{Broken, Error};
use crate::packet::{Header, Status};
use crate::procedure::{self, Procedure};
use crate::xdr::{Encoder, Malformed};
use crate::{limits, locked};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// How a console is opened, as bits to be or-ed.
pub mod console {
    /// Whoever has it now is sent away; without it the call fails when it is taken.
    pub const FORCE: u32 = 1;
    /// Only where the driver can tell that nobody else has it.
    pub const SAFE: u32 = 2;
}

/// Bytes to and from a guest. Reading ends when the guest's side does; an abort by libvirt is an error that
/// holds an [`Error`]. `shutdown` finishes the stream in an orderly way: read on to the end to know that all
/// of it arrived. Dropped without it, the stream is aborted, and its connection ends within a deadline.
#[derive(Debug)]
pub struct Stream {
    connection: Connection,
    procedure: Procedure,
    serial: u32,
    came: mpsc::Receiver<Came>,
    unread: Vec<u8>,
    read: usize,
    over: bool,
    out: PollSender<Vec<u8>>,
    finished: bool,
}

/// What the daemon sent.
#[derive(Debug)]
pub(crate) enum Came {
    Data(Vec<u8>),
    /// Nothing more comes; also the confirmation of our own end.
    End,
    Failed(Error),
}

/// The reader's end of an open stream.
#[derive(Debug)]
pub(crate) struct Inlet {
    procedure: Procedure,
    serial: u32,
    ended: bool,
    to: mpsc::Sender<Came>,
}

impl Connection {
    /// The console `device` of a running domain; its first one when that is `None`. `flags` are [`console`]'s.
    ///
    /// # Errors
    /// [`Error::NoRoute`]; those of opening a connection; libvirt's own, code 55 when the domain does not run.
    pub async fn open_console(&self, domain: &Domain, device: Option<&str>, flags: u32) -> Result<Stream, Error> {
        self.stream(procedure::OPEN_CONSOLE, domain, device, flags).await
    }

    /// The virtio channel `name` of a running domain; its first one when that is `None`. `flags`: 1 sends away
    /// whoever has it now.
    ///
    /// # Errors
    /// As [`Connection::open_console`].
    pub async fn open_channel(&self, domain: &Domain, name: Option<&str>, flags: u32) -> Result<Stream, Error> {
        self.stream(procedure::OPEN_CHANNEL, domain, name, flags).await
    }

    async fn stream(
        &self,
        procedure: Procedure,
        domain: &Domain,
        device: Option<&str>,
        flags: u32,
    ) -> Result<Stream, Error> {
        let connection = self.sibling().await?;
        let wanted = |to: &mut Encoder| {
            domain.encode(to);
            to.optional_string(device);
            to.u32(flags);
        };
        let (to, came) = mpsc::channel(limits::STREAM_WAITING);
        let serial = connection.open_stream(procedure, wanted, to).await?;
        let out = PollSender::new(connection.outgoing.clone());
        let (unread, read, over, finished) = (Vec::new(), 0, false, false);
        Ok(Stream { connection, procedure, serial, came, unread, read, over, out, finished })
    }
}

impl Stream {
    fn packet(&self, status: Status, bytes: &[u8]) -> Vec<u8> {
        Header::stream(self.procedure.number, self.serial, status).packet(bytes)
    }

    /// Room for one packet to the daemon, while the stream is open in both directions.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished || !self.connection.shared.is_streaming() {
            return Poll::Ready(Err(self.gone()));
        }
        let room = ready!(self.out.poll_reserve(cx));
        Poll::Ready(room.map_err(|_| self.gone()))
    }

    fn gone(&self) -> io::Error {
        match self.connection.broken() {
            Some(why) => io::Error::new(io::ErrorKind::BrokenPipe, Error::from(why)),
            None => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.read == this.unread.len() {
            if this.over {
                return Poll::Ready(Ok(()));
            }
            match ready!(this.came.poll_recv(cx)) {
                Some(Came::Data(bytes)) => (this.unread, this.read) = (bytes, 0),
                Some(Came::End) => this.over = true,
                Some(Came::Failed(error)) => {
                    this.over = true;
                    return Poll::Ready(Err(io::Error::other(error)));
                }
                None => {
                    this.over = true;
                    return Poll::Ready(Err(io::Error::other(this.connection.why())));
                }
            }
        }
        let piece = (this.unread.len() - this.read).min(buffer.remaining());
        buffer.put_slice(&this.unread[this.read..this.read + piece]);
        this.read += piece;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            // An empty piece would be the end.
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_room(cx))?;
        let piece = &bytes[..bytes.len().min(limits::STREAM_PIECE)];
        let packet = self.packet(Status::Continue, piece);
        let sent = self.out.send_item(packet);
        Poll::Ready(sent.map(|()| piece.len()).map_err(|_| self.gone()))
    }

    /// Nothing waits here: what was written is on its way, or in a queue that empties itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished || !self.connection.shared.is_streaming() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_room(cx))?;
        let packet = self.packet(Status::Ok, &[]);
        let sent = self.out.send_item(packet);
        self.finished = true;
        Poll::Ready(sent.map_err(|_| self.gone()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished && self.connection.shared.is_streaming() {
            // With a full queue the closed connection says the same.
            let _ = self.connection.outgoing.try_send(self.packet(Status::Error, &[]));
        }
        self.connection.shared.abandoned.notify_one();
    }
}

impl Inlet {
    pub fn new(procedure: Procedure, serial: u32, to: mpsc::Sender<Came>) -> Self {
        Self { procedure, serial, ended: false, to }
    }

    /// What a packet means here; an error when the protocol does not allow it now.
    fn take(&mut self, header: Header, payload: Vec<u8>) -> Result<Came, Malformed> {
        if (header.procedure, header.serial) != (self.procedure.number, self.serial) {
            return Err(Malformed::Undefined { what: "stream that is open", value: header.serial });
        }
        match header.status {
            Status::Error => Ok(Came::Failed(Error::from_payload(self.procedure, &payload))),
            Status::Ok if payload.is_empty() => Ok(Came::End),
            Status::Ok => Err(Malformed::LeftOver { left: payload.len() }),
            Status::Continue if self.ended => {
                Err(Malformed::Undefined { what: "packet after a stream's end", value: header.serial })
            }
            Status::Continue if payload.len() > limits::STREAM_PACKET => {
                Err(Malformed::TooLong { length: payload.len() as u64, most: limits::STREAM_PACKET })
            }
            Status::Continue if payload.is_empty() => {
                self.ended = true;
                Ok(Came::End)
            }
            Status::Continue => Ok(Came::Data(payload)),
        }
    }
}

impl Shared {
    pub(crate) fn is_streaming(&self) -> bool {
        matches!(&*locked(&self.line), Line::Up { stream: Some(_), .. })
    }

    /// Hands a stream's packet on, and waits for its reader; nothing else is read meanwhile.
    pub(crate) async fn streamed(&self, header: Header, payload: Vec<u8>) -> Result<(), Broken> {
        let (to, came) = {
            let Line::Up { stream, .. } = &mut *locked(&self.line) else { return Ok(()) };
            let Some(inlet) = stream else {
                return Err(Malformed::Undefined { what: "stream that is open", value: header.serial }.into());
            };
            let came = inlet.take(header, payload)?;
            let to = inlet.to.clone();
            if header.status != Status::Continue {
                *stream = None;
                self.unstreamed.notify_one();
            }
            (to, came)
        };
        // A reader that left does not mind.
        let _ = to.send(came).await;
        Ok(())
    }
}
