//! What a full machine has beside a sandbox: a power button, a balloon, a network that tells addresses,
//! somebody at its serial port.
//!
//! Owns: a thread that sees to them once the guest's port is open, so that hello waits for none of it.
//! Refuses: to be needed. What fails is said on the console, and the guest goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::boot::{self, CommandLine, Console};

const MODULES: &str = "/etc/perigee/modules-later";
const INPUTS: &str = "/sys/class/input";
const CARDS: &str = "/sys/class/net";
/// A shell for whoever sits down at the serial port, and another one when that is left.
const SEAT: &str = "while :; do /bin/getty -n -l /bin/sh -L 115200 ttyS0 vt100 || sleep 1; done";
const LEASE_SCRIPT: &str = "/etc/perigee/lease";
/// For a device to appear after its module, and for a card after boot.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// For processes to end before the machine does.
const END_WITHIN: Duration = Duration::from_secs(2);

/// `struct input_event` (linux/input.h): two words of time, type, code, value.
const EVENT_BYTES: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: i32 = 1;

/// Sees to all of it, in a thread of its own.
pub fn begin(line: CommandLine) {
    if !line.is_full_machine && !line.asks_for_lease {
        return;
    }
    let begun = std::thread::Builder::new().name("machine".to_owned()).spawn(move || {
        let mut console = Console::open();
        if line.asks_for_lease
            && let Err(error) = ask_for_lease()
        {
            console.say(&format!("no network: {error}"));
        }
        if line.is_full_machine {
            if let Err(error) = quietly(Command::new("/bin/sh").args(["-c", SEAT])) {
                console.say(&format!("nobody at the serial port: {error}"));
            }
            boot::load_modules(MODULES, &mut console);
            let error = match wait_for_button() {
                Ok(()) => turn_off(&line),
                Err(error) => error,
            };
            console.say(&format!("no power button: {error}"));
        }
    });
    if let Err(error) = begun {
        Console::open().say(&format!("no thread for the machine: {error}"));
    }
}

/// Starts a DHCP client for each card; it renews the lease as long as the machine runs.
fn ask_for_lease() -> io::Result<()> {
    let cards = appear(|| {
        let names = std::fs::read_dir(CARDS).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let cards: Vec<_> = names.filter(|name| name != "lo").collect();
        (!cards.is_empty()).then_some(cards)
    })?;
    for card in cards {
        let mut client = Command::new("/bin/udhcpc");
        client.args(["-f", "-S", "-t", "5", "-T", "2", "-A", "5", "-i", &card, "-s", LEASE_SCRIPT]);
        quietly(&mut client)?;
    }
    Ok(())
}

/// Starts it beside this process, which reaps it.
fn quietly(command: &mut Command) -> io::Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop)
}

/// Returns when it was pressed.
fn wait_for_button() -> io::Result<()> {
    let mut button = File::open(appear(button)?)?;
    let mut event = [0; EVENT_BYTES];
    loop {
        button.read_exact(&mut event)?;
        if is_press(&event) {
            return Ok(());
        }
    }
}

fn is_press(event: &[u8; EVENT_BYTES]) -> bool {
    let short = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    (short(16), short(18), value) == (EV_KEY, KEY_POWER, PRESSED)
}

fn button() -> Option<PathBuf> {
    std::fs::read_dir(INPUTS).ok()?.flatten().find_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("device/name")).ok()?;
        let device = Path::new("/dev/input").join(entry.file_name());
        (name.trim() == "Power Button" && device.exists()).then_some(device)
    })
}

fn appear<T>(look: impl Fn() -> Option<T>) -> io::Result<T> {
    let until = Instant::now() + APPEARS_WITHIN;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= until {
            return Err(io::ErrorKind::NotFound.into());
        }
        std::thread::sleep(POLL);
    }
}

/// Tells every process to end, and ends the machine. Returns only if the kernel refuses.
fn turn_off(line: &CommandLine) -> io::Error {
    // Everyone but the first process; none is fine. A shell that somebody sits at only ends by SIGHUP.
    let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
    let _ = kill(Pid::from_raw(-1), Signal::SIGHUP);
    let until = Instant::now() + END_WITHIN;
    while others_live() && Instant::now() < until {
        std::thread::sleep(POLL);
    }
    match boot::end_machine(line) {
        Ok(()) => io::Error::other("the machine does not end"),
        Err(error) => error,
    }
}

/// Processes with a program: the kernel's own threads have no arguments.
fn others_live() -> bool {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut others = pids.filter(|entry| {
        entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()).is_some_and(|pid| pid > 1)
    });
    others.any(|entry| {
        let mut byte = [0];
        let read = OpenOptions::new().read(true).open(entry.path().join("cmdline"));
        read.and_then(|mut file| file.read(&mut byte)).is_ok_and(|count| count > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> [u8; EVENT_BYTES] {
        let mut event = [7; EVENT_BYTES];
        event[16..18].copy_from_slice(&kind.to_ne_bytes());
        event[18..20].copy_from_slice(&code.to_ne_bytes());
        event[20..].copy_from_slice(&value.to_ne_bytes());
        event
    }

    #[test]
    fn only_a_press_of_the_power_key_counts() {
        assert!(is_press(&event(EV_KEY, KEY_POWER, PRESSED)));
        for other in [event(EV_KEY, KEY_POWER, 0), event(EV_KEY, 30, PRESSED), event(0, KEY_POWER, PRESSED)] {
            assert!(!is_press(&other));
        }
    }

    #[test]
    fn the_host_says_what_kind_of_machine_it_is() {
        let full = CommandLine::parse("quiet perigee.machine=vm perigee.network=dhcp");
        assert!(full.is_full_machine && full.asks_for_lease);
        let sandbox = CommandLine::parse("quiet reboot=t perigee.machine=other");
        assert!(!sandbox.is_full_machine && !sandbox.asks_for_lease && sandbox.ends_by_reset);
    }
}
