//! One link: a conversation between one life of an agent and one reign.
//!
//! Owns: carrying both directions until an end leaves, a newer link takes over or the line is cut,
//! as the server's adapter does; forging and repeating orders when it is sabotaged.
//! Refuses: losing what only a new link would repeat.

use crate::network::Line;
use crate::pipe::{Fate, Pipe, Rough};
use crate::scene::Sabotage;
use perigee_agent_api::{DesiredGuest, FromAgent, FromServer, Hello};
use perigee_control::Control;
use perigee_model::guest::Problem;
use perigee_model::{Code, GuestId, HostId, Power, RestartPolicy};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A forged generation: higher than any real one.
const FORGED: u64 = 1000;
/// A gone guest's document is surely forgotten after this.
const FORGOTTEN: Duration = Duration::from_secs(70);

/// The agent's ends of a link and what it said first.
pub struct Ends {
    pub hello: Hello,
    pub to_agent: mpsc::Sender<FromServer>,
    pub from_agent: mpsc::Receiver<FromAgent>,
    pub severed: CancellationToken,
}

/// Carries a link until it ends.
pub async fn carry(line: Arc<Line>, control: Control, ends: Ends) {
    let Ends { hello, to_agent, mut from_agent, severed } = ends;
    let host = line.host;
    let mut end = match control.host_hello(host, hello).await {
        Ok(end) => end,
        Err(refusal) => return refuse(&to_agent, refusal.code).await,
    };
    let ended = end.ended.clone();
    let mut upwards = Pipe::new();
    let taken_over = tokio::select! {
        biased;
        () = severed.cancelled() => false,
        () = ended.cancelled() => true,
        () = up(&line, &control, &mut from_agent, &mut upwards) => false,
        () = down(&line, &mut end.outgoing, &to_agent) => false,
    };
    if taken_over {
        return refuse(&to_agent, Code::WriteConflict).await;
    }
    if severed.is_cancelled() {
        let most = if line.network.scene.settings.real_time { 500 } else { 20_000 };
        let (agent_notices, control_notices) = line.with_draw(|d| (d.millis(0, most / 2), d.millis(0, most)));
        tokio::join!(
            async {
                tokio::time::sleep(agent_notices).await;
                drop((to_agent, from_agent));
            },
            async {
                // The other end's packets may come out of some buffer long after.
                tokio::time::sleep(control_notices).await;
                deliver_rest(&control, host, &mut upwards).await;
            },
        );
    } else {
        // What a dead agent had sent still arrives.
        tokio::time::sleep(upwards.rest()).await;
        deliver_rest(&control, host, &mut upwards).await;
    }
    control.links().disconnect(host, &ended);
}

async fn deliver_rest(control: &Control, host: HostId, upwards: &mut Pipe<FromAgent>) {
    for message in upwards.drain() {
        // Refused: the agent says it again on its next link.
        let _ = control.host_message(host, message).await;
    }
}

async fn refuse(to_agent: &mpsc::Sender<FromServer>, code: Code) {
    let problem = Problem::new(code, "refused");
    let _ = to_agent.send(FromServer::Refused { problem, retry_after_ms: Some(500) }).await;
}

async fn up(line: &Line, control: &Control, from_agent: &mut mpsc::Receiver<FromAgent>, pipe: &mut Pipe<FromAgent>) {
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            () = pipe.arrival() => {
                let Some(message) = pipe.pop() else { continue };
                if control.host_message(line.host, message).await.is_err() {
                    return; // the agent repeats what matters on its next link
                }
            }
            message = from_agent.recv(), if open => match message {
                Some(message) => {
                    // Of a host's acts the order counts, and one link keeps it.
                    let late = if matches!(message, FromAgent::Intent(_)) { 0 } else { line.rough().late };
                    let fate = line.with_draw(|d| pipe.push(message, Rough { late, ..line.rough() }, false, d));
                    count(line, fate);
                }
                None => open = false,
            },
            () = tokio::time::sleep(pipe.rest()), if !open => return,
        }
    }
}

async fn down(line: &Arc<Line>, outgoing: &mut mpsc::Receiver<FromServer>, to_agent: &mpsc::Sender<FromServer>) {
    let mut pipe = Pipe::new();
    loop {
        tokio::select! {
            biased;
            () = pipe.arrival() => {
                let Some(message) = pipe.pop() else { continue };
                sabotage(line, &message);
                let message = restless(line, message);
                if to_agent.send(message).await.is_err() {
                    return;
                }
                line.heard.notify_waiters();
            }
            message = outgoing.recv() => match message {
                Some(message @ FromServer::Welcome { .. }) => pipe.push_now(message),
                Some(message) => {
                    let may_be_lost = is_nudge(&message);
                    let fate = line.with_draw(|d| pipe.push(message, line.rough(), may_be_lost, d));
                    count(line, fate);
                }
                None => return,
            },
            () = to_agent.closed() => return,
        }
    }
}

/// What the next resync repeats. Nothing but a new link repeats that an end was taken.
fn is_nudge(message: &FromServer) -> bool {
    match message {
        FromServer::Desired(_)
        | FromServer::DesiredAll(_)
        | FromServer::Execute(_)
        | FromServer::CancelExecution { .. }
        | FromServer::Operate(_)
        | FromServer::Volume(_)
        | FromServer::Network(_)
        | FromServer::OpenTunnel { .. } => true,
        FromServer::Welcome { .. }
        | FromServer::Refused { .. }
        | FromServer::ExecutionTaken { .. }
        | FromServer::Build { .. }
        | FromServer::BuildTaken { .. }
        | FromServer::OperationTaken { .. }
        | FromServer::IntentTaken { .. } => false,
    }
}

fn count(line: &Line, fate: Fate) {
    let kind = match fate {
        Fate::Plain => return,
        Fate::Lost => "lost message",
        Fate::Twice => "doubled message",
        Fate::Late => "overtaken message",
    };
    line.network.scene.checks.small_fault(kind);
}

/// Breaks a guard on purpose.
fn sabotage(line: &Arc<Line>, message: &FromServer) {
    let (line, network) = (line.clone(), line.network.clone());
    match (network.scene.settings.sabotage, message) {
        (Sabotage::CopyElsewhere, FromServer::Desired(order)) => {
            let mut forged = forged(order);
            let elsewhere = network.lines().into_iter().find(|other| other.host != line.host);
            if let Some(elsewhere) = elsewhere {
                forged.desired.host = Some(elsewhere.host);
                network.plane.spawn(async move { deliver(&elsewhere, FromServer::Desired(forged)).await });
            }
        }
        (Sabotage::ReplayForged, FromServer::Desired(order)) if order.desired.power == Power::Running => {
            let forged = forged(order);
            network.plane.spawn(async move {
                until_gone(&line, forged.id).await;
                tokio::time::sleep(FORGOTTEN).await;
                deliver(&line, FromServer::Desired(forged)).await;
            });
        }
        (Sabotage::Amnesia, FromServer::Execute(order)) => {
            let again = FromServer::Execute(order.clone());
            network.plane.spawn(async move {
                tokio::time::sleep(Duration::from_secs(20)).await;
                deliver(&line, again).await;
            });
        }
        _ => {}
    }
}

/// Says of every VM that it is always started again, if it is sabotaged.
fn restless(line: &Line, mut message: FromServer) -> FromServer {
    if line.network.scene.settings.sabotage != Sabotage::Restless {
        return message;
    }
    let always = |order: &mut DesiredGuest| {
        if let Some(vm) = order.spec.vm.as_mut() {
            vm.restart = RestartPolicy::Always;
        }
    };
    match &mut message {
        FromServer::Desired(order) => always(order),
        FromServer::DesiredAll(orders) => orders.iter_mut().for_each(always),
        _ => {}
    }
    message
}

fn forged(order: &DesiredGuest) -> Box<DesiredGuest> {
    let mut forged = order.clone();
    forged.desired.generation += FORGED;
    forged.desired.expires_at = None;
    Box::new(forged)
}

async fn deliver(line: &Line, message: FromServer) {
    if let Some(agent) = line.agent() {
        let _ = agent.send(message).await;
    }
}

async fn until_gone(line: &Line, guest: GuestId) {
    let scene = &line.network.scene;
    while scene.true_guest(guest).await.is_some_and(|g| !g.is_gone()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
