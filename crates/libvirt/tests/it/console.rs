//! A real guest's serial port through a real libvirtd. The guest is 75 bytes in a boot sector: it says
//! "ready", and then everything that it hears; after a `!` it says `x` until it hears something.

use crate::daemon::Daemon;
use perigee_libvirt::{Connection, Domain, Endpoint, Error, Stream, console};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const DEADLINE: Duration = Duration::from_secs(60);

/// 16-bit code for 0x7c00: ports 0x3f8 (data) and 0x3fd (line status) of the first serial port.
#[rustfmt::skip]
const BOOT: [u8; 75] = [
    0x31, 0xc0, 0x8e, 0xd8,                          // xor ax, ax; mov ds, ax
    0xbe, 0x44, 0x7c,                                // mov si, text
    0xac, 0x84, 0xc0, 0x74, 0x05,                    // print: lodsb; test al, al; jz echo
    0xe8, 0x26, 0x00, 0xeb, 0xf6,                    // call put; jmp print
    0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf8,  // echo: mov dx, 3fd; in al, dx; test al, 1; jz echo
    0xba, 0xf8, 0x03, 0xec, 0x3c, 0x21, 0x74, 0x05,  // mov dx, 3f8; in al, dx; cmp al, '!'; je flood
    0xe8, 0x11, 0x00, 0xeb, 0xeb,                    // call put; jmp echo
    0xb0, 0x78, 0xe8, 0x0a, 0x00,                    // flood: mov al, 'x'; call put
    0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf3,  // mov dx, 3fd; in al, dx; test al, 1; jz flood
    0xeb, 0xdc,                                      // jmp echo
    0x50, 0xba, 0xfd, 0x03,                          // put: push ax; mov dx, 3fd
    0xec, 0xa8, 0x20, 0x74, 0xfb,                    // in al, dx; test al, 20h; jz (wait)
    0x58, 0xba, 0xf8, 0x03, 0xee, 0xc3,              // pop ax; mov dx, 3f8; out dx, al; ret
    b'r', b'e', b'a', b'd', b'y', b'\r', b'\n',      // text, and the zero after it
];

struct Guest {
    daemon: Daemon,
    libvirt: Connection,
    domain: Domain,
    _folder: TempDir,
}

/// Paused, so that nothing is said before somebody listens.
async fn paused() -> Guest {
    let daemon = Daemon::start();
    let folder = tempfile::Builder::new().prefix("perigee-console-").tempdir().unwrap();
    let disk = folder.path().join("boot.img");
    let mut sector = vec![0; 1 << 20];
    sector[..BOOT.len()].copy_from_slice(&BOOT);
    (sector[510], sector[511]) = (0x55, 0xaa);
    std::fs::write(&disk, sector).unwrap();
    let xml = format!(
        "<domain type='qemu'><name>talks</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><disk type='file' device='disk'>\
         <driver name='qemu' type='raw'/><source file='{}'/><target dev='hda' bus='ide'/></disk>\
         <serial type='pty'><target port='0'/></serial><console type='pty'><target type='serial' port='0'/></console>\
         <channel type='unix'><target type='virtio' name='org.example.0'/></channel>\
         </devices><seclabel type='none'/></domain>",
        disk.display()
    );
    let path = folder.path().join("talks.xml");
    std::fs::write(&path, xml).unwrap();
    daemon.virsh(&["define", path.to_str().unwrap()]);
    daemon.virsh(&["start", "talks", "--paused"]);
    let libvirt = Connection::open(&Endpoint::Unix(daemon.socket()), Some("qemu:///system"), 0).await.unwrap();
    let domain = libvirt.domain_by_name("talks").await.unwrap();
    Guest { daemon, libvirt, domain, _folder: folder }
}

/// Reads until `wanted` was said.
async fn hear(stream: &mut Stream, wanted: &str) {
    let mut heard = Vec::new();
    let listen = async {
        while !heard.ends_with(wanted.as_bytes()) {
            heard.push(stream.read_u8().await.unwrap());
        }
    };
    let done = tokio::time::timeout(DEADLINE, listen).await;
    assert!(done.is_ok(), "{wanted:?} was not said, but {:?}", String::from_utf8_lossy(&heard));
}

#[tokio::test]
async fn real_a_guests_serial_port_is_heard_and_spoken_to() {
    let Guest { daemon, libvirt, domain, _folder } = paused().await;
    let mut first = libvirt.open_console(&domain, None, console::SAFE).await.unwrap();
    daemon.virsh(&["resume", "talks"]);
    hear(&mut first, "ready\r\n").await;
    first.write_all(b"hello").await.unwrap();
    hear(&mut first, "hello").await;

    let taken = libvirt.open_console(&domain, None, console::SAFE).await;
    assert!(matches!(taken, Err(Error::Libvirt { .. })), "{:?}", taken.map(|_| ()));
    let mut second = libvirt.open_console(&domain, Some("serial0"), console::FORCE).await.unwrap();
    let sent_away = tokio::time::timeout(DEADLINE, first.read_u8()).await.unwrap();
    assert!(sent_away.is_err(), "{sent_away:?}");
    second.write_all(b"again").await.unwrap();
    hear(&mut second, "again").await;

    // Finished by us: confirmed by the end of what is read; and the port is free.
    second.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, second.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, []);
    let mut third = libvirt.open_console(&domain, None, console::SAFE).await.unwrap();
    daemon.virsh(&["destroy", "talks"]);
    let ended = tokio::time::timeout(DEADLINE, third.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "{ended:?}, {rest:?}");
    let off = libvirt.open_console(&domain, None, 0).await;
    assert!(matches!(off, Err(Error::Libvirt { code: 55, .. })), "{:?}", off.map(|_| ()));
    assert!(libvirt.broken().is_none());
}

#[tokio::test]
async fn real_a_guest_that_floods_waits_for_a_slow_reader() {
    let Guest { daemon, libvirt, domain, _folder } = paused().await;
    let mut stream = libvirt.open_console(&domain, None, 0).await.unwrap();
    daemon.virsh(&["resume", "talks"]);
    hear(&mut stream, "ready\r\n").await;
    stream.write_all(b"!").await.unwrap();
    hear(&mut stream, &"x".repeat(1000)).await;
    // Nobody reads now; the other connection answers as ever.
    for _ in 0..50 {
        libvirt.domain_state(&domain).await.unwrap();
    }
    // Not a byte is lost or changed, and it can still be stopped.
    let mut flood = vec![0; 1 << 19];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut flood)).await.unwrap().unwrap();
    assert!(flood.iter().all(|byte| *byte == b'x'));
    stream.write_all(b"?done").await.unwrap();
    hear(&mut stream, "done").await;
}

#[tokio::test]
async fn real_a_channel_is_opened_by_name() {
    let Guest { daemon, libvirt, domain, _folder } = paused().await;
    let mut channel = libvirt.open_channel(&domain, Some("org.example.0"), 0).await.unwrap();
    channel.write_all(b"nobody listens in the guest").await.unwrap();
    let taken = libvirt.open_channel(&domain, Some("org.example.0"), 0).await;
    assert!(matches!(taken, Err(Error::Libvirt { .. })), "{:?}", taken.map(|_| ()));
    drop(channel);
    let none = libvirt.open_channel(&domain, Some("org.example.1"), 0).await;
    assert!(matches!(none, Err(Error::Libvirt { .. })), "{:?}", none.map(|_| ()));
    daemon.virsh(&["destroy", "talks"]);
}
