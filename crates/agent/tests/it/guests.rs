//! Guests: orders, time, admission, failures.

use crate::fake::Boots;
use crate::*;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_guest_is_created_used_and_deleted() {
    let rig = Rig::new();
    let _agent = rig.start();
    let id = guest_id(1);
    rig.plane.want(wanted(id, 1, Power::Running));
    rig.plane.until_phase(id, Phase::Running).await;
    let observed = rig.plane.with(|s| s.observed[&id].clone());
    assert_eq!(observed.kernel_release.as_deref(), Some("6.1-fake"));
    assert!(observed.boot_ms.unwrap() >= 500, "{observed:?}");

    let e = execution_id(1);
    rig.plane.send(FromServer::Execute(Box::new(execute(e, id, &["echo", "hello"]))));
    rig.plane.until("an end", |s| s.ends.contains_key(&e)).await;
    let end = rig.plane.with(|s| s.ends[&e].clone());
    assert_eq!((end.outcome, end.stdout.head), (Outcome::Exited { code: 0 }, b"hello".to_vec()));

    rig.plane.want(wanted(id, 2, Power::Absent));
    rig.plane.until_phase(id, Phase::Gone).await;
    rig.is_clean().await;
    let story: Vec<Phase> = rig.plane.with(|s| s.story.iter().map(|(_, p)| *p).collect());
    for pair in [[Phase::Booting, Phase::Running], [Phase::Running, Phase::Stopping], [Phase::Stopping, Phase::Gone]] {
        assert!(story.windows(2).any(|w| w == pair), "{pair:?} in {story:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn older_generations_and_reigns_are_refused() {
    let rig = Rig::new();
    let agent = rig.start();
    let id = guest_id(1);
    rig.plane.want(wanted(id, 5, Power::Running));
    rig.plane.until_phase(id, Phase::Running).await;
    rig.plane.send(FromServer::Desired(Box::new(wanted(id, 4, Power::Absent))));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.plane.with(|s| s.observed[&id].phase), Phase::Running);

    // A newer reign is served; a link of an older one is not, across a restart of the agent too.
    rig.plane.cut();
    rig.plane.with(|s| (s.epoch, s.up) = (7, true));
    rig.plane.until("a second link", |s| s.hellos.len() == 2).await;
    rig.plane.want(wanted(id, 6, Power::Running));
    rig.plane.until("generation 6", |s| s.observed[&id].generation == 6).await;
    rig.crash(agent).await;
    rig.plane.with(|s| (s.epoch, s.up) = (6, true));
    let _agent = rig.start();
    rig.plane.want(wanted(id, 9, Power::Absent));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(rig.fake.living().contains(&id), "an older reign ended a guest");
    assert!(!rig.health.is_ready());
    rig.plane.with(|s| s.epoch = 7);
    rig.plane.until_phase(id, Phase::Gone).await;
}

#[tokio::test(start_paused = true)]
async fn repeated_and_reordered_orders_end_at_the_newest() {
    let rig = Rig::new();
    let _agent = rig.start();
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    let id = guest_id(1);
    for generation in [3, 1, 3, 2, 2, 3, 1] {
        let power = if generation == 3 { Power::Running } else { Power::Absent };
        rig.plane.send(FromServer::Desired(Box::new(wanted(id, generation, power))));
        tokio::task::yield_now().await;
    }
    rig.plane.until_phase(id, Phase::Running).await;
    assert_eq!(rig.fake.with(|s| s.starts[&id]), 1);
    assert_eq!(rig.plane.with(|s| s.observed[&id].generation), 3);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_guest_does_not_wait_for_its_boot() {
    let rig = Rig::new();
    let _agent = rig.start();
    let id = guest_id(1);
    rig.fake.with(|s| s.boots.insert(id, Boots::Never));
    rig.plane.want(wanted(id, 1, Power::Running));
    rig.plane.until_phase(id, Phase::Booting).await;
    rig.plane.want(wanted(id, 2, Power::Absent));
    let began = tokio::time::Instant::now();
    rig.plane.until_phase(id, Phase::Gone).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    rig.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_boot_is_tried_with_a_slower_clock_then_fails() {
    let rig = Rig::new();
    let _agent = rig.start();
    let (slow, dead) = (guest_id(1), guest_id(2));
    rig.fake.with(|s| s.boots.extend([(slow, Boots::OnlySteady), (dead, Boots::Never)]));
    rig.plane.want(wanted(slow, 1, Power::Running));
    rig.plane.want(wanted(dead, 1, Power::Running));
    rig.plane.until_phase(slow, Phase::Running).await;
    rig.plane.until_phase(dead, Phase::Failed).await;
    assert_eq!(rig.fake.with(|s| (s.starts[&slow], s.starts[&dead])), (2, 2));
    let problem = rig.plane.with(|s| s.observed[&dead].problem.clone().unwrap());
    assert_eq!(problem.code, "PRG-7001");
    assert!(!rig.fake.with(|s| s.guests.contains_key(&dead)), "leftovers of a failed boot");
    // Nothing restarts it but a newer generation.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(rig.fake.with(|s| s.starts[&dead]), 2);
    rig.fake.with(|s| s.boots.insert(dead, Boots::Well));
    rig.plane.want(wanted(dead, 2, Power::Running));
    rig.plane.until_phase(dead, Phase::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_by_itself_fails_with_the_vmms_words() {
    let rig = Rig::new();
    let _agent = rig.start();
    let id = guest_id(1);
    rig.plane.want(wanted(id, 1, Power::Running));
    rig.plane.until_phase(id, Phase::Running).await;
    rig.fake.kill(id);
    rig.plane.until_phase(id, Phase::Failed).await;
    let problem = rig.plane.with(|s| s.observed[&id].problem.clone().unwrap());
    assert!(problem.text.contains("exit status 1"), "{problem:?}");
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(rig.fake.with(|s| (s.starts[&id], s.guests.len())), (1, 0), "no silent restart, no leftovers");
}

async fn most_boots_at_once(boots: Option<u32>) -> usize {
    let mut rig = Rig::new();
    rig.boots = boots;
    let _agent = rig.start();
    for n in 0..12 {
        rig.plane.want(wanted(guest_id(n), 1, Power::Running));
    }
    for n in 0..12 {
        rig.plane.until_phase(guest_id(n), Phase::Running).await;
    }
    rig.fake.with(|s| s.booting_most)
}

#[tokio::test(start_paused = true)]
async fn boots_in_flight_stay_within_the_bound() {
    assert_eq!(most_boots_at_once(None).await, 2);
    // The negative control: without the bound the same rig shows more.
    assert!(most_boots_at_once(Some(100)).await > 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_says_how_many_are_before_it() {
    let rig = Rig::new();
    let _agent = rig.start();
    for n in 0..5 {
        rig.plane.want(wanted(guest_id(n), 1, Power::Running));
    }
    let note = |s: &plane::State, n| s.observed.get(&guest_id(n)).and_then(|o| o.note.clone());
    // Two boot; the fifth has the other two before it, or those as well whose turn has just come.
    let before =
        |text: String| text.strip_prefix("waiting for a boot slot, ")?.strip_suffix(" before it")?.parse().ok();
    rig.plane.until("a note", |s| note(s, 4).and_then(before).is_some_and(|n: usize| (2..=4).contains(&n))).await;
    rig.plane.until_phase(guest_id(4), Phase::Running).await;
}

#[tokio::test(start_paused = true)]
async fn adopted_boots_hold_their_slots() {
    let rig = Rig::new();
    let agent = rig.start();
    for n in 0..6 {
        rig.plane.want(wanted(guest_id(n), 1, Power::Running));
    }
    rig.plane.until("two boots", |s| s.observed.values().filter(|o| o.phase == Phase::Booting).count() == 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.crash(agent).await;
    let _agent = rig.start();
    for n in 0..6 {
        rig.plane.until_phase(guest_id(n), Phase::Running).await;
        assert_eq!(rig.fake.with(|s| s.starts[&guest_id(n)]), 1, "guest {n}");
    }
    assert_eq!(rig.fake.with(|s| s.booting_most), 2);
}

#[tokio::test(start_paused = true)]
async fn time_to_live_needs_no_link() {
    let rig = Rig::new();
    let _agent = rig.start();
    let id = guest_id(1);
    let mut guest = wanted(id, 1, Power::Running);
    guest.desired.expires_at = Some(rig.clock.now() + Duration::from_secs(60));
    rig.plane.want(guest);
    rig.plane.until_phase(id, Phase::Running).await;
    rig.plane.cut();
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert!(rig.fake.with(|s| s.guests.is_empty()));
    rig.plane.with(|s| s.up = true);
    rig.plane.until_phase(id, Phase::Gone).await;
    assert_eq!(rig.plane.with(|s| s.observed[&id].problem.clone().unwrap().code), "PRG-7008");
    rig.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn gone_and_ends_are_repeated_until_taken() {
    let rig = Rig::new();
    let _agent = rig.start();
    let (id, e) = (guest_id(1), execution_id(1));
    rig.plane.want(wanted(id, 1, Power::Running));
    rig.plane.until_phase(id, Phase::Running).await;
    rig.plane.with(|s| s.takes = false);
    rig.plane.send(FromServer::Execute(Box::new(execute(e, id, &["exit", "3"]))));
    rig.plane.until("an end", |s| s.end_reports.get(&e) == Some(&1)).await;
    rig.plane.want(wanted(id, 2, Power::Absent));
    rig.plane.until_phase(id, Phase::Gone).await;
    for links in 2..4 {
        rig.plane.cut();
        rig.plane.with(|s| s.up = true);
        rig.plane.until("another link", |s| s.hellos.len() == links).await;
        rig.plane.until("the end again", |s| s.end_reports[&e] as usize >= links).await;
        rig.plane.until("gone again", |s| s.gone_reports[&id] as usize >= links).await;
    }
    assert!(rig.journal.count("guests") == 1 && rig.journal.count("executions") == 1);
    rig.plane.with(|s| {
        s.takes = true;
        s.desired.clear();
    });
    rig.plane.send(FromServer::ExecutionTaken { execution: e });
    rig.is_clean().await;
    let reports = rig.plane.with(|s| s.end_reports[&e]);
    rig.plane.cut();
    rig.plane.with(|s| s.up = true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.plane.with(|s| s.end_reports[&e]), reports, "a taken end was said again");
    tokio::time::sleep(Duration::from_secs(3700)).await;
    assert_eq!(rig.journal.count("executions"), 0, "kept for an hour, then removed");
}

#[tokio::test(start_paused = true)]
async fn guests_live_on_while_the_link_is_away_and_refusals_are_respected() {
    let rig = Rig::new();
    let agent = rig.start();
    let id = guest_id(1);
    rig.plane.want(wanted(id, 1, Power::Running));
    rig.plane.until_phase(id, Phase::Running).await;
    rig.plane.cut();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(rig.fake.living().contains(&id));
    let problem = guest::Problem::new(Code::HostRevoked, "revoked");
    rig.plane.with(|s| {
        s.up = true;
        s.refuse = Some(FromServer::Refused { problem, retry_after_ms: None });
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rig.health.parts()["link"].text.contains("revoked"));
    rig.plane.with(|s| s.refuse = None);
    rig.plane.until("a link", |s| s.hellos.len() == 2).await;
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn a_living_guest_without_a_document_is_left_alone() {
    let rig = Rig::new();
    let agent = rig.start();
    let (lost, dead) = (guest_id(1), guest_id(2));
    for id in [lost, dead] {
        rig.plane.want(wanted(id, 1, Power::Running));
        rig.plane.until_phase(id, Phase::Running).await;
    }
    rig.crash(agent).await;
    for id in [lost, dead] {
        rig.journal.remove("guests", &id.to_string()).await.unwrap();
    }
    rig.plane.with(|s| s.desired.clear());
    rig.fake.with(|s| s.guests.get_mut(&dead).unwrap().alive = false);
    let _agent = rig.start();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(rig.fake.with(|s| s.guests.contains_key(&lost) && !s.guests.contains_key(&dead)));
    assert!(rig.health.unknown_guests().contains(&lost));
    // Once it is ordered again it is adopted, not started.
    rig.plane.want(wanted(lost, 2, Power::Running));
    rig.plane
        .until("adopted", |s| s.observed[&lost].generation == 2 && s.observed[&lost].phase == Phase::Running)
        .await;
    assert_eq!(rig.fake.with(|s| s.starts[&lost]), 1);
}

#[tokio::test(start_paused = true)]
async fn builds_are_reported_until_taken() {
    let rig = Rig::new();
    let agent = rig.start();
    let image = ImageId::new(Uuid::from_u128(9));
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    rig.plane.send(FromServer::Build { image, recipe: Recipe::Base });
    rig.plane.until("progress", |s| s.builds.contains_key(&image)).await;
    rig.crash(agent).await;
    let _agent = rig.start();
    rig.plane.until("built", |s| matches!(s.builds.get(&image), Some(BuildStage::Built { .. }))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.journal.count("builds"), 0);
}
