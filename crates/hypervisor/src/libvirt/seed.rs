//! The NoCloud seed: a small disk labelled CIDATA with what cloud-init reads at first boot.
//!
//! Owns: its files and the disk around them. The same inputs give the same bytes.
//! Refuses: to look into the user's own user-data.
//!
//! Format: cloud-init, reference/datasources/nocloud; JSON is YAML.

use crate::work::room_or_os;
use crate::{HypervisorError, Nic};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Room for the file system itself and for small files.
const LEAST_BYTES: usize = 1 << 20;
const LABEL: [u8; 11] = *b"CIDATA     ";

/// What a guest is told.
#[derive(Clone, Debug)]
pub struct Seed<'a> {
    /// Another id makes cloud-init start anew.
    pub instance_id: String,
    /// The guest's host name.
    pub hostname: &'a str,
    /// Public keys of its first user.
    pub ssh_keys: &'a [String],
    /// Its card, when it has one.
    pub card: Option<Card>,
    /// As the user wrote it.
    pub user_data: &'a [u8],
}

/// A card, as its guest is told of it.
#[derive(Clone, Debug)]
pub enum Card {
    /// Somebody on its network gives its address; the hardware address.
    Leased(String),
    /// It has this address.
    Given(Nic),
}

impl Card {
    fn config(&self) -> Value {
        match self {
            Self::Leased(mac) => serde_json::json!({ "match": { "macaddress": mac }, "dhcp4": true }),
            Self::Given(nic) => nic.cloud_config(),
        }
    }
}

/// cloud-init takes a network's configuration at an instance's first boot alone, unless it is told: one that comes out
/// of a backup goes on as who it was, with another address.
const AT_EACH_BOOT: &str = "#cloud-config\nupdates:\n  network:\n    when: [boot-new-instance, boot]\n";

impl Seed<'_> {
    fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let meta = serde_json::json!({
            "instance-id": self.instance_id, "local-hostname": self.hostname, "public-keys": self.ssh_keys,
        });
        let cards = self
            .card
            .as_ref()
            .map_or_else(|| serde_json::json!({}), |card| serde_json::json!({ "lan": card.config() }));
        let network = serde_json::json!({ "version": 2, "ethernets": cards });
        let mut files = vec![
            ("meta-data", format!("{meta}\n").into_bytes()),
            ("user-data", self.user_data.to_vec()),
            ("network-config", format!("{network}\n").into_bytes()),
        ];
        if let Some(Card::Given(_)) = &self.card {
            files.push(("vendor-data", AT_EACH_BOOT.as_bytes().to_vec()));
        }
        files
    }

    /// Formats the file and fills it. It is as long as it has to be and mostly holes.
    fn format(&self, disk: &File) -> io::Result<()> {
        let files = self.files();
        let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
        disk.set_len((LEAST_BYTES + bytes * 2).next_multiple_of(1 << 20) as u64)?;
        let options = FormatVolumeOptions::new().volume_label(LABEL).volume_id(0);
        fatfs::format_volume(disk, options)?;
        let system = FileSystem::new(disk, FsOptions::new())?;
        for (name, text) in files {
            system.root_dir().create_file(name)?.write_all(&text)?;
        }
        if system.fat_type() == FatType::Fat32 {
            return Err(io::Error::other("user-data is too large for a seed"));
        }
        system.unmount()
    }

    /// Writes the disk, whole or not at all; only its owner may read it. Blocks.
    ///
    /// # Errors
    /// `NoRoom` on a full disk, `Os`.
    pub fn write(&self, path: &Path) -> Result<(), HypervisorError> {
        let new = path.with_extension("new");
        let mut options = File::options();
        options.create(true).truncate(true).read(true).write(true).mode(0o600);
        let written = options.open(&new).and_then(|file| {
            self.format(&file)?;
            file.sync_all()
        });
        let kept = written.and_then(|()| fs::rename(&new, path));
        kept.map_err(room_or_os(format!("writing {}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Read};
    use std::os::unix::fs::PermissionsExt;

    fn seed<'a>(keys: &'a [String], user_data: &'a [u8]) -> Seed<'a> {
        let card = Some(Card::Leased("52:54:00:00:00:01".to_owned()));
        Seed { instance_id: "i-1".into(), hostname: "web-1", ssh_keys: keys, card, user_data }
    }

    fn read(disk: &[u8], name: &str) -> Vec<u8> {
        let system = FileSystem::new(Cursor::new(disk.to_vec()), FsOptions::new()).unwrap();
        assert_eq!(system.volume_label_as_bytes(), b"CIDATA");
        let mut text = Vec::new();
        system.root_dir().open_file(name).unwrap().read_to_end(&mut text).unwrap();
        text
    }

    #[test]
    fn who_was_given_an_address_is_told_it_at_each_boot() {
        let folder = tempfile::tempdir().unwrap();
        let (address, gateway) = ([172, 16, 0, 2].into(), [172, 16, 0, 1].into());
        let (tap, mac) = ("tap0".to_owned(), perigee_model::Mac::of_address(address));
        let nic = Nic { tap, mac, address, network_bits: 24, gateway, names: Some(gateway), six: None };
        let path = folder.path().join("seed");
        Seed { card: Some(Card::Given(nic)), ..seed(&[], b"") }.write(&path).unwrap();
        let disk = fs::read(path).unwrap();
        let network = serde_json::from_slice::<Value>(&read(&disk, "network-config")).unwrap();
        assert_eq!(
            network["ethernets"]["lan"],
            serde_json::json!({
                "match": { "macaddress": "52:54:00:10:00:02" }, "dhcp4": false, "dhcp6": false,
                "addresses": ["172.16.0.2/24"], "routes": [{ "to": "0.0.0.0/0", "via": "172.16.0.1" }],
                "nameservers": { "addresses": ["172.16.0.1"] },
            })
        );
        assert!(read(&disk, "vendor-data").starts_with(b"#cloud-config\nupdates:\n"));
    }

    #[test]
    fn the_files_are_there_and_what_is_in_them_is_text() {
        let keys = vec!["ssh-ed25519 AAAA \"quoted\": yes".to_owned()];
        let user_data = b"#cloud-config\nruncmd: [true]\n".repeat(2000);
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str| {
            let path = folder.path().join(name);
            seed(&keys, &user_data).write(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::read(path).unwrap()
        };
        let disk = written("seed");
        assert_eq!(read(&disk, "user-data"), user_data);
        let json = |name| serde_json::from_slice::<serde_json::Value>(&read(&disk, name)).unwrap();
        assert_eq!(json("meta-data")["public-keys"][0], keys[0].as_str());
        assert_eq!(json("meta-data")["local-hostname"], "web-1");
        assert_eq!(json("network-config")["ethernets"]["lan"]["match"]["macaddress"], "52:54:00:00:00:01");
        assert_eq!(disk.len(), 2 << 20);
        assert_eq!(disk, written("again"), "the same inputs, the same bytes");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }
}
