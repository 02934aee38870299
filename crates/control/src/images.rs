//! Verbs on images. Their bytes lie in blobs, which `server` keeps; here is what they are.

use crate::guests::check_revision;
use crate::{Cause, Control, Span, refuse_store};
use perigee_model::{
    Code, Digest, Image, ImageId, ImageState, Import, ImportFrom, Name, PartRole, Priority, Recipe, Refusal, Task,
    TaskKind, Verb, Who,
};
use perigee_store::{Batch, Change, Noun, Record};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Control {
    /// Records an image and the task that builds it. A failed image of the same name is replaced.
    ///
    /// # Errors
    /// `Denied`, `NameTaken`, `TooManyTasks`.
    pub async fn build_image(
        &self,
        who: &Who,
        name: Name,
        recipe: Recipe,
        cause: &Cause,
    ) -> Result<(Arc<Image>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        let source = format!("by recipe {recipe}");
        self.new_image(who, name, String::new(), source, cause, |image| TaskKind::ImageBuild { image, recipe }).await
    }

    /// Records an image whose disk is made elsewhere, and the task that takes it in.
    ///
    /// # Errors
    /// `Denied`, `NameTaken`, `TooManyTasks`.
    pub async fn import_image(
        &self,
        who: &Who,
        name: Name,
        import: Import,
        cause: &Cause,
    ) -> Result<(Arc<Image>, Arc<Task>), Refusal> {
        who.authorize(Verb::Operate)?;
        let source = match &import.from {
            ImportFrom::Url(address) => format!("from {address}"),
            ImportFrom::Upload(digest) => format!("from the upload {digest}"),
        };
        let arch = import.arch.clone();
        let made = self.new_image(who, name, arch, source, cause, |image| TaskKind::ImageImport { image, import });
        let made = made.await?;
        self.0.own_work_wake.notify_one();
        Ok(made)
    }

    async fn new_image(
        &self,
        who: &Who,
        name: Name,
        arch: String,
        source: String,
        cause: &Cause,
        kind: impl FnOnce(ImageId) -> TaskKind,
    ) -> Result<(Arc<Image>, Arc<Task>), Refusal> {
        self.check_queue(who)?;
        let image = Image {
            id: ImageId::new(self.clock().uuid()),
            name,
            tenant: who.tenant.clone(),
            owner: who.actor.clone(),
            arch,
            parts: Vec::new(),
            kernel_release: None,
            state: ImageState::Building,
            created_at: self.clock().now(),
            revision: 1,
        };
        let task = self.new_task(who, kind(image.id), Priority::Default);
        let mut batch = Batch { idempotency: cause.row(task.id), ..Batch::default() };
        let failed = self.find_image(who, image.name.as_str()).ok().filter(|i| i.state == ImageState::Failed);
        if let Some(failed) = failed {
            batch.changes.push(Change::Delete(Noun::Image, failed.id.to_string()));
        }
        let about = ("image", image.id.to_string());
        let verb = task.kind.text().replace(':', ".");
        let detail = format!("{} {source}", image.name);
        batch.events.push(self.event((&who.tenant, &who.actor), &verb, about, cause, detail));
        batch.insert(Record::Image(image.clone()));
        batch.insert(Record::Task(task.clone()));
        self.commit(batch).await.map_err(refuse_store)?;
        self.0.queue_wake.notify_one();
        Ok((Arc::new(image), Arc::new(task)))
    }

    /// An image whose task ended before it was ready: nothing of it is needed any more.
    pub(crate) fn fail_image(&self, task: &Task, batch: &mut Batch) {
        let image = task.kind.image().and_then(|image| self.view().image(image));
        if let Some(image) = image.filter(|image| image.state == ImageState::Building) {
            let mut next = image.as_ref().clone();
            next.state = ImageState::Failed;
            next.parts.clear();
            next.revision += 1;
            batch.update(Record::Image(next));
        }
    }

    /// Images of the caller's tenant, oldest first.
    ///
    /// # Errors
    /// `Denied`.
    pub fn list_images(&self, who: &Who, span: Span<ImageId>) -> Result<Vec<Arc<Image>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.oldest(&self.view().read().images, |i| i.tenant == who.tenant))
    }

    /// One image by id or name.
    ///
    /// # Errors
    /// `NoSuchImage`.
    pub fn find_image(&self, who: &Who, text: &str) -> Result<Arc<Image>, Refusal> {
        who.authorize(Verb::See)?;
        let rows = self.view().read();
        let id = text.parse::<ImageId>().ok();
        let mut mine = rows.images.values().filter(|i| i.tenant == who.tenant);
        let found = mine.find(|i| Some(i.id) == id || i.name.as_str() == text).cloned();
        found.ok_or_else(|| {
            Refusal::new(
                Code::NoSuchImage,
                "no image of yours has this name or id; `perigee image build base` makes one",
            )
        })
    }

    /// Forgets an image. Its bytes go when no other image or guest needs them.
    ///
    /// # Errors
    /// `Denied`, `NoSuchImage`, `ImageInUse`, `PreconditionFailed`.
    pub async fn delete_image(
        &self,
        who: &Who,
        text: &str,
        revision: Option<u64>,
        cause: &Cause,
    ) -> Result<(), Refusal> {
        who.authorize(Verb::Operate)?;
        let image = self.find_image(who, text)?;
        check_revision(revision, image.revision)?;
        let used = {
            let rows = self.view().read();
            rows.living_guests().filter(|g| g.spec.image == image.id).count()
        };
        if used > 0 {
            return Err(Refusal::new(Code::ImageInUse, format!("{used} guests use the image; delete them first")));
        }
        if image.state == ImageState::Building {
            return Err(Refusal::new(Code::ImageInUse, "the image is being built; cancel its task first"));
        }
        let mut batch = Batch { idempotency: cause.row(""), ..Batch::default() };
        let about = ("image", image.id.to_string());
        batch.events.push(self.event((&who.tenant, &who.actor), "image.delete", about, cause, image.name.as_str()));
        batch.changes.push(Change::Delete(Noun::Image, image.id.to_string()));
        self.commit(batch).await.map_err(refuse_store)
    }

    /// Digests that an image, a living guest or a backup of one needs.
    pub fn needed_digests(&self) -> BTreeSet<Digest> {
        let rows = self.view().read();
        let of_images = rows.images.values().flat_map(|i| &i.parts);
        let of_guests = rows.living_guests().flat_map(|g| &g.spec.parts);
        let of_backups = rows.backups.values().flat_map(|b| &b.spec.parts).filter(|p| p.role != PartRole::Disk);
        of_images.chain(of_guests).chain(of_backups).map(|p| p.digest.clone()).collect()
    }
}
