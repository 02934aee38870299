//! Measuring: one thread, or task, that wakes at its ticks, fills a sheet and writes frames down.
//!
//! Owns: when to measure, sequence numbers and key frames. Refuses: waiting for the network; what
//! it measured is in the spool, and the rest is the sender's.
//!
//! Ticks are aligned to the interval, plus a phase that is the host's own, so that a fleet does not
//! send in one millisecond.

use crate::frames::{FrameSpool, Pace};
use perigee_clock::Clock;
use perigee_model::frame::{Series, Sheet, StreamName};
use perigee_model::{HostId, RunId, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A frame that needs none before it comes at least this often.
const KEY_EVERY: Duration = Duration::from_secs(600);
/// Where nothing is there to be measured, it is looked for this often.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// The thread's stack: collectors read into one buffer.
const STACK_BYTES: usize = 512 << 10;

/// What fills a sheet. Never called twice at once.
pub trait Sampler: Send {
    /// Asks others, where what is so now is known to them, for as long as it takes.
    fn look(&mut self) {}
    /// Writes what is so now. Readers wait for the sheet meanwhile, on the runtime's threads too: nothing in here waits
    /// for the runtime, which could be waiting for this.
    fn sample(&mut self, sheet: &mut Sheet, now: Timestamp);
    /// Nothing is there to be measured: now and then is often enough.
    fn is_idle(&self) -> bool {
        false
    }
}

/// How the frames of a stream fare, on its own sheet.
pub fn about_spool(stream: StreamName, spool: &FrameSpool, sheet: &mut Sheet) {
    let about = [
        (Series::gauge("perigee_agent_spool_frames", 0), spool.waiting()),
        (Series::counter("perigee_agent_frames_lost_total", 0), spool.lost()),
    ];
    for (series, value) in about {
        if let Some(slot) = sheet.define(series.with("stream", stream.text())) {
            sheet.set(slot, i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

/// A sheet that the measuring thread writes and readers on this host look at.
#[derive(Default)]
pub struct SharedSheet(Mutex<Sheet>);

impl SharedSheet {
    /// Looks at it. Keep it short: the measuring waits.
    pub fn lock(&self) -> MutexGuard<'_, Sheet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream of measurements.
pub struct Watch {
    /// Whose, for the phase.
    pub host: HostId,
    /// This life of the agent.
    pub run: RunId,
    /// How often when nobody wants more.
    pub interval: Duration,
    /// Time.
    pub clock: Clock,
    /// What is measured last.
    pub sheet: Arc<SharedSheet>,
    /// Where frames are written.
    pub spool: Arc<FrameSpool>,
    /// What the control plane wants.
    pub pace: Arc<Pace>,
}

impl Watch {
    /// Measures until [`Pace::stop`].
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(self, name: &str, mut sampler: impl Sampler + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || self.run(&mut sampler)).map(drop)
    }

    /// Measures until [`Pace::stop`] as a task: for samplers that never block, of which many share
    /// one thread.
    pub async fn serve(self, mut sampler: impl Sampler) {
        let mut ticks = Ticks::begin(self);
        while ticks.watch.pace.waited(ticks.wait(&sampler)).await {
            ticks.measure(&mut sampler);
        }
    }

    fn run(self, sampler: &mut dyn Sampler) {
        let mut ticks = Ticks::begin(self);
        while ticks.watch.pace.wait(ticks.wait(sampler)) {
            ticks.measure(sampler);
        }
    }
}

/// How far one life's measuring is.
struct Ticks {
    watch: Watch,
    sequence: u64,
    /// The last key frame.
    keyed: perigee_clock::Instant,
}

impl Ticks {
    fn begin(watch: Watch) -> Self {
        let keyed = watch.clock.instant();
        Self { watch, sequence: 0, keyed }
    }

    /// How long to the next tick.
    fn wait(&self, sampler: &dyn Sampler) -> Duration {
        let wished = self.watch.pace.interval();
        let own = self.watch.interval;
        let own = if sampler.is_idle() { own.max(IDLE_INTERVAL) } else { own };
        let interval = wished.unwrap_or(own).max(Duration::from_millis(100));
        until_tick(self.watch.clock.now(), interval, self.watch.host)
    }

    /// Woken early by another wish, it is measured at once, so that who watches waits for nothing.
    fn measure(&mut self, sampler: &mut dyn Sampler) {
        let Watch { run, clock, sheet, spool, pace, .. } = &self.watch;
        let now = Timestamp::from_micros(clock.now().micros() / 1000 * 1000);
        sampler.look();
        self.sequence += 1;
        let key = self.sequence == 1 || self.keyed.elapsed() >= KEY_EVERY || spool.is_key_due() || pace.take_key();
        if key {
            self.keyed = clock.instant();
        }
        let frame = {
            let mut sheet = sheet.lock();
            sampler.sample(&mut sheet, now);
            sheet.encode(self.sequence, now, key)
        };
        spool.append(*run, &frame, key);
    }
}

/// How long to the next tick: a multiple of the interval plus the host's phase.
fn until_tick(now: Timestamp, interval: Duration, host: HostId) -> Duration {
    let every = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1);
    // The last digits of an id are random.
    let phase = (host.uuid().as_u128() & 0xffff_ffff) as i64 % every;
    let over = (now.micros() - phase).rem_euclid(every);
    Duration::from_micros((every - over).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn ticks_are_aligned_and_each_host_has_its_own_phase() {
        let interval = Duration::from_secs(3);
        let tick = |now: i64, host: u128| {
            let now = Timestamp::from_micros(now);
            (now + until_tick(now, interval, HostId::new(Uuid::from_u128(host)))).micros()
        };
        for now in [1_700_000_000_000_000, 1_700_000_001_234_567, 1_700_000_002_999_999, -5] {
            assert_eq!(tick(now, 700) % 3_000_000, 700);
            assert!(tick(now, 700) > now && tick(now, 700) - now <= 3_000_000);
        }
        assert_eq!(tick(1_700_000_000_000_000, 3_000_700) % 3_000_000, 700);
        let at = tick(1_700_000_000_000_000, 700);
        assert_eq!(tick(at, 700), at + 3_000_000, "never the same tick twice");
    }
}
