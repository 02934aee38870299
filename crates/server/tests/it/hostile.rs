//! One agent that sends what it should not, beside one that behaves.

use crate::world::World;
use perigee_agent_api::{FramesDown, Mark, StreamName};
use perigee_control::watch::{Feed, Taken};
use perigee_model::frame::{Series, Sheet};
use perigee_model::limits::SERIES_PER_STREAM_MAX;
use perigee_model::{HostId, RunId, Timestamp};
use std::time::Duration;
use uuid::Uuid;

const RUN: RunId = RunId::new(Uuid::from_u128(66));

/// An agent that sends whatever it likes.
struct Liar {
    feed: Feed,
    sheet: Sheet,
    start: Timestamp,
}

impl Liar {
    fn new(world: &World) -> Self {
        let feed = world.watch.feed(HostId::new(Uuid::from_u128(66)), StreamName::Node);
        Self { feed, sheet: Sheet::default(), start: world.control.clock().now() - Duration::from_secs(60) }
    }
    fn frame(&mut self, sequence: u64, after: Duration, key: bool) -> Vec<u8> {
        self.sheet.encode(sequence, self.start + after, key)
    }
    async fn told(&mut self) -> FramesDown {
        tokio::time::timeout(Duration::from_secs(10), self.feed.next()).await.expect("it is told nothing")
    }
}

/// The one that behaves: its frames are taken at once and become durable.
async fn assert_well(world: &World) {
    let mut feed = world.watch.feed(world.host, StreamName::Node);
    let mut sheet = Sheet::default();
    let slot = sheet.define(Series::gauge("node_load1", 2)).unwrap();
    let run = RunId::new(world.control.clock().uuid());
    for sequence in 1..=3 {
        sheet.set(slot, 7);
        let frame = sheet.encode(sequence, world.control.clock().now(), false);
        assert_eq!(feed.take(run, &frame), Taken::Wait(Duration::ZERO));
    }
    let mark = Some(Mark { run, sequence: 3 });
    let durable = async { while feed.next().await.durable != mark {} };
    tokio::time::timeout(Duration::from_secs(10), durable).await.expect("the other host's frames wait");
}

fn crc(mut body: Vec<u8>) -> Vec<u8> {
    body.extend(crc32fast::hash(&body).to_le_bytes());
    body
}

#[tokio::test]
async fn garbage_is_refused_with_its_code_and_slowed_down() {
    let world = World::new().await;
    let mut liar = Liar::new(&world);
    liar.told().await;
    let good = liar.frame(1, Duration::ZERO, true);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let cut = crc(good[..good.len() - 6].to_vec());
    let long = crc([good.as_slice(), &[0; 9]].concat());
    for bad in [b"nothing of the kind".to_vec(), Vec::new(), vec![0xff; 1000], flipped, cut, long, vec![0; 3 << 20]] {
        liar.feed.take(RUN, &bad);
        let told = liar.told().await;
        assert_eq!((told.refused.unwrap().code.as_str(), told.want_key), ("PRG-7009", true), "{} bytes", bad.len());
    }
    let slowed = (0..100).any(|_| liar.feed.take(RUN, b"garbage") != Taken::Wait(Duration::ZERO));
    assert!(slowed, "garbage is not taken at the pace of frames");
    assert_well(&world).await;
    // It may mend its ways.
    liar.feed.take(RUN, &good);
    let mark = Some(Mark { run: RUN, sequence: 1 });
    let durable = async { while liar.feed.next().await.durable != mark {} };
    tokio::time::timeout(Duration::from_secs(10), durable).await.expect("a good frame is taken again");
}

#[tokio::test]
async fn a_refusal_is_told_though_nothing_is_durable_yet() {
    let world = World::new().await;
    let mut liar = Liar::new(&world);
    let good = liar.frame(1, Duration::ZERO, true);
    liar.feed.take(RUN, &good);
    liar.feed.take(RUN, b"nothing of the kind");
    let told = liar.told().await;
    assert_eq!((told.refused.unwrap().code.as_str(), told.want_key), ("PRG-7009", true));
    assert_eq!(told.durable, Some(Mark { run: RUN, sequence: 1 }));
}

#[tokio::test]
async fn a_frame_that_claims_to_be_huge_is_not_unpacked() {
    let world = World::new().await;
    let mut liar = Liar::new(&world);
    liar.told().await;
    let good = liar.frame(1, Duration::ZERO, true);
    // Behind the beginning comes the dictionary: bytes unpacked, bytes packed, packed bytes.
    assert_eq!(good[good.len() - 8..good.len() - 4], [1, 2, 0x10, 0], "the dictionary of no series");
    let beginning = &good[..good.len() - 8];
    for claimed in [[0xff, 0xff, 0xff, 0xff, 0x7f].as_slice(), &[0x80, 0x80, 0x80, 0x04], &[0xff, 0xff, 0x7f]] {
        // A few packed bytes that repeat one byte thousands of times.
        let packed = [[0x1f, b'a', 1, 0].as_slice(), &[0xff; 200], &[0x00]].concat();
        let body = [beginning, claimed, &[0xcd, 0x01], &packed].concat();
        let before = resident_bytes();
        liar.feed.take(RUN, &crc(body));
        assert_eq!(liar.told().await.refused.unwrap().code.as_str(), "PRG-7009");
        assert!(resident_bytes() < before + (64 << 20), "it was unpacked");
    }
    assert_well(&world).await;
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_hundred_thousand_series_are_not_taken() {
    let world = World::new().await;
    let mut liar = Liar::new(&world);
    // A sheet takes no more than the limit: five of them, one delta after the other.
    for round in 0..5 {
        let mut sheet = Sheet::default();
        let begin = sheet.encode(1, liar.start, true);
        if round == 0 {
            liar.feed.take(RUN, &begin);
        }
        for n in 0..SERIES_PER_STREAM_MAX {
            let slot = sheet.define(Series::gauge("bomb", 0).with("n", &format!("{round}-{n}"))).unwrap();
            sheet.set(slot, 1);
        }
        let frame = sheet.encode(round + 2, liar.start + Duration::from_secs(round + 2), false);
        liar.feed.take(RUN, &frame);
        liar.sheet = sheet;
    }
    let refused = async { while liar.feed.next().await.refused.is_none() {} };
    tokio::time::timeout(Duration::from_secs(10), refused).await.expect("all of it was taken");
    assert!(world.watch.figures().store.series <= 2 * SERIES_PER_STREAM_MAX, "{:?}", world.watch.figures());
    let slowed = (10..20).any(|sequence| {
        let frame = liar.frame(sequence, Duration::from_secs(sequence), true);
        liar.feed.take(RUN, &frame) != Taken::Wait(Duration::ZERO)
    });
    assert!(slowed, "large frames are taken at the pace of small ones");
    assert_well(&world).await;
}

#[tokio::test]
async fn ten_times_the_rate_is_slowed_down_and_kept() {
    let world = World::new().await;
    let mut liar = Liar::new(&world);
    let slot = liar.sheet.define(Series::gauge("node_load1", 2)).unwrap();
    let mut slowed = None;
    for sequence in 1..=2000 {
        liar.sheet.set(slot, i64::try_from(sequence).unwrap());
        let frame = liar.frame(sequence, Duration::from_millis(sequence), false);
        if liar.feed.take(RUN, &frame) != Taken::Wait(Duration::ZERO) {
            slowed.get_or_insert(sequence);
        }
    }
    assert!(slowed.is_some_and(|at| at <= 200), "it was slowed down after {slowed:?} frames");
    assert_well(&world).await;
    let mark = Some(Mark { run: RUN, sequence: 2000 });
    let durable = async { while liar.feed.next().await.durable != mark {} };
    tokio::time::timeout(Duration::from_secs(10), durable).await.expect("what was taken is durable");
    assert_eq!(world.watch.figures().store.losses.lost, 0);
}

#[tokio::test]
async fn times_and_numbers_that_cannot_be_harm_only_their_host() {
    let world = World::new().await;
    let mut liar = Liar::new(&world);
    liar.told().await;
    let slot = liar.sheet.define(Series::gauge("node_load1", 2)).unwrap();
    liar.sheet.set(slot, 1);
    for (sequence, after) in [(1, Duration::from_secs(86_400 * 365)), (2, Duration::from_secs(7200))] {
        let future = liar.frame(sequence, after, true);
        liar.feed.take(RUN, &future);
        assert_eq!(liar.told().await.refused.unwrap().code.as_str(), "PRG-7009");
    }
    // The last number there is, by two runs: nothing follows it, and the sum of what is missing ends there.
    for run in [1, 2].map(|n| RunId::new(Uuid::from_u128(n))) {
        let last = liar.frame(u64::MAX, Duration::ZERO, true);
        liar.feed.take(run, &last);
        let next = liar.frame(0, Duration::ZERO, false);
        liar.feed.take(run, &next);
    }
    assert_eq!(world.watch.figures().store.losses.lost, u64::MAX);
    assert_well(&world).await;
}
