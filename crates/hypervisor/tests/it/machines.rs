//! The cases of the contract for drivers whose guests have disks, and can be stopped and told.

use crate::cases::{ended, exited, open, run};
use crate::contract::Lab;
use perigee_hypervisor::{Found, Halted, HypervisorError, Plan};
use perigee_model::Resources;
use std::time::Duration;
use uuid::Uuid;

const FIRST: Uuid = Uuid::from_u128(1);
const GRACE: Duration = Duration::from_secs(60);

/// Whether guests are full machines with a disk of their own.
fn have_disks(plan: &Plan) -> bool {
    plan.vm.as_ref().is_some_and(|vm| vm.disk_bytes.is_some())
}

pub async fn a_halted_guest_can_be_started_again(lab: &dyn Lab) {
    let before = lab.traces();
    let (driver, plan) = (lab.driver(), lab.plan());
    let Some(halt) = driver.halt() else {
        assert!(!driver.abilities().halt);
        return;
    };
    assert_eq!(halt.halt(plan.guest, GRACE).await.unwrap(), Halted::ByItself, "it does not run");
    let mut events = driver.events();
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    assert_eq!(halt.halt(plan.guest, GRACE).await.unwrap(), Halted::ByItself);
    session.closed().await;
    assert!(driver.inventory().await.unwrap().iter().all(|found| found.guest == plan.guest && !found.alive));
    assert!(events.try_recv().is_err(), "an end that was asked for is no news");
    assert!(driver.start(&plan).await.unwrap().alive);
    open(lab, &*driver, plan.guest).await;
    assert_eq!(halt.halt(plan.guest, Duration::ZERO).await.unwrap(), Halted::ByForce);
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
}

pub async fn a_halted_guest_keeps_its_disk(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    let Some(halt) = driver.halt().filter(|_| have_disks(&plan)) else { return };
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    let write = "echo 'here it is' | dd of=/dev/vda conv=fsync 2>&1";
    assert_eq!(run(&*session, FIRST, &["sh", "-c", write]).await.1, exited(0));
    halt.halt(plan.guest, GRACE).await.unwrap();
    let found = driver.inventory().await.unwrap();
    assert_eq!(found, [Found { memo: plan.memo.clone(), ..Found::dead(plan.guest) }]);

    let larger = Plan { resources: Resources { memory_bytes: 320 << 20, ..plan.resources }, ..plan };
    lab.driver().start(&larger).await.unwrap();
    let session = open(lab, &*driver, larger.guest).await;
    let read = "dd if=/dev/vda bs=11 count=1 2>/dev/null; free -m | awk '/^Mem/ { print ($2 > 260) }'";
    assert_eq!(run(&*session, FIRST, &["sh", "-c", read]).await.0, "here it is\n1\n", "the disk, and the new size");
    driver.destroy(larger.guest).await.unwrap();
}

pub async fn a_guest_that_turns_itself_off_is_told_as_clean(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    if !have_disks(&plan) {
        return;
    }
    let mut events = driver.events();
    driver.start(&plan).await.unwrap();
    let session = open(lab, &*driver, plan.guest).await;
    _ = session.exec(perigee_hypervisor::ExecStart::new(FIRST, ["poweroff", "-f"])).await;
    let (text, clean) = ended(&mut events, plan.guest).await;
    assert!(clean, "{text}");
    driver.destroy(plan.guest).await.unwrap();
}

pub async fn the_newest_memo_comes_back(lab: &dyn Lab) {
    let (driver, plan) = (lab.driver(), lab.plan());
    if driver.adopt().is_none() {
        return;
    }
    let memo = |text: &str| Plan { memo: Some(text.to_owned()), ..plan.clone() };
    let bad = driver.start(&memo("\u{7}")).await;
    assert!(matches!(bad, Err(HypervisorError::BadPlan(_))), "{bad:?}");
    let long = driver.start(&memo(&"x".repeat((64 << 10) + 1))).await;
    assert!(matches!(long, Err(HypervisorError::BadPlan(_))));
    driver.start(&memo("</guest> first")).await.unwrap();
    let longest = format!(" {}ü ", "<&>".repeat(21_840));
    assert_eq!(driver.start(&memo(&longest)).await.unwrap().memo.as_ref(), Some(&longest));
    assert_eq!(lab.driver().inventory().await.unwrap()[0].memo, Some(longest));
    driver.destroy(plan.guest).await.unwrap();
}
