//! XDR (RFC 4506), the part that libvirt uses: big-endian words, everything padded to four bytes.
//!
//! Owns: bytes to values and back, with a limit on each variable length before anything is allocated.
//! Refuses: knowing what the values mean.

use crate::limits;
use thiserror::Error;

/// Bytes that are not what the protocol says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The bytes end before the value does.
    #[error("ends {missing} bytes early")]
    Truncated {
        /// How many bytes the value still needed.
        missing: usize,
    },
    /// Bytes are left after the last value.
    #[error("{left} bytes are left over")]
    LeftOver {
        /// How many.
        left: usize,
    },
    /// A length is above the protocol's limit for that place.
    #[error("a length of {length}, at most {most} is allowed")]
    TooLong {
        /// What was said.
        length: u64,
        /// What is allowed.
        most: usize,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("{0} is no boolean")]
    NoBoolean(u32),
    /// A union, an enumeration or a header holds a value that is not defined.
    #[error("{value:#x} is no {what}")]
    Undefined {
        /// Which place.
        what: &'static str,
        /// What stood there.
        value: u32,
    },
}

/// Arguments on their way to libvirt.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    longest: usize,
}

impl Encoder {
    /// An unsigned 32-bit word.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_be_bytes());
    }

    /// A signed 32-bit word.
    pub fn i32(&mut self, value: i32) {
        self.bytes.extend(value.to_be_bytes());
    }

    /// An unsigned 64-bit word ("unsigned hyper").
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_be_bytes());
    }

    /// Bytes whose number both sides know.
    pub fn fixed(&mut self, value: &[u8]) {
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A string with its length. One above [`limits::STRING`] makes the whole call fail before it is sent.
    pub fn string(&mut self, value: &str) {
        self.longest = self.longest.max(value.len());
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.fixed(value.as_bytes());
    }

    /// A string that may be absent.
    pub fn optional_string(&mut self, value: Option<&str>) {
        self.u32(u32::from(value.is_some()));
        if let Some(value) = value {
            self.string(value);
        }
    }

    /// What was written, whatever its size.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// What was written, unless libvirt would refuse its size.
    pub fn finish(self) -> Result<Vec<u8>, Malformed> {
        within(self.longest, limits::STRING)?;
        within(self.bytes.len(), limits::PAYLOAD)?;
        Ok(self.bytes)
    }
}

fn within(length: usize, most: usize) -> Result<(), Malformed> {
    if length > most { Err(Malformed::TooLong { length: length as u64, most }) } else { Ok(()) }
}

/// A reply being read. Never reads past its end, never allocates for a length it has not the bytes of.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// From the first byte on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| Malformed::Truncated { missing: length - self.rest.len() })?;
        self.rest = rest;
        Ok(taken)
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut word = [0; N];
        word.copy_from_slice(self.take(N)?);
        Ok(word)
    }

    /// An unsigned 32-bit word.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.word().map(u32::from_be_bytes)
    }

    /// A signed 32-bit word.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.word().map(i32::from_be_bytes)
    }

    /// A signed 64-bit word ("hyper").
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.word().map(i64::from_be_bytes)
    }

    /// An unsigned 64-bit word ("unsigned hyper").
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.word().map(u64::from_be_bytes)
    }

    /// A double.
    pub fn f64(&mut self) -> Result<f64, Malformed> {
        self.word().map(f64::from_be_bytes)
    }

    /// 0 or 1, nothing else.
    pub fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed::NoBoolean(other)),
        }
    }

    /// Bytes whose number both sides know.
    pub fn fixed(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let padded = self.take(length.next_multiple_of(4))?;
        Ok(&padded[..length])
    }

    /// A string of at most `most` bytes. What is not UTF-8 is replaced: libvirt's own text is UTF-8, but
    /// it passes on what other programs said.
    pub fn string(&mut self, most: usize) -> Result<String, Malformed> {
        self.text(most).map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// A string's bytes where they lie, to be looked at without a copy.
    pub fn text(&mut self, most: usize) -> Result<&'a [u8], Malformed> {
        let length = self.length(most)?;
        self.fixed(length)
    }

    /// A string that may be absent.
    pub fn optional_string(&mut self, most: usize) -> Result<Option<String>, Malformed> {
        if self.boolean()? { self.string(most).map(Some) } else { Ok(None) }
    }

    /// The length of an array or string of at most `most` elements.
    pub fn length(&mut self, most: usize) -> Result<usize, Malformed> {
        let length = self.u32()? as usize;
        within(length, most)?;
        Ok(length)
    }

    /// An array of at most `most` elements. Grows with what is really there, not with what was announced.
    pub fn array<T>(
        &mut self,
        most: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let length = self.length(most)?;
        let mut elements = Vec::new();
        for _ in 0..length {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::LeftOver { left: self.rest.len() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(a: u32, b: i32, c: u64, text in ".{0,40}", other in proptest::option::of(".{0,9}"),
                                    bytes: [u8; 7]) {
            let mut written = Encoder::default();
            written.u32(a);
            written.i32(b);
            written.u64(c);
            written.string(&text);
            written.fixed(&bytes);
            written.optional_string(other.as_deref());
            let written = written.finish().unwrap();
            prop_assert_eq!(written.len() % 4, 0);
            let mut read = Decoder::new(&written);
            prop_assert_eq!(read.u32(), Ok(a));
            prop_assert_eq!(read.i32(), Ok(b));
            prop_assert_eq!(read.u64(), Ok(c));
            prop_assert_eq!(read.string(400), Ok(text));
            prop_assert_eq!(read.fixed(7), Ok(&bytes[..]));
            prop_assert_eq!(read.optional_string(400), Ok(other));
            prop_assert_eq!(read.finish(), Ok(()));
        }

        #[test]
        fn any_beginning_of_it_is_truncated(text in ".{1,40}", cut in 0..100usize) {
            let mut written = Encoder::default();
            written.string(&text);
            let written = written.finish().unwrap();
            let cut = cut % written.len();
            let truncated = matches!(Decoder::new(&written[..cut]).string(400), Err(Malformed::Truncated { .. }));
            prop_assert!(truncated);
        }
    }

    #[test]
    fn lengths_are_refused_before_they_cost_anything() {
        let four_gib = u32::MAX.to_be_bytes();
        let length = u64::from(u32::MAX);
        assert_eq!(Decoder::new(&four_gib).string(16), Err(Malformed::TooLong { length, most: 16 }));
        assert_eq!(Decoder::new(&four_gib).array(16, Decoder::u32), Err(Malformed::TooLong { length, most: 16 }));
        assert_eq!(Decoder::new(&[0, 0, 0, 9]).array(16, Decoder::u32), Err(Malformed::Truncated { missing: 4 }));
        assert_eq!(Decoder::new(&[0, 0, 0, 2]).boolean(), Err(Malformed::NoBoolean(2)));
        assert_eq!(Decoder::new(&[0]).finish(), Err(Malformed::LeftOver { left: 1 }));
        let mut long = Encoder::default();
        long.string(&"x".repeat(limits::STRING + 1));
        assert!(matches!(long.finish(), Err(Malformed::TooLong { .. })));
    }
}
