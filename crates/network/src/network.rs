//! One instance's network as its agent keeps it: the plan in force, the host, and the names.

use crate::host::{Host, HostError, Step};
use crate::plan::{Member, Plan};
use crate::resolver::answers::{Answers, Wanted};
use crate::resolver::{Lasting, Listening};
use crate::ruleset::Resolved;
use perigee_model::InstanceId;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The network of one instance. While it lives, listed names are answered to guests at the gateway's address; when
/// it is dropped, guests stay on the network as they are, but hear of no name.
#[derive(Debug)]
pub struct Network {
    inner: Arc<Inner>,
    listening: Mutex<Option<Listening>>,
}

/// Why the network is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Of the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// All is as planned, but no names are answered.
    #[error("cannot answer names at {0}, port 53: {1}")]
    Names(Ipv4Addr, io::Error),
}

/// What the resolver shares with it.
#[derive(Debug)]
pub(crate) struct Inner {
    host: Host,
    upstreams: Vec<SocketAddr>,
    lasting: Lasting,
    /// Held while the kernel is told something, so that it hears of a policy and of answers in one order.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    answers: Answers,
    /// What the kernel held when we came is known.
    recalled: bool,
}

impl Network {
    /// Opens the network namespace of the calling thread; changes nothing. `upstreams`: who is asked for names.
    pub fn open(instance: &InstanceId, upstreams: Vec<SocketAddr>, lasting: Lasting) -> Result<Self, NetworkError> {
        let (host, state) = (Host::open(instance)?, Mutex::default());
        let inner = Arc::new(Inner { host, upstreams, lasting, state });
        Ok(Self { inner, listening: Mutex::default() })
    }

    /// What is there, and which subnets are free.
    pub fn host(&self) -> &Host {
        &self.inner.host
    }

    /// Makes it as the plan says, now and again; answers what was done. Of a policy that is taken back nothing is
    /// open any more when this returns, connections that were up included.
    pub async fn bring_about(&self, plan: Plan) -> Result<Vec<Step>, NetworkError> {
        let gateway = plan.subnet().gateway();
        let mut listening = self.listening.lock().await;
        if listening.as_ref().is_some_and(|listening| !listening.is_at(gateway)) {
            *listening = None;
        }
        let steps = self.inner.bring_about(plan, listening.is_some()).await?;
        if listening.is_none() {
            // Only when its address is there; and only then guests may ask there.
            let opened = Listening::open(gateway, &self.inner).await;
            *listening = Some(opened.map_err(|error| NetworkError::Names(gateway, error))?);
            self.inner.judge().await?;
        }
        Ok(steps)
    }

    /// Takes away all that is this instance's, whoever made it; answers what was done.
    pub async fn take_away(&self) -> Result<Vec<Step>, NetworkError> {
        *self.listening.lock().await = None;
        let mut state = self.inner.state.lock().await;
        *state = State { recalled: true, ..State::default() };
        Ok(self.inner.host.take_away().await?)
    }
}

impl Inner {
    async fn bring_about(&self, plan: Plan, answered: bool) -> Result<Vec<Step>, HostError> {
        let mut state = self.state.lock().await;
        if !state.recalled {
            let held = self.host.held().await?;
            state.answers.note(&held, tokio::time::Instant::now());
            state.recalled = true;
        }
        state.answers.keep(&plan);
        let held = state.answers.held(tokio::time::Instant::now());
        let steps = self.host.bring_about(&plan, Resolved { held: &held, answered }).await?;
        state.plan = Some(plan);
        Ok(steps)
    }

    /// The rules of the plan in force, with names answered.
    async fn judge(&self) -> Result<(), HostError> {
        let state = self.state.lock().await;
        let Some(plan) = &state.plan else { return Ok(()) };
        let held = state.answers.held(tokio::time::Instant::now());
        self.host.judge(plan, Resolved { held: &held, answered: true }).await
    }

    pub(crate) fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }

    /// Who has this address.
    pub(crate) async fn member(&self, address: Ipv4Addr) -> Option<Member> {
        self.state.lock().await.plan.as_ref()?.at(address).cloned()
    }

    /// Opens addresses that this guest is about to hear of; answers how many seconds it may keep them. `None`: they
    /// are not open, because its policy is another by now, it holds too many, or the kernel refused.
    pub(crate) async fn open_names(&self, member: &Member, wanted: &[Wanted], ttl_secs: u32) -> Option<u32> {
        let mut state = self.state.lock().await;
        if state.plan.as_ref()?.at(member.address) != Some(member) {
            return None;
        }
        let now = tokio::time::Instant::now();
        let missing = state.answers.missing(wanted, ttl_secs, self.lasting, now)?;
        if !missing.is_empty() {
            if let Err(error) = self.host.admit(&missing).await {
                tracing::error!(guest = %member.guest, %error, "cannot open what a name means");
                return None;
            }
            state.answers.note(&missing, now);
        }
        Some(ttl_secs.min(self.lasting.fresh_max.as_secs().try_into().unwrap_or(u32::MAX)))
    }
}
