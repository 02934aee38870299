//! Where the agent's tasks live and end together.
//!
//! Owns: every task the agent spawns. When the agent's future is dropped all of them are aborted in
//! one go, before any of them runs again: a drop is as sudden as `kill -9`.
//! Refuses: outliving the agent, and hiding a panic (it ends the agent, whose successor adopts
//! everything).

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Spawns tasks that belong to one agent. Cheap to clone; does not keep the tasks alive.
#[derive(Clone)]
pub(crate) struct Nursery(Arc<Inner>);

struct Inner {
    tasks: Mutex<Option<JoinSet<()>>>,
    panicked: CancellationToken,
}

/// Ends every task when dropped.
pub(crate) struct Owner(Nursery);

/// An effect that runs to its end whether or not somebody waits for it.
pub(crate) struct Effect<T> {
    answer: oneshot::Receiver<T>,
    task: Option<AbortHandle>,
}

struct Alarm(CancellationToken);
impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

impl Nursery {
    pub(crate) fn new() -> (Self, Owner) {
        let inner = Inner { tasks: Mutex::new(Some(JoinSet::new())), panicked: CancellationToken::new() };
        let nursery = Self(Arc::new(inner));
        (nursery.clone(), Owner(nursery))
    }

    /// Runs a task until its end or the agent's.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let alarm = Alarm(self.0.panicked.clone());
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = tasks.as_mut()?;
        while tasks.try_join_next().is_some() {}
        Some(tasks.spawn(async move {
            let _alarm = alarm;
            task.await;
        }))
    }

    /// Runs an effect; dropping the answer does not stop it.
    pub(crate) fn effect<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Effect<T> {
        let (tell, answer) = oneshot::channel();
        let task = self.spawn(async move {
            let _ = tell.send(task.await);
        });
        Effect { answer, task }
    }

    /// Resolves when a task panicked.
    pub(crate) async fn panicked(&self) {
        self.0.panicked.cancelled().await;
    }
}

impl<T> Effect<T> {
    /// Its result; `None` when it was stopped or the agent ends.
    pub(crate) async fn wait(&mut self) -> Option<T> {
        (&mut self.answer).await.ok()
    }
    /// Stops it where that is harmless, and waits until it is gone.
    pub(crate) async fn stop(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = self.answer.await;
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let tasks = self.0.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(tasks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn effects_outlive_their_waiter_but_not_the_owner() {
        let (nursery, owner) = Nursery::new();
        let done = CancellationToken::new();
        let mark = done.clone();
        drop(nursery.effect(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            mark.cancel();
        }));
        done.cancelled().await;

        let never = CancellationToken::new();
        let mark = never.clone();
        nursery.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            mark.cancel();
        });
        drop(owner);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!never.is_cancelled());
        assert!(nursery.spawn(async {}).is_none());
    }
}
