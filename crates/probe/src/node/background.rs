//! Slow subjects: each on a thread of its own and at its own pace.
//!
//! A round picks up the latest answer and never waits. A thread that does not come back is shown as
//! stuck with its age, and no second one is started beside it.

use super::ledger::{Account, Breaker, Chance, Spent};
use super::{Collector, Fault, Monotonic, Round, Settings, thread_cpu};
use perigee_model::frame::{Series, Slot};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What one task may say at once; the rest is left out.
const READINGS_MAX: usize = 1024;

/// A value of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub series: Series,
    pub value: f64,
}

/// What is done, how often, and how long it may take.
pub struct Task {
    pub every: Duration,
    /// The first time is at a random moment within this, so that hosts that start together spread.
    pub first_within: Duration,
    pub deadline: Duration,
    pub ask: Box<dyn FnMut() -> Result<Vec<Reading>, String> + Send>,
}

#[derive(Default)]
struct Answer {
    number: u64,
    readings: Vec<Reading>,
    fault: Option<String>,
    spent: Spent,
    is_open: bool,
    at: Option<Duration>,
    began: Option<Duration>,
}

/// The round's end of such a thread.
pub struct Background {
    name: &'static str,
    deadline: Duration,
    answer: Arc<Mutex<Answer>>,
    /// Dropped with the collector, which ends the thread's next wait.
    _alive: Sender<()>,
    taken: u64,
    slots: HashMap<Series, Option<Slot>>,
    age: Option<Option<Slot>>,
    account: Option<Account>,
}

impl Background {
    pub fn start(name: &'static str, task: Task, settings: &Settings) -> Self {
        let answer = Arc::new(Mutex::new(Answer::default()));
        let (alive, ended) = channel();
        let deadline = task.deadline;
        let chance = Chance::new(name.bytes().fold(settings.seed, |seed, b| seed.rotate_left(7) ^ u64::from(b)));
        let worker = Worker { task, clock: Arc::clone(&settings.clock), chance, answer: Arc::clone(&answer), ended };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.run());
        if let Err(e) = started {
            lock(&answer).fault = Some(format!("no thread: {e}"));
        }
        Self { name, deadline, answer, _alive: alive, taken: 0, slots: HashMap::new(), age: None, account: None }
    }

    fn write(&mut self, answer: &Answer, round: &mut Round<'_>) {
        let mut slots = HashMap::with_capacity(answer.readings.len());
        for reading in answer.readings.iter().take(READINGS_MAX) {
            let kept = self.slots.remove(&reading.series);
            let slot = kept.unwrap_or_else(|| round.sheet.define(reading.series.clone()));
            round.put_f64(slot, reading.value);
            slots.insert(reading.series.clone(), slot);
        }
        let gone = std::mem::replace(&mut self.slots, slots);
        gone.into_values().flatten().for_each(|slot| round.sheet.retire(slot));
    }
}

impl Collector for Background {
    fn name(&self) -> &'static str {
        self.name
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        let (answer, name) = (Arc::clone(&self.answer), self.name);
        let answer = lock(&answer);
        let age_series = || Series::gauge("perigee_collector_age_seconds", 1).with("collector", name);
        let age_slot = *self.age.get_or_insert_with(|| round.sheet.define(age_series()));
        if answer.number != self.taken {
            self.taken = answer.number;
            self.write(&answer, round);
            // Its own time, not that of picking its answer up.
            let account = self.account.get_or_insert_with(|| Account::open(&format!("{name}_thread"), round));
            account.write(Some(answer.spent), answer.is_open, round);
        }
        if let Some(at) = answer.at {
            round.put_f64(age_slot, round.at.saturating_sub(at).as_secs_f64());
        }
        let running = answer.began.map(|began| round.at.saturating_sub(began));
        if let Some(age) = running.filter(|age| *age > self.deadline) {
            return Err(Fault::Stuck(age));
        }
        answer.fault.clone().map_or(Ok(()), |fault| Err(Fault::Slow(fault)))
    }
}

struct Worker {
    task: Task,
    clock: Monotonic,
    chance: Chance,
    answer: Arc<Mutex<Answer>>,
    ended: Receiver<()>,
}

impl Worker {
    fn run(mut self) {
        let mut breaker = Breaker::default();
        let mut wait = self.task.first_within.mul_f64(self.chance.next());
        while matches!(self.ended.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
            let began = (self.clock)();
            // A tenth of jitter: what began together drifts apart.
            wait = self.task.every.mul_f64(0.95 + self.chance.next() / 10.0);
            if breaker.allows(began) {
                self.ask(began, &mut breaker);
            }
        }
    }

    fn ask(&mut self, began: Duration, breaker: &mut Breaker) {
        lock(&self.answer).began = Some(began);
        let cpu_before = thread_cpu();
        let outcome = (self.task.ask)();
        let now = (self.clock)();
        let took = now.saturating_sub(began);
        let cpu = thread_cpu().saturating_sub(cpu_before);
        let good = outcome.is_ok() && took <= self.task.deadline;
        breaker.note(good, now, self.chance.next());
        let mut answer = lock(&self.answer);
        answer.began = None;
        answer.at = Some(now);
        answer.number += 1;
        answer.spent = Spent { good, took, cpu };
        answer.is_open = breaker.is_open();
        match outcome {
            Ok(readings) => (answer.readings, answer.fault) = (readings, None),
            // Old numbers would look like new ones.
            Err(fault) => (answer.readings, answer.fault) = (Vec::new(), Some(fault)),
        }
    }
}

fn lock(answer: &Mutex<Answer>) -> std::sync::MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
