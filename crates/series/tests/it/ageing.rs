//! What is old becomes coarser, answers the same questions, and then goes.

use crate::world::{Meter, STREAM, Small, World, at, run};
use perigee_model::frame::{Series, Sheet};
use perigee_series::promql::{Asked, Engine, Labels, Range, Sample, Source, SourceError, Value};
use perigee_series::{Aged, Database, Selection, Settings};
use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// A midnight.
const FIRST_MS: i64 = 20_700 * DAY_MS;
const STEP_MS: i64 = 10_000;

/// Asks a database, and remembers how coarse its answers were.
struct Asking<'a> {
    database: &'a Database,
    coarsest: Cell<i64>,
}

impl Asking<'_> {
    fn selection<'b>(
        asked: &Asked<'b>,
        labels: &'b dyn Fn(perigee_model::frame::StreamId) -> Option<Labels>,
    ) -> Selection<'b> {
        let Asked { matchers, from_ms, to_ms, reading, coarsest_ms, at } = *asked;
        Selection { matchers, from_ms, to_ms, labels, samples_max: 10_000_000, reading, coarsest_ms, at }
    }
}

impl Source for Asking<'_> {
    fn select(&self, asked: &Asked<'_>) -> Result<Vec<(Labels, Vec<Sample>)>, SourceError> {
        let labels = |_| Some(Labels::from_iter([("host", "web-1")]));
        Ok(self.database.select(&Self::selection(asked, &labels))?)
    }
    fn resolution(&self, asked: &Asked<'_>) -> i64 {
        let labels = |_| Some(Labels::from_iter([("host", "web-1")]));
        let coarse = self.database.resolution(&Self::selection(asked, &labels));
        self.coarsest.set(self.coarsest.get().max(coarse));
        coarse
    }
}

/// The values a query gives, and the coarsest steps it was answered from.
fn ask(database: &Database, query: &str, range: Range) -> (Vec<f64>, i64) {
    let asking = Asking { database, coarsest: Cell::new(0) };
    let answer = Engine::default().range(&asking, query, range, &|| false).unwrap();
    let Value::Matrix(series) = answer else { panic!("no matrix") };
    assert!(series.len() <= 1, "{series:?}");
    let values = series.into_iter().flat_map(|(_, samples)| samples).map(|sample| sample.v).collect();
    (values, asking.coarsest.get())
}

/// Windows of whole hours: frames are ten seconds apart, and both ends of a window belong to it.
fn hours(from_day: i64, days: i64) -> Range {
    let from_ms = FIRST_MS + from_day * DAY_MS + HOUR_MS - STEP_MS;
    Range { from_ms, to_ms: from_ms + days * DAY_MS - HOUR_MS, step_ms: HOUR_MS }
}

/// Frames of some days: a counter that begins again now and then, and a gauge that jumps.
fn measure(world: &World, number: u128, from_ms: i64, to_ms: i64) {
    let mut sheet = Sheet::default();
    let total = sheet.define(Series::counter("node_disk_bytes_total", 0)).unwrap();
    let heat = sheet.define(Series::gauge("node_hwmon_temp_celsius", 1)).unwrap();
    let mut sequence = 0;
    for ms in (from_ms..to_ms).step_by(usize::try_from(STEP_MS).unwrap()) {
        let n = (ms - FIRST_MS) / STEP_MS;
        sequence += 1;
        sheet.set(total, (n % 1000) * 4096);
        sheet.set(heat, 400 + (n * 7919) % 211 - if n % 997 == 0 { 900 } else { 0 });
        let frame = sheet.encode(sequence, at(ms), sequence % 500 == 1);
        world.database.append(STREAM, run(number), &frame, at(ms)).unwrap();
        if sequence % 300 == 0 {
            world.database.seal(at(ms), false).unwrap();
        }
    }
    world.database.seal(at(to_ms), true).unwrap();
}

/// Adding up in another order moves the last digits.
fn are_near(one: &[f64], other: &[f64]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| (a - b).abs() <= b.abs() * 1e-12)
}

fn days_in(folder: &Path, tier: &str) -> usize {
    std::fs::read_dir(folder.join(tier)).unwrap().count()
}

fn age(world: &World, days: i64) -> Aged {
    world.database.age(at(FIRST_MS + days * DAY_MS + HOUR_MS), &|| false).unwrap()
}

const QUESTIONS: [&str; 7] = [
    "max_over_time(node_hwmon_temp_celsius[3590s])",
    "min_over_time(node_hwmon_temp_celsius[3590s])",
    "sum_over_time(node_hwmon_temp_celsius[3590s])",
    "avg_over_time(node_hwmon_temp_celsius[3590s])",
    "count_over_time(node_hwmon_temp_celsius[3590s])",
    "last_over_time(node_disk_bytes_total[3590s])",
    "resets(node_disk_bytes_total[3590s])",
];

#[test]
fn coarser_steps_answer_as_what_was_measured_did() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(folder.path(), Settings { kept: Duration::from_secs(60 * 3600), ..Settings::default() });
    measure(&world, 1, FIRST_MS, FIRST_MS + 3 * DAY_MS);
    let asked: Vec<_> = QUESTIONS.iter().map(|query| ask(&world.database, query, hours(0, 1))).collect();
    assert!(asked.iter().all(|(values, coarse)| values.len() == 24 && *coarse == 0), "as it was measured");
    let total = ask(&world.database, "increase(node_disk_bytes_total[6h])", hours(0, 1));
    assert_eq!(age(&world, 3), Aged { days: 3, ..Aged::default() });
    assert_eq!((days_in(folder.path(), "minute"), days_in(folder.path(), "hour")), (3, 3));
    assert_eq!(days_in(folder.path(), "raw"), 3, "nothing is old enough");
    for (query, (values, _)) in QUESTIONS.iter().zip(&asked) {
        let (now, coarse) = ask(&world.database, query, hours(0, 1));
        assert!(coarse == 60_000 && are_near(&now, values), "{query}: {now:?} for {values:?}");
    }
    assert!(age(&world, 4).dropped_bytes > 0, "the first day is older than two days and a half");
    assert_eq!(days_in(folder.path(), "raw"), 2);
    // There is nothing finer now, also for who wants it.
    let fine = Range { step_ms: 60_000, ..hours(0, 1) };
    let (values, coarse) = ask(&world.database, "max_over_time(node_hwmon_temp_celsius[10m])", fine);
    assert_eq!((values.len(), coarse), (23 * 60 + 1, 60_000));
    let (increase, _) = ask(&world.database, "increase(node_disk_bytes_total[6h])", hours(0, 1));
    // The first windows reach back to before the first frame: there both extrapolate, from other samples.
    for (coarse, fine) in increase.iter().zip(&total.0).skip(6) {
        assert!((coarse / fine - 1.0).abs() < 0.01, "what fell is counted: {coarse} for {fine}");
    }
    drop(world);
    let again = World::with(folder.path(), Settings { kept: Duration::from_secs(60 * 3600), ..Settings::default() });
    for (query, (values, _)) in QUESTIONS.iter().zip(&asked) {
        assert!(are_near(&ask(&again.database, query, hours(0, 1)).0, values), "{query}, after a start");
    }
}

#[test]
fn hours_outlive_minutes_and_all_end() {
    let folder = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(86_400);
    let settings = Settings { kept: day, minutes_kept: day * 4, hours_kept: day * 8, ..Settings::default() };
    let world = World::with(folder.path(), settings);
    measure(&world, 1, FIRST_MS, FIRST_MS + 2 * DAY_MS);
    let asked = ask(&world.database, "max_over_time(node_hwmon_temp_celsius[23h59m50s])", day_of(0)).0;
    age(&world, 2);
    for (days, raw, minutes, hours) in [(4, 1, 2, 2), (6, 1, 0, 2), (9, 1, 0, 1), (11, 1, 0, 0)] {
        age(&world, days);
        let found = ["raw", "minute", "hour"].map(|tier| days_in(folder.path(), tier));
        assert_eq!(found, [raw, minutes, hours], "after {days} days");
        let wanted = if days < 9 { asked.clone() } else { Vec::new() };
        assert_eq!(ask(&world.database, "max_over_time(node_hwmon_temp_celsius[23h59m50s])", day_of(0)).0, wanted);
    }
}

fn day_of(day: i64) -> Range {
    let end = FIRST_MS + (day + 1) * DAY_MS - STEP_MS;
    Range { from_ms: end, to_ms: end, step_ms: DAY_MS }
}

#[test]
fn what_comes_late_is_in_the_coarser_steps_too() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    measure(&world, 1, FIRST_MS, FIRST_MS + 6 * HOUR_MS);
    measure(&world, 2, FIRST_MS + 7 * HOUR_MS, FIRST_MS + 2 * DAY_MS);
    assert_eq!(age(&world, 2).days, 2);
    let count =
        |world: &World| ask(&world.database, "count_over_time(node_hwmon_temp_celsius[23h59m50s])", day_of(0)).0;
    assert_eq!(count(&world), [23.0 * 360.0]);
    // An hour that its host had kept to itself.
    measure(&world, 3, FIRST_MS + 6 * HOUR_MS, FIRST_MS + 7 * HOUR_MS);
    assert_eq!(count(&world), [24.0 * 360.0], "before they are made again, from what was measured");
    assert_eq!(age(&world, 2).days, 2, "a block of the first day may reach into the second");
    assert_eq!(count(&world), [24.0 * 360.0]);
    assert_eq!(age(&world, 2), Aged::default(), "all is made");
}

#[test]
fn a_damaged_block_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    measure(&world, 1, FIRST_MS, FIRST_MS + DAY_MS);
    drop(world);
    let file = folder.path().join("raw").join("20700.blocks");
    let mut bytes = std::fs::read(&file).unwrap();
    // The last byte is of the last block's last page.
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let world = World::open(folder.path());
    let aged = age(&world, 1);
    assert_eq!((aged.days, aged.damaged_blocks), (1, 1));
    let (values, _) = ask(&world.database, "count_over_time(node_disk_bytes_total[3590s])", hours(0, 1));
    assert_eq!((values.first(), values.last()), (Some(&360.0), Some(&360.0)), "the page of another family");
    let (values, _) = ask(&world.database, "count_over_time(node_hwmon_temp_celsius[3590s])", hours(0, 1));
    assert!(values.len() < 24 || values.last() < Some(&360.0), "{values:?}");
    assert_eq!(age(&world, 1), Aged::default(), "it is not tried for ever");
}

#[test]
fn a_full_disk_leaves_what_was_measured_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let small = Small::mount(folder.path(), 8 << 10);
    let world = World::open(&small.0);
    measure(&world, 1, FIRST_MS, FIRST_MS + DAY_MS);
    let wanted = ask(&world.database, QUESTIONS[0], hours(0, 1)).0;
    fill(&small.0);
    assert!(world.database.age(at(FIRST_MS + DAY_MS + HOUR_MS), &|| false).is_err());
    assert_eq!(ask(&world.database, QUESTIONS[0], hours(0, 1)), (wanted.clone(), 0));
    assert_eq!(days_in(&small.0, "minute") + days_in(&small.0, "hour"), 0, "nothing half-done is left");
    // A machine that dies at the worst moment leaves an unfinished file.
    std::fs::remove_file(small.0.join("filler")).unwrap();
    drop(world);
    std::fs::write(small.0.join("minute/20700.new"), b"half").unwrap();
    let world = World::open(&small.0);
    assert_eq!(days_in(&small.0, "minute"), 0);
    assert_eq!(age(&world, 1).days, 1);
    assert_eq!(ask(&world.database, QUESTIONS[0], hours(0, 1)), (wanted, 60_000));
    drop((world, small));
}

#[test]
fn an_old_day_waits_for_its_coarser_steps() {
    let folder = tempfile::tempdir().unwrap();
    let small = Small::mount(folder.path(), 8 << 10);
    let world = World::with(&small.0, Settings { kept: Duration::from_secs(86_400), ..Settings::default() });
    measure(&world, 1, FIRST_MS, FIRST_MS + 2 * DAY_MS);
    fill(&small.0);
    // As on a machine that was switched off for days, and has no room now.
    assert!(world.database.age(at(FIRST_MS + 5 * DAY_MS), &|| false).is_err());
    assert_eq!(days_in(&small.0, "raw"), 2, "both are too old, and there is nothing else of them");
    std::fs::remove_file(small.0.join("filler")).unwrap();
    let aged = age(&world, 5);
    assert!(aged.days == 2 && aged.dropped_bytes > 0, "{aged:?}");
    assert_eq!(["raw", "minute", "hour"].map(|tier| days_in(&small.0, tier)), [1, 2, 2]);
    drop((world, small));
}

#[test]
fn a_disk_that_is_full_when_a_block_is_made_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let small = Small::mount(folder.path(), 4 << 10);
    let world = World::open(&small.0);
    let mut meter = Meter::new(1);
    for n in 0..500 {
        let position = meter.put(&world, FIRST_MS + n * 1000);
        world.wait_durable(position);
    }
    let now = at(FIRST_MS + HOUR_MS);
    fill(&small.0);
    assert!(world.database.seal(now, true).is_err());
    let count = |world: &World| {
        let found = ask(
            &world.database,
            "count_over_time(node_memory_free_bytes[1h])",
            Range { from_ms: FIRST_MS + HOUR_MS - 1000, to_ms: FIRST_MS + HOUR_MS - 1000, step_ms: 1000 },
        );
        found.0
    };
    assert_eq!(count(&world), [500.0]);
    drop(world);
    let world = World::open(&small.0);
    assert_eq!(count(&world), [500.0], "the log has them");
    std::fs::remove_file(small.0.join("filler")).unwrap();
    world.database.seal(now, true).unwrap();
    assert_eq!(count(&world), [500.0]);
    drop(world);
    let world = World::open(&small.0);
    assert_eq!(count(&world), [500.0], "and now a block does");
    drop((world, small));
}

/// Takes all the room there is.
fn fill(folder: &Path) {
    let mut filler = std::fs::File::create(folder.join("filler")).unwrap();
    for size in [1 << 20, 1 << 16, 1 << 12, 1 << 8, 1] {
        while std::io::Write::write_all(&mut filler, &vec![1; size]).is_ok() {}
    }
}
