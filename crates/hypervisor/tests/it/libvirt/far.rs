//! A libvirtd that is reached by `ssh`: a guest of it through the driver, where its files can be reached
//! from both ends, and a refusal where they cannot.

use super::LibvirtLab;
use super::seats::heard;
use crate::cases::open;
use crate::contract::Lab;
use perigee_hypervisor::libvirt::{Libvirt, LibvirtConfig};
use perigee_hypervisor::{Hypervisor, HypervisorError, Seat};
use perigee_libvirt::{Endpoint, Ssh};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

/// The lab's libvirtd, behind a stand-in for `ssh` that enters its mounts.
fn behind_ssh(lab: &LibvirtLab) -> LibvirtConfig {
    let usual = lab.daemon.socket().parent().unwrap().join("run/libvirt/libvirt-sock");
    std::os::unix::fs::symlink(lab.daemon.socket(), usual).unwrap();
    let program = lab.root.path().join("ssh");
    let script = format!("#!/bin/sh\nfor last; do :; done\nexec nsenter -m -t {} sh -c \"$last\"\n", lab.daemon.pid());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let endpoint = Endpoint::Ssh(Ssh { program, ..Ssh::new("far.example") });
    LibvirtConfig { endpoint, ..lab.config(&lab.own) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_guest_of_a_libvirt_behind_ssh() {
    let lab = LibvirtLab::new().await;
    let driver = Libvirt::new(behind_ssh(&lab)).unwrap();
    let plan = lab.plan();
    driver.start(&plan).await.unwrap();
    let session = open(&lab, &driver, plan.guest).await;
    drop(session);
    let mut serial = driver.console().unwrap().sit(plan.guest, Seat::Serial).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut serial, b"\r").await.unwrap();
    heard(&mut serial, "/ # ").await;
    drop(serial);
    let found = driver.inventory().await.unwrap();
    assert_eq!(found.iter().map(|found| (found.guest, found.alive)).collect::<Vec<_>>(), [(plan.guest, true)]);
    driver.halt().unwrap().halt(plan.guest, Duration::from_secs(60)).await.unwrap();
    assert!(!driver.inventory().await.unwrap()[0].alive);
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(driver.inventory().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_libvirt_that_cannot_reach_our_files_runs_nothing_and_says_why() {
    let lab = LibvirtLab::new().await;
    let config = behind_ssh(&lab);
    let pid = lab.daemon.pid().to_string();
    std::fs::create_dir_all(&config.dir).unwrap();
    // Over there, nothing is where our disks are.
    let hidden =
        Command::new("nsenter").args(["-m", "-t", &pid, "mount", "-t", "tmpfs", "none"]).arg(&config.dir).status();
    assert!(hidden.unwrap().success());
    let driver = Libvirt::new(config).unwrap();
    let plan = lab.plan();
    let told = driver.start(&plan).await.unwrap_err();
    assert!(matches!(&told, HypervisorError::BadPlan(text) if text.contains("another machine")), "{told:?}");
    assert_eq!(driver.inventory().await.unwrap(), [], "nothing is left");
}
