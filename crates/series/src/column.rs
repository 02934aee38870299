//! One column of a block: a series' values at the block's moments.
//!
//! ```text
//! column = 0                                   no value at all
//!        | 1 value:zigzag                      the same value throughout
//!        | 2 runs values                       differences of one value to the next
//!        | 3 runs values                       differences of differences
//!        | 4 runs values                       of floats: bits changed, low ones first
//!        | 5 runs length:varint packed         by pco, of floats 6
//! runs   = count:varint length:varint*         absent, present, absent … moments in turn
//! value  = zigzag varint; of floats varint
//! ```
//! A few values are differences, which the compressor behind this makes small; many are packed, which leaves it
//! nothing to do.

mod packed;

use perigee_model::frame::Form;
use std::ops::Range;

const ABSENT: u8 = 0;
const CONSTANT: u8 = 1;
const DELTA: u8 = 2;
const DELTA_OF_DELTA: u8 = 3;
const BITS: u8 = 4;
const PACKED: u8 = 5;
const PACKED_FLOATS: u8 = 6;
/// What is packed brings a description of its bins, which fewer values do not pay for.
const PACKED_MIN: usize = 32;

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
    let present: Vec<i64> = values.iter().flatten().copied().collect();
    let (mode, numbers) = if form == Form::Float { (BITS, changed(&present)) } else { differences(&present) };
    let plain: usize = numbers.iter().map(|number| bytes(*number)).sum();
    let packed = packed(form, &present).filter(|(_, packed)| packed.len() < plain);
    out.push(packed.as_ref().map_or(mode, |(mode, _)| *mode));
    runs(out, values);
    if let Some((_, packed)) = packed {
        varint(out, packed.len() as u64);
        return out.extend(packed);
    }
    for number in numbers {
        varint(out, number);
    }
}

/// Where there are enough values for it.
fn packed(form: Form, present: &[i64]) -> Option<(u8, Vec<u8>)> {
    match form {
        _ if present.len() < PACKED_MIN => None,
        Form::Float => Some((PACKED_FLOATS, packed::encode::<f64>(present)?)),
        Form::Decimal(_) => Some((PACKED, packed::encode::<i64>(present)?)),
    }
}

/// The bits of floats that changed. What changes least is in the high ones: they come to be the varint's missing ones.
fn changed(present: &[i64]) -> Vec<u64> {
    let before = std::iter::once(0).chain(present.iter().copied());
    present.iter().zip(before).map(|(now, before)| (now ^ before).cast_unsigned().reverse_bits()).collect()
}

/// Of one value to the next, or of those again, whatever is shorter.
fn differences(present: &[i64]) -> (u8, Vec<u64>) {
    let delta = deltas(present);
    let double = deltas(&delta);
    let [delta, double] = [delta, double].map(|numbers| numbers.into_iter().map(folded).collect::<Vec<_>>());
    let cost = |numbers: &[u64]| numbers.iter().map(|number| bytes(*number)).sum::<usize>();
    if cost(&double) < cost(&delta) { (DELTA_OF_DELTA, double) } else { (DELTA, delta) }
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
        DELTA | DELTA_OF_DELTA | BITS | PACKED | PACKED_FLOATS => {}
        _ => return Err(Malformed),
    }
    let stretches = present(bytes, moments)?;
    let mut values = vec![None; moments];
    let count = stretches.iter().map(Range::len).sum();
    let (mut value, mut step) = (0i64, 0i64);
    match mode {
        PACKED => fill(&mut values, &stretches, each(packed::decode::<i64>(length(bytes)?, count)?)),
        PACKED_FLOATS => fill(&mut values, &stretches, each(packed::decode::<f64>(length(bytes)?, count)?)),
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

fn each(values: Vec<i64>) -> impl FnMut() -> Result<i64, Malformed> {
    let mut values = values.into_iter();
    move || values.next().ok_or(Malformed)
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
        PACKED | PACKED_FLOATS => {
            present(bytes, moments)?;
            return length(bytes).map(drop);
        }
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

/// How many a varint has.
fn bytes(number: u64) -> usize {
    (64 - number.leading_zeros()).div_ceil(7).max(1) as usize
}

/// Steps over bytes whose length stands before them.
fn length<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(read_varint(bytes)?).map_err(|_| Malformed)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
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
    varint(out, folded(value));
}

fn folded(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
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

    proptest! {
        #[test]
        fn what_is_packed_and_damaged_is_refused_or_read_and_never_more(
            values in prop::collection::vec(0i64..5000, 100..400), float: bool, damage: Vec<(prop::sample::Index, u8)>,
        ) {
            let form = if float { Form::Float } else { Form::Decimal(0) };
            let mut column = Vec::new();
            encode(&mut column, form, &values.iter().copied().map(Some).collect::<Vec<_>>());
            prop_assume!([PACKED, PACKED_FLOATS].contains(&column[0]));
            for (place, byte) in damage {
                let place = place.index(column.len());
                column[place] ^= byte;
            }
            if let Ok(read) = decode(&mut column.as_slice(), values.len()) {
                prop_assert_eq!(read.len(), values.len());
            }
        }
    }

    #[test]
    fn floats_come_back_bit_by_bit() {
        let floats = [0.1, f64::NAN, f64::INFINITY, -0.0, 1e300].map(|v| Some(v.to_bits().cast_signed()));
        round(Form::Float, &floats);
        round(Form::Float, &floats.repeat(40));
    }

    #[test]
    fn steady_columns_are_small() {
        assert_eq!(round(Form::Decimal(0), &[Some(7); 500]), 2);
        let counter: Vec<_> = (0..500).map(|n| Some(1_000_000 + 1_000 * n)).collect();
        assert!(round(Form::Decimal(0), &counter) < 50);
        // A level of memory, in bytes that come by the page: 13 bits each say which.
        let pages: Vec<_> = (0..500i64).map(|n| Some((n * 2_654_435_761 % 8192) << 12)).collect();
        assert!(round(Form::Decimal(0), &pages) < 500 * 13 / 8 + 60);
    }
}
