//! The encoding.
//!
//! ```text
//! frame  = version:1 flags:1 sequence:varint at_us:zigzag body crc32:4 (little endian, of all before)
//! key    = raw_length:varint length:varint lz4(count:varint series*) presence:bitmap value:zigzag*
//! delta  = added:varint series* changed:varint (gap:varint<<1|gone [value−last:zigzag])*
//! series = kind<<7|form:1 name label_count:varint (name value)*        text = length:varint utf8
//! ```
//! Varints are LEB128, zigzag as in Protocol Buffers. A value whose column was empty counts from 0.

use super::{Form, MetricKind, Series};
use crate::Timestamp;
use crate::limits::{FRAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_PER_SERIES_MAX, SERIES_PER_STREAM_MAX};
use std::collections::BTreeMap;

const VERSION: u8 = 1;
const KEY: u8 = 1;
const FLOAT: u8 = 0x7f;
const COUNTER: u8 = 0x80;
const CRC_BYTES: usize = 4;
/// A dictionary may not unpack to more than this.
const DICTIONARY_BYTES_MAX: usize = 8 << 20;

/// Why bytes are no frame, or not the next one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The checksum is another: bytes were changed or are missing.
    #[error("the frame is damaged")]
    Damaged,
    /// It checks, but was not written by this encoding.
    #[error("the frame is malformed: {0}")]
    Malformed(&'static str),
    /// A version this program does not read.
    #[error("frames of version {0} are not read here")]
    Version(u8),
    /// Beyond a limit.
    #[error("the frame has more {0} than allowed")]
    TooMany(&'static str),
    /// A delta without the frame before it.
    #[error("frame {got} does not follow frame {last}")]
    Gap { last: u64, got: u64 },
}

/// What stands at the beginning of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its place in its stream's run, from 1, without gaps.
    pub sequence: u64,
    /// When it was measured.
    pub at: Timestamp,
    /// It needs no frame before it.
    pub key: bool,
}

impl Header {
    /// Checks the whole frame and reads its beginning.
    ///
    /// # Errors
    /// `Damaged`, `Malformed`, `Version`, `TooMany`.
    pub fn read(bytes: &[u8]) -> Result<Self, FrameError> {
        Ok(open(bytes)?.0)
    }
}

/// Checks a frame and gives its header and what follows it.
pub(super) fn open(bytes: &[u8]) -> Result<(Header, Reader<'_>), FrameError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooMany("bytes"));
    }
    let Some((body, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else { return Err(FrameError::Damaged) };
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Damaged);
    }
    let mut reader = Reader(body);
    match reader.byte()? {
        VERSION => {}
        other => return Err(FrameError::Version(other)),
    }
    let key = reader.byte()? == KEY;
    let sequence = reader.varint()?;
    let at = Timestamp::from_micros(reader.zigzag()?);
    Ok((Header { sequence, at, key }, reader))
}

pub(super) fn begin(header: Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend([VERSION, if header.key { KEY } else { 0 }]);
    varint(&mut out, header.sequence);
    zigzag(&mut out, header.at.micros());
    out
}

pub(super) fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&out);
    out.extend(crc.to_le_bytes());
    out
}

pub(super) fn dictionary(out: &mut Vec<u8>, series: &[&Series]) {
    let mut raw = Vec::with_capacity(series.len() * 64);
    varint(&mut raw, series.len() as u64);
    for one in series {
        write_series(&mut raw, one);
    }
    let packed = lz4_flex::block::compress(&raw);
    varint(out, raw.len() as u64);
    varint(out, packed.len() as u64);
    out.extend(packed);
}

pub(super) fn write_series(out: &mut Vec<u8>, series: &Series) {
    let form = match series.form {
        Form::Decimal(digits) => digits,
        Form::Float => FLOAT,
    };
    out.push(form | if series.kind == MetricKind::Counter { COUNTER } else { 0 });
    text(out, &series.name);
    varint(out, series.labels.len() as u64);
    for (name, value) in &series.labels {
        text(out, name);
        text(out, value);
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64);
    out.extend(text.as_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn zigzag(out: &mut Vec<u8>, value: i64) {
    varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// What is left to read of a frame.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, FrameError> {
        let (first, rest) = self.0.split_first().ok_or(FrameError::Malformed("it ends early"))?;
        self.0 = rest;
        Ok(*first)
    }
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FrameError::Malformed("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }
    pub fn varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(FrameError::Malformed("a number is too long"))
    }
    pub fn zigzag(&mut self) -> Result<i64, FrameError> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }
    /// A count of things of which each takes at least one byte or bit.
    pub fn count(&mut self, most: usize, of: &'static str) -> Result<usize, FrameError> {
        let count = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if count > most { Err(FrameError::TooMany(of)) } else { Ok(count) }
    }
    fn text(&mut self) -> Result<String, FrameError> {
        let length = self.count(LABEL_VALUE_BYTES_MAX, "bytes in a name")?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| FrameError::Malformed("a name is no UTF-8"))
    }
    pub fn series(&mut self) -> Result<Series, FrameError> {
        let first = self.byte()?;
        let kind = if first & COUNTER == 0 { MetricKind::Gauge } else { MetricKind::Counter };
        let form = match first & !COUNTER {
            FLOAT => Form::Float,
            digits => Form::Decimal(digits),
        };
        let name = self.text()?;
        let count = self.count(LABELS_PER_SERIES_MAX, "labels")?;
        let labels = (0..count).map(|_| Ok((self.text()?, self.text()?))).collect::<Result<BTreeMap<_, _>, _>>()?;
        let series = Series { name, labels, kind, form };
        if series.is_well_formed() { Ok(series) } else { Err(FrameError::Malformed("a series' name or label")) }
    }
    pub fn dictionary(&mut self) -> Result<Vec<Series>, FrameError> {
        let raw = self.count(DICTIONARY_BYTES_MAX, "bytes of series")?;
        let packed = self.count(FRAME_BYTES_MAX, "bytes")?;
        let packed = self.take(packed)?;
        let raw = lz4_flex::block::decompress(packed, raw).map_err(|_| FrameError::Malformed("its series"))?;
        let mut reader = Reader(&raw);
        let count = reader.count(SERIES_PER_STREAM_MAX, "series")?;
        let series = (0..count).map(|_| reader.series()).collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        Ok(series)
    }
    pub fn end(&self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Malformed("bytes behind its end")) }
    }
}
