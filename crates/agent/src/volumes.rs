//! Volumes of a pod: made under its folder, filled from what they stand for, and let go of.
//!
//! Rules: kubernetes.io/docs/concepts/storage/volumes and …/projected-volumes; fsGroup: …/tasks/
//! configure-pod-container/security-context.

use crate::published::{File, give, give_to_readers, newest, publish};
use crate::sources::{Missing, Sources, entries};
use objects::{Quantity, Timestamp, Value, ValueExt};
use runtime::{Mount, Propagation};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where a pod's volumes are made.
pub(crate) struct Place<'a> {
    pub(crate) dir: &'a Path,
    /// What holds secrets, or is asked to, lies in memory; only root can mount that.
    pub(crate) can_mount_memory: bool,
    /// Bytes of memory that pods may have on this node.
    pub(crate) node_memory: i64,
    pub(crate) now: Timestamp,
}

/// What fsGroup adds to what a group may do with folders that it may write to.
const GROUP_WRITES: u32 = 0o2770;

fn fs_group(pod: &Value) -> Option<u32> {
    pod.at("spec.securityContext.fsGroup").as_u64().and_then(|group| u32::try_from(group).ok())
}

fn mode_of(object: &Value, field: &str) -> Option<u32> {
    object.at(field).as_u64().and_then(|mode| u32::try_from(mode).ok())
}

/// The files of one source; an item's own mode goes before `mode`.
fn files(sources: &Sources, source: &str, spec: &Value, mode: u32) -> Result<Vec<File>, Missing> {
    let file = |item: &Value, bytes: Vec<u8>| File {
        path: item.text("path").into(),
        bytes,
        mode: mode_of(item, "mode").unwrap_or(mode),
    };
    match source {
        "configMap" | "secret" => {
            let (kind, word) = if source == "secret" { ("Secret", "secret") } else { ("ConfigMap", "config") };
            let name = if spec.text("secretName").is_empty() { spec.text("name") } else { spec.text("secretName") };
            let optional = spec.at("optional") == true;
            let Some(object) = sources.find(kind, name) else {
                return if optional {
                    Ok(Vec::new())
                } else {
                    Err(format!("{} {name:?} not found", kind.to_lowercase()))
                };
            };
            let all = entries(object);
            if spec.items("items").is_empty() {
                return Ok(all.into_iter().map(|(path, bytes)| File { path, bytes, mode }).collect());
            }
            let mut chosen = Vec::new();
            for item in spec.items("items") {
                match all.get(item.text("key")) {
                    Some(value) => chosen.push(file(item, value.clone())),
                    None if optional => {}
                    None => return Err(format!("references non-existent {word} key: {}", item.text("key"))),
                }
            }
            Ok(chosen)
        }
        "downwardAPI" => {
            let value = |item: &Value| match item.at("fieldRef") {
                Value::Null => sources.resource(&Value::Null, item.at("resourceFieldRef")),
                field => sources.field(field.text("fieldPath")),
            };
            Ok(spec.items("items").iter().map(|item| file(item, value(item).into_bytes())).collect())
        }
        "projected" => {
            let mut all = Vec::new();
            for part in spec.items("sources") {
                for (source, spec) in part.as_object().into_iter().flatten() {
                    if source == "serviceAccountToken" {
                        return Err("service account tokens are not issued by this version".into());
                    }
                    all.extend(files(sources, source, spec, mode)?);
                }
            }
            Ok(all)
        }
        other => Err(format!("the volume type {other} is not supported")),
    }
}

/// A path inside a volume, made where it is missing. A container that had the volume before may have
/// put links there that lead out of it: none is followed.
fn beneath(volume: &Path, sub: &str) -> Result<PathBuf, Missing> {
    let failed = |error: io::Error| format!("failed to prepare subPath {sub:?}: {error}");
    let mut path = volume.to_path_buf();
    for part in Path::new(sub).components() {
        let std::path::Component::Normal(part) = part else {
            return Err(format!("subPath {sub:?} must be a relative path without '..'"));
        };
        path.push(part);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => {
                return Err(format!("subPath {sub:?} is a symbolic link or leads through one; none is followed"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_like(volume, &path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(path)
}

/// Makes a folder with the volume's own rights, whatever the umask: who may write to the one may write to
/// the other.
fn make_like(volume: &Path, path: &Path) -> io::Result<()> {
    let rights = volume.metadata()?.permissions();
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, rights)
}

/// Bytes that an `emptyDir` in memory may take: its own limit, what the pod's containers may have
/// together where all are limited, and what the node has for pods, whichever is least.
fn memory_limit(pod: &Value, volume: &Value, node_memory: i64) -> i64 {
    let quantity =
        |value: &Value, path: &str| Quantity::parse(value.text(path)).map(Quantity::value).filter(|n| *n > 0);
    let limits = pod.items("spec.containers").iter().map(|c| quantity(c, "resources.limits.memory"));
    let together = limits.sum::<Option<i64>>().filter(|bytes| *bytes > 0);
    [together, quantity(volume, "sizeLimit")].into_iter().flatten().fold(node_memory, i64::min)
}

/// Whether something is mounted here: what an earlier worker mounted is still there.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let above = path.parent().unwrap_or(path);
    Ok(path.symlink_metadata()?.dev() != above.metadata()?.dev())
}

/// Mounts memory at `path`, which appears with these rights at once.
fn mount_memory(path: &Path, options: &str, flags: nix::mount::MsFlags) -> io::Result<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options)).map_err(io::Error::from)
}

fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// A folder that is there with its rights or not at all: containers may change them later, and are let.
fn make_scratch(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let half = path.with_file_name(format!(".{name}.new"));
    create_dir(&half, 0o755)?;
    give(&half, 0o777, group.map(|group| (group, GROUP_WRITES)))?;
    std::fs::rename(half, path)
}

fn empty_dir(pod: &Value, spec: &Value, path: &Path, place: &Place) -> io::Result<()> {
    let group = fs_group(pod);
    if spec.text("medium") != "Memory" || !place.can_mount_memory {
        return make_scratch(path, group);
    }
    create_dir(path, 0o755)?;
    let size = memory_limit(pod, spec, place.node_memory);
    let options = match group {
        Some(group) => format!("size={size},mode={:o},gid={group}", 0o777 | GROUP_WRITES),
        None => format!("size={size},mode=777"),
    };
    mount_memory(path, &options, nix::mount::MsFlags::empty())
}

/// Makes a volume out of objects. What may hold secrets touches no disk.
fn made(sources: &Sources, source: &str, spec: &Value, path: &Path, place: &Place) -> Result<(), Missing> {
    let failed = |error: io::Error| format!("making a volume failed: {error}");
    let files = files(sources, source, spec, mode_of(spec, "defaultMode").unwrap_or(0o644))?;
    let group = fs_group(&sources.assignment.pod);
    create_dir(path, 0o755).map_err(failed)?;
    if ["secret", "projected"].contains(&source) && place.can_mount_memory {
        use nix::mount::MsFlags;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount_memory(path, "mode=755", flags).map_err(failed)?;
    }
    if group.is_some_and(|group| path.metadata().is_ok_and(|meta| meta.gid() != group)) {
        give_to_readers(path, group).map_err(failed)?;
    }
    publish(path, &files, group, place.now).map_err(failed)
}

fn host_path(spec: &Value) -> Result<PathBuf, Missing> {
    let path = PathBuf::from(spec.text("path"));
    let failed = |error: io::Error| format!("making hostPath {} failed: {error}", path.display());
    let kind = path.metadata().map(|meta| meta.file_type());
    let is = |test: fn(&std::fs::FileType) -> bool| kind.as_ref().is_ok_and(test);
    let fits = match spec.text("type") {
        "" => true,
        "DirectoryOrCreate" => create_dir(&path, 0o755).map(|()| true).map_err(failed)?,
        "FileOrCreate" if kind.is_err() => std::fs::File::create_new(&path).map(|_| true).map_err(failed)?,
        "Directory" => is(std::fs::FileType::is_dir),
        "File" | "FileOrCreate" => is(std::fs::FileType::is_file),
        "Socket" => is(FileTypeExt::is_socket),
        "CharDevice" => is(FileTypeExt::is_char_device),
        "BlockDevice" => is(FileTypeExt::is_block_device),
        _ => false,
    };
    match fits {
        true => Ok(path),
        false => Err(format!("hostPath type check failed: {} is not a {}", path.display(), spec.text("type"))),
    }
}

/// What a volume stands for: the name of its source, and the source.
fn source(volume: &Value) -> Option<(&str, &Value)> {
    let mut fields = volume.as_object().into_iter().flatten();
    fields.find(|(field, value)| *field != "name" && !value.is_null()).map(|(field, value)| (field.as_str(), value))
}

fn is_from_objects(source: &str) -> bool {
    !["hostPath", "emptyDir"].contains(&source)
}

/// Brings the volumes that are made from objects, and are there, up to date; returns why some stay as they
/// are.
pub(crate) fn refresh(sources: &Sources, place: &Place) -> Vec<Missing> {
    let mut left = Vec::new();
    for volume in sources.assignment.pod.items("spec.volumes") {
        let path = place.dir.join(volume.text("name"));
        if let Some((source, spec)) = source(volume).filter(|(source, _)| is_from_objects(source))
            && path.is_dir()
        {
            let made = made(sources, source, spec, &path, place);
            left.extend(made.err().map(|why| format!("volume {:?}: {why}", volume.text("name"))));
        }
    }
    left
}

/// Makes the volumes that one container mounts, and the mounts into them.
pub(crate) fn mounts(sources: &Sources, container: &Value, place: &Place) -> Result<Vec<Mount>, Missing> {
    let pod = &sources.assignment.pod;
    let mut mounts = Vec::new();
    // Containers come in by their mounts; nobody else has business here.
    create_dir(place.dir, 0o700).map_err(|error| format!("making the folder of volumes failed: {error}"))?;
    for mount in container.items("volumeMounts") {
        let name = mount.text("name");
        let volume = pod.items("spec.volumes").iter().find(|volume| volume.text("name") == name);
        let Some(volume) = volume else { return Err(format!("volume {name:?} not found")) };
        let Some((source, spec)) = source(volume) else { return Err(format!("volume {name:?} has no source")) };
        let own = place.dir.join(name);
        let host = match source {
            "hostPath" => host_path(spec)?,
            "emptyDir" => {
                empty_dir(pod, spec, &own, place).map_err(|error| format!("making a volume failed: {error}"))?;
                own
            }
            source => {
                made(sources, source, spec, &own, place)?;
                own
            }
        };
        let host = match mount.text("subPath") {
            "" => host,
            // The file as it is now: it does not follow its source.
            sub if is_from_objects(source) => {
                let failed = |error: io::Error| format!("failed to prepare subPath {sub:?}: {error}");
                beneath(&newest(&host).map_err(failed)?.unwrap_or(host), sub)?
            }
            sub => beneath(&host, sub)?,
        };
        // What is made from objects is theirs: a container only reads it.
        let read_only = is_from_objects(source) || mount.at("readOnly") == true;
        let propagation = match mount.text("mountPropagation") {
            "HostToContainer" => Propagation::HostToContainer,
            "Bidirectional" => Propagation::Bidirectional,
            _ => Propagation::Private,
        };
        mounts.push(Mount { host, container: mount.text("mountPath").into(), read_only, propagation });
    }
    Ok(mounts)
}

/// Removes a pod's volumes and whatever is mounted in them.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    runtime::containerd::unmount_below(dir);
    std::fs::remove_dir_all(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Assignment;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn file(path: &str, text: &str, mode: u32) -> File {
        File { path: path.into(), bytes: text.as_bytes().to_vec(), mode }
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        assert_eq!(beneath(dir.path(), "a/b").unwrap(), dir.path().join("a/b"));
        assert!(dir.path().join("a/b").is_dir());
        for sub in ["out", "out/ssl", "../x", "/etc"] {
            assert!(beneath(dir.path(), sub).is_err(), "{sub}");
        }
    }

    #[test]
    fn a_sub_path_is_a_file_as_it_is_and_the_volume_follows_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let pod = json!({"metadata": {"name": "p"}, "spec": {"volumes": [{"name": "m", "configMap": {"name": "m"}}]}});
        let map = |value: &str| json!({"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": value}});
        let assignment = |objects: Vec<Value>| Assignment { pod: pod.clone(), objects, ..Assignment::default() };
        let place = Place { dir: dir.path(), can_mount_memory: false, node_memory: 0, now: Timestamp(0) };
        let container = json!({"volumeMounts": [
            {"name": "m", "mountPath": "/all"}, {"name": "m", "mountPath": "/one", "subPath": "k"}]});
        let with = |assignment: &Assignment, then: &dyn Fn(&Sources)| {
            then(&Sources { assignment, host_ip: "h", pod_ip: "i", allocatable: &Value::Null });
        };
        let one = std::cell::RefCell::new(PathBuf::new());
        with(&assignment(vec![map("1")]), &|sources| {
            let mounts = mounts(sources, &container, &place).unwrap();
            assert!(!mounts[1].host.symlink_metadata().unwrap().is_symlink(), "{:?}", mounts[1]);
            *one.borrow_mut() = mounts[1].host.clone();
        });
        let open = std::fs::File::open(one.into_inner()).unwrap();
        with(&assignment(vec![map("2")]), &|sources| assert_eq!(refresh(sources, &place), Vec::<String>::new()));
        assert_eq!(std::io::read_to_string(open).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(dir.path().join("m/k")).unwrap(), "2");
        // What it is made from goes: it stays.
        with(&assignment(Vec::new()), &|sources| {
            assert_eq!(refresh(sources, &place), ["volume \"m\": configmap \"m\" not found"])
        });
        assert_eq!(std::fs::read_to_string(dir.path().join("m/k")).unwrap(), "2");
    }

    #[test]
    fn a_group_writes_what_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let own = nix::unistd::getegid().as_raw();
        let scratch = dir.path().join("scratch");
        make_scratch(&scratch, Some(own)).unwrap();
        assert_eq!(mode(&scratch), 0o2777);
        // What a container made of it stays.
        std::fs::set_permissions(&scratch, std::fs::Permissions::from_mode(0o700)).unwrap();
        make_scratch(&scratch, Some(own)).unwrap();
        assert_eq!(mode(&scratch), 0o700);
    }

    #[test]
    fn items_choose_names_and_modes_and_what_is_optional_may_be_missing() {
        let objects = vec![
            json!({"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v", "l": "w"}}),
            json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dG9w"}}),
        ];
        let assignment = Assignment { pod: json!({"metadata": {"name": "p"}}), objects, ..Assignment::default() };
        let sources = Sources { assignment: &assignment, host_ip: "h", pod_ip: "i", allocatable: &Value::Null };
        let made = |source: &str, spec: Value| files(&sources, source, &spec, 0o644);
        let items = json!([{"key": "k", "path": "a/b", "mode": 0o400}, {"key": "l", "path": "c"}]);
        assert_eq!(
            made("configMap", json!({"name": "m", "items": items})).unwrap(),
            [file("a/b", "v", 0o400), file("c", "w", 0o644)]
        );
        let projected = json!({"sources": [
            {"secret": {"name": "s", "items": [{"key": "k", "path": "key", "mode": 0o600}]}},
            {"configMap": {"name": "absent", "optional": true}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]});
        assert_eq!(made("projected", projected).unwrap(), [file("key", "top", 0o600), file("name", "p", 0o644)]);
        let absent = json!([{"key": "z", "path": "z"}]);
        let missing = [
            made("configMap", json!({"name": "absent"})),
            made("configMap", json!({"name": "m", "items": absent})),
            made("secret", json!({"secretName": "s", "items": absent})),
        ];
        let told: Vec<String> = missing.into_iter().map(Result::unwrap_err).collect();
        assert_eq!(
            told,
            [
                "configmap \"absent\" not found",
                "references non-existent config key: z",
                "references non-existent secret key: z"
            ]
        );
        for (source, spec) in [
            ("secret", json!({"secretName": "absent", "optional": true})),
            ("configMap", json!({"name": "m", "optional": true, "items": absent})),
        ] {
            assert_eq!(made(source, spec).unwrap(), []);
        }
    }

    #[test]
    fn memory_is_limited_by_the_least_of_volume_pod_and_node() {
        let pod = |limits: &[&str]| {
            let container = |limit: &&str| json!({"resources": {"limits": {"memory": limit}}});
            json!({"spec": {"containers": limits.iter().map(container).collect::<Vec<_>>()}})
        };
        let limit = |limits: &[&str], volume: &str| memory_limit(&pod(limits), &json!({"sizeLimit": volume}), 1000);
        assert_eq!(limit(&["100", "200"], "500"), 300);
        assert_eq!(limit(&["100", "200"], "50"), 50);
        assert_eq!(limit(&["100", ""], ""), 1000);
        assert_eq!(limit(&["100", ""], "0"), 1000);
    }

    #[test]
    fn a_host_path_is_what_it_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |name: &str, ty: &str| host_path(&json!({"path": dir.path().join(name), "type": ty}));
        assert!(ask("d", "DirectoryOrCreate").is_ok() && ask("d", "Directory").is_ok() && ask("d", "File").is_err());
        assert!(ask("f", "File").is_err() && ask("f", "FileOrCreate").is_ok() && ask("f", "FileOrCreate").is_ok());
        assert!(ask("f", "File").is_ok() && ask("f", "Socket").is_err() && ask("none", "").is_ok());
    }

    #[test]
    fn secrets_lie_in_memory_and_leave_nothing_mounted() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let pod = json!({"metadata": {"name": "p"}, "spec": {"securityContext": {"fsGroup": 4321}, "volumes": [
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}});
        let objects = vec![json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dG9w"}})];
        let assignment = Assignment { pod, objects, ..Assignment::default() };
        let sources = Sources { assignment: &assignment, host_ip: "h", pod_ip: "i", allocatable: &Value::Null };
        let volumes = dir.path().join("volumes");
        let place = Place { dir: &volumes, can_mount_memory: true, node_memory: 1 << 30, now: Timestamp(0) };
        let container = json!({"volumeMounts": [{"name": "s", "mountPath": "/s"}, {"name": "e", "mountPath": "/e"}]});
        // Twice: a worker that comes back finds what it mounted.
        for _ in 0..2 {
            let mounts = mounts(&sources, &container, &place).unwrap();
            assert!(mounts[0].read_only && !mounts[1].read_only);
            assert!(mounts.iter().all(|mount| is_mounted(&mount.host).unwrap()));
        }
        let key = volumes.join("s/k");
        assert_eq!((mode(&key), key.metadata().unwrap().gid()), (0o440, 4321));
        assert_eq!((mode(&volumes.join("e")), volumes.join("e").metadata().unwrap().gid()), (0o2777, 4321));
        std::fs::write(volumes.join("e/fits"), [0; 1000]).unwrap();
        assert!(std::fs::write(volumes.join("e/too-much"), vec![0; 2 << 20]).is_err());
        remove(&volumes).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!volumes.exists() && !mounts.contains(&volumes.display().to_string()));
    }
}
