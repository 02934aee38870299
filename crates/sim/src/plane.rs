//! The control plane, reign after reign.
//!
//! Owns: the real `Control` on a truth that outlives it, everything that runs on its behalf, and
//! its crashes: all of it is dropped at once, wherever it stands.
//! Refuses: knowing what is asked of it.

use crate::chunks::Chunks;
use crate::scene::Scene;
use crate::truth::{Ground, Slowness};
use perigee_control::Control;
use perigee_store::Store;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The control plane's place in the world.
pub struct Plane {
    scene: Arc<Scene>,
    ground: Ground,
    /// How slow its disk is.
    pub slowness: Slowness,
    /// The repository of backups; it outlives every reign.
    pub chunks: Chunks,
    reign: Mutex<Option<Reign>>,
    began: Notify,
}

struct Reign {
    control: Control,
    store: Arc<dyn Store>,
    tasks: JoinSet<()>,
    cancel: CancellationToken,
}

impl Plane {
    /// None reigns yet.
    pub fn new(scene: Arc<Scene>, ground: Ground) -> Self {
        Self {
            scene,
            ground,
            slowness: Slowness::default(),
            chunks: Chunks::default(),
            reign: Mutex::default(),
            began: Notify::new(),
        }
    }

    /// Begins a reign, if none is there.
    pub async fn start(&self) {
        if self.control().is_some() {
            return;
        }
        loop {
            match self.open().await {
                Ok(reign) => {
                    self.scene.story.tell(format!("the control plane reigns (epoch {})", reign.control.epoch()));
                    *self.lock() = Some(reign);
                    self.began.notify_waiters();
                    return;
                }
                Err(error) => {
                    self.scene.checks.that(false, "the control plane starts", || error.to_string());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn open(&self) -> Result<Reign, perigee_store::StoreError> {
        let (clock, instance) = (self.scene.clock.clone(), self.scene.instance.clone());
        let store = self.ground.open(self.slowness.clone()).await?;
        let epoch = store.begin_reign(&clock.uuid().to_string(), clock.now()).await?;
        let control = Control::open(clock, store.clone(), instance, epoch).await?;
        let (mut tasks, cancel) = (JoinSet::new(), CancellationToken::new());
        let (running, until) = (control.clone(), cancel.clone());
        tasks.spawn(async move { running.run(true, until).await });
        Ok(Reign { control, store, tasks, cancel })
    }

    /// `kill -9`: everything that runs on its behalf stops where it stands.
    pub async fn crash(&self) -> bool {
        let Some(mut reign) = self.lock().take() else { return false };
        reign.cancel.cancel();
        reign.tasks.abort_all();
        while let Some(ended) = reign.tasks.join_next().await {
            let panicked = ended.is_err_and(|e| e.is_panic());
            self.scene.checks.that(!panicked, "the control plane never panics", || "it did".to_owned());
        }
        reign.store.close().await;
        true
    }

    /// Whoever reigns.
    pub fn control(&self) -> Option<Control> {
        self.lock().as_ref().map(|reign| reign.control.clone())
    }

    /// Waits until somebody reigns.
    pub async fn reigning(&self) -> Control {
        loop {
            let began = self.began.notified();
            if let Some(control) = self.control() {
                return control;
            }
            began.await;
        }
    }

    /// Runs a task on the reign's behalf; it dies with it. `false`: nobody reigns.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut reign = self.lock();
        let Some(reign) = reign.as_mut() else { return false };
        while let Some(ended) = reign.tasks.try_join_next() {
            let panicked = ended.is_err_and(|e| e.is_panic());
            self.scene.checks.that(!panicked, "the control plane never panics", || "it did".to_owned());
        }
        reign.tasks.spawn(task);
        true
    }

    /// Asks for something. `None`: nobody reigns, or the reign ended before the answer, so that
    /// nobody knows whether it was done.
    pub async fn ask<T, F>(&self, question: impl FnOnce(Control) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let asked = question(self.control()?);
        let (tell, told) = oneshot::channel();
        self.spawn(async move { drop(tell.send(asked.await)) });
        told.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reign>> {
        self.reign.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
