//! Consoles: tickets, and what flows between a client's WebSocket and a host's tunnel.

use crate::world::{Answer, World};
use futures::{SinkExt as _, StreamExt as _};
use http::Method;
use perigee_agent_api::{FromServer, Purpose, TunnelFrame};
use perigee_clock::Clock;
use perigee_control::{Cause, Tunnel};
use perigee_model::guest::Problem;
use perigee_model::{Code, GuestId, Seat};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Error, Message};

const DEADLINE: Duration = Duration::from_secs(30);

type Client = WebSocketStream<TcpStream>;

/// A control plane on a port, with a guest that runs.
struct House {
    world: World,
    address: std::net::SocketAddr,
    guest: GuestId,
}

impl House {
    async fn new() -> Self {
        let mut world = World::new().await;
        let guest = world.running("a").await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = world.app.clone();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { world, address, guest }
    }

    async fn ticket(&self, seat: &str) -> Value {
        let answer = self.world.post("/api/v1/vms/a/console", &[], json!({ "seat": seat })).await;
        assert_eq!(answer.status, 201, "{}", answer.json());
        answer.json()
    }

    /// Opens the address as a WebSocket; a refusal is its status and code.
    async fn dial(&self, url: &str, headers: &[(&str, &str)]) -> Result<Client, (u16, String)> {
        let mut request = ClientRequestBuilder::new(format!("ws://{}{url}", self.address).parse().unwrap());
        for (name, value) in headers {
            request = request.with_header(*name, *value);
        }
        let socket = TcpStream::connect(self.address).await.unwrap();
        match tokio_tungstenite::client_async(request.with_sub_protocol("binary"), socket).await {
            Ok((client, answer)) => {
                assert_eq!(answer.headers()["sec-websocket-protocol"], "binary");
                Ok(client)
            }
            Err(Error::Http(answer)) => {
                let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).unwrap();
                Err((answer.status().as_u16(), body["code"].as_str().unwrap_or_default().to_owned()))
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// The host opens the tunnel it is asked for, and says this first.
    async fn host(&mut self, seat: Seat, first: TunnelFrame) -> Tunnel {
        loop {
            if let FromServer::OpenTunnel { tunnel, purpose } = self.world.told().await {
                assert_eq!(*purpose, Purpose::Console { guest: self.guest, seat });
                let end = self.world.control.links().opened(self.world.host, tunnel).unwrap();
                end.tx.send(first).await.unwrap();
                return end;
            }
        }
    }

    /// A client and a host at either end of a console.
    async fn seated(&mut self, seat: &str) -> (Client, Tunnel) {
        let url = self.ticket(seat).await["url"].as_str().unwrap().to_owned();
        let address = self.address;
        let seat = if seat == "vnc" { Seat::Vnc } else { Seat::Serial };
        let dial = tokio::spawn(async move {
            let request = ClientRequestBuilder::new(format!("ws://{address}{url}").parse().unwrap());
            let socket = TcpStream::connect(address).await.unwrap();
            tokio_tungstenite::client_async(request, socket).await.unwrap().0
        });
        let host = self.host(seat, TunnelFrame::Started).await;
        (dial.await.unwrap(), host)
    }

    /// What the audit says of consoles, the oldest first; waits until there is so much.
    async fn audit(&self, least: usize) -> Vec<String> {
        let look = async {
            loop {
                let events = self.world.get("/api/v1/events").await.json();
                let all = events["items"].as_array().unwrap().iter();
                let consoles = all.filter(|e| e["verb"].as_str().unwrap().starts_with("console."));
                let told: Vec<String> = consoles
                    .map(|e| format!("{} {} {}", e["actor"], e["verb"], e["detail"]).replace('"', ""))
                    .collect();
                if told.len() >= least {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, look).await.expect("the audit does not say so")
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it did not happen in time")
}

async fn bytes(client: &mut Client) -> Vec<u8> {
    loop {
        match within(client.next()).await.unwrap().unwrap() {
            Message::Binary(bytes) => return bytes.to_vec(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn closed(client: &mut Client) -> (u16, String) {
    match within(client.next()).await.unwrap().unwrap() {
        Message::Close(Some(CloseFrame { code, reason })) => (code.into(), reason.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_ticket_opens_a_console_once_and_the_audit_knows() {
    let mut house = House::new().await;
    let (mut client, mut host) = house.seated("serial").await;
    host.tx.send(TunnelFrame::Data(b"login: ".to_vec())).await.unwrap();
    assert_eq!(bytes(&mut client).await, b"login: ");
    let typed = vec![b'r'; 150_000];
    client.send(Message::binary(typed.clone())).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < typed.len() {
        let Some(TunnelFrame::Data(piece)) = within(host.rx.recv()).await else { panic!("it ended") };
        assert!(piece.len() <= 64 << 10);
        heard.extend(piece);
    }
    assert!(heard == typed);
    assert_eq!(house.audit(1).await, ["admin console.open serial"]);
    // The client leaves: the host is told by the end of its tunnel.
    client.close(None).await.unwrap();
    assert!(within(host.rx.recv()).await.is_none());
    let told = house.audit(2).await;
    assert!(told[1].starts_with("admin console.close serial after "), "{told:?}");
}

#[tokio::test]
async fn tickets_are_good_once_and_for_their_guest_alone() {
    let mut house = House::new().await;
    let other = {
        let answer = house.world.post("/api/v1/sandboxes", &[], json!({ "name": "b" })).await;
        assert_eq!(answer.status, 202);
        house.world.obey(perigee_model::Phase::Running, 1).await
    };
    let ticket = house.ticket("serial").await;
    let url = ticket["url"].as_str().unwrap().to_owned();
    let secret = ticket["ticket"].as_str().unwrap();
    assert_eq!((secret.len(), url.contains(secret)), (64, true));
    let unknown = Err((401, "PRG-2001".to_owned()));
    let refused = |said: Result<Client, (u16, String)>| said.map(|_| ());
    let elsewhere = url.replace(&house.guest.to_string(), &other.to_string());
    assert_eq!(refused(house.dial(&elsewhere, &[]).await), unknown, "another guest");
    assert_eq!(refused(house.dial(&url, &[]).await), unknown, "tried at another guest, and so used up");
    let path = format!("/api/v1/vms/{}/console", house.guest);
    for wrong in [path.clone(), format!("{path}?ticket="), format!("{path}?ticket={}", "0".repeat(64))] {
        assert_eq!(refused(house.dial(&wrong, &[]).await), unknown, "{wrong}");
    }
    let bearer = format!("Bearer {}", house.world.admin);
    assert_eq!(refused(house.dial(&path, &[("authorization", &bearer)]).await), unknown, "a token is no ticket");
    let url = house.ticket("vnc").await["url"].as_str().unwrap().to_owned();
    let foreign = house.dial(&url, &[("origin", "http://evil.example")]).await;
    assert_eq!(refused(foreign), Err((403, "PRG-2002".to_owned())), "a foreign page");
    let plain = house.world.send(Method::GET, &url, "", &[], b"").await;
    assert_eq!((plain.status.as_u16(), plain.code().as_str()), (426, "PRG-1013"));
    // None of that has used it up.
    let (dialled, _host) = tokio::join!(
        async {
            let request = ClientRequestBuilder::new(format!("ws://{}{url}", house.address).parse().unwrap());
            let socket = TcpStream::connect(house.address).await.unwrap();
            tokio_tungstenite::client_async(request, socket).await.map(|_| ())
        },
        async {
            let FromServer::OpenTunnel { tunnel, .. } = house.world.link.outgoing.recv().await.unwrap() else {
                panic!("no tunnel was wanted")
            };
            let end = house.world.control.links().opened(house.world.host, tunnel).unwrap();
            end.tx.send(TunnelFrame::Started).await.unwrap();
            end
        }
    );
    dialled.unwrap();
    assert_eq!(refused(house.dial(&url, &[]).await), unknown, "a second time");
}

#[tokio::test(start_paused = true)]
async fn tickets_run_out() {
    let mut world = World::at(Clock::simulated(3)).await;
    let guest = world.running("a").await;
    let who = world.control.authenticate(&world.admin).unwrap();
    let old = world.control.console_ticket(&who, "a", Seat::Serial).unwrap();
    tokio::time::sleep(Duration::from_secs(29)).await;
    let young = world.control.console_ticket(&who, "a", Seat::Serial).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let said = world.control.open_console(&guest.to_string(), &old.secret, &Cause::default()).await;
    assert_eq!(said.map(|_| ()).unwrap_err().code, Code::NoToken);
    let control = world.control.clone();
    let open = tokio::spawn(async move {
        control.open_console(&guest.to_string(), &young.secret, &Cause::default()).await.map(|_| ())
    });
    assert!(matches!(world.told().await, FromServer::OpenTunnel { .. }), "the young one is good");
    open.abort();
    // So many may be unused at once, and no more.
    let refused = loop {
        if let Err(refusal) = world.control.console_ticket(&who, "a", Seat::Vnc) {
            break refusal;
        }
    };
    assert_eq!(refused.code, Code::TooManyExecutions);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(world.control.console_ticket(&who, "a", Seat::Vnc).is_ok());
}

#[tokio::test]
async fn the_way_a_console_ends_is_told() {
    let mut house = House::new().await;
    let (mut client, host) = house.seated("vnc").await;
    host.tx.send(TunnelFrame::End).await.unwrap();
    assert_eq!(closed(&mut client).await, (1000, "the guest ended the console".to_owned()));

    let (mut client, host) = house.seated("vnc").await;
    let problem = Problem::new(Code::ChannelBroken, "é".repeat(200));
    host.tx.send(TunnelFrame::Failed(problem)).await.unwrap();
    let (code, reason) = closed(&mut client).await;
    assert_eq!((code, reason.starts_with("PRG-7003 é")), (1011, true), "{reason}");

    let (mut client, host) = house.seated("vnc").await;
    drop(host);
    assert_eq!(closed(&mut client).await.0, 1011);

    let (mut client, mut host) = house.seated("vnc").await;
    client.send(Message::text("hello")).await.unwrap();
    assert_eq!(closed(&mut client).await.0, 1003);
    assert!(within(host.rx.recv()).await.is_none());
}

#[tokio::test]
async fn a_console_that_does_not_open_is_refused_in_words() {
    let mut house = House::new().await;
    let url = house.ticket("vnc").await["url"].as_str().unwrap().to_owned();
    let address = house.address;
    let dial = tokio::spawn(async move {
        let request = ClientRequestBuilder::new(format!("ws://{address}{url}").parse().unwrap());
        let socket = TcpStream::connect(address).await.unwrap();
        tokio_tungstenite::client_async(request, socket).await.map(|_| ()).unwrap_err()
    });
    let problem = Problem::new(Code::NoSuchSeat, "the guest has no screen");
    let _host = house.host(Seat::Vnc, TunnelFrame::Failed(problem)).await;
    let Error::Http(answer) = dial.await.unwrap() else { panic!("no answer") };
    assert_eq!(answer.status(), 404);
    let code = |answer: &Answer| (answer.status.as_u16(), answer.code());
    house.world.post("/api/v1/sandboxes", &[], json!({ "name": "late" })).await;
    let pending = house.world.post("/api/v1/vms/late/console", &[], json!({})).await;
    assert_eq!(code(&pending), (409, "PRG-4002".to_owned()));
    let nowhere = house.world.post("/api/v1/vms/a/console", &[], json!({ "seat": "sofa" })).await;
    assert_eq!(code(&nowhere), (422, "PRG-1002".to_owned()));
}

#[tokio::test]
async fn a_slow_client_holds_up_its_guest_and_loses_nothing() {
    let mut house = House::new().await;
    let (mut client, host) = house.seated("serial").await;
    let piece = |number: usize| vec![number as u8; 32 << 10];
    let most = (64 << 20) / piece(0).len();
    let mut sent = 0;
    // Until nothing is taken for a while: queues and socket buffers, not what is offered.
    while sent < most {
        let frame = TunnelFrame::Data(piece(sent));
        if tokio::time::timeout(Duration::from_millis(500), host.tx.send(frame)).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < most, "64 MiB were taken though nobody read");
    // The client types meanwhile, and is heard.
    let mut host = host;
    client.send(Message::binary(b"stop".to_vec())).await.unwrap();
    assert_eq!(within(host.rx.recv()).await, Some(TunnelFrame::Data(b"stop".to_vec())));
    let finish = host.tx.clone();
    tokio::spawn(async move { finish.send(TunnelFrame::End).await });
    for number in 0..sent {
        assert_eq!(bytes(&mut client).await, piece(number), "piece {number}");
    }
    assert_eq!(closed(&mut client).await.0, 1000);
}
