//! Consoles from the command line to a guest and back: control plane, agent and link are real, the guest
//! is played.

use super::Instance;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

/// A guest that runs, on the driver that plays guests.
fn played() -> Instance {
    let instance = Instance::empty();
    instance.perigee(&["up", "--detach", "--driver", "simulated"]).fine();
    instance.perigee(&["image", "build", "base"]).fine();
    instance.create("web");
    instance
}

fn start(instance: &Instance, arguments: &[&str]) -> Child {
    let mut command = instance.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn real_console_of_a_guest_through_the_whole_house() {
    let instance = played();
    // A mebibyte there and back, in order, through every queue.
    let mut first = start(&instance, &["vm", "console", "web"]);
    let (mut keys, mut shown) = (first.stdin.take().unwrap(), first.stdout.take().unwrap());
    let sent: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    let copy = sent.clone();
    let typing = std::thread::spawn(move || {
        keys.write_all(&copy).unwrap();
        keys
    });
    let mut heard = vec![0; sent.len()];
    shown.read_exact(&mut heard).unwrap();
    assert!(heard == sent, "bytes were lost or changed on the way");
    let _keys = typing.join().unwrap();

    // Another sits down at the port: the first is told and ends.
    let mut second = start(&instance, &["vm", "console", "web", "--linger", "1s"]);
    second.stdin.take().unwrap().write_all(b"mine now").unwrap();
    let second = second.wait_with_output().unwrap();
    assert_eq!((second.status.code(), &second.stdout[..]), (Some(0), &b"mine now"[..]));
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&first.stderr).contains("ended there"));

    screen(&instance);
    let told = |verb: &str| {
        let events = instance.json(&["event", "list"]);
        events.as_array().unwrap().iter().filter(|event| event["verb"] == verb).count()
    };
    assert_eq!(told("console.open"), 3);
    instance.until("three consoles that were left", || (told("console.close") == 3).then_some(()));
    instance.perigee(&["down"]).fine();
}

/// RFC 6143, section 7.1, as a viewer speaks it.
fn screen(instance: &Instance) {
    let mut child = start(instance, &["vm", "console", "web", "--vnc", "0"]);
    let mut address = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
    let mut viewer = TcpStream::connect(address.trim()).unwrap();
    viewer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut exchange = |length: usize, answer: &[u8]| {
        let mut said = vec![0; length];
        viewer.read_exact(&mut said).unwrap();
        viewer.write_all(answer).unwrap();
        said
    };
    assert_eq!(exchange(12, b"RFB 003.008\n"), b"RFB 003.008\n");
    assert_eq!(exchange(2, &[1]), [1, 1]);
    assert_eq!(exchange(4, &[1]), [0; 4]);
    assert_eq!(exchange(24, &[])[..4], [0, 16, 0, 16]);
    assert_eq!(exchange(9, &[3, 0, 0, 0, 0, 0, 0, 16, 0, 16]), b"simulated");
    assert_eq!(exchange(16 + 1024, &[])[..4], [0, 0, 0, 1]);
    drop(viewer);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
