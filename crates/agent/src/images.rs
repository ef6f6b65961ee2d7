//! Images: got as a container's pull policy says, and removed when the disk fills up.

use crate::pod::{Refused, Task};
use crate::{Shared, events};
use objects::{Timestamp, Value, ValueExt};
use podlife::{Collection, ImageMemory};
use runtime::{Image, reference};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A pull that takes longer fails and is tried again.
const PULL_MAX: Duration = Duration::from_secs(600);
/// How often the disk is looked at; as often as images grow old enough to go, where that is sooner.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Why a container does not start yet: no failure, its image is on its way.
pub(crate) const PULLING: &str = "Pulling";

/// A pull that was asked for: since when, and its result once it is over.
pub(crate) struct Pull {
    since: Timestamp,
    pub(crate) result: Option<Result<(), String>>,
}

impl Task<'_> {
    pub(crate) async fn inspect(&self, image: &str) -> Result<Option<Image>, Refused> {
        let told = self.shared.options.runtime.image(image).await;
        told.map_err(|error| ("ImageInspectError", error.to_string()))
    }

    /// Starts pulling an image; the task is woken with the result.
    fn pull(&mut self, image: &str) {
        self.pulls.insert(image.into(), Pull { since: self.shared.now(), result: None });
        let (runtime, pulled) = (self.shared.options.runtime.clone(), self.pulled.clone());
        let image = image.to_string();
        tokio::spawn(async move {
            let result = match tokio::time::timeout(PULL_MAX, runtime.pull_image(&image)).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("not pulled within {} s", PULL_MAX.as_secs())),
            };
            drop(pulled.send((image, result)).await);
        });
    }

    /// Sees to it that a container's image is here.
    pub(crate) async fn image(&mut self, name: &str, image: &str, policy: &str) -> Result<(), Refused> {
        if let Err(why) = reference::asked_for(image) {
            let message = format!("Failed to apply default image tag {image:?}: {why}");
            self.note("Warning", "InspectFailed", message.clone(), name);
            return Err(("InvalidImageName", message));
        }
        let present = self.inspect(image).await?.is_some();
        match (policy, present) {
            ("Never", false) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.note("Warning", "ErrImageNeverPull", message.clone(), name);
                return Err(("ErrImageNeverPull", message));
            }
            ("Never", true) | ("IfNotPresent", true) => {
                let message = format!("Container image {image:?} already present on machine");
                self.note("Normal", "Pulled", message, name);
                return Ok(());
            }
            _ => {}
        }
        let (since, pulled) = match self.pulls.remove(image) {
            Some(Pull { since, result: Some(result) }) => (since, result),
            Some(under_way) => {
                self.pulls.insert(image.into(), under_way);
                return Err((PULLING, String::new()));
            }
            None => {
                self.note("Normal", "Pulling", format!("Pulling image {image:?}"), name);
                self.pull(image);
                return Err((PULLING, String::new()));
            }
        };
        let took = self.shared.now().since_ms(since);
        match pulled {
            Ok(()) => {
                self.note("Normal", "Pulled", format!("Successfully pulled image {image:?} in {took}ms"), name);
                Ok(())
            }
            // `Always` means "ask for news"; an image that is here and cannot be asked about runs.
            Err(error) if present => {
                let message = format!(
                    "Container image {image:?} already present on machine; asking for a newer one failed: {error}"
                );
                self.note("Warning", "Pulled", message, name);
                Ok(())
            }
            Err(error) => {
                self.note("Warning", "Failed", format!("Failed to pull image {image:?}: {error}"), name);
                Err(("ErrImagePull", error))
            }
        }
    }
}

/// Names and ids of images that are in use: those of the containers that are known, and those that pods
/// of this node are going to need.
fn in_use(shared: &Shared) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for container in shared.worlds.borrow().iter().flat_map(|sandbox| &sandbox.containers) {
        used.insert(container.image_id.clone());
        used.extend(reference::asked_for(&container.image));
    }
    for assignment in shared.pods.lock().values() {
        let assignment = assignment.borrow();
        let containers = ["spec.containers", "spec.initContainers"].map(|list| assignment.pod.items(list));
        let names = containers.into_iter().flatten().map(|container: &Value| container.text("image"));
        used.extend(names.filter_map(|name| reference::asked_for(name).ok()));
    }
    used
}

/// Keeps the disk from filling up with images that nobody uses, for as long as the worker runs.
pub(crate) async fn keep_few(shared: &Arc<Shared>) {
    let thresholds = &shared.options.images;
    let min_age = Duration::from_millis(u64::try_from(thresholds.min_age_ms).unwrap_or(0));
    let mut ticks = tokio::time::interval(LOOK_EVERY.min(min_age.max(Duration::from_secs(1))));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut memory = ImageMemory::default();
    loop {
        ticks.tick().await;
        if let Err(error) = look(shared, &mut memory).await {
            tracing::warn!(%error, "the images on the disk could not be looked at");
        }
    }
}

async fn look(shared: &Arc<Shared>, memory: &mut ImageMemory) -> Result<(), runtime::Error> {
    let runtime = &shared.options.runtime;
    let Some(runtime::ImageStore { images, disk }) = runtime.stored_images().await? else { return Ok(()) };
    let image = |image: runtime::StoredImage| podlife::StoredImage {
        id: image.id,
        names: image.names,
        bytes: image.bytes,
        pinned: image.pinned,
    };
    let images: Vec<podlife::StoredImage> = images.into_iter().map(image).collect();
    let disk = podlife::Disk { capacity: disk.capacity, available: disk.available };
    let Collection { remove, wanted, found } =
        podlife::collect(&images, &in_use(shared), disk, &shared.options.images, memory, shared.now());
    for id in &remove {
        let names = images.iter().find(|image| image.id == *id).map(|image| image.names.join(" "));
        // A container may have come since: the runtime keeps an image that one is made from.
        match runtime.remove_image(id).await {
            Ok(()) => tracing::info!(%id, names, "an image that nobody uses is removed: the disk is full"),
            Err(error) => tracing::warn!(%id, %error, "an image could not be removed"),
        }
    }
    if found < wanted {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found \
             {found} bytes eligible to free."
        );
        tracing::warn!(wanted, found, "the disk is fuller than it may be, and no unused image is left to remove");
        events::about_node(shared, ("Warning", "FreeDiskSpaceFailed", &message));
    }
    Ok(())
}
