//! A domain's whole life by our calls, each beside what `virsh` says.

use crate::daemon::Daemon;
use perigee_libvirt::{
    AddressSource, Connection, Domain, Endpoint, Error, EventKind, Events, Happened, Lifecycle, Notice, State, affect,
    codes, create, define, shutdown, undefine,
};
use std::time::Duration;

const URI: &str = "urn:perigee:test";

async fn open(daemon: &Daemon) -> Connection {
    Connection::open(&Endpoint::Unix(daemon.socket()), Some("qemu:///system"), 0).await.unwrap()
}

fn code<T: std::fmt::Debug>(said: Result<T, Error>) -> i32 {
    match said {
        Err(Error::Libvirt { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

async fn until(events: &mut Events, wanted: Lifecycle) {
    let waiting = async {
        loop {
            if let Notice::Event(event) = events.next().await.unwrap()
                && matches!(event.happened, Happened::Lifecycle(step, _) if step == wanted)
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("{wanted:?} never came"));
}

#[tokio::test]
async fn real_a_life_agrees_with_virsh() {
    let daemon = Daemon::start();
    let libvirt = open(&daemon).await;
    let mut events = libvirt.events(&[EventKind::Lifecycle], None).await.unwrap();
    let xml = daemon.xml("one");
    let one = libvirt.define(&xml, define::VALIDATE).await.unwrap();
    assert_eq!((one.name.as_str(), one.id), ("one", None));
    assert_ne!(code(libvirt.define("<domain", 0).await), 0);
    assert_eq!(daemon.virsh(&["list", "--all", "--uuid"]), one.uuid.to_string());
    let unknown = libvirt.define(&xml.replace("<devices>", "<sugar/><devices>"), define::VALIDATE).await;
    assert!(matches!(&unknown, Err(Error::Libvirt { message, .. }) if message.contains("sugar")), "{unknown:?}");
    assert_eq!(code(libvirt.destroy(&one).await), codes::NOT_NOW, "it does not run");

    autostart(&daemon, &libvirt, &one).await;
    metadata(&daemon, &libvirt, &one).await;
    let running = libvirt.create(&one, create::PAUSED | create::FORCE_BOOT).await.unwrap();
    assert!(running.id.is_some());
    assert_eq!(code(libvirt.create(&one, 0).await), codes::NOT_NOW, "it runs");
    assert_eq!(daemon.virsh(&["domstate", "one"]), "paused");
    libvirt.resume(&running).await.unwrap();
    assert_eq!(code(libvirt.resume(&running).await), codes::NOT_NOW, "it runs");
    assert_eq!(daemon.virsh(&["domstate", "one"]), "running");
    libvirt.suspend(&running).await.unwrap();
    libvirt.suspend(&running).await.expect("twice is fine");
    assert_eq!(libvirt.domain_state(&running).await.unwrap().0, State::Paused);
    libvirt.resume(&running).await.unwrap();
    libvirt.shutdown(&running, shutdown::ACPI).await.unwrap();
    assert_ne!(code(libvirt.shutdown(&running, shutdown::AGENT).await), 0, "it has no agent");
    libvirt.reboot(&running, shutdown::ACPI).await.unwrap();
    assert_eq!(libvirt.interfaces(&running, AddressSource::Lease).await.unwrap(), []);

    libvirt.destroy(&running).await.unwrap();
    until(&mut events, Lifecycle::Stopped).await;
    assert_eq!(daemon.virsh(&["domstate", "one"]), "shut off");
    let all = undefine::MANAGED_SAVE | undefine::SNAPSHOTS | undefine::NVRAM | undefine::CHECKPOINTS | undefine::TPM;
    libvirt.undefine(&one, all).await.unwrap();
    until(&mut events, Lifecycle::Undefined).await;
    assert_eq!(daemon.virsh(&["list", "--all", "--name"]), "");
    assert_eq!(code(libvirt.undefine(&one, all).await), codes::NO_DOMAIN);
}

async fn autostart(daemon: &Daemon, libvirt: &Connection, one: &Domain) {
    let said = || daemon.virsh(&["list", "--all", "--autostart", "--name"]);
    assert!(!libvirt.autostart(one).await.unwrap() && said().is_empty());
    libvirt.set_autostart(one, true).await.unwrap();
    assert!(libvirt.autostart(one).await.unwrap() && said() == "one");
    libvirt.set_autostart(one, false).await.unwrap();
    assert!(!libvirt.autostart(one).await.unwrap());
}

async fn metadata(daemon: &Daemon, libvirt: &Connection, one: &Domain) {
    assert_eq!(code(libvirt.metadata(one, URI, affect::CONFIG).await), codes::NO_METADATA);
    let name = ("p", URI);
    libvirt.set_metadata(one, Some("<guest a='1'>x &amp; y</guest>"), name, affect::CONFIG).await.unwrap();
    let read = libvirt.metadata(one, URI, affect::CONFIG).await.unwrap();
    assert_eq!(read.trim(), daemon.virsh(&["metadata", "one", URI, "--config"]));
    assert!(read.contains("x &amp; y"), "{read}");
    libvirt.set_metadata(one, Some("<guest>2</guest>"), name, affect::CONFIG).await.unwrap();
    assert_eq!(libvirt.metadata(one, URI, 0).await.unwrap().trim(), "<guest>2</guest>");
    assert_ne!(code(libvirt.set_metadata(one, Some("<guest>"), name, affect::CONFIG).await), 0, "no element");
    libvirt.set_metadata(one, None, name, affect::CONFIG).await.unwrap();
    assert_eq!(code(libvirt.metadata(one, URI, 0).await), codes::NO_METADATA);
}

#[tokio::test]
async fn real_networks_and_abilities_agree_with_virsh() {
    let daemon = Daemon::start();
    let libvirt = open(&daemon).await;
    assert_eq!(libvirt.networks().await.unwrap(), []);
    assert_eq!(code(libvirt.network_by_name("lab").await), codes::NO_NETWORK);
    daemon.define_network("lab", "10.99.0");
    let lab = libvirt.network_by_name("lab").await.unwrap();
    assert_eq!(libvirt.networks().await.unwrap(), std::slice::from_ref(&lab));
    assert_eq!(daemon.virsh(&["net-uuid", "lab"]), lab.uuid.to_string());
    assert!(!libvirt.network_is_active(&lab).await.unwrap());
    libvirt.start_network(&lab).await.unwrap();
    assert_eq!(code(libvirt.start_network(&lab).await), codes::NOT_NOW, "it is up");
    assert!(libvirt.network_is_active(&lab).await.unwrap());
    assert_eq!(daemon.virsh(&["net-list", "--name"]), "lab");
    daemon.virsh(&["net-destroy", "lab"]);
    assert!(!libvirt.network_is_active(&lab).await.unwrap());

    let said = libvirt.domain_capabilities("q35", "qemu").await.unwrap();
    assert_eq!(said.trim(), daemon.virsh(&["domcapabilities", "--machine", "q35", "--virttype", "qemu"]));
    assert_ne!(code(libvirt.domain_capabilities("nonsense", "qemu").await), 0);
}
