//! One column of a block: a series' values at the block's moments.
//!
//! ```text
//! column = 0                                   no value at all
//!        | 1 value:zigzag                      the same value throughout
//!        | 2 runs values                       differences of one value to the next
//!        | 3 runs values                       differences of differences
//!        | 4 runs values                       of floats: bits changed, low ones first
//! runs   = count:varint length:varint*         absent, present, absent … moments in turn
//! value  = zigzag varint; of floats varint
//! ```
//! Small numbers and long repetitions are what makes the compressor behind this quick and strong.

use perigee_model::frame::Form;
use std::ops::Range;

const ABSENT: u8 = 0;
const CONSTANT: u8 = 1;
const DELTA: u8 = 2;
const DELTA_OF_DELTA: u8 = 3;
const BITS: u8 = 4;

/// The bytes end early, or are none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a column is malformed")]
pub struct Malformed;

/// Writes a column.
pub fn encode(out: &mut Vec<u8>, form: Form, values: &[Option<i64>]) {
    let Some(first) = values.iter().flatten().next() else { return out.push(ABSENT) };
    if values.iter().all(|value| value.as_ref() == Some(first)) {
        out.push(CONSTANT);
        return zigzag(out, *first);
    }
    if form == Form::Float {
        out.push(BITS);
        runs(out, values);
        let mut last = 0u64;
        for value in values.iter().flatten() {
            let bits = value.cast_unsigned();
            // What changes least is in the high bits: they come to be the varint's missing ones.
            varint(out, (bits ^ last).reverse_bits());
            last = bits;
        }
        return;
    }
    let present: Vec<i64> = values.iter().flatten().copied().collect();
    let (delta, double) = (deltas(&present), deltas(&deltas(&present)));
    let cost = |numbers: &[i64]| numbers.iter().map(|n| bytes(*n)).sum::<u32>();
    let (mode, numbers) = if cost(&double) < cost(&delta) { (DELTA_OF_DELTA, double) } else { (DELTA, delta) };
    out.push(mode);
    runs(out, values);
    for number in numbers {
        zigzag(out, number);
    }
}

/// Reads a column of so many moments.
///
/// # Errors
/// `Malformed`.
pub fn decode(bytes: &mut &[u8], moments: usize) -> Result<Vec<Option<i64>>, Malformed> {
    let mode = byte(bytes)?;
    match mode {
        ABSENT => return Ok(vec![None; moments]),
        CONSTANT => return Ok(vec![Some(read_zigzag(bytes)?); moments]),
        DELTA | DELTA_OF_DELTA | BITS => {}
        _ => return Err(Malformed),
    }
    let stretches = present(bytes, moments)?;
    let mut values = vec![None; moments];
    let (mut value, mut step) = (0i64, 0i64);
    match mode {
        BITS => fill(&mut values, &stretches, || {
            value ^= read_varint(bytes)?.reverse_bits().cast_signed();
            Ok(value)
        }),
        DELTA => fill(&mut values, &stretches, || {
            value = value.wrapping_add(read_zigzag(bytes)?);
            Ok(value)
        }),
        _ => fill(&mut values, &stretches, || {
            step = step.wrapping_add(read_zigzag(bytes)?);
            value = value.wrapping_add(step);
            Ok(value)
        }),
    }?;
    Ok(values)
}

/// Which moments have a value.
fn present(bytes: &mut &[u8], moments: usize) -> Result<Vec<Range<usize>>, Malformed> {
    let (mut stretches, mut at) = (Vec::new(), 0usize);
    for turn in 0..read_varint(bytes)? {
        let length = usize::try_from(read_varint(bytes)?).map_err(|_| Malformed)?;
        let end = at.checked_add(length).filter(|end| *end <= moments).ok_or(Malformed)?;
        if turn % 2 == 1 {
            stretches.push(at..end);
        }
        at = end;
    }
    Ok(stretches)
}

fn fill(
    values: &mut [Option<i64>],
    stretches: &[Range<usize>],
    mut next: impl FnMut() -> Result<i64, Malformed>,
) -> Result<(), Malformed> {
    for stretch in stretches {
        for value in &mut values[stretch.clone()] {
            *value = Some(next()?);
        }
    }
    Ok(())
}

/// Steps over a column of so many moments.
///
/// # Errors
/// `Malformed`.
pub fn skip(bytes: &mut &[u8], moments: usize) -> Result<(), Malformed> {
    match byte(bytes)? {
        ABSENT => return Ok(()),
        CONSTANT => return read_varint(bytes).map(drop),
        DELTA | DELTA_OF_DELTA | BITS => {}
        _ => return Err(Malformed),
    }
    let present: usize = present(bytes, moments)?.iter().map(Range::len).sum();
    // A varint ends with its first byte that has no high bit.
    for _ in 0..present {
        let end = bytes.iter().position(|byte| *byte < 0x80).ok_or(Malformed)?;
        *bytes = &bytes[end + 1..];
    }
    Ok(())
}

fn deltas(numbers: &[i64]) -> Vec<i64> {
    let before = std::iter::once(0).chain(numbers.iter().copied());
    numbers.iter().zip(before).map(|(now, before)| now.wrapping_sub(before)).collect()
}

/// Absent, present, absent … in turn.
fn runs(out: &mut Vec<u8>, values: &[Option<i64>]) {
    let mut lengths = Vec::new();
    let (mut there, mut length) = (false, 0u64);
    for value in values {
        if value.is_some() != there {
            lengths.push(std::mem::take(&mut length));
            there = !there;
        }
        length += 1;
    }
    lengths.push(length);
    varint(out, lengths.len() as u64);
    for length in lengths {
        varint(out, length);
    }
}

fn bytes(number: i64) -> u32 {
    let folded = ((number << 1) ^ (number >> 63)).cast_unsigned();
    (64 - folded.leading_zeros()).div_ceil(7).max(1)
}

/// LEB128.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small magnitudes become small numbers.
pub fn zigzag(out: &mut Vec<u8>, value: i64) {
    varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn byte(bytes: &mut &[u8]) -> Result<u8, Malformed> {
    let (first, rest) = bytes.split_first().ok_or(Malformed)?;
    *bytes = rest;
    Ok(*first)
}

/// LEB128.
///
/// # Errors
/// `Malformed`.
#[inline]
pub fn read_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    // Most are small.
    if let [first @ ..0x80, rest @ ..] = *bytes {
        *bytes = rest;
        return Ok(u64::from(*first));
    }
    read_long_varint(bytes)
}

fn read_long_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(bytes)?;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// Back from [`zigzag`].
///
/// # Errors
/// `Malformed`.
#[inline]
pub fn read_zigzag(bytes: &mut &[u8]) -> Result<i64, Malformed> {
    let value = read_varint(bytes)?;
    Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(form: Form, values: &[Option<i64>]) -> usize {
        let mut out = Vec::new();
        encode(&mut out, form, values);
        let mut rest = out.as_slice();
        assert_eq!(decode(&mut rest, values.len()).unwrap(), values);
        assert!(rest.is_empty());
        let mut rest = out.as_slice();
        skip(&mut rest, values.len()).unwrap();
        assert!(rest.is_empty(), "stepping over it leads to its end, too");
        out.len()
    }

    proptest! {
        #[test]
        fn columns_come_back(
            values in prop::collection::vec(prop_oneof![1 => Just(None), 3 => any::<i64>().prop_map(Some), 3 => (0i64..5).prop_map(Some)], 0..200),
            float: bool,
        ) {
            round(if float { Form::Float } else { Form::Decimal(0) }, &values);
        }

        #[test]
        fn garbage_is_refused_or_read_and_never_more(bytes in prop::collection::vec(any::<u8>(), 0..100), moments in 0usize..50) {
            let (mut read, mut stepped) = (bytes.as_slice(), bytes.as_slice());
            let skipped = skip(&mut stepped, moments);
            if let Ok(values) = decode(&mut read, moments) {
                prop_assert_eq!(values.len(), moments);
                prop_assert!(skipped.is_ok() && stepped == read);
            }
        }
    }

    #[test]
    fn floats_come_back_bit_by_bit() {
        let floats = [0.1, f64::NAN, f64::INFINITY, -0.0, 1e300];
        round(Form::Float, &floats.map(|v| Some(v.to_bits().cast_signed())));
    }

    #[test]
    fn steady_columns_are_small() {
        assert_eq!(round(Form::Decimal(0), &[Some(7); 500]), 2);
        let counter: Vec<_> = (0..500).map(|n| Some(1_000_000 + 1_000 * n)).collect();
        assert!(round(Form::Decimal(0), &counter) < 520);
    }
}
