use super::*;
use perigee_model::Timestamp;
use perigee_model::frame::{Series, Sheet};

const SMALL: Caps = Caps { segment_bytes: 2000, disk_bytes: 6000, memory_bytes: 4000 };

struct Writer {
    sheet: Sheet,
    sequence: u64,
    run: RunId,
}

impl Writer {
    fn new(run: u128) -> Self {
        Self { sheet: Sheet::default(), sequence: 0, run: RunId::new(Uuid::from_u128(run)) }
    }
    fn write(&mut self, spool: &FrameSpool) -> u64 {
        self.sequence += 1;
        let slot = self.sheet.define(Series::gauge("a", 0)).unwrap();
        self.sheet.set(slot, self.sequence.cast_signed() * 1000);
        let key = self.sequence == 1 || spool.is_key_due();
        let frame = self.sheet.encode(self.sequence, Timestamp::from_micros(1), key);
        spool.append(self.run, &frame, key);
        self.sequence
    }
    fn mark(&self, sequence: u64) -> Option<Mark> {
        Some(Mark { run: self.run, sequence })
    }
}

fn read(spool: &FrameSpool, cursor: &mut Cursor) -> Vec<u64> {
    let mut all = Vec::new();
    loop {
        let some = spool.read(cursor, 3).unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some.iter().map(|record| record.header.sequence));
    }
}

#[test]
fn what_is_appended_is_read_in_order_also_across_segments_and_openings() {
    let folder = tempfile::tempdir().unwrap();
    let spool = FrameSpool::open(folder.path().into(), SMALL).unwrap();
    let mut writer = Writer::new(1);
    let mut cursor = Cursor::default();
    for _ in 0..40 {
        writer.write(&spool);
    }
    assert_eq!(read(&spool, &mut cursor), (1..=40).collect::<Vec<_>>());
    assert_eq!(read(&spool, &mut cursor), Vec::<u64>::new());
    writer.write(&spool);
    assert_eq!(read(&spool, &mut cursor), [41]);
    drop(spool);
    let spool = FrameSpool::open(folder.path().into(), SMALL).unwrap();
    let mut later = Writer::new(2);
    later.write(&spool);
    assert_eq!(spool.waiting(), 42);
    let mut behind = spool.behind(writer.mark(39)).unwrap();
    assert_eq!(read(&spool, &mut behind), [40, 41, 1]);
    let mut unknown = spool.behind(Writer::new(9).mark(5)).unwrap();
    assert_eq!(read(&spool, &mut unknown).len(), 42);
}

#[test]
fn what_is_released_goes_and_the_cap_loses_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let spool = FrameSpool::open(folder.path().into(), SMALL).unwrap();
    let mut writer = Writer::new(1);
    for _ in 0..60 {
        writer.write(&spool);
        let mut cursor = Cursor::default();
        let last = spool.read(&mut cursor, 1000).unwrap().last().unwrap().position;
        spool.release(last);
    }
    assert_eq!((spool.lost(), spool.waiting()), (0, 0));
    assert!(std::fs::read_dir(folder.path()).unwrap().count() <= 2);
    let mut late = spool.behind(writer.mark(60)).unwrap();
    for _ in 0..400 {
        writer.write(&spool);
    }
    let there = read(&spool, &mut late);
    assert_eq!(*there.last().unwrap(), 460);
    assert_eq!(spool.lost() + spool.waiting(), 400);
    assert!(spool.lost() > 100, "{} lost", spool.lost());
    let mut cursor = Cursor::default();
    assert!(spool.read(&mut cursor, 1).unwrap()[0].header.key, "what is left begins with a key frame");
    let bytes: u64 = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= SMALL.disk_bytes, "{bytes} bytes");
}

#[test]
fn a_record_cut_anywhere_is_dropped_and_the_ones_before_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(1);
    let spool = FrameSpool::open(folder.path().into(), Caps::default()).unwrap();
    for _ in 0..3 {
        writer.write(&spool);
    }
    drop(spool);
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    for cut in (1..whole.len()).rev() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let spool = FrameSpool::open(folder.path().into(), Caps::default()).unwrap();
        let there = read(&spool, &mut Cursor::default());
        assert_eq!(there, (1..=there.len() as u64).collect::<Vec<_>>(), "cut at {cut}");
        assert!(there.len() < 3);
        if there.is_empty() {
            break;
        }
    }
}

#[test]
fn a_full_disk_costs_memory_and_not_frames() {
    // A folder that is taken away: nothing can be made in it.
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("frames");
    let spool = FrameSpool::open(inside.clone(), SMALL).unwrap();
    std::fs::remove_dir_all(&inside).unwrap();
    let mut writer = Writer::new(1);
    for _ in 0..30 {
        writer.write(&spool);
    }
    assert!(spool.is_full());
    assert_eq!((spool.lost(), spool.waiting()), (0, 30));
    assert_eq!(read(&spool, &mut Cursor::default()), (1..=30).collect::<Vec<_>>());
    for _ in 0..300 {
        writer.write(&spool);
    }
    assert_eq!(spool.lost() + spool.waiting(), 330);
    assert!(spool.lost() > 0, "memory is bounded");
    std::fs::create_dir(&inside).unwrap();
    for _ in 0..30 {
        writer.write(&spool);
    }
    assert!(!spool.is_full(), "the disk is tried again");
    assert!(std::fs::read_dir(&inside).unwrap().count() > 0);
}

#[test]
fn a_spool_in_memory_keeps_its_cap_and_forgets_what_is_durable() {
    let spool = FrameSpool::in_memory(SMALL);
    let mut writer = Writer::new(1);
    for _ in 0..10 {
        writer.write(&spool);
    }
    assert!(!spool.is_sync_due() && !spool.is_full());
    assert_eq!(read(&spool, &mut Cursor::default()), (1..=10).collect::<Vec<_>>());
    spool.release(10);
    assert_eq!((spool.waiting(), spool.lost()), (0, 0));
    for _ in 0..1000 {
        writer.write(&spool);
    }
    let left = read(&spool, &mut Cursor::default());
    assert_eq!(left.last(), Some(&1010), "the newest stay");
    assert!(spool.lost() > 0 && spool.waiting() + spool.lost() == 1000, "{} {}", spool.waiting(), spool.lost());
}
