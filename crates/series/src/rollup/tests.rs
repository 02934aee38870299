use super::*;
use proptest::prelude::*;

const SECOND: i64 = 1_000_000;

/// What each reading gives of a series' minutes, as `value` by bucket; `|` for none.
fn read(series: &Series, samples: &[(i64, Option<i64>)], reading: Reading) -> String {
    let (times, values): (Vec<i64>, Vec<Option<i64>>) = samples.iter().map(|(s, v)| (s * SECOND, *v)).unzip();
    let mut points = Vec::new();
    add(&mut points, series.form, Resolution::Minute, &times, &values);
    let mut buckets: Vec<i64> = times.iter().map(|at| Resolution::Minute.bucket(*at)).collect();
    buckets.dedup();
    let ends: Vec<i64> =
        buckets.iter().map(|b| *times.iter().rfind(|at| Resolution::Minute.bucket(**at) == *b).unwrap()).collect();
    let mut bytes = Vec::new();
    encode(&mut bytes, series, &buckets, &points);
    let mut rest = bytes.as_slice();
    assert!(Columns::read(&mut rest, series, buckets.len(), false).unwrap().is_none());
    assert!(rest.is_empty(), "stepping over leads to the end");
    let columns = Columns::read(&mut bytes.as_slice(), series, buckets.len(), true).unwrap().unwrap();
    let shown = columns.samples(series, &ends, reading);
    assert!(shown.windows(2).all(|pair| pair[0].t_ms < pair[1].t_ms), "in rising time");
    let one = |sample: &Sample| if sample.is_gap() { "|".to_owned() } else { sample.v.to_string() };
    shown.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_gauge_keeps_what_any_function_needs() {
    let gauge = Series::gauge("heat", 1);
    let samples = [(0, Some(10)), (20, Some(-30)), (40, Some(25)), (60, Some(5)), (130, None), (190, Some(7))];
    for (reading, wanted) in [
        (Reading::Value, "2.5 0.5 | 0.7"),
        (Reading::Low, "-3 0.5 | 0.7"),
        (Reading::High, "2.5 0.5 | 0.7"),
        (Reading::Sum, "0.5 0.5 | 0.7"),
        (Reading::Count, "3 1 | 1"),
    ] {
        assert_eq!(read(&gauge, &samples, reading), wanted, "{reading:?}");
    }
}

#[test]
fn a_counter_that_began_again_tells_from_where() {
    let counter = Series::counter("bytes_total", 0);
    let samples = [(0, Some(5)), (30, Some(90)), (60, Some(100)), (90, Some(4)), (119, Some(6)), (120, Some(8))];
    assert_eq!(read(&counter, &samples, Reading::Value), "90 100 6 8");
    assert_eq!(read(&counter, &samples, Reading::High), "90 100 8");
    assert_eq!(read(&counter, &samples, Reading::Count), "2 3 1");
}

#[test]
fn no_number_is_neither_least_nor_greatest() {
    let float = Series { form: Form::Float, ..Series::gauge("odd", 0) };
    let raw = |v: f64| Some(v.to_bits().cast_signed());
    let samples = [(0, raw(f64::NAN)), (1, raw(2.5)), (2, raw(f64::NAN)), (3, raw(-1.0)), (60, raw(f64::NAN))];
    assert_eq!(read(&float, &samples, Reading::Low), "-1 NaN");
    assert_eq!(read(&float, &samples, Reading::High), "2.5 NaN");
    assert_eq!(read(&float, &samples, Reading::Sum), "NaN NaN");
}

#[test]
fn sums_beyond_the_integers_are_near() {
    let gauge = Series::gauge("much", 0);
    let samples: Vec<_> = (0..4).map(|n| (n, Some(i64::MAX - n))).collect();
    let sum: f64 = read(&gauge, &samples, Reading::Sum).parse().unwrap();
    assert!((sum / (4.0 * 9.223_372_036_854_775e18) - 1.0).abs() < 1e-12, "{sum}");
}

#[test]
fn beginnings_of_columns_are_refused() {
    let gauge = Series::gauge("heat", 0);
    let mut points = Vec::new();
    add(&mut points, gauge.form, Resolution::Minute, &[0, SECOND], &[Some(1), Some(200)]);
    let mut bytes = Vec::new();
    encode(&mut bytes, &gauge, &[0], &points);
    for end in 0..bytes.len() {
        assert!(Columns::read(&mut &bytes[..end], &gauge, 1, true).is_err(), "{end}");
        assert!(Columns::read(&mut &bytes[..end], &gauge, 1, false).is_err(), "{end}");
    }
}

proptest! {
    /// However frames are cut into blocks, and in whichever order these are read.
    #[test]
    fn points_do_not_depend_on_how_they_came(
        values in prop::collection::vec(prop::option::of(-1000i64..1000), 1..400),
        cut in 0usize..400,
        later_first: bool,
    ) {
        let times: Vec<i64> = (0..values.len()).map(|n| n as i64 * 7 * SECOND).collect();
        let form = Form::Decimal(2);
        let mut whole = Vec::new();
        add(&mut whole, form, Resolution::Minute, &times, &values);
        let cut = cut.min(values.len());
        let mut parts = [(&times[..cut], &values[..cut]), (&times[cut..], &values[cut..])];
        if later_first {
            parts.reverse();
        }
        let mut put_together = Vec::new();
        for (times, values) in parts {
            add(&mut put_together, form, Resolution::Minute, times, values);
        }
        prop_assert_eq!(&put_together, &whole);
        let mut hours = Vec::new();
        add(&mut hours, form, Resolution::Hour, &times, &values);
        prop_assert_eq!(coarser(&whole, form, Resolution::Minute, Resolution::Hour), hours);
    }
}
