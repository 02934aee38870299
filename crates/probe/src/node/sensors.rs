//! Temperatures, fans, power, voltage: /sys/class/hwmon and /sys/class/thermal.

use super::{Collector, Fault, Round, Settings};
use crate::scan::{Source, lossy, number};
use perigee_model::frame::{Series, Slot};
use std::path::{Path, PathBuf};

/// A board has some dozens.
const SENSORS_MAX: usize = 256;
/// Drivers are loaded late and USB sensors come and go.
const ROUNDS_BETWEEN_SEARCHES: u32 = 100;

struct Sensor {
    source: Source,
    slot: Option<Slot>,
}

/// All sensors of the machine.
pub struct Sensors {
    hwmon: PathBuf,
    thermal: PathBuf,
    sensors: Vec<Sensor>,
    rounds: u32,
}

/// Name, decimals of what hwmon gives (milli or micro units), by file: hwmon's sysfs-interface document.
fn measured(file: &str) -> Option<(&'static str, u8, &str)> {
    let (sensor, item) = file.split_once('_')?;
    let kind = sensor.trim_end_matches(|c: char| c.is_ascii_digit());
    let (name, digits) = match (kind, item) {
        ("temp", "input") => ("node_hwmon_temp_celsius", 3),
        ("temp", "crit") => ("node_hwmon_temp_crit_celsius", 3),
        ("temp", "max") => ("node_hwmon_temp_max_celsius", 3),
        ("fan", "input") => ("node_hwmon_fan_rpm", 0),
        ("in", "input") => ("node_hwmon_in_volts", 3),
        ("curr", "input") => ("node_hwmon_curr_amps", 3),
        ("power", "average") => ("node_hwmon_power_average_watt", 6),
        ("power", "input") => ("node_hwmon_power_input_watt", 6),
        ("energy", "input") => ("node_hwmon_energy_joule_total", 6),
        _ => return None,
    };
    Some((name, digits, sensor))
}

fn names_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).take(SENSORS_MAX * 16).collect();
    paths.sort();
    paths
}

fn text(path: &Path) -> Option<String> {
    let mut buffer = Vec::new();
    let read = Source::new(path.to_owned()).read(&mut buffer).ok().map(lossy);
    read.filter(|text| !text.is_empty())
}

/// As node_exporter: the device's place on its bus, since `hwmon3` is another chip after a reboot.
fn chip(folder: &Path) -> String {
    let device = std::fs::canonicalize(folder.join("device")).ok();
    let piece = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let on_bus = device.and_then(|device| {
        let bus = device.parent().and_then(piece)?;
        Some(format!("{bus}_{}", piece(&device)?))
    });
    let name = on_bus.or_else(|| text(&folder.join("name"))).or_else(|| piece(folder)).unwrap_or_default();
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == ':' { c.to_ascii_lowercase() } else { '_' };
    name.chars().map(clean).collect()
}

impl Sensors {
    pub fn new(settings: &Settings) -> Self {
        let class = settings.sys_root.join("class");
        Self { hwmon: class.join("hwmon"), thermal: class.join("thermal"), sensors: Vec::new(), rounds: 0 }
    }

    fn search(&self) -> Vec<(PathBuf, Series)> {
        let mut found = Vec::new();
        for folder in names_in(&self.hwmon) {
            let chip = chip(&folder);
            // Before 3.15 or so the files lay in the device's folder.
            let within = if folder.join("name").exists() { folder } else { folder.join("device") };
            for path in names_in(&within) {
                let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
                let Some((name, digits, sensor)) = measured(file) else { continue };
                let kind = if name.ends_with("_total") { Series::counter } else { Series::gauge };
                found.push((path.clone(), kind(name, digits).with("chip", &chip).with("sensor", sensor)));
            }
        }
        for folder in names_in(&self.thermal) {
            let Some(zone) = folder.file_name().and_then(|name| name.to_str()?.strip_prefix("thermal_zone")) else {
                continue;
            };
            let kind = text(&folder.join("type")).unwrap_or_default();
            let series = Series::gauge("node_thermal_zone_temp", 3).with("zone", zone).with("type", &kind);
            found.push((folder.join("temp"), series));
        }
        found.truncate(SENSORS_MAX);
        found
    }

    fn renew(&mut self, round: &mut Round<'_>) {
        let found: Vec<Sensor> = self
            .search()
            .into_iter()
            .map(|(path, series)| Sensor { source: Source::new(path), slot: round.sheet.define(series) })
            .collect();
        let stays = |slot: Option<Slot>| found.iter().any(|sensor| sensor.slot == slot);
        for gone in self.sensors.iter().filter(|sensor| !stays(sensor.slot)) {
            gone.slot.into_iter().for_each(|slot| round.sheet.retire(slot));
        }
        self.sensors = found;
    }
}

impl Collector for Sensors {
    fn name(&self) -> &'static str {
        "hwmon"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        if self.rounds.is_multiple_of(ROUNDS_BETWEEN_SEARCHES) {
            self.renew(round);
        }
        self.rounds = self.rounds.wrapping_add(1);
        for sensor in &mut self.sensors {
            // A sensor that does not answer (ENODATA, EAGAIN) has no value; that is no fault of ours.
            let value = sensor.source.read_line(round.buffer).ok().and_then(|text| number(text.trim_ascii()));
            round.put(sensor.slot, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_hwmon_are_known_by_name() {
        assert_eq!(measured("temp1_input"), Some(("node_hwmon_temp_celsius", 3, "temp1")));
        assert_eq!(measured("power12_average"), Some(("node_hwmon_power_average_watt", 6, "power12")));
        for file in ["temp1_label", "uevent", "temp1_input_x", "in0_min", "_input", ""] {
            assert_eq!(measured(file), None, "{file}");
        }
    }
}
