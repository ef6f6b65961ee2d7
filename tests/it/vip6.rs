//! The VIP over IPv6: three masters and a client, each in a network namespace, on a link that knows
//! nothing of IPv4.

use crate::client::Writer;
use crate::cluster::{binary, wanted};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const VIP: &str = "fd00:ba15:a::100";
const MASTERS: [&str; 3] = ["master-1", "master-2", "master-3"];
const CLIENT: &str = "client";
/// A cluster without a leader for this long is not failing over, it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// From the death of the holder until a client at the address has a write acknowledged. On a machine
/// with nothing else to do it takes a third of a second.
const GAP_MAX: Duration = Duration::from_secs(3);
/// Whoever is not answered hears of the address with the next announcement: these come every 500 ms.
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// What this machine lacks for the test.
fn missing() -> Option<&'static str> {
    let runs = |program: &str, flag: &str| Command::new(program).arg(flag).output().is_ok();
    match () {
        () if !nix::unistd::geteuid().is_root() => Some("network namespaces need root"),
        () if !Path::new("/proc/net/if_inet6").exists() => Some("this kernel has no IPv6"),
        () if !Path::new("/dev/net/tun").exists() => Some("the VIP needs /dev/net/tun"),
        () if !runs("ip", "-V") || !runs("nft", "--version") => Some("install iproute2 and nftables"),
        () => None,
    }
}

/// The link and who is on it; removed when the test ends, however it ends.
struct Link {
    dir: tempfile::TempDir,
    masters: Mutex<BTreeMap<&'static str, Child>>,
}

fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn ip(words: &str) -> String {
    let output = run("ip", &words.split_whitespace().collect::<Vec<_>>());
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn namespace(name: &str) -> String {
    format!("balsa-vip6-{}-{name}", std::process::id())
}

/// `program` on the host `name`.
fn command_at(name: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace(name)]).arg(program);
    command
}

impl Link {
    fn make() -> Link {
        let link = Link { dir: tempfile::tempdir().unwrap(), masters: Mutex::default() };
        let switch = namespace("switch");
        ip(&format!("netns add {switch}"));
        ip(&format!("-n {switch} link add br0 type bridge"));
        ip(&format!("-n {switch} link set br0 up"));
        for (i, name) in MASTERS.into_iter().chain([CLIENT]).enumerate() {
            let host = namespace(name);
            ip(&format!("netns add {host}"));
            ip(&format!("-n {host} link set lo up"));
            ip(&format!("link add name eth0 netns {host} type veth peer name {name} netns {switch}"));
            ip(&format!("-n {switch} link set {name} master br0 up"));
            ip(&format!("-n {host} addr add {}/64 dev eth0 nodad", address(i)));
            ip(&format!("-n {host} link set eth0 up"));
        }
        link
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("master-1/data/admin.kubeconfig")
    }

    fn configure(&self, i: usize, token: Option<&str>) {
        let folder = self.dir.path().join(MASTERS[i]);
        std::fs::create_dir_all(&folder).unwrap();
        let mut config = serde_json::json!({
            "name": MASTERS[i], "dataDir": folder.join("data"), "address": address(i),
            "vip": {"address": VIP, "prefix": 64, "interface": "eth0"},
        });
        if let Some(token) = token {
            config["join"] = serde_json::json!({"server": format!("[{VIP}]:6443"), "token": token});
        }
        std::fs::write(folder.join("config.yaml"), config.to_string()).unwrap();
    }

    fn config(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).join("config.yaml")
    }

    fn start(&self, name: &'static str) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join(name).join("log"));
        let mut command = command_at(name, &binary());
        command.arg("master").arg("--config").arg(self.config(name)).stdout(Stdio::null()).stderr(log.unwrap());
        self.masters.lock().unwrap().insert(name, command.spawn().unwrap());
    }

    /// Sends a master a signal that ends it, and waits until it has.
    fn end(&self, name: &str, signal: Signal) {
        let mut child = self.masters.lock().unwrap().remove(name).expect("it runs");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        child.wait().unwrap();
    }

    /// A verb at the VIP, from the client's host.
    fn at_vip(&self, words: &[&str]) -> Option<Value> {
        let mut command = command_at(CLIENT, &binary());
        command.args(words).args(["-o", "json", "--kubeconfig"]).arg(self.kubeconfig());
        let output = command.output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("the output is JSON"))
    }

    fn leader(&self) -> Option<&'static str> {
        let status = self.at_vip(&["status"])?;
        MASTERS.into_iter().find(|name| status["leader"] == *name)
    }

    fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            if started.elapsed() > PATIENCE {
                let log = |name| std::fs::read_to_string(self.dir.path().join(name).join("log")).unwrap_or_default();
                let logs: Vec<String> = MASTERS.iter().map(|name| format!("{name}:\n{}", log(*name))).collect();
                panic!("waited {PATIENCE:?} in vain for {what}\n{}", logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for_all(&self) {
        self.wait("three masters that vote and keep up", || {
            let members = self.at_vip(&["status"])?["members"].clone();
            let well = |m: &Value| m["voter"] == true && m["lag"].as_u64().is_none_or(|lag| lag < 50);
            members.as_array().filter(|all| all.len() == 3 && all.iter().all(well)).map(drop)
        });
    }

    /// Runs `work` on the client's host.
    fn as_client<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let host = std::fs::File::open(Path::new("/run/netns").join(namespace(CLIENT))).unwrap();
                nix::sched::setns(host, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Ends the holder while a client writes at the VIP; returns how long it took until a write was
    /// acknowledged again, and who holds the address now.
    fn gap(&self, how: &str, signal: Signal) -> (Duration, &'static str) {
        let holder = self.wait("a leader", || self.leader());
        let gap = self.as_client(async || {
            let writer = Writer::new(&self.kubeconfig(), "balsa", PATIENCE);
            writer.create(&format!("before-{how}")).await.unwrap();
            // A killed process is gone at once; a stopping one goes on serving while it hands over.
            let started = Instant::now();
            self.end(holder, signal);
            writer.create(&format!("after-{how}")).await.unwrap();
            started.elapsed()
        });
        let next = self.wait("another leader", || self.leader().filter(|next| *next != holder));
        assert!(!has_vip(holder), "{holder} is dead and still has the address");
        self.wait("the address at the leader", || has_vip(next).then_some(()));
        let mac = mac_of(next);
        self.wait("the client to know its neighbour", || {
            let seen = ip(&format!("-n {} -6 neigh show {VIP} dev eth0", namespace(CLIENT)));
            seen.contains(&mac).then_some(())
        });
        self.start(holder);
        self.wait_for_all();
        (gap, next)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for (_, mut child) in std::mem::take(&mut *self.masters.lock().unwrap()) {
            drop((child.kill(), child.wait()));
        }
        for name in MASTERS.into_iter().chain([CLIENT, "switch"]) {
            run("ip", &["netns", "del", &namespace(name)]);
        }
    }
}

fn address(i: usize) -> String {
    format!("fd00:ba15:a::{}", i + 1)
}

fn has_vip(name: &str) -> bool {
    let output = run("ip", &["-n", &namespace(name), "-6", "-o", "addr", "show", "dev", "balsa-vip"]);
    String::from_utf8_lossy(&output.stdout).contains(VIP)
}

fn mac_of(name: &str) -> String {
    let shown = ip(&format!("-n {} -o link show dev eth0", namespace(name)));
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).expect("a veth has a MAC").to_string()
}

/// How long a connection takes whose maker must first ask who has the address.
fn median_of_finding() -> Duration {
    let vip = SocketAddr::new(VIP.parse().unwrap(), 6443);
    let find = |_| {
        ip(&format!("-n {} neigh flush all", namespace(CLIENT)));
        let started = Instant::now();
        TcpStream::connect_timeout(&vip, PATIENCE).unwrap();
        started.elapsed()
    };
    let mut times: Vec<Duration> = (0..11).map(find).collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn an_ipv6_address_outlives_its_holder() {
    const TEST: &str = "an_ipv6_address_outlives_its_holder";
    if !wanted(TEST) {
        return;
    }
    if let Some(why) = missing() {
        return testkit::skip(TEST, why);
    }
    let link = Link::make();
    link.configure(0, None);
    let made = command_at(MASTERS[0], &binary()).arg("init").arg("--config").arg(link.config(MASTERS[0])).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let kubeconfig = std::fs::read_to_string(link.kubeconfig()).unwrap();
    assert!(kubeconfig.contains(&format!("https://[{VIP}]:6443")), "{kubeconfig}");
    link.start(MASTERS[0]);
    // Already this goes to the VIP: the client has asked who has it, and has been answered.
    let tokens = link.wait("the first master", || link.at_vip(&["token"]));
    for i in 1..3 {
        link.configure(i, tokens["master"].as_str());
        link.start(MASTERS[i]);
    }
    link.wait_for_all();
    let median = link.as_client(async || median_of_finding());
    assert!(median < ANSWER_MAX, "who asks for the address is answered only after {median:?}");

    let (killed, holder) = link.gap("kill", Signal::SIGKILL);
    println!("killed: written again at {holder} after {} ms", killed.as_millis());
    let (stopped, holder) = link.gap("stop", Signal::SIGTERM);
    println!("stopped: written again at {holder} after {} ms", stopped.as_millis());
    assert!(killed < GAP_MAX && stopped < GAP_MAX, "killed {killed:?}, stopped {stopped:?}");
}
