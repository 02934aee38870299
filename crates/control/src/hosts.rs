//! Hosts: joining, linking, and what they say of themselves.

use crate::guests::desired_of;
use crate::links::{Return, Twins};
use crate::{Cause, Control, LinkEnd, Span, refuse_store};
use perigee_agent_api::{DesiredGuest, FromAgent, FromServer, Hello, VERSIONS, VersionRange};
use perigee_model::limits::HEARTBEAT_EVERY;
use perigee_model::name::labels_fault;
use perigee_model::{Code, Host, HostId, Inventory, Labels, Name, Refusal, Reporting, RunId, Tenant, Verb, Who};
use perigee_store::{Batch, Change, Noun, Record};
use std::sync::Arc;

impl Control {
    /// Turns a join token into a host record. The token is used up in the same write.
    ///
    /// # Errors
    /// `BadJoinToken`, `VersionRefused`, `BadField` for labels beyond the limits.
    pub async fn enrol(
        &self,
        secret: &str,
        hostname: &str,
        labels: Labels,
        versions: VersionRange,
    ) -> Result<Arc<Host>, Refusal> {
        speak(versions)?;
        if let Some(fault) = labels_fault(&labels) {
            return Err(Refusal::field("labels", fault));
        }
        let key = self.join_key(secret)?;
        let host = self.new_host(self.free_host_name(hostname), labels);
        let mut batch = Batch::default();
        let about = ("host", host.id.to_string());
        let detail = host.name.to_string();
        batch.events.push(self.event((&key.tenant, &key.name), "host.join", about, &Cause::default(), detail));
        // Writing the key again under its revision lets only one of two enrolments win.
        let used = perigee_store::Key { expires_at: Some(key.created_at), revision: key.revision + 1, ..key };
        let digest = used.digest.clone();
        batch.update(Record::Key(used));
        batch.changes.push(Change::Delete(Noun::Key, digest));
        batch.insert(Record::Host(host.clone()));
        self.commit(batch).await.map_err(|error| match error {
            perigee_store::StoreError::Stale { .. } => {
                Refusal::new(Code::BadJoinToken, "the join token was just used by another host")
            }
            other => refuse_store(other),
        })?;
        Ok(Arc::new(host))
    }

    /// A host that nothing is known of yet.
    pub(crate) fn new_host(&self, name: Name, labels: Labels) -> Host {
        Host {
            id: HostId::new(self.clock().uuid()),
            name,
            labels,
            created_at: self.clock().now(),
            revoked: false,
            drained: false,
            inventory: None,
            run: None,
            seen_at: None,
            reporting: Reporting::default(),
            revision: 1,
        }
    }

    /// Whether a host of a verified certificate may speak.
    ///
    /// # Errors
    /// `NoSuchHost` or `HostRevoked`.
    pub fn admit_host(&self, id: HostId) -> Result<Arc<Host>, Refusal> {
        let host = self.view().host(id).ok_or_else(|| {
            Refusal::new(Code::NoSuchHost, "this control plane does not know the host; join it again")
        })?;
        if host.revoked {
            return Err(Refusal::new(Code::HostRevoked, "the host was revoked; join it again with a new token"));
        }
        Ok(host)
    }

    /// Takes a hello: the link is up, and the agent gets everything it should have.
    ///
    /// # Errors
    /// `BadCertificate` when the hello names another host, `VersionRefused`, `HostRevoked`, `TwinAgent`
    /// when a process with the same identity that began later is linked.
    pub async fn host_hello(&self, host: HostId, hello: Hello) -> Result<LinkEnd, Refusal> {
        self.admit_host(host)?;
        if hello.host != host {
            return Err(Refusal::new(Code::BadCertificate, "the hello names another host than the certificate"));
        }
        let version = speak(hello.versions)?;
        self.watch_for_twins(host, hello.run).await?;
        self.keep_inventory(host, &hello.inventory, Some(hello.run)).await?;
        let end = self.links().connect(host, hello.run);
        let heartbeat_ms = u64::try_from(HEARTBEAT_EVERY.as_millis()).unwrap_or(u64::MAX);
        self.links().send(host, FromServer::Welcome { version, epoch: self.epoch(), heartbeat_ms });
        for report in hello.guests {
            self.settle_guest(host, &report).await?;
        }
        self.resync_host(host);
        self.settle_unheard(host, &hello.executions).await;
        self.0.queue_wake.notify_one();
        tracing::info!(%host, run = %hello.run, "host connected");
        Ok(end)
    }

    /// Two processes with one host's identity, a copied data directory perhaps, would fight over its
    /// guests: the newest run wins, and it is told.
    async fn watch_for_twins(&self, host: HostId, run: RunId) -> Result<(), Refusal> {
        let Some(Return { twins, is_news, stays_out }) = self.links().returns(host, run) else { return Ok(()) };
        if is_news {
            let Twins { older, newer, .. } = twins;
            tracing::warn!(%host, %older, %newer, "two agents have the identity of this host");
            let (about, actor) = (("host", host.to_string()), format!("host:{host}"));
            let detail = format!("two agents have its identity: run {newer} is served, run {older} is refused");
            let mut batch = Batch::default();
            let (tenant, cause) = (Tenant::first(), Cause::default());
            batch.events.push(self.event((&tenant, &actor), "host.twins", about, &cause, detail));
            self.commit(batch).await.map_err(refuse_store)?;
        }
        if !stays_out {
            return Ok(());
        }
        let text =
            "another agent, which was started later, has this host's identity; stop one of the two and join it anew";
        Err(Refusal::new(Code::TwinAgent, text))
    }

    /// Takes any later message of a link.
    ///
    /// # Errors
    /// What the store says; the agent repeats what matters.
    pub async fn host_message(&self, host: HostId, message: FromAgent) -> Result<(), Refusal> {
        self.links().heard(host);
        match message {
            FromAgent::Hello(_) => Err(Refusal::new(Code::BadRequest, "a link has one hello")),
            FromAgent::Heartbeat { inventory: None } => Ok(()),
            FromAgent::Heartbeat { inventory: Some(inventory) } => self.keep_inventory(host, &inventory, None).await,
            FromAgent::Guest(report) => self.settle_guest(host, &report).await,
            FromAgent::Execution(report) => self.settle_execution(host, *report).await,
            FromAgent::Build(report) => self.settle_build(host, report).await,
            FromAgent::Operation(report) => self.settle_operation(host, &report).await,
            FromAgent::Volume(report) => self.settle_volume(host, &report).await,
            FromAgent::Network(report) => self.settle_network(host, &report).await,
            FromAgent::Intent(intent) => self.settle_intent(host, &intent).await,
        }
    }

    /// Everything that should be so on a host, and everything it should be doing.
    pub fn resync_host(&self, host: HostId) {
        let (guests, orders) = {
            let rows = self.view().read();
            let guests: Vec<DesiredGuest> =
                rows.living_guests().filter(|g| g.desired.host == Some(host)).map(|g| desired_of(g)).collect();
            let orders: Vec<FromServer> = rows
                .open_tasks()
                .filter(|t| t.host == Some(host) && t.state == perigee_model::TaskState::Running)
                .flat_map(|t| self.orders_of(&rows, t))
                .chain(crate::volumes::leftovers(&rows, host))
                .chain(crate::networks::leftovers(&rows, host))
                .collect();
            (guests, orders)
        };
        self.links().send(host, FromServer::DesiredAll(guests));
        for order in orders {
            self.links().send(host, order);
        }
    }

    /// Every host. Hosts belong to the installation, not to a tenant.
    ///
    /// # Errors
    /// `Denied`.
    pub fn list_hosts(
        &self,
        who: &Who,
        span: Span<HostId>,
        fits: impl Fn(&Host) -> bool,
    ) -> Result<Vec<Arc<Host>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.oldest(&self.view().read().hosts, |h| !h.revoked && fits(h)))
    }

    /// One host by id or name.
    ///
    /// # Errors
    /// `NoSuchHost`.
    pub fn find_host(&self, who: &Who, text: &str) -> Result<Arc<Host>, Refusal> {
        who.authorize(Verb::See)?;
        let id = text.parse::<HostId>().ok();
        let rows = self.view().read();
        let mut known = rows.hosts.values().filter(|h| !h.revoked);
        let found = known.find(|h| Some(h.id) == id || h.name.as_str() == text).cloned();
        found.ok_or_else(|| Refusal::new(Code::NoSuchHost, "no host has this name or id"))
    }

    /// Revokes a host at once: its link ends and its certificate is worth nothing.
    ///
    /// # Errors
    /// `Denied`, `NoSuchHost`, `HostInUse` while guests are placed on it.
    pub async fn revoke_host(
        &self,
        who: &Who,
        text: &str,
        revision: Option<u64>,
        cause: &Cause,
    ) -> Result<(), Refusal> {
        who.authorize(Verb::Administer)?;
        let host = self.find_host(who, text)?;
        crate::guests::check_revision(revision, host.revision)?;
        let guests = self.view().read().living_guests().filter(|g| g.desired.host == Some(host.id)).count();
        if guests > 0 {
            return Err(Refusal::new(Code::HostInUse, format!("{guests} guests are on the host; delete them first")));
        }
        let volumes = self.view().read().volumes.values().filter(|v| v.host == host.id).count();
        if volumes > 0 {
            return Err(Refusal::new(Code::HostInUse, format!("{volumes} volumes are on the host; delete them first")));
        }
        let networks = self.view().read().networks.values().filter(|n| n.host == host.id).count();
        if networks > 0 {
            return Err(Refusal::new(
                Code::HostInUse,
                format!("{networks} networks are on the host; delete them first"),
            ));
        }
        let mut gone = host.as_ref().clone();
        gone.revoked = true;
        // The name is free for the next host of this name.
        gone.name = Name::parse(&format!("revoked-{}", host.id.short())).unwrap_or(gone.name);
        gone.revision += 1;
        let mut batch = Batch { idempotency: cause.row(""), ..Batch::default() };
        let about = ("host", host.id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), "host.revoke", about, cause, host.name.as_str()));
        batch.update(Record::Host(gone));
        self.commit(batch).await.map_err(refuse_store)?;
        self.links().cut(host.id);
        Ok(())
    }

    /// Writes an inventory down if it, or the agent's run, is new.
    async fn keep_inventory(&self, id: HostId, inventory: &Inventory, run: Option<RunId>) -> Result<(), Refusal> {
        self.decide(|| {
            let host = self.admit_host(id)?;
            let run = run.or(host.run);
            if host.inventory.as_ref() == Some(inventory) && host.run == run {
                return Ok((Batch::default(), ()));
            }
            let mut next = host.as_ref().clone();
            next.inventory = Some(inventory.clone());
            next.run = run;
            next.seen_at = Some(self.clock().now());
            next.revision += 1;
            let mut batch = Batch::default();
            if host.run != run {
                let about = ("host", id.to_string());
                let actor = format!("host:{id}");
                let tenant = Tenant::first();
                batch.events.push(self.event((&tenant, &actor), "host.run", about, &Cause::default(), ""));
            }
            batch.update(Record::Host(next));
            Ok((batch, ()))
        })
        .await
    }

    fn free_host_name(&self, hostname: &str) -> Name {
        let short = hostname.split('.').next().unwrap_or_default().to_lowercase();
        let plain: String = short.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(48).collect();
        let stem = Name::parse(plain.trim_matches('-')).or_else(|_| Name::parse("host"));
        let rows = self.view().read();
        let taken = |name: &str| rows.hosts.values().any(|h| h.name.as_str() == name);
        let numbered = (1u32..).map(|n| if n == 1 { String::new() } else { format!("-{n}") });
        let stem = stem.map(|s| s.as_str().to_owned()).unwrap_or_default();
        let mut names = numbered.map(|suffix| format!("{stem}{suffix}")).filter(|n| !taken(n));
        let free = names.find_map(|n| Name::parse(&n).ok());
        free.unwrap_or_else(|| unreachable!("one of endlessly many numbered names is free"))
    }
}

fn speak(theirs: VersionRange) -> Result<u32, Refusal> {
    VERSIONS.common(theirs).ok_or_else(|| {
        let text = format!("this control plane speaks agent link {VERSIONS}, the agent {theirs}; update the older one");
        Refusal::new(Code::VersionRefused, text)
    })
}
