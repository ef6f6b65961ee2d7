//! Images made on this machine: an OCI layout in a tar, from files. The sandbox image is made from the
//! running binary; the demo and the tests make theirs.
//!
//! Format: github.com/opencontainers/image-spec, image-layout.md and config.md.

use crate::Error;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One thing in an image's file system.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A file of this machine, at a path of the image, executable.
    File {
        from: PathBuf,
        to: String,
    },
    Link {
        to: String,
        target: String,
    },
    Dir {
        to: String,
    },
}

/// An image to make.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// `NAME:TAG` as pods will ask for it.
    pub reference: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub entries: Vec<Entry>,
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layer(entries: &[Entry]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(true);
    let mut made = BTreeSet::new();
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        header
    };
    for entry in entries {
        let to = match entry {
            Entry::File { to, .. } | Entry::Link { to, .. } | Entry::Dir { to } => to.trim_matches('/'),
        };
        let mut parents: Vec<&Path> = Path::new(to).ancestors().skip(1).filter(|p| *p != Path::new("")).collect();
        parents.reverse();
        for parent in parents {
            if made.insert(parent.to_path_buf()) {
                tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), parent, std::io::empty())?;
            }
        }
        match entry {
            Entry::Dir { .. } => {
                let mode = if to == "tmp" { 0o1777 } else { 0o755 };
                if made.insert(PathBuf::from(to)) {
                    tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), to, std::io::empty())?;
                }
            }
            Entry::Link { target, .. } => {
                tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), to, target)?;
            }
            Entry::File { from, .. } => {
                let bytes = std::fs::read(from)?;
                let size = bytes.len() as u64;
                tar.append_data(&mut header(tar::EntryType::Regular, 0o755, size), to, bytes.as_slice())?;
            }
        }
    }
    tar.into_inner()
}

/// Writes the image as a tar that containerd (and every OCI tool) imports.
pub fn write(recipe: &Recipe, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { action: "making the image", path: path.display().to_string(), source };
    let layer = layer(&recipe.entries).map_err(failed)?;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": recipe.entrypoint, "Cmd": recipe.cmd,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created_by": "balsa"}],
    })
    .to_string()
    .into_bytes();
    let described =
        |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string()
    .into_bytes();
    let mut entry: Value = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
    let tag = recipe.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    entry["annotations"] =
        json!({"io.containerd.image.name": recipe.reference, "org.opencontainers.image.ref.name": tag});
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
    });
    let blobs = [&layer, &config, &manifest].map(|bytes| (format!("blobs/sha256/{}", &digest(bytes)[7..]), bytes));
    let write = || -> std::io::Result<()> {
        let mut tar = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(path)?));
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes)
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for (name, bytes) in &blobs {
            add(name, bytes)?;
        }
        add("index.json", index.to_string().as_bytes())?;
        tar.into_inner()?.flush()
    };
    write().map_err(failed)
}

/// A program as entries: itself at `/NAME`, its loader and its libraries where it looks for them.
pub fn program(path: &Path, name: &str) -> Result<Vec<Entry>, Error> {
    let output = std::process::Command::new("ldd").arg(path).output();
    let output =
        output.map_err(|source| Error::Io { action: "running ldd on", path: path.display().to_string(), source })?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut entries = vec![Entry::File { from: path.into(), to: format!("/{name}") }];
    entries
        .extend(libraries(&listed).into_iter().map(|library| Entry::File { from: library.into(), to: library.into() }));
    Ok(entries)
}

/// The files in what `ldd` prints: `NAME => PATH (ADDRESS)`, or the loader's `PATH (ADDRESS)`. A
/// static program has none.
fn libraries(listed: &str) -> Vec<&str> {
    let right = listed.lines().map(|line| line.trim().split_once(" => ").map_or(line.trim(), |(_, path)| path));
    right.filter_map(|path| path.split_once(" (")).map(|(path, _)| path).filter(|path| path.starts_with('/')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_holds_its_files_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("hello");
        std::fs::write(&from, "hi").unwrap();
        let entries = vec![
            Entry::File { from, to: "/usr/bin/hello".into() },
            Entry::Link { to: "bin/hello".into(), target: "/usr/bin/hello".into() },
            Entry::Dir { to: "tmp".into() },
        ];
        let recipe = Recipe { reference: "registry.local/hello:1".into(), entries, ..Recipe::default() };
        let path = dir.path().join("hello.tar");
        write(&recipe, &path).unwrap();
        let mut archive = tar::Archive::new(std::fs::File::open(&path).unwrap());
        let mut names = Vec::new();
        let mut index = String::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if name == "index.json" {
                std::io::Read::read_to_string(&mut entry, &mut index).unwrap();
            }
            names.push(name);
        }
        assert_eq!((names.len(), names[0].as_str(), names[4].as_str()), (5, "oci-layout", "index.json"));
        assert!(index.contains("registry.local/hello:1"), "{index}");
    }

    #[test]
    fn libraries_are_those_that_ldd_names() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f1)\n";
        assert_eq!(libraries(listed), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }
}
