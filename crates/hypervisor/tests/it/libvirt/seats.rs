//! Screens and serial ports.

use super::LibvirtLab;
use crate::cases::open;
use crate::contract::Lab;
use perigee_hypervisor::{HypervisorError, Seat, Stream};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_the_screen_speaks_rfb() {
    let lab = LibvirtLab::new().await;
    let (driver, plan) = (lab.driver(), lab.plan());
    let console = driver.console().unwrap();
    assert!(matches!(console.sit(plan.guest, Seat::Vnc).await.err(), Some(HypervisorError::NotRunning)));
    // Whoever comes while it starts is told that it does not run yet, and nothing else.
    let starting = tokio::spawn({
        let (driver, plan) = (driver.clone(), plan.clone());
        async move { driver.start(&plan).await }
    });
    while !starting.is_finished() {
        for seat in [Seat::Serial, Seat::Vnc] {
            let told = console.sit(plan.guest, seat).await.err();
            assert!(matches!(told, None | Some(HypervisorError::NotRunning)), "{seat:?}: {told:?}");
        }
    }
    starting.await.unwrap().unwrap();
    let mut screen = console.sit(plan.guest, Seat::Vnc).await.unwrap();
    let mut greeting = [0; 12];
    screen.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"RFB 003.008\n");
    driver.destroy(plan.guest).await.unwrap();
}

/// For a serial port to bring what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// A shell that was not there yet when a line was typed never sees it: it is typed again after this.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Reads until that was said.
async fn read_until(serial: &mut Box<dyn Stream>, wanted: &str) {
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(wanted) {
        assert_ne!(serial.read_buf(&mut said).await.unwrap(), 0, "it ended");
    }
}

/// Reads until that was said.
pub async fn heard(serial: &mut Box<dyn Stream>, wanted: &str) {
    let came = tokio::time::timeout(PATIENCE, read_until(serial, wanted)).await;
    came.unwrap_or_else(|_| panic!("{wanted} never came"));
}

/// Types it, again and again, until that is the answer.
async fn asked(serial: &mut Box<dyn Stream>, typed: &str, answer: &str) {
    let asking = async {
        loop {
            serial.write_all(typed.as_bytes()).await.unwrap();
            serial.flush().await.unwrap();
            if tokio::time::timeout(ANSWERS_WITHIN, read_until(serial, answer)).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{typed:?} was never answered {answer:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_the_serial_port_takes_and_gives_bytes() {
    let lab = LibvirtLab::new().await;
    let (driver, plan) = (lab.driver(), lab.plan());
    driver.start(&plan).await.unwrap();
    open(&lab, &*driver, plan.guest).await;
    let mut serial = driver.console().unwrap().sit(plan.guest, Seat::Serial).await.unwrap();
    // A shell, and another one when it is left.
    asked(&mut serial, "PS1='here> '; echo six times seven is $((6 * 7))\r", "is 42").await;
    serial.write_all(b"exit\r").await.unwrap();
    serial.flush().await.unwrap();
    heard(&mut serial, "/ # ").await;
    asked(&mut serial, "echo and again $((7 * 7))\r", "again 49").await;
    driver.destroy(plan.guest).await.unwrap();
}
