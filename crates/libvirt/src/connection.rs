//! One connection: its calls, its keepalive, its end.
//!
//! ```text
//! call ──slot──▶ waiting[serial] ──packet──▶ writer ──▶ libvirtd
//!   ▲                  │                                   │
//!   └───── answer ─────┴──────────── reader ◀──────────────┘
//!                                      └──▶ events
//! ```
//!
//! Owns: serials, slots, deadlines, the one task that reads, writes and pings.
//! Refuses: reconnecting, which is the caller's, and knowing what a call means.
//!
//! A call whose deadline passed keeps its slot until the late answer comes: libvirtd is still working on
//! it, and would stop reading altogether if it were sent more than it takes from one client.

use crate::error::{Broken, Error};
use crate::events::{self, Event};
use crate::packet::{self, Header, KEEPALIVE, Kind, QEMU, REMOTE, Status};
use crate::procedure::{self, Procedure};
use crate::ssh::Complaints;
use crate::stream::{Came, Inlet};
use crate::transport::{self, Endpoint, Wire};
use crate::xdr::{Decoder, Encoder, Malformed};
use crate::{limits, locked};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

const PING: u32 = 1;
const PONG: u32 = 2;
const AUTH_NONE: u32 = 0;
/// libvirt's number for "the daemon speaks keepalive"; asking also starts the daemon's own pings.
const FEATURE_KEEPALIVE: i32 = 10;

/// How patient a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a call may take, its wait for a slot included.
    pub deadline: Duration,
    /// Between two pings.
    pub ping_every: Duration,
    /// After so many pings with nothing heard the daemon counts as dead.
    pub pings_unheard_max: u32,
    /// Calls at once, 1 to [`limits::IN_FLIGHT`].
    pub in_flight: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let (deadline, ping_every) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { deadline, ping_every, pings_unheard_max: 3, in_flight: limits::IN_FLIGHT }
    }
}

/// A connection to a libvirt daemon. Clones share it; when the last is dropped it is closed.
#[derive(Debug, Clone)]
pub struct Connection {
    pub(crate) shared: Arc<Shared>,
    // Held by handles alone: the task ends when the last one is gone.
    pub(crate) outgoing: mpsc::Sender<Vec<u8>>,
    deadline: Duration,
    route: Option<Arc<Route>>,
}

/// How this connection was opened, to open another one like it.
#[derive(Debug)]
struct Route {
    endpoint: Endpoint,
    uri: Option<String>,
    flags: u32,
    settings: Settings,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) line: Mutex<Line>,
    slots: Arc<Semaphore>,
    serial: AtomicU32,
    unheard: AtomicU32,
    pinging: AtomicBool,
    /// The stream that had this connection to itself was dropped.
    pub(crate) abandoned: Notify,
    /// The daemon ended the stream, or confirmed our end of it.
    pub(crate) unstreamed: Notify,
    /// What a program that carries the connection says beside it.
    complaints: Option<Complaints>,
}

#[derive(Debug)]
pub(crate) enum Line {
    Up { waiting: HashMap<u32, Waiting>, events: broadcast::Sender<Event>, stream: Option<Inlet> },
    Down(Broken),
}

#[derive(Debug)]
pub(crate) struct Waiting {
    procedure: Procedure,
    /// Where the stream goes that this call opens.
    inlet: Option<Inlet>,
    answer: oneshot::Sender<Result<Vec<u8>, Error>>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// Connects, sees that no authentication is wanted, and opens the driver `uri` (`None`: the daemon's
    /// own choice). `flags` are libvirt's: 1 is read-only.
    pub async fn open(endpoint: &Endpoint, uri: Option<&str>, flags: u32) -> Result<Self, Error> {
        Self::open_with(endpoint, uri, flags, &Settings::default()).await
    }

    /// The same with other patience.
    pub async fn open_with(
        endpoint: &Endpoint,
        uri: Option<&str>,
        flags: u32,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let mut connection = Self::dial(endpoint, settings).await?;
        connection.first(uri, flags, endpoint).await?;
        connection.ping().await?;
        let (endpoint, uri, settings) = (endpoint.clone(), uri.map(str::to_owned), settings.clone());
        connection.route = Some(Arc::new(Route { endpoint, uri, flags, settings }));
        Ok(connection)
    }

    /// The same over a stream that is connected already. Such a connection cannot open streams.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        uri: Option<&str>,
        flags: u32,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let connection = Self::start(Wire::over(stream), settings);
        connection.greet(uri, flags).await?;
        connection.ping().await?;
        Ok(connection)
    }

    /// Another connection opened as this one was, for one stream. Nothing is pinged on it: whoever reads its
    /// stream slowly, or a guest that does not take what it is sent, holds up everything that is on it.
    pub(crate) async fn sibling(&self) -> Result<Self, Error> {
        let route = self.route.as_deref().ok_or(Error::NoRoute)?;
        let connection = Self::dial(&route.endpoint, &route.settings).await?;
        connection.first(route.uri.as_deref(), route.flags, &route.endpoint).await?;
        Ok(connection)
    }

    async fn dial(endpoint: &Endpoint, settings: &Settings) -> Result<Self, Error> {
        Ok(Self::start(transport::dial(endpoint, settings).await?, settings))
    }

    /// Greets; a connection that breaks here and was carried by a program ended for the reason that it gives.
    async fn first(&self, uri: Option<&str>, flags: u32, endpoint: &Endpoint) -> Result<(), Error> {
        let greeted = self.greet(uri, flags).await;
        let (Err(Error::Broken(broken)), Some(complaints)) = (&greeted, &self.shared.complaints) else {
            return greeted;
        };
        match complaints.text().await {
            Some(said) => Err(Error::Carrier { at: endpoint.to_string(), said, broken: broken.clone() }),
            None => greeted,
        }
    }

    /// Sees that no authentication is wanted, and opens the driver.
    async fn greet(&self, uri: Option<&str>, flags: u32) -> Result<(), Error> {
        let offered =
            self.call(procedure::AUTH_LIST, |_| {}, |reply| reply.array(limits::AUTH_KINDS, Decoder::u32)).await?;
        if !offered.contains(&AUTH_NONE) {
            return Err(Error::Authentication { offered });
        }
        let name = |to: &mut Encoder| {
            to.optional_string(uri);
            to.u32(flags);
        };
        self.call(procedure::OPEN, name, |_| Ok(())).await
    }

    /// From now on both sides ping, if the daemon can.
    async fn ping(&self) -> Result<(), Error> {
        let asked = |to: &mut Encoder| to.i32(FEATURE_KEEPALIVE);
        let speaks = self.call(procedure::SUPPORTS, asked, |reply| reply.i32().map(|answer| answer != 0)).await?;
        self.shared.pinging.store(speaks, Ordering::Relaxed);
        Ok(())
    }

    fn start(wire: Wire, settings: &Settings) -> Self {
        let (events, _) = broadcast::channel(limits::EVENTS);
        let shared = Arc::new(Shared {
            line: Mutex::new(Line::Up { waiting: HashMap::new(), events, stream: None }),
            slots: Arc::new(Semaphore::new(settings.in_flight.clamp(1, limits::IN_FLIGHT))),
            serial: AtomicU32::new(0),
            unheard: AtomicU32::new(0),
            pinging: AtomicBool::new(false),
            abandoned: Notify::new(),
            unstreamed: Notify::new(),
            complaints: wire.complaints.clone(),
        });
        let (outgoing, queue) = mpsc::channel(limits::OUTGOING);
        tokio::spawn(run(shared.clone(), wire, outgoing.downgrade(), queue, settings.clone()));
        Self { shared, outgoing, deadline: settings.deadline, route: None }
    }

    /// The same connection with another deadline for each call.
    pub fn within(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// Says goodbye, so that the daemon frees what it holds for this client at once.
    pub async fn close(self) -> Result<(), Error> {
        match self.call(procedure::CLOSE, |_| {}, |_| Ok(())).await {
            // What carries a far connection may end before it has brought the answer.
            Ok(()) | Err(Error::Broken(Broken::HungUp)) => {}
            Err(other) => return Err(other),
        }
        self.shared.end(Broken::Closed);
        Ok(())
    }

    /// Why the connection is broken; `None` while it is not known to be.
    pub fn broken(&self) -> Option<Broken> {
        match &*locked(&self.shared.line) {
            Line::Up { .. } => None,
            Line::Down(why) => Some(why.clone()),
        }
    }

    /// Any call: `arguments` writes them, `read` takes the answer apart, to its end.
    pub async fn call<T>(
        &self,
        procedure: Procedure,
        arguments: impl FnOnce(&mut Encoder),
        read: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>,
    ) -> Result<T, Error> {
        let (_, answer) = self.exchange(procedure, arguments, None).await?;
        let mut reply = Decoder::new(&answer);
        let value = read(&mut reply).and_then(|value| reply.finish().map(|()| value));
        value.map_err(|malformed| Error::Reply { procedure, malformed })
    }

    /// A call that opens a stream, whose packets go to `to` from the answer on; the number they bear.
    pub(crate) async fn open_stream(
        &self,
        procedure: Procedure,
        arguments: impl FnOnce(&mut Encoder),
        to: mpsc::Sender<Came>,
    ) -> Result<u32, Error> {
        self.exchange(procedure, arguments, Some(to)).await.map(|(serial, _)| serial)
    }

    async fn exchange(
        &self,
        procedure: Procedure,
        arguments: impl FnOnce(&mut Encoder),
        stream: Option<mpsc::Sender<Came>>,
    ) -> Result<(u32, Vec<u8>), Error> {
        let mut encoder = Encoder::default();
        arguments(&mut encoder);
        let payload = encoder.finish().map_err(|malformed| Error::Arguments { procedure, malformed })?;
        let limit = self.deadline;
        let answer = tokio::time::timeout(limit, self.ask(procedure, &payload, stream)).await;
        answer.map_err(|_| Error::Deadline { procedure, limit })?
    }

    async fn ask(
        &self,
        procedure: Procedure,
        payload: &[u8],
        stream: Option<mpsc::Sender<Came>>,
    ) -> Result<(u32, Vec<u8>), Error> {
        let slot = self.shared.slots.clone().acquire_owned().await.map_err(|_| self.why())?;
        // Room in the queue first: what is registered as waiting has then certainly been sent.
        let room = self.outgoing.reserve().await.map_err(|_| self.why())?;
        let serial = self.shared.serial.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let inlet = stream.map(|to| Inlet::new(procedure, serial, to));
        match &mut *locked(&self.shared.line) {
            Line::Down(why) => return Err(why.clone().into()),
            Line::Up { waiting, .. } => waiting.insert(serial, Waiting { procedure, inlet, answer, _slot: slot }),
        };
        room.send(Header::call(procedure, serial).packet(payload));
        let answer = answered.await.unwrap_or_else(|_| Err(self.why()))?;
        Ok((serial, answer))
    }

    pub(crate) fn listen(&self) -> Result<broadcast::Receiver<Event>, Error> {
        match &*locked(&self.shared.line) {
            Line::Up { events, .. } => Ok(events.subscribe()),
            Line::Down(why) => Err(why.clone().into()),
        }
    }

    pub(crate) fn why(&self) -> Error {
        self.broken().unwrap_or(Broken::Closed).into()
    }
}

impl Shared {
    /// Everyone who waits is told; later calls are refused.
    fn end(&self, why: Broken) {
        let mut line = locked(&self.line);
        let Line::Up { waiting, .. } = &mut *line else { return };
        let waiting = std::mem::take(waiting);
        *line = Line::Down(why.clone());
        drop(line);
        self.slots.close();
        for (_, call) in waiting {
            // An abandoned call has nobody listening.
            let _ = call.answer.send(Err(why.clone().into()));
        }
    }

    /// A reply must be one to a call that was made.
    fn answer(&self, header: Header, payload: Vec<u8>) -> Result<(), Broken> {
        let Line::Up { waiting, stream, .. } = &mut *locked(&self.line) else { return Ok(()) };
        match waiting.get(&header.serial) {
            None => return Err(Malformed::Undefined { what: "serial that waits", value: header.serial }.into()),
            Some(call) if (call.procedure.program, call.procedure.number) != (header.program, header.procedure) => {
                return Err(Malformed::Undefined { what: "procedure of that serial", value: header.procedure }.into());
            }
            Some(_) => {}
        }
        let Some(call) = waiting.remove(&header.serial) else { return Ok(()) };
        let answer = match header.status {
            Status::Ok | Status::Continue => {
                if call.inlet.is_some() {
                    *stream = call.inlet;
                }
                Ok(payload)
            }
            Status::Error => Err(Error::from_payload(call.procedure, &payload)),
        };
        // Late: the caller is gone, its answer with it.
        let _ = call.answer.send(answer);
        Ok(())
    }

    fn publish(&self, event: Event) {
        if let Line::Up { events, .. } = &*locked(&self.line) {
            // Nobody listening is fine.
            let _ = events.send(event);
        }
    }
}

/// Reads, writes and pings until one of them cannot go on.
async fn run(
    shared: Arc<Shared>,
    wire: Wire,
    outgoing: mpsc::WeakSender<Vec<u8>>,
    queue: mpsc::Receiver<Vec<u8>>,
    settings: Settings,
) {
    let Wire { from, to, child, .. } = wire;
    let why = tokio::select! {
        why = reading(&shared, from, &outgoing) => why,
        why = writing(&shared, to, queue) => why,
        why = pinging(&shared, &outgoing, &settings) => why,
        why = abandoned(&shared, &settings) => why,
    };
    shared.end(why);
    // Ends the program that carried it, if there is one.
    drop(child);
}

async fn reading(shared: &Shared, from: impl AsyncRead + Unpin, outgoing: &mpsc::WeakSender<Vec<u8>>) -> Broken {
    let mut from = tokio::io::BufReader::with_capacity(64 * 1024, from);
    loop {
        let taken = match packet::read(&mut from).await {
            Ok((header, payload)) if header.kind == Kind::Stream => shared.streamed(header, payload).await,
            Ok((header, payload)) => arrived(shared, header, payload, outgoing),
            Err(why) => Err(why),
        };
        if let Err(why) = taken {
            return why;
        }
    }
}

fn arrived(
    shared: &Shared,
    header: Header,
    payload: Vec<u8>,
    outgoing: &mpsc::WeakSender<Vec<u8>>,
) -> Result<(), Broken> {
    shared.unheard.store(0, Ordering::Relaxed);
    match (header.program, header.kind) {
        (REMOTE | QEMU, Kind::Reply) => shared.answer(header, payload),
        (REMOTE, Kind::Event) => {
            if let Some(event) = events::read(header.procedure, &payload)? {
                shared.publish(event);
            }
            Ok(())
        }
        (KEEPALIVE, Kind::Event) => {
            if let (PING, Some(outgoing)) = (header.procedure, outgoing.upgrade()) {
                // A full queue is on its way out and is as good a sign of life.
                let _ = outgoing.try_send(Header::keepalive(PONG).packet(&[]));
            }
            Ok(())
        }
        (value, _) => Err(Malformed::Undefined { what: "program of such a packet", value }.into()),
    }
}

/// Ends when there is nobody left to write for, and then only when the daemon has let go of the stream: libvirt
/// 11.3 locks itself up, for every client, when one hangs up while a stream of its still brings bytes.
async fn writing(shared: &Shared, mut to: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>) -> Broken {
    while let Some(packet) = queue.recv().await {
        if let Err(error) = to.write_all(&packet).await {
            return error.into();
        }
    }
    while shared.is_streaming() {
        shared.unstreamed.notified().await;
    }
    Broken::Closed
}

/// What a dropped stream left in the queue has one more deadline to get out and to be answered.
async fn abandoned(shared: &Shared, settings: &Settings) -> Broken {
    shared.abandoned.notified().await;
    tokio::time::sleep(settings.deadline).await;
    Broken::Closed
}

async fn pinging(shared: &Shared, outgoing: &mpsc::WeakSender<Vec<u8>>, settings: &Settings) -> Broken {
    let mut ticks = tokio::time::interval(settings.ping_every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if !shared.pinging.load(Ordering::Relaxed) {
            continue;
        }
        let unheard = shared.unheard.fetch_add(1, Ordering::Relaxed);
        if unheard >= settings.pings_unheard_max {
            return Broken::Silent(unheard);
        }
        if let Some(outgoing) = outgoing.upgrade() {
            // A queue that stays full is a daemon that does not read: the count goes on.
            let _ = outgoing.try_send(Header::keepalive(PING).packet(&[]));
        }
    }
}
