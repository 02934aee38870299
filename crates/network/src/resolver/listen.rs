//! The sockets at the gateway's address.

use super::turns::Turns;
use super::{answer, question};
use crate::network::Inner;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PORT: u16 = 53;
/// Longest question: a name has 255 bytes, and options are not read.
const QUESTION_BYTES_MAX: usize = 1024;
/// A connection brings its next question within this time.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);

/// Listening until it is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    gateway: Ipv4Addr,
    tasks: [JoinHandle<()>; 2],
}

impl Listening {
    /// Opens both sockets; the address must be there.
    pub async fn open(gateway: Ipv4Addr, network: &Arc<Inner>) -> io::Result<Self> {
        let (udp, tcp) = (UdpSocket::bind((gateway, PORT)).await?, TcpListener::bind((gateway, PORT)).await?);
        let turns = Turns::default();
        let datagrams = tokio::spawn(datagrams(Arc::new(udp), network.clone(), turns.clone()));
        let connections = tokio::spawn(connections(tcp, network.clone(), turns));
        Ok(Self { gateway, tasks: [datagrams, connections] })
    }

    /// Whether it listens there, and nothing of it has ended.
    pub fn is_at(&self, gateway: Ipv4Addr) -> bool {
        self.gateway == gateway && !self.tasks.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn guest(from: SocketAddr) -> Option<Ipv4Addr> {
    match from.ip() {
        IpAddr::V4(guest) => Some(guest),
        IpAddr::V6(_) => None,
    }
}

async fn datagrams(socket: Arc<UdpSocket>, network: Arc<Inner>, turns: Turns) {
    let mut bytes = [0; QUESTION_BYTES_MAX];
    loop {
        let (length, from) = match socket.recv_from(&mut bytes).await {
            Ok(came) => came,
            Err(error) => return tracing::error!(%error, "names are not answered any more by UDP"),
        };
        let Some(guest) = guest(from) else { continue };
        // Whoever asks too much at a time is not heard, and asks again.
        let Some(turn) = turns.take(guest) else { continue };
        let (socket, network, heard) = (socket.clone(), network.clone(), bytes[..length].to_vec());
        tokio::spawn(async move {
            let reply = answer(&network, guest, &heard).await;
            if let Some(datagram) = reply.and_then(|reply| question::datagram(&reply, &heard)) {
                // A guest that is gone hears nothing.
                _ = socket.send_to(&datagram, from).await;
            }
            drop(turn);
        });
    }
}

async fn connections(listener: TcpListener, network: Arc<Inner>, turns: Turns) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(came) => came,
            Err(error) => return tracing::error!(%error, "names are not answered any more by TCP"),
        };
        let Some(guest) = guest(from) else { continue };
        let Some(turn) = turns.take(guest) else { continue };
        let network = network.clone();
        tokio::spawn(async move {
            // Its end, by whichever side, ends nothing but the conversation.
            _ = conversation(stream, guest, &network).await;
            drop(turn);
        });
    }
}

/// One question after the other, until there is none in time.
async fn conversation(mut stream: TcpStream, guest: Ipv4Addr, network: &Inner) -> io::Result<()> {
    loop {
        let heard = timeout(QUESTION_WITHIN, question(&mut stream)).await??;
        let Some(reply) = answer(network, guest, &heard).await else { return Ok(()) };
        let bytes = reply.to_vec().map_err(io::Error::other)?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(QUESTION_WITHIN, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await??;
    }
}

async fn question(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length: usize = stream.read_u16().await?.into();
    if length > QUESTION_BYTES_MAX {
        return Err(io::Error::other("longer than a question is"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
