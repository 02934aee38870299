use super::*;
use crate::node::Census;
use perigee_model::frame::Sheet;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Instant;

type Script = Result<Vec<Reading>, String>;

/// A task that says what the test tells it to, one answer for each of its turns.
fn scripted(deadline: Duration) -> (Background, Sender<Script>, Settings) {
    let start = Instant::now();
    let offset = Arc::new(Mutex::new(Duration::ZERO));
    let settings = Settings::new(Arc::new(move || start.elapsed() + *offset.lock().unwrap()));
    let (tell, told) = channel::<Script>();
    let ask = Box::new(move || told.recv().unwrap_or_else(|_| Err("the test is over".to_owned())));
    let every = Duration::from_millis(1);
    let task = Task { every, first_within: Duration::ZERO, deadline, ask };
    (Background::start("slow", task, &settings), tell, settings)
}

fn round(subject: &mut Background, sheet: &mut Sheet, at: Duration) -> Result<(), Fault> {
    let mut buffer = Vec::new();
    subject.collect(&mut Round { sheet, buffer: &mut buffer, at, census: &mut Census::default() })
}

fn names(sheet: &Sheet) -> Vec<String> {
    let mut names: Vec<String> = sheet.values().map(|(series, _)| series.name.clone()).collect();
    names.retain(|name| !name.starts_with("perigee_collector"));
    names.sort();
    names
}

fn reading(name: &str, value: f64) -> Reading {
    Reading { series: Series::gauge(name, 0), value }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn answers_replace_each_other_and_a_fault_leaves_none() {
    let (mut subject, tell, settings) = scripted(Duration::from_secs(60));
    let mut sheet = Sheet::default();
    let mut see = |script: Script, expected: &[&str]| {
        tell.send(script).unwrap();
        let mut last = Ok(());
        until("the answer is on the sheet", || {
            last = round(&mut subject, &mut sheet, (settings.clock)());
            names(&sheet) == expected
        });
        last
    };
    assert!(see(Ok(vec![reading("a", 1.0), reading("b", 2.0)]), &["a", "b"]).is_ok());
    assert!(see(Ok(vec![reading("b", 3.0), reading("c", 2.0)]), &["b", "c"]).is_ok());
    let fault = see(Err("it broke".to_owned()), &[]);
    assert!(matches!(&fault, Err(Fault::Slow(text)) if text == "it broke"), "{fault:?}");
}

#[test]
fn one_that_does_not_come_back_is_stuck_and_the_round_is_not() {
    let (mut subject, tell, settings) = scripted(Duration::from_secs(5));
    let mut sheet = Sheet::default();
    until("it began", || lock(&subject.answer).began.is_some());
    let now = (settings.clock)();
    assert!(round(&mut subject, &mut sheet, now).is_ok());
    let fault = round(&mut subject, &mut sheet, now + Duration::from_secs(41));
    assert!(matches!(fault, Err(Fault::Stuck(age)) if age.as_secs() == 41 || age.as_secs() == 40), "{fault:?}");
    tell.send(Ok(vec![reading("a", 1.0)])).unwrap();
    until("it came back", || {
        let _ = round(&mut subject, &mut sheet, (settings.clock)());
        names(&sheet) == ["a"]
    });
}
