//! Images on a disk of 1,000 bytes: which go, and in which order.

use super::*;
use crate::images::collect;
use std::collections::BTreeSet;

/// Images of 50 bytes each, and what is looked at every five minutes.
struct Disks {
    memory: ImageMemory,
    now: Timestamp,
    trace: String,
}

impl Disks {
    fn new() -> Disks {
        Disks { memory: ImageMemory::default(), now: Timestamp(1_000_000), trace: String::new() }
    }

    /// Looks at these images, `!` before those that the runtime needs, with these in use.
    fn look(&mut self, images: &str, in_use: &str, available: u64) -> &mut Disks {
        let image = |name: &str| StoredImage {
            id: format!("sha256:{}", name.trim_start_matches('!')),
            names: vec![format!("registry/{}:1", name.trim_start_matches('!'))],
            bytes: 50,
            pinned: name.starts_with('!'),
        };
        let images: Vec<StoredImage> = images.split_whitespace().map(image).collect();
        let in_use: BTreeSet<String> = in_use.split_whitespace().map(ToString::to_string).collect();
        let disk = Disk { capacity: 1000, available };
        let told = collect(&images, &in_use, disk, &Thresholds::default(), &mut self.memory, self.now);
        let removed = told.remove.join(" ").replace("sha256:", "");
        self.trace +=
            &format!("{}% full: remove [{removed}] {} of {}\n", 100 - available / 10, told.found, told.wanted);
        self.now = self.now.plus_secs(300);
        self
    }

    fn expect(&self, expected: Expect) {
        expected.assert_eq(&self.trace);
    }
}

#[test]
fn images_go_from_85_percent_on_until_80_would_be_left() {
    Disks::new().look("a b c", "", 900).look("a b c", "", 160).look("a b c", "", 150).look("b c", "", 100).expect(
        expect![[r#"
            10% full: remove [] 0 of 0
            84% full: remove [] 0 of 0
            85% full: remove [a] 50 of 50
            90% full: remove [b c] 100 of 100
        "#]],
    );
}

#[test]
fn the_image_that_was_not_in_use_for_longest_goes_first() {
    let mut disks = Disks::new();
    disks.look("a b", "sha256:a", 900).look("a b c", "registry/b:1", 900).look("a b c", "", 150);
    disks.look("a b", "", 150).look("b", "", 150).expect(expect![[r#"
        10% full: remove [] 0 of 0
        10% full: remove [] 0 of 0
        85% full: remove [c] 50 of 50
        85% full: remove [a] 50 of 50
        85% full: remove [b] 50 of 50
    "#]]);
}

#[test]
fn an_image_in_use_or_of_the_sandboxes_stays() {
    let mut disks = Disks::new();
    disks.look("a b !pause", "registry/a:1", 10).look("a b !pause", "registry/a:1", 10);
    disks.expect(expect![[r#"
        99% full: remove [] 0 of 190
        99% full: remove [b] 50 of 190
    "#]]);
}

#[test]
fn an_image_that_is_two_minutes_young_stays() {
    let mut disks = Disks::new();
    disks.look("a", "", 100);
    disks.now = disks.now.plus_secs(-181);
    disks.look("a", "", 100);
    disks.now = disks.now.plus_secs(-299);
    disks.look("a", "", 100).expect(expect![[r#"
        90% full: remove [] 0 of 100
        90% full: remove [] 0 of 100
        90% full: remove [a] 50 of 100
    "#]]);
}
