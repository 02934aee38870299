//! Consoles: the bytes of a guest's serial port or screen, until either side leaves.
//!
//! Nothing is lost and little waits: a piece is read from the guest when the one before it was taken, and
//! from the control plane when the guest took the one before.

use super::problem_of;
use crate::uplink::Tunnel;
use crate::world::World;
use perigee_agent_api::TunnelFrame;
use perigee_hypervisor::{HypervisorError, Seat, Stream};
use perigee_model::guest::Problem;
use perigee_model::limits::CONSOLE_OPEN_TIMEOUT;
use perigee_model::{Code, GuestId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

/// Bytes read from a guest at once; one frame's worth at most.
const PIECE_BYTES: usize = 32 << 10;

pub(super) async fn sit(world: &World, guest: GuestId, seat: Seat, tunnel: Tunnel) {
    let Tunnel { tx, rx } = tunnel;
    let opened = tokio::time::timeout(CONSOLE_OPEN_TIMEOUT, open(world, guest, seat)).await;
    let opened = opened.unwrap_or_else(|_| Err(Problem::new(Code::ChannelBroken, "the console did not open in time")));
    let last = match opened {
        Ok(stream) => {
            if tx.send(TunnelFrame::Started).await.is_err() {
                return;
            }
            let (from, to) = tokio::io::split(stream);
            tokio::select! {
                last = speak(from, &tx) => last,
                last = listen(to, rx) => last,
                () = tx.closed() => return,
            }
        }
        Err(problem) => TunnelFrame::Failed(problem),
    };
    let _ = tx.send(last).await;
}

async fn open(world: &World, guest: GuestId, seat: Seat) -> Result<Box<dyn Stream>, Problem> {
    let none = || Problem::new(Code::NoSuchSeat, format!("the guest has no {} console", seat.text()));
    let driver = world.drivers[world.guest(guest).await?.driver].clone();
    match driver.console().ok_or_else(none)?.sit(guest, seat).await {
        Ok(stream) => Ok(stream),
        Err(HypervisorError::BadPlan(text)) => Err(Problem::new(Code::NoSuchSeat, text)),
        Err(error) => Err(problem_of(&error)),
    }
}

/// What the guest says, to its end.
async fn speak(mut from: ReadHalf<Box<dyn Stream>>, tx: &mpsc::Sender<TunnelFrame>) -> TunnelFrame {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece).await {
            Ok(0) => return TunnelFrame::End,
            Ok(read) => {
                if tx.send(TunnelFrame::Data(piece[..read].to_vec())).await.is_err() {
                    return TunnelFrame::End;
                }
            }
            Err(error) => return broke(&error),
        }
    }
}

/// What the person says, until they leave.
async fn listen(mut to: WriteHalf<Box<dyn Stream>>, mut rx: mpsc::Receiver<TunnelFrame>) -> TunnelFrame {
    while let Some(TunnelFrame::Data(bytes)) = rx.recv().await {
        if let Err(error) = to.write_all(&bytes).await {
            return broke(&error);
        }
    }
    // Politely, if it can be said at once; otherwise the stream's drop says it.
    let _ = to.shutdown().await;
    TunnelFrame::End
}

fn broke(error: &std::io::Error) -> TunnelFrame {
    TunnelFrame::Failed(Problem::new(Code::ChannelBroken, format!("the console broke off: {error}")))
}
