//! A disk that boots by BIOS and by UEFI, written as a file.
//!
//! ```text
//! sector 0      GRUB's first sector, the partition table (MBR)
//! sector 1      GRUB's core for BIOS
//! 1 MiB         partition 1: FAT, EFI/BOOT/BOOTX64.EFI (EFI system partition)
//! 8 MiB         partition 2: ext4, the root; the last, so that it can grow with the disk
//! ```
//! Both cores look for the root by its label and do what `/boot/grub/grub.cfg` says.

use super::tree::ROOT_LABEL;
use crate::error::ImageError;
use crate::tool::run;
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use std::fs::File;
use std::io::{self, Cursor, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use tokio::process::Command;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
const ESP_AT: u64 = MIB;
const ROOT_AT: u64 = 8 * MIB;
const GRUB: &str = "/usr/lib/grub";
/// Of the first sector, before the disk's signature and the table.
const BOOT_CODE_BYTES: usize = 440;
const TABLE_AT: u64 = 446;
/// Beside what is in it: the file system's own, and room to begin with.
const FREE_BYTES: u64 = 1 << 30;
const LEAST_BYTES: u64 = 2 << 30;
const MODULES: [&str; 9] =
    ["part_msdos", "ext2", "search", "search_label", "linux", "normal", "configfile", "boot", "minicmd"];

/// Partition types (UEFI specification 2.10, 5.2.2; the other by convention).
const TYPE_ESP: u8 = 0xEF;
const TYPE_LINUX: u8 = 0x83;

/// Makes the disk of that tree.
///
/// # Errors
/// `Tool`, `NoSpace`, `Io`.
pub(super) async fn make(root: &Path, disk: &Path) -> Result<(), ImageError> {
    let place = disk.parent().unwrap_or(disk);
    let bytes = size(used(root).await?);
    let file = ext4(root, disk, ROOT_AT, bytes).await?;

    let early = place.join("early.cfg");
    let text = format!(
        "search --no-floppy --label --set=root {ROOT_LABEL}\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n"
    );
    tokio::fs::write(&early, text).await.map_err(ImageError::io(&early))?;
    let bios = core("i386-pc", &["biosdisk"], &early, &place.join("bios")).await?;
    let efi = core("x86_64-efi", &["fat", "efi_gop"], &early, &place.join("efi")).await?;
    let first = tokio::fs::read(format!("{GRUB}/i386-pc/boot.img")).await.map_err(ImageError::io(Path::new(GRUB)))?;
    write(&file, bytes, &first, &bios, &efi).map_err(ImageError::io(disk))
}

/// Makes a disk that is nothing but the file system of that tree.
///
/// # Errors
/// `Tool`, `NoSpace`, `Io`.
pub(super) async fn make_root(root: &Path, disk: &Path) -> Result<(), ImageError> {
    let file = ext4(root, disk, 0, size(used(root).await?)).await?;
    file.sync_all().map_err(ImageError::io(disk))
}

/// How much the files of a tree take up.
async fn used(root: &Path) -> Result<u64, ImageError> {
    let used = run(Command::new("du").args(["--summarize", "--block-size=1"]).arg(root)).await?;
    Ok(used.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0))
}

/// A new file of that size with the tree's file system from `at` to its end.
async fn ext4(root: &Path, disk: &Path, at: u64, bytes: u64) -> Result<File, ImageError> {
    let file = File::options().create_new(true).write(true).open(disk).map_err(ImageError::io(disk))?;
    file.set_len(bytes).map_err(ImageError::io(disk))?;
    let mut mke2fs = Command::new("mke2fs");
    // What the guest's own programs and older GRUBs do not know is left out.
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^orphan_file,^metadata_csum_seed", "-L", ROOT_LABEL, "-d"]).arg(root);
    mke2fs.args(["-E", &format!("offset={at}")]).arg(disk).arg(format!("{}k", (bytes - at) / 1024));
    run(mke2fs.current_dir(disk.parent().unwrap_or(disk))).await?;
    Ok(file)
}

/// Whole GiB.
fn size(used: u64) -> u64 {
    (used + used / 5 + FREE_BYTES + ROOT_AT).max(LEAST_BYTES).next_multiple_of(1 << 30)
}

async fn core(platform: &str, modules: &[&str], early: &Path, to: &Path) -> Result<Vec<u8>, ImageError> {
    let mut command = Command::new("grub-mkimage");
    command.args(["-O", platform, "-p", "/boot/grub", "-c"]).arg(early).arg("-o").arg(to);
    command.args(MODULES).args(modules).current_dir(early.parent().unwrap_or(early));
    run(&mut command).await?;
    tokio::fs::read(to).await.map_err(ImageError::io(to))
}

fn write(disk: &File, bytes: u64, first: &[u8], bios: &[u8], efi: &[u8]) -> io::Result<()> {
    let too_large = || io::Error::other("GRUB's core does not fit before the first partition");
    if bios.len() as u64 > ESP_AT - SECTOR || first.len() < BOOT_CODE_BYTES {
        return Err(too_large());
    }
    disk.write_all_at(&first[..BOOT_CODE_BYTES], 0)?;
    disk.write_all_at(&table(bytes), TABLE_AT)?;
    disk.write_all_at(bios, SECTOR)?;
    disk.write_all_at(&esp(efi)?, ESP_AT)?;
    disk.sync_all()
}

/// The two partitions and the end of the sector.
fn table(bytes: u64) -> [u8; 66] {
    let mut table = [0; 66];
    let parts = [(0, TYPE_ESP, ESP_AT, ROOT_AT - ESP_AT), (0x80, TYPE_LINUX, ROOT_AT, bytes - ROOT_AT)];
    for (place, (active, kind, at, length)) in parts.into_iter().enumerate() {
        // Cylinders, heads and sectors are what a disk of this size cannot have.
        let sector = |bytes: u64| u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX).to_le_bytes();
        let entry = &mut table[place * 16..][..16];
        entry[..8].copy_from_slice(&[active, 0xFE, 0xFF, 0xFF, kind, 0xFE, 0xFF, 0xFF]);
        entry[8..12].copy_from_slice(&sector(at));
        entry[12..].copy_from_slice(&sector(length));
    }
    table[64..].copy_from_slice(&[0x55, 0xAA]);
    table
}

/// The EFI system partition.
fn esp(core: &[u8]) -> io::Result<Vec<u8>> {
    let length = usize::try_from(ROOT_AT - ESP_AT).map_err(io::Error::other)?;
    let mut part = Cursor::new(vec![0; length]);
    let options = FormatVolumeOptions::new().volume_label(*b"PERIGEE-ESP").volume_id(0);
    fatfs::format_volume(&mut part, options)?;
    {
        let system = FileSystem::new(&mut part, FsOptions::new())?;
        let boot = system.root_dir().create_dir("EFI")?.create_dir("BOOT")?;
        boot.create_file("BOOTX64.EFI")?.write_all(core)?;
    }
    Ok(part.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_disk_is_whole_gibibytes_with_room_to_begin_with() {
        assert_eq!(size(0), 2 << 30);
        assert_eq!(size(500 * MIB), 2 << 30);
        assert_eq!(size(900 * MIB), 3 << 30);
        assert!(size(10 << 30) >= 13 << 30);
    }

    #[test]
    fn its_parts_are_where_the_table_says() {
        let file = tempfile::tempfile().unwrap();
        let bytes = 2 << 30;
        file.set_len(bytes).unwrap();
        let (first, bios, efi) = (vec![1; 512], vec![2; 100_000], vec![3; 300_000]);
        write(&file, bytes, &first, &bios, &efi).unwrap();
        let mut head = vec![0; 1024];
        file.read_exact_at(&mut head, 0).unwrap();
        assert_eq!((head[439], head[440], head[510], head[511], head[512]), (1, 0, 0x55, 0xAA, 2));
        let entry = |place: usize| &head[446 + place * 16..][..16];
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(
            (entry(0)[0], entry(0)[4], number(&entry(0)[8..12]), number(&entry(0)[12..])),
            (0, 0xEF, 2048, 14336)
        );
        assert_eq!((entry(1)[0], entry(1)[4], number(&entry(1)[8..12])), (0x80, 0x83, 16384));
        assert_eq!(u64::from(number(&entry(1)[12..])) * SECTOR, bytes - ROOT_AT);
        let mut part = vec![0; usize::try_from(ROOT_AT - ESP_AT).unwrap()];
        file.read_exact_at(&mut part, ESP_AT).unwrap();
        let system = FileSystem::new(Cursor::new(part), FsOptions::new()).unwrap();
        let mut found = Vec::new();
        system.root_dir().open_file("EFI/BOOT/BOOTX64.EFI").unwrap().read_to_end(&mut found).unwrap();
        assert_eq!(found, efi);
        assert!(write(&file, bytes, &first, &vec![0; 2 << 20], &efi).is_err(), "it would lie over a partition");
    }
}
