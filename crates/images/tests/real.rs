//! `base` out of Debian's own packages, booted by QEMU: needs apt, an archive and qemu-system-x86.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use perigee_images::{BaseBuild, BuiltImage, KernelSource, build_base};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A busybox stands in for perigee-guest: the kernel starts a shell instead of /init.
fn recipe() -> BaseBuild {
    // Kept between runs, so that only the first downloads.
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("base");
    BaseBuild::new(work, "/bin/busybox")
}

async fn built(recipe: &BaseBuild) -> BuiltImage {
    build_base(recipe, &mut |_| {}).await.unwrap_or_else(|e| panic!("{e}"))
}

/// What the guest printed. Emulated, so that it runs everywhere; time is counted in instructions, so
/// that a busy machine cannot spoil the kernel's calibration of its clock.
async fn boot(image: &BuiltImage, script: &str) -> String {
    let append =
        format!("console=ttyS0 quiet reboot=t panic=-1 cryptomgr.notests rdinit=/bin/sh -- -c \"{script}; reboot -f\"");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "microvm,isa-serial=on,rtc=on,x-option-roms=off", "-bios", "/usr/share/qemu/qboot.rom"])
        .args([
            "-accel",
            "tcg",
            "-icount",
            "shift=auto,sleep=on",
            "-m",
            "256",
            "-smp",
            "1",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&image.parts[0].path)
        .arg("-initrd")
        .arg(&image.parts[1].path)
        .args(["-append", &append])
        .stdin(Stdio::null());
    let run = tokio::process::Command::from(qemu).kill_on_drop(true).output();
    let done = tokio::time::timeout(Duration::from_secs(60), run).await.expect("the guest ends within a minute");
    String::from_utf8_lossy(&done.expect("qemu-system-x86: scripts/setup installs it").stdout).replace('\r', "")
}

#[tokio::test]
async fn real_base_boots_its_own_kernel_and_loads_its_modules() {
    let image = built(&recipe()).await;
    assert!(built(&recipe()).await.cached, "the second build does nothing");
    let kernel = std::fs::read(&image.parts[0].path).unwrap();
    assert!(kernel.starts_with(b"\x7fELF"), "Debian's bzImage holds an ELF kernel");
    let load = "mount -t proc proc /proc; for m in $(cat /etc/perigee/modules); do insmod $m || echo failed $m; done";
    let said = boot(&image, &format!("{load}; wc -l < /proc/modules; uname -r")).await;
    assert!(said.contains(&format!("\n{}\n", image.kernel_release)), "{said}");
    assert!(!said.contains("failed"), "{said}");
}

/// A named package gives what apt's gives.
#[tokio::test]
async fn real_base_from_a_package_file_is_the_same() {
    let by_apt = built(&recipe()).await;
    let downloads = recipe().work.join("downloads");
    let package = std::fs::read_dir(downloads).unwrap().next().unwrap().unwrap().path();
    let home = tempfile::tempdir().unwrap();
    let by_file = BaseBuild { work: home.path().join("work"), kernel: KernelSource::Package(package), ..recipe() };
    let image = built(&by_file).await;
    let parts = |image: &BuiltImage| image.parts.iter().map(|part| part.part.clone()).collect::<Vec<_>>();
    assert_eq!(parts(&image), parts(&by_apt));
}
