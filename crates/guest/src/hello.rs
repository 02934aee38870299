//! The two lines that start a session, and how each end finds its line among foreign bytes.
//!
//! Owns: nonce, version range, hello and answer. Refuses: a line longer than [`LINE_BYTES_MAX`].

use std::fmt;
use std::str::FromStr;

use crate::protocol::CLONE_ID_BYTES_MAX;

/// Longest hello or answer, newline included.
pub const LINE_BYTES_MAX: usize = 160;
const HELLO: &[u8] = b"PERIGEE1 ";
const NONCE_DIGITS: usize = 32;

/// Names one attempt of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Text that is not what its place demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct Malformed(&'static str);

impl FromStr for Nonce {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed("a nonce of 32 lower-case hex digits");
        let lower = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        if text.len() != NONCE_DIGITS || !text.bytes().all(lower) {
            return Err(wrong);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// Protocol versions an end speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub lowest: u16,
    /// The newest.
    pub highest: u16,
}

impl VersionRange {
    /// The newest version both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let version = self.highest.min(other.highest);
        (version >= self.lowest.max(other.lowest)).then_some(version)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.lowest, self.highest)
    }
}

impl FromStr for VersionRange {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed("a version range such as 1-2");
        let (lowest, highest) = text.split_once('-').ok_or(wrong)?;
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong);
        let range = Self { lowest: number(lowest)?, highest: number(highest)? };
        (range.lowest <= range.highest).then_some(range).ok_or(wrong)
    }
}

/// What a host opens a session with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostHello {
    /// New for each attempt.
    pub nonce: Nonce,
    /// What the host speaks.
    pub versions: VersionRange,
}

impl HostHello {
    /// The line, newline included.
    pub fn line(&self) -> String {
        format!("PERIGEE1 {} {}\n", self.nonce, self.versions)
    }

    /// The last whole hello in `bytes`, and where it ends.
    pub fn find_last(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut end = bytes.len();
        while let Some(start) = rfind(&bytes[..end], HELLO) {
            let rest = &bytes[start + HELLO.len()..];
            if let Some(line) = line_of(rest)
                && let Some(hello) = Self::parse(line)
            {
                return Some((hello, start + HELLO.len() + line.len() + 1));
            }
            end = start;
        }
        None
    }

    fn parse(line: &str) -> Option<Self> {
        let (nonce, versions) = line.split_once(' ')?;
        Some(Self { nonce: nonce.parse().ok()?, versions: versions.parse().ok()? })
    }
}

/// What the guest says to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestAnswer {
    /// `OK`: HTTP/2 follows.
    Accepted {
        /// The version both will speak.
        version: u16,
        /// Which clone answers.
        clone_id: String,
    },
    /// `NO`: no version in common.
    Refused {
        /// What the guest speaks.
        versions: VersionRange,
    },
}

impl GuestAnswer {
    /// The line, newline included.
    pub fn line(&self, nonce: Nonce) -> String {
        match self {
            Self::Accepted { version, clone_id } => format!("OK {nonce} {version} {clone_id}\n"),
            Self::Refused { versions } => format!("NO {nonce} {versions}\n"),
        }
    }

    fn parse(accepted: bool, rest: &str) -> Option<Self> {
        if !accepted {
            let versions = rest.parse().ok()?;
            return Some(Self::Refused { versions });
        }
        let (version, clone_id) = rest.split_once(' ')?;
        is_clone_id(clone_id).then_some(())?;
        Some(Self::Accepted { version: version.parse().ok()?, clone_id: clone_id.to_owned() })
    }
}

/// Whether `text` may stand in an answer: 1 to 64 visible ASCII characters.
pub fn is_clone_id(text: &str) -> bool {
    (1..=CLONE_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Discards a guest's bytes until the answer to one hello. Holds [`LINE_BYTES_MAX`] bytes between
/// two calls, however much is pushed.
#[derive(Debug)]
pub struct AnswerSeeker {
    nonce: Nonce,
    check_nonce: bool,
    kept: Vec<u8>,
}

impl AnswerSeeker {
    /// Looks for the answer to `nonce`.
    pub fn new(nonce: Nonce) -> Self {
        Self::checking(nonce, true)
    }

    /// For tests: with `check_nonce` false any answer counts, also one meant for another host.
    #[doc(hidden)]
    pub fn checking(nonce: Nonce, check_nonce: bool) -> Self {
        Self { nonce, check_nonce, kept: Vec::new() }
    }

    /// The answer and the bytes that came after it, once it is whole.
    pub fn push(&mut self, piece: &[u8]) -> Option<(GuestAnswer, Vec<u8>)> {
        self.kept.extend_from_slice(piece);
        let found = (0..self.kept.len()).find_map(|start| self.answer_at(start));
        if let Some((answer, end)) = found {
            return Some((answer, self.kept.split_off(end)));
        }
        let surplus = self.kept.len().saturating_sub(LINE_BYTES_MAX);
        self.kept.drain(..surplus);
        None
    }

    fn answer_at(&self, start: usize) -> Option<(GuestAnswer, usize)> {
        let bytes = &self.kept[start..];
        let accepted = match bytes.first_chunk::<3>()? {
            b"OK " => true,
            b"NO " => false,
            _ => return None,
        };
        let line = line_of(&bytes[3..])?;
        let (nonce, rest) = line.split_once(' ')?;
        let nonce: Nonce = nonce.parse().ok()?;
        if self.check_nonce && nonce != self.nonce {
            return None;
        }
        let answer = GuestAnswer::parse(accepted, rest)?;
        Some((answer, start + 3 + line.len() + 1))
    }
}

fn line_of(bytes: &[u8]) -> Option<&str> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let length = window.iter().position(|&byte| byte == b'\n')?;
    std::str::from_utf8(&window[..length]).ok()
}

fn rfind(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut end = bytes.len();
    while let Some(start) = bytes[..end].iter().rposition(|&byte| byte == first) {
        if bytes[start..].starts_with(wanted) {
            return Some(start);
        }
        end = start;
    }
    None
}
