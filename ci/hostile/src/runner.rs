//! Runs cases on some fields side by side, one line for each, and counts by table at the end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::case::{Case, Part, TABLES};
use crate::field::Field;
use crate::oracle::{Baseline, Wrong};

/// How cases are run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// With neighbours under load, one case at a time.
    pub full: bool,
    /// How many cases run side by side, each with a culvertd of its own.
    pub lanes: usize,
}

/// What became of a case.
struct Outcome {
    case: Case,
    wrong: Vec<Wrong>,
}

/// Runs cases and prints how each went.
///
/// # Errors
/// One is not green, or there is none.
pub fn run(cases: Vec<Case>, options: Options) -> Result<()> {
    ensure!(!cases.is_empty(), "there is no such case: see culvert-hostile list");
    let start = Instant::now();
    let waiting = Mutex::new(VecDeque::from(cases));
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for lane in 0..options.lanes.max(1) {
            let (waiting, outcomes) = (&waiting, &outcomes);
            scope.spawn(move || work(lane, options, waiting, outcomes));
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    summarize(&outcomes, start.elapsed());
    let red: Vec<_> = outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()).collect();
    // Once more at the end: the end of a log is all that may be kept of it.
    for Outcome { case, wrong } in &red {
        println!("{:<4} {}: {}", case.row, case.name, sentences(wrong));
    }
    ensure!(red.is_empty(), "{} of {} cases are not green", red.len(), outcomes.len());
    Ok(())
}

/// Plays one case on a field of its own; returns what is not as it must be.
pub fn play_alone(case: &Case) -> Vec<String> {
    let (wrong, _) = play(case, &mut None, 0, Options { full: false, lanes: 1 });
    wrong.into_iter().map(|it| it.why).collect()
}

/// One lane: takes cases until there are none.
fn work(lane: usize, options: Options, waiting: &Mutex<VecDeque<Case>>, outcomes: &Mutex<Vec<Outcome>>) {
    let mut field = None;
    loop {
        let case = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(case) = case else { return };
        let mut start = Instant::now();
        let (mut wrong, mut notes) = play(&case, &mut field, lane, options);
        // Others on the machine make frames wait as well, but not each time.
        for _ in 1..TRIES {
            if wrong.is_empty() || !wrong.iter().all(|it| it.part == Some(Part::Delay)) {
                break;
            }
            print(&case, start.elapsed(), &wrong, &notes);
            start = Instant::now();
            (wrong, notes) = play(&case, &mut field, lane, options);
        }
        print(&case, start.elapsed(), &wrong, &notes);
        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(Outcome { case, wrong });
    }
}

/// Plays one case; returns what is not as it must be, and what was not looked at.
fn play(case: &Case, place: &mut Option<Field>, lane: usize, options: Options) -> (Vec<Wrong>, Vec<String>) {
    let mut field = match place.take().map_or_else(|| new_field(lane, options), Ok) {
        Ok(field) => field,
        Err(error) => return (vec![format!("culvertd and the neighbours: {error:#}").into()], Vec::new()),
    };
    let (wrong, notes) = play_on(case, &mut field);
    if wrong.is_empty() && !field.is_spent() {
        *place = Some(field);
    }
    (wrong, notes)
}

/// Plays one case on a field; returns what is not as it must be, and what was not looked at. What the case has added to the field is
/// gone, unless that is spent.
pub fn play_on(case: &Case, field: &mut Field) -> (Vec<Wrong>, Vec<String>) {
    let baseline = match field.prepare(case.name).and_then(|()| Baseline::take(field)) {
        Ok(baseline) => baseline,
        Err(error) => return (vec![format!("before the case: {error:#}").into()], Vec::new()),
    };
    let mut wrong = Vec::new();
    match catch_unwind(AssertUnwindSafe(|| (case.run)(field))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => wrong.push(format!("the case: {error:#}").into()),
        Err(_) => wrong.push("the case has panicked".to_owned().into()),
    }
    wrong.extend(baseline.check(field));
    let notes = field.exemptions().map(|(part, reason)| format!("{part:?} not looked at: {reason}")).collect();
    if !field.is_spent()
        && let Err(error) = field.clear()
    {
        wrong.push(format!("after the case: {error:#}").into());
    }
    (wrong, notes)
}

/// Why a case is red.
pub fn sentences(wrong: &[Wrong]) -> String {
    wrong.iter().map(|it| it.why.as_str()).collect::<Vec<_>>().join("; ")
}

fn new_field(lane: usize, options: Options) -> Result<Field> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut field = Field::new(lane % cores, options.full)?;
    // The first guest that comes makes culvertd take memory that it keeps.
    field.prepare("warm-up")?;
    drop(field.connect_victim(Default::default(), 0).context("the first guest")?);
    field.clear()?;
    Ok(field)
}

/// One line for a case, and one for each thing that is wrong or was not looked at; in one piece, since other lanes print as well.
fn print(case: &Case, took: Duration, wrong: &[Wrong], notes: &[String]) {
    let state = if wrong.is_empty() { "ok" } else { "FAILED" };
    let mut text = format!("{:<4} {:<58} {:6.1} s  {state}", case.row, case.name, took.as_secs_f64());
    let wrong = wrong.iter().map(|it| &it.why);
    wrong.chain(notes).for_each(|sentence| text.push_str(&format!("\n       {sentence}")));
    println!("{text}");
}

fn summarize(outcomes: &[Outcome], took: Duration) {
    println!("\n{:<44} {:>6} {:>6} {:>6}", "table", "rows", "cases", "green");
    for (letter, _, what) in TABLES {
        let of_table = || outcomes.iter().filter(|outcome| outcome.case.row.starts_with(letter));
        let rows: std::collections::HashSet<_> = of_table().map(|outcome| outcome.case.row).collect();
        let green = of_table().filter(|outcome| outcome.wrong.is_empty()).count();
        println!("{:<44} {:>6} {:>6} {green:>6}", format!("{letter}: {what}"), rows.len(), of_table().count());
    }
    println!("{} cases in {:.0} s", outcomes.len(), took.as_secs_f64());
}

/// The cases that words choose: names, rows, tables; all for no word. Those for `--full` only if asked for, or by name.
///
/// # Errors
/// A word chooses nothing.
pub fn choose(cases: Vec<Case>, words: &[String], full: bool) -> Result<Vec<Case>> {
    let matches = |case: &Case, word: &str| {
        case.name == word || case.row == word || (word.len() == 1 && case.row.starts_with(word))
    };
    if let Some(word) = words.iter().find(|word| !cases.iter().any(|case| matches(case, word))) {
        bail!("no case, row or table is named {word}: see culvert-hostile list");
    }
    let wanted = |case: &Case| {
        let chosen = words.is_empty() || words.iter().any(|word| matches(case, word));
        let by_name = words.iter().any(|word| word == case.name);
        chosen && (full || by_name || !case.full)
    };
    Ok(cases.into_iter().filter(wanted).collect())
}

/// How often a case is played at most when nothing but its neighbours' delay is wrong: each time has to be red.
const TRIES: usize = 3;
