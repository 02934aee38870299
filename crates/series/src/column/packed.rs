//! Columns packed by pco: bins of the values or of their differences, an entropy code over the bins, and the rest
//! of each value as bits. It finds a common factor by itself, as of bytes that are counted in pages.
//!
//! Format: pco's wrapped one, a chunk of a single page, behind its header, which names the version.

use super::Malformed;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec};

/// What is gained beyond it is a thousandth, for twice the time.
const LEVEL: usize = 4;
/// Differences of one value to the next where they are smaller; it looks at some values to know.
const DELTA: DeltaSpec = DeltaSpec::TryConsecutive(1);

/// A number that stands in a column as 64 bits.
pub(super) trait Packed: pco::data_types::Number {
    fn of(bits: i64) -> Self;
    fn bits(self) -> i64;
}

impl Packed for i64 {
    fn of(bits: i64) -> Self {
        bits
    }
    fn bits(self) -> i64 {
        self
    }
}

impl Packed for f64 {
    fn of(bits: i64) -> Self {
        Self::from_bits(bits.cast_unsigned())
    }
    fn bits(self) -> i64 {
        self.to_bits().cast_signed()
    }
}

/// Packs them; `None` for what pco does not take.
pub(super) fn encode<T: Packed>(values: &[i64]) -> Option<Vec<u8>> {
    let values: Vec<T> = values.iter().copied().map(T::of).collect();
    let config = ChunkConfig::default().with_compression_level(LEVEL).with_delta_spec(DELTA);
    let file = FileCompressor::default();
    let mut chunk = file.chunk_compressor(&values, &config).ok()?;
    let out = file.write_header(Vec::new()).ok()?;
    let out = chunk.write_meta(out).ok()?;
    chunk.write_page(0, out).ok()
}

/// Unpacks so many.
pub(super) fn decode<T: Packed>(bytes: &[u8], count: usize) -> Result<Vec<i64>, Malformed> {
    let unpacked = || {
        let (file, rest) = FileDecompressor::new(bytes)?;
        let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest)?;
        let mut values = vec![T::of(0); count];
        let progress = chunk.page_decompressor(rest, count)?.read(&mut values)?;
        Ok::<_, pco::errors::PcoError>((values, progress.finished))
    };
    match unpacked() {
        Ok((values, true)) => Ok(values.into_iter().map(T::bits).collect()),
        Ok((_, false)) | Err(_) => Err(Malformed),
    }
}
