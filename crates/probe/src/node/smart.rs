//! Drives' own assessment, through `smartctl --json`.
//!
//! Rarely, and never waking one: spinning drives are asked with `-n standby`, and not at all when
//! nothing was read or written since the last time, for even that question keeps some awake.

use super::Settings;
use super::background::{Reading, Task};
use perigee_model::frame::Series;
use serde_json::Value;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(45 * 60);
const DRIVES_MAX: usize = 64;
const JSON_BYTES_MAX: u64 = 1 << 20;
/// timeout(1) ends one that hangs, the one of coreutils and that of busybox; what even SIGKILL does not end keeps this thread alone.
const SECONDS_EACH: u64 = 30;

/// `None` without smartctl or without the rights it needs.
pub fn task(settings: &Settings) -> Option<(&'static str, Task)> {
    let program = ["/usr/sbin/smartctl", "/sbin/smartctl", "/usr/bin/smartctl"].map(PathBuf::from);
    let program = program.into_iter().find(|path| path.exists())?;
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let block = settings.sys_root.join("block");
    let mut drives = Drives { block, program, last: HashMap::new() };
    let task = Task {
        every: EVERY,
        first_within: Duration::from_secs(120),
        deadline: Duration::from_secs(SECONDS_EACH * 4),
        ask: Box::new(move || drives.ask()),
    };
    Some(("smart", task))
}

struct Drives {
    block: PathBuf,
    program: PathBuf,
    /// By drive: what its `stat` said, and what smartctl said then.
    last: HashMap<String, (String, Vec<Reading>)>,
}

impl Drives {
    /// What all drives say. An error when nothing is known of any, because smartctl could not be asked.
    fn ask(&mut self) -> Result<Vec<Reading>, String> {
        let (mut now, mut fault) = (HashMap::new(), None);
        for drive in drives(&self.block) {
            let folder = self.block.join(&drive);
            let spins = text(&folder.join("queue/rotational")) == "1";
            let activity = text(&folder.join("stat"));
            let known = self.last.remove(&drive);
            let readings = match known {
                Some((before, readings)) if spins && before == activity => readings,
                known => match run(&self.program, &drive, spins) {
                    // Asleep: what it said last still holds.
                    Ok(json) => readings(&drive, &json).or(known.map(|(_, readings)| readings)).unwrap_or_default(),
                    Err(why) => {
                        fault = Some(why);
                        continue;
                    }
                },
            };
            // Asking is itself an access that some drivers count.
            now.insert(drive, (text(&folder.join("stat")), readings));
        }
        self.last = now;
        let all: Vec<Reading> = self.last.values().flat_map(|(_, readings)| readings.clone()).collect();
        fault.filter(|_| all.is_empty()).map_or(Ok(all), Err)
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn drives(block: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(block).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // One of several ways to an NVMe drive is listed beside it, hidden and without a device to be asked.
    let is_shown = |name: &str| text(&block.join(name).join("hidden")) != "1";
    let is_drive = |name: &String| (name.starts_with("sd") || name.starts_with("nvme")) && is_shown(name);
    names.filter(is_drive).take(DRIVES_MAX).collect()
}

/// The exit status is a set of bits of which most are findings, not failures: the JSON tells.
fn run(program: &Path, drive: &str, spins: bool) -> Result<Value, String> {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &SECONDS_EACH.to_string()]).arg(program).args(["--json=c", "-i", "-H", "-A"]);
    if spins {
        command.args(["-n", "standby"]);
    }
    command.arg(format!("/dev/{drive}")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|why| format!("timeout(1), which ends smartctl, does not start: {why}"))?;
    let mut json = Vec::new();
    let read = child.stdout.take().map(|out| out.take(JSON_BYTES_MAX).read_to_end(&mut json));
    if json.len() as u64 == JSON_BYTES_MAX {
        // Whoever writes more than that is not waited for.
        let _ = child.kill();
    }
    let ended = child.wait().map_or_else(|why| why.to_string(), |status| status.to_string());
    let parsed = read.and_then(Result::ok).and_then(|_| serde_json::from_slice(&json).ok());
    parsed.ok_or_else(|| format!("{} said nothing of {drive} that can be read ({ended})", program.display()))
}

/// `None` when the drive sleeps or said nothing of itself.
fn readings(drive: &str, json: &Value) -> Option<Vec<Reading>> {
    let model = json["model_name"].as_str().unwrap_or_default();
    let attribute = |id: u64| {
        let table = json["ata_smart_attributes"]["table"].as_array()?;
        table.iter().find(|row| row["id"].as_u64() == Some(id))?["raw"]["value"].as_f64()
    };
    let nvme = &json["nvme_smart_health_information_log"];
    let passed = json["smart_status"]["passed"].as_bool();
    let table = [
        ("perigee_smart_healthy", 0, passed.map(|passed| if passed { 1.0 } else { 0.0 })),
        ("perigee_smart_temperature_celsius", 0, json["temperature"]["current"].as_f64()),
        ("perigee_smart_wear_ratio", 2, nvme["percentage_used"].as_f64().map(|percent| percent / 100.0)),
        ("perigee_smart_reallocated_sectors", 0, attribute(5)),
        ("perigee_smart_pending_sectors", 0, attribute(197)),
    ];
    let counters = [
        ("perigee_smart_powered_seconds_total", json["power_on_time"]["hours"].as_f64().map(|hours| hours * 3600.0)),
        ("perigee_smart_media_errors_total", nvme["media_errors"].as_f64()),
    ];
    let labelled = |series: Series| series.with("device", drive).with("model", model);
    let gauges = table.into_iter().map(|(name, digits, value)| (Series::gauge(name, digits), value));
    let counters = counters.into_iter().map(|(name, value)| (Series::counter(name, 0), value));
    let reading = |(series, value): (Series, Option<f64>)| Some(Reading { series: labelled(series), value: value? });
    let readings: Vec<Reading> = gauges.chain(counters).filter_map(reading).collect();
    (!readings.is_empty()).then_some(readings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(json: &Value) -> Vec<(String, f64)> {
        let readings = readings("sda", json).unwrap_or_default();
        readings
            .into_iter()
            .map(|reading| (reading.series.name["perigee_smart_".len()..].to_owned(), reading.value))
            .collect()
    }

    #[test]
    fn ata_and_nvme_say_it_in_other_words() {
        let ata = json!({
            "model_name": "ST4000", "smart_status": {"passed": false}, "temperature": {"current": 41},
            "power_on_time": {"hours": 2}, "ata_smart_attributes": {"table": [
                {"id": 5, "raw": {"value": 8}}, {"id": 197, "raw": {"value": 3}}]}
        });
        let expected = [
            ("healthy", 0.0),
            ("temperature_celsius", 41.0),
            ("reallocated_sectors", 8.0),
            ("pending_sectors", 3.0),
            ("powered_seconds_total", 7200.0),
        ];
        assert_eq!(values(&ata), expected.map(|(name, value)| (name.to_owned(), value)));
        let nvme = json!({
            "smart_status": {"passed": true},
            "nvme_smart_health_information_log": {"percentage_used": 7, "media_errors": 2}
        });
        let expected = [("healthy", 1.0), ("wear_ratio", 0.07), ("media_errors_total", 2.0)];
        assert_eq!(values(&nvme), expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn what_smartctl_said_of_two_drives_of_qemu_is_understood() {
        let said = |json: &str| values(&serde_json::from_str(json).unwrap());
        let expected = |values: &[(&str, f64)]| -> Vec<(String, f64)> {
            values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let nvme = [
            ("healthy", 1.0),
            ("temperature_celsius", 50.0),
            ("wear_ratio", 0.0),
            ("powered_seconds_total", 0.0),
            ("media_errors_total", 0.0),
        ];
        assert_eq!(said(include_str!("../../tests/fixtures/smartctl/nvme.json")), expected(&nvme));
        let ata = [
            ("healthy", 1.0),
            ("temperature_celsius", 31.0),
            ("reallocated_sectors", 0.0),
            ("powered_seconds_total", 3600.0),
        ];
        assert_eq!(said(include_str!("../../tests/fixtures/smartctl/ata.json")), expected(&ata));
    }

    #[test]
    fn hidden_ways_to_a_drive_are_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        for (name, hidden) in [("nvme0n1", "0\n"), ("nvme0c0n1", "1\n"), ("loop0", "0\n")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hidden"), hidden).unwrap();
        }
        std::fs::create_dir(dir.path().join("sda")).unwrap();
        let mut found = drives(dir.path());
        found.sort();
        assert_eq!(found, ["nvme0n1", "sda"], "kernels before 4.16 do not say what is hidden");
    }

    #[test]
    fn a_sleeping_drive_says_nothing() {
        let asleep = json!({"smartctl": {"exit_status": 2, "messages": [{"string": "Device is in STANDBY mode"}]}});
        assert_eq!(readings("sda", &asleep), None);
        assert_eq!(readings("sda", &Value::Null), None);
    }

    /// Drives that spin, and a smartctl that is this script.
    fn played(folder: &Path, names: &[&str], script: &str) -> Drives {
        use std::os::unix::fs::PermissionsExt;
        let (block, program) = (folder.join("block"), folder.join("smartctl"));
        for name in names {
            std::fs::create_dir_all(block.join(name).join("queue")).unwrap();
            std::fs::write(block.join(name).join("queue/rotational"), "1\n").unwrap();
            std::fs::write(block.join(name).join("stat"), "1 2 3").unwrap();
        }
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Drives { block, program, last: HashMap::new() }
    }

    #[test]
    fn a_smartctl_that_cannot_be_asked_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut drives = played(dir.path(), &["sda"], r#"echo '{"temperature":{"current":30}}'"#);
        drives.ask().unwrap();
        drives = Drives { last: drives.last, ..played(dir.path(), &[], "echo no such option; exit 3") };
        assert_eq!(drives.ask().unwrap().len(), 1, "a drive that did nothing is not asked");
        std::fs::write(drives.block.join("sda/stat"), "1 2 4").unwrap();
        let why = drives.ask().unwrap_err();
        assert!(why.contains("said nothing of sda") && why.contains("exit status: 3"), "{why}");
        assert_eq!(drives.ask(), Err(why), "it is asked again");
        drives = played(dir.path(), &["sdb"], r#"case $* in *sdb) echo '{"temperature":{"current":30}}';; esac"#);
        assert_eq!(drives.ask().unwrap().len(), 1, "the other drive is shown");
        drives = Drives { program: dir.path().join("gone"), ..played(dir.path(), &[], "") };
        assert!(drives.ask().is_err());
    }

    #[test]
    fn a_spinning_drive_that_did_nothing_is_not_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = format!("echo \"$@\" >> {}\necho '{{\"temperature\":{{\"current\":30}}}}'", log.display());
        let mut drives = played(dir.path(), &["sda"], &script);
        let block = drives.block.clone();
        assert_eq!(drives.ask().unwrap().len(), 1);
        assert_eq!(drives.ask().unwrap().len(), 1, "the old answer holds");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "--json=c -i -H -A -n standby /dev/sda\n");
        std::fs::write(block.join("sda/stat"), "1 2 4").unwrap();
        drives.ask().unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 2);
    }
}
