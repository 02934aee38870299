//! The query of a file request: `path` percent-encoded, `mode` octal.
//!
//! Owns: the encoding. Refuses: relative paths, NUL, more than 4096 bytes, modes above 7777.

use std::fmt::Write as _;

use crate::protocol::{ErrorCode, GuestError, PATH_BYTES_MAX};

/// What a file request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileQuery {
    /// Absolute.
    pub path: String,
    /// Permission bits, for a `PUT`.
    pub mode: Option<u32>,
}

impl FileQuery {
    /// As it stands after the `?`.
    pub fn encode(&self) -> String {
        let mut text = String::from("path=");
        for &byte in self.path.as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        if let Some(mode) = self.mode {
            let _ = write!(text, "&mode={mode:o}");
        }
        text
    }

    /// Reads what [`FileQuery::encode`] wrote, and checks it.
    pub fn parse(text: &str) -> Result<Self, GuestError> {
        let mut path = None;
        let mut mode = None;
        for pair in text.split('&') {
            match pair.split_once('=') {
                Some(("path", value)) => path = Some(decode(value)?),
                Some(("mode", value)) => mode = Some(parse_mode(value)?),
                _ => {
                    return Err(GuestError::new(ErrorCode::Invalid, "a file request takes path and mode"));
                }
            }
        }
        let path = path.ok_or_else(|| bad_path("a file request needs a path"))?;
        check_path(&path)?;
        Ok(Self { path, mode })
    }
}

/// Refuses what no end may send: a relative path, a NUL, more than 4096 bytes.
pub fn check_path(path: &str) -> Result<(), GuestError> {
    if !path.starts_with('/') {
        return Err(bad_path("a path must start with /"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(bad_path("a path has at most 4096 bytes"));
    }
    if path.contains('\0') {
        return Err(bad_path("a path has no NUL"));
    }
    Ok(())
}

fn parse_mode(text: &str) -> Result<u32, GuestError> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(GuestError::new(ErrorCode::Invalid, "a mode is octal, at most 7777")),
    }
}

fn decode(text: &str) -> Result<String, GuestError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let value = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        bytes.push(value.ok_or_else(|| bad_path("a % without two hex digits"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad_path("a path is UTF-8"))
}

fn bad_path(message: &str) -> GuestError {
    GuestError::new(ErrorCode::BadPath, message)
}
