//! A libvirtd that is reached by `ssh` or by TLS: a guest of it through the driver, where its files can be
//! reached from both ends, and a refusal where they cannot.

use super::LibvirtLab;
use super::seats::heard;
use crate::cases::open;
use crate::contract::Lab;
use crate::daemon::{Daemon, QemuUser};
use nix::sched::{CloneFlags, setns};
use perigee_hypervisor::libvirt::{Libvirt, LibvirtConfig};
use perigee_hypervisor::{Hypervisor, HypervisorError, Seat};
use perigee_libvirt::{Endpoint, Ssh, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
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

/// The certificates of both ends in this folder, and the daemon's settings that name them.
fn certified(folder: &Path) -> (Tls, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    for who in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join(format!("{who}cert.pem")), params.signed_by(&key, &authority).unwrap().pem())
            .unwrap();
        std::fs::write(folder.join(format!("{who}key.pem")), key.serialize_pem()).unwrap();
    }
    let settings = format!(
        "listen_tls = 1\nauth_tls = \"none\"\nlisten_addr = \"127.0.0.1\"\nca_file = \"{0}/ca.pem\"\n\
         cert_file = \"{0}/servercert.pem\"\nkey_file = \"{0}/serverkey.pem\"\n",
        folder.display()
    );
    let tls = Tls {
        authority: folder.join("ca.pem"),
        certificate: folder.join("clientcert.pem"),
        key: folder.join("clientkey.pem"),
        ..Tls::new("localhost", None)
    };
    (tls, settings)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_guest_of_a_libvirt_behind_ssh() {
    let lab = LibvirtLab::new().await;
    let driver = Libvirt::new(behind_ssh(&lab)).unwrap();
    lives(&lab, &driver).await;
}

/// Its port is in the daemon's own network, and so is all that this thread starts.
#[test]
fn real_a_guest_of_a_libvirt_behind_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, settings) = certified(folder.path());
    let daemon = Daemon::start_with(QemuUser::Root, &settings);
    let network = File::open(format!("/proc/{}/ns/net", daemon.pid())).unwrap();
    setns(&network, CloneFlags::CLONE_NEWNET).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let lab = LibvirtLab::with(daemon).await;
        let stranger = Tls { certificate: folder.path().join("none.pem"), ..tls.clone() };
        let config = LibvirtConfig { endpoint: Endpoint::Tls(stranger), ..lab.config(&lab.own) };
        let refused = Libvirt::new(config).unwrap().inventory().await.unwrap_err();
        assert!(refused.to_string().contains("none.pem") || format!("{refused:?}").contains("none.pem"), "{refused:?}");
        let driver = Libvirt::new(LibvirtConfig { endpoint: Endpoint::Tls(tls), ..lab.config(&lab.own) }).unwrap();
        lives(&lab, &driver).await;
    });
}

/// Started, spoken to by both of its ways, stopped, removed.
async fn lives(lab: &LibvirtLab, driver: &Libvirt) {
    let plan = lab.plan();
    driver.start(&plan).await.unwrap();
    let session = open(lab, driver, plan.guest).await;
    drop(session);
    let mut serial = driver.console().unwrap().sit(plan.guest, Seat::Serial).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut serial, b"\r").await.unwrap();
    heard(&mut serial, "/ # ").await;
    drop(serial);
    let found = driver.inventory().await.unwrap();
    assert_eq!(found.iter().map(|found| (found.guest, found.alive)).collect::<Vec<_>>(), [(plan.guest, true)]);
    tells_of_its_machine(lab, driver).await;
    driver.halt().unwrap().halt(plan.guest, Duration::from_secs(60)).await.unwrap();
    assert!(!driver.inventory().await.unwrap()[0].alive);
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(driver.inventory().await.unwrap(), []);
}

/// Of one that is another; of this one its collectors tell.
async fn tells_of_its_machine(lab: &LibvirtLab, driver: &Libvirt) {
    let near = lab.libvirt();
    near.measure().unwrap().usages().await.unwrap();
    assert_eq!(near.measure().unwrap().node().await.unwrap(), None);
    let told = driver.measure().unwrap().node().await.unwrap().unwrap();
    assert_eq!(told.name, lab.daemon.virsh(&["hostname"]));
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = meminfo.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(told.memory_bytes, Some(kib * 1024));
    let times = [told.user_ns, told.system_ns, told.idle_ns, told.iowait_ns];
    assert!(times.iter().all(Option::is_some) && told.free_bytes < told.memory_bytes, "{told:?}");
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
