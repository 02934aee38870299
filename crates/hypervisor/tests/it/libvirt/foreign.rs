//! Domains of others, and becoming ours and theirs again.

use super::LibvirtLab;
use crate::contract::Lab;
use perigee_hypervisor::{HypervisorError, Plan};
use perigee_model::GuestId;

fn bad_plan<T: std::fmt::Debug>(said: Result<T, HypervisorError>) -> String {
    match said {
        Err(HypervisorError::BadPlan(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_domain_of_nobodys_is_left_alone_until_it_is_taken_over() {
    let lab = LibvirtLab::new().await;
    lab.daemon.define("theirs");
    lab.daemon.virsh(&["start", "theirs"]);
    let definition = lab.daemon.virsh(&["dumpxml", "theirs", "--inactive"]);
    let guest: GuestId = lab.daemon.virsh(&["domuuid", "theirs"]).parse().unwrap();
    let (driver, other) = (lab.driver(), lab.foreign_driver());
    assert_eq!(driver.inventory().await.unwrap(), []);
    driver.destroy(guest).await.unwrap();
    assert!(bad_plan(driver.start(&Plan { guest, ..lab.plan() }).await).contains("theirs"));
    assert!(matches!(driver.pause().unwrap().pause(guest).await, Err(HypervisorError::NotRunning)));
    let told = driver.measure().unwrap().usages().await.unwrap();
    assert_eq!((told[0].ours, told[0].name.as_deref()), (false, Some("theirs")));
    assert_eq!(lab.daemon.virsh(&["domstate", "theirs"]), "running", "nobody touched it");

    let adopt = driver.adopt().unwrap();
    let nobody = adopt.adopt(GuestId::new(lab.clock.uuid()), "memo").await;
    assert!(matches!(nobody, Err(HypervisorError::NotRunning)), "{nobody:?}");
    bad_plan(adopt.adopt(guest, "\u{0}").await);
    let found = adopt.adopt(guest, "first <&>").await.unwrap();
    assert!(found.alive && found.pid.is_some() && found.memo.as_deref() == Some("first <&>"), "{found:?}");
    assert_eq!(adopt.adopt(guest, "second").await.unwrap().memo.as_deref(), Some("second"));
    assert_eq!(driver.inventory().await.unwrap()[0].memo.as_deref(), Some("second"));
    assert!(driver.measure().unwrap().usages().await.unwrap()[0].ours);
    assert!(bad_plan(other.adopt().unwrap().adopt(guest, "mine").await).contains(lab.own.as_str()));
    other.adopt().unwrap().release(guest).await.expect("what is not its own it leaves");
    assert_eq!(other.inventory().await.unwrap(), []);
    driver.pause().unwrap().pause(guest).await.unwrap();
    assert_eq!(lab.daemon.virsh(&["domstate", "theirs"]), "paused");
    driver.pause().unwrap().resume(guest).await.unwrap();

    adopt.release(guest).await.unwrap();
    adopt.release(guest).await.expect("twice is fine");
    assert_eq!(driver.inventory().await.unwrap(), []);
    let bare = |text: String| text.replace("<metadata>\n  </metadata>\n  ", "").replace("  <metadata/>\n", "");
    assert_eq!(bare(lab.daemon.virsh(&["dumpxml", "theirs", "--inactive"])), definition, "it is as it was");
    assert_eq!(lab.daemon.virsh(&["domstate", "theirs"]), "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_mark_that_is_not_ours_is_none() {
    let lab = LibvirtLab::new().await;
    lab.daemon.define("marked");
    let guest: GuestId = lab.daemon.virsh(&["domuuid", "marked"]).parse().unwrap();
    let driver = lab.driver();
    let own = lab.own.as_str();
    let marks = [
        format!("<guest instance='{}' id='{guest}'>memo</guest>", lab.foreign),
        format!("<guest instance='{own}' id='00000000-0000-0000-0000-000000000001'/>"),
        format!("<guest instance='{own}'/>"),
        format!("<other instance='{own}' id='{guest}'/>"),
        "<guest/>".to_owned(),
    ];
    for mark in marks {
        let set = ["metadata", "marked", "urn:perigee:guest:1", "--key", "p", "--set", &mark, "--config"];
        lab.daemon.virsh(&set);
        assert_eq!(driver.inventory().await.unwrap(), [], "{mark}");
        driver.destroy(guest).await.unwrap();
        assert_eq!(lab.daemon.virsh(&["list", "--all", "--name"]), "marked", "{mark}");
    }
    let mark = format!("<guest instance='{own}' id='{guest}'/>");
    lab.daemon.virsh(&["metadata", "marked", "urn:perigee:guest:1", "--key", "p", "--set", &mark, "--config"]);
    assert_eq!(driver.inventory().await.unwrap().len(), 1, "this one is");
}
