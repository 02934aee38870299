//! What runs guests: KVM, QEMU, libvirt, cgroups.

use super::Check;
use super::probe::{program, text, version, writable};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

const LIBVIRT_SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];

/// Hardware virtualisation. Without it guests run in QEMU's translator, TCG.
pub fn kvm() -> Check {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop).map_err(|e| e.kind());
    kvm_finding(opened, flags_of(&text("/proc/cpuinfo")))
}

fn flags_of(cpuinfo: &str) -> Option<&'static str> {
    let line = cpuinfo.lines().find(|l| l.starts_with("flags"))?;
    ["vmx", "svm"].into_iter().find(|flag| line.split_whitespace().any(|word| word == *flag))
}

fn kvm_finding(opened: Result<(), ErrorKind>, flag: Option<&str>) -> Check {
    const SLOW: &str = "guests will run under TCG, slowly";
    match (opened, flag) {
        (Ok(()), Some(flag)) => Check::ok("kvm", format!("/dev/kvm opens and the CPU has {flag}")),
        (_, None) => Check::warn(
            "kvm",
            format!("the CPU shows neither vmx nor svm; {SLOW}"),
            "enable virtualisation in the firmware, or nested virtualisation on the machine below",
        ),
        (Err(ErrorKind::NotFound), Some(_)) => {
            Check::warn("kvm", format!("there is no /dev/kvm; {SLOW}"), "modprobe kvm_intel || modprobe kvm_amd")
        }
        (Err(ErrorKind::PermissionDenied), Some(_)) => {
            Check::warn("kvm", format!("/dev/kvm may not be opened; {SLOW}"), "usermod -aG kvm USER, and log in again")
        }
        (Err(kind), Some(_)) => {
            Check::warn("kvm", format!("/dev/kvm does not open ({kind}); {SLOW}"), "dmesg | grep -i kvm")
        }
    }
}

/// What boots microVMs.
pub async fn qemu(search_path: &OsStr) -> Check {
    let name = format!("qemu-system-{}", std::env::consts::ARCH);
    let fix = "apt-get install qemu-system-x86";
    let Some(file) = program(&name, search_path) else {
        return Check::fail("qemu", format!("{name} is not installed"), fix);
    };
    match version(&file).await {
        Some(said) => {
            let number = said.split_whitespace().skip_while(|w| *w != "version").nth(1).unwrap_or(&said).to_owned();
            Check::ok("qemu", format!("{} {number}", file.display()))
        }
        None => Check::fail("qemu", format!("{} does not say its version", file.display()), fix),
    }
}

/// What runs full VMs, at this socket if one is set.
pub fn libvirt(socket: Option<&Path>) -> Check {
    let usual = || LIBVIRT_SOCKETS.iter().map(Path::new).find(|path| path.exists());
    match socket.or_else(usual).map(|path| (path, path.display())) {
        Some((path, shown)) if UnixStream::connect(path).is_ok() => Check::ok("libvirt", format!("{shown} answers")),
        Some((_, shown)) => Check::warn(
            "libvirt",
            format!("{shown} does not answer; needed for full VMs"),
            "systemctl restart libvirtd",
        ),
        None => Check::warn(
            "libvirt",
            "no socket; needed for full VMs, not for sandboxes",
            "apt-get install libvirt-daemon-system",
        ),
    }
}

/// What bounds guests.
pub fn cgroup() -> Check {
    let there = |path: &str| Path::new(path).exists();
    let v2 = there("/sys/fs/cgroup/cgroup.controllers");
    let hybrid = there("/sys/fs/cgroup/unified/cgroup.controllers");
    let v1 = there("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    let memory_in_v2 =
        text("/sys/fs/cgroup/cgroup.controllers").split_whitespace().any(|controller| controller == "memory");
    let (kind, can) = match (v2, hybrid, v1) {
        (true, ..) => ("v2", memory_in_v2 && writable("/sys/fs/cgroup/cgroup.procs")),
        (false, true, true) => ("hybrid, memory in v1", writable("/sys/fs/cgroup/memory")),
        (false, false, true) => ("v1", writable("/sys/fs/cgroup/memory")),
        (false, true, false) => ("hybrid without a memory controller", false),
        (false, false, false) => ("not mounted", false),
    };
    if can {
        return Check::ok("cgroup", format!("{kind}; the memory controller is writable"));
    }
    let fix = "run as root, outside a container that mounts cgroups read-only";
    Check::warn("cgroup", format!("{kind}; the memory controller cannot be used, guests get no memory limit"), fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Grade;

    #[test]
    fn kvm_needs_the_device_and_the_flag() {
        let flags = "processor : 0\nflags\t\t: fpu vme svm sse\n";
        assert_eq!(flags_of(flags), Some("svm"));
        assert_eq!(flags_of("flags : fpu xsvm\n"), None);
        assert_eq!(kvm_finding(Ok(()), Some("svm")).grade, Grade::Ok);
        for opened in [Ok(()), Err(ErrorKind::NotFound), Err(ErrorKind::PermissionDenied)] {
            let check = kvm_finding(opened, None);
            assert!(check.grade == Grade::Warn && check.finding.contains("TCG") && check.fix.is_some());
        }
        assert!(kvm_finding(Err(ErrorKind::PermissionDenied), Some("vmx")).fix.unwrap().contains("usermod"));
    }
}
