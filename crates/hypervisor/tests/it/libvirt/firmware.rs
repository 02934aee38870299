//! What a VM boots by, beside its BIOS and an image's own kernel.

use super::LibvirtLab;
use super::seats::heard;
use crate::contract::Lab;
use perigee_hypervisor::Seat;
use perigee_model::{Firmware, PartRole};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_an_empty_disk_leaves_uefi_in_its_shell() {
    let lab = LibvirtLab::new().await;
    let (driver, mut plan) = (lab.driver(), lab.plan());
    plan.vm.as_mut().unwrap().firmware = Firmware::Uefi;
    plan.parts = vec![(PartRole::Iso, lab.root.path().join("install.iso"))];
    std::fs::write(&plan.parts[0].1, bootable("of a BIOS only")).unwrap();
    driver.start(&plan).await.unwrap();
    let mut serial = driver.console().unwrap().sit(plan.guest, Seat::Serial).await.unwrap();
    // It came past the firmware's signatures: nothing of ours is signed by Microsoft.
    heard(&mut serial, "UEFI Interactive Shell").await;
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new(), "what its firmware remembered goes with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_an_installation_medium_boots_where_the_disk_is_empty_and_finds_the_tpm() {
    let lab = LibvirtLab::new().await;
    let (driver, mut plan) = (lab.driver(), lab.plan());
    plan.vm.as_mut().unwrap().tpm = true;
    plan.parts = vec![(PartRole::Iso, lab.root.path().join("install.iso"))];
    std::fs::write(&plan.parts[0].1, bootable("its BIOS says of a TPM: ")).unwrap();
    driver.start(&plan).await.unwrap();
    let mut serial = driver.console().unwrap().sit(plan.guest, Seat::Serial).await.unwrap();
    heard(&mut serial, "of a TPM: TCPA").await;
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new(), "what its TPM remembered goes with it");
}

/// A CD without files whose boot image says this on the first serial port, 18 times a second, and behind
/// it what the BIOS answers about its TPM: `TCPA`, or nothing. El Torito Bootable CD-ROM Format
/// Specification 1.0: boot record in sector 17, catalogue, one image without emulation. TCG PC Client
/// Implementation for Conventional BIOS, 13.6: interrupt 1Ah, function BB00h.
fn bootable(says: &str) -> Vec<u8> {
    const SECTOR: usize = 2048;
    const TEXT: u16 = 0x7c2f;
    let mut disc = vec![0; SECTOR * 21];
    let mut put = |sector: usize, at: usize, bytes: &[u8]| {
        disc[sector * SECTOR + at..][..bytes.len()].copy_from_slice(bytes);
    };
    put(16, 0, b"\x01CD001\x01");
    put(17, 0, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17, 0x47, &19u32.to_le_bytes());
    put(18, 0, b"\xffCD001\x01");
    // The validation entry's words add up to zero.
    put(19, 0, &[1]);
    put(19, 0x1c, &[0xaa, 0x55, 0x55, 0xaa]);
    // Bootable, no emulation, loaded to its usual place, four sectors of 512 bytes, from here.
    put(19, 0x20, &[0x88, 0, 0, 0, 0, 0, 4, 0, 20, 0, 0, 0]);
    let answer = (TEXT + u16::try_from(says.len()).unwrap()).to_le_bytes();
    let program = [
        &[0x31, 0xc0, 0x8e, 0xd8, 0xfc][..],                   // ds = 0, forwards
        &[0x66, 0x31, 0xdb, 0xb8, 0x00, 0xbb, 0xcd, 0x1a],     // ebx = 0; ax = bb00h; int 1ah
        &[0x66, 0x89, 0x1e, answer[0], answer[1]],             // behind the text: ebx
        &[0xbe, TEXT.to_le_bytes()[0], TEXT.to_le_bytes()[1]], // again: si = text
        &[0xac, 0x84, 0xc0, 0x74, 0x11],                       // next: al = [si++]; if 0, rest
        &[0x88, 0xc4],                                         // ah = al
        &[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb],     // until the port has room
        &[0xb2, 0xf8, 0x88, 0xe0, 0xee],                       // to the port
        &[0xeb, 0xea],                                         // next
        &[0xfb, 0xf4, 0xeb, 0xe3],                             // rest: wait for the clock; again
    ];
    put(20, 0, &[&program.concat(), says.as_bytes()].concat());
    disc
}
