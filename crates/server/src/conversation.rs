//! What is said over an agent's link, whatever carries it: control, measurements, tunnels.
//!
//! Owns: the order of words and when a conversation ends. Refuses: protocols; `grpc` and `ws` give
//! it queues of plain messages and know who speaks.

use futures::{Stream, StreamExt as _};
use perigee_agent_api::{FramesDown, FramesUp, FromAgent, FromServer, TunnelFrame};
use perigee_control::watch::{Feed, Taken};
use perigee_control::{Control, LinkEnd, Tunnel};
use perigee_model::guest::Problem;
use perigee_model::{Code, HostId, Refusal, RunId};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A first word must come within this time.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A control stream, from hello to end.
pub async fn control(
    control: Control,
    host: HostId,
    mut incoming: impl Stream<Item = FromAgent> + Unpin,
    tx: mpsc::Sender<FromServer>,
    cancel: CancellationToken,
) {
    let Ok(Some(FromAgent::Hello(hello))) = tokio::time::timeout(HELLO_TIMEOUT, incoming.next()).await else {
        let refusal = Refusal::new(Code::BadRequest, "the first message is a hello, within 10 s");
        return refuse(&tx, &refusal).await;
    };
    match control.host_hello(host, hello).await {
        Ok(end) => serve(&control, host, incoming, end, tx, cancel).await,
        Err(refusal) => refuse(&tx, &refusal).await,
    }
}

/// Carries both directions of a control stream until either end, or a newer link, ends it.
async fn serve(
    control: &Control,
    host: HostId,
    mut incoming: impl Stream<Item = FromAgent> + Unpin,
    mut end: LinkEnd,
    tx: mpsc::Sender<FromServer>,
    cancel: CancellationToken,
) {
    let ended = end.ended.clone();
    let outgoing = async {
        while let Some(message) = end.outgoing.recv().await {
            if tx.send(message).await.is_err() {
                return;
            }
        }
        // Nobody sends any more: the link was ended, and `ended` says so in a moment.
        std::future::pending::<()>().await;
    };
    let reports = async {
        while let Some(message) = incoming.next().await {
            if let Err(refusal) = control.host_message(host, message).await {
                // The agent repeats what matters on its next link.
                tracing::warn!(%host, %refusal, "a report could not be taken; the link starts again");
                return;
            }
        }
    };
    tokio::select! {
        () = outgoing => {}
        () = reports => {}
        () = ended.cancelled() => {
            refuse(&tx, &Refusal::new(Code::WriteConflict, "a newer link of this host took over, or it was revoked")).await;
        }
        () = cancel.cancelled() => {
            refuse(&tx, &Refusal::new(Code::ShuttingDown, "the control plane is shutting down")).await;
        }
    }
    control.links().disconnect(host, &ended);
    tracing::info!(%host, "host disconnected");
}

async fn refuse(tx: &mpsc::Sender<FromServer>, refusal: &Refusal) {
    let final_word = matches!(
        refusal.code,
        Code::HostRevoked | Code::VersionRefused | Code::BadCertificate | Code::NoSuchHost | Code::TwinAgent
    );
    let message = FromServer::Refused {
        problem: Problem::new(refusal.code, refusal.shown.clone()),
        retry_after_ms: (!final_word).then_some(500),
    };
    drop(tx.send(message).await);
}

/// Takes a stream's frames and tells how far they are durable, until either end goes.
pub async fn frames(
    mut feed: Feed,
    mut incoming: impl Stream<Item = FramesUp> + Unpin,
    tx: mpsc::Sender<FramesDown>,
    cancel: CancellationToken,
) {
    let mut again: Option<(RunId, Vec<u8>)> = None;
    let mut not_before = tokio::time::Instant::now();
    loop {
        let frame = async {
            tokio::time::sleep_until(not_before).await;
            match again.take() {
                Some(frame) => Some(frame),
                None => match incoming.next().await? {
                    FramesUp::Frame { run, frame } => Some((run, frame)),
                    FramesUp::Begin(_) => None,
                },
            }
        };
        tokio::select! {
            down = feed.next() => {
                if tx.send(down).await.is_err() {
                    return;
                }
            }
            frame = frame => {
                let Some((run, frame)) = frame else { return };
                let wait = match feed.take(run, &frame) {
                    Taken::Wait(wait) => wait,
                    Taken::Again(wait) => {
                        again = Some((run, frame));
                        wait
                    }
                };
                not_before = tokio::time::Instant::now() + wait;
            }
            () = tx.closed() => return,
            () = cancel.cancelled() => return,
        }
    }
}

/// Joins a tunnel with the agent's frames.
pub async fn tunnel(
    Tunnel { tx, mut rx }: Tunnel,
    mut incoming: impl Stream<Item = TunnelFrame> + Unpin + Send + 'static,
    out: mpsc::Sender<TunnelFrame>,
) {
    let reader = tokio::spawn(async move {
        while let Some(frame) = incoming.next().await {
            if tx.send(frame).await.is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            frame = rx.recv() => {
                // Nobody on our side any more: nothing that still comes is wanted.
                let Some(frame) = frame else { return reader.abort() };
                if out.send(frame).await.is_err() { return }
            }
            // The agent wants no more frames; its own last ones may still be on their way.
            () = out.closed() => return,
        }
    }
}
