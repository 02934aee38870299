//! A trial for any workflow: it fails at each step, dies after each, and repeats each, and nothing
//! must stay behind that was not there before.

use super::{Step, run};
use crate::HypervisorError;
use async_trait::async_trait;

/// A step that fails, before or after it has done its work.
struct Failing<'a> {
    step: &'a dyn Step,
    after: bool,
}

#[async_trait]
impl Step for Failing<'_> {
    fn name(&self) -> &'static str {
        self.step.name()
    }
    async fn is_done(&self) -> Result<bool, HypervisorError> {
        self.step.is_done().await
    }
    async fn perform(&self) -> Result<(), HypervisorError> {
        if self.after {
            self.step.perform().await?;
        }
        Err(HypervisorError::DidNotStart(format!("{} fails on trial", self.step.name())))
    }
    async fn undo(&self) -> Result<(), HypervisorError> {
        self.step.undo().await
    }
}

/// Tries a workflow every way. `traces` is all that it may leave behind, and `clear` what clears up
/// after a crash.
pub async fn tried(steps: &[&dyn Step], traces: impl Fn() -> Vec<String>, clear: impl AsyncFn()) {
    let before = traces();
    for (at, step) in steps.iter().enumerate() {
        for after in [false, true] {
            let failing = Failing { step: *step, after };
            let mut broken = steps.to_vec();
            broken[at] = &failing;
            run(&broken).await.expect_err("it fails");
            assert_eq!(traces(), before, "{} failed, half done: {after}", step.name());
        }
    }
    for at in 1..=steps.len() {
        run(&steps[..at]).await.unwrap();
        let last = steps[at - 1].name();
        clear().await;
        assert_eq!(traces(), before, "a crash after {last} is cleared up");
        run(&steps[..at]).await.unwrap();
        run(steps).await.unwrap_or_else(|error| panic!("a start after a crash after {last}: {error}"));
        clear().await;
    }
    for step in steps {
        step.perform().await.unwrap_or_else(|error| panic!("{}: {error}", step.name()));
        step.perform().await.unwrap_or_else(|error| panic!("{} twice: {error}", step.name()));
    }
    for step in steps.iter().rev() {
        step.undo().await.unwrap();
        step.undo().await.unwrap_or_else(|error| panic!("{} undone twice: {error}", step.name()));
    }
    assert_eq!(traces(), before);
}

/// A step of a toy workflow: a word on a list. One that leaks forgets to take it away.
struct Word<'a> {
    word: &'static str,
    list: &'a std::sync::Mutex<Vec<String>>,
    leaks: bool,
}

#[async_trait]
impl Step for Word<'_> {
    fn name(&self) -> &'static str {
        self.word
    }
    async fn is_done(&self) -> Result<bool, HypervisorError> {
        Ok(self.list.lock().unwrap().iter().any(|word| word == self.word))
    }
    async fn perform(&self) -> Result<(), HypervisorError> {
        if !self.is_done().await? {
            self.list.lock().unwrap().push(self.word.to_owned());
        }
        Ok(())
    }
    async fn undo(&self) -> Result<(), HypervisorError> {
        if !self.leaks {
            self.list.lock().unwrap().retain(|word| word != self.word);
        }
        Ok(())
    }
}

async fn toy(leaks: bool) {
    let list = std::sync::Mutex::new(vec!["before".to_owned()]);
    let word = |word, leaks| Word { word, list: &list, leaks };
    let (first, second) = (word("first", leaks), word("second", false));
    let traces = || list.lock().unwrap().clone();
    tried(&[&first, &second], traces, async || list.lock().unwrap().truncate(1)).await;
}

#[tokio::test]
async fn a_workflow_that_undoes_all_passes() {
    toy(false).await;
}

#[tokio::test]
#[should_panic(expected = "first failed")]
async fn a_workflow_that_leaks_does_not() {
    toy(true).await;
}

#[tokio::test]
async fn what_was_there_before_is_not_undone() {
    let list = std::sync::Mutex::new(vec!["first".to_owned()]);
    let word = |word| Word { word, list: &list, leaks: false };
    let (first, second) = (word("first"), word("second"));
    let failing = Failing { step: &second, after: true };
    run(&[&first, &failing]).await.unwrap_err();
    assert_eq!(*list.lock().unwrap(), ["first"]);
}
