//! The processes of our guests' VMMs: libvirt has no call that tells them.
//!
//! Owns: reading `/proc` (proc(5)). Told for people and for looking closer; nothing is killed by it.

use perigee_model::GuestId;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use uuid::Uuid;

/// libvirt's argument before a domain's UUID.
const MARK: &[u8] = b"-uuid";
/// Arguments are read up to here; libvirt's stand in the first few KiB.
const ARGUMENTS_BYTES_MAX: u64 = 64 << 10;

/// The processes of these guests, as far as they run on this host.
pub fn of(guests: &[GuestId]) -> BTreeMap<GuestId, u32> {
    let mut found = BTreeMap::new();
    if guests.is_empty() {
        return found;
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let guest = domain(&entry.path()).map(GuestId::new).filter(|guest| guests.contains(guest));
        found.extend(guest.map(|guest| (guest, pid)));
    }
    found
}

fn domain(process: &Path) -> Option<Uuid> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(process.join("cmdline")).ok()?;
    file.take(ARGUMENTS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let mut arguments = bytes.split(|byte| *byte == 0);
    let program = Path::new(std::str::from_utf8(arguments.next()?).ok()?).file_name()?.to_str()?;
    if !program.contains("qemu") {
        return None;
    }
    arguments.find(|argument| *argument == MARK)?;
    Uuid::try_parse_ascii(arguments.next()?).ok()
}
