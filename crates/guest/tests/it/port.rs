//! A virtio-serial port without a VM.
//!
//! The host's side is a Unix socket that one host at a time connects to. The guest's side stays
//! open all its life. Bytes written while no host is connected are dropped, as QEMU does. Whether
//! the guest sees a hang-up (reads 0) between two hosts is a knob: under load it may miss it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nix::libc;
use perigee_guest::server::{self, PortEnds, Reaping, ServerOptions};
use perigee_guest::{
    Channel, ChannelError, ChannelLimits, ExecEnd, ExecEvent, ExecOutcome, ExecStart, Execution, UnixDial,
};
use uuid::Uuid;

pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Wire {
    to_guest: VecDeque<u8>,
    host: Option<UnixStream>,
    unplugged: bool,
    shows_hang_up: bool,
}

pub struct Plug {
    wire: Arc<(Mutex<Wire>, Condvar)>,
    folder: tempfile::TempDir,
}

struct GuestEnd(Arc<(Mutex<Wire>, Condvar)>);

impl Read for GuestEnd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (wire, changed) = &*self.0;
        let mut wire = wire.lock().unwrap();
        loop {
            if wire.unplugged {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            }
            if !wire.to_guest.is_empty() {
                let count = wire.to_guest.read(buffer)?;
                changed.notify_all();
                return Ok(count);
            }
            if wire.host.is_none() && wire.shows_hang_up {
                return Ok(0);
            }
            wire = changed.wait(wire).unwrap();
        }
    }
}

impl Write for GuestEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (wire, _) = &*self.0;
        let host = {
            let wire = wire.lock().unwrap();
            wire.host.as_ref().map(|host| host.try_clone().unwrap())
        };
        if let Some(mut host) = host {
            let _ = host.write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Plug {
    /// An emulated port with nobody in the guest.
    pub fn new(shows_hang_up: bool) -> (Self, PortEnds) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("port")).unwrap();
        let wire = Arc::new((Mutex::new(Wire { shows_hang_up, ..Wire::default() }), Condvar::new()));
        let pump = Arc::clone(&wire);
        std::thread::spawn(move || {
            for host in listener.incoming() {
                serve_host(&pump, host.unwrap());
                if pump.0.lock().unwrap().unplugged {
                    return;
                }
            }
        });
        let ends =
            PortEnds { reader: Box::new(GuestEnd(Arc::clone(&wire))), writer: Box::new(GuestEnd(Arc::clone(&wire))) };
        (Self { wire, folder }, ends)
    }

    /// A port with a guest that serves it.
    pub fn with_guest(shows_hang_up: bool) -> Self {
        let (plug, ends) = Self::new(shows_hang_up);
        let mut options = ServerOptions::of_this_kernel(None, Reaping::Own);
        options.clone_id = "clone-1".to_owned();
        std::thread::spawn(move || server::serve(ends, options));
        plug
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("port")
    }

    pub fn dial(&self) -> UnixDial {
        UnixDial { path: self.path() }
    }

    /// A channel to the guest behind this port.
    pub async fn open(&self) -> Channel {
        self.try_open(PATIENCE).await.unwrap()
    }

    pub async fn try_open(&self, within: Duration) -> Result<Channel, ChannelError> {
        open(self, within, ChannelLimits::default()).await
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        let mut wire = self.wire.0.lock().unwrap();
        wire.unplugged = true;
        if let Some(host) = wire.host.take() {
            let _ = host.shutdown(std::net::Shutdown::Both);
        }
        drop(wire);
        self.wire.1.notify_all();
        let _ = UnixStream::connect(self.path());
    }
}

fn serve_host(pump: &(Mutex<Wire>, Condvar), mut host: UnixStream) {
    let (wire, changed) = pump;
    wire.lock().unwrap().host = Some(host.try_clone().unwrap());
    let mut buffer = [0; 8192];
    while let Ok(count) = host.read(&mut buffer) {
        let mut wire = wire.lock().unwrap();
        if count == 0 || wire.unplugged {
            break;
        }
        wire.to_guest.extend(&buffer[..count]);
        changed.notify_all();
        while wire.to_guest.len() > 64 * 1024 && !wire.unplugged {
            wire = changed.wait(wire).unwrap();
        }
    }
    let _ = host.shutdown(std::net::Shutdown::Both);
    wire.lock().unwrap().host = None;
    changed.notify_all();
}

pub fn entropy() -> impl FnMut() -> [u8; 16] + Send {
    || *Uuid::from_u128(seed()).as_bytes()
}

fn seed() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let half = || u128::from(RandomState::new().hash_one(0));
    half() << 64 | half()
}

pub fn new_id() -> Uuid {
    Uuid::from_u128(seed())
}

pub async fn open(plug: &Plug, within: Duration, limits: ChannelLimits) -> Result<Channel, ChannelError> {
    Channel::open(&plug.dial(), &mut entropy(), within, limits).await
}

pub fn shell(script: &str) -> ExecStart {
    ExecStart::new(new_id(), ["/bin/sh", "-c", script])
}

/// Everything one attach returned.
#[derive(Debug, Default)]
pub struct Heard {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub end: Option<ExecEnd>,
}

impl Heard {
    pub fn code(&self) -> i32 {
        match &self.end.as_ref().unwrap().outcome {
            ExecOutcome::Exited { code } => *code,
            other => panic!("{other:?}"),
        }
    }

    pub fn take(&mut self, event: ExecEvent) {
        match event {
            ExecEvent::Started(_) => {}
            ExecEvent::Stdout(bytes) => self.stdout.extend_from_slice(&bytes),
            ExecEvent::Stderr(bytes) => self.stderr.extend_from_slice(&bytes),
            ExecEvent::End(end) => self.end = Some(end),
        }
    }
}

pub async fn hear(execution: &mut Execution) -> Heard {
    let mut heard = Heard::default();
    let listening = async {
        while heard.end.is_none() {
            let event = execution.next().await.unwrap();
            heard.take(event);
        }
    };
    tokio::time::timeout(PATIENCE, listening).await.unwrap();
    heard
}

pub async fn run(channel: &Channel, start: ExecStart) -> Heard {
    hear(&mut channel.exec(start).await.unwrap()).await
}

/// A stream of pieces for an upload.
pub fn pieces(bytes: Vec<u8>) -> impl futures::Stream<Item = io::Result<Bytes>> + Send {
    let pieces: Vec<_> = bytes.chunks(50_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures::stream::iter(pieces)
}

/// Small, seeded, the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Polls a condition that no event announces.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
