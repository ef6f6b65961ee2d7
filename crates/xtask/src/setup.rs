//! What a build needs besides the Rust toolchain: libclang for RocksDB's bindings, and RocksDB itself,
//! built once into a cache outside the target folder so that every clone and profile links it in
//! seconds.

use crate::{root, step};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Setup {
    /// The folder that holds `librocksdb.a`.
    pub(crate) rocksdb: PathBuf,
}

pub(crate) fn prepare() -> Result<Setup> {
    packages()?;
    Ok(Setup { rocksdb: rocksdb()? })
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0"))
}

fn exists(name: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {name}")]).output().is_ok_and(|output| output.status.success())
}

fn has_libclang() -> bool {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path().join("lib"));
    let all = folders.iter().map(PathBuf::from).chain(llvm).chain(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    let holds = |folder: PathBuf| {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let is_it = |name: &str| name.starts_with("libclang.so") || name.starts_with("libclang-");
        names.map(|name| name.to_string_lossy().into_owned()).any(|name| is_it(&name) && !name.contains("cpp"))
    };
    all.into_iter().any(holds)
}

/// Installs what the distribution must provide, and says what first.
fn packages() -> Result<()> {
    let mut missing = Vec::new();
    if !has_libclang() {
        missing.extend(["libclang1", "libclang-common-14-dev"]);
    }
    if !exists("g++") {
        missing.push("g++");
    }
    // The gRPC example in Python, and the stubs of the one in Go.
    if !Command::new("/usr/bin/python3").args(["-c", "import grpc"]).output().is_ok_and(|output| output.status.success()) {
        missing.push("python3-grpcio");
    }
    if !exists("protoc") || !exists("grpc_python_plugin") {
        missing.extend(["protobuf-compiler", "protobuf-compiler-grpc"]);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root() || !exists("apt-get") {
        bail!("these packages are missing: {list}. Install them, as root: apt-get install {list}");
    }
    eprintln!("installing from the distribution: {list}");
    step("package lists", "seconds", Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing);
    step("packages", "a minute", install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The version of a package in the lock file.
fn locked(name: &str) -> Result<String> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).context("reading Cargo.lock")?;
    let mut lines = lock.lines();
    lines.find(|line| *line == format!("name = \"{name}\"")).with_context(|| format!("{name} is not in Cargo.lock"))?;
    let version = lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(version.with_context(|| format!("{name} has no version in Cargo.lock"))?.to_string())
}

fn cache() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("balsa"))
}

fn rocksdb() -> Result<PathBuf> {
    let (bindings, sys) = (locked("rocksdb")?, locked("librocksdb-sys")?);
    let folder = cache()?.join(format!("librocksdb-{sys}"));
    if folder.join("librocksdb.a").exists() {
        return Ok(folder);
    }
    // A package of its own, so that nothing else is built along, in a folder of its own, so that an
    // interrupted build goes on where it was.
    let scratch = cache()?.join(format!("build-{sys}"));
    std::fs::create_dir_all(scratch.join("src"))?;
    std::fs::write(scratch.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"rocksdb-once\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         rocksdb = {{ version = \"={bindings}\", default-features = false, features = [\"bindgen-runtime\"] }}\n\n[workspace]\n"
    );
    std::fs::write(scratch.join("Cargo.toml"), manifest)?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "-p", "librocksdb-sys", "--manifest-path"]).arg(scratch.join("Cargo.toml"));
    command.arg("--target-dir").arg(scratch.join("target"));
    command.env_remove("ROCKSDB_LIB_DIR").env_remove("CARGO_TARGET_DIR");
    step("building RocksDB, once", "13 to 20 min on 2 cores", &mut command)?;
    let library = find(&scratch.join("target/release/build"))
        .context("the RocksDB build left no librocksdb.a; remove the cache folder and try again")?;
    std::fs::create_dir_all(&folder)?;
    let temporary = folder.join("librocksdb.a.new");
    std::fs::copy(library, &temporary)?;
    std::fs::rename(temporary, folder.join("librocksdb.a"))?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(folder)
}

fn find(builds: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(builds).ok()?.flatten();
    entries.map(|entry| entry.path().join("out/librocksdb.a")).find(|path| path.exists())
}
