//! Somebody at a VM's serial port, by `perigee vm console`.

use super::Instance;
use super::instance::PATIENCE;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A shell that was not there yet when a line was typed never sees it: it is typed again after this.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

pub struct Sitter {
    console: Child,
    keys: Option<ChildStdin>,
    came: Receiver<Vec<u8>>,
    said: Vec<u8>,
}

impl Sitter {
    pub fn at(instance: &Instance, vm: &str) -> Self {
        let mut command = instance.command(&["vm", "console", vm, "--linger", "1s"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut console = command.spawn().unwrap();
        let (keys, mut shown) = (console.stdin.take(), console.stdout.take().unwrap());
        let (to, came) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = shown.read(&mut piece) {
                if to.send(piece[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { console, keys, came, said: Vec::new() }
    }

    fn heard(&mut self, words: &str, within: Duration) -> bool {
        let until = Instant::now() + within;
        while !self.text().contains(words) {
            match self.came.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.said.extend(bytes),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => panic!("the console ended after {:?}", self.text()),
            }
        }
        true
    }

    /// Reads until these words.
    pub fn hears(&mut self, words: &str) {
        assert!(self.heard(words, PATIENCE), "{words:?} never came, but {:?}", self.text());
    }

    /// Types a line until these words are the answer.
    pub fn asks(&mut self, line: &str, answer: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            self.keys.as_mut().unwrap().write_all(format!("{line}\r").as_bytes()).unwrap();
            if self.heard(answer, ANSWERS_WITHIN) {
                return;
            }
            assert!(Instant::now() < until, "{line:?} was never answered, but {:?}", self.text());
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// Gets up, and the console ends well.
    pub fn leaves(mut self) {
        drop(self.keys.take());
        assert_eq!(self.console.wait().unwrap().code(), Some(0));
    }

    /// Is gone from one moment to the next.
    pub fn dies(mut self) {
        self.console.kill().unwrap();
        self.console.wait().unwrap();
    }
}
