//! What this process takes from its machine, as Linux tells it (proc(5)).

use std::fs;

/// Linux counts processor time in these on every machine we run on (times(2)).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Taken {
    /// Processor time of all threads.
    pub cpu_seconds: f64,
    /// Memory in RAM.
    pub resident_bytes: u64,
    /// Memory that is mapped.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors, and how many there may be.
    pub fds: u64,
    /// Descriptors there may be.
    pub fds_max: u64,
    /// When it began, in seconds since 1970.
    pub started_seconds: f64,
}

/// This process now. What cannot be read is zero.
pub fn taken() -> Taken {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut taken = of_texts(&read("/proc/self/stat"), &read("/proc/self/status"), &read("/proc/self/limits"));
    taken.fds = fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
    taken.started_seconds += number(&read("/proc/stat"), "btime").unwrap_or(0) as f64;
    taken
}

fn of_texts(stat: &str, status: &str, limits: &str) -> Taken {
    // The name before it is in parentheses and may hold anything.
    let fields: Vec<f64> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').map(numeral).collect();
    let field = |place: usize| fields.get(place).copied().unwrap_or(0.0);
    let kib = |name: &str| number(status, name).unwrap_or(0) * 1024;
    Taken {
        cpu_seconds: (field(11) + field(12)) / TICKS_PER_SECOND,
        resident_bytes: kib("VmRSS:"),
        virtual_bytes: kib("VmSize:"),
        threads: number(status, "Threads:").unwrap_or(0),
        fds: 0,
        fds_max: number(limits, "Max open files").unwrap_or(0),
        started_seconds: field(19) / TICKS_PER_SECOND,
    }
}

fn numeral(text: &str) -> f64 {
    text.parse().unwrap_or(0.0)
}

/// The number behind a line's name.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 12 0 4200 999 80";
        let status = "Name:\ta\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t12\n";
        let limits = "Limit  Soft  Hard  Units\nMax open files            1024                 4096      files\n";
        let taken = of_texts(stat, status, limits);
        assert_eq!((taken.cpu_seconds, taken.started_seconds), (2.0, 42.0));
        assert_eq!((taken.resident_bytes, taken.virtual_bytes, taken.threads), (1 << 20, 2 << 20, 12));
        assert_eq!(taken.fds_max, 1024);
    }

    #[test]
    fn this_process_takes_something() {
        let taken = taken();
        assert!(taken.resident_bytes > 0 && taken.fds > 0 && taken.started_seconds > 1e9, "{taken:?}");
    }
}
