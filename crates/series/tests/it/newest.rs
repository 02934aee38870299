//! What is newest at some moments is the same, whether all samples are read for it or only those.

use crate::world::{Meter, NOON, STREAM, World, at, run};
use perigee_model::frame::{Series, Sheet};
use perigee_series::promql::{Moments, Sample};
use proptest::prelude::*;

/// Of each series at each moment, as the engine takes it; values by their bits.
fn newest(found: &[(String, Vec<Sample>)], moments: Moments, lookback_ms: i64) -> Vec<(&str, Vec<Option<u64>>)> {
    let cell = |samples: &[Sample], at: i64| {
        let newest = samples.iter().rfind(|sample| sample.t_ms <= at)?;
        (!newest.is_gap() && newest.t_ms >= at - lookback_ms).then(|| newest.v.to_bits())
    };
    let row = |samples: &[Sample]| moments.iter().map(|at| cell(samples, at)).collect::<Vec<_>>();
    let rows = found.iter().map(|(labels, samples)| (labels.as_str(), row(samples)));
    rows.filter(|(_, cells)| cells.iter().any(Option::is_some)).collect()
}

/// Frames of each second, and a pause before them.
fn stretches() -> impl Strategy<Value = Vec<(i64, i64, bool)>> {
    prop::collection::vec((10_000i64..90_000, 11i64..25, any::<bool>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn what_is_left_out_changes_nothing(
        stretches in stretches(), back in prop::option::of(1000i64..40_000), few: bool,
        first in -10_000i64..60_000, step in 200i64..40_000, count in 1usize..60, lookback in 1000i64..300_000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let world = World::open(folder.path());
        let (mut meter, mut now) = (Meter::new(1), NOON);
        for (pause, frames, sealed) in stretches {
            for _ in 0..frames {
                now += 1000;
                meter.put(&world, now);
            }
            now += pause;
            if sealed {
                world.seal();
            }
        }
        if let Some(back) = back {
            // Another life of the agent, whose clock was set back: its frames are among those of before.
            let mut meter = Meter::new(2);
            let begin = now - back - 20_000;
            for n in 0..12 {
                meter.put(&world, begin + n * 1700);
            }
        }
        if few {
            let mut sheet = Sheet::default();
            let slot = sheet.define(Series::gauge("node_memory_free_bytes", 0)).unwrap();
            for sequence in 1..12 {
                sheet.set(slot, sequence);
                now += 1000;
                let frame = sheet.encode(sequence.cast_unsigned(), at(now), false);
                world.database.append(STREAM, run(3), &frame, at(now)).unwrap();
            }
        }
        let moments = Moments { first_ms: NOON + first, step_ms: step, count };
        let (all, some) = (world.select(&[]), world.newest(moments));
        prop_assert_eq!(newest(&some, moments, lookback), newest(&all, moments, lookback));
    }
}

#[test]
fn what_is_not_asked_for_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let mut meter = Meter::new(1);
    for n in 0..300 {
        meter.put(&world, NOON + n * 1000);
        if n == 150 {
            world.seal();
        }
    }
    let moments = Moments { first_ms: NOON, step_ms: 30_000, count: 10 };
    let held: Vec<usize> = world.newest(moments).iter().map(|(_, samples)| samples.len()).collect();
    assert!(held.iter().all(|held| *held <= 13), "{held:?}");
}
