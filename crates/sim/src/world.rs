//! One world, from its beginning to its end.
//!
//! Owns: putting the parts together, and the acts: peace, users under faults, settling, judgement,
//! tidying up. Refuses: any choice that is not the seed's.

use crate::checks::Tally;
use crate::draw::Draw;
use crate::faults::Chaos;
use crate::hands::Hand;
use crate::host::Host;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::plane::Plane;
use crate::scene::{Scene, Settings};
use crate::settle::settle;
use crate::truth::Ground;
use crate::users::User;
use crate::verdict::Verdict;
use perigee_control::{Cause, Control, Span};
use perigee_model::limits::TASK_DEADLINE;
use perigee_model::{ImageState, Name, Refusal, Role, Tenant, Who};
use perigee_store::MemoryStore;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const HOST_NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const USERS: usize = 3;
/// Agents keep what they know of a command for an hour; then they look once a minute.
const RETENTION: Duration = Duration::from_secs(3600 + 150);

/// What became of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its seed.
    pub seed: u64,
    /// What happened, line by line.
    pub story: String,
    /// What was checked and what struck.
    pub tally: Tally,
}

/// How long and how hard.
struct Plan {
    peace: Duration,
    strife: Duration,
    user_pause: u64,
    fault_pause: u64,
    worst: u64,
    settle: Duration,
    look: Duration,
}

struct World {
    scene: Arc<Scene>,
    plane: Arc<Plane>,
    hosts: Vec<Arc<Host>>,
    ledger: Arc<Ledger>,
    token: String,
    plan: Plan,
}

/// Plays a world in the current runtime. `sqlite`: a file for the truth, instead of memory.
pub async fn play(settings: Settings, sqlite: Option<PathBuf>) -> Ending {
    let memory = MemoryStore::new();
    let (ground, truth) = match sqlite {
        Some(path) => (Ground::Sqlite(path), None),
        None => (Ground::Memory(memory.reopen()), Some(memory)),
    };
    let scene = Arc::new(Scene::new(settings, truth));
    match World::begin(scene.clone(), ground).await {
        Ok(world) => world.play().await,
        Err(refusal) => scene.checks.that(false, "a world without faults comes up", || refusal.to_string()),
    }
    Ending { seed: settings.seed, story: scene.story.text(), tally: scene.checks.tally() }
}

impl World {
    async fn begin(scene: Arc<Scene>, ground: Ground) -> Result<Self, Refusal> {
        let plane = Arc::new(Plane::new(scene.clone(), ground));
        plane.start().await;
        let control = plane.reigning().await;
        let token = control.mint_key("users", Tenant::first(), Role::Admin).await?.0;
        let who = control.authenticate(&token)?;
        let network = Network::new(scene.clone(), plane.clone());
        let mut draw = Draw::new(scene.settings.seed, "world");
        let count = if scene.settings.real_time { 2 } else { 3 + draw.below(3) };
        let mut hosts = Vec::new();
        for name in HOST_NAMES.into_iter().take(count) {
            let secret = control.mint_join_secret(&who, None, &Cause::default()).await?.0.0;
            let joined = control.enrol(&secret, name, BTreeMap::new(), perigee_agent_api::VERSIONS).await?;
            scene.story.tell(format!("host {name} joins"));
            hosts.push(Host::new(&scene, &network, joined.id, name));
        }
        hosts.iter().for_each(|host| host.start());
        let plan = Plan::draw(&mut draw, scene.settings.real_time);
        build_image(&scene, &control, &who).await?;
        Ok(Self { scene, plane, hosts, ledger: Arc::default(), token, plan })
    }

    async fn play(self) {
        sleep(self.plan.peace).await;
        self.strife().await;
        self.scene.story.tell("all faults have ended");
        self.judge().await;
        self.tidy_up().await;
        for host in &self.hosts {
            host.stop().await;
        }
        self.plane.crash().await;
        self.scene.story.tell("the end");
    }

    /// Users and faults at once.
    async fn strife(&self) {
        let until = Instant::now() + self.plan.strife;
        let seed = self.scene.settings.seed;
        let mut acts = JoinSet::new();
        for number in 1..=USERS {
            let user = User {
                scene: self.scene.clone(),
                plane: self.plane.clone(),
                ledger: self.ledger.clone(),
                token: self.token.clone(),
                number,
                hosts: self.hosts.iter().map(|h| h.name.clone()).collect(),
                draw: Draw::new(seed, &format!("user {number}")),
                modest: self.scene.settings.real_time,
            };
            acts.spawn(user.live(until, self.plan.user_pause));
        }
        for (place, host) in self.hosts.iter().enumerate() {
            let hand = Hand {
                scene: self.scene.clone(),
                host: host.clone(),
                ledger: self.ledger.clone(),
                draw: Draw::new(seed, &format!("hand {}", host.name)),
                first_uid: 1000 * (place as u32 + 1),
            };
            acts.spawn(hand.live(until, self.plan.user_pause));
        }
        let chaos = Chaos {
            scene: self.scene.clone(),
            plane: self.plane.clone(),
            hosts: self.hosts.clone(),
            draw: Draw::new(seed, "faults"),
            worst: self.plan.worst,
        };
        acts.spawn(chaos.reign(until, self.plan.fault_pause));
        while let Some(ended) = acts.join_next().await {
            self.scene.checks.that(ended.is_ok(), "the simulation itself never panics", || format!("{ended:?}"));
            self.scene.check_starts();
        }
    }

    async fn judge(&self) {
        let who = self.plane.reigning().await.authenticate(&self.token);
        let open = match who {
            Ok(who) => settle(&self.plane, &self.hosts, &who, self.plan.settle, self.plan.look).await,
            Err(refusal) => vec![refusal.to_string()],
        };
        for text in &open {
            self.scene.checks.that(false, "all settles once faults have ended", || text.clone());
        }
        self.scene.story.tell("all has settled");
        let control = self.plane.reigning().await;
        let verdict = Verdict { scene: &self.scene, control: &control, hosts: &self.hosts, ledger: &self.ledger };
        verdict.speak().await;
    }

    /// Everything is deleted; then nothing may be left, and after a while nothing be remembered.
    async fn tidy_up(&self) {
        let control = self.plane.reigning().await;
        self.scene.story.tell("everything is deleted");
        if let Err(refusal) = self.delete_all(&control).await {
            self.scene.checks.that(false, "a delete without faults is taken", || refusal.to_string());
        }
        self.judge().await;
        if !self.scene.settings.real_time {
            sleep(RETENTION).await;
            let verdict = Verdict { scene: &self.scene, control: &control, hosts: &self.hosts, ledger: &self.ledger };
            verdict.nothing_is_kept();
        }
    }

    async fn delete_all(&self, control: &Control) -> Result<(), Refusal> {
        let who = control.authenticate(&self.token)?;
        for guest in control.list_guests(&who, Span::default(), |_| true)? {
            self.ledger.touched(guest.id);
            let task = control.delete_guest(&who, &guest.id.to_string(), None, &Cause::default()).await?;
            self.ledger.deleted(guest.id, task.id);
        }
        Ok(())
    }
}

/// The image every guest starts from, built by one of the hosts.
async fn build_image(scene: &Scene, control: &Control, who: &Who) -> Result<(), Refusal> {
    let name = Name::parse("base").map_err(|e| Refusal::field("name", e.to_string()))?;
    let (image, task) = control.build_image(who, name, "base", &Cause::default()).await?;
    control.wait_task(task.id, Duration::from_secs(60)).await?;
    let ready = control.view().image(image.id).is_some_and(|i| i.state == ImageState::Ready);
    scene.checks.that(ready, "an image is built in peace", || "it was not".to_owned());
    scene.story.tell("the image base is ready");
    Ok(())
}

impl Plan {
    fn draw(draw: &mut Draw, real_time: bool) -> Self {
        if real_time {
            return Self {
                peace: Duration::from_millis(300),
                strife: Duration::from_secs(4),
                user_pause: 250,
                fault_pause: 900,
                worst: 700,
                settle: Duration::from_secs(90),
                look: Duration::from_millis(100),
            };
        }
        Self {
            peace: Duration::from_secs(2),
            strife: draw.millis(40_000, 120_000),
            user_pause: draw.millis(1500, 6000).as_millis() as u64,
            fault_pause: draw.millis(2000, 14_000).as_millis() as u64,
            worst: draw.millis(4000, 45_000).as_millis() as u64,
            settle: TASK_DEADLINE + Duration::from_secs(300),
            look: Duration::from_secs(1),
        }
    }
}
