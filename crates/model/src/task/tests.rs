use super::*;
use proptest::prelude::*;
use uuid::Uuid;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn task() -> Task {
    Task {
        id: TaskId::new(Uuid::from_u128(1)),
        tenant: Tenant::first(),
        owner: "me".into(),
        kind: TaskKind::GuestCreate { guest: GuestId::new(Uuid::from_u128(2)), restores: false },
        priority: Priority::Default,
        state: TaskState::Pending,
        attempts: 0,
        attempts_max: 3,
        worker: None,
        epoch: 0,
        host: None,
        generation: None,
        cancel_asked: false,
        note: None,
        progress_percent: None,
        problem: None,
        created_at: at(0),
        scheduled_at: at(0),
        started_at: None,
        completed_at: None,
        revision: 1,
    }
}

fn event(word: &str) -> TaskEvent {
    let problem = || Problem::new(Code::BootFailed, "no hello");
    match word {
        "claim" => TaskEvent::Claimed { worker: "w".into(), epoch: 1, host: None, generation: Some(1) },
        "held" => TaskEvent::Held { note: "waiting for room".into(), until: at(5) },
        "step" => TaskEvent::Progressed { note: "half".into(), percent: Some(50) },
        "done" => TaskEvent::Done,
        "again" => TaskEvent::Fell { problem: problem(), again: true },
        "fell" => TaskEvent::Fell { problem: problem(), again: false },
        "cancel" => TaskEvent::CancelAsked,
        "let-go" => TaskEvent::CancelDone,
        _ => TaskEvent::Tick,
    }
}

/// Plays words, gives the states gone through.
fn play(words: &str) -> String {
    let mut task = task();
    let mut told = Vec::new();
    for word in words.split(' ') {
        told.push(match task.step(&event(word), at(1)) {
            TaskVerdict::Go(next) => {
                task = *next;
                format!("{:?}", task.state).to_lowercase()
            }
            TaskVerdict::Stay => "stay".to_owned(),
            TaskVerdict::Refuse(code) => code.number().to_owned(),
        });
    }
    told.join(" ")
}

#[test]
fn a_task_lives() {
    let table = [
        ("claim done", "running succeeded"),
        ("held claim step step done", "pending running running stay succeeded"),
        ("claim again claim again claim again", "running pending running pending running dead"),
        ("claim fell", "running failed"),
        ("cancel", "cancelled"),
        ("claim cancel cancel let-go", "running running stay cancelled"),
        ("claim cancel again", "running running cancelled"),
        ("claim done cancel done tick", "running succeeded PRG-4005 stay stay"),
        ("claim claim", "running PRG-4007"),
        ("done tick", "stay stay"),
    ];
    for (words, told) in table {
        assert_eq!(play(words), told, "{words}");
    }
}

#[test]
fn deadlines_end_what_waits_and_what_runs() {
    let late = at(i64::try_from(TASK_DEADLINE.as_secs()).unwrap() + 1);
    for state in [TaskState::Pending, TaskState::Running] {
        let mut t = task();
        t.state = state;
        let TaskVerdict::Go(next) = t.step(&TaskEvent::Tick, late) else { panic!("no verdict") };
        assert_eq!(next.state, TaskState::Failed);
    }
}

#[test]
fn ageing_lifts_the_low_above_the_fresh() {
    let mut low = task();
    low.priority = Priority::Low;
    let mut high = task();
    high.priority = Priority::High;
    assert!(high.rank(at(1)) < low.rank(at(1)));
    high.created_at = at(10_000);
    assert!(low.rank(at(10_000)) < high.rank(at(10_000)));
}

proptest! {
    #[test]
    fn any_story_keeps_the_laws(words in proptest::collection::vec(0usize..9, 0..40)) {
        let all = ["claim", "held", "step", "done", "again", "fell", "cancel", "let-go", "tick"];
        let mut t = task();
        for word in words {
            if let TaskVerdict::Go(next) = t.step(&event(all[word]), at(1)) {
                prop_assert!(!t.state.is_final(), "a final state moved");
                prop_assert!(next.attempts <= next.attempts_max);
                prop_assert_eq!(next.state.is_final(), next.completed_at.is_some());
                t = *next;
            }
        }
    }
}
