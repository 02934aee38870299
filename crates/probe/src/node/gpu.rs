//! NVIDIA GPUs, through the driver's own library where it is installed.
//!
//! A handle keeps a GPU awake: before each question sysfs is asked whether one sleeps, and then the
//! handle is given back and nothing is asked.

use super::Settings;
use super::background::{Reading, Task};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use perigee_model::frame::Series;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(10);
const GPUS_MAX: u32 = 64;

/// `None` on a machine without such a GPU.
pub fn task(settings: &Settings) -> Option<(&'static str, Task)> {
    let devices = settings.sys_root.join("bus/pci/devices");
    let gpus = gpus(&devices);
    if gpus.is_empty() {
        return None;
    }
    let mut reader = Reader { gpus, nvml: None };
    let ask = Box::new(move || reader.ask().map_err(|e| e.to_string()));
    Some(("gpu", Task { every: EVERY, first_within: Duration::from_secs(2), deadline: DEADLINE, ask }))
}

/// Display controllers of NVIDIA on the PCI bus.
fn gpus(devices: &Path) -> Vec<PathBuf> {
    let text = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let is_gpu = |folder: &PathBuf| {
        text(folder.join("vendor")).trim() == "0x10de" && text(folder.join("class")).starts_with("0x03")
    };
    let entries = std::fs::read_dir(devices).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_gpu).collect()
}

fn sleeps(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("power/runtime_status")).is_ok_and(|status| status.trim() == "suspended")
}

struct Reader {
    gpus: Vec<PathBuf>,
    nvml: Option<Nvml>,
}

impl Reader {
    fn ask(&mut self) -> Result<Vec<Reading>, NvmlError> {
        let asleep = self.gpus.iter().filter(|gpu| sleeps(gpu)).count();
        let count = u32::try_from(asleep).unwrap_or(u32::MAX);
        let mut readings = vec![Reading { series: Series::gauge("perigee_gpu_asleep", 0), value: f64::from(count) }];
        if asleep > 0 {
            // Opening the library wakes all of them, so one that sleeps is left alone with the others.
            self.nvml = None;
            return Ok(readings);
        }
        let nvml = match self.nvml.take() {
            Some(nvml) => nvml,
            None => match Nvml::init() {
                Ok(nvml) => nvml,
                // Another driver than NVIDIA's runs it.
                Err(NvmlError::LibloadingError(_) | NvmlError::DriverNotLoaded) => return Ok(readings),
                Err(e) => return Err(e),
            },
        };
        for index in 0..nvml.device_count()?.min(GPUS_MAX) {
            readings.extend(one(&nvml, index));
        }
        self.nvml = Some(nvml);
        Ok(readings)
    }
}

/// Every field may be "not supported": MIG, integrated ones, cards without a fan.
fn one(nvml: &Nvml, index: u32) -> Vec<Reading> {
    let Ok(device) = nvml.device_by_index(index) else { return Vec::new() };
    let (name, uuid) = (device.name().unwrap_or_default(), device.uuid().unwrap_or_default());
    let memory = device.memory_info().ok();
    #[expect(clippy::cast_precision_loss, reason = "bytes of a GPU's memory are exact as a double")]
    let bytes = |count: u64| count as f64;
    let table = [
        ("perigee_gpu_utilization_ratio", 2, device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0)),
        ("perigee_gpu_memory_used_bytes", 0, memory.as_ref().map(|memory| bytes(memory.used))),
        ("perigee_gpu_memory_total_bytes", 0, memory.as_ref().map(|memory| bytes(memory.total))),
        ("perigee_gpu_temperature_celsius", 0, device.temperature(TemperatureSensor::Gpu).ok().map(f64::from)),
        ("perigee_gpu_power_watts", 3, device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0)),
        ("perigee_gpu_fan_ratio", 2, device.fan_speed(0).ok().map(|percent| f64::from(percent) / 100.0)),
    ];
    let labelled = |name_of: &str, digits| {
        Series::gauge(name_of, digits).with("gpu", &index.to_string()).with("uuid", &uuid).with("name", &name)
    };
    let reading = |(name, digits, value): (&str, u8, Option<f64>)| {
        Some(Reading { series: labelled(name, digits), value: value? })
    };
    table.into_iter().filter_map(reading).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeping_gpu_is_not_woken() {
        let dir = tempfile::tempdir().unwrap();
        let card = |name: &str, vendor: &str, class: &str, status: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(folder.join("power")).unwrap();
            for (file, text) in [("vendor", vendor), ("class", class), ("power/runtime_status", status)] {
                std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        };
        card("0000:01:00.0", "0x10de", "0x030000", "suspended");
        card("0000:01:00.1", "0x10de", "0x040300", "active");
        card("0000:02:00.0", "0x8086", "0x030000", "active");
        let gpus = gpus(dir.path());
        assert_eq!(gpus, [dir.path().join("0000:01:00.0")]);
        let mut reader = Reader { gpus, nvml: None };
        let readings = reader.ask().unwrap();
        assert_eq!(readings, [Reading { series: Series::gauge("perigee_gpu_asleep", 0), value: 1.0 }]);
        assert!(reader.nvml.is_none());
    }
}
