//! QEMU's tools on the disk of a guest that is off, as Debian's packages set libvirt up.

use super::LibvirtLab;
use crate::cases::{exited, open, run};
use crate::contract::Lab;
use crate::daemon::{Daemon, QemuUser};
use bytes::Bytes;
use perigee_hypervisor::{BackupWish, Backups, HypervisorError, OpenDisk, Plan};
use perigee_model::{BackupId, GuestId, PartRole};
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

const FIRST: Uuid = Uuid::from_u128(1);

/// The process of this program that works on this file.
fn working_on(program: &str, file: &Path) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words[0].ends_with(program) && words.iter().any(|word| *word == file.to_string_lossy())
    })
}

fn owner(file: &Path) -> (u32, u32) {
    let found = fs::metadata(file).unwrap();
    (found.uid(), found.gid())
}

async fn show(backups: &dyn Backups, lab: &LibvirtLab, guest: GuestId) -> Result<OpenDisk, HypervisorError> {
    backups.open_disk(guest, &BackupWish { backup: BackupId::new(lab.clock.uuid()), bases: vec![] }).await
}

async fn all_of(disk: &mut OpenDisk) -> String {
    let (mut at, mut text) = (0, String::new());
    while let Some((begins, length)) = disk.bytes_of.next_stretch(at).await.unwrap() {
        let bytes = disk.bytes_of.read(begins, u32::try_from(length).unwrap()).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes));
        at = begins + length;
    }
    text.replace('\0', "")
}

/// A guest above an image, which has written a word, and is off.
async fn off(lab: &LibvirtLab) -> (Plan, PathBuf) {
    let (driver, mut plan, image) = (lab.driver(), lab.plan(), lab.image());
    fs::File::options().write(true).open(&image).unwrap().write_all_at(b"of the image", 512 << 10).unwrap();
    plan.parts.push((PartRole::Disk, image));
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    let write = run(&*session, FIRST, &["sh", "-c", "echo of the guest | dd of=/dev/vda conv=fsync 2>/dev/null"]).await;
    assert_eq!(write.1, exited(0));
    driver.halt().unwrap().halt(plan.guest, Duration::from_secs(60)).await.unwrap();
    let disk = lab.config(&lab.own).dir.join(format!("{}/disk.qcow2", plan.guest));
    (plan, disk)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_disk_that_is_off_is_shown_by_qemus_own_user() {
    let lab = LibvirtLab::with(Daemon::start_as(QemuUser::Packaged)).await;
    fs::set_permissions(lab.root.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let (plan, disk) = off(&lab).await;
    let (driver, before) = (lab.driver(), owner(&disk));
    let backups = driver.backups().unwrap();
    // The host was started anew since: nothing is left in /run.
    fs::remove_dir_all(lab.config(&lab.own).run_dir.join(plan.guest.uuid().simple().to_string())).unwrap();

    let mut shown = show(backups, &lab, plan.guest).await.unwrap();
    let pid = working_on("qemu-nbd", &disk).expect("it shows the disk");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(!field("Uid:").starts_with("0\t") && field("NoNewPrivs:") == "1", "{status}");
    assert_eq!((field("CapEff:"), field("CapBnd:")), ("0".repeat(16), "0".repeat(16)));
    let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).unwrap();
    assert_ne!(network(&pid.to_string()), network("self"));
    assert_eq!(owner(&disk), before, "it has it open, and the file is whose it was");
    assert_eq!(all_of(&mut shown).await, "of the guest\nof the image");
    drop(shown);
    let ended = async {
        while working_on("qemu-nbd", &disk).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it ends when nobody holds it");

    let restored = GuestId::new(lab.clock.uuid());
    let mut coming = backups.new_disk(restored, 1 << 20).await.unwrap().expect("it has none");
    coming.write(4096, Bytes::from_static(b"come back")).await.unwrap();
    coming.finish().await.unwrap();
    let whole = disk.parent().unwrap().with_file_name(restored.to_string()).join("disk.qcow2");
    assert_eq!((owner(&whole), fs::metadata(&whole).unwrap().mode() & 0o777), (before, 0o600));
    driver.destroy(restored).await.unwrap();
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new());
}

/// What a QEMU that its guest broke out of may have written into the disk's header is followed by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_disk_that_names_a_file_of_the_host_is_used_for_nothing() {
    let lab = LibvirtLab::new().await;
    let (plan, disk) = off(&lab).await;
    let driver = lab.driver();
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "secret".repeat(1000)).unwrap();
    let mut rebase = Command::new("qemu-img");
    rebase.args(["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b"]).args([secret.path(), &disk]);
    assert!(rebase.status().unwrap().success());
    let refused = |doing: &str, error: Option<HypervisorError>| {
        let told = matches!(&error, Some(HypervisorError::Tampered(text)) if text.contains("no image of this host"));
        assert!(told, "{doing}: {error:?}");
    };
    refused("backup", show(driver.backups().unwrap(), &lab, plan.guest).await.err());
    refused("start", driver.start(&plan).await.err());
    assert_eq!(owner(secret.path()), (0, 0), "libvirt has not given it to QEMU");
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new());
}
