//! What a host measured before it came here: frames that wait in its spool, as after an outage.

use super::machine::Machine;
use perigee_agent::frames::{Caps, FrameSpool};
use perigee_clock::Clock;
use perigee_model::frame::{Series, Sheet};
use perigee_model::{RunId, Timestamp};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Frames of one life of the agent: as many as a block of the control plane has.
pub const LIFE_FRAMES: u32 = 600;
/// Nothing of the past may be lost to it.
const SPOOL: Caps = Caps { segment_bytes: 1 << 20, disk_bytes: 0, memory_bytes: 64 << 20 };

/// How long, and where the same is written down for others.
#[derive(Clone, Debug)]
pub struct Past {
    /// So long, a frame each second; it ends at the last whole minute.
    pub seconds: u32,
    /// A file for each host: OpenMetrics without its end, times in whole seconds.
    pub folder: PathBuf,
}

impl Past {
    /// Lets a machine live it on a sheet that goes on being its own; the frames wait in the spool.
    ///
    /// # Errors
    /// What the disk says.
    pub fn live(
        &self,
        machine: &mut Machine,
        sheet: &mut Sheet,
        host: &str,
        clock: &Clock,
    ) -> std::io::Result<FrameSpool> {
        let spool = FrameSpool::in_memory(SPOOL);
        let end = clock.now().micros() / 60_000_000 * 60;
        let (mut run, mut text) = (RunId::new(clock.uuid()), String::new());
        for number in 0..self.seconds {
            let sequence = number % LIFE_FRAMES + 1;
            if sequence == 1 {
                run = RunId::new(clock.uuid());
            }
            let second = end - i64::from(self.seconds - number);
            let at = Timestamp::from_micros(0) + Duration::from_secs(second.unsigned_abs());
            machine.sample(sheet, at);
            let key = sequence == 1 || spool.is_key_due();
            spool.append(run, &sheet.encode(sequence.into(), at, key), key);
            for (series, value) in sheet.values() {
                line(&mut text, series, host, value);
                // Writing to a String cannot fail.
                let _ = writeln!(text, " {second}");
            }
        }
        std::fs::write(self.folder.join(host), text)?;
        Ok(spool)
    }
}

/// Name, labels and value, as Prometheus reads them; the time is still to come.
pub fn line(text: &mut String, series: &Series, host: &str, value: f64) {
    let _ = write!(text, "{}{{host=\"{host}\"", series.name);
    for (label, value) in &series.labels {
        let _ = write!(text, ",{label}=\"{value}\"");
    }
    let _ = write!(text, "}} {value}");
}

#[cfg(test)]
mod tests {
    use super::super::machine::Mix;
    use super::*;
    use perigee_agent::frames::Cursor;
    use perigee_model::frame::Columns;

    #[test]
    fn frames_and_text_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let past = Past { seconds: LIFE_FRAMES + 2, folder: folder.path().to_owned() };
        let (mut machine, mut sheet) = (Machine::new(7, "sim-0001", Mix::Busy), Sheet::default());
        let spool = past.live(&mut machine, &mut sheet, "sim-0001", &Clock::real()).unwrap();
        assert_eq!((spool.waiting(), spool.lost()), (u64::from(past.seconds), 0));
        let (mut columns, mut runs) = (Columns::default(), Vec::new());
        let mut said = String::new();
        for record in spool.read(&mut Cursor::default(), usize::MAX).unwrap() {
            columns.apply(&record.frame).unwrap();
            runs.push(record.run);
            for (column, series) in (0..).zip(columns.series()) {
                line(&mut said, series, "sim-0001", columns.value(column).unwrap());
                let _ = writeln!(said, " {}", record.header.at.micros() / 1_000_000);
            }
        }
        runs.dedup();
        assert_eq!(runs.len(), 2, "a life, and the beginning of another");
        assert!(said == std::fs::read_to_string(folder.path().join("sim-0001")).unwrap());
    }
}
