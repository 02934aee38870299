//! Sitting at a simulated guest: a serial port that says back what it hears, and a screen.
//!
//! Owns: the stream's two ends, and who is sent away when. Refuses: tasks; what happens, happens when
//! somebody reads or writes.

use super::Simulated;
use super::host::{Key, SimulatedHost};
use super::screen::Screen;
use crate::{Console, HypervisorError, Seat, Stream};
use async_trait::async_trait;
use perigee_model::GuestId;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait to be read; then the guest takes no more.
const WAITING_MAX: usize = 64 << 10;

#[async_trait]
impl Console for Simulated {
    async fn sit(&self, guest: GuestId, seat: Seat) -> Result<Box<dyn Stream>, HypervisorError> {
        let sitter = self.with_vmm(guest, |vmm| {
            vmm.sitters += u64::from(seat == Seat::Serial);
            Place { pid: vmm.pid, number: (seat == Seat::Serial).then_some(vmm.sitters) }
        })?;
        let mut said = VecDeque::new();
        let behind = match seat {
            Seat::Serial => Behind::Serial,
            Seat::Vnc => Behind::Screen(Screen::greet(&mut said)),
        };
        let gone = Box::pin(gone(self.host.clone(), self.key(guest), sitter));
        Ok(Box::new(Sitting { behind, said, reader: None, writer: None, gone, over: false }))
    }
}

/// Which boot of the guest, and for the serial port the how-manyeth sitter.
#[derive(Clone, Copy)]
struct Place {
    pid: u32,
    number: Option<u64>,
}

/// Resolves when the guest ended, or another sat down.
async fn gone(host: SimulatedHost, key: Key, place: Place) {
    let mut changes = host.changes();
    loop {
        let there = host.look(|world| {
            let vmm = world.guests.get(&key).and_then(Option::as_ref);
            vmm.is_some_and(|vmm| vmm.pid == place.pid && place.number.is_none_or(|number| number == vmm.sitters))
        });
        if !there || changes.changed().await.is_err() {
            return;
        }
    }
}

enum Behind {
    Serial,
    Screen(Screen),
}

struct Sitting {
    behind: Behind,
    said: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl Sitting {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.over = self.over || self.gone.as_mut().poll(cx).is_ready();
        self.over
    }

    /// What the guest makes of it; `false` when it hangs up.
    fn hear(&mut self, bytes: &[u8]) -> bool {
        match &mut self.behind {
            Behind::Serial => {
                self.said.extend(bytes);
                true
            }
            Behind::Screen(screen) => screen.hear(bytes, &mut self.said),
        }
    }
}

impl AsyncRead for Sitting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.said.is_empty() {
            if self.is_over(cx) {
                return Poll::Ready(Ok(()));
            }
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let piece = self.said.len().min(buffer.remaining());
        for byte in self.said.drain(..piece) {
            buffer.put_slice(&[byte]);
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sitting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.over {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WAITING_MAX.saturating_sub(self.said.len());
        if room == 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let piece = &bytes[..bytes.len().min(room)];
        self.over = !self.hear(piece);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.over = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}
