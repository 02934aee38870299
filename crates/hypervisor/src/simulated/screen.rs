//! A simulated screen: the server's side of the RFB protocol (RFC 6143), version 3.8, without
//! authentication, raw pixels only.
//!
//! ```text
//! version ─▶ security ─▶ initialisation ─▶ messages: each wish for the picture is answered with all of it
//! ```
//! A key that goes down paints the screen with its number, so that a test sees what it typed.

use std::collections::VecDeque;

/// Width and height in pixels of four bytes.
pub const SIDE: u16 = 16;
const NAME: &[u8] = b"simulated";
const VERSION: &[u8; 12] = b"RFB 003.008\n";
const NO_AUTHENTICATION: u8 = 1;
/// 32 bits a pixel, depth 24, little-endian, true colour, red at bit 16, green at 8, blue at 0.
const PIXEL_FORMAT: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
/// A client's message is not longer; clipboards that are end the connection.
const MESSAGE_MAX: usize = 64 << 10;

#[derive(Clone, Copy)]
enum Step {
    Version,
    Security,
    Initialisation,
    Messages,
}

pub struct Screen {
    step: Step,
    heard: Vec<u8>,
    pixel: [u8; 4],
}

impl Screen {
    /// The server speaks first.
    pub fn greet(say: &mut VecDeque<u8>) -> Self {
        say.extend(VERSION);
        Self { step: Step::Version, heard: Vec::new(), pixel: [0; 4] }
    }

    /// Takes what the client says, in whatever pieces; `false` when it is not RFB.
    pub fn hear(&mut self, bytes: &[u8], say: &mut VecDeque<u8>) -> bool {
        self.heard.extend(bytes);
        loop {
            match self.length() {
                None => return false,
                Some(length) if length > MESSAGE_MAX => return false,
                Some(length) if length > self.heard.len() => return true,
                Some(length) => {
                    let message: Vec<u8> = self.heard.drain(..length).collect();
                    if !self.answer(&message, say) {
                        return false;
                    }
                }
            }
        }
    }

    /// How long what comes next is, as far as that is known by now; `None` for an unknown message.
    fn length(&self) -> Option<usize> {
        let word = |at: usize| self.heard.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]).into());
        match (self.step, self.heard.first()) {
            (Step::Version, _) => Some(VERSION.len()),
            (Step::Security | Step::Initialisation, _) | (Step::Messages, None) => Some(1),
            (Step::Messages, Some(0)) => Some(20),
            (Step::Messages, Some(2)) => Some(4 + 4 * word(2).unwrap_or(0)),
            (Step::Messages, Some(3)) => Some(10),
            (Step::Messages, Some(4)) => Some(8),
            (Step::Messages, Some(5)) => Some(6),
            (Step::Messages, Some(6)) => match (word(4), word(6)) {
                (Some(0), Some(length)) => Some(8 + length),
                (Some(0), None) | (None, _) => Some(8),
                (Some(_), _) => None,
            },
            (Step::Messages, Some(_)) => None,
        }
    }

    fn answer(&mut self, message: &[u8], say: &mut VecDeque<u8>) -> bool {
        match self.step {
            Step::Version => {
                self.step = Step::Security;
                say.extend([1, NO_AUTHENTICATION]);
                message == VERSION
            }
            Step::Security => {
                self.step = Step::Initialisation;
                say.extend([0; 4]);
                message == [NO_AUTHENTICATION]
            }
            Step::Initialisation => {
                self.step = Step::Messages;
                say.extend([SIDE.to_be_bytes(), SIDE.to_be_bytes()].concat());
                say.extend(PIXEL_FORMAT);
                say.extend([0, 0, 0, NAME.len() as u8]);
                say.extend(NAME);
                true
            }
            Step::Messages => {
                match message[0] {
                    3 => self.show(say),
                    4 if message[1] == 1 => self.pixel.copy_from_slice(&message[4..8]),
                    _ => {}
                }
                true
            }
        }
    }

    /// One rectangle, the whole screen, raw.
    fn show(&self, say: &mut VecDeque<u8>) {
        say.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        say.extend([SIDE.to_be_bytes(), SIDE.to_be_bytes()].concat());
        say.extend([0; 4]);
        for _ in 0..usize::from(SIDE) * usize::from(SIDE) {
            say.extend(self.pixel);
        }
    }
}
