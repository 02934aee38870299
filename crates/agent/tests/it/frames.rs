//! Frames reach a control plane that comes and goes, each once, whatever dies.

use async_trait::async_trait;
use perigee_agent::UplinkError;
use perigee_agent::frames::{Caps, FrameSession, FrameSpool, FrameUplink, Pace, Sender};
use perigee_agent_api::{FramesDown, FramesUp, Mark, StreamName};
use perigee_clock::Clock;
use perigee_model::frame::{Columns, FrameError, Header, Series, Sheet};
use perigee_model::{RunId, Timestamp};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

#[derive(Default)]
struct Kept {
    columns: Columns,
    durable: Option<Mark>,
    got: Vec<(RunId, u64)>,
    up: bool,
    /// A session ends after so many frames.
    cut_after: Option<usize>,
    /// It takes frames and says nothing of them.
    mute: bool,
    begun: usize,
}

/// A control plane that keeps what it takes; sessions are cut.
#[derive(Clone, Default)]
struct Plane(Arc<Mutex<Kept>>);

impl Plane {
    fn with<T>(&self, f: impl FnOnce(&mut Kept) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }
    async fn until(&self, what: &str, holds: impl Fn(&Kept) -> bool) {
        let long = async {
            while !self.with(|kept| holds(kept)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(600), long).await.is_ok(), "never: {what}");
    }
}

impl Kept {
    fn take(&mut self, run: RunId, frame: &[u8]) -> FramesDown {
        let sequence = Header::read(frame).unwrap().sequence;
        let known = self.durable.is_some_and(|mark| mark.run == run && sequence <= mark.sequence);
        let other = self.durable.is_some_and(|mark| mark.run != run) && !Header::read(frame).unwrap().key;
        let mut want_key = false;
        if !known {
            match self.columns.apply(frame) {
                Ok(_) if !other => {
                    self.durable = Some(Mark { run, sequence });
                    self.got.push((run, sequence));
                }
                Ok(_) | Err(FrameError::Gap { .. }) => want_key = true,
                Err(error) => panic!("{error}"),
            }
        }
        FramesDown { durable: self.durable, window: 8, want_key, ..FramesDown::default() }
    }
}

#[async_trait]
impl FrameUplink for Plane {
    async fn frames(&self, _: StreamName) -> Result<FrameSession, UplinkError> {
        if !self.with(|kept| kept.up) {
            return Err(UplinkError::Away("down".into()));
        }
        let (tx, mut from) = mpsc::channel(4);
        let (tell, rx) = mpsc::channel(4);
        let plane = self.clone();
        tokio::spawn(async move {
            let first = plane.with(|kept| {
                kept.begun += 1;
                FramesDown { durable: kept.durable, window: 8, ..FramesDown::default() }
            });
            drop(tell.send(first).await);
            let mut count = 0;
            while let Some(FramesUp::Frame { run, frame }) = from.recv().await {
                count += 1;
                if plane.with(|kept| !kept.up || kept.cut_after.is_some_and(|after| count > after)) {
                    return;
                }
                let (down, mute) = plane.with(|kept| (kept.take(run, &frame), kept.mute));
                if !mute {
                    drop(tell.send(down).await);
                }
            }
        });
        Ok(FrameSession { tx, rx })
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(2)
    }
}

/// One life of an agent: a spool on a folder, a sender, and something that measures.
struct Life {
    spool: Arc<FrameSpool>,
    sheet: Sheet,
    run: RunId,
    sequence: u64,
    sender: JoinHandle<()>,
    pace: Arc<Pace>,
}

impl Life {
    fn begin(folder: &Path, plane: &Plane, run: u128, caps: Caps) -> Self {
        let spool = Arc::new(FrameSpool::open(folder.into(), caps).unwrap());
        let pace = Arc::new(Pace::default());
        let sender = Sender {
            stream: StreamName::Node,
            spool: spool.clone(),
            uplink: Arc::new(plane.clone()),
            pace: pace.clone(),
            clock: Clock::real(),
        };
        let sender = tokio::spawn(sender.run());
        Self { spool, sheet: Sheet::default(), run: RunId::new(Uuid::from_u128(run)), sequence: 0, sender, pace }
    }
    fn measure(&mut self, times: u64) -> Vec<(RunId, u64)> {
        let measured = (0..times).map(|_| {
            self.sequence += 1;
            let slot = self.sheet.define(Series::counter("things_total", 0)).unwrap();
            self.sheet.set(slot, self.sequence.cast_signed() * 7);
            let key = self.sequence == 1 || self.spool.is_key_due() || self.pace.take_key();
            let frame = self.sheet.encode(self.sequence, Timestamp::from_micros(1), key);
            self.spool.append(self.run, &frame, key);
            (self.run, self.sequence)
        });
        measured.collect()
    }
    async fn die(self) {
        self.sender.abort();
        drop(self.sender.await);
    }
}

#[tokio::test(start_paused = true)]
async fn every_frame_arrives_once_over_cuts_outages_and_deaths() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::default();
    let mut measured = Vec::new();
    for run in 1..=3 {
        plane.with(|kept| (kept.up, kept.cut_after) = (run != 2, Some(5)));
        let mut life = Life::begin(folder.path(), &plane, run, Caps { segment_bytes: 900, ..Caps::default() });
        for _ in 0..20 {
            measured.extend(life.measure(4));
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        if run == 3 {
            plane.until("all frames", |kept| kept.got.len() == measured.len()).await;
        }
        life.die().await;
    }
    plane.with(|kept| {
        assert_eq!(kept.got, measured);
        assert!(kept.begun > 10, "{} sessions", kept.begun);
    });
}

#[tokio::test(start_paused = true)]
async fn what_is_durable_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::default();
    plane.with(|kept| kept.up = true);
    let mut life = Life::begin(folder.path(), &plane, 1, Caps { segment_bytes: 900, ..Caps::default() });
    for _ in 0..100 {
        life.measure(2);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    plane.until("all frames", |kept| kept.got.len() == 200).await;
    let spool = life.spool.clone();
    let emptied = async {
        while spool.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), emptied).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_forgot_everything_goes_on_from_a_key_frame() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::default();
    plane.with(|kept| kept.up = true);
    let mut life = Life::begin(folder.path(), &plane, 1, Caps::default());
    life.measure(10);
    plane.until("ten frames", |kept| kept.got.len() == 10).await;
    // Its disk is gone; what it had acknowledged is gone with it.
    plane.with(|kept| *kept = Kept { up: true, cut_after: Some(0), ..Kept::default() });
    life.measure(1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    plane.with(|kept| kept.cut_after = None);
    for _ in 0..20 {
        life.measure(1);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    plane.until("the newest frame", |kept| kept.got.last().is_some_and(|(_, last)| *last == life.sequence)).await;
    let got: Vec<u64> = plane.with(|kept| kept.got.iter().map(|(_, sequence)| *sequence).collect());
    assert!(got.windows(2).all(|pair| pair[1] == pair[0] + 1), "{got:?}");
    assert!(got.len() >= 10, "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_is_synced_after_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::default();
    plane.with(|kept| (kept.up, kept.mute) = (true, true));
    let mut life = Life::begin(folder.path(), &plane, 1, Caps::default());
    life.measure(3);
    plane.until("three frames", |kept| kept.got.len() == 3).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(life.spool.is_sync_due(), "they may become durable at the other end yet");
    let synced = async {
        while life.spool.is_sync_due() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), synced).await.expect("nobody synced them");
    assert_eq!(life.spool.waiting(), 3, "they wait for the control plane");
}
