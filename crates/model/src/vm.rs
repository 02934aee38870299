//! What a full VM has beyond what every guest has.

use crate::backup::Origin;
use crate::limits::{
    LABEL_CHARS_MAX, SSH_KEY_BYTES_MAX, SSH_KEYS_MAX, VM_DESCRIPTION_BYTES_MAX, VM_DISK_BYTES_MAX, VM_DISK_BYTES_MIN,
    VM_METADATA_BYTES_MAX, VM_METADATA_MAX, VOLUMES_PER_GUEST_MAX,
};
use crate::{Name, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The wishes of a full VM. Fixed at creation but for `description`, `metadata`, `restart`,
/// `start_order` and `volumes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmSpec {
    /// For people.
    pub description: String,
    /// What its owner's own programs keep with it: kept and shown, never searched by, unlike labels.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Size of its disk: an overlay of the image's disk, or an empty one where the image has none.
    /// `None`: the image's own size, or no disk at all.
    pub disk_bytes: Option<u64>,
    /// The network of the host's libvirt that its one card is on; `None`: no card, or one on the host's own network
    /// of guests ([`egress`](crate::GuestSpec::egress)).
    pub network: Option<Name>,
    /// Address of that card; unused of one on the host's own network.
    pub mac: Mac,
    /// Public keys that its first user lets in, as in `authorized_keys`.
    pub ssh_keys: Vec<String>,
    /// What it boots by.
    pub firmware: Firmware,
    /// With an emulated TPM 2.0.
    pub tpm: bool,
    /// What becomes of it when it ends by itself, or its host was switched off.
    pub restart: RestartPolicy,
    /// Guests of a host with a lower number start before others when the host comes up.
    pub start_order: u32,
    /// It was here before us and was taken over: its definition is its owner's, and `release`
    /// leaves it as it was.
    #[serde(default)]
    pub adopted: bool,
    /// The backup that its disk begins as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What is attached to it, in the order in which it came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeId>,
}

/// What a VM boots by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// SeaBIOS, or the image's kernel directly where it has one.
    #[default]
    Bios,
    /// UEFI (OVMF).
    Uefi,
}

/// What becomes of a VM that ends without having been told to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// It is started again, also when the guest turned itself off.
    Always,
    /// It is started again unless the guest turned itself off.
    #[default]
    OnFailure,
    /// It stays as it is.
    Never,
}

impl RestartPolicy {
    /// Whether one that ended is started again; `clean`: the guest turned itself off.
    pub fn starts_again(self, clean: bool) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => !clean,
            Self::Never => false,
        }
    }
}

/// A hardware address (IEEE 802).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// A local unicast address of these bits: QEMU's prefix 52:54:00 and 24 of them.
    pub fn from_bits(bits: u32) -> Self {
        let [_, a, b, c] = bits.to_be_bytes();
        Self([0x52, 0x54, 0x00, a, b, c])
    }

    /// That of a card on a host's own network of guests: it goes with the address, and so is unique there and known
    /// without asking.
    pub fn of_address(address: std::net::Ipv4Addr) -> Self {
        Self::from_bits(address.to_bits())
    }
}
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}
impl TryFrom<String> for Mac {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "a hardware address is six hexadecimal bytes with colons, and not a group's";
        let mut bytes = [0; 6];
        let mut words = text.split(':');
        for byte in &mut bytes {
            let digits = |w: &&str| w.len() == 2 && w.bytes().all(|b| b.is_ascii_hexdigit());
            let word = words.next().filter(digits).ok_or(wrong)?;
            *byte = u8::from_str_radix(word, 16).map_err(|_| wrong)?;
        }
        let group = bytes[0] & 1 == 1;
        if words.next().is_some() || group { Err(wrong) } else { Ok(Self(bytes)) }
    }
}

impl VmSpec {
    /// It asks for what an image that brings its own kernel cannot have: such a kernel is entered past
    /// the firmware (and QEMU 10 lays it over the tables that would tell of a TPM).
    pub fn wants_firmware(&self) -> bool {
        self.firmware == Firmware::Uefi || self.tpm
    }

    /// Says what is wrong with the request itself, if anything is: (JSON field, text).
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if let Some(fault) = description_fault(&self.description) {
            return Some(("description", fault));
        }
        if let Some(fault) = metadata_fault(&self.metadata) {
            return Some(("metadata", fault));
        }
        let disks = VM_DISK_BYTES_MIN..=VM_DISK_BYTES_MAX;
        if let Some(bytes) = self.disk_bytes.filter(|b| !disks.contains(b) || !b.is_multiple_of(1 << 20)) {
            let text = format!(
                "disk_bytes is a multiple of 1 MiB between {VM_DISK_BYTES_MIN} and {VM_DISK_BYTES_MAX}, not {bytes}"
            );
            return Some(("disk_bytes", text));
        }
        if self.volumes.len() > VOLUMES_PER_GUEST_MAX {
            return Some(("volumes", format!("at most {VOLUMES_PER_GUEST_MAX} volumes")));
        }
        if self.ssh_keys.len() > SSH_KEYS_MAX {
            return Some(("ssh_keys", format!("at most {SSH_KEYS_MAX} keys")));
        }
        let whole = |key: &String| key.len() <= SSH_KEY_BYTES_MAX && is_public_key(key);
        if !self.ssh_keys.iter().all(whole) {
            let text = "an SSH key is one line of authorized_keys: its type, its base64 and a comment";
            return Some(("ssh_keys", text.to_owned()));
        }
        None
    }
}

/// Says what is wrong with a description: it is text for people, on lines of their own.
pub fn description_fault(text: &str) -> Option<String> {
    if text.len() > VM_DESCRIPTION_BYTES_MAX {
        return Some(format!("a description has at most {VM_DESCRIPTION_BYTES_MAX} bytes"));
    }
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t' || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.contains(bad).then(|| "a description has no control characters".to_owned())
}

/// Says what is wrong with metadata.
pub fn metadata_fault(metadata: &BTreeMap<String, String>) -> Option<String> {
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if metadata.len() > VM_METADATA_MAX || bytes > VM_METADATA_BYTES_MAX {
        return Some(format!("at most {VM_METADATA_MAX} entries and {VM_METADATA_BYTES_MAX} bytes together"));
    }
    let key_fits = |key: &String| (1..=LABEL_CHARS_MAX).contains(&key.len()) && !key.chars().any(char::is_control);
    let all_fit = metadata.keys().all(key_fits);
    (!all_fit).then(|| format!("a key has 1 to {LABEL_CHARS_MAX} bytes and no control characters"))
}

/// `ssh-ed25519 AAAA… comment`; a key with options of its own is refused.
fn is_public_key(line: &str) -> bool {
    let mut words = line.split(' ');
    let kind = words
        .next()
        .is_some_and(|kind| kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-"));
    let base64 = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
    let body = words.next().is_some_and(|word| word.len() >= 16 && base64(word));
    kind && body && !line.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let mac = Mac::from_bits(0xff01_0aff);
        assert_eq!(mac.to_string(), "52:54:00:01:0a:ff");
        assert_eq!(Mac::try_from(mac.to_string()), Ok(mac));
        for bad in
            ["", "52:54:00:01:0a", "52:54:00:01:0a:ff:00", "53:54:00:01:0a:ff", "5:54:00:01:0a:ff", "+1:54:00:01:0a:ff"]
        {
            assert!(Mac::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_tell_a_crash_from_a_shutdown() {
        let of = |policy: RestartPolicy| (policy.starts_again(true), policy.starts_again(false));
        assert_eq!(of(RestartPolicy::Always), (true, true));
        assert_eq!(of(RestartPolicy::OnFailure), (false, true));
        assert_eq!(of(RestartPolicy::Never), (false, false));
    }

    #[test]
    fn what_cannot_be_a_vm_is_refused() {
        let good = VmSpec {
            description: "mail & <more>\nsecond line".into(),
            metadata: [("ticket".to_owned(), "{\"id\": 7}\n".to_owned())].into(),
            disk_bytes: Some(20 << 30),
            network: None,
            mac: Mac::from_bits(1),
            ssh_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF me@here".into()],
            firmware: Firmware::Bios,
            tpm: false,
            restart: RestartPolicy::Always,
            start_order: 0,
            adopted: false,
            origin: None,
            volumes: Vec::new(),
        };
        let fault = |change: fn(&mut VmSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            spec.fault().map(|(field, _)| field)
        };
        assert_eq!(fault(|_| {}), None);
        assert_eq!(fault(|s| s.description = "\u{0}".into()), Some("description"));
        assert_eq!(fault(|s| s.description = "\u{1b}[2J".into()), Some("description"));
        assert_eq!(fault(|s| s.description = "x".repeat(5000)), Some("description"));
        assert_eq!(fault(|s| s.metadata = [(String::new(), String::new())].into()), Some("metadata"));
        assert_eq!(fault(|s| s.metadata = [("a\n".into(), String::new())].into()), Some("metadata"));
        assert_eq!(fault(|s| s.metadata = [("k".into(), "x".repeat(17 << 10))].into()), Some("metadata"));
        let many = |s: &mut VmSpec| s.metadata = (0..65).map(|i| (format!("k{i}"), String::new())).collect();
        assert_eq!(fault(many), Some("metadata"));
        assert_eq!(fault(|s| s.disk_bytes = Some(1)), Some("disk_bytes"));
        assert_eq!(fault(|s| s.disk_bytes = Some(u64::MAX)), Some("disk_bytes"));
        assert_eq!(fault(|s| s.disk_bytes = Some((1 << 30) + 1)), Some("disk_bytes"));
        assert_eq!(fault(|s| s.ssh_keys = vec!["not a key".into()]), Some("ssh_keys"));
        assert_eq!(fault(|s| s.ssh_keys = vec!["ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB\nevil".into()]), Some("ssh_keys"));
        assert_eq!(fault(|s| s.ssh_keys = vec![s.ssh_keys[0].clone(); 100]), Some("ssh_keys"));
    }
}
