//! Images on the worker's disk: which to remove when it fills up.
//!
//! Rule: kubernetes.io/docs/concepts/architecture/garbage-collection, "Garbage collection of unused images".

use objects::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// An image that is here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredImage {
    pub id: String,
    /// Its tags and digests.
    pub names: Vec<String>,
    pub bytes: u64,
    /// The runtime itself needs it, as the image of sandboxes.
    pub pinned: bool,
}

/// The file system that images are on, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disk {
    pub capacity: u64,
    pub available: u64,
}

/// When images are removed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Once the disk is fuller than this …
    pub high_percent: u64,
    /// … until it would be no fuller than this.
    pub low_percent: u64,
    /// Nothing younger than this goes: it was just pulled for a pod that is about to start.
    pub min_age_ms: i64,
}

/// The kubelet's.
impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { high_percent: 85, low_percent: 80, min_age_ms: 120_000 }
    }
}

/// Since when images are here and when each was last in use, by id. Lost at a restart of the worker: then
/// every image is young again.
#[derive(Clone, Debug, Default)]
pub struct ImageMemory(BTreeMap<String, Times>);

#[derive(Clone, Copy, Debug)]
struct Times {
    seen: Timestamp,
    /// `None` when it never was since.
    used: Option<Timestamp>,
}

/// What to remove, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collection {
    pub remove: Vec<String>,
    /// Bytes that must go, and bytes that the images to remove take: fewer when there are no more.
    pub wanted: u64,
    pub found: u64,
}

/// Decides. `in_use` holds names and ids of the images of containers and of pods that are to run here.
pub fn collect(
    images: &[StoredImage],
    in_use: &BTreeSet<String>,
    disk: Disk,
    thresholds: &Thresholds,
    memory: &mut ImageMemory,
    now: Timestamp,
) -> Collection {
    memory.0.retain(|id, _| images.iter().any(|image| image.id == *id));
    let mut idle = Vec::new();
    for image in images {
        let times = memory.0.entry(image.id.clone()).or_insert(Times { seen: now, used: None });
        if image.pinned || in_use.contains(&image.id) || image.names.iter().any(|name| in_use.contains(name)) {
            times.used = Some(now);
        } else if now.since_ms(times.seen) >= thresholds.min_age_ms {
            idle.push((times.used, times.seen, image));
        }
    }
    let used = disk.capacity.saturating_sub(disk.available);
    let percent =
        |percent: u64| u64::try_from(u128::from(disk.capacity) * u128::from(percent) / 100).unwrap_or(u64::MAX);
    let mut collection = Collection::default();
    // A disk of no size is one that could not be looked at.
    if disk.capacity == 0 || used < percent(thresholds.high_percent) {
        return collection;
    }
    collection.wanted = used.saturating_sub(percent(thresholds.low_percent));
    // Those that were not in use for longest first.
    idle.sort_by(|a, b| (a.0, a.1, &a.2.id).cmp(&(b.0, b.1, &b.2.id)));
    for (_, _, image) in idle {
        if collection.found >= collection.wanted {
            break;
        }
        collection.found += image.bytes;
        collection.remove.push(image.id.clone());
    }
    collection
}
