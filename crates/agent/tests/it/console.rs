//! Sitting at a guest of the simulated driver through a tunnel.

use crate::*;
use std::time::Duration;
use tokio::sync::mpsc;

type Ends = (mpsc::Sender<TunnelFrame>, mpsc::Receiver<TunnelFrame>);

async fn booted() -> (Rig, Running, GuestId) {
    let rig = Rig { simulated: Some(simulated::Machine::default()), ..Rig::new() };
    let agent = rig.start();
    let id = guest_id(1);
    rig.plane.want(wanted(id, 1, Power::Running));
    rig.plane.until_phase(id, Phase::Running).await;
    (rig, agent, id)
}

async fn next(rx: &mut mpsc::Receiver<TunnelFrame>) -> TunnelFrame {
    tokio::time::timeout(Duration::from_secs(60), rx.recv()).await.expect("nothing was said").expect("the tunnel ended")
}

async fn seated(rig: &Rig, guest: GuestId, seat: Seat) -> Ends {
    let (tx, mut rx) = rig.plane.tunnel(Purpose::Console { guest, seat });
    assert_eq!(next(&mut rx).await, TunnelFrame::Started);
    (tx, rx)
}

#[tokio::test(start_paused = true)]
async fn what_is_typed_is_said_back_until_somebody_leaves() {
    let (rig, _agent, id) = booted().await;
    let (tx, mut rx) = seated(&rig, id, Seat::Serial).await;
    tx.send(TunnelFrame::Data(b"hello".to_vec())).await.unwrap();
    assert_eq!(next(&mut rx).await, TunnelFrame::Data(b"hello".to_vec()));
    // Another sits down at the same port: the first is sent away.
    let (other_tx, mut other) = seated(&rig, id, Seat::Serial).await;
    assert_eq!(next(&mut rx).await, TunnelFrame::End);
    assert_eq!(rx.recv().await, None);
    other_tx.send(TunnelFrame::End).await.unwrap();
    assert_eq!(next(&mut other).await, TunnelFrame::End);
    let (_tx, mut screen) = seated(&rig, id, Seat::Vnc).await;
    assert_eq!(next(&mut screen).await, TunnelFrame::Data(b"RFB 003.008\n".to_vec()));
    // The guest goes, and the console with it.
    rig.plane.want(wanted(id, 2, Power::Absent));
    assert_eq!(next(&mut screen).await, TunnelFrame::End);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_up_the_guest_and_loses_nothing() {
    let (rig, _agent, id) = booted().await;
    let (tx, mut rx) = seated(&rig, id, Seat::Serial).await;
    let sent: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    let mut accepted = 0;
    let pieces: Vec<_> = sent.chunks(16 << 10).collect();
    while accepted < pieces.len() {
        let frame = TunnelFrame::Data(pieces[accepted].to_vec());
        match tokio::time::timeout(Duration::from_secs(1), tx.send(frame)).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break,
        }
        accepted += 1;
    }
    assert!(accepted < pieces.len(), "a mebibyte was taken and nobody read");
    let rest = async {
        for piece in &pieces[accepted..] {
            tx.send(TunnelFrame::Data(piece.to_vec())).await.unwrap();
        }
    };
    let reading = async {
        let mut heard = Vec::new();
        while heard.len() < sent.len() {
            let TunnelFrame::Data(bytes) = next(&mut rx).await else { panic!("it ended") };
            heard.extend(bytes);
        }
        heard
    };
    let ((), heard) = tokio::join!(rest, reading);
    assert!(heard == sent, "bytes were lost or changed");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sat_at_says_so() {
    let (rig, _agent, _) = booted().await;
    let refused = async |rig: &Rig, guest| {
        let (_tx, mut rx) = rig.plane.tunnel(Purpose::Console { guest, seat: Seat::Vnc });
        match next(&mut rx).await {
            TunnelFrame::Failed(problem) => problem.code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&rig, guest_id(9)).await, "PRG-4002");
    // The fake driver has no consoles at all.
    let rig = Rig::new();
    let _agent = rig.start();
    rig.plane.want(wanted(guest_id(1), 1, Power::Running));
    rig.plane.until_phase(guest_id(1), Phase::Running).await;
    assert_eq!(refused(&rig, guest_id(1)).await, "PRG-3010");
}
