//! Reading a file here and there, never beyond its end and never more than a bound in all.

use super::InspectError;
use std::io::{Read, Seek, SeekFrom};

/// Bytes read at once.
const CHUNK: u64 = 64 << 10;

/// A file with a length that was looked up once, and what may still be read of it.
pub struct Window<R> {
    file: R,
    file_bytes: u64,
    left: u64,
}

impl<R: Read + Seek> Window<R> {
    /// Over a whole file, for `budget` bytes.
    pub fn of(mut file: R, budget: u64) -> Result<Self, InspectError> {
        let file_bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, file_bytes, left: budget })
    }

    /// How long the file is.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Up to `length` bytes from `at` on; fewer where the file ends.
    pub fn read(&mut self, at: u64, length: u64) -> Result<Vec<u8>, InspectError> {
        let length = length.min(self.file_bytes.saturating_sub(at));
        self.left = self.left.checked_sub(length).ok_or(InspectError::TablesTooLarge)?;
        let mut bytes = Vec::new();
        if length > 0 {
            self.file.seek(SeekFrom::Start(at))?;
            self.file.by_ref().take(length).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// Each big-endian 64-bit entry of a table of `entries`, in order, in bounded memory. `what` names
    /// the table where the file ends inside it.
    pub fn each_entry(
        &mut self,
        what: &'static str,
        at: u64,
        entries: u64,
        mut see: impl FnMut(u64) -> Result<(), InspectError>,
    ) -> Result<(), InspectError> {
        let end = entries.checked_mul(8).and_then(|bytes| at.checked_add(bytes));
        let end = end.filter(|end| *end <= self.file_bytes).ok_or(InspectError::Truncated { what })?;
        let mut from = at;
        while from < end {
            let bytes = self.read(from, CHUNK.min(end - from))?;
            let (whole, _) = bytes.as_chunks::<8>();
            if whole.is_empty() {
                return Err(InspectError::Truncated { what });
            }
            for entry in whole {
                see(u64::from_be_bytes(*entry))?;
            }
            from += 8 * whole.len() as u64;
        }
        Ok(())
    }
}
