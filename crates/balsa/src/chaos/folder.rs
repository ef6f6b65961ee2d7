//! A report's folder: written while a run goes on, and read again to be judged.

use anyhow::{Context, Result, bail};
use chaos::lines::{FaultLine, Line, Run};
use chaos::{Planned, Report, Scenario, verdict};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new one: what a run found before is not written over.
    pub(super) fn create(path: &Path) -> Result<Folder> {
        Folder::check_is_new(path)?;
        std::fs::create_dir_all(path).with_context(|| format!("--report: creating {}", path.display()))?;
        Ok(Folder(path.to_path_buf()))
    }

    pub(super) fn check_is_new(path: &Path) -> Result<()> {
        if path.join("scenario.yaml").exists() {
            bail!("--report: {} holds a report already; name another folder", path.display());
        }
        Ok(())
    }

    pub(super) fn open(path: &Path) -> Folder {
        Folder(path.to_path_buf())
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.0.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    pub(super) fn begin(&self, scenario: &str, planned: &[Planned]) -> Result<Recorder> {
        self.write("scenario.yaml", scenario)?;
        let mut schedule = String::new();
        for fault in planned {
            schedule.push_str(&serde_json::to_string(fault)?);
            schedule.push('\n');
        }
        self.write("schedule.jsonl", &schedule)?;
        let create = |name: &str| -> Result<Mutex<Lines>> {
            let path = self.0.join(name);
            let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
            Ok(Mutex::new(Lines { file: BufWriter::new(file), n: 0, closed: false }))
        };
        Ok(Recorder {
            started: Instant::now(),
            began: OnceLock::new(),
            history: create("history.jsonl")?,
            faults: create("faults.jsonl")?,
            standing: Mutex::default(),
            standing_path: self.0.join(STANDING),
            failed: Mutex::default(),
        })
    }

    fn lines<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>> {
        let path = self.0.join(name);
        let file = File::open(&path).with_context(|| format!("reading {}", path.display()))?;
        let read = |(i, line): (usize, std::io::Result<String>)| -> Result<T> {
            let damaged = || format!("{} line {} is damaged", path.display(), i + 1);
            parse(&line.with_context(damaged)?).map_err(anyhow::Error::msg).with_context(damaged)
        };
        BufReader::new(file).lines().enumerate().map(read).collect()
    }

    /// Judges what the files tell, and writes the verdict beside them. A verdict is not to be lost with a disk that does
    /// not take it: that is a warning.
    pub(super) fn judge(&self) -> Result<Report> {
        let named = |name: &str| self.0.join(name).display().to_string();
        if self.0.join("scenario.yaml").exists() && !self.0.join("run.json").exists() {
            bail!(
                "{} is there and {} is not: the run did not come to its end, and is not judged; what may still stand is in \
                 {STANDING}, with the commands that heal it",
                named("scenario.yaml"),
                named("run.json")
            );
        }
        let scenario = Scenario::parse(&self.read("scenario.yaml")?).map_err(anyhow::Error::msg);
        let scenario = scenario.with_context(|| named("scenario.yaml"))?;
        let run: Run = serde_json::from_str(&self.read("run.json")?)
            .with_context(|| format!("{} is damaged", named("run.json")))?;
        let faults = self.lines("faults.jsonl", FaultLine::parse)?;
        let report = verdict::judge(&scenario, &run, &faults, &self.lines("history.jsonl", Line::parse)?);
        let json = serde_json::to_string_pretty(&report)? + "\n";
        if let Err(error) = self.write("report.json", &json).and_then(|()| self.write("report.txt", &report.text())) {
            eprintln!("warning: the verdict is not kept: {error:#}");
        }
        Ok(report)
    }
}

/// A file of lines, and how many have been written.
struct Lines {
    file: BufWriter<File>,
    n: u64,
    /// What still comes is no part of the report.
    closed: bool,
}

/// The file of the faults that stand: on the disk before they begin, for whoever finds the run itself dead.
const STANDING: &str = "standing.json";

#[derive(Serialize)]
struct Standing {
    fault: &'static str,
    members: Vec<String>,
    /// What heals it by hand.
    commands: Vec<String>,
}

/// Takes down what happens, against one clock.
pub(super) struct Recorder {
    started: Instant,
    began: OnceLock<Instant>,
    history: Mutex<Lines>,
    faults: Mutex<Lines>,
    /// The faults that stand, by their number.
    standing: Mutex<BTreeMap<usize, Standing>>,
    standing_path: PathBuf,
    /// The first line that could not be written.
    failed: Mutex<Option<String>>,
}

impl Recorder {
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The scenario begins now: what its clients work on is there. Answers the moment.
    pub(super) fn begin(&self) -> u64 {
        let now = Instant::now();
        let began = *self.began.get_or_init(|| now);
        u64::try_from((began - self.started).as_micros()).unwrap_or(u64::MAX)
    }

    /// So long after the scenario began.
    pub(super) fn at(&self, ms: u64) -> Instant {
        *self.began.get().unwrap_or(&self.started) + std::time::Duration::from_millis(ms)
    }

    fn append<T: Serialize>(&self, lines: &Mutex<Lines>, line: &T) {
        let text = serde_json::to_string(line).map_err(std::io::Error::from);
        let mut lines = lines.lock();
        if lines.closed {
            return;
        }
        match text.and_then(|text| writeln!(lines.file, "{text}")) {
            Ok(()) => lines.n += 1,
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, error: &std::io::Error) {
        self.failed.lock().get_or_insert_with(|| format!("the report could not be written: {error}"));
    }

    pub(super) fn line(&self, line: &Line) {
        self.append(&self.history, line);
    }

    /// Before a fault begins.
    pub(super) fn stands(&self, line: &FaultLine, commands: Vec<String>) {
        let (fault, members) = (line.planned.fault.name(), line.members.clone());
        self.change_standing(|standing| drop(standing.insert(line.planned.n, Standing { fault, members, commands })));
    }

    /// A fault that is over, one way or the other. One that could not be healed stays among those that stand.
    pub(super) fn fault(&self, line: &FaultLine) {
        if line.error.is_none() {
            self.change_standing(|standing| drop(standing.remove(&line.planned.n)));
        }
        self.append(&self.faults, line);
    }

    fn change_standing(&self, change: impl FnOnce(&mut BTreeMap<usize, Standing>)) {
        let mut standing = self.standing.lock();
        change(&mut standing);
        let kept = match standing.is_empty() {
            true => std::fs::remove_file(&self.standing_path),
            false => serde_json::to_vec_pretty(&*standing)
                .map_err(std::io::Error::from)
                .and_then(|text| runtime::files::replace_durably(&self.standing_path, text)),
        };
        match kept {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => self.fail(&error),
            _ => {}
        }
    }

    /// Writes what is buffered, and nothing after it; tells how many lines of the history and of the faults there
    /// are, and the first failure of the whole run.
    pub(super) fn finish(&self) -> (u64, u64, Option<String>) {
        let finish = |lines: &Mutex<Lines>| {
            let mut lines = lines.lock();
            lines.closed = true;
            if let Err(error) = lines.file.flush() {
                self.fail(&error);
            }
            lines.n
        };
        let (history, faults) = (finish(&self.history), finish(&self.faults));
        (history, faults, self.failed.lock().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str = "{name: x, duration: 9s, faults: [{fault: kill, target: leader, every: 1s, for: 1s}]}";

    fn folder(dir: &Path) -> (Folder, Recorder) {
        let folder = Folder::create(dir).unwrap();
        let recorder = folder.begin(SCENARIO, &[]).unwrap();
        (folder, recorder)
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, recorder) = folder(dir.path());
        let pod = Line::Pod { name: "p".into(), invoked_us: 1, answered_us: 2, made: true };
        recorder.line(&pod);
        let (history_lines, fault_lines, failed) = recorder.finish();
        assert_eq!((history_lines, fault_lines, failed), (1, 0, None));
        recorder.line(&pod);
        drop(recorder);
        let run = Run { history_lines, ..Run::default() };
        folder.write("run.json", &serde_json::to_string(&run).unwrap()).unwrap();
        assert!(folder.judge().unwrap().inconclusive.iter().all(|why| !why.contains("history.jsonl")));
        let whole = std::fs::read(dir.path().join("history.jsonl")).unwrap();
        let damaged = |name: &str, bytes: &[u8], told: &str| {
            let path = dir.path().join(name);
            let before = std::fs::read(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", folder.judge().unwrap_err());
            assert!(error.starts_with(&path.display().to_string()) && error.contains(told), "{told}: {error}");
            std::fs::write(&path, before).unwrap();
        };
        let and = |more: &[u8]| [&whole[..], more].concat();
        damaged("history.jsonl", &and(b"{\"op\":\"po"), "line 2 is damaged");
        damaged("history.jsonl", &and(b"\xff\n"), "line 2 is damaged");
        damaged(
            "history.jsonl",
            &and(br#"{"op":"pod","name":"q","invokedUs":2,"answeredUs":1,"made":true}"#),
            "answeredUs",
        );
        damaged("faults.jsonl", b"{}", "line 1 is damaged");
        damaged("scenario.yaml", b"{name: x}", "duration");
        damaged("run.json", b"{}", "is damaged");
        std::fs::write(dir.path().join("history.jsonl"), "").unwrap();
        assert!(folder.judge().unwrap().inconclusive.contains(&"history.jsonl has 0 lines, and 1 were written".into()));
    }
}
