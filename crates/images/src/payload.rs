//! The kernel inside a bzImage.
//!
//! A bzImage unpacks itself, and under emulation that takes a sixth of the boot (measured: 2.22 s, and
//! 1.87 s for the ELF inside, same initramfs). The ELF is also the only form Firecracker takes. QEMU
//! starts it through its PVH note; what is lost is the bzImage's random placement (no KASLR).
//!
//! Formats: Documentation/arch/x86/boot.rst in Linux (`setup_sects` at 0x1f1, `HdrS` at 0x202,
//! `payload_offset` at 0x248, `payload_length` at 0x24c), LZ4's legacy frame (magic 0x184c2102, then
//! blocks of a length and at most 8 MiB of content). The kernel's build appends the length of the
//! content. Deliberately absent: other compressions; the caller boots the bzImage then.

const LZ4_LEGACY: u32 = 0x184c_2102;
const BLOCK_BYTES_MAX: usize = 8 << 20;
/// A kernel larger than this is not one.
const KERNEL_BYTES_MAX: usize = 256 << 20;
const ELF: &[u8] = b"\x7fELF";

/// The ELF kernel inside, or `None` when this is not a bzImage that holds one in LZ4.
pub fn vmlinux(bzimage: &[u8]) -> Option<Vec<u8>> {
    if bzimage.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match *bzimage.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = ((setup_sectors + 1) * 512).checked_add(u32_at(bzimage, 0x248)? as usize)?;
    let payload = bzimage.get(start..start.checked_add(u32_at(bzimage, 0x24c)? as usize)?)?;
    let (packed, size) = payload.split_at_checked(payload.len().checked_sub(4)?)?;
    let size = u32_at(size, 0)? as usize;
    let unpacked = unpack_legacy(packed, size)?;
    (unpacked.starts_with(ELF) && unpacked.len() == size).then_some(unpacked)
}

fn unpack_legacy(mut packed: &[u8], size: usize) -> Option<Vec<u8>> {
    if u32_at(packed, 0)? != LZ4_LEGACY || size > KERNEL_BYTES_MAX {
        return None;
    }
    packed = &packed[4..];
    let mut out = Vec::with_capacity(size);
    let mut block = vec![0; BLOCK_BYTES_MAX];
    while !packed.is_empty() {
        let length = u32_at(packed, 0)? as usize;
        let content = packed.get(4..length.checked_add(4)?)?;
        let unpacked = lz4_flex::block::decompress_into(content, &mut block).ok()?;
        out.extend_from_slice(&block[..unpacked]);
        if out.len() > size {
            return None;
        }
        packed = &packed[4 + length..];
    }
    Some(out)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bzimage(kernel: &[u8]) -> Vec<u8> {
        let mut packed = LZ4_LEGACY.to_le_bytes().to_vec();
        for block in kernel.chunks(BLOCK_BYTES_MAX) {
            let content = lz4_flex::block::compress(block);
            packed.extend((content.len() as u32).to_le_bytes());
            packed.extend(content);
        }
        packed.extend((kernel.len() as u32).to_le_bytes());
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        image.extend([0; 16]);
        image.extend(packed);
        image
    }

    fn kernel() -> Vec<u8> {
        let mut kernel = ELF.to_vec();
        kernel.resize((8 << 20) + 77, 7); // two blocks
        kernel
    }

    #[test]
    fn the_kernel_inside_is_found() {
        assert_eq!(vmlinux(&bzimage(&kernel())), Some(kernel()));
    }

    #[test]
    fn what_is_no_elf_kernel_is_left_alone() {
        assert_eq!(vmlinux(&bzimage(b"no ELF")), None);
        assert_eq!(vmlinux(b"short"), None);
        let mut wrong_size = bzimage(&kernel());
        let last = wrong_size.len() - 4;
        wrong_size[last] ^= 1;
        assert_eq!(vmlinux(&wrong_size), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0x250..3000), magic: bool) {
            bytes[0x202..0x206].copy_from_slice(b"HdrS");
            bytes[0x1f1] = 1;
            bytes[0x248..0x250].copy_from_slice(&[0, 0, 0, 0, 255, 0, 0, 0]);
            if magic && bytes.len() > 1028 {
                bytes[1024..1028].copy_from_slice(&LZ4_LEGACY.to_le_bytes());
            }
            prop_assert!(vmlinux(&bytes).is_none());
        }
    }
}
