//! The kernel's switches of IPv6 (Linux, networking/ip-sysctl.rst).

use super::{HostError, is_on, switch};
use crate::names::DeviceName;
use std::path::Path;

/// Not there in a kernel without IPv6.
pub(super) const CONF: &str = "/proc/sys/net/ipv6/conf";
pub(super) const FORWARD: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Whether a device speaks IPv6.
pub(super) fn speaks(name: &DeviceName) -> bool {
    std::fs::read_to_string(of(name.as_str(), "disable_ipv6")).is_ok_and(|text| text.trim() == "0")
}

/// It speaks it, by the addresses that it is given alone: none of its own making, and it hears no router.
pub(super) fn speak(name: &DeviceName) -> Result<(), HostError> {
    let set = |what: &str, value: &str| switch(&of(name.as_str(), what), value);
    for (what, value) in
        [("addr_gen_mode", "1"), ("accept_ra", "0"), ("accept_redirects", "0"), ("accept_dad", "0"), ("autoconf", "0")]
    {
        set(what, value)?;
    }
    set("disable_ipv6", "0")
}

/// It does not, and loses what it had of it.
pub(super) fn hush(name: &DeviceName) -> Result<(), HostError> {
    let path = of(name.as_str(), "disable_ipv6");
    if Path::new(&path).exists() { switch(&path, "1") } else { Ok(()) }
}

/// The kernel passes packets of IPv6 on. It would then forget the routers that it heard of, and hear of none any more:
/// devices that listen to routers go on to (`accept_ra` 2).
pub(super) fn forward() -> Result<(), HostError> {
    for device in std::fs::read_dir(CONF)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let path = of(&device, "accept_ra");
        if device != "all" && is_on(&path) {
            switch(&path, "2")?;
        }
    }
    switch(FORWARD, "1")
}

fn of(device: &str, what: &str) -> String {
    format!("{CONF}/{device}/{what}")
}
