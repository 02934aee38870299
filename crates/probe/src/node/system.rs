//! What hardly ever changes: the kernel's name, the distribution's, and the time of day.

use super::{Collector, Fault, Round, Settings};
use crate::text;
use nix::sys::utsname::uname;
use nix::time::{ClockId, clock_gettime};
use perigee_model::frame::{Series, Slot};

/// uname(2), os-release(5).
pub struct System {
    time: Option<Slot>,
    live: bool,
}

impl System {
    pub fn new(settings: &Settings) -> Self {
        Self { time: None, live: settings.proc_root.as_os_str() == "/proc" }
    }

    fn define(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        let names = uname().map_err(std::io::Error::from)?;
        let kernel = Series::gauge("node_uname_info", 0)
            .with("sysname", &names.sysname().to_string_lossy())
            .with("release", &names.release().to_string_lossy())
            .with("version", &names.version().to_string_lossy())
            .with("machine", &names.machine().to_string_lossy())
            .with("nodename", &names.nodename().to_string_lossy())
            .with("domainname", "(none)");
        let os_release = ["/etc/os-release", "/usr/lib/os-release"].map(std::fs::read_to_string);
        let os_release = os_release.into_iter().find_map(Result::ok).unwrap_or_default();
        let os = Series::gauge("node_os_info", 0)
            .with("pretty_name", &text::pretty_name(&os_release))
            .with("id", &text::os_field(&os_release, "ID"))
            .with("version_id", &text::os_field(&os_release, "VERSION_ID"));
        for series in [kernel, os] {
            let slot = round.sheet.define(series);
            round.put(slot, Some(1));
        }
        self.time = round.sheet.define(Series::gauge("node_time_seconds", 3));
        Ok(())
    }
}

impl Collector for System {
    fn name(&self) -> &'static str {
        "uname"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        if self.time.is_none() {
            self.define(round)?;
        }
        // The host's wall clock is what is measured here: compared with the control plane's it shows skew.
        if self.live {
            let now = clock_gettime(ClockId::CLOCK_REALTIME).map_err(std::io::Error::from)?;
            let millis = now.tv_sec().checked_mul(1000).and_then(|s| s.checked_add(now.tv_nsec() / 1_000_000));
            round.put(self.time, millis);
        }
        Ok(())
    }
}
