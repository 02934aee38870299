//! Reading the kernel's text files over and over at little cost.
//!
//! Owns: files kept open and read at offset 0, and parsers over bytes that cannot fail: what is no
//! number is `None`.
//! Refuses: texts beyond [`TEXT_BYTES_MAX`]; the rest of them is not read.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// /proc/stat of 4096 CPUs is about 600 KB.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
const STEP: usize = 16 << 10;

/// A file of /proc or /sys that is kept open between readings.
pub struct Source {
    path: PathBuf,
    file: Option<File>,
    /// The file lies in the kernel's own /proc; not asked yet while `None`.
    in_proc: Option<bool>,
}

impl Source {
    /// Opens nothing yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, in_proc: None }
    }

    /// The file's text as it is now, in the caller's buffer.
    ///
    /// # Errors
    /// What open(2) or pread(2) said. The next reading opens the file again: sysfs files of a device
    /// that left stay dead for ever on the old descriptor.
    pub fn read<'a>(&mut self, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let length = fill(&file, buffer)?;
        self.file = Some(file);
        Ok(&buffer[..length])
    }

    /// The same of a text of one line, that the kernel gives whole or not at all: no second call asks for
    /// its end, which for these costs as much as the first.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn read_line<'a>(&mut self, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        buffer.resize(buffer.len().max(STEP), 0);
        let length = file.read_at(buffer, 0)?;
        self.file = Some(file);
        Ok(&buffer[..length])
    }

    /// For a mount table of the kernel's own (proc_pid_mounts(5)): whether it is as it was when this was
    /// last asked or the file was opened. Of any other file `false`: nobody knows.
    pub fn is_as_it_was(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        let asked = || fstatfs(file).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC);
        if !*self.in_proc.get_or_insert_with(asked) {
            return false;
        }
        let mut asked = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        poll(&mut asked, PollTimeout::ZERO).is_ok_and(|changed| changed == 0)
    }
}

/// Reads until the end: seq files end a read early at their own page's border.
fn fill(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        if buffer.len() < length + STEP / 2 {
            if length >= TEXT_BYTES_MAX {
                return Ok(length);
            }
            buffer.resize(buffer.len() + STEP.max(buffer.len()), 0);
        }
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => return Ok(length),
            Ok(more) => length += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Lines without their ends.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

/// Words between blanks and tabs.
pub fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty())
}

/// A whole decimal number; `None` for anything else and for what does not fit a series' integer.
pub fn number(word: &[u8]) -> Option<i64> {
    let (negative, digits) = match word {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, word),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(if negative { -value } else { value })
}

/// A decimal such as `0.61` as an integer with so many digits behind the point.
pub fn decimal(word: &[u8], digits: usize) -> Option<i64> {
    let point = word.iter().position(|b| *b == b'.').unwrap_or(word.len());
    let (whole, rest) = word.split_at(point);
    let rest = rest.get(1..).unwrap_or(&[]);
    let mut value = number(whole)?;
    let negative = whole.first() == Some(&b'-');
    for place in 0..digits {
        let digit = match rest.get(place) {
            Some(digit) if digit.is_ascii_digit() => i64::from(digit - b'0'),
            Some(_) => return None,
            None => 0,
        };
        value = value.checked_mul(10)?.checked_add(if negative { -digit } else { digit })?;
    }
    Some(value)
}

/// The text as a label may hold it.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_whole_or_none() {
        let table: [(&str, Option<i64>); 8] = [
            ("0", Some(0)),
            ("-12", Some(-12)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("18446744073709551615", None),
            ("", None),
            ("-", None),
            ("1x", None),
        ];
        for (text, value) in table {
            assert_eq!(number(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn decimals_keep_their_digits() {
        let table = [("0.61", 2, Some(61)), ("12", 2, Some(1200)), ("1.5", 3, Some(1500)), ("-1.25", 2, Some(-125))];
        for (text, digits, value) in table {
            assert_eq!(decimal(text.as_bytes(), digits), value, "{text:?}");
        }
        assert_eq!(decimal(b"1.x", 2), None);
        assert_eq!(decimal(b".", 2), None);
    }

    #[test]
    fn a_file_is_read_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        let mut source = Source::new(path.clone());
        let mut buffer = Vec::new();
        assert!(source.read(&mut buffer).is_err());
        std::fs::write(&path, vec![b'x'; 100_000]).unwrap();
        assert_eq!(source.read(&mut buffer).unwrap().len(), 100_000);
        std::fs::write(&path, "short").unwrap();
        assert_eq!(source.read(&mut buffer).unwrap(), b"short");
    }

    #[test]
    fn only_the_kernels_own_mount_table_is_known_to_be_as_it_was() {
        let mut buffer = Vec::new();
        let mut table = Source::new("/proc/self/mountinfo".into());
        assert!(!table.is_as_it_was(), "it was not read yet");
        let text = table.read(&mut buffer).unwrap().to_owned();
        // Others may mount something meanwhile: then the next question finds it quiet, or the text differs.
        let quiet = (0..10).any(|_| table.is_as_it_was());
        assert!(quiet || table.read(&mut buffer).unwrap() != text);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mountinfo");
        std::fs::write(&path, text).unwrap();
        let mut copy = Source::new(path);
        copy.read(&mut buffer).unwrap();
        assert!(!copy.is_as_it_was());
    }

    proptest! {
        #[test]
        fn numbers_survive(value: i64) {
            prop_assume!(value != i64::MIN);
            prop_assert_eq!(number(value.to_string().as_bytes()), Some(value));
        }
        #[test]
        fn garbage_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), digits in 0usize..20) {
            let _ = (number(&bytes), decimal(&bytes, digits), lines(&bytes).flat_map(words).count());
        }
    }
}
