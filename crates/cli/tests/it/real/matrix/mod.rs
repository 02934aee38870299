//! The kill matrix of full VMs: perigeed, perigee-agent, libvirtd and QEMU, killed before, in the middle
//! of and after each verb. Whatever becomes of the verb, it happened once or it is told why not; what is
//! wanted, what is seen and virsh agree; nothing stays behind; nobody else is touched.
//!
//! `make test` plays a slice, each verb with one victim at one moment, as the commit's first digits draw
//! them; `make soak` plays all.

mod field;
mod table;

use super::instance::{PATIENCE, Said};
use field::Field;
use std::process::Child;
use std::time::{Duration, Instant};
use table::{Answer, MOMENTS, Moment, State, VERBS, VICTIMS, Verb, Victim, is_there, may_be, must_succeed};

/// Numbers of a seed.
struct Draw(u64);

impl Draw {
    /// The commit's, or as `PERIGEE_SEED` says.
    fn of_the_day() -> Self {
        Self(std::env::var("PERIGEE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0))
    }
    /// splitmix64.
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

/// One cell, and what is drawn for it.
struct Cell {
    number: usize,
    victim: Victim,
    moment: Moment,
    verb: &'static Verb,
    /// Of kills in the middle: so long after the verb was asked for.
    delay: Duration,
}

impl Cell {
    fn new(number: usize, victim: Victim, moment: Moment, verb: &'static Verb, draw: &mut Draw) -> Self {
        Self { number, victim, moment, verb, delay: Duration::from_millis(draw.below(verb.lasts_ms)) }
    }
    fn told(&self) -> String {
        let Self { victim, moment, delay, .. } = self;
        let at = if *moment == Moment::Middle { format!(" at {} ms", delay.as_millis()) } else { String::new() };
        format!("{} with {victim:?} killed {moment:?}{at}", self.verb.name)
    }
    fn words(&self) -> Vec<String> {
        let memory = format!("{}MiB", 192 + 8 * (self.number % 8 + 1));
        let word = |word: &&str| word.replace("CELL", &format!("cell{}", self.number)).replace("MEMORY", &memory);
        std::iter::once("vm".to_owned()).chain(self.verb.words.iter().map(word)).collect()
    }
    fn subject(&self) -> &'static str {
        if matches!(self.verb.to, State::Taken | State::Theirs) { "old" } else { "db" }
    }
}

#[test]
fn real_vms_survive_a_kill_in_each_verb() {
    let mut draw = Draw::of_the_day();
    let mut cells = Vec::new();
    for verb in &VERBS {
        let choice: Vec<_> = VICTIMS
            .into_iter()
            .flat_map(|victim| MOMENTS.map(|moment| (victim, moment)))
            .filter(|(victim, moment)| is_there(*victim, verb, *moment))
            .collect();
        let (victim, moment) = choice[draw.below(choice.len() as u64) as usize];
        cells.push(Cell::new(cells.len(), victim, moment, verb, &mut draw));
    }
    play(&cells);
}

fn play_all(victim: Victim) {
    let mut draw = Draw::of_the_day();
    let mut cells = Vec::new();
    for moment in MOMENTS {
        for verb in VERBS.iter().filter(|verb| is_there(victim, verb, moment)) {
            cells.push(Cell::new(cells.len(), victim, moment, verb, &mut draw));
        }
    }
    play(&cells);
}

#[test]
#[ignore = "soak"]
fn real_kill_matrix_of_the_control_plane() {
    play_all(Victim::Plane);
}

#[test]
#[ignore = "soak"]
fn real_kill_matrix_of_the_agent() {
    play_all(Victim::Agent);
}

#[test]
#[ignore = "soak"]
fn real_kill_matrix_of_libvirtd() {
    play_all(Victim::Libvirtd);
}

#[test]
#[ignore = "soak"]
fn real_kill_matrix_of_the_machine() {
    play_all(Victim::Qemu);
}

/// Plays them one after the other on one ground; a broken one does not hide the next.
#[allow(clippy::print_stderr, reason = "how the cells went, with the output of a failed test")]
fn play(cells: &[Cell]) {
    let seed = Draw::of_the_day().0;
    let mut field = Field::new();
    let mut broken = Vec::new();
    for cell in cells {
        field.bring(cell.verb.from);
        let began = Instant::now();
        let played = field.play(cell);
        eprintln!("{} ({:.1} s): {played:?}", cell.told(), began.elapsed().as_secs_f64());
        broken.extend(played.err().map(|why| format!("{}: {why}", cell.told())));
    }
    assert!(broken.is_empty(), "PERIGEE_SEED={seed}: {} of {} cells: {broken:#?}", broken.len(), cells.len());
}

impl Field {
    fn play(&mut self, cell: &Cell) -> Result<(Answer, State), String> {
        let (verb, subject) = (cell.verb, cell.subject());
        let (starts, events) = (self.starts(subject), self.last_event());
        let said = self.kill_in(cell)?;
        let answer = if said.code == 0 { Answer::Fine } else { Answer::Told };
        if answer == Answer::Told && said.err.trim().is_empty() {
            return Err(format!("it ended with {} and said nothing", said.code));
        }
        if answer == Answer::Told && must_succeed(cell.victim, cell.moment) {
            return Err(format!("refused in peace: {}", said.err));
        }
        let state = self.settled(subject).map_err(|why| format!("{answer:?} ({}), then {why}", said.err.trim()))?;
        if !may_be(cell.victim, verb, answer, state) {
            return Err(format!("{answer:?} ({}), then {state:?}", said.err.trim()));
        }
        self.check_once(cell, answer, state, starts)?;
        let told = self.events_after(events, verb.event);
        if told > 1 || (answer == Answer::Fine && told == 0 && !verb.event.is_empty()) {
            return Err(format!("{answer:?}, and the audit log has it {told} times"));
        }
        Ok((answer, state))
    }

    /// Asks for the verb, kills, and starts again what was killed.
    fn kill_in(&mut self, cell: &Cell) -> Result<Said, String> {
        let words = cell.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let subject = cell.subject();
        if cell.moment == Moment::Before {
            self.strike(cell.victim, subject, &mut || true);
        }
        let mut asked = self.ground.instance.start(&words);
        if cell.moment == Moment::Middle {
            let strike_at = Instant::now() + cell.delay;
            while Instant::now() < strike_at {
                std::thread::park_timeout(strike_at - Instant::now());
            }
            self.strike(cell.victim, subject, &mut || matches!(asked.try_wait(), Ok(Some(_))));
        }
        if cell.moment == Moment::After {
            await_end(&mut asked)?;
            self.strike(cell.victim, subject, &mut || true);
        } else if (cell.victim, cell.moment) == (Victim::Plane, Moment::Before) {
            // Nobody is there: that is the answer.
            await_end(&mut asked)?;
        }
        self.mend(cell.victim);
        await_end(&mut asked)?;
        asked.wait_with_output().map(Said::from).map_err(|e| e.to_string())
    }

    /// What was asked for once was done once.
    fn check_once(&self, cell: &Cell, answer: Answer, state: State, before: usize) -> Result<(), String> {
        let started = self.starts(cell.subject()).saturating_sub(before);
        let exact = answer == Answer::Fine && matches!(cell.victim, Victim::Plane | Victim::Agent);
        let again = usize::from(matches!(cell.victim, Victim::Qemu | Victim::Libvirtd));
        if started > cell.verb.starts + again || (exact && state != State::Absent && started != cell.verb.starts) {
            return Err(format!("{answer:?}, and QEMU was started {started} times"));
        }
        if cell.verb.name == "exec" {
            let mark = format!("grep -c '^cell{}$' /tmp/runs", cell.number);
            let told = self.ground.instance.perigee(&["vm", "exec", "db", "--", "sh", "-c", &mark]).out;
            let ran: u32 = told.trim().parse().unwrap_or(0);
            if ran > 1 || (ran == 0 && answer == Answer::Fine && cell.victim != Victim::Qemu) {
                return Err(format!("{answer:?}, and the command ran {ran} times"));
            }
        }
        Ok(())
    }

    fn last_event(&self) -> i64 {
        let all = self.ground.instance.json(&["event", "list"]);
        all.as_array().and_then(|all| all.last()?["seq"].as_i64()).unwrap_or(0)
    }

    fn events_after(&self, seq: i64, verb: &str) -> usize {
        let all = self.ground.instance.json(&["event", "list", "--after", &seq.to_string()]);
        all.as_array().map_or(0, |all| all.iter().filter(|event| event["verb"] == verb).count())
    }
}

/// A client never hangs for want of somebody who died.
fn await_end(asked: &mut Child) -> Result<(), String> {
    let ended = super::instance::in_time(|| asked.try_wait().transpose());
    match ended {
        Some(Ok(_)) => Ok(()),
        Some(Err(e)) => Err(e.to_string()),
        None => {
            let _ = asked.kill();
            let _ = asked.wait();
            Err(format!("no answer within {PATIENCE:?}"))
        }
    }
}
