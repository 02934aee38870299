use super::*;
use crate::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeMap as Map;

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn series(number: u8) -> Series {
    let form = if number.is_multiple_of(5) { Form::Float } else { Form::Decimal(number % 19) };
    Series { form, ..Series::counter("made_up_total", 0).with("number", &number.to_string()) }
}

/// What a collector may do between two frames.
#[derive(Clone, Debug)]
enum Act {
    Set(u8, i64),
    Clear(u8),
    Retire(u8),
    Frame,
    Key,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (any::<u8>(), any::<i64>()).prop_map(|(n, v)| Act::Set(n, v)),
        1 => any::<u8>().prop_map(Act::Clear),
        1 => any::<u8>().prop_map(Act::Retire),
        2 => Just(Act::Frame),
        1 => Just(Act::Key),
    ]
}

fn read(columns: &Columns) -> Map<Series, i64> {
    columns.series().iter().map(|s| (**s).clone()).zip(columns.raw()).filter_map(|(s, v)| Some((s, (*v)?))).collect()
}

proptest! {
    #[test]
    fn the_reader_sees_what_was_written(acts in prop::collection::vec(act(), 0..300)) {
        let (mut sheet, mut columns, mut model) = (Sheet::default(), Columns::default(), Map::new());
        let mut sequence = 0;
        for act in acts {
            match act {
                Act::Set(n, value) => {
                    let slot = sheet.define(series(n)).unwrap();
                    sheet.set(slot, value);
                    model.insert(series(n), value);
                }
                Act::Clear(n) => {
                    let slot = sheet.define(series(n)).unwrap();
                    sheet.clear(slot);
                    model.remove(&series(n));
                }
                Act::Retire(n) => {
                    let slot = sheet.define(series(n)).unwrap();
                    sheet.retire(slot);
                    model.remove(&series(n));
                }
                Act::Frame | Act::Key => {
                    sequence += 1;
                    let bytes = sheet.encode(sequence, at(7), matches!(act, Act::Key));
                    let change = columns.apply(&bytes).unwrap();
                    prop_assert_eq!(change.header, Header::read(&bytes).unwrap());
                    prop_assert_eq!(read(&columns), model.clone());
                }
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_found(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..3)) {
        let mut sheet = Sheet::default();
        let slot = sheet.define(series(1)).unwrap();
        sheet.set(slot, 77);
        let good = sheet.encode(1, at(7), true);
        let mut bytes = good.clone();
        for (index, bit) in flips {
            bytes[index.index(good.len())] ^= 1 << bit;
        }
        if bytes != good {
            let mut columns = Columns::default();
            prop_assert_eq!(columns.apply(&bytes), Err(FrameError::Damaged));
            prop_assert_eq!(columns.last(), None);
        }
    }

    #[test]
    fn garbage_that_checks_is_refused_and_changes_nothing(body in prop::collection::vec(any::<u8>(), 0..200), key: bool) {
        let mut sheet = Sheet::default();
        let slot = sheet.define(series(1)).unwrap();
        sheet.set(slot, 77);
        let mut columns = Columns::default();
        columns.apply(&sheet.encode(1, at(7), true)).unwrap();
        let before = read(&columns);
        let mut bytes = wire::begin(Header { sequence: 2, at: at(8), key });
        bytes.extend(body);
        if columns.apply(&wire::seal(bytes)).is_err() {
            prop_assert_eq!(read(&columns), before);
        }
    }

    #[test]
    fn a_decimal_reads_like_its_text(raw in -(1i64 << 53)..(1i64 << 53), digits in 0u8..=18) {
        let text = format!("{raw}e-{digits}");
        prop_assert_eq!(Form::Decimal(digits).value(raw).to_bits(), text.parse::<f64>().unwrap().to_bits());
    }
}

#[test]
fn a_delta_needs_the_frame_before_it() {
    let mut sheet = Sheet::default();
    let slot = sheet.define(series(1)).unwrap();
    let frames: Vec<_> =
        (1..=3).map(|n| (sheet.set(slot, n), sheet.encode(n.cast_unsigned(), at(n), false)).1).collect();
    let mut columns = Columns::default();
    assert_eq!(columns.apply(&frames[1]), Err(FrameError::Gap { last: 0, got: 2 }));
    columns.apply(&frames[0]).unwrap();
    assert_eq!(columns.apply(&frames[2]), Err(FrameError::Gap { last: 1, got: 3 }));
    columns.apply(&frames[1]).unwrap();
    assert_eq!(columns.apply(&frames[1]), Err(FrameError::Gap { last: 2, got: 2 }));
    assert_eq!(columns.raw(), [Some(2)]);
}

#[test]
fn floats_survive_whole() {
    for value in [0.1, -0.0, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 5e-324] {
        let raw = Form::Float.raw(value).unwrap();
        assert_eq!(Form::Float.value(raw).to_bits(), value.to_bits());
    }
    assert_eq!(Form::Decimal(0).raw(f64::NAN), None);
    assert_eq!(Form::Decimal(3).raw(1e30), None);
    assert_eq!(Form::Decimal(3).raw(12.3456), Some(12346));
}

#[test]
fn churn_is_tidied_by_a_key_frame() {
    let (mut sheet, mut columns) = (Sheet::default(), Columns::default());
    let mut keys = 0;
    for n in 1..=2000u64 {
        let slot = sheet.define(Series::gauge("short_lived", 0).with("pid", &n.to_string())).unwrap();
        sheet.set(slot, 1);
        keys += u32::from(columns.apply(&sheet.encode(n, at(1), false)).unwrap().header.key);
        assert!(columns.series().len() < 600, "{} columns", columns.series().len());
        sheet.retire(slot);
    }
    assert!((3..8).contains(&keys), "{keys} key frames");
}

#[test]
fn a_dictionary_that_unpacks_to_too_much_is_refused_before_it_does() {
    let mut bytes = wire::begin(Header { sequence: 1, at: at(1), key: true });
    wire::varint(&mut bytes, 1 << 40);
    wire::varint(&mut bytes, 3);
    bytes.extend([0; 3]);
    let refused = Columns::default().apply(&wire::seal(bytes));
    assert_eq!(refused, Err(FrameError::TooMany("bytes of series")));
}

#[test]
fn an_idle_frame_is_small() {
    let mut sheet = Sheet::default();
    let slots: Vec<_> =
        (0..500).map(|n| sheet.define(Series::counter("many_total", 0).with("n", &n.to_string()))).collect();
    for slot in slots.iter().flatten() {
        sheet.set(*slot, 1_000_000);
    }
    sheet.encode(1, at(1), true);
    for slot in slots.iter().flatten().take(100) {
        sheet.set(*slot, 1_000_050);
    }
    assert!(sheet.encode(2, at(2), false).len() < 260);
}
