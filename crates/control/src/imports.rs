//! Imports: what whoever brings the bytes takes from here, and tells.
//!
//! ```text
//!   running ──found──▶ its part is written down ──bytes kept──▶ ready
//! ```
//! The part is written down before its bytes get their name: a blob that no record needs may be swept
//! away at any time.

use crate::Control;
use perigee_model::guest::Problem;
use perigee_model::task::TaskEvent;
use perigee_model::{Code, ImageId, ImageState, Import, Part, Refusal, TaskId, TaskKind};
use perigee_store::{Batch, Record};

/// An import that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOrder {
    /// Its task.
    pub task: TaskId,
    /// The image that it makes.
    pub image: ImageId,
    /// From where, and what it must be.
    pub import: Import,
}

impl Control {
    /// Takes the import that is due first; waits for one.
    pub async fn next_import(&self) -> ImportOrder {
        loop {
            let task = self.next_own(|kind| matches!(kind, TaskKind::ImageImport { .. })).await;
            if let TaskKind::ImageImport { image, import } = task.kind.clone() {
                return ImportOrder { task: task.id, image, import };
            }
        }
    }

    /// Its bytes are right: they are needed from now on, and get their name next.
    ///
    /// # Errors
    /// `TaskFinished` when nobody waits for it any more; what the store says.
    pub async fn import_found(&self, order: &ImportOrder, part: &Part) -> Result<(), Refusal> {
        self.decide(|| {
            let image = self.view().image(order.image).filter(|i| i.state == ImageState::Building);
            let Some(image) = image.filter(|_| self.is_wanted(order.task)) else {
                return Err(Refusal::new(Code::TaskFinished, "nobody waits for the import any more"));
            };
            let mut next = image.as_ref().clone();
            next.parts = vec![part.clone()];
            next.revision += 1;
            let mut batch = Batch::default();
            batch.update(Record::Image(next));
            Ok((batch, ()))
        })
        .await
    }

    /// Its bytes have their name: guests can start from it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn import_kept(&self, order: &ImportOrder) -> Result<(), Refusal> {
        self.decide(|| {
            let mut batch = Batch::default();
            let image = self.view().image(order.image).filter(|i| i.state == ImageState::Building);
            if let (Some(task), Some(image)) = (self.view().task(order.task), image) {
                let mut next = image.as_ref().clone();
                next.state = ImageState::Ready;
                next.revision += 1;
                batch.update(Record::Image(next));
                self.step_task(&task, &TaskEvent::Done, None, &mut batch);
            }
            Ok((batch, ()))
        })
        .await
    }

    /// It cannot be done, now (`again`) or ever.
    ///
    /// # Errors
    /// What the store says.
    pub async fn import_fell(&self, order: &ImportOrder, problem: Problem, again: bool) -> Result<(), Refusal> {
        self.step_own(order.task, TaskEvent::Fell { problem, again }).await
    }
}
