//! A report's folder: written while a run goes on, and read again to be judged.

use anyhow::{Context, Result, bail};
use chaos::lines::{FaultLine, Line, Run};
use chaos::{Planned, Report, Scenario, verdict};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new one: what a run found before is not written over.
    pub(super) fn create(path: &Path) -> Result<Folder> {
        std::fs::create_dir_all(path).with_context(|| format!("--report: creating {}", path.display()))?;
        if path.join("scenario.yaml").exists() {
            bail!("--report: {} holds a report already; name another folder", path.display());
        }
        Ok(Folder(path.to_path_buf()))
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
        let create = |name: &str| -> Result<Mutex<BufWriter<File>>> {
            let path = self.0.join(name);
            let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
            Ok(Mutex::new(BufWriter::new(file)))
        };
        Ok(Recorder {
            started: Instant::now(),
            history: create("history.jsonl")?,
            faults: create("faults.jsonl")?,
            failed: Mutex::default(),
        })
    }

    fn lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        let path = self.0.join(name);
        let file = File::open(&path).with_context(|| format!("reading {}", path.display()))?;
        let parse = |(i, line): (usize, std::io::Result<String>)| -> Result<T> {
            serde_json::from_str(&line?).with_context(|| format!("{} line {} is damaged", path.display(), i + 1))
        };
        BufReader::new(file).lines().enumerate().map(parse).collect()
    }

    /// Judges what the files tell, and writes the verdict beside them.
    pub(super) fn judge(&self) -> Result<Report> {
        let scenario = Scenario::parse(&self.read("scenario.yaml")?).map_err(|why| anyhow::anyhow!("{why}"))?;
        let run: Run = serde_json::from_str(&self.read("run.json")?).context("run.json is damaged")?;
        let report =
            verdict::judge(&scenario, &run, &self.lines::<FaultLine>("faults.jsonl")?, &self.lines("history.jsonl")?);
        self.write("report.json", &(serde_json::to_string_pretty(&report)? + "\n"))?;
        self.write("report.txt", &report.text())?;
        Ok(report)
    }
}

/// Takes down what happens, against one clock.
pub(super) struct Recorder {
    started: Instant,
    history: Mutex<BufWriter<File>>,
    faults: Mutex<BufWriter<File>>,
    /// The first line that could not be written.
    failed: Mutex<Option<String>>,
}

impl Recorder {
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn at(&self, ms: u64) -> Instant {
        self.started + std::time::Duration::from_millis(ms)
    }

    fn append<T: Serialize>(&self, file: &Mutex<BufWriter<File>>, line: &T) {
        let text = serde_json::to_string(line).map_err(std::io::Error::from);
        let written = text.and_then(|text| writeln!(file.lock(), "{text}"));
        if let Err(error) = written {
            self.failed.lock().get_or_insert_with(|| format!("the report could not be written: {error}"));
        }
    }

    pub(super) fn line(&self, line: &Line) {
        self.append(&self.history, line);
    }

    pub(super) fn fault(&self, line: &FaultLine) {
        self.append(&self.faults, line);
    }

    /// Writes what is buffered; tells the first failure of the whole run.
    pub(super) fn finish(&self) -> Option<String> {
        for file in [&self.history, &self.faults] {
            if let Err(error) = file.lock().flush() {
                self.failed.lock().get_or_insert_with(|| format!("the report could not be written: {error}"));
            }
        }
        self.failed.lock().clone()
    }
}
