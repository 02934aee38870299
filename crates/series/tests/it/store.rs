//! What is taken comes back: over blocks, starts, crashes and damage.

use crate::world::{Meter, NOON, STREAM, Small, World, at, only_file, run, values};
use perigee_model::RunId;
use perigee_model::frame::Series;
use perigee_series::promql::Sample;
use perigee_series::{Database, Refused, SeriesError, Settings};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn what_was_measured_is_read_before_and_after_sealing_and_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = Meter::new(1);
    let mut expected = None;
    for life in 0..3 {
        let world = World::open(folder.path());
        assert_eq!(world.database.mark(STREAM).map(|m| m.1), (life > 0).then_some(meter.sequence));
        for n in 0..50 {
            let position = meter.put(&world, NOON + i64::from(life * 50 + n) * 3000);
            world.wait_durable(position);
            if n == 30 && life != 1 {
                world.seal();
            }
        }
        let found = world.select(&[("__name__", "node_cpu_seconds_total")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, r#"node_cpu_seconds_total{cpu="0", host="web-1"}"#);
        let wanted: Vec<f64> = (1..=meter.sequence).map(|n| n as f64 * 1.5).collect();
        assert_eq!(values(&found), wanted);
        let rare: Vec<f64> = (1..=meter.sequence).filter(|n| n % 5 == 0).map(|n| n as f64).collect();
        assert_eq!(values(&world.select(&[("__name__", "rare")])), rare);
        let odd = world.select(&[("__name__", "odd")]);
        assert_eq!(odd[0].1[2].v.to_bits(), (-3e300f64).to_bits());
        assert!(odd[0].1[0].v.is_nan() && !odd[0].1[0].is_gap());
        if life == 2 {
            world.seal();
            let bits = |all: Vec<(String, Vec<Sample>)>| {
                all.into_iter()
                    .map(|(l, s)| (l, s.iter().map(|s| (s.t_ms, s.v.to_bits())).collect::<Vec<_>>()))
                    .collect::<BTreeMap<_, _>>()
            };
            expected = Some(bits(world.select(&[])));
            drop(world);
            let again = World::open(folder.path());
            assert_eq!(Some(bits(again.select(&[]))), expected, "the same out of blocks alone");
            assert!(std::fs::read_dir(folder.path().join("log")).unwrap().count() <= 1);
        }
    }
    assert!(expected.is_some());
}

#[test]
fn frames_are_taken_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let mut meter = Meter::new(1);
    let frames: Vec<_> = (0..6).map(|n| meter.frame(NOON + n * 1000, false)).collect();
    let put = |run: RunId, frame: &[u8]| match world.database.append(STREAM, run, frame, at(NOON)) {
        Ok(_) => "taken",
        Err(Refused::Duplicate) => "duplicate",
        Err(Refused::NeedsKey) => "needs a key frame",
        Err(Refused::OldRun) => "old run",
        Err(Refused::Future) => "future",
        Err(Refused::TooOld) => "too old",
        Err(Refused::Frame(_)) => "no frame",
        Err(Refused::Store(_)) => "store",
    };
    assert_eq!(put(run(1), &frames[1]), "needs a key frame");
    assert_eq!(put(run(1), &frames[0]), "taken");
    assert_eq!(put(run(1), &frames[0]), "duplicate");
    assert_eq!(put(run(1), &frames[2]), "needs a key frame");
    assert_eq!(put(run(1), &frames[1]), "taken");
    assert_eq!(put(run(2), &frames[2]), "needs a key frame");
    let mut damaged = frames[2].clone();
    damaged[5] ^= 1;
    assert_eq!(put(run(1), &damaged), "no frame");
    let key = Meter::new(1);
    let mut other = Meter { run: run(2), ..key };
    assert_eq!(put(run(2), &other.frame(NOON + 9000, true)), "taken");
    assert_eq!(put(run(1), &frames[2]), "old run");
    assert_eq!(world.database.losses(STREAM).lost, 0);
    other.sequence = 7;
    assert_eq!(put(run(2), &other.frame(NOON + 12000, true)), "taken");
    assert_eq!(world.database.losses(STREAM).lost, 6, "frames 2 to 7 were jumped over");
    let late = other.frame(NOON + 3_700_000, false);
    assert_eq!(put(run(2), &late), "future");
    assert_eq!(put(run(2), &other.frame(NOON + 15000, false)), "taken", "a wild clock does not break what follows");
    assert_eq!(put(run(2), &other.frame(NOON - 31 * 86_400_000, false)), "too old");
    assert_eq!(put(run(2), &other.frame(NOON - 3_600_000, false)), "taken", "an hour back is back-fill");
    assert_eq!(values(&world.select(&[("__name__", "node_memory_free_bytes")])).len(), 6);
}

#[test]
fn what_follows_an_unbelieved_frame_survives_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = Meter::new(1);
    let world = World::open(folder.path());
    for n in 0..3 {
        meter.put(&world, NOON + n * 1000);
    }
    world.seal();
    let wild = meter.frame(NOON + 7_200_000, false);
    let refused = world.database.append(STREAM, meter.run, &wild, at(NOON + 3000));
    assert!(matches!(refused.err(), Some(Refused::Future)));
    world.seal();
    meter.put(&world, NOON + 4000);
    drop(world);
    let world = World::open(folder.path());
    assert_eq!(world.database.mark(STREAM), Some((meter.run, 5)));
    assert_eq!(values(&world.select(&[("__name__", "node_cpu_seconds_total")])), [1.5, 3.0, 4.5, 7.5]);
    meter.put(&world, NOON + 5000);
}

#[test]
fn a_clock_set_back_over_midnight_does_not_confuse_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = Meter::new(1);
    let day = 86_400_000;
    let world = World::open(folder.path());
    for began in [NOON, NOON - day] {
        for n in 0..3 {
            let frame = meter.frame(began + n * 1000, false);
            world.database.append(STREAM, meter.run, &frame, at(NOON)).unwrap();
        }
        world.seal();
    }
    drop(world);
    let world = World::open(folder.path());
    assert_eq!(world.database.mark(STREAM), Some((meter.run, 6)));
    meter.put(&world, NOON + 60_000);
    assert_eq!(values(&world.select(&[("__name__", "node_cpu_seconds_total")])).len(), 7);
}

#[test]
fn a_log_cut_anywhere_gives_what_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    {
        let world = World::open(folder.path());
        let mut meter = Meter::new(1);
        let last = (0..4).map(|n| meter.put(&world, NOON + n * 1000)).last().unwrap();
        world.wait_durable(last);
    }
    let log = only_file(&folder.path().join("log"));
    let whole = std::fs::read(&log).unwrap();
    let mut seen = 4;
    for cut in (0..whole.len()).rev() {
        std::fs::write(&log, &whole[..cut]).unwrap();
        let world = World::open(folder.path());
        let found = world.select(&[("__name__", "node_cpu_seconds_total")]);
        let count = found.first().map_or(0, |_| values(&found).len());
        assert!(count <= seen && count + 1 >= seen, "{count} after {seen} at {cut}");
        seen = count;
        drop(world);
        std::fs::write(&log, &whole).unwrap();
    }
    assert_eq!(seen, 0);
}

#[test]
fn a_flipped_byte_in_a_block_is_found_and_never_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = Meter::new(1);
    let good = {
        let world = World::open(folder.path());
        for n in 0..40 {
            meter.put(&world, NOON + n * 1000);
        }
        world.seal();
        format!("{:?}", world.select(&[]))
    };
    let file = only_file(&folder.path().join("raw"));
    let whole = std::fs::read(&file).unwrap();
    for place in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        std::fs::write(&file, &bytes).unwrap();
        let world = World::open(folder.path());
        match world.try_select(&[]) {
            Err(SeriesError::Damaged(_)) => {}
            Err(other) => panic!("byte {place}: {other}"),
            // A damaged header: the block is gone, and said to be.
            Ok(found) if found.is_empty() => assert!(world.database.repaired().torn_bytes > 0, "byte {place}"),
            Ok(found) => assert_eq!(format!("{found:?}"), good, "byte {place}"),
        }
    }
}

#[test]
fn blocks_behind_a_damaged_one_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = Meter::new(1);
    {
        let world = World::open(folder.path());
        for stretch in 0..3 {
            for n in 0..10 {
                meter.put(&world, NOON + (stretch * 10 + n) * 1000);
            }
            world.seal();
        }
    }
    let file = only_file(&folder.path().join("raw"));
    let whole = std::fs::read(&file).unwrap();
    let begins = |bytes: &[u8]| {
        bytes.windows(4).enumerate().filter(|(_, window)| **window == *b"PGB1").map(|(at, _)| at).collect::<Vec<_>>()
    };
    let blocks = begins(&whole);
    assert_eq!(blocks.len(), 3);
    let known = || {
        let world = World::open(folder.path());
        let found = world.select(&[("__name__", "node_cpu_seconds_total")]);
        (found.first().map_or(0, |_| values(&found).len()), world.database.repaired())
    };
    // In the first block's mark, lengths and header, and in the second's.
    for place in [blocks[0], blocks[0] + 5, blocks[0] + 9, blocks[0] + 20, blocks[1] + 2, blocks[1] + 30] {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x40;
        std::fs::write(&file, &bytes).unwrap();
        let (count, repaired) = known();
        assert_eq!(count, 20, "byte {place}");
        assert!(repaired.damaged_bytes > 0 && repaired.torn_bytes == 0, "byte {place}: {repaired:?}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing is thrown away");
    }
    // A write that was cut off is no damage: the log has its frames.
    std::fs::write(&file, &whole[..blocks[2] + 40]).unwrap();
    let (count, repaired) = known();
    assert_eq!((count, repaired.damaged_bytes), (30, 0));
    assert_eq!(std::fs::read(&file).unwrap().len(), blocks[2]);
}

#[test]
fn old_days_are_dropped_whole() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let mut meter = Meter::new(1);
    let day = 86_400_000;
    for n in 0..4 {
        let frame = meter.frame(NOON - (3 - n) * day, false);
        world.database.append(STREAM, meter.run, &frame, at(NOON)).unwrap();
        world.seal();
    }
    let days = || std::fs::read_dir(folder.path().join("raw")).unwrap().count();
    assert_eq!(days(), 4);
    drop(world);
    let world = World::with(folder.path(), Settings { kept: Duration::from_secs(36 * 3600), ..Settings::default() });
    world.database.age(at(NOON), &|| false).unwrap();
    assert_eq!(days(), 2);
    drop(world);
    let world = World::with(folder.path(), Settings { bytes_max: 10, ..Settings::default() });
    world.database.age(at(NOON), &|| false).unwrap();
    assert_eq!(days(), 1, "the newest stays");
    let found = values(&world.select(&[("__name__", "node_cpu_seconds_total")]));
    assert_eq!(found, [4.5, 6.0], "the day before was made coarser; of that the newest stays, too");
}

#[test]
fn two_processes_never_share_it() {
    let folder = tempfile::tempdir().unwrap();
    let _world = World::open(folder.path());
    let second = Database::open(folder.path(), Settings::default(), Box::new(|_| {}));
    assert!(matches!(second.err(), Some(SeriesError::InUse(_))));
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let small = Small::mount(folder.path(), 600);
    std::fs::write(small.0.join("filler"), vec![1; 500 << 10]).unwrap();
    let world = World::open(&small.0);
    let mut meter = Meter::new(1);
    let mut taken = Vec::new();
    let mut refused = false;
    // Big frames, all of them key frames: the disk is full soon, and then what may wait.
    for n in 0..4000 {
        for filler in 0..1200 {
            let slot = meter.sheet.define(Series::gauge("filler", 0).with("n", &filler.to_string())).unwrap();
            meter.sheet.set(slot, i64::MAX - n * filler);
        }
        let now = NOON + n * 1000;
        let frame = meter.frame(now, true);
        match world.database.append(STREAM, meter.run, &frame, at(now)) {
            Ok(appended) => taken.push(appended.position),
            Err(Refused::Store(SeriesError::Stuck)) => refused = true,
            Err(other) => panic!("{other}"),
        }
        if refused {
            break;
        }
    }
    assert!(refused, "it never said that it was full");
    assert!(world.database.failing().is_some());
    assert!(world.database.durable() < *taken.last().unwrap());
    std::fs::remove_file(small.0.join("filler")).unwrap();
    small.grow(200 << 10);
    world.wait_durable(*taken.last().unwrap());
    assert_eq!(world.database.failing(), None);
    let frame = meter.frame(NOON + 9_000_000, true);
    world.database.append(STREAM, meter.run, &frame, at(NOON + 9_000_000)).unwrap();
    drop(world);
    let again = World::open(&small.0);
    assert_eq!(values(&again.select(&[("__name__", "node_cpu_seconds_total")])).len(), taken.len() + 1);
    drop((again, small));
}

/// The child of the next test; alone it does nothing.
#[test]
fn child_that_is_killed() {
    let Some(folder) = std::env::var_os("PERIGEE_SERIES_CHILD") else { return };
    let world = World::open(Path::new(&folder));
    let number = world.database.mark(STREAM).map_or(1, |(run, _)| run.uuid().as_u128() + 1);
    let mut meter = Meter::new(number);
    for n in 0i64.. {
        let now = NOON + i64::try_from(number).unwrap() * 100_000 + n * 10;
        let frame = meter.frame(now, false);
        let position = world.database.append(STREAM, meter.run, &frame, at(now)).unwrap().position;
        if n % 3 == 0 {
            world.wait_durable(position);
            println!("durable {number} {}", meter.sequence);
        }
        if n % 40 == 39 {
            world.seal();
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::child_that_is_killed", "--nocapture"])
            .env("PERIGEE_SERIES_CHILD", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.map_while(Result::ok).filter_map(|line| {
            let mut words = line.strip_prefix("durable ")?.split(' ').map(|word| word.parse::<u64>().unwrap());
            Some((words.next()?, words.next()?))
        });
        let mut count = 0;
        for (run, sequence) in said {
            acknowledged.insert(run, sequence);
            count += 1;
            if count == 5 + round * 9 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count > 0, "the child said nothing");
    }
    let world = World::open(folder.path());
    let found = world.select(&[("__name__", "node_cpu_seconds_total")]);
    for (run, last) in acknowledged {
        let begin = NOON + i64::try_from(run).unwrap() * 100_000;
        let mine = found[0].1.iter().filter(|s| !s.is_gap() && (begin..begin + 100_000).contains(&s.t_ms));
        let sequences: Vec<u64> = mine.map(|s| (s.v / 1.5).round() as u64).collect();
        let wanted: Vec<u64> = (1..=sequences.len() as u64).collect();
        assert_eq!(sequences, wanted, "run {run}");
        assert!(sequences.len() as u64 >= last, "run {run}: {} of {last}", sequences.len());
    }
}
