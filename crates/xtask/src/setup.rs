//! What is needed besides the Rust toolchain: packages of the distribution, and RocksDB itself, built
//! once into a cache outside the target folder so that every clone and profile links it in seconds.

use crate::{root, step};
use anyhow::{Context, Result, bail};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is going to be done; each needs what those before it need.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Build,
    /// A cluster of real containers.
    Run,
    Test,
}

pub(crate) struct Setup {
    /// The folder that holds `librocksdb.a`.
    pub(crate) rocksdb: PathBuf,
}

pub(crate) fn prepare(purpose: Purpose) -> Result<Setup> {
    packages(purpose)?;
    Ok(Setup { rocksdb: rocksdb()? })
}

/// A new folder for what is there for a while: what lies in it is run as root, so it must be nobody else's.
pub(crate) fn new_temp_dir(what: &str) -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("balsa-{what}-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
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

fn has_cni() -> bool {
    ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"].iter().any(|folder| Path::new(folder).join("bridge").exists())
}

fn has_python_grpc() -> bool {
    let imported = Command::new("/usr/bin/python3").args(["-c", "import grpc, google.protobuf"]).output();
    imported.is_ok_and(|output| output.status.success())
}

/// What is missing for `purpose`, as (first purpose that needs it, package). An installed containerd or
/// runc is kept, wherever it came from.
fn missing(purpose: Purpose) -> Vec<(Purpose, &'static str)> {
    let busybox = || Path::new("/bin/busybox").exists();
    let table: [(Purpose, bool, &[&str]); 10] = [
        (Purpose::Build, has_libclang(), &["libclang-dev"]),
        (Purpose::Build, exists("g++"), &["g++"]),
        (Purpose::Run, exists("containerd") && exists("ctr"), &["containerd"]),
        (Purpose::Run, exists("runc"), &["runc"]),
        (Purpose::Run, has_cni(), &["containernetworking-plugins"]),
        (Purpose::Run, exists("nft"), &["nftables"]),
        (Purpose::Run, exists("ip"), &["iproute2"]),
        // The demo's and the tests' image is made of it.
        (Purpose::Run, busybox(), &["busybox-static"]),
        // The gRPC example in Python, and the stubs of the one in Go.
        (Purpose::Test, has_python_grpc(), &["python3-grpcio", "python3-protobuf"]),
        (
            Purpose::Test,
            exists("protoc") && exists("grpc_python_plugin"),
            &["protobuf-compiler", "protobuf-compiler-grpc"],
        ),
    ];
    let needed = table.into_iter().filter(|(first, have, _)| *first <= purpose && !have);
    needed.flat_map(|(first, _, names)| names.iter().map(move |name| (first, *name))).collect()
}

/// Keeps packages from starting their services while they are installed (deb-systemd-invoke and
/// invoke-rc.d ask this file); removed when dropped.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn begin() -> Result<NoServices> {
        use std::os::unix::fs::PermissionsExt;
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(NoServices(None));
        }
        std::fs::write(&path, "#!/bin/sh\nexit 101\n")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(NoServices(Some(path)))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            eprintln!("remove {} by hand: {error}", path.display());
        }
    }
}

/// The etcd server that is installed, if one is.
pub(crate) fn installed_etcd() -> Option<PathBuf> {
    let found = Command::new("sh").args(["-c", "command -v etcd"]).output().ok()?;
    let path = String::from_utf8_lossy(&found.stdout).trim().to_string();
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// The distribution's etcd server, installed when this is root and it can be; its service is not started.
pub(crate) fn etcd() -> Result<Option<PathBuf>> {
    if installed_etcd().is_none() && is_root() && exists("apt-get") {
        let _quiet = NoServices::begin().context("keeping etcd's service from starting")?;
        let mut install = Command::new("apt-get");
        install.args(["install", "-y", "-qq", "--no-install-recommends", "etcd-server"]);
        let installing = step("package lists", "seconds", Command::new("apt-get").args(["update", "-qq"]));
        let installing =
            installing.and_then(|()| step("etcd-server", "seconds", install.env("DEBIAN_FRONTEND", "noninteractive")));
        if let Err(error) = installing {
            eprintln!("{error:#}");
        }
    }
    Ok(installed_etcd())
}

/// Installs what the distribution must provide, and says what first. Without root only what a build
/// needs is insisted on: clusters fall back to the process runtime.
fn packages(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(_, name)| *name).collect();
    let list = names.join(" ");
    if !is_root() || !exists("apt-get") {
        let remedy = format!("these packages are missing: {list}. Install them, as root: apt-get install {list}");
        if missing.iter().any(|(first, _)| *first == Purpose::Build) {
            bail!("{remedy}");
        }
        eprintln!("{remedy}\nGoing on without them: no real containers, and tests that need them are skipped.");
        return Ok(());
    }
    eprintln!("installing from the distribution: {list}");
    let _quiet = NoServices::begin().context("keeping the packages' services from starting")?;
    step("package lists", "seconds", Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(names);
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

/// With what RocksDB has the processor compute its checksums, which by table are some 8 % of all processor time of
/// batches of 2 KiB writes: on arm64 it finds out when it runs, on x86-64 when it is compiled. It is of x86-64-v2, and
/// `raft-disk` refuses a processor that lacks it. (PCLMULQDQ, for three streams at once, is of no level.)
const PROCESSOR: &str = if cfg!(target_arch = "x86_64") { "-C target-feature=+sse4.2" } else { "" };

fn rocksdb() -> Result<PathBuf> {
    let (bindings, sys) = (locked("rocksdb")?, locked("librocksdb-sys")?);
    let folder = cache()?.join(format!("librocksdb-{sys}-crc"));
    if folder.join("librocksdb.a").exists() {
        return Ok(folder);
    }
    // A package of its own, so that nothing else is built along, in a folder of its own, so that an
    // interrupted build goes on where it was.
    let scratch = cache()?.join(format!("build-{sys}-crc"));
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
    command.env_remove("ROCKSDB_LIB_DIR").env_remove("CARGO_TARGET_DIR").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("RUSTFLAGS", format!("{} {PROCESSOR}", std::env::var("RUSTFLAGS").unwrap_or_default()).trim());
    step("building RocksDB, once", "13 to 30 min on 2 cores", &mut command)?;
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
