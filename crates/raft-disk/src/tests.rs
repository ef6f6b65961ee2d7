//! What a disk keeps, gives up and refuses, on real files.

use super::*;

#[test]
fn it_passes_the_suite_of_disks() {
    raft_node::suite::check(|| {
        let dir = tempfile::tempdir().unwrap();
        Box::new(move || Arc::new(RocksDisk::open(dir.path()).unwrap()))
    });
}

#[test]
fn its_folder_is_its_owner_s_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (fresh, known) = (dir.path().join("a/raft"), dir.path().join("b"));
    std::fs::create_dir(&known).unwrap();
    std::fs::set_permissions(&known, std::fs::Permissions::from_mode(0o755)).unwrap();
    for path in [fresh, known] {
        RocksDisk::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700, "{}", path.display());
    }
}

fn put(key: &str, value: &str) -> Batch {
    let mut batch = Batch::default();
    batch.put(key.as_bytes(), value.as_bytes().to_vec());
    batch
}

#[test]
fn keeps_what_was_written_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let disk = RocksDisk::open(dir.path()).unwrap();
        disk.write(put("La", "1"), true).unwrap();
        disk.write(put("Lb", "2"), true).unwrap();
        let mut batch = put("Lc", "3");
        batch.delete_range(b"La".to_vec(), b"Lb".to_vec());
        disk.write(batch, true).unwrap();
    }
    let disk = RocksDisk::open(dir.path()).unwrap();
    let keys: Vec<_> = disk.scan(b"L", b"M", 10).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["Lb", "Lc"]);
    assert_eq!(disk.last(b"L", b"M").unwrap().unwrap().1, "3");
    assert_eq!(disk.get(b"La").unwrap(), None);
}

fn rows(pairs: &[(&str, Option<&str>)]) -> impl Iterator<Item = Row> {
    let row = |(key, value): &(&str, Option<&str>)| {
        (key.as_bytes().to_vec(), value.map(|value| Bytes::copy_from_slice(value.as_bytes())))
    };
    pairs.iter().map(row).collect::<Vec<_>>().into_iter()
}

#[test]
fn a_crash_before_a_table_s_old_name_is_gone_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let write = |disk: &RocksDisk, value: &str| {
        disk.write_rows(Origin::Checkpoint, &mut rows(&[("Oa", Some(value)), ("Ob", None)])).unwrap();
    };
    write(&RocksDisk::open(dir.path()).unwrap(), "1");
    let mut tables = std::fs::read_dir(dir.path().join(ROWS)).unwrap().flatten().map(|entry| entry.path());
    let table = tables.find(|path| path.extension().is_some_and(|kind| kind == "sst")).unwrap();
    std::fs::hard_link(&table, dir.path().join(TABLE)).unwrap();
    let bytes = std::fs::read(&table).unwrap();
    {
        let disk = RocksDisk::open(dir.path()).unwrap();
        assert!(!dir.path().join(TABLE).exists());
        std::fs::hard_link(&table, dir.path().join(TABLE)).unwrap();
        write(&disk, "2, which is longer");
    }
    assert_eq!(std::fs::read(&table).unwrap(), bytes, "it was written over");
    assert_eq!(RocksDisk::open(dir.path()).unwrap().get(b"Oa").unwrap().unwrap(), "2, which is longer");
}

#[test]
fn who_looks_changes_nothing_and_an_earlier_build_s_rows_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(DB::open(&log_options(), dir.path()).unwrap());
    assert!(matches!(RocksDisk::open_read_only(dir.path()), Err(OpenError::Io { .. })));
    assert!(!dir.path().join(ROWS).exists());
    drop(RocksDisk::open(dir.path()).unwrap());
    let disk = RocksDisk::open_read_only(dir.path()).unwrap();
    assert!(disk.write(put("La", "1"), true).is_err());
    assert!(disk.write_rows(Origin::Checkpoint, &mut rows(&[("Oa", None)])).is_err());
    drop(disk);
    DB::open_cf(&log_options(), dir.path(), [SINGLES]).unwrap().put("Oa", "1").unwrap();
    assert!(matches!(RocksDisk::open(dir.path()), Err(OpenError::Earlier { .. })));
}

#[test]
fn a_log_of_one_family_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    {
        let log = DB::open(&log_options(), dir.path()).unwrap();
        for (key, value) in [("La", "1"), ("Mpurged", "2"), ("Mvote", "3")] {
            log.put(key, value).unwrap();
        }
    }
    for _ in 0..2 {
        let disk = RocksDisk::open(dir.path()).unwrap();
        let there = disk.scan(b"", b"N", 9).unwrap();
        assert_eq!(there.iter().map(|(_, value)| &value[..]).collect::<Vec<_>>(), [b"1", b"2", b"3"]);
        assert_eq!(disk.get(b"Mvote").unwrap().unwrap(), "3");
        assert!(entries(&disk.log).last(SINGLES_START, &[0xFF]).unwrap().is_none());
    }
    assert_eq!(RocksDisk::open_read_only(dir.path()).unwrap().get(b"Mpurged").unwrap().unwrap(), "2");
}

/// The keys of all entries there are.
fn entries_of(disk: &RocksDisk) -> Vec<String> {
    let pairs = disk.scan(b"L", b"M", 100).unwrap();
    pairs.iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

/// Of the entries' tables.
fn levels(disk: &RocksDisk) -> Vec<i32> {
    let files = disk.log.live_files().unwrap();
    files.iter().filter(|file| file.column_family_name == DEFAULT_COLUMN_FAMILY_NAME).map(|file| file.level).collect()
}

fn by_and_by(is_so: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !is_so() {
        assert!(started.elapsed().as_secs() < 10);
        std::thread::yield_now();
    }
}

#[test]
fn what_is_forgotten_goes_with_its_table_once_that_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RocksDisk::open(dir.path()).unwrap();
    for table in [["L1", "L2"], ["L3", "L4"], ["L5", "L6"]] {
        for key in table {
            let mut batch = put(key, "entry");
            batch.put(&b"Mcommitted"[..], key.as_bytes().to_vec());
            disk.write(batch, true).unwrap();
        }
        disk.log.flush().unwrap();
    }
    by_and_by(|| levels(&disk).iter().all(|level| *level > 0));
    assert_eq!(levels(&disk).len(), 3, "none was merged");
    disk.write(Batch { forgotten: Some(b"L4".to_vec()), ..put("Mpurged", "L4") }, false).unwrap();
    disk.write(Batch { forgotten: Some(b"L2".to_vec()), ..put("Mpurged", "L2") }, false).unwrap();
    assert_eq!(disk.forgotten.lock().unwrap().as_deref(), Some(&b"L4"[..]), "not synced");
    disk.write(put("L7", "entry"), true).unwrap();
    by_and_by(|| entries_of(&disk) == ["L5", "L6", "L7"]);
    disk.write(Batch { forgotten: Some(b"L5".to_vec()), ..put("Mpurged", "L5") }, true).unwrap();
    drop(disk);
    let disk = RocksDisk::open(dir.path()).unwrap();
    assert_eq!(entries_of(&disk), ["L5", "L6", "L7"], "another of L5's table is needed");
    assert_eq!(disk.get(b"Mcommitted").unwrap().unwrap(), "L6");
    assert_eq!(disk.last(b"L", b"N").unwrap().unwrap().0, "Mpurged");
}

#[test]
fn a_truncation_and_what_follows_it_outlast_the_end_of_older_tables() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RocksDisk::open(dir.path()).unwrap();
    for key in ["L1", "L2", "L3"] {
        disk.write(put(key, "old"), true).unwrap();
    }
    disk.log.flush().unwrap();
    let mut truncation = Batch::default();
    truncation.delete_range(b"L2".to_vec(), b"L4".to_vec());
    disk.write(truncation, true).unwrap();
    disk.write(put("L2", "new"), true).unwrap();
    disk.log.flush().unwrap();
    by_and_by(|| levels(&disk).iter().all(|level| *level > 0));
    disk.write(Batch { forgotten: Some(b"L1".to_vec()), ..put("Mpurged", "L1") }, true).unwrap();
    drop(disk);
    let disk = RocksDisk::open(dir.path()).unwrap();
    let there = disk.scan(b"L2", b"M", 9).unwrap();
    assert_eq!(there.iter().map(|(_, value)| &value[..]).collect::<Vec<_>>(), [b"new"]);
    assert!(disk.write(Batch { forgotten: Some(b"Mpurged".to_vec()), ..Batch::default() }, true).is_err());
}

#[test]
fn rows_and_log_are_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    {
        let disk = RocksDisk::open(dir.path()).unwrap();
        disk.write_rows(Origin::Snapshot, &mut rows(&[("N", Some("1")), ("Oa", Some("2")), ("Oc", Some("3"))]))
            .unwrap();
        disk.write(put("La", "4"), true).unwrap();
        disk.write(put("Mb", "5"), true).unwrap();
        disk.write_rows(Origin::Checkpoint, &mut rows(&[("N", Some("6")), ("Oa", None), ("Ob", Some("7"))])).unwrap();
        assert!(disk.write(put("Oz", "8"), true).is_err(), "a row");
        let unordered = disk.write_rows(Origin::Checkpoint, &mut rows(&[("Ob", None), ("Oa", None)]));
        assert!(unordered.is_err());
    }
    let disk = RocksDisk::open(dir.path()).unwrap();
    let scan = |from: &[u8], to: &[u8], max| -> Vec<String> {
        let pairs = disk.scan(from, to, max).unwrap();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        pairs.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect()
    };
    assert_eq!(scan(b"", b"\xff", 9), ["La=4", "Mb=5", "N=6", "Ob=7", "Oc=3"]);
    assert_eq!(scan(b"Mb", b"Oc", 2), ["Mb=5", "N=6"]);
    assert_eq!(disk.last(b"", b"\xff").unwrap().unwrap().0, "Oc");
    assert_eq!(disk.last(b"L", b"N").unwrap().unwrap().0, "Mb");
    assert_eq!(disk.get(b"Oa").unwrap(), None);
}
