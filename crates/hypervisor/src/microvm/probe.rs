//! What this host is able to do, looked at once.
//!
//! Owns: QEMU's version, the frequency of the time stamp counter. Refuses: to guess.

use super::arguments::Machine;
use super::{MicrovmConfig, sys};
use crate::HypervisorError;
use crate::cpu::{CPU_FLAGS, has_flag, virtualisation};
use crate::work::os;
use perigee_clock::Clock;
use perigee_model::{Abilities, Acceleration, GuestKind};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const MEASURE_FOR: Duration = Duration::from_millis(20);
const MEASURE_ATTEMPTS: u32 = 1000;
/// Counter ticks between two reads beyond which somebody else had the processor: some 5 µs.
const UNDISTURBED_TICKS: u64 = 15_000;

/// Looks at QEMU and at the processor. Blocks for some 50 ms.
pub fn probe(config: &MicrovmConfig) -> Result<(Abilities, Machine), HypervisorError> {
    let version = version(&config.qemu)?;
    let text = fs::read_to_string(CPU_FLAGS).map_err(os(format!("reading {CPU_FLAGS}")))?;
    let hardware = virtualisation(&text);
    let acceleration = if hardware { Acceleration::Kvm } else { Acceleration::Tcg };
    let steady = has_flag(&text, "constant_tsc") && has_flag(&text, "nonstop_tsc");
    let tsc_khz = if steady { tsc_khz(&config.clock) } else { None };
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let abilities = Abilities {
        driver: "qemu-microvm".to_owned(),
        kinds: vec![GuestKind::Sandbox],
        version,
        acceleration,
        channel: true,
        pause: true,
        halt: false,
        console: false,
        snapshots: false,
        volumes: false,
        networks: false,
        adopt: true,
        boots_in_flight_max: if hardware { cores.saturating_mul(4) } else { cores },
    };
    Ok((abilities, Machine { instance: config.instance.clone(), acceleration, tsc_khz }))
}

/// `10.0.2`, out of the first line of `--version`.
fn version(qemu: &Path) -> Result<String, HypervisorError> {
    let mut command = Command::new(qemu);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null());
    let doing = || format!("{} (scripts/setup installs it)", qemu.display());
    let output = command.output().map_err(os(format!("running {}", doing())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split_ascii_whitespace().skip_while(|word| *word != "version").nth(1);
    match number {
        Some(number) if output.status.success() => Ok(number.chars().take(32).collect()),
        _ => Err(HypervisorError::DidNotStart(format!("{} does not tell its version", doing()))),
    }
}

/// Measured against the monotonic clock, right to some parts in a million. `None` when the host
/// is too busy to tell.
fn tsc_khz(clock: &Clock) -> Option<u32> {
    let began = clock.instant();
    let read = || {
        (0..MEASURE_ATTEMPTS).find_map(|_| {
            let before = sys::time_stamp_counter()?;
            let elapsed = began.elapsed();
            let after = sys::time_stamp_counter()?;
            (after.wrapping_sub(before) < UNDISTURBED_TICKS).then_some((before, elapsed))
        })
    };
    let (first, from) = read()?;
    std::thread::sleep(MEASURE_FOR);
    let (last, to) = read()?;
    let nanos = (to - from).as_nanos();
    let khz = u128::from(last.wrapping_sub(first)) * 1_000_000 / nanos.max(1);
    u32::try_from(khz).ok().filter(|khz| *khz > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_has_the_same_frequency_twice() {
        let clock = Clock::real();
        let (Some(first), Some(second)) = (tsc_khz(&clock), tsc_khz(&clock)) else { return };
        assert!(first.abs_diff(second) < first / 1000, "{first} {second}");
    }
}
