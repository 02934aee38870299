//! The guest's end of the port: two threads, one session at a time.
//!
//! Owns: the reader thread, the writer thread, where the port stands (seeking or serving), the
//! last 64 KiB read. Refuses: bytes of a session that ended, in either direction. Each session has
//! an epoch; the writer compares it before every write and a session's stream before every read.
//!
//! The threads block: a virtio port cannot be polled through epoll (it says hang-up before a host
//! ever connected). Reading 0 bytes means that no host is connected; writing then blocks.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use nix::libc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::hello::{GuestAnswer, HostHello, LINE_BYTES_MAX, Nonce};
use crate::protocol::VERSIONS;

/// How much of what was read last is searched for a hello when a session breaks.
const TAIL_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 32 * 1024;
/// One write to the port; the epoch is compared between two of them.
const WRITE_BYTES: usize = 16 * 1024;
const INBOX_BYTES_MAX: usize = 256 * 1024;
const OUTBOX_BYTES_MAX: usize = 128 * 1024;
const IDLE_MIN: Duration = Duration::from_millis(1);
const IDLE_MAX: Duration = Duration::from_millis(20);

/// The reading and the writing half of the port. Reading 0 bytes means "no host connected".
pub struct PortEnds {
    /// Blocks until the host sent something.
    pub reader: Box<dyn Read + Send>,
    /// Blocks until the host takes it.
    pub writer: Box<dyn Write + Send>,
}

/// Shared by the two threads and the sessions.
pub struct Port {
    place: Mutex<Place>,
    /// The outbox is not empty, or the port ended.
    to_write: Condvar,
    /// The inbox has room, the epoch changed, or the port ended.
    to_read: Condvar,
}

struct Place {
    epoch: u64,
    /// The nonce being served; `None` while seeking.
    serving: Option<Nonce>,
    /// A session nobody has accepted yet.
    fresh: bool,
    ended: Option<io::ErrorKind>,
    clone_id: String,
    tail: Vec<u8>,
    /// How much of `tail` holds no start of a hello.
    searched: usize,
    inbox: Queue,
    outbox: Queue,
    accept_waker: Option<Waker>,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    waker: Option<Waker>,
}

impl Queue {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Port {
    /// Starts the two threads. They live as long as the port does.
    pub fn open(ends: PortEnds, clone_id: String) -> io::Result<Arc<Self>> {
        let port = Arc::new(Self {
            place: Mutex::new(Place {
                epoch: 0,
                serving: None,
                fresh: false,
                ended: None,
                clone_id,
                tail: Vec::with_capacity(TAIL_BYTES + READ_BYTES),
                searched: 0,
                inbox: Queue::default(),
                outbox: Queue::default(),
                accept_waker: None,
            }),
            to_write: Condvar::new(),
            to_read: Condvar::new(),
        });
        let PortEnds { reader, writer } = ends;
        let reading = Arc::clone(&port);
        std::thread::Builder::new().name("port-read".to_owned()).spawn(move || reading.read_all_its_life(reader))?;
        let writing = Arc::clone(&port);
        std::thread::Builder::new().name("port-write".to_owned()).spawn(move || writing.write_all_its_life(writer))?;
        Ok(port)
    }

    /// The next session, or why there will be none.
    pub async fn accept(self: &Arc<Self>) -> Result<SessionStream, io::ErrorKind> {
        poll_fn(|context| {
            let mut place = self.place();
            if let Some(kind) = place.ended {
                return Poll::Ready(Err(kind));
            }
            if !place.fresh {
                place.accept_waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            place.fresh = false;
            Poll::Ready(Ok(SessionStream { port: Arc::clone(self), epoch: place.epoch }))
        })
        .await
    }

    /// Which clone this is.
    pub fn clone_id(&self) -> String {
        self.place().clone_id.clone()
    }

    /// HTTP/2 on this session is over. A hello among the last bytes starts the next at once. What
    /// the session still has to say (why it ended) is written until then.
    pub fn session_over(&self, epoch: u64) {
        let mut place = self.place();
        if place.epoch != epoch {
            return;
        }
        let over = place.serving.take();
        place.inbox.clear();
        self.seek(&mut place, over);
        drop(place);
        self.to_read.notify_all();
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all_its_life(&self, mut reader: Box<dyn Read + Send>) {
        let mut buffer = vec![0; READ_BYTES];
        let mut idle = IDLE_MIN;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => {
                    self.host_left();
                    std::thread::sleep(idle);
                    idle = (idle * 2).min(IDLE_MAX);
                }
                Ok(count) => {
                    idle = IDLE_MIN;
                    self.take_in(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                    return self.end(error.kind());
                }
                Err(_) => {
                    self.host_left();
                    std::thread::sleep(IDLE_MAX);
                }
            }
            if self.place().ended.is_some() {
                return;
            }
        }
    }

    fn host_left(&self) {
        let mut place = self.place();
        if place.serving.take().is_some() {
            place.abandon();
        }
        place.tail.clear();
        place.searched = 0;
    }

    fn take_in(&self, piece: &[u8]) {
        let mut place = self.place();
        place.remember(piece);
        if place.serving.is_none() {
            self.seek(&mut place, None);
            return;
        }
        let epoch = place.epoch;
        place.inbox.push(Bytes::copy_from_slice(piece));
        place.inbox.wake();
        while place.epoch == epoch && place.inbox.bytes >= INBOX_BYTES_MAX && place.ended.is_none() {
            place = self.to_read.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Looks for a hello in the tail and answers it. `over` is the nonce that was served last.
    fn seek(&self, place: &mut Place, over: Option<Nonce>) {
        let from = place.searched.min(place.tail.len());
        place.searched = place.tail.len().saturating_sub(LINE_BYTES_MAX);
        let Some((hello, end)) = HostHello::find_last(&place.tail[from..]) else {
            return;
        };
        if over == Some(hello.nonce) {
            return;
        }
        place.tail.drain(..from + end);
        place.searched = 0;
        place.abandon();
        let answer = match VERSIONS.common(hello.versions) {
            Some(version) => {
                place.serving = Some(hello.nonce);
                place.fresh = true;
                let early = Bytes::copy_from_slice(&place.tail);
                if !early.is_empty() {
                    place.inbox.push(early);
                }
                GuestAnswer::Accepted { version, clone_id: place.clone_id.clone() }
            }
            None => GuestAnswer::Refused { versions: VERSIONS },
        };
        place.outbox.push(Bytes::from(answer.line(hello.nonce).into_bytes()));
        if let Some(waker) = place.accept_waker.take() {
            waker.wake();
        }
        self.to_write.notify_one();
    }

    fn write_all_its_life(&self, mut writer: Box<dyn Write + Send>) {
        loop {
            let mut place = self.place();
            while place.outbox.pieces.is_empty() && place.ended.is_none() {
                place = self.to_write.wait(place).unwrap_or_else(PoisonError::into_inner);
            }
            if place.ended.is_some() {
                return;
            }
            let epoch = place.epoch;
            let Some(mut piece) = place.outbox.pieces.pop_front() else {
                continue;
            };
            place.outbox.bytes -= piece.len();
            place.outbox.wake();
            drop(place);
            self.write_piece(&mut *writer, &mut piece, epoch);
        }
    }

    fn write_piece(&self, writer: &mut dyn Write, piece: &mut Bytes, epoch: u64) {
        while !piece.is_empty() {
            if self.place().epoch != epoch {
                return;
            }
            match writer.write(&piece[..piece.len().min(WRITE_BYTES)]) {
                Ok(count) if count > 0 => piece.advance(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    // The bytes are lost, so this session is; the reader finds the next hello.
                    self.session_over(epoch);
                    std::thread::sleep(IDLE_MIN);
                    return;
                }
            }
        }
    }

    fn end(&self, kind: io::ErrorKind) {
        let mut place = self.place();
        place.abandon();
        place.ended = Some(kind);
        if let Some(waker) = place.accept_waker.take() {
            waker.wake();
        }
        drop(place);
        self.to_write.notify_all();
        self.to_read.notify_all();
    }
}

impl Place {
    /// Nothing of the session so far is read or written from here on.
    fn abandon(&mut self) {
        self.epoch += 1;
        self.fresh = false;
        self.serving = None;
        self.inbox.clear();
        self.outbox.clear();
    }

    fn remember(&mut self, piece: &[u8]) {
        self.tail.extend_from_slice(piece);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
        self.searched = self.searched.saturating_sub(surplus);
    }
}

/// One session's bytes. Ends when the session does.
pub struct SessionStream {
    port: Arc<Port>,
    epoch: u64,
}

impl SessionStream {
    /// Names the session to [`Port::session_over`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl AsyncRead for SessionStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        let mut place = self.port.place();
        if place.epoch != self.epoch {
            return Poll::Ready(Ok(()));
        }
        let Some(mut piece) = place.inbox.pieces.pop_front() else {
            place.inbox.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        let count = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..count]);
        piece.advance(count);
        place.inbox.bytes -= count;
        if !piece.is_empty() {
            place.inbox.pieces.push_front(piece);
        }
        drop(place);
        self.port.to_read.notify_one();
        budget.made_progress();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SessionStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut place = self.port.place();
        if place.epoch != self.epoch {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = OUTBOX_BYTES_MAX.saturating_sub(place.outbox.bytes);
        if room == 0 {
            place.outbox.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut piece = Vec::new();
        for slice in slices {
            let part = slice.len().min(room - piece.len());
            piece.extend_from_slice(&slice[..part]);
        }
        let count = piece.len();
        place.outbox.push(Bytes::from(piece));
        drop(place);
        self.port.to_write.notify_one();
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
