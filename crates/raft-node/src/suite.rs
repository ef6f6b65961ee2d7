//! What every disk must pass, the simulator's and the shipped one: openraft's storage suite over log and machine on
//! it, and what both count on of the port. So what the simulator shows of the one holds of the other, but for what a
//! power cut leaves: a shipped disk is only opened again here, and the chaos scenarios cut its power.

use crate::disk::{Batch, Disk, Origin, Row};
use crate::log::Log;
use crate::machine::Machine;
use crate::node::Checkpoints;
use crate::types::TypeConfig;
use crate::writer::{Writer, spawn_inline};
use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use std::sync::Arc;

/// A place for one disk, empty at first: opens what is there; a simulated one has lost what was not synced. Who was
/// given the disk before has let go of it.
pub type Place = Box<dyn Fn() -> Arc<dyn Disk> + Send + Sync>;

/// Panics where a disk does not do as it must. `fresh` makes places.
pub fn check(fresh: impl Fn() -> Place + Send + Sync) {
    let cases: [fn(&Place); 6] = [
        bounds_are_half_open,
        a_batch_deletes_before_it_puts,
        what_is_synced_outlasts_a_crash,
        rows_are_durable_by_themselves,
        what_is_forgotten_may_linger_and_what_is_behind_it_stays,
        what_is_truncated_is_gone_and_written_anew,
    ];
    for case in cases {
        case(&fresh());
    }
    TypeConfig::run(async { Suite::test_all(OnDisk(fresh)).await.unwrap() });
}

struct OnDisk<F>(F);

impl<F: Fn() -> Place + Send + Sync> StoreBuilder<TypeConfig, Log, Machine, Place> for OnDisk<F> {
    async fn build(&self) -> Result<(Place, Log, Machine), StorageError<TypeConfig>> {
        let failed = |error: std::io::Error| StorageError::read(TypeConfig::err_from_error(&error));
        let place = (self.0)();
        let disk = place();
        let log = Log::open(disk.clone(), spawn_inline()(Writer::new(disk.clone())), Checkpoints::default())
            .map_err(failed)?;
        let machine = Machine::open(disk, state::FEATURE_LEVEL).map_err(failed)?;
        Ok((place, log, machine))
    }
}

/// `La=1 Mv=2`: puts, `La` deletes.
fn puts(text: &str) -> Vec<(Vec<u8>, Option<Bytes>)> {
    let pair = |word: &str| match word.split_once('=') {
        Some((key, value)) => (key.into(), Some(Bytes::copy_from_slice(value.as_bytes()))),
        None => (word.into(), None),
    };
    text.split_whitespace().map(pair).collect()
}

fn batch(text: &str) -> Batch {
    Batch { puts: puts(text), ..Batch::default() }
}

fn cut(from: &str, to: &str, text: &str) -> Batch {
    Batch { delete_ranges: vec![(from.into(), to.into())], ..batch(text) }
}

fn write_rows(disk: &dyn Disk, text: &str) {
    let rows: Vec<Row> = puts(text);
    disk.write_rows(Origin::Checkpoint, &mut rows.into_iter()).unwrap();
}

fn told((key, value): &(Bytes, Bytes)) -> String {
    format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
}

/// All pairs in a range, as `puts` reads them.
fn scan(disk: &dyn Disk, from: &str, to: &str) -> String {
    let pairs = disk.scan(from.as_bytes(), to.as_bytes(), 100).unwrap();
    pairs.iter().map(told).collect::<Vec<_>>().join(" ")
}

fn last(disk: &dyn Disk, from: &str, to: &str) -> Option<String> {
    disk.last(from.as_bytes(), to.as_bytes()).unwrap().as_ref().map(told)
}

fn bounds_are_half_open(place: &Place) {
    let disk = place();
    disk.write(batch("L1=a L2=b L3=c Mv=x"), true).unwrap();
    write_rows(&*disk, "Nh=y Oa=z");
    assert_eq!(scan(&*disk, "L1", "L3"), "L1=a L2=b");
    assert_eq!(scan(&*disk, "L2", "Oa"), "L2=b L3=c Mv=x Nh=y", "across the parts");
    assert_eq!(scan(&*disk, "", "Z"), "L1=a L2=b L3=c Mv=x Nh=y Oa=z");
    assert_eq!(scan(&*disk, "L3", "L3"), "");
    assert_eq!(disk.scan(b"L", b"M", 2).unwrap().iter().map(told).collect::<Vec<_>>(), ["L1=a", "L2=b"]);
    assert_eq!(last(&*disk, "L", "L3").as_deref(), Some("L2=b"));
    assert_eq!(last(&*disk, "L", "M").as_deref(), Some("L3=c"));
    assert_eq!(last(&*disk, "L", "Z").as_deref(), Some("Oa=z"));
    assert_eq!(last(&*disk, "L4", "M"), None);
    assert_eq!((disk.get(b"L2").unwrap().as_deref(), disk.get(b"L9").unwrap()), (Some(&b"b"[..]), None));
}

fn a_batch_deletes_before_it_puts(place: &Place) {
    let disk = place();
    disk.write(batch("L1=a L2=b L3=c Mv=x"), true).unwrap();
    disk.write(cut("L2", "L4", "L2=new L4=d Mv"), true).unwrap();
    assert_eq!(scan(&*disk, "", "Z"), "L1=a L2=new L4=d");
}

fn what_is_synced_outlasts_a_crash(place: &Place) {
    let disk = place();
    disk.write(batch("L1=a Mv=x"), false).unwrap();
    disk.write(cut("L1", "L2", "L2=b"), true).unwrap();
    drop(disk);
    assert_eq!(scan(&*place(), "", "Z"), "L2=b Mv=x", "and what was written before it");
}

fn rows_are_durable_by_themselves(place: &Place) {
    let disk = place();
    write_rows(&*disk, "Nh=1 Oa=1 Ob=1");
    write_rows(&*disk, "Nh=2 Oa Oc=2");
    assert_eq!(scan(&*disk, "N", "Z"), "Nh=2 Ob=1 Oc=2");
    drop(disk);
    assert_eq!(scan(&*place(), "N", "Z"), "Nh=2 Ob=1 Oc=2");
}

fn what_is_forgotten_may_linger_and_what_is_behind_it_stays(place: &Place) {
    let mut disk = place();
    for key in 1..=8 {
        disk.write(batch(&format!("L{key}={key} Mc={key}")), true).unwrap();
    }
    disk.write(Batch { forgotten: Some(b"L5".to_vec()), ..batch("Mp=5") }, true).unwrap();
    for _ in 0..2 {
        assert_eq!(scan(&*disk, "L6", "Z"), "L6=6 L7=7 L8=8 Mc=8 Mp=5");
        assert_eq!(last(&*disk, "L", "M").as_deref(), Some("L8=8"));
        // What lingers is as it was.
        for pair in disk.scan(b"L", b"L6", 9).unwrap() {
            let text = told(&pair);
            assert_eq!(text[1..2], text[3..], "{text}");
        }
        drop(disk);
        disk = place();
    }
    disk.write(batch("L9=9"), true).unwrap();
    assert_eq!(last(&*disk, "L", "M").as_deref(), Some("L9=9"));
}

fn what_is_truncated_is_gone_and_written_anew(place: &Place) {
    let disk = place();
    disk.write(batch("L1=a L2=b L3=c"), true).unwrap();
    disk.write(cut("L2", "M", ""), true).unwrap();
    assert_eq!(scan(&*disk, "L", "M"), "L1=a");
    disk.write(batch("L2=B"), true).unwrap();
    drop(disk);
    let disk = place();
    assert_eq!(scan(&*disk, "L", "M"), "L1=a L2=B");
    assert_eq!(last(&*disk, "L", "M").as_deref(), Some("L2=B"));
}
