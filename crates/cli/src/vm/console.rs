//! `perigee vm console`: a guest's serial port on this terminal, or its screen on a local port.
//!
//! The terminal is put into raw mode, so that every key is the guest's but Ctrl-], and put back as it was
//! however this ends. Where standard input is no terminal, it is sent as it is, and no key means anything.

use crate::cell::plain;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::names::{Kind, resolve};
use crate::session::Session;
use crate::units::parse_duration;
use bytes::Bytes;
use clap::Args;
use nix::sys::termios::{self, SetArg, Termios};
use perigee_api::ConsoleSeat;
use perigee_client::{ClientError, ConsoleReceiver, ConsoleSender};
use perigee_model::Code;
use std::io::Stdin;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Ctrl-].
const ESCAPE: u8 = 0x1d;
/// One read of standard input, or of a viewer.
const PIECE: usize = 32 << 10;
/// Pieces of input on their way out.
const QUEUE: usize = 4;
/// Between looks at a machine that is on its way up.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Statuses of a machine that is on its way up; `running` when it came between two questions.
const COMING: [&str; 4] = ["pending", "waiting", "starting", "running"];
/// What a guest may have switched on in the terminal is switched off: the other screen, mouse reports,
/// marked pastes, a hidden cursor, colours.
const CALM: &[u8] = b"\x1b[?1047l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[0m";

/// Which machine, and what of it.
#[derive(Debug, Args)]
pub struct Options {
    /// Name, id or the beginning of an id
    name: String,
    /// Wait on this port of the loopback address for one VNC viewer, and lead it to the screen; 0 takes a
    /// free port, and prints it
    #[arg(long, value_name = "PORT", conflicts_with = "linger")]
    vnc: Option<u16>,
    /// Leave when standard input has ended and the machine said nothing for so long [default: stay]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    linger: Option<Duration>,
    /// So long a machine that is on its way up is waited for
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2m")]
    within: Duration,
}

/// How a sitting ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// The guest, or somebody who sat down after us, ended it.
    Over,
    /// We left.
    Left,
    /// We were told to go.
    Told,
}

/// Does it.
pub async fn run(options: &Options, session: &Session) -> Result<Exit, Failure> {
    let vm = resolve(session, Kind::Vm, &options.name).await?;
    let mut signals = Signals::listen().map_err(|e| Failure::io("signals cannot be heard", &e))?;
    let ended = match options.vnc {
        Some(port) => tokio::select! {
            ended = lead(session, options, &vm, port) => ended?,
            () = signals.any() => Ending::Told,
        },
        None => sit(session, options, &vm, &mut signals).await?,
    };
    match ended {
        Ending::Over => session.out.note("perigee: the console was ended there"),
        Ending::Left => session.out.note("perigee: left the console"),
        Ending::Told => return Ok(Exit::INTERRUPTED),
    }
    Ok(Exit::OK)
}

async fn sit(session: &Session, options: &Options, vm: &str, signals: &mut Signals) -> Result<Ending, Failure> {
    let settings = &session.settings;
    let client = session.client()?;
    let (mut sender, receiver) = tokio::select! {
        seated = started(session, options, vm, async || client.console(vm, ConsoleSeat::Serial).await) => seated?,
        () = signals.any() => return Ok(Ending::Told),
    };
    if settings.stdin_terminal {
        session.out.note(&format!("perigee: at the serial port of {}; Ctrl-] leaves", options.name));
    }
    let raw = settings.stdin_terminal.then(|| Raw::enter(settings.stdout_terminal)).transpose();
    let _raw = raw.map_err(|e| Failure::io("the terminal cannot be set", &e))?;
    let (pieces, input) = mpsc::channel(QUEUE);
    tokio::spawn(read(tokio::io::stdin(), pieces));
    let heard = watch::Sender::new(Instant::now());
    let quiet = heard.subscribe();
    let ended = tokio::select! {
        ended = show(receiver, tokio::io::stdout(), &heard) => ended?,
        () = leave(&mut sender, input, settings.stdin_terminal, options.linger.map(|time| (time, quiet))) => Ending::Left,
        () = signals.any() => Ending::Told,
    };
    // The other end sees it anyway when we are gone.
    let _ = sender.leave().await;
    Ok(ended)
}

/// What `open` gives once the machine can be sat at: one that is on its way up is waited for.
async fn started<T>(
    session: &Session,
    options: &Options,
    vm: &str,
    open: impl AsyncFn() -> Result<T, ClientError>,
) -> Result<T, Failure> {
    let until = Instant::now() + options.within;
    let mut said = false;
    loop {
        let refused = match open().await {
            Err(ClientError::Refused(problem)) if problem.code == Code::GuestNotRunning.number() => problem,
            other => return Ok(other?),
        };
        let now = session.client()?.vm(vm).await?.object.guest;
        if !COMING.contains(&now.status.as_str()) {
            return Err(ClientError::Refused(refused).into());
        }
        let note = now.note.map(|note| format!(": {}", plain(&note))).unwrap_or_default();
        if Instant::now() >= until {
            let text = format!("{} did not start within {} s{note}", options.name, options.within.as_secs());
            return Err(Failure::new(Exit::TIMEOUT, text).hint(format!("perigee vm get {}", options.name)));
        }
        if !std::mem::replace(&mut said, true) {
            session.out.note(&format!("perigee: waiting for {} to start{note}", options.name));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Until the person leaves, or the input has ended and then the guest was silent for long enough.
async fn leave(
    sender: &mut ConsoleSender,
    input: mpsc::Receiver<Bytes>,
    keys: bool,
    linger: Option<(Duration, watch::Receiver<Instant>)>,
) {
    match (speak(sender, input, keys).await, linger) {
        (true, _) => {}
        (false, Some((linger, heard))) => silence(heard, linger).await,
        (false, None) => std::future::pending().await,
    }
}

/// Sends what is typed. `true`: the person leaves; `false`: the input ended.
async fn speak(sender: &mut ConsoleSender, mut input: mpsc::Receiver<Bytes>, keys: bool) -> bool {
    while let Some(piece) = input.recv().await {
        let escape = piece.iter().position(|byte| keys && *byte == ESCAPE);
        let piece = piece.slice(..escape.unwrap_or(piece.len()));
        if !piece.is_empty() && sender.send(piece).await.is_err() {
            // The receiver says why.
            return std::future::pending().await;
        }
        if escape.is_some() {
            return true;
        }
    }
    false
}

/// Reads until the end, which closes the queue.
async fn read(mut from: impl AsyncReadExt + Unpin, pieces: mpsc::Sender<Bytes>) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if pieces.send(Bytes::copy_from_slice(&piece[..length])).await.is_err() {
            return;
        }
    }
}

/// Writes what is said. A full pipe stops the guest by flow control.
async fn show(
    mut receiver: ConsoleReceiver,
    mut to: impl AsyncWriteExt + Unpin,
    heard: &watch::Sender<Instant>,
) -> Result<Ending, Failure> {
    while let Some(bytes) = receiver.next().await? {
        to.write_all(&bytes).await.map_err(|e| Failure::from_output(&e))?;
        to.flush().await.map_err(|e| Failure::from_output(&e))?;
        heard.send_replace(Instant::now());
    }
    Ok(Ending::Over)
}

/// Resolves when nothing was said for so long, counted from now at the earliest.
async fn silence(mut heard: watch::Receiver<Instant>, linger: Duration) {
    let mut last = Instant::now();
    while let Ok(Ok(())) = tokio::time::timeout_at(last + linger, heard.changed()).await {
        last = *heard.borrow_and_update();
    }
}

/// One viewer, from its connection to its end.
async fn lead(session: &Session, options: &Options, vm: &str, port: u16) -> Result<Ending, Failure> {
    let client = session.client()?;
    // What cannot be opened is said before somebody starts a viewer.
    started(session, options, vm, async || client.console_ticket(vm, ConsoleSeat::Vnc).await).await?;
    let cannot = |e: std::io::Error| Failure::io(format!("port {port} cannot be listened on"), &e);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    session.out.text(&format!("{address}\n"))?;
    session.out.note("perigee: waiting for a VNC viewer at this address; everybody on this machine can reach it");
    let (viewer, _) = listener.accept().await.map_err(cannot)?;
    drop(listener);
    let (mut sender, receiver) =
        started(session, options, vm, async || client.console(vm, ConsoleSeat::Vnc).await).await?;
    let (from, to) = TcpStream::into_split(viewer);
    let (pieces, input) = mpsc::channel(QUEUE);
    tokio::spawn(read(from, pieces));
    let heard = watch::Sender::new(Instant::now());
    let ended = tokio::select! {
        ended = show(receiver, to, &heard) => ended,
        _ = speak(&mut sender, input, false) => Ok(Ending::Left),
    };
    let _ = sender.leave().await;
    ended
}

/// The terminal in raw mode; as it was again when this is dropped.
struct Raw {
    stdin: Stdin,
    before: Termios,
    calm: bool,
}

impl Raw {
    fn enter(calm: bool) -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { stdin, before, calm })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if self.calm {
            let _ = std::io::Write::write_all(&mut std::io::stdout(), CALM);
            let _ = std::io::Write::flush(&mut std::io::stdout());
        }
        // A terminal that is gone needs nothing.
        let _ = termios::tcsetattr(&self.stdin, SetArg::TCSAFLUSH, &self.before);
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {}, _ = self.hangup.recv() => {} }
    }
}
