//! Connecting to a machine's sockets.

use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// Between two looks whether there is room in a queue: connect(2) on a unix socket that does not block fails with
/// `EAGAIN` where there is none, and nothing tells when there is.
const LOOK: Duration = Duration::from_millis(20);

/// Connects, and waits for room in the queue of who listens: QEMU's hold one or two, and it takes nobody up while it
/// makes its machine. The caller sets the deadline.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(LOOK).await,
            told => return told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixSocket;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(told) = timeout(LOOK * 3, connect(&path)).await {
            waiting.push(told.unwrap());
        }
        assert!(!waiting.is_empty(), "the queue holds some");
        let (took_up, connected) =
            timeout(Duration::from_secs(10), async { tokio::join!(listener.accept(), connect(&path)) }).await.unwrap();
        took_up.unwrap();
        connected.unwrap();
        drop(listener);
        assert_eq!(connect(&path).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
