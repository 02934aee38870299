//! `perigee vm console`, on a pipe, a terminal and a port; the other end is played.

use crate::fake::{Fake, Ran, Reply, Seen, json, refusal};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use perigee_api::{ConsoleRequest, ConsoleSeat, ConsoleView, VmView};
use perigee_model::Code;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

const DEADLINE: Duration = Duration::from_secs(30);

/// The guest: says back what it hears; `bye` ends it, `break` breaks it.
pub async fn play(upgraded: Upgraded) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let _ = socket.send(Message::binary(b"login: ".to_vec())).await;
    let mut heard = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else { continue };
        heard.extend(bytes.clone());
        let _ = socket.send(Message::binary(bytes)).await;
        let last = match &heard[..] {
            [.., b'b', b'y', b'e'] => CloseFrame { code: CloseCode::Normal, reason: "".into() },
            [.., b'b', b'r', b'e', b'a', b'k'] => {
                CloseFrame { code: CloseCode::Error, reason: "PRG-7003 it broke".into() }
            }
            _ => continue,
        };
        let _ = socket.close(Some(last)).await;
    }
}

fn plane() -> Fake {
    Fake::start(answer)
}

fn answer(seen: &Seen) -> Reply {
    match seen.path.as_str() {
        "/api/v1/vms/web/console" => {
            let asked: ConsoleRequest = serde_json::from_slice(&seen.body).unwrap();
            let seat = if asked.seat == ConsoleSeat::Vnc { "vnc" } else { "serial" };
            let url = format!("/api/v1/vms/web/console?ticket={seat}");
            json(201, &ConsoleView { ticket: seat.to_owned(), url, expires_at: "2026-10-03T10:00:00Z".to_owned() })
        }
        path if path.starts_with("/api/v1/vms/web/console?") => {
            assert_eq!(seen.header("authorization"), "", "the ticket is enough");
            Reply { status: 101, media: "", body: Vec::new() }
        }
        _ => refusal(Code::NoSuchGuest, 404, "no guest of yours has this name or id"),
    }
}

/// A terminal with our end of it, and `perigee` on the other.
struct Terminal {
    child: Child,
    ours: File,
    theirs: OwnedFd,
    before: Termios,
    shown: Vec<u8>,
}

impl Terminal {
    fn start(plane: &Fake, arguments: &[&str]) -> Self {
        let pair = openpty(None, None).unwrap();
        let before = tcgetattr(&pair.slave).unwrap();
        assert!(before.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO));
        let mut command = plane.command(arguments);
        let end = || Stdio::from(pair.slave.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, ours: pair.master.into(), theirs: pair.slave, before, shown: Vec::new() }
    }

    fn until(&mut self, wanted: &str) {
        while !self.shown.ends_with(wanted.as_bytes()) {
            let mut byte = [0];
            self.ours.read_exact(&mut byte).unwrap();
            self.shown.push(byte[0]);
        }
    }

    fn type_in(&mut self, bytes: &[u8]) {
        self.ours.write_all(bytes).unwrap();
    }

    fn is_raw(&self) -> bool {
        let now = tcgetattr(&self.theirs).unwrap();
        !now.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits for its end: the exit code, with the terminal as it was before.
    fn end(mut self) -> (i32, Vec<u8>) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < DEADLINE, "it does not end");
            std::thread::park_timeout(Duration::from_millis(10));
        };
        assert_eq!(tcgetattr(&self.theirs).unwrap(), self.before, "the terminal is not as it was");
        self.until("\x1b[?25h\x1b[0m");
        assert!(!self.shown.windows(2).any(|two| two == b"\x1b]"), "the window's title was touched");
        (status.code().unwrap(), self.shown)
    }
}

#[test]
fn a_script_speaks_through_pipes() {
    let plane = plane();
    let ran = plane.run_with_input(&["vm", "console", "web", "--linger", "300ms"], b"hello \x1d world");
    assert_eq!((ran.code, ran.out.as_str()), (0, "login: hello \x1d world"), "{}", ran.err);
    assert_eq!(plane.lines(), ["POST /api/v1/vms/web/console", "GET /api/v1/vms/web/console?ticket=serial"]);
    let ran = plane.run_with_input(&["vm", "console", "web"], b"good bye");
    assert_eq!((ran.code, ran.out.as_str()), (0, "login: good bye"));
    assert!(ran.err.contains("ended there"), "{}", ran.err);
    let ran = plane.run_with_input(&["vm", "console", "web"], b"break");
    assert_eq!((ran.code, ran.out.as_str()), (7, "login: break"));
    assert!(ran.err.contains("PRG-7003 it broke"), "{}", ran.err);
    let ran = plane.run(&["vm", "console", "nobody"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{}", ran.err);
}

#[test]
fn a_machine_on_its_way_up_is_waited_for() {
    let asked = AtomicUsize::new(0);
    let plane = Fake::start(move |seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/api/v1/vms/web/console") if asked.fetch_add(1, Ordering::SeqCst) < 2 => {
            refusal(Code::GuestNotRunning, 409, "the guest is still starting")
        }
        ("POST", "/api/v1/vms/late/console" | "/api/v1/vms/off/console") => {
            refusal(Code::GuestNotRunning, 409, "the guest is not running")
        }
        ("GET", "/api/v1/vms/web" | "/api/v1/vms/late") => json(200, &with_status("starting", Some("boots"))),
        ("GET", "/api/v1/vms/off") => json(200, &with_status("stopped", None)),
        _ => answer(seen),
    });
    let ran = plane.run_with_input(&["vm", "console", "web", "--linger", "0s"], b"");
    assert_eq!(
        (ran.code, ran.err.lines().next()),
        (0, Some("perigee: waiting for web to start: boots")),
        "{}",
        ran.err
    );
    let ran = plane.run(&["vm", "console", "late", "--within", "1s"]);
    assert!(ran.code == 6 && ran.err.contains("late did not start within 1 s: boots"), "{} {}", ran.code, ran.err);
    let ran = plane.run(&["vm", "console", "off"]);
    assert!(ran.code == 5 && ran.err.contains("PRG-4002"), "{} {}", ran.code, ran.err);
    assert_eq!(plane.lines().iter().filter(|line| line.contains("vms/off")).count(), 2, "asked once, looked at once");
}

fn with_status(status: &str, note: Option<&str>) -> VmView {
    let mut vm = crate::canned::vm();
    (vm.guest.status, vm.guest.note) = (status.to_owned(), note.map(str::to_owned));
    vm
}

#[test]
fn on_a_terminal_every_key_is_the_guests_but_the_escape() {
    let plane = plane();
    let mut terminal = Terminal::start(&plane, &["vm", "console", "web"]);
    terminal.until("login: ");
    assert!(terminal.is_raw());
    terminal.type_in(b"ls\x03\x1a\r");
    terminal.until("ls\x03\x1a\r");
    terminal.type_in(b"\x1dnot sent");
    let (code, shown) = terminal.end();
    assert_eq!(code, 0);
    assert!(!String::from_utf8_lossy(&shown).contains("not sent"));
}

#[test]
fn the_terminal_is_restored_whoever_ends_it() {
    let plane = plane();
    let mut told = Terminal::start(&plane, &["vm", "console", "web"]);
    told.until("login: ");
    kill(Pid::from_raw(told.child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(told.end().0, 130);
    for (typed, code) in [("bye", 0), ("break", 7)] {
        let mut terminal = Terminal::start(&plane, &["vm", "console", "web"]);
        terminal.until("login: ");
        terminal.type_in(typed.as_bytes());
        assert_eq!(terminal.end().0, code, "{typed}");
    }
}

#[test]
fn one_viewer_is_led_to_the_screen() {
    let plane = plane();
    let mut command = plane.command(&["vm", "console", "web", "--vnc", "0"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
    let address = address.trim().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let taken = plane.run(&["vm", "console", "web", "--vnc", address.rsplit(':').next().unwrap()]);
    assert_eq!(taken.code, 1, "{}", taken.err);
    let mut viewer = TcpStream::connect(&address).unwrap();
    viewer.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut greeting = [0; 7];
    viewer.read_exact(&mut greeting).unwrap();
    viewer.write_all(b"RFB 003.008\n").unwrap();
    let mut back = [0; 12];
    viewer.read_exact(&mut back).unwrap();
    assert_eq!((&greeting, &back), (b"login: ", b"RFB 003.008\n"));
    drop(viewer);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert_eq!(plane.lines().last().unwrap(), "GET /api/v1/vms/web/console?ticket=vnc");
}
