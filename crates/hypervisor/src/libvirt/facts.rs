//! What libvirt on this host makes machines of, asked once for each of its lives.
//!
//! Owns: reading its capabilities. Refuses: documents with entities or beyond sense, and to guess.

use crate::HypervisorError;
use perigee_libvirt::{Connection, Error, Version};
use perigee_model::Acceleration;
use roxmltree::{Document, Node};

/// The family of machines; libvirt says which version of it is the newest here.
const MACHINE: &str = "q35";
/// Named models that can be migrated, best first, for a processor that is emulated. The first ones
/// are what today's distributions want at least (x86-64-v2).
const EMULATED_MODELS: [&str; 3] = ["Westmere", "Nehalem", "qemu64"];

/// What is the same for all guests of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// QEMU's and libvirt's versions, for people.
    pub version: String,
    /// How guests are executed.
    pub acceleration: Acceleration,
    /// A machine of a fixed version, so that a guest can go to another host: `pc-q35-10.0`.
    pub machine: String,
    /// The processor under emulation. Under KVM libvirt names the host's own.
    pub emulated_model: String,
    /// libvirt finds a UEFI firmware by itself.
    pub uefi: bool,
    /// There is a TPM emulator.
    pub tpm: bool,
    /// User and group that QEMU runs as.
    pub qemu_user: (u32, u32),
    /// An emulated TPM's state is removed with its own flag (libvirt 8.9 and newer).
    pub undefines_tpm: bool,
}

impl Facts {
    /// Asks libvirt. `hardware`: the processor runs guests itself.
    pub async fn ask(libvirt: &Connection, hardware: bool) -> Result<FactTexts, Error> {
        let (qemu, own) = (libvirt.version().await?, libvirt.library_version().await?);
        let host = libvirt.capabilities().await?;
        let acceleration = if hardware && offers_kvm(&host) { Acceleration::Kvm } else { Acceleration::Tcg };
        let domain = libvirt.domain_capabilities(MACHINE, kind(acceleration)).await?;
        Ok(FactTexts { qemu, own, acceleration, host, domain })
    }
}

/// libvirt's word for how a guest is executed.
pub fn kind(acceleration: Acceleration) -> &'static str {
    match acceleration {
        Acceleration::Kvm => "kvm",
        Acceleration::Tcg | Acceleration::Simulated => "qemu",
    }
}

/// libvirt's answers, not read yet.
#[derive(Clone, Debug)]
pub struct FactTexts {
    qemu: Version,
    own: Version,
    acceleration: Acceleration,
    host: String,
    domain: String,
}

impl FactTexts {
    /// Reads them.
    ///
    /// # Errors
    /// `Channel` for what is no answer.
    pub fn read(&self) -> Result<Facts, HypervisorError> {
        let bad = |what: &str| HypervisorError::Channel(format!("libvirt's capabilities: {what}"));
        let domain = Document::parse(&self.domain).map_err(|error| bad(&error.to_string()))?;
        let host = Document::parse(&self.host).map_err(|error| bad(&error.to_string()))?;
        let machine = text(&domain, "machine").ok_or_else(|| bad("no machine"))?;
        let usable = |wanted: &&str| {
            let mut models = domain.descendants().filter(|node| node.has_tag_name("model"));
            models.any(|model| model.text() == Some(*wanted) && model.attribute("usable") == Some("yes"))
        };
        let model = EMULATED_MODELS.iter().find(|model| usable(model)).unwrap_or(&EMULATED_MODELS[2]);
        Ok(Facts {
            version: format!("{} (libvirt {})", self.qemu, self.own),
            acceleration: self.acceleration,
            machine,
            emulated_model: (*model).to_owned(),
            uefi: has_choice(&domain, "firmware", "efi"),
            tpm: has_choice(&domain, "backendModel", "emulator"),
            qemu_user: dac_user(&host).unwrap_or((0, 0)),
            undefines_tpm: (self.own.major, self.own.minor) >= (8, 9),
        })
    }
}

fn offers_kvm(text: &str) -> bool {
    let Ok(host) = Document::parse(text) else { return false };
    host.descendants().any(|node| node.has_tag_name("domain") && node.attribute("type") == Some("kvm"))
}

fn text(document: &Document<'_>, name: &str) -> Option<String> {
    let mut found = document.root_element().children().filter(|node| node.has_tag_name(name));
    found.next()?.text().map(str::to_owned)
}

/// `<enum name='…'><value>…</value></enum>`
fn has_choice(document: &Document<'_>, name: &str, wanted: &str) -> bool {
    let mut enums = document.descendants().filter(|node| node.attribute("name") == Some(name));
    enums.any(|node| node.children().any(|value| value.has_tag_name("value") && value.text() == Some(wanted)))
}

/// `<secmodel><model>dac</model>…<baselabel type='kvm'>+64055:+64055</baselabel></secmodel>`
fn dac_user(host: &Document<'_>) -> Option<(u32, u32)> {
    let has = |node: &Node<'_, '_>, name, wanted| {
        node.children().any(|child| child.has_tag_name(name) && child.text() == Some(wanted))
    };
    let model = host.descendants().find(|node| node.has_tag_name("secmodel") && has(node, "model", "dac"))?;
    let label = model.children().find(|node| node.has_tag_name("baselabel"))?.text()?;
    let (user, group) = label.split_once(':')?;
    let number = |text: &str| text.trim_start_matches('+').parse().ok();
    Some((number(user)?, number(group)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(domain: &str, host: &str) -> FactTexts {
        let version = |major, minor| Version { major, minor, release: 0 };
        let (domain, host) = (domain.to_owned(), host.to_owned());
        FactTexts { qemu: version(10, 0), own: version(8, 9), acceleration: Acceleration::Tcg, host, domain }
    }

    #[test]
    fn what_libvirt_offers_is_read() {
        let domain = "<domainCapabilities><machine>pc-q35-10.0</machine><os><enum name='firmware'>\
            <value>efi</value></enum></os><cpu><mode><model usable='no'>Westmere</model>\
            <model usable='yes'>Nehalem</model></mode></cpu><devices><tpm><enum name='backendModel'>\
            <value>passthrough</value></enum></tpm></devices></domainCapabilities>";
        let host = "<capabilities><host><secmodel><model>none</model></secmodel><secmodel><model>dac</model>\
            <doi>0</doi><baselabel type='kvm'>+64055:+109</baselabel></secmodel></host></capabilities>";
        let facts = texts(domain, host).read().unwrap();
        assert_eq!((facts.machine.as_str(), facts.emulated_model.as_str()), ("pc-q35-10.0", "Nehalem"));
        assert_eq!((facts.uefi, facts.tpm, facts.qemu_user, facts.undefines_tpm), (true, false, (64055, 109), true));
        assert_eq!(facts.version, "10.0.0 (libvirt 8.9.0)");
    }

    #[test]
    fn what_is_no_answer_is_told() {
        let bomb = "<!DOCTYPE a [<!ENTITY b 'b'>]><a>&b;</a>";
        for domain in ["", "<a/>", "<a>", bomb] {
            let read = texts(domain, "<capabilities/>").read();
            assert!(matches!(read, Err(HypervisorError::Channel(_))), "{domain}: {read:?}");
        }
        assert!(!offers_kvm("<guest><domain type='qemu'/></guest>") && !offers_kvm("<"));
        assert!(offers_kvm("<guest><domain type='qemu'/><domain type='kvm'/></guest>"));
    }
}
