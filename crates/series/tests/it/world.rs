//! A store to try things on, and something that measures.

use perigee_model::frame::{Form, Series, Sheet, StreamId, StreamName};
use perigee_model::{HostId, RunId, Timestamp};
use perigee_series::promql::{Labels, MatchOp, Matcher, Moments, Reading, Sample};
use perigee_series::{Database, Selection, SeriesError, Settings};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use uuid::Uuid;

pub const NOON: i64 = 1_790_000_000_000;
pub const STREAM: StreamId = StreamId { host: HostId::new(Uuid::from_u128(1)), name: StreamName::Node };

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_micros(ms * 1000)
}

pub fn run(number: u128) -> RunId {
    RunId::new(Uuid::from_u128(number))
}

/// A database and how far it is durable.
pub struct World {
    pub database: Database,
    durable: Arc<(Mutex<u64>, Condvar)>,
}

impl World {
    pub fn open(folder: &Path) -> Self {
        Self::with(folder, Settings { group: Duration::from_millis(1), ..Settings::default() })
    }
    pub fn with(folder: &Path, settings: Settings) -> Self {
        let durable = Arc::new((Mutex::new(0), Condvar::new()));
        let told = durable.clone();
        let hook = Box::new(move |position| {
            *told.0.lock().unwrap() = position;
            told.1.notify_all();
        });
        Self { database: Database::open(folder, settings, hook).unwrap(), durable }
    }
    pub fn wait_durable(&self, position: u64) {
        if self.database.durable() >= position {
            return;
        }
        let guard = self.durable.0.lock().unwrap();
        let wait = self.durable.1.wait_timeout_while(guard, Duration::from_secs(20), |reached| *reached < position);
        assert!(!wait.unwrap().1.timed_out(), "position {position} never became durable");
    }
    pub fn select(&self, matchers: &[(&str, &str)]) -> Vec<(String, Vec<Sample>)> {
        self.try_select(matchers).unwrap()
    }
    /// What is needed of all series to know the newest at some moments.
    pub fn newest(&self, moments: Moments) -> Vec<(String, Vec<Sample>)> {
        self.selected(&[], Some(moments)).unwrap()
    }
    pub fn try_select(&self, matchers: &[(&str, &str)]) -> Result<Vec<(String, Vec<Sample>)>, SeriesError> {
        self.selected(matchers, None)
    }
    fn selected(
        &self,
        matchers: &[(&str, &str)],
        at: Option<Moments>,
    ) -> Result<Vec<(String, Vec<Sample>)>, SeriesError> {
        let matcher = |(label, value): &(&str, &str)| Matcher {
            label: (*label).to_owned(),
            op: MatchOp::Equal,
            value: (*value).to_owned(),
        };
        let matchers: Vec<_> = matchers.iter().map(matcher).collect();
        let labels = |_| Some(Labels::from_iter([("host", "web-1")]));
        let selection = Selection {
            matchers: &matchers,
            from_ms: NOON - 100_000_000,
            to_ms: NOON + 100_000_000,
            labels: &labels,
            samples_max: 10_000_000,
            reading: Reading::Value,
            coarsest_ms: 0,
            at,
        };
        Ok(self.database.select(&selection)?.into_iter().map(|(l, samples)| (l.to_string(), samples)).collect())
    }
    pub fn seal(&self) {
        self.database.seal(at(NOON), true).unwrap();
    }
}

/// Measures made-up things.
pub struct Meter {
    pub sheet: Sheet,
    pub run: RunId,
    pub sequence: u64,
}

impl Meter {
    pub fn new(number: u128) -> Self {
        Self { sheet: Sheet::default(), run: run(number), sequence: 0 }
    }
    pub fn frame(&mut self, ms: i64, key: bool) -> Vec<u8> {
        self.sequence += 1;
        let n = self.sequence.cast_signed();
        let set = |sheet: &mut Sheet, series: Series, raw: i64| {
            let slot = sheet.define(series).unwrap();
            sheet.set(slot, raw);
        };
        set(&mut self.sheet, Series::counter("node_cpu_seconds_total", 2).with("cpu", "0"), n * 150);
        set(&mut self.sheet, Series::gauge("node_memory_free_bytes", 0), 4096 * (n % 7));
        let float = Series { form: Form::Float, ..Series::gauge("odd", 0) };
        let value = [0.1, f64::NAN, f64::INFINITY, -3e300][self.sequence as usize % 4];
        set(&mut self.sheet, float, value.to_bits().cast_signed());
        if n % 5 == 0 {
            set(&mut self.sheet, Series::gauge("rare", 0), n);
        } else {
            let slot = self.sheet.define(Series::gauge("rare", 0)).unwrap();
            self.sheet.clear(slot);
        }
        self.sheet.encode(self.sequence, at(ms), key)
    }
    pub fn put(&mut self, world: &World, ms: i64) -> u64 {
        let frame = self.frame(ms, false);
        world.database.append(STREAM, self.run, &frame, at(ms)).unwrap().position
    }
}

pub fn values(found: &[(String, Vec<Sample>)]) -> Vec<f64> {
    found[0].1.iter().filter(|s| !s.is_gap()).map(|s| s.v).collect()
}

pub fn only_file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().unwrap()
}

/// A small disk.
pub struct Small(pub PathBuf);

impl Small {
    /// One of so many KiB, under a folder.
    pub fn mount(folder: &Path, kibibytes: u32) -> Self {
        let small = folder.join("small");
        std::fs::create_dir(&small).unwrap();
        let size = format!("size={kibibytes}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&small).status().unwrap();
        assert!(mounted.success(), "this test mounts a small tmpfs: run it as root");
        Self(small)
    }
    pub fn grow(&self, kibibytes: u32) {
        let size = format!("remount,size={kibibytes}k");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
