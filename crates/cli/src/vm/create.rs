//! `vm create`: the whole wish in one line.

use super::brought::{self, Missing};
use super::{Policy, shown};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::units::{parse_bytes, parse_pair, show_bytes};
use clap::{Args, ValueEnum};
use perigee_api::{VmPlanView, VmRequest};

/// What kind of machine.
#[derive(Clone, Debug, Args)]
pub struct CreateOptions {
    /// Its name and host name [default: made up]
    name: Option<String>,
    /// Name or id of an image, or a name in the catalogue, from which it is imported then [default: base]
    #[arg(long)]
    image: Option<String>,
    /// Refuse when there is no such image yet
    #[arg(long)]
    no_import: bool,
    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory, like 2GiB [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Size of its disk, like 20GiB [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    disk: Option<u64>,
    /// A card on its host's own network, and what may be reached by it: none, all, or a place like example.com:443; may
    /// be repeated [default: no card]
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["network", "mac"])]
    egress: Vec<String>,
    /// A card on this network of its host's libvirt instead, like default
    #[arg(long)]
    network: Option<String>,
    /// Hardware address of a card on --network [default: made up]
    #[arg(long)]
    mac: Option<String>,
    /// Public key that its first user lets in: the key itself or @FILE
    #[arg(long, value_name = "KEY|@FILE", value_parser = text_or_file)]
    ssh_key: Vec<String>,
    /// For its cloud-init: the text itself or @FILE
    #[arg(long, value_name = "TEXT|@FILE", value_parser = text_or_file)]
    user_data: Option<String>,
    /// What it boots by [default: bios]
    #[arg(long, value_enum)]
    firmware: Option<Firmware>,
    /// With an emulated TPM 2.0
    #[arg(long)]
    tpm: bool,
    /// When it ends by itself [default: on-failure]
    #[arg(long, value_enum)]
    restart: Option<Policy>,
    /// When its host comes up, guests with a lower number are up before it [default: 0]
    #[arg(long, value_name = "N")]
    start_order: Option<u32>,
    /// For people
    #[arg(long)]
    description: Option<String>,
    /// Keep something with it that is yours to read
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    /// A mark
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    label: Vec<(String, String)>,
    /// Only this host will do
    #[arg(long)]
    host: Option<String>,
    /// Print the task's id instead of waiting
    #[arg(long)]
    no_wait: bool,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "no_wait")]
    dry_run: bool,
}

/// What it boots by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Firmware {
    /// SeaBIOS, or the image's kernel directly
    Bios,
    /// UEFI
    Uefi,
}

/// The text itself, or `@FILE`'s, without the line end that editors add to one line.
fn text_or_file(text: &str) -> Result<String, String> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let read = std::fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    let one_line = read.trim_end_matches('\n');
    Ok(if one_line.contains('\n') { read } else { one_line.to_owned() })
}

impl CreateOptions {
    fn request(self) -> VmRequest {
        let firmware = self.firmware.map(|firmware| match firmware {
            Firmware::Bios => "bios".to_owned(),
            Firmware::Uefi => "uefi".to_owned(),
        });
        VmRequest {
            name: self.name,
            kind: None,
            image: self.image,
            cpus: self.cpus,
            memory_bytes: self.memory,
            ttl_ms: None,
            env: Default::default(),
            labels: self.label.into_iter().collect(),
            host: self.host,
            priority: None,
            description: self.description,
            metadata: self.metadata.into_iter().collect(),
            disk_bytes: self.disk,
            egress: (!self.egress.is_empty()).then_some(self.egress),
            network: self.network,
            mac: self.mac,
            ssh_keys: self.ssh_key,
            user_data: self.user_data,
            firmware,
            tpm: self.tpm.then_some(true),
            restart: self.restart.map(Policy::word),
            start_order: self.start_order,
        }
    }
}

/// Makes it, or says what would be made.
pub async fn run(session: &Session, options: CreateOptions) -> Result<Exit, Failure> {
    let (no_wait, dry_run, no_import) = (options.no_wait, options.dry_run, options.no_import);
    let what = format!("starting {}", options.name.as_deref().unwrap_or("a virtual machine"));
    let mut request = options.request();
    let client = session.client()?;
    if dry_run {
        match client.plan_vm(&request).await {
            Ok(plan) => session.out.text(&told(&plan))?,
            Err(error) => match brought::missing(session, &request, error, no_import).await? {
                Missing::Here(image) => {
                    request.image = Some(image);
                    session.out.text(&told(&client.plan_vm(&request).await?))?;
                }
                Missing::Published(entry) => session.out.text(&format!("{}\n", brought::told(&entry, "would be")))?,
            },
        }
        return Ok(Exit::OK);
    }
    let made = match client.create_vm(&request, None).await {
        Ok(made) => made,
        Err(error) => {
            let missing = brought::missing(session, &request, error, no_import).await?;
            request.image = Some(brought::image(session, missing).await?);
            client.create_vm(&request, None).await?
        }
    };
    shown(session, made, no_wait, &what).await
}

/// The plan in words.
fn told(plan: &VmPlanView) -> String {
    let guest = &plan.vm.guest;
    let place = plan.host.as_ref().map_or("wait for room".to_owned(), |host| format!("go to {host}"));
    let mut lines = vec![
        format!("{} would be made from {} and {place}", guest.name, guest.image),
        format!("  {} CPUs, {} memory", guest.cpus, show_bytes(guest.memory_bytes)),
    ];
    if let Some(vm) = &plan.vm.vm {
        lines.push(match vm.disk_bytes {
            Some(bytes) => format!("  a disk of {}", show_bytes(bytes)),
            None => "  the image's own disk, if it has one".to_owned(),
        });
        lines.push(match (&guest.egress, &vm.network) {
            (Some(places), _) => format!("  a card that reaches {}", places.join(" ")),
            (None, Some(network)) => format!("  a card {} on {network}", vm.mac.as_deref().unwrap_or_default()),
            (None, None) => "  no card".to_owned(),
        });
        lines.push(format!("  boots by {}, when it ends by itself: {}", vm.firmware, vm.restart));
    }
    lines.extend(plan.placement.iter().map(|host| format!("  {}: {}", host.host, host.reason)));
    if let Some(rules) = &plan.rules {
        lines.push(format!("\n{}", rules.trim_end()));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_from_files_where_asked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pub");
        std::fs::write(&file, "ssh-ed25519 AAAA me\n").unwrap();
        let path = format!("@{}", file.display());
        assert_eq!(text_or_file(&path).as_deref(), Ok("ssh-ed25519 AAAA me"));
        std::fs::write(&file, "#cloud-config\nusers: []\n").unwrap();
        assert_eq!(text_or_file(&path).as_deref(), Ok("#cloud-config\nusers: []\n"));
        assert_eq!(text_or_file("as it is").as_deref(), Ok("as it is"));
        assert!(text_or_file("@/nowhere").is_err());
    }
}
