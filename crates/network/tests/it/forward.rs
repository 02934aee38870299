//! Ports of the host that lead to guests.

use crate::world::{GATEWAY, HOST, PATIENCE, WORLD, World, call, guest, member, until};
use perigee_network::{Egress, Forward, Member, Protocol};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

fn served(forwards: &[(Protocol, u16, u16)]) -> Member {
    let forward = |(protocol, host_port, guest_port): &(Protocol, u16, u16)| Forward {
        protocol: *protocol,
        host_port: *host_port,
        guest_port: *guest_port,
    };
    Member { forwards: forwards.iter().map(forward).collect(), ..member(2, Egress::None) }
}

#[test]
fn a_forward_reaches_its_guest_from_the_world_and_from_the_host() {
    let world = World::new();
    let plan = world.plan(vec![served(&[(Protocol::Tcp, 8080, 80), (Protocol::Udp, 5353, 53)])]);
    world.bring_about(&plan);
    let machine = world.machine(&plan, 2);
    let (web, names) =
        machine.ns.run(|| (TcpListener::bind("0.0.0.0:80").unwrap(), UdpSocket::bind("0.0.0.0:53").unwrap()));
    for (ns, caller) in [(&world.out, WORLD), (&world.host, HOST)] {
        let mut near = ns.run(|| TcpStream::connect_timeout(&(HOST, 8080).into(), PATIENCE).unwrap());
        let (mut far, from) = web.accept().unwrap();
        assert_eq!(from.ip(), caller, "the guest sees who calls");
        near.write_all(b"question").unwrap();
        let mut bytes = [0; 8];
        far.read_exact(&mut bytes).unwrap();
        far.write_all(b"answers!").unwrap();
        near.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"answers!");
    }
    names.set_read_timeout(Some(PATIENCE)).unwrap();
    let asker = world.out.run(|| UdpSocket::bind((WORLD, 0)).unwrap());
    asker.set_read_timeout(Some(PATIENCE)).unwrap();
    asker.send_to(b"who", (HOST, 5353)).unwrap();
    let mut bytes = [0; 8];
    let (_, from) = names.recv_from(&mut bytes).unwrap();
    names.send_to(b"me", from).unwrap();
    let (length, from) = asker.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..length], from), (&b"me"[..], SocketAddr::from((HOST, 5353))));
}

#[test]
fn nothing_but_the_forward_reaches_a_guest() {
    let world = World::new();
    let plan = world.plan(vec![served(&[(Protocol::Tcp, 8080, 80)])]);
    world.bring_about(&plan);
    let machine = world.machine(&plan, 2);
    let web = machine.ns.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    web.set_nonblocking(true).unwrap();
    // The world routes to the guests' network by the host, and calls a guest by its own address.
    world.out.ip(&format!("route add {} via {HOST}", plan.subnet().block()));
    let dropped = || world.counted(&format!("list chain inet {} to_172_16_0_2", plan.names().table()));
    let caller = world.out.run(|| UdpSocket::bind((WORLD, 0)).unwrap());
    caller.send_to(b"probe", (guest(2), 80)).unwrap();
    until("it is dropped", || dropped() == 1);
    assert!(call(&world.out, SocketAddr::from((guest(2), 80)), dropped).is_none());
    assert!(web.accept().is_err());
    // A port that is no forward is the host's own.
    assert_eq!(
        world.out.run(|| TcpStream::connect((HOST, 8081))).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    assert!(world.out.run(|| TcpStream::connect((GATEWAY, 8081))).is_err());
}

#[test]
fn a_forward_that_is_taken_back_ends_what_came_by_it() {
    let world = World::new();
    let open = world.plan(vec![served(&[(Protocol::Tcp, 8080, 80)])]);
    world.bring_about(&open);
    let machine = world.machine(&open, 2);
    let web = machine.ns.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let mut near = world.out.run(|| TcpStream::connect_timeout(&(HOST, 8080).into(), PATIENCE).unwrap());
    let (mut far, _) = web.accept().unwrap();
    near.write_all(b"1").unwrap();
    far.read_exact(&mut [0]).unwrap();
    let closed = world.plan(vec![served(&[])]);
    world.bring_about(&closed);
    far.write_all(b"secret").unwrap();
    until("its answers are dropped", || world.drops(&closed, 2) > 0);
    near.set_nonblocking(true).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
