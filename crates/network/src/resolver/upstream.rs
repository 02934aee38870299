//! Asking the world's resolvers: by UDP, and by TCP what does not fit.

use super::question::Asked;
use hickory_proto::op::{Message, ResponseCode};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Each resolver has so long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Most resolvers that are asked one after the other.
const UPSTREAMS_MAX: usize = 3;

/// The name servers of a `resolv.conf`, three at most, as other programs of the host take them.
pub fn upstreams(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, 53))
    });
    servers.take(UPSTREAMS_MAX).collect()
}

/// The first answer that is one; `None` if nobody gave any.
pub(super) async fn ask(servers: &[SocketAddr], asked: &Asked) -> Option<Message> {
    for server in servers.iter().take(UPSTREAMS_MAX) {
        let question = asked.question();
        let answer = async {
            match by_udp(*server, asked, &question).await? {
                cut if cut.metadata.truncation => by_tcp(*server, asked, &question).await,
                whole => Ok(whole),
            }
        };
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) if answer.metadata.response_code != ResponseCode::ServFail => return Some(answer),
            Ok(Ok(_)) => tracing::debug!(%server, name = %asked.name, "a resolver failed"),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver could not be asked"),
            Err(_) => tracing::debug!(%server, name = %asked.name, "a resolver did not answer"),
        }
    }
    None
}

/// From a port of its own that only this server is heard on; what is not the answer is passed over.
async fn by_udp(server: SocketAddr, asked: &Asked, question: &Message) -> io::Result<Message> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&encode(question)?).await?;
    let mut bytes = [0; 4096];
    loop {
        let length = socket.recv(&mut bytes).await?;
        match Message::from_vec(&bytes[..length]) {
            Ok(answer) if asked.is_answered_by(question, &answer) => return Ok(answer),
            _ => {}
        }
    }
}

async fn by_tcp(server: SocketAddr, asked: &Asked, question: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = encode(question)?;
    stream.write_u16(bytes.len() as u16).await?;
    stream.write_all(&bytes).await?;
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    let answer = Message::from_vec(&bytes).map_err(io::Error::other)?;
    if asked.is_answered_by(question, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::other("another question's answer"))
    }
}

fn encode(message: &Message) -> io::Result<Vec<u8>> {
    message.to_vec().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found_as_the_host_has_them() {
        let text = "# nameserver 9.9.9.9\nsearch a.com\nnameserver 1.1.1.1\n nameserver\t::1 # local\nnameserver x\n\
                    nameserver 8.8.8.8\nnameserver 8.8.4.4\noptions edns0\n";
        let found: Vec<_> = upstreams(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["1.1.1.1:53", "[::1]:53", "8.8.8.8:53"]);
        assert!(upstreams("").is_empty());
    }
}
